"""A session on a model with a plan equals the model with those parts as identities, re-reading everything."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from erecap.decoding.fused import FusedDecoder, fused_problem
from erecap.engines.rotate_keys import KeyRotator
from erecap.engines.token_bytes import bytes_per_token
from erecap.errors import RunError
from erecap.layers import LayerPlan, apply, with_plan
from erecap.session import ReplanPool, ReplanSession
from erecap.tokens import PruneConfig, attach, prune
from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.ragged import Part
from tests.context.small_tokenizers import byte_level
from tests.layers.plans import PLANS, identities
from tests.session.chats import model as shared_model
from tests.session.chats import start, turn
from tests.session.oracle import Watch
from tests.tokens.models import ARCHITECTURES, LAYERS, prompt, tiny
from tests.tokens.oracle import oracle_logits

NEW = 8
EACH = pytest.mark.parametrize("kind", PLANS)
NAMED = pytest.mark.parametrize("name", ARCHITECTURES)
UNPRUNED = PruneConfig(keep=1.0, stages=())


def planned(name: str, kind: str) -> Any:
    """A model with that plan, sharing the weights of the one that tests share."""
    return with_plan(shared_model(name), PLANS[kind])


def re_read(name: str, kind: str, ids: list[int]) -> list[int]:
    """Greedy ids of the whole model with identities, which reads all of `ids` anew."""
    given = torch.tensor([ids])
    model = shared_model(name)
    with identities(model, PLANS[kind]):
        output = model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=NEW, do_sample=False)
    return output[0, len(ids) :].tolist()


def asked_ids(session: ReplanSession, messages: list[dict], **options: Any) -> tuple[str, list[int]]:
    """The answer, and the ids that the prompt had as the session read them."""
    asked: list[list[int]] = []
    read = session.engine.read

    def watched(ids, *rest, **more):  # type: ignore[no-untyped-def]
        asked.append(session.token_ids + list(ids))
        return read(ids, *rest, **more)

    session.engine.read = watched  # type: ignore[method-assign]
    try:
        text = session.generate(messages, max_new_tokens=NEW, **options).text
    finally:
        session.engine.read = read  # type: ignore[method-assign]
    return text, asked[0]


@EACH
@NAMED
def test_a_session_equals_the_model_with_identities_re_reading(name: str, kind: str) -> None:
    session = ReplanSession(planned(name, kind), byte_level(), draft=True)
    messages = start()
    for number in range(5):
        text, ids = asked_ids(session, messages)
        assert text == byte_level().decode(re_read(name, kind, ids), skip_special_tokens=True), number
        messages += turn(text, number)
    stored = session.cache.kept_lengths()
    plan = PLANS[kind]
    empty = [new for new, old in enumerate(plan.kept) if old in plan.attention]
    assert [layer for layer, count in enumerate(stored) if not count] == empty
    assert session.engine.bytes_per_token * max(stored) == session.cache.kv_bytes()
    assert bytes_per_token(session.model) == session.engine.bytes_per_token


@EACH
@NAMED
def test_a_budget_that_evicts_and_repositions_equals_the_masked_oracle(name: str, kind: str) -> None:
    session = ReplanSession(planned(name, kind), byte_level(), budget=120, evict_by="recency")
    watch = Watch(session)
    messages = start()
    for number in range(6):
        messages += turn(session.generate(messages, max_new_tokens=NEW).text, number)
    assert max(session.cache.kept_lengths()) <= 120 < session.cache.get_seq_length()
    assert watch.worst_error() < 2e-3


@EACH
@NAMED
def test_edits_are_those_of_a_session_on_the_whole_model_with_identities(name: str, kind: str) -> None:
    plain = deepcopy(shared_model(name))
    session, reference = (ReplanSession(model, byte_level()) for model in (planned(name, kind), plain))
    edits = (
        lambda one: one.evict((25, 30)),
        lambda one: one.splice((30, 50)),
        lambda one: one.forget((50, 60)),
        lambda one: one.correct("The mug 7 is on the shelf 2."),
    )
    messages = start()
    with identities(plain, PLANS[kind]):
        for number, edit in enumerate(edits):
            messages += turn(f"go to shelf {number}", number)
            text = session.generate(messages, max_new_tokens=NEW).text
            assert text == reference.generate(messages, max_new_tokens=NEW).text, number
            assert edit(session) == edit(reference)
        ids = [50, 51, 52]
        rows = []
        for one in (session, reference):
            with one.engine.attached():
                rows.append(one.engine.verify(ids))
    assert np.abs(rows[0] - rows[1]).max() <= 1e-3 * np.abs(rows[1]).max()


@EACH
@NAMED
def test_the_fused_decoder_gives_the_models_logits(name: str, kind: str) -> None:
    model = planned(name, kind)
    assert fused_problem(model) is None
    ids = prompt(40)["input_ids"]
    cache, other = (PrunedCache(UNPRUNED, len(model.model.layers)) for _ in range(2))
    with attach(model, cache), torch.no_grad():
        model(ids[:, :30], past_key_values=cache)
        expected = model(ids[:, 30:], past_key_values=cache).logits[0]
    fused = FusedDecoder(model)
    with attach(model, other), torch.no_grad():
        model(ids[:, :30], past_key_values=other)
    found = fused.read(other, ids[0, 30:].tolist(), 30)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    assert other.kept_lengths() == cache.kept_lengths() and other.kv_bytes() == cache.kv_bytes()


@pytest.mark.parametrize("kind", ["heads", "channels", "all"])
def test_packed_weights(kind: str) -> None:
    """Also of widths that no kernel was made for: its answers are near those of the weights as they are."""
    model = planned("llama", kind)
    ids = prompt(24)["input_ids"][0].tolist()
    rows = []
    for weights in ("same", "int8"):
        rows.append(FusedDecoder(model, weights).read(PrunedCache(UNPRUNED, len(model.model.layers)), ids, 0))
    assert float((rows[0] - rows[1]).norm() / rows[0].norm()) < 0.2
    session = ReplanSession(model, byte_level(), decode_weights="int8")
    assert session.generate(start(), max_new_tokens=NEW).usage.completion_tokens


@pytest.mark.parametrize("padded", [False, True])
@EACH
@NAMED
def test_short_reads_of_several_caches_share_a_pass(name: str, kind: str, padded: bool) -> None:
    model = planned(name, kind)
    fused, ids = FusedDecoder(model), prompt(40)["input_ids"][0].tolist()
    fused.pads = padded  # as on an accelerator
    caches = [PrunedCache(UNPRUNED, len(model.model.layers)) for _ in range(4)]
    alone = [fused.read(cache, ids[: 5 + n], 0) for n, cache in enumerate(caches[:2])]
    together = fused.read_together([Part(cache, ids[: 5 + n], 0) for n, cache in enumerate(caches[2:])])
    for one, other in zip(alone, together, strict=True):
        assert torch.allclose(one, other, atol=1e-4 * float(one.abs().max()))


@pytest.mark.parametrize("kind", ["attention", "blocks", "all"])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_pool_answers_as_its_sessions_alone(name: str, kind: str) -> None:
    model = planned(name, kind)
    chats = [[*start(), *turn("go", number)] for number in range(3)]
    alone = [ReplanSession(model, byte_level()).generate(chat, max_new_tokens=NEW).text for chat in chats]
    pool = ReplanPool(model, byte_level())
    sessions = [pool.session() for _ in chats]
    calls = [(session, chat, {"max_new_tokens": NEW}) for session, chat in zip(sessions, chats, strict=True)]
    found = pool.generate(calls)
    assert [generation.text for generation in found] == alone


@EACH
@NAMED
def test_pruning_at_prefill_equals_the_masked_oracle(name: str, kind: str) -> None:
    model = with_plan(tiny(name), PLANS[kind])
    given = prompt(40)
    for scorer in ("recency", "attention"):
        with prune(model, PruneConfig(scorer, 0.7, (2, 4))) as cache, torch.no_grad():
            found = model(**given, past_key_values=cache).logits
            following = model(given["input_ids"][:, :3], past_key_values=cache).logits
        ids = torch.cat([given["input_ids"], given["input_ids"][:, :3]], 1)
        expected = oracle_logits(model, ids, torch.ones_like(ids), cache)
        limit = 1e-3 * float(expected.abs().max())
        assert torch.allclose(found[:, -1], expected[:, 39], atol=limit)
        assert torch.allclose(following, expected[:, 40:], atol=limit)
        assert max(cache.prompt_kept[4:]) < 40


def test_a_stage_without_attention_before_it_is_refused() -> None:
    model = with_plan(tiny("llama"), LayerPlan(LAYERS, attention=(2, 3)))
    message = "no layer from 2 to 3 has its attention, so that its weights cannot rank tokens at stage 4"
    with pytest.raises(ValueError, match=message), prune(model, PruneConfig("attention", 0.7, (2, 4))):
        pass
    with prune(model, PruneConfig("attention", 0.7, (4,))) as cache, torch.no_grad():  # layer 1 is asked
        model(**prompt(40), past_key_values=cache)
    assert cache.kept_lengths()[4] == 28
    chatting = with_plan(shared_model(), LayerPlan(LAYERS, attention=(2, 3)))
    with pytest.raises(ValueError, match=message):
        ReplanSession(chatting, byte_level(), prune=PruneConfig("attention", 0.7, (2, 4)))


@EACH
def test_a_session_goes_on_when_a_plan_comes_and_goes(kind: str) -> None:
    """It reads again what the model computed before; positions, layers and rotations are then those of the plan."""
    model = deepcopy(shared_model("gemma3"))
    session = ReplanSession(model, byte_level(), budget=120)
    messages = start()
    for number in range(3):
        messages += turn(session.generate(messages, max_new_tokens=NEW).text, number)
    dense = KeyRotator(model)
    applied = apply(model, PLANS[kind])
    for number in range(3, 6):
        messages += turn(session.generate(messages, max_new_tokens=NEW).text, number)
    assert len(session.cache.layouts()) == len(model.model.layers)
    watch = Watch(session)
    session.edits.read_again()
    session.generate(messages, max_new_tokens=NEW)
    assert watch.worst_error() < 2e-3
    keys, shift = torch.randn(1, 2, 3, 16), torch.tensor([1, 2, 3])
    turn_keys, turn_others = KeyRotator(model), KeyRotator(planned("gemma3", kind))
    for layer in filter(session.cache.stores, range(len(model.model.layers))):
        assert torch.equal(turn_keys(layer, keys, shift), turn_others(layer, keys, shift))
    applied.undo()
    for number in range(6, 9):
        messages += turn(session.generate(messages, max_new_tokens=NEW).text, number)
    assert len(session.cache.layouts()) == LAYERS
    for layer in range(LAYERS):
        assert torch.equal(KeyRotator(model)(layer, keys, shift), dense(layer, keys, shift))


@EACH
def test_a_session_saved_with_another_plan_is_refused(kind: str, tmp_path: Path) -> None:
    path, plain = tmp_path / "s.safetensors", tmp_path / "plain.safetensors"
    session = ReplanSession(planned("llama", kind), byte_level())
    messages = start()
    messages += turn(session.generate(messages, max_new_tokens=NEW).text, 1)
    session.read(messages)
    session.save(path)
    again = ReplanSession(planned("llama", kind), byte_level())
    again.restore(path)
    assert again.generate(messages, max_new_tokens=NEW).text == session.generate(messages, max_new_tokens=NEW).text
    dense = ReplanSession(shared_model(), byte_level())
    dense.read(start())
    dense.save(plain)
    for other in (kind_ for kind_ in PLANS if kind_ != kind):
        with pytest.raises(RunError, match=r"s.safetensors: saved (with layer plan sha256|from model)"):
            ReplanSession(planned("llama", other), byte_level()).restore(path)
    with pytest.raises(RunError, match=r"s.safetensors: saved (with layer plan sha256.* without|from model)"):
        ReplanSession(shared_model(), byte_level()).restore(path)
    with pytest.raises(RunError, match=r"plain.safetensors: saved (without a layer plan|from model)"):
        ReplanSession(planned("llama", kind), byte_level()).restore(plain)


def test_a_fork_of_a_session_with_a_plan_goes_on_alone() -> None:
    session = ReplanSession(planned("llama", "all"), byte_level())
    messages = start()
    messages += turn(session.generate(messages, max_new_tokens=NEW).text, 1)
    twin = session.fork()
    assert twin.generate(messages, max_new_tokens=NEW).text == session.generate(messages, max_new_tokens=NEW).text


def test_numbers_of_kept_tokens_stay_whole_numbers() -> None:
    session = ReplanSession(planned("llama", "attention"), byte_level())
    session.read(start())
    assert all(np.issubdtype(indices.dtype, np.integer) for indices in session.engine.stored().groups)
