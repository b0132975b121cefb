"""Sessions with early exit answer as sessions without it, whatever the predictor says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from erecap.config.exits import Exit
from erecap.decoding.exits.partial import Heads
from erecap.errors import ModelError
from erecap.layers import LayerPlan
from erecap.layers.applying import with_plan
from erecap.session import ReplanPool, ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.decoding.exiting import drafting_always_pays as drafting_always_pays
from tests.decoding.exiting import folder
from tests.session.chats import model, start, turn
from tests.tokens.models import ARCHITECTURES

TURNS, NEW = 3, 9


def talk(session: ReplanSession, turns: int = TURNS, **options: Any) -> tuple[list[str], list[Any]]:
    """Answers and usages of a conversation."""
    messages, answers, usages = start(), [], []
    for number in range(turns):
        answer = session.generate(messages, max_new_tokens=NEW, **options)
        answers.append(answer.text)
        usages.append(answer.usage)
        messages = messages + turn(answer.text, number)
    return answers, usages


def left(usages: list[Any]) -> list[int]:
    return [layer for usage in usages for layer in usage.exit_layers]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_token_changes_alone_and_with_eviction_drafts_and_a_layer_plan(name: str, tmp_path: Path) -> None:
    whole = model(name)
    thin = with_plan(whole, LayerPlan(8, blocks=(2,), attention=(4,), mlp=(5,)))
    for used, options in (
        (whole, {"draft": False}),
        (thin, {"draft": True, "budget": 50}),
    ):
        plain = ReplanSession(used, byte_level(), **(options | {"draft": False}))
        wanted, _ = talk(plain)
        session = ReplanSession(used, byte_level(), exit=Exit(layer=5, threshold=0.0, drafts=3), **options)
        answers, usages = talk(session)
        assert answers == wanted and session.token_ids == plain.token_ids
        assert sum(usage.exit_differing for usage in usages) == 0


def test_no_predictor_changes_a_token(tmp_path: Path) -> None:
    used = model("qwen3")
    wanted, _ = talk(ReplanSession(used, byte_level(), draft=False), 2)
    for says, more in (
        ("always", {"check": True}), ("always", {}), ("never", {}), ("random", {"schedule": "every", "threshold": 0.5})
    ):  # fmt: skip
        path = folder(tmp_path / says, used, says)
        session = ReplanSession(used, byte_level(), draft=False, exit=Exit(predictor=str(path), **more))
        answers, usages = talk(session, 2)
        assert answers == wanted and (says != "never" or not left(usages))
        # Of the predictor, and of a few hidden states.
        assert session.exits is not None
        assert 0 < usages[-1].exit_bytes - session.exits.nbytes <= 10 * (4 * 32 + 17)


def test_thirty_turns_of_the_sessions_own_chat_are_the_models_choices() -> None:
    session = ReplanSession(model("gemma3"), byte_level(), exit=Exit(layer=7, threshold=0.0))
    session.append(start())
    spans = []
    for number in range(30):
        usage = session.generate(max_new_tokens=2).usage
        spans.append((usage.prompt_tokens, usage.prompt_tokens + usage.completion_tokens))
        session.append([{"role": "user", "content": f"mug {number * 7}"}])
    ids = session.token_ids
    with torch.no_grad():
        choices = model("gemma3")(torch.tensor([ids])).logits[0].argmax(-1).tolist()
    for low, high in spans:
        assert ids[low:high] == choices[low - 1 : high - 1]


def test_forks_go_on_alike_and_know_their_own_exits() -> None:
    session = ReplanSession(model("qwen3"), byte_level(), draft=False, exit=Exit(layer=7, threshold=0.0))
    plain = ReplanSession(model("qwen3"), byte_level(), draft=False)
    for one in (session, plain):
        one.generate(start(), max_new_tokens=NEW)
    twin, wanted = session.fork(), plain.fork()
    assert talk(twin)[0] == talk(wanted)[0] and twin.exits is not session.exits
    assert talk(session)[0] == talk(plain)[0]


def test_in_a_pool_answers_are_those_of_single_sessions() -> None:
    def sessions() -> list[ReplanSession]:
        kinds = (Exit(layer=7, threshold=0.0), Exit(layer=3, threshold=0.0), None)
        return [ReplanSession(model("qwen3"), byte_level(), draft=False, exit=exit) for exit in kinds]

    pool = ReplanPool(model("qwen3"), byte_level())
    chats = [start(), [*start(), *turn("look", 1)], start()]
    together = pool.generate(
        [(one, chat, {"max_new_tokens": NEW}) for one, chat in zip(sessions(), chats, strict=True)]
    )
    alone = [one.generate(chat, max_new_tokens=NEW) for one, chat in zip(sessions(), chats, strict=True)]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert together[0].usage.exit_layers == alone[0].usage.exit_layers != ()


def test_sampled_answers_are_the_same_with_a_seed() -> None:
    found = []
    for exit in (None, Exit(layer=7, threshold=0.0)):
        session = ReplanSession(model("qwen3"), byte_level(), draft=False, exit=exit)
        found.append(talk(session, temperature=0.3, seed=5))
    assert found[0][0] == found[1][0] and left(found[1][1])


def test_a_grammar_is_asked_for_candidates() -> None:
    ends = byte_level().eos_token_id

    def allowed(ids: Any) -> list[int]:
        return [9] if len(ids) % 3 == 1 else sorted({20 + len(ids) % 5, 30, 31, 32, 33, ends})

    usages = []
    for exit in (None, Exit(layer=7, threshold=0.0), Exit(layer=7, threshold=0.0, lossless=False)):
        session = ReplanSession(model("qwen3"), byte_level(), draft=False, exit=exit)
        answer = session.generate(start(), max_new_tokens=NEW, allowed_tokens=allowed, min_new_tokens=0)
        ids = byte_level()(answer.text, add_special_tokens=False)["input_ids"]
        usages.append((answer.text, answer.usage.decode_passes, answer.usage.exit_layers))
        assert ids
    assert usages[0][0] == usages[1][0] and usages[1][2] and usages[1][1] < usages[0][1]


def test_without_verification_differing_tokens_stay_and_are_counted() -> None:
    settings = Exit(layer=1, threshold=0.0, lossless=False)
    session = ReplanSession(model("llama"), byte_level(), draft=False, exit=settings)
    answers, usages = talk(session)
    assert answers != talk(ReplanSession(model("llama"), byte_level(), draft=False))[0]
    differing = sum(usage.exit_differing for usage in usages)
    # The session has read what it answered, through all layers: each token but those counted is the model's choice.
    ids = session.token_ids
    with torch.no_grad():
        choices = model("llama")(torch.tensor([ids])).logits[0].argmax(-1).tolist()
    spans = [(usage.prompt_tokens, usage.prompt_tokens + usage.completion_tokens) for usage in usages]
    wrong = sum(ids[n] != choices[n - 1] for low, high in spans for n in range(low, min(high, len(ids))))
    assert 0 < wrong == differing <= len(left(usages))
    with pytest.raises(ValueError, match="without verification decodes greedily: use lossless, or temperature 0"):
        session.generate(start(), max_new_tokens=4, temperature=1.0)


class Cut(Exception):
    """The error that breaks a call off."""


def test_a_call_cut_off_in_an_exit_leaves_a_consistent_session(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, _ = talk(ReplanSession(model("gemma3"), byte_level(), draft=False))
    session = ReplanSession(model("gemma3"), byte_level(), draft=False, exit=Exit(layer=5, threshold=0.0, drafts=3))
    normed, count = Heads.normed, [0]

    def cutting(at: int) -> Any:
        def cut(heads: Heads, hidden: torch.Tensor) -> torch.Tensor:
            count[0] += 1
            if count[0] == at:
                raise Cut
            return normed(heads, hidden)

        count[0] = 0
        return cut

    messages = start()
    for number, answer in enumerate(wanted[:2]):
        for at in (1, 2, 3, 6):
            monkeypatch.setattr(Heads, "normed", cutting(at))
            with pytest.raises(Cut):
                session.generate(messages, max_new_tokens=NEW)
            monkeypatch.setattr(Heads, "normed", normed)
            assert not session.cache.unfinished and session.cache.reading is None and session.cache.shares_layout
        assert session.generate(messages, max_new_tokens=NEW).text == answer
        messages = messages + turn(answer, number)
    stopped = session.generate(messages, max_new_tokens=NEW, cancel=lambda: True)
    assert stopped.finish_reason == "cancelled" and not session.cache.unfinished


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_after_a_stop_within_an_exit_the_cache_is_that_of_a_fresh_read(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, normed, looks = model(name), Heads.normed, [0]
    session = ReplanSession(used, byte_level(), draft=False, exit=Exit(layer=5, threshold=0.0, drafts=3))

    def interrupting(heads: Heads, hidden: torch.Tensor) -> torch.Tensor:
        looks[0] -= 1
        if not looks[0]:
            raise KeyboardInterrupt
        return normed(heads, hidden)

    def stored_is_right() -> None:
        assert not session.cache.unfinished
        ids = session.token_ids[: session.engine.tokens]
        if not ids:
            return
        with torch.no_grad():
            fresh = used(torch.tensor([ids]), use_cache=True).past_key_values
        for mine, theirs in zip(session.cache.layers, fresh.layers, strict=True):
            torch.testing.assert_close(mine.keys, theirs.keys, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(mine.values, theirs.values, rtol=1e-4, atol=1e-4)

    messages = start()
    for number in range(1, 6):
        looks[0] = number
        monkeypatch.setattr(Heads, "normed", interrupting)
        with pytest.raises(KeyboardInterrupt):
            session.generate(messages, max_new_tokens=NEW)
        monkeypatch.setattr(Heads, "normed", normed)
        stored_is_right()
        asked = iter(range(99))
        stopped = session.generate(messages, max_new_tokens=NEW, cancel=lambda asked=asked, n=number: next(asked) >= n)
        assert stopped.finish_reason == "cancelled" and session.engine.tokens > 0
        stored_is_right()
        messages = messages + turn(stopped.text, number)


def test_what_cannot_be_served_is_one_line(tmp_path: Path) -> None:
    used = model("llama")
    for change, said in (
        ({"layers": 9}, "for a model with layers 9, this one has 8"),
        ({"hidden_size": 8}, "hidden_size 8, this one has 32"),
        ({"base": {"plan": "sha256:0"}}, "trained with another layer plan"),
        ({"test": None}, "no test in which it beats a constant exit layer"),
        ({"static": [8]}, "must name layers from 1 to 7"),
        ({"threshold": 2}, "threshold is 2; allowed: 0 to 1"),
    ):
        path = folder(tmp_path / str(len(list(tmp_path.iterdir()))), used, "never", **change)
        with pytest.raises(ModelError, match=said):
            ReplanSession(used, byte_level(), exit=str(path))
    with pytest.raises(ValueError, match="layer is 8; allowed: 1 to 7 of this model"):
        ReplanSession(used, byte_level(), exit=Exit(layer=8))
    with pytest.raises(ValueError, match=r"exit must be None, an Exit, a mapping .* or folder of a predictor, got 3"):
        ReplanSession(used, byte_level(), exit=3)  # type: ignore[arg-type]
    session = ReplanSession(used, byte_level(), exit={"layer": 3})
    assert session.exits is not None and ReplanSession(used, byte_level(), exit=False).exits is None
    session.leave_early(False)
    assert session.exits is None


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder(tmp_path / "broken", model("llama"), "never")
    tensors = load_file(path / "exits.safetensors")
    tensors["networks.3.0.weight"][4, 2] = float("nan")
    save_file(tensors, path / "exits.safetensors")
    with pytest.raises(ModelError, match=r"exits\.safetensors: a weight is not finite"):
        ReplanSession(model("llama"), byte_level(), exit=str(path))


def test_engines_that_cannot_read_some_layers_refuse_it() -> None:
    from erecap.engines.tiny import TinyModel
    from tests.session.characters import Characters

    with pytest.raises(ValueError, match=r"does not support: early exit; leave exit out, or use engine='transformers'"):
        ReplanSession(TinyModel(), Characters(), engine="tiny", exit=Exit(layer=1))
