"""Strings in any chat format: turns go whole or stay, and where they cannot be told nothing is cut."""

from __future__ import annotations

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
from tests.wrapping.test_conversations import rows, seen

RESUMED = {
    "ChatML": ("<|im_start|>system\nRules.<|im_end|>\n<|im_start|>user\nGoal: a mug.", None),
    "Gemma": ("<bos><start_of_turn>user\nGoal: a mug.", None),
    "Mistral": ("<s>[INST]Goal: a mug.", None),
    "DeepSeek": ("<｜begin▁of▁sentence｜>Rules.<｜User｜>Goal: a mug.", None),
    "ALFWorld": (
        "Interact with a household.\n> go to fridge 1\nAn example.\n\nYour task is to: find a mug.",
        "alfworld",
    ),
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


@pytest.mark.parametrize(
    "prompt", ["Robot.\n>" + f" go\n{seen(1)}\n>" * 40, "No turns here. " * 200, f"{seen(2)}\n" * 60]
)
def test_a_string_whose_turns_cannot_be_told_is_left_alone(prompt: str, tmp_path: Path) -> None:
    assert erecap.wrap(lambda given: given, keep_tokens=200, log=tmp_path)(prompt) == prompt
    [row] = rows(tmp_path)
    assert row["decision"] == "passed" and row["reason"].endswith("more than the 200 of the budget")


UNKNOWN = {
    "percent": (" %%over%%\n%%user%%\n", "\n%%over%%\n%%planner%%\n"),
    "braces": ("\n{{/bot}}\n{{human}}\n", "\n{{/human}}\n{{bot}}\n"),
    "inline": (" [turn user] ", " [turn bot] "),
    "guillemets": ("\n«/A»\n«Q»\n", "\n«/Q»\n«A»\n"),
    "closed at the line's end": ("«/A»\n«Q»\n", "«/Q»\n«A»\n"),
    "lenticular brackets": ("\n【用户】\n", "\n【助手】\n"),
    "full-width brackets": ("＜/bot＞\n＜user＞\n", "＜/user＞\n＜bot＞\n"),
    "parentheses": ("(end)\n(user)\n", "(end)\n(bot)\n"),
    "numbered": ("\n(user 7)\n", "\n(bot 7)\n"),
    "colons": ("\n::user::\n", "\n::assistant::\n"),
    "underscores": ("\n__USER__\n", "\n__BOT__\n"),
    "dashes": ("\n--- user ---\n", "\n--- assistant ---\n"),
    "control characters": ("\x03\x01user\x02", "\x03\x01bot\x02"),
    "YAML": ("\n- role: user\n  content: |\n    ", "\n- role: assistant\n  content: |\n    "),
    "arrows": ("\n>>> ", "\n<<< "),
    "German": ("\nBenutzer: ", "\nAssistent: "),
    "Russian": ("\nПользователь: ", "\nАссистент: "),
    "Chinese": ("\n用户：", "\n助手："),
    "bare words": ("\nuser\t", "\nbot\t"),
    "Yi": ("<|endoftext|><|startoftext|>Human: ", "\n\nAssistant: "),
    "ChatML in German": ("<|im_end|>\n<|im_start|>Benutzer\n", "<|im_end|>\n<|im_start|>Assistent\n"),
    "known, then unknown": ("<|end|>\n<|user|>\n", "\n«A»\n"),
}


def played(before: str, after: str, steps: int = 24, most: int = 500, **options: object) -> tuple[list[str], list[str]]:
    """Play an episode in one string; returns the prompts that were sent, and those that were shown."""
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


@pytest.mark.parametrize("most", range(260, 420, 20))
def test_an_answer_that_nobody_told_does_not_hide_the_tags_of_an_unknown_format(most: int) -> None:
    """Where an exchange is one line, all of it passes for its answer; the other exchanges show the format."""
    before, after = UNKNOWN["inline"]
    conversations = Conversations(TokenCounter().chat, estimate_tokens, max_tokens=most)
    prompt = f"Rules.{before}Goal:\na mug.{after}"
    for step in range(30):
        shown, _, talk = conversations.show_prompt(prompt, most)
        assert MARKER not in shown
        talk.answer = "" if step in (3, 4, 9) else f"go {step}"
        told = "Nothing." if step in (3, 4, 9) else f"{seen(step)}\n{seen(step)}\nIt is red."
        prompt += f"go {step}{before}{told}{after}"
    assert estimate_tokens(shown) <= most < estimate_tokens(prompt)


@pytest.mark.parametrize("name", [*FORMATS, *UNKNOWN])
@pytest.mark.parametrize("patterns", ["react", "alfworld", "erecap"])
def test_patterns_never_take_a_tag_for_an_observation(name: str, patterns: str) -> None:
    before, after = (FORMATS | UNKNOWN)[name]
    label = "Observation: " if patterns == "react" else ""
    for most in (300, 460):
        shown: list[str] = []
        wrapped = erecap.wrap(lambda text, shown=shown: shown.append(text) or "go", keep_tokens=most, patterns=patterns)
        prompt = f"Rules.{before}Goal: a mug.{after}"
        for step in range(24):
            prompt += f"{wrapped(prompt)} {step}{before}{label}{seen(step)}\nNothing else of {step}.{after}"
        for text in shown:
            head, *turns = text.split(after)
            assert head == f"Rules.{before}Goal: a mug." and turns.pop() == ""
            assert all(turn.count(before) == 1 and turn.startswith("go ") for turn in turns)


@pytest.mark.parametrize("patterns", ["react", "alfworld", "erecap"])
def test_patterns_still_tell_the_observations_of_lines(patterns: str) -> None:
    label, ask = ("Observation 0: ", "\nAction 0:") if patterns == "react" else ("", "\n>")
    shown: list[str] = []
    wrapped = erecap.wrap(lambda prompt: shown.append(prompt) or "go", keep_tokens=300, patterns=patterns)
    prompt = f"Rules.{ask}"
    for step in range(24):
        prompt += f" {wrapped(prompt)} {step}\n{label}{seen(step)}\nNothing else of {step}.{ask}"
    blanked = [text for text in shown if f"\n{MARKER}{ask}" in text]
    assert blanked and not any(f"{MARKER}\nNothing" in text for text in shown)


def test_the_log_says_why_only_whole_exchanges_go(tmp_path: Path) -> None:
    played(*UNKNOWN["guillemets"], most=300, log=tmp_path)
    reasons = {row["reason"].partition(";")[0] for row in rows(tmp_path) if row["decision"] == "pruned"}
    assert reasons == {"observations cannot be told from tags in this string, so that only whole exchanges go"}


def test_what_is_asked_in_turns_after_another_beginning_stays_in_turns() -> None:
    shown: list[str] = []
    wrapped = erecap.wrap(lambda prompt: shown.append(prompt) or "go on", keep_tokens=300)
    prompt = "Rules.\nBegin!"
    for step in range(40):
        prompt += f"\n{wrapped(prompt)} {step}\n{seen(step)}\n{'AB'[step % 2]} says:"
    for text in shown[6:]:
        asked = [line[0] for line in text.split("\n") if line.endswith(" says:")]
        assert asked == (["A", "B"] * len(asked))[: len(asked)]
    assert max(map(estimate_tokens, shown)) <= 300


def test_a_tokenizers_template_tells_the_turns() -> None:
    tokenizer = byte_level()
    theirs = tokenizer.chat_template
    before, after = UNKNOWN["percent"]
    try:
        tokenizer.chat_template = (
            "{% for m in messages %}{{ '%%' + "
            "('planner' if m['role'] == 'assistant' else m['role']) + '%%\n' + m['content'] }}"
            "{{ (' ' if m['role'] == 'assistant' else '\n') + '%%over%%\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '%%planner%%\n' }}{% endif %}"
        )
        _, shown = played(before, after, most=900, tokenizer=tokenizer)
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
    for text in shown[4:]:
        asked = [line.split()[0] for line in text.split("\n") if line.startswith(("Thought", "Action"))]
        assert asked == (["Thought", "Action"] * len(asked))[: len(asked)]
    assert max(map(estimate_tokens, shown)) <= 400


PIECES = st.lists(
    st.sampled_from(["go", "shelf 1", "\n", "<|im_end|>", "<end_of_turn>\n<start_of_turn>user\n", "[/INST]", "机器人",
                     ">", "🤖", "%%x%%", "\u2028", "USER: "]),
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
