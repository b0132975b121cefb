"""Calls made once more on an empty cache: when, with which tokens, and without a trace in the answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from erecap.config.modes import Mode, parse_mode
from erecap.config.run import BudgetSettings, RereadSettings
from erecap.generation import Generation, Usage
from erecap.language_models.build import CallSettings, ModelSettings, OpenedModel, build_language_model, open_model
from erecap.language_models.per_episode import EpisodeSessions
from erecap.language_models.reread import RereadBeside
from erecap.language_models.scripted import ScriptedModel
from erecap.protocols import LanguageModel, ReadingModel
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenedModel:
    folder: Path = tmp_path_factory.mktemp("tiny")
    model().save_pretrained(folder)
    byte_level().save_pretrained(folder)
    return open_model(ModelSettings(str(folder), dtype="float32", device="cpu"))


def build(opened: OpenedModel, mode: Mode, every: int | None = None) -> LanguageModel:
    reread = None if every is None else RereadSettings(mode=mode.name, every=every)
    settings = CallSettings(BudgetSettings(kv_tokens=150), reread=reread)
    return build_language_model(opened, mode, settings)


def played(language_model: LanguageModel, calls: int = 5) -> list[Generation]:
    language_model.reset()
    messages, found = start(), []
    for number in range(calls):
        found.append(language_model.generate(messages, max_new_tokens=6))
        messages += turn(found[-1].text, number)
    return found


@pytest.mark.parametrize("name", ["reuse", "erecap"])
def test_every_second_call_is_made_once_more_and_no_answer_changes(name: str, opened: OpenedModel) -> None:
    mode = parse_mode(name)
    built = build(opened, mode, every=2)
    assert isinstance(built, RereadBeside) and isinstance(built, LanguageModel)
    for _ in range(2):  # the second episode begins to count anew
        calls, plain = played(built), played(build(opened, mode))
        assert [(call.text, call.usage) for call in calls] == [(call.text, call.usage) for call in plain]
        assert [number for number, call in enumerate(calls) if call.reread] == [0, 2, 4]
        for call in calls[::2]:
            assert call.reread is not None
            usage = call.reread.usage
            assert usage.reused_tokens == usage.evicted_tokens == 0
            # The tokens of a text may be others than those that were generated, so the prompts may differ a little.
            assert usage.new_tokens == usage.prompt_tokens == min(usage.kept_per_layer)
            assert usage.prompt_tokens >= call.usage.prompt_tokens > 0 and call.reread.timing.total_ms > 0
        assert calls[0].reread is not None and calls[0].reread.text == calls[0].text
    assert calls[4].usage.new_tokens < calls[4].usage.prompt_tokens


def test_only_the_mode_that_was_named_is_measured(opened: OpenedModel) -> None:
    settings = CallSettings(reread=RereadSettings(mode="reuse", every=1))
    assert isinstance(build_language_model(opened, parse_mode("erecap"), settings), EpisodeSessions)


def test_nothing_of_a_measured_call_stays_in_memory(opened: OpenedModel) -> None:
    built = build(opened, parse_mode("reuse"), every=1)
    played(built, calls=2)
    assert isinstance(built, RereadBeside) and isinstance(built.again, EpisodeSessions)
    assert built.again.stored_tokens == 0


def test_what_is_read_ahead_is_read_by_the_model_that_answers(opened: OpenedModel) -> None:
    built, plain = build(opened, parse_mode("reuse"), every=2), build(opened, parse_mode("reuse"))
    calls = []
    for one in (built, plain):
        assert isinstance(one, ReadingModel)
        one.reset()
        read = one.read(start())
        assert read == one.stored_tokens > 0
        calls.append(one.generate(start(), max_new_tokens=6))
    first, alone = calls
    assert (first.text, first.usage) == (alone.text, alone.usage) and first.usage.new_tokens < first.usage.prompt_tokens
    assert first.reread is not None and first.reread.usage.new_tokens == first.usage.prompt_tokens


def test_tracing_concerns_the_model_that_answers(opened: OpenedModel) -> None:
    built = build(opened, parse_mode("reuse"), every=1)
    built.trace = True
    call = played(built, calls=1)[0]
    assert built.trace and call.pieces and call.reread is not None and not call.reread.pieces


class Deferring(ScriptedModel):
    """Defers its first call, as a scheduler may."""

    def __init__(self, script: list[str]) -> None:
        super().__init__(script)
        self.takes_old_plan = True

    def generate(self, messages, **options):  # type: ignore[no-untyped-def]
        old = options.pop("old_plan"), options.pop("trigger")
        answer = super().generate(messages, **options)
        return Generation(answer.text, "deferred") if old[0] else Generation(answer.text, usage=Usage(prompt_tokens=9))


def test_a_deferred_call_is_not_made_once_more_and_scheduling_is_not_passed_on() -> None:
    built = RereadBeside(Deferring(["a", "b"]), ScriptedModel(["b"]), every=1)
    assert built.takes_old_plan
    first = built.generate(start(), max_new_tokens=6, old_plan="go", trigger="period")
    second = built.generate(start(), max_new_tokens=6, old_plan=None, trigger="period")
    assert first.finish_reason == "deferred" and first.reread is None
    assert second.text == "b" and second.reread is not None and second.reread.text == "b"
