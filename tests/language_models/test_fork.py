"""Several conversations with one beginning: read once, stored once, and each answered as if it were alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from erecap.config.modes import parse_mode
from erecap.config.run import BudgetSettings, RereadSettings
from erecap.errors import ConfigError
from erecap.language_models.build import CallSettings, ModelSettings, OpenedModel, build_language_model, open_model
from erecap.language_models.per_episode import EpisodeSessions, kv_bytes_of
from erecap.planners.cooperative.agents import load_roster
from erecap.planners.cooperative.planner import CooperativePlanner
from erecap.protocols import ForkingModel
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn

SHARED = [
    start()[0],
    {"role": "user", "content": start()[1]["content"] + "".join(f"\nThe shelf {n} is closed." for n in range(60))},
]
NAMES = ("Red", "Blue", "Green", "Grey")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenedModel:
    folder: Path = tmp_path_factory.mktemp("tiny")
    model().save_pretrained(folder)
    byte_level().save_pretrained(folder)
    return open_model(ModelSettings(str(folder), dtype="float32", device="cpu"))


def build(opened: OpenedModel, name: str, every: int | None = None) -> ForkingModel:
    reread = None if every is None else RereadSettings(mode=name, every=every)
    built = build_language_model(opened, parse_mode(name), CallSettings(BudgetSettings(kv_tokens=8000), reread=reread))
    assert isinstance(built, ForkingModel)
    built.reset()
    return built


def chat(name: str) -> list[Any]:
    """The shared beginning, with a line of one's own behind it."""
    return [SHARED[0], {"role": "user", "content": f"{SHARED[1]['content']}\nRule: you are {name}"}]


@pytest.mark.parametrize("name", ["reuse", "erecap"])
def test_a_fork_answers_as_a_conversation_of_its_own(name: str, opened: OpenedModel) -> None:
    built = build(opened, name)
    forks = {who: built.fork(SHARED) for who in NAMES}
    chats = {who: chat(who) for who in NAMES}
    alone = {who: build(opened, name) for who in NAMES}
    for number in range(3):
        for who, fork in forks.items():
            answer = fork.generate(chats[who], max_new_tokens=6)
            assert answer.text == alone[who].generate(chats[who], max_new_tokens=6).text
            chats[who] += turn(answer.text, number)


def test_the_shared_beginning_is_read_once_and_stored_once(opened: OpenedModel) -> None:
    built = build(opened, "reuse")
    assert isinstance(built, EpisodeSessions)
    forks = [built.fork(SHARED) for _ in NAMES]
    answers = [fork.generate(chat(who), max_new_tokens=4) for fork, who in zip(forks, NAMES, strict=True)]
    shared = built.stored_tokens
    assert answers[0].usage.new_tokens == answers[0].usage.prompt_tokens > shared > 200
    assert all(answer.usage.new_tokens == answer.usage.prompt_tokens - shared for answer in answers[1:])
    assert answers[0].timing.total_ms >= answers[0].timing.prefill_ms > 0
    per_token = built.session.engine.bytes_per_token
    own = sum(fork.session.engine.stored().most - shared for fork in forks if isinstance(fork, EpisodeSessions))
    assert answers[-1].usage.kv_bytes == per_token * (shared + own)
    sessions = [fork.session for fork in forks if isinstance(fork, EpisodeSessions)]
    assert kv_bytes_of(sessions) == per_token * (shared + own)


def test_a_new_episode_forgets_the_forks(opened: OpenedModel) -> None:
    built = build(opened, "reuse")
    for _ in range(2):
        answer = built.fork(SHARED).generate(chat("Red"), max_new_tokens=4)
        assert answer.usage.new_tokens == answer.usage.prompt_tokens
        built.reset()


def test_calls_of_all_forks_together_are_measured_anew(opened: OpenedModel) -> None:
    built = build(opened, "reuse", every=3)
    forks = [built.fork(SHARED) for _ in NAMES]
    answers = [fork.generate(chat(who), max_new_tokens=4) for fork, who in zip(forks, NAMES, strict=True)]
    assert [answer.reread is not None for answer in answers] == [True, False, False, True]
    again = answers[3].reread
    assert again is not None and again.text == answers[3].text and again.usage.reused_tokens == 0


def test_a_model_that_keeps_nothing_forks_into_itself(opened: OpenedModel) -> None:
    built = build(opened, "full")
    assert built.fork(SHARED) is built


def test_shortened_text_holds_one_conversation(opened: OpenedModel) -> None:
    masked = build_language_model(opened, parse_mode("mask"), CallSettings(BudgetSettings(kv_tokens=300)))
    with pytest.raises(ConfigError, match="MaskedSessions holds one conversation"):
        CooperativePlanner(masked, load_roster("team"))
