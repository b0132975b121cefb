"""Planning calls cut from transcripts."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError
from erecap.tuning.samples import Transcript, built_in, digest, recorded, take
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model
from tests.tuning.histories import episode, write


def transcript(number: int = 1, turns: int = 6) -> Transcript:
    row = episode(number, turns)
    return Transcript(row["messages"], [(target["message"], target["plan"]) for target in row["targets"]])


def length(messages) -> int:  # type: ignore[no-untyped-def]
    return len(render_prompt(messages, byte_level()).input_ids)


def test_the_first_call_that_is_long_enough(tmp_path: Path) -> None:
    chats = list(recorded(write(tmp_path), 0))
    for chat, sample in zip(
        (chat for chat in chats if len(chat.plans) > 1), take(chats, 9, 200, model(), byte_level()), strict=True
    ):
        prompts = [length(chat.messages[:place]) for place, _ in chat.plans]
        wanted = next(n for n, tokens in enumerate(prompts) if tokens >= 200)
        place, plan = chat.plans[wanted]
        assert len(sample.prompt) == prompts[wanted]
        # Prompt and plan are the tokens of the chat that has the plan in it, up to the end of the turn.
        whole = render_prompt([*chat.messages[:place], {"role": "assistant", "content": plan}], byte_level(), False)
        ids = [*sample.prompt, *sample.plan]
        assert whole.input_ids[: len(ids)] == ids and ids[-1] == byte_level().eos_token_id
        assert byte_level().decode(sample.plan[:-1]) == plan


def test_goals_system_and_the_newest_message_are_protected(tmp_path: Path) -> None:
    (sample,) = take(recorded(write(tmp_path, episodes=2), 0), 1, 200, model(), byte_level())
    kept = [byte_level().decode(sample.prompt[low:high]) for low, high in sample.protect]
    assert kept[0].endswith("robot.") and "Goal: cool apple 1." in kept[1] and kept[-1].startswith("> go to shelf")
    assert len(kept) == 3 and not any("fridge" in text for text in kept)


def test_a_plan_beside_the_chat_counts_as_well() -> None:
    chat = transcript()
    branch = Transcript(chat.messages, [(chat.plans[-1][0], "look")])
    (sample,) = take([branch], 1, 16, model(), byte_level())
    assert byte_level().decode(sample.plan[:-1]) == "look"


def test_orders_are_drawn_from_the_seed(tmp_path: Path) -> None:
    folder = write(tmp_path, episodes=8)
    assert list(recorded(folder, 3)) == list(recorded(folder, 3)) != list(recorded(folder, 4))
    one, other = (take(recorded(folder, seed), 3, 100, model(), byte_level()) for seed in (3, 4))
    assert digest(one) != digest(other) and digest(one) == digest(list(one))


def test_what_is_too_short_or_too_long() -> None:
    tokenizer = byte_level()
    with pytest.raises(ConfigError, match=r"the longest prompt of 2 transcripts has \d+; use a shorter --length"):
        take([transcript(), transcript(2)], 2, 2000, model(), tokenizer)
    with pytest.raises(ConfigError, match="of 0 transcripts has 0"):
        take([], 2, 100, model(), tokenizer)
    for bad in (15, 4096):
        with pytest.raises(ConfigError, match=f"--length: got {bad}; allowed: 16 to 4095"):
            take([transcript()], 1, bad, model(), tokenizer)
    # The call fits the length and not the window.
    with pytest.raises(ConfigError, match="fits the window of 200"):
        take([transcript()], 1, 190, model(window=200), tokenizer)


def test_folders_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="erecap collect"):
        recorded(tmp_path, 0)
    write(tmp_path)
    (tmp_path / "episodes.jsonl").write_text(json.dumps({"suite": 1}) + "\n")
    with pytest.raises(ConfigError, match=r"episodes\.jsonl:1: the row is damaged"):
        recorded(tmp_path, 0)


@pytest.mark.integration
def test_walks_through_household_games() -> None:
    pytest.importorskip("alfworld")
    chats = list(islice(built_in(900, byte_level(), 0), 2))
    assert chats[0] != chats[1]
    for chat in chats:
        ((place, plan),) = chat.plans
        assert place == len(chat.messages) and chat.messages[-1]["role"] == "user" and plan
        assert length(chat.messages) >= 900 > length(chat.messages[:-2])
    first, _ = take(chats, 2, 900, model(), byte_level())
    assert first == take(built_in(900, byte_level(), 0), 1, 900, model(), byte_level())[0]
