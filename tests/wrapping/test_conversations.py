"""Conversations of one planner: any number, found again, told anew by their hosts, in strings of any format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import erecap
from erecap.context.compaction import MARKER
from erecap.context.token_estimate import estimate_tokens
from erecap.wrapping.conversations import Conversations
from erecap.wrapping.token_counting import TokenCounter
from tests.context.small_tokenizers import byte_level
from tests.context.test_turn_tags import FORMATS


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "replans.jsonl").read_text().splitlines()]


def seen(number: int) -> str:
    return f"You see mug {number} on the shelf {number}, a pen, and a book."


def small(most: int, memory_bytes: int) -> Conversations:
    counter = TokenCounter()
    return Conversations(counter.chat, counter.text, max_tokens=most, memory_bytes=memory_bytes)


@pytest.mark.parametrize("robots", [64, 65, 150])
def test_any_number_of_strings_is_shortened(robots: int) -> None:
    shown: list[str] = []
    wrapped = erecap.wrap(lambda prompt: shown.append(prompt) or "go", keep_tokens=300)
    prompts = [f"robot {robot}\n>" for robot in range(robots)]
    for step in range(16):
        for robot in range(robots):
            prompts[robot] += f" {wrapped(prompts[robot])}\n{seen(step)}\n>"
    assert max(map(estimate_tokens, shown)) <= 300 < estimate_tokens(prompts[0])
    assert all(prompt.startswith(f"robot {robot}\n>") for robot, prompt in enumerate(shown[-robots:]))


def test_any_number_of_chats_that_begin_alike_is_told_apart(tmp_path: Path) -> None:
    wrapped = erecap.wrap(lambda chat: "go", keep_tokens=400, log=tmp_path)
    chats: list[list[dict]] = [[{"role": "user", "content": "Find the mug."}] for _ in range(80)]
    for step in range(16):
        for robot, chat in enumerate(chats):
            wrapped(chat)
            chat += [{"role": "assistant", "content": "go"}, {"role": "user", "content": seen(100 * robot + step)}]
    last = rows(tmp_path)[-80:]
    assert all(row["kept_tokens"] <= 400 and row["compactions"] <= 4 and not row["thrashed"] for row in last)
    assert sum(row["reused_tokens"] > 0 for row in rows(tmp_path)[-400:]) > 350


def test_a_forgotten_string_is_shortened_when_it_comes_back() -> None:
    conversations = small(300, memory_bytes=20_000)
    prompts = {name: f"Robot {name}.\n> look\nAn example.\n>" for name in ("a", *map(str, range(30)))}
    for step in range(25):
        prompts["a"] += f" go\n{seen(step)}\n>"
        conversations.show_prompt(prompts["a"], 300)
    for name, prompt in prompts.items():
        conversations.show_prompt(prompt, 300)  # `a` is forgotten on the way
    prompts["a"] += f" go\n{seen(99)}\n>"
    shown, view, _ = conversations.show_prompt(prompts["a"], 300)
    assert view.before > 400 and view.tokens <= 300 and estimate_tokens(shown) <= 300
    assert shown.startswith("Robot a.\n> look\nAn example.\n>") and shown.endswith(f" go\n{seen(99)}\n>")


def test_memory_is_bounded_by_bytes() -> None:
    conversations = small(10_000, memory_bytes=100_000)
    for robot in range(400):
        conversations.show_prompt(f"Robot {robot}.\n>", 10_000)
        conversations.show_chat([{"role": "user", "content": f"Robot {robot} " + "x" * 300}], 10_000)
    assert conversations._bytes == sum(conversations._used.values()) <= 100_000
    assert set().union(*conversations._having.values()) <= set(conversations._used)
    assert all(talk in conversations._used for talks in conversations._beginning.values() for talk in talks)
    assert len(conversations._forgotten) <= 100_000 >> 9


RESUMED = {
    "ChatML": ("<|im_start|>system\nRules.<|im_end|>\n<|im_start|>user\nGoal: a mug.", None),
    "Gemma": ("<bos><start_of_turn>user\nGoal: a mug.", None),
    "Mistral": ("<s>[INST]Goal: a mug.", None),
    "DeepSeek": ("<｜begin▁of▁sentence｜>Rules.<｜User｜>Goal: a mug.", None),
    "ALFWorld": ("Interact with a household.\n> go to fridge 1\nAn example.\n\nYour task is to: find a mug.", "alfworld"),
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_string_that_was_never_seen_is_shortened_where_its_turns_can_be_told(name: str) -> None:
    head, patterns = RESUMED[name]
    before, after = FORMATS.get(name, ("\n", "\n>"))
    prompt = head + after
    for step in range(30):
        prompt += f"{'' if name in FORMATS else ' '}go {step}{before}{seen(step)}{after}"
    shown: list[str] = []
    wrapped = erecap.wrap(lambda given: shown.append(given) or "go", keep_tokens=400, patterns=patterns)
    wrapped(prompt)
    assert estimate_tokens(shown[0]) <= 400 < estimate_tokens(prompt)
    assert shown[0].startswith(head + after) and shown[0].endswith(f"go 29{before}{seen(29)}{after}")


@pytest.mark.parametrize("prompt", ["Robot.\n>" + f" go\n{seen(1)}\n>" * 40, "No turns here. " * 200, f"{seen(2)}\n" * 60])
def test_a_string_whose_turns_cannot_be_told_is_left_alone(prompt: str, tmp_path: Path) -> None:
    assert erecap.wrap(lambda given: given, keep_tokens=200, log=tmp_path)(prompt) == prompt
    [row] = rows(tmp_path)
    assert row["decision"] == "passed" and row["reason"].endswith("more than the 200 of the budget")


UNKNOWN = {
    "percent": (" %%over%%\n%%user%%\n", "\n%%over%%\n%%planner%%\n"),
    "braces": ("\n{{/bot}}\n{{human}}\n", "\n{{/human}}\n{{bot}}\n"),
    "inline": (" [turn user] ", " [turn bot] "),
}


def played(before: str, after: str, steps: int = 24, most: int = 500, **options: object) -> tuple[list[str], list[str]]:
    """What was sent, and what was shown, of an episode in one string."""
    shown: list[str] = []
    wrapped = erecap.wrap(lambda prompt: shown.append(prompt) or "go", keep_tokens=most, **options)
    prompt, sent = f"Rules.{before}Goal: a mug.{after}", []
    for step in range(steps):
        sent.append(prompt)
        prompt += f"{wrapped(prompt)} {step}{before}{seen(step)}\nIt is red {step}.{after}"
    return sent, shown


@pytest.mark.parametrize("name", [*FORMATS, *UNKNOWN])
def test_no_turn_of_any_format_is_cut(name: str) -> None:
    before, after = (FORMATS | UNKNOWN)[name]
    sent, shown = played(before, after)
    assert max(map(estimate_tokens, shown)) <= 500 < estimate_tokens(sent[-1])
    for most in range(380, 640, 60):
        more = played(before, after, most=most)
        sent, shown = [*sent, *more[0]], [*shown, *more[1]]
    for whole, prompt in zip(sent, shown, strict=True):
        assert prompt.startswith(f"Rules.{before}Goal: a mug.{after}") and prompt.endswith(whole[-60:])
        # Every turn is one of the string's own, or has a marker for all that was told in it.
        for turn in prompt.split(after)[1:-1]:
            answer, told = turn.split(before)
            number = answer.removeprefix("go ")
            assert told in (f"{seen(int(number))}\nIt is red {number}.", MARKER)
    assert any(MARKER in prompt for prompt in shown) == (name not in UNKNOWN)


def test_a_tokenizers_template_tells_the_turns() -> None:
    tokenizer = byte_level()
    theirs = tokenizer.chat_template
    before, after = UNKNOWN["percent"]
    try:
        tokenizer.chat_template = (
            "{% for m in messages %}{{ '%%' + ('planner' if m['role'] == 'assistant' else m['role']) + '%%\n' + m['content'] }}"
            "{{ (' ' if m['role'] == 'assistant' else '\n') + '%%over%%\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '%%planner%%\n' }}{% endif %}"
        )
        sent, shown = played(before, after, most=900, tokenizer=tokenizer)
    finally:
        tokenizer.chat_template = theirs
    blanked = [prompt for prompt in shown if MARKER in prompt]
    assert blanked and all(f"{before}{MARKER}{after}" in prompt for prompt in blanked)


def test_a_host_that_asks_twice_in_an_exchange_keeps_both_together() -> None:
    shown: list[str] = []
    wrapped = erecap.wrap(lambda prompt: shown.append(prompt) or "go on", keep_tokens=400)
    prompt = "Rules.\nThought 0:"
    for step in range(40):
        prompt += f" {wrapped(prompt)} {step}\nAction {step}:"
        prompt += f" {wrapped(prompt)} {step}\n{seen(step)}\nThought {step + 1}:"
    for given in shown[4:]:
        asked = [line.split()[0] for line in given.split("\n") if line.startswith(("Thought", "Action"))]
        assert asked == (["Thought", "Action"] * len(asked))[: len(asked)]
    assert max(map(estimate_tokens, shown)) <= 400


def rules(number: int) -> list[dict]:
    return [{"role": "system", "content": "Rules."}, {"role": "user", "content": "Goal: a mug."}]


def pairs(number: int) -> list[list[dict]]:
    return [
        [{"role": "assistant", "content": f"go {step % 3}"}, {"role": "user", "content": seen(step) * 2}]
        for step in range(number)
    ]


def retold_newest(number: int) -> list[dict]:
    past = [
        message
        for step in range(number)
        for message in ({"role": "user", "content": f"Observation:\n{seen(step) * 2}"}, {"role": "assistant", "content": "go"})
    ]
    return [{"role": "user", "content": "Rules."}, *past, {"role": "user", "content": f"Current Observation:\n{seen(number) * 2}"}]


def sliding(number: int) -> list[dict]:
    return [*rules(number), *sum(pairs(number)[-15:], [])]


def sliding_without_a_goal(number: int) -> list[dict]:
    past = sum(([*reversed(pair)] for pair in pairs(number)), [])[-30:]
    return [rules(number)[0], *past, {"role": "user", "content": seen(number)}]


def counted_steps(number: int) -> list[dict]:
    return [{"role": "system", "content": f"Rules. Step {number} of 60."}, *rules(number)[1:], *sum(pairs(number), [])]


def aging(number: int) -> list[dict]:
    """Every old message says how old it is."""
    past = pairs(number)
    return [*rules(number), *sum(([said, {**told, "content": f"{number - step} steps ago: {told['content']}"}] for step, (said, told) in enumerate(past)), [])]


def horizon(number: int) -> list[dict]:
    """Two parts in each message, of which the second becomes another once it is old."""
    chat = [*rules(number), *sum(pairs(number), [])]
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}, {"type": "text", "text": "<frame>" if place >= len(chat) - 4 else "<old frame>"}]}
        if place > 1 and message["role"] == "user" else message
        for place, message in enumerate(chat)
    ]  # fmt: skip


def note_at_the_end(number: int) -> list[dict]:
    """The newest message carries a state that the same message lacks later."""
    chat = [*rules(number), *sum(pairs(number), [])]
    return [*chat[:-1], {**chat[-1], "content": f"{chat[-1]['content']}\nBattery: {number} %."}]


HOSTS: dict[Callable[[int], list[dict]], bool] = {  # and whether the front of the chat stays as it is
    retold_newest: True, sliding: True, sliding_without_a_goal: True, counted_steps: False, aging: False, horizon: True,
    note_at_the_end: True,
}  # fmt: skip


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.__name__)
def test_hosts_that_retell_their_past_are_not_compacted_at_every_call(host: Callable, tmp_path: Path) -> None:
    shown: list[list[dict]] = []
    wrapped = erecap.wrap(lambda chat: shown.append(chat) or "go", keep_tokens=600, log=tmp_path)
    for number in range(60):
        chat = host(number)
        wrapped(chat)
        assert shown[-1][0] == chat[0] and shown[-1][-1] == chat[-1]
        assert all(message in chat or message["content"] == MARKER for message in shown[-1])
    noted = rows(tmp_path)
    assert max(row["kept_tokens"] for row in noted) <= 600
    assert noted[-1]["compactions"] <= 16 and noted[-1]["thrashed"] <= 2
    late = noted[20:]
    if HOSTS[host]:
        assert sum(row["reused_tokens"] for row in late) > 0.5 * sum(row["kept_tokens"] for row in late)


def test_a_string_whose_newest_observation_is_told_anew(tmp_path: Path) -> None:
    shown: list[str] = []
    wrapped = erecap.wrap(lambda prompt: shown.append(prompt) or "go", keep_tokens=500, log=tmp_path)
    for number in range(50):
        past = "".join(f"Observation: {seen(step)}\n> go\n" for step in range(number))
        wrapped(f"Rules of the game, which are told at length.\n{past}Current Observation: {seen(number)}\n>")
    noted = rows(tmp_path)
    assert max(row["kept_tokens"] for row in noted) <= 500 < noted[-1]["prompt_tokens"]
    assert noted[-1]["compactions"] <= 16 and noted[-1]["thrashed"] <= 2
    assert all(prompt.endswith(f"Current Observation: {seen(number)}\n>") for number, prompt in enumerate(shown))


def test_thrashing_is_counted(tmp_path: Path) -> None:
    """Where little but the newest exchange fits, each call has to be compacted, and the log says so."""
    wrapped = erecap.wrap(lambda chat: "go", keep_tokens=110, log=tmp_path)
    for number in range(20):
        wrapped([*rules(number), *sum(pairs(number), [])])
    last = rows(tmp_path)[-1]
    assert last["compactions"] > 10 and last["thrashed"] >= last["compactions"] - 1


def test_what_saves_next_to_nothing_does_not_change_the_front(tmp_path: Path) -> None:
    """The head alone exceeds the budget: nothing that goes would bring the call within it."""
    shown: list[list[dict]] = []
    wrapped = erecap.wrap(lambda chat: shown.append(chat) or "go", keep_tokens=100, log=tmp_path)
    chat = [{"role": "system", "content": "Rules. " * 4000}, {"role": "user", "content": "Goal."}]
    for number in range(12):
        wrapped(chat)
        chat = [*chat, {"role": "assistant", "content": "go"}, {"role": "user", "content": f"mug {number}"}]
    assert rows(tmp_path)[-1]["compactions"] == 0
    assert all(later[: len(one)] == one for one, later in zip(shown, shown[1:], strict=False))


PIECES = st.lists(
    st.sampled_from(["go", "shelf 1", "\n", "<|im_end|>", "<end_of_turn>\n<start_of_turn>user\n", "[/INST]", "机器人", ">", "🤖", "%%x%%", "\u2028", "USER: "]),
    max_size=8,
).map("".join)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(PIECES, st.lists(st.tuples(PIECES, PIECES, st.booleans(), st.integers(0, 3)), max_size=9), st.integers(10, 120))
def test_whatever_a_host_writes(head: str, calls: list[tuple[str, str, bool, int]], most: int) -> None:
    """The shown string is made of the host's own text and markers, begins as its head and ends as it does."""
    wrapped_for: list[str] = []
    answers = iter(answer for answer, *_ in calls)
    wrapped = erecap.wrap(lambda prompt: wrapped_for.append(prompt) or next(answers), keep_tokens=most)
    prompt = head + "\n>"
    for answer, below, stripped, cut in calls:
        assert wrapped(prompt) == answer
        shown = wrapped_for[-1]
        assert shown.endswith(prompt[-4:]) and (len(shown) <= len(prompt) or MARKER in shown)
        place = 0
        for piece in shown.split(MARKER):
            for line in piece.split("\n"):
                found = prompt.find(line, place)
                assert found >= 0
                place = found + len(line)
        said = answer.strip() if stripped else answer
        prompt = prompt[: max(len(head) + 2, len(prompt) - cut)] + f" {said}\n{below}\n>"
