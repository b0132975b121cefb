"""evict, splice, forget and correct, each against its oracle."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from erecap.session import ReplanSession
from erecap.tokens.pruning import prune
from erecap.tokens.scoring.schedule import PruneConfig
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn
from tests.session.oracle import Watch
from tests.tokens.models import ARCHITECTURES

NEW = 6


def played(name: str, turns: int = 3) -> tuple[ReplanSession, list]:
    session = ReplanSession(model(name), byte_level())
    messages = start()
    for number in range(turns):
        session.generate(messages, max_new_tokens=NEW)
        messages += turn(f"go to shelf {number}", number)
    session.generate(messages, max_new_tokens=NEW)
    return session, messages


def next_logits(session: ReplanSession, ids: list[int]) -> torch.Tensor:
    with session.engine.attached():
        return torch.from_numpy(session.engine.verify(ids)[-1])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_evict_is_the_masked_oracle(name: str) -> None:
    session = ReplanSession(model(name), byte_level())
    watch = Watch(session)
    messages = start()
    for number in range(3):
        session.generate(messages, max_new_tokens=NEW)
        messages += turn(f"go to shelf {number}", number)
        assert session.evict((20 + 30 * number, 32 + 30 * number)) == 12
    session.generate(messages, max_new_tokens=NEW)
    assert watch.worst_error() <= 1e-4
    assert session.cache.kept_lengths()[0] == len(session.token_ids) - 36


def unrotated(keys: torch.Tensor, positions: torch.Tensor, rotary, layer_type) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """Keys `(1, heads, n, dim)` turned back to position 0, written out independently of the library."""
    frequencies = getattr(rotary, f"{layer_type}_inv_freq", None)
    frequencies = rotary.inv_freq if frequencies is None else frequencies
    angle = positions.double()[:, None] * frequencies.double()[None]
    half = frequencies.shape[0]
    first, second, rest = keys[..., :half].double(), keys[..., half : 2 * half].double(), keys[..., 2 * half :]
    cos, sin = angle.cos(), angle.sin()
    turned = torch.cat([first * cos + second * sin, second * cos - first * sin], -1)
    return torch.cat([turned, rest.double()], -1)


def rotated(keys: torch.Tensor, positions: torch.Tensor, rotary, layer_type) -> torch.Tensor:  # type: ignore[no-untyped-def]
    return unrotated(keys, -positions, rotary, layer_type).float()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_splice_is_a_stock_cache_with_re_rotated_keys(name: str) -> None:
    session, _ = played(name)
    decoder = session.model.get_decoder()
    total = len(session.token_ids)
    span = (25, 60)
    stock = DynamicCache()
    for number in range(len(session.cache.layers)):
        layer = session.cache.layers[number]
        kind = decoder.config.layer_types[number] if name == "gemma3" else None
        stay = torch.tensor([*range(span[0]), *range(span[1], total)])
        plain = unrotated(layer.keys[:, :, stay], stay, decoder.rotary_emb, kind)
        stock.update(
            rotated(plain, torch.arange(len(stay)), decoder.rotary_emb, kind), layer.values[:, :, stay], number
        )
    assert session.splice(span) == 35
    left = total - 35
    assert session.cache.layout(0).positions[0].tolist() == list(range(left))
    for number, layer in enumerate(session.cache.layers):
        assert (layer.keys - stock.layers[number].keys).abs().max() < 1e-4 * layer.keys.abs().max()
    got = next_logits(session, [50, 51])
    window = model(name).config.sliding_window if name in ("mistral", "gemma3") else None
    if window is None:
        with torch.no_grad():
            expected = session.model(
                torch.tensor([[50, 51]]), past_key_values=stock, position_ids=torch.tensor([[left, left + 1]])
            ).logits[0, -1]
        assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_forget_is_a_fresh_read_of_the_rest_at_its_positions(name: str) -> None:
    session, _ = played(name)
    ids, span = session.token_ids, (30, 55)
    assert session.forget(span) == len(ids) - 55
    got = next_logits(session, [50])
    rest = torch.tensor([[*ids[:30], *ids[55:], 50]])
    places = torch.tensor([[*range(30), *range(55, len(ids) + 1)]])
    masks = {}
    for layer in range(8):
        window = model(name).config.sliding_window if name in ("mistral", "gemma3") else None
        if name == "gemma3" and layer % 3 == 2:
            window = None
        allowed = places[0][None, :] <= places[0][:, None]
        if window is not None:
            allowed = allowed & (places[0][None, :] > places[0][:, None] - window)
        low = torch.finfo(torch.float32).min
        masks[layer] = torch.zeros(1, 1, *allowed.shape).masked_fill(~allowed[None, None], low)
    handles = [
        layer.register_forward_pre_hook(lambda m, a, k, n=n: (a, k | {"attention_mask": masks[n]}), with_kwargs=True)
        for n, layer in enumerate(session.model.get_decoder().layers)
    ]
    try:
        with torch.no_grad():
            expected = session.model(
                rest, position_ids=places, attention_mask=torch.ones_like(rest), use_cache=False
            ).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_calls_go_on_after_every_edit() -> None:
    session, messages = played("llama")
    for number, edit in enumerate(
        [
            lambda: session.evict((25, 30)),
            lambda: session.splice((30, 40)),
            lambda: session.forget((40, 45)),
            lambda: session.correct("The mug 7 is on the shelf 2."),
        ]
    ):
        edit()
        before = session.cache.get_seq_length()
        messages += turn(f"go to shelf {number}", number)
        usage = session.generate(messages, max_new_tokens=NEW).usage
        assert usage.reused_tokens > 100 and session.cache.get_seq_length() >= before - NEW
        assert len(session.token_ids) == session.cache.get_seq_length()


def test_a_correction_is_seen_and_skipped_by_matching() -> None:
    session, messages = played("llama")
    twin, _ = played("llama")
    messages += turn("go to shelf 9", 9)
    session.correct("The fridge 1 is broken.")
    assert "Correction: The fridge 1 is broken." in byte_level().decode(session.token_ids)
    watch = Watch(session)
    corrected = session.generate(messages, max_new_tokens=1)
    twin_watch = Watch(twin)
    twin.generate(messages, max_new_tokens=1)
    assert corrected.usage.reused_tokens > 100
    last, twin_last = watch.logits[max(watch.logits)], twin_watch.logits[max(twin_watch.logits)]
    assert (last - twin_last).abs().max() > 1e-3 * last.abs().max()


@pytest.mark.parametrize("span", [(-1, 3), (5, 4), (0, 10_000)])
@pytest.mark.parametrize("edit", ["evict", "splice", "forget"])
def test_bad_spans(edit: str, span: tuple) -> None:
    session = ReplanSession(model(), byte_level())
    session.generate(start(), max_new_tokens=2)
    with pytest.raises(ValueError, match="lies outside"):
        getattr(session, edit)(span)


def test_an_empty_correction() -> None:
    with pytest.raises(ValueError, match="needs a text"):
        ReplanSession(model(), byte_level()).correct("  ")


def test_an_episode_outlives_the_window() -> None:
    from erecap.budget import Budget

    session = ReplanSession(model("llama", 400), byte_level(), budget=Budget(kv_tokens=200))
    messages = start()
    for number in range(12):
        generation = session.generate(messages, max_new_tokens=NEW)
        messages += turn(generation.text, number)
    assert session.cache.get_seq_length() > 480
    assert max(int(session.cache.layout(n).positions.max()) for n in range(8)) < 400
    assert generation.usage.overflow_messages == 0 and max(session.cache.kept_lengths()) <= 200


def test_a_rope_that_depends_on_length_is_spliced_within_its_switch() -> None:
    from erecap.engines.rotate_keys import KeyRotator
    from tests.tokens.test_traps import _longrope

    phi3, ids = _longrope(), torch.arange(3, 13).unsqueeze(0)
    read = {}
    for begin in (0, 20):  # the switch is at 32
        with prune(phi3, PruneConfig(keep=1.0, stages=())) as cache, torch.no_grad():
            phi3(ids, position_ids=torch.arange(begin, begin + 10).unsqueeze(0), past_key_values=cache)
        read[begin] = [layer.keys for layer in cache.layers]
    for number, (old, new) in enumerate(zip(read[0], read[20], strict=True)):
        turned = KeyRotator(phi3)(number, old, torch.full((10,), 20))
        assert (turned - new).abs().max() <= 1e-3 * new.abs().max()


def test_forgetting_after_a_splice_reads_on_behind_what_is_stored() -> None:
    session, messages = played("llama")
    session.splice((20, 35))
    session.forget((40, 50))
    positions = session.cache.layout(0).positions[0].tolist()
    assert positions == list(range(len(positions)))
    messages += turn("go to shelf 5", 5)
    assert session.generate(messages, max_new_tokens=NEW).usage.reused_tokens > 100


def test_forgetting_what_no_longer_fits_changes_nothing() -> None:
    from erecap.budget import Budget
    from erecap.errors import BudgetError

    session = ReplanSession(model("llama", 400), byte_level(), budget=Budget(kv_tokens=200))
    messages = start()
    for number in range(12):
        messages += turn(session.generate(messages, max_new_tokens=NEW).text, number)
    before = (session.token_ids, session.cache.kept_lengths(), session.cache.get_seq_length())
    with pytest.raises(BudgetError, match="window of 400"):
        session.forget((1, 5))
    assert (session.token_ids, session.cache.kept_lengths(), session.cache.get_seq_length()) == before


def test_a_failure_while_forgetting_goes_back_to_what_is_whole() -> None:
    session, messages = played("llama")
    forward = session.engine.forward
    session.engine.forward = lambda ids, keep: (_ for _ in ()).throw(MemoryError("planted"))
    with pytest.raises(MemoryError):
        session.forget((30, 55))
    session.engine.forward = forward
    assert session.cache.get_seq_length() == len(session.token_ids) <= 30
    fresh = ReplanSession(model("llama"), byte_level())
    messages += turn("go to shelf 5", 5)
    assert session.generate(messages, max_new_tokens=NEW).text == fresh.generate(messages, max_new_tokens=NEW).text


def test_evicted_tokens_are_right_after_every_edit(tmp_path) -> None:  # type: ignore[no-untyped-def]
    session, messages = played("llama")
    assert session.evicted_tokens == 0
    session.evict((20, 32))
    assert session.evicted_tokens == 12
    session.evict((28, 40))  # eight of these are still stored
    assert session.evicted_tokens == 20
    session.splice((50, 55))
    assert session.evicted_tokens == 25
    twin = session.fork()
    session.save(tmp_path / "agent.safetensors")
    restored = ReplanSession(model("llama"), byte_level())
    restored.restore(tmp_path / "agent.safetensors")
    assert twin.evicted_tokens == restored.evicted_tokens == 25
    twin.evict((60, 70))
    assert (twin.evicted_tokens, session.evicted_tokens) == (35, 25)
    restored.generate([*messages, *turn("look", 9)], max_new_tokens=NEW)
    assert restored.evicted_tokens == 25
    session.forget((10, 30))  # what came after it is read again: what was evicted there is stored once more
    assert session.evicted_tokens == 20
    session.read(messages[:2])  # the chat is rewritten from where something was evicted
    assert session.evicted_tokens == 20
    session.close()
    assert session.evicted_tokens == 0


def test_evicted_tokens_of_a_chat_that_goes_back_are_gone_with_it() -> None:
    session, messages = played("llama")
    end = len(session.token_ids)
    session.evict((end - 20, end - 10))
    assert session.evicted_tokens == 10
    session.read(messages[:2])
    assert session.evicted_tokens == 0


def test_tokens_that_pruning_drops_are_not_evicted() -> None:
    session = ReplanSession(model("llama"), byte_level(), prune=PruneConfig("recency", 0.5, (2,)))
    session.generate([*start(), *turn("look", 1)], max_new_tokens=NEW)
    kept = session.cache.kept_lengths()
    assert min(kept) < max(kept) and session.evicted_tokens == 0
