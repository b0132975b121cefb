"""Compaction: protected text stays to the letter, the order of removal holds, and no more goes than has to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.context import Context
from erecap.context.compaction import MARKER, compact_messages
from erecap.context.compaction.compact import chat_after, compaction_steps
from erecap.context.compaction.mask import exchanges
from erecap.context.compaction.spans import KEYS
from erecap.context.protection import protected_spans
from erecap.context.render import render
from erecap.context.token_estimate import estimate_tokens
from erecap.generation import Message

CONTENTS = (
    st.lists(
        st.sampled_from(["You see an apple 1", "the shelf 22 is closed.", "nothing", "\n", "é 3.10", "a", '"the  x"']),
        min_size=1,
        max_size=8,
    )
    .map(" ".join)
    .filter(str.strip)
)
JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
).map(lambda value: json.dumps({"result": value}, indent=1))


def count(messages: Sequence[Message]) -> int:
    return sum(3 + len((message["content"] or "").split()) for message in messages)


def episode(rows: Sequence[tuple[str, str]]) -> list[Message]:
    context = Context("cool an apple and put it on the shelf", ("go to {receptacle}",))
    context.add("observation", "You are in the middle of a room with a fridge 1 and a shelf 22.")
    for kind, text in rows:
        context.add(kind, text, "shelf 22" if "shelf" in text else "")  # type: ignore[arg-type]
    return render(context).messages


KINDS = st.sampled_from(["observation", "observation", "action", "failure", "plan", "goal", "constraint"])
EPISODES = st.lists(st.tuples(KINDS, CONTENTS), max_size=24).map(episode)


@st.composite
def plain_chats(draw) -> list[Message]:  # type: ignore[no-untyped-def]
    """Chats of any host: no spans, tools with their results, JSON."""
    chat: list[dict] = [{"role": "system", "content": "You plan."}, {"role": "user", "content": draw(CONTENTS)}]
    for number in range(draw(st.integers(0, 8))):
        if draw(st.booleans()):
            call = {"id": f"call_{number}", "type": "function", "function": {"name": "look", "arguments": "{}"}}
            chat.append({"role": "assistant", "content": None, "tool_calls": [call]})
            chat.append({"role": "tool", "tool_call_id": call["id"], "content": draw(JSON | CONTENTS)})
        else:
            chat.append({"role": "assistant", "content": draw(CONTENTS)})
            chat.append({"role": "user", "content": draw(JSON | CONTENTS)})
    return chat  # type: ignore[return-value]


CHATS = EPISODES | plain_chats()


@settings(max_examples=200, deadline=None)
@given(CHATS, st.integers(1, 200), st.sampled_from([None, len]))
def test_what_holds_for_every_chat(messages: list[Message], target: int, rank: Callable[[str], float] | None) -> None:
    result = compact_messages(messages, target, count, rank=rank)
    assert result.tokens == count(result.messages) <= result.before == count(messages)
    # Applied a second time it changes nothing, also where the target is out of reach.
    assert compact_messages(result.messages, target, count, rank=rank).messages == result.messages
    # Protected text is there byte for byte, and in order.
    place = 0
    said = [message["content"] or "" for message in result.messages]
    for number, start, end in protected_spans(messages):
        text = messages[number]["content"][start:end]
        place = next(i for i in range(place, len(said)) if text in said[i])
    # What is protected and named by spans still is what they name.
    for message in result.messages:
        for key in ("protect", "stale", "observations"):
            assert all(0 <= a <= b <= len(message["content"]) for a, b in message.get(key, ()))  # type: ignore[attr-defined]


@settings(max_examples=200, deadline=None)
@given(CHATS, st.integers(1, 200))
def test_the_target_is_met_by_the_fewest_records(messages: list[Message], target: int) -> None:
    result = compact_messages(messages, target, count)
    steps = compaction_steps(messages, None, count)
    sizes = [count(chat_after(messages, steps[:number])) for number in range(len(steps) + 1)]
    assert sizes == sorted(sizes, reverse=True)
    enough = [size for size in sizes if size <= target]
    assert result.tokens == (enough[0] if enough else sizes[-1])
    assert ("the rest is protected" in result.reason) == (not enough)


@settings(max_examples=150, deadline=None)
@given(plain_chats(), st.integers(1, 150))
def test_json_stays_json_and_tools_stay_with_their_results(messages: list[Message], target: int) -> None:
    compacted = compact_messages(messages, target, count)
    result = compacted.messages
    kept = [message for number, message in enumerate(messages) if number not in compacted.dropped]
    for before, message in zip(kept, result, strict=True):
        if before["content"] is not None and before["content"].startswith("{"):
            assert json.loads(message["content"]) in (json.loads(before["content"]), MARKER)
    called = [call["id"] for message in result for call in message.get("tool_calls", ())]  # type: ignore[attr-defined]
    assert called == [message["tool_call_id"] for message in result if message["role"] == "tool"]  # type: ignore[typeddict-item]


def test_the_order_in_which_things_go() -> None:
    rows = [
        ("plan", "go to shelf 22"), ("action", "go to shelf 22"), ("observation", "On the shelf 22, you see a mug 1."),
        ("plan", "go to fridge 1"), ("action", "go to fridge 1"), ("failure", "Nothing happens, the way is blocked."),
        ("plan", "look"), ("action", "look"), ("observation", "You are in the hall. There is a lamp 3 and a sofa 4."),
        ("plan", "go to shelf 22"), ("action", "go to shelf 22"), ("observation", "The shelf 22 is empty."),
        ("plan", "look"), ("action", "look"), ("observation", "You see nothing new."),
    ]  # fmt: skip
    messages = episode(rows)
    whole = count(messages)

    def said(target: int) -> str:
        return "\n".join(message["content"] for message in compact_messages(messages, target, count).messages)

    # The old sight of the shelf goes first, as a line of its own; the command that led there stays.
    assert "mug 1" in said(whole) and "mug 1" not in said(whole - 1)
    assert "> go to shelf 22\ngo to fridge 1" in said(whole - 1) and "lamp 3 and a sofa" in said(whole - 1)
    # Then exchange by exchange, the oldest first: all that stays was told so.
    hall = "You are in the hall. There is a lamp 3 and a sofa 4."
    texts = [said(target) for target in range(whole - 1, 0, -1)]
    assert all((hall in text) or "lamp" not in text for text in texts)
    assert all("mug 1" not in text and "way is blocked" in text for text in texts)  # that failure is protected
    assert any("go to shelf 22\ngo to fridge 1" not in text and hall in text for text in texts)
    assert any("look\n[removed]\ngo to shelf 22" in text for text in texts)  # its observation goes before its command
    # Failures last until whole exchanges go; goal, newest plan and newest observation do not go at all.
    least = compact_messages(messages, 1, count)
    assert "cool an apple" in said(1) and "You see nothing new." in said(1) and "lamp 3" not in said(1)
    assert least.dropped and least.reason.endswith("the rest is protected")
    assert [message["role"] for message in least.messages][:2] == ["system", "user"]


def test_the_least_worth_goes_first() -> None:
    chat = [{"role": "user", "content": "Fetch the mug."}]
    for number in range(4):
        chat += [{"role": "assistant", "content": "look"}, {"role": "user", "content": f"thing {number} lies far away"}]
    chat.append({"role": "assistant", "content": "look"})
    worth = {"0": 3.0, "1": 1.0, "2": 2.0}

    def kept(target: int) -> str:
        result = compact_messages(chat, target, count, rank=lambda text: worth.get(text.split()[1], 9.0))  # type: ignore[arg-type]
        return "".join(n for n in "0123" if any(f"thing {n}" in m["content"] for m in result.messages))

    whole = count(chat)  # type: ignore[arg-type]
    assert kept(whole) == "0123" and kept(whole - 1) == "023"
    order = [kept(target) for target in range(whole, 0, -1)]  # for every target, the lowest scores are missing
    assert list(dict.fromkeys(order)) == ["0123", "023", "03", "3", ""]


OTHER = st.sampled_from(
    [
        "block a is on block b. a coke can is in the trash can.", "  #####\n  #a..#   d\n  #####",
        "It says 'push  the bar'.",
        "x =   1\n\tif the_a:\n\t\treturn a", "机器人走到冰箱前。", "يصل الروبوت إلى الثلاجة",
        "| a | the |\n|---|-----|\n|   1 |  2  |",
        "id: 0a-the-7f", "`the a`", "<|im_end|>", "[removed]", "🤖 the  🍎", "\u2028line\u0085",
        "<tool_call>{}</tool_call>",
    ]
)  # fmt: skip
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@st.composite
def any_chats(draw) -> list[Message]:  # type: ignore[no-untyped-def]
    """Chats with contents of all kinds: other scripts, code, maps, quotes, tags, tools that are called beside text."""
    contents = OTHER | UNICODE | CONTENTS | JSON
    chat: list[dict] = [{"role": "system", "content": draw(contents)}, {"role": "user", "content": draw(contents)}]
    for number in range(draw(st.integers(0, 7))):
        call = {"id": f"c{number}", "function": {"name": "look", "arguments": draw(contents)}}
        if draw(st.booleans()):
            chat.append({"role": "assistant", "content": draw(st.none() | contents), "tool_calls": [call]})
            chat += [{"role": "tool", "tool_call_id": f"c{number}", "content": draw(contents)}]
        else:
            chat.append({"role": "assistant", "content": draw(contents)})
        chat += [{"role": "user", "content": draw(contents)} for _ in range(draw(st.integers(0, 2)))]
    return chat  # type: ignore[return-value]


def estimated(messages: Sequence[Message]) -> int:
    return sum(6 + estimate_tokens((m["content"] or "") + str(m.get("tool_calls", ""))) for m in messages)


@settings(max_examples=250, deadline=None)
@given(any_chats() | EPISODES, st.integers(1, 400))
def test_nothing_is_rewritten(messages: list[Message], target: int) -> None:
    result = compact_messages(messages, target, estimated)
    kept = [message for number, message in enumerate(messages) if number not in result.dropped]
    for before, message in zip(kept, result.messages, strict=True):  # a subsequence of the messages
        assert {**message, "content": ""}.items() >= {
            k: v for k, v in {**before, "content": ""}.items() if k not in KEYS
        }.items()
        if message["content"] == before["content"]:
            continue
        # Every line is one of the message's own, in their order, or a marker.
        own = iter(before["content"].split("\n"))
        for line in message["content"].split("\n"):
            assert line in (MARKER, f'"{MARKER}"') or line in own
    assert compact_messages(result.messages, target, estimated).messages == result.messages
    # The budget is kept wherever what must stay fits: the head, the newest exchange, and what is protected.
    groups = exchanges(messages)
    holding = {number for number, _, _ in protected_spans(messages)}
    inside = {number for group in groups[:-1] if holding.isdisjoint(group) for number in group}
    if estimated([message for number, message in enumerate(messages) if number not in inside]) <= target:
        assert result.tokens <= target


def test_a_target_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="target_tokens: got 0; allowed: 1 or more"):
        compact_messages([], 0, count)


def test_an_old_exchange_goes_whole_before_a_newer_observation() -> None:
    messages: list[Message] = [{"role": "system", "content": "You plan."}, {"role": "user", "content": "Find the mug."}]
    seen = [f"egg {number} cup {number} fork {number} plate {number}" for number in range(6)]
    for number, text in enumerate(seen):
        messages.append({"role": "assistant", "content": f"go to shelf {number}"})
        messages.append({"role": "user", "content": text})
    for target in range(30, count(messages)):
        said = [message["content"] for message in compact_messages(messages, target, count).messages]
        shown = [text for text in said if "egg" in text]
        assert said.count(MARKER) <= 1 and shown == seen[-len(shown) :]
    # Ranked, the exchange with the best of them goes last.
    kept = compact_messages(messages, 50, count, rank=lambda text: float("egg 2" in text)).messages
    assert [message["content"] for message in kept[2:]] == ["go to shelf 2", seen[2], "go to shelf 5", seen[5]]


def user(content: str, **spans: list[tuple[int, int]]) -> Message:
    return {"role": "user", "content": content, **spans}  # type: ignore[typeddict-item]


ASKED: list[Message] = [{"role": "system", "content": "You plan."}, user("Find the mug.")]
LOOKED: Message = {"role": "assistant", "content": "look"}


def characters(messages: Sequence[Message]) -> int:
    return sum(3 + len(message["content"] or "") for message in messages)


def test_a_marker_does_not_come_for_what_is_shorter() -> None:
    """A message of which nothing is left shows a marker, so a short one stays, however its parts are marked."""
    for spans in ([(0, 2)], [(0, 1), (1, 2)]):
        chat = [*ASKED, LOOKED, user("ok", stale=spans), LOOKED, user("You see a mug.")]
        steps = compaction_steps(chat, None, characters)
        sizes = [characters(chat_after(chat, steps[:number])) for number in range(len(steps) + 1)]
        assert sizes == sorted(sizes, reverse=True)
        assert compact_messages(chat, characters(chat) - 1, characters).tokens < characters(chat)
    lines = user("On the shelf 22 is a mug.\nOn the shelf 23 is a pan.", stale=[(0, 25), (26, 51)])
    chat = [*ASKED, LOOKED, lines, LOOKED, user("Empty.")]
    result = compact_messages(chat, characters(chat) - 1, characters)
    assert [message["content"] for message in result.messages[2:]] == ["look", MARKER, "look", "Empty."]


def test_json_that_is_stale_as_a_whole_stays_json() -> None:
    told = json.dumps({"seen": ["a mug and a pan", "a plate"]})
    chat = [*ASKED, LOOKED, user(told, stale=[(0, len(told))]), LOOKED, user("Empty.")]
    result = compact_messages(chat, characters(chat) - 1, characters)
    assert json.loads(result.messages[3]["content"]) == MARKER


def test_markers_of_an_earlier_compaction_are_not_the_newest_observation() -> None:
    """Some messages mark their observations, and some do not: a second compaction finds nothing new to remove."""
    seen = "On the shelf 22 you see a mug 1 and a plate 2."
    marked = user(f"{seen}\nThe goal is the mug.", observations=[(0, len(seen))], protect=[(len(seen), len(seen) + 9)])
    unmarked = [LOOKED, user(seen, protect=[]), user("The pan.", protect=[(0, 3)])]
    chat = [*ASKED, LOOKED, marked, *unmarked, LOOKED, user("Empty.")]
    for target in range(1, characters(chat)):
        once = compact_messages(chat, target, characters)
        assert seen in once.messages[3]["content"]
        assert compact_messages(once.messages, target, characters).messages == once.messages


def test_a_protected_line_break_stays_where_the_line_beside_it_goes() -> None:
    old, new = "On the shelf 22 is a mug.", "The shelf 22 is empty."
    before = user(f"{old}\n{new}", stale=[(0, len(old))], protect=[(len(old), len(old) + 4)])
    start = len(new) + 1
    behind = user(f"{new}\n{old}", stale=[(start, start + len(old))], protect=[(start - 4, start)])
    chat = [*ASKED, LOOKED, before, LOOKED, behind, LOOKED, user("Empty.")]
    said = [message["content"] for message in compact_messages(chat, 1, characters).messages]
    assert f"\n{new}" in said and f"{new}\n" in said
