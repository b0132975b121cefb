"""Stages read nothing from the device, so that the host runs ahead of it; their errors and times are looked at later.

Tensors on torch's `meta` device have shapes and no values: whatever asks for a value fails there.
"""

from __future__ import annotations

import pytest
import torch

from erecap.tokens import hooks
from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.clock import StageClock
from erecap.tokens.pruning import attach
from erecap.tokens.scoring.schedule import PruneConfig
from tests.tokens.models import LAYERS, prompt, tiny

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")


class Broken:
    """A scorer whose scores are not finite at one layer."""

    needs_attention = False

    def score(self, layer: int, hidden: torch.Tensor, ctx: object) -> torch.Tensor:
        return hidden.mean(-1) * (float("nan") if layer == 4 else 1.0)


@pytest.mark.parametrize("scorer", ["recency", "random"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_stage_reads_nothing_from_the_device(scorer: str, batch: int) -> None:
    cache = PrunedCache(PruneConfig(scorer, 0.5, (2, 4)), LAYERS, protect=[(6, 10)])
    reading = cache.begin(torch.arange(80, device="meta").unsqueeze(0), None, batch)
    hidden = torch.empty(batch, 80, 16, device="meta")
    for layer, kept in ((2, 40), (4, 20)):
        hidden = hooks._drop(cache, layer, hidden)
        assert hidden.shape == (batch, kept, 16) and reading.live.all_valid
    assert cache.stage_log == [(2, [40] * batch), (4, [20] * batch)] and len(reading.doubts) == 2


def test_where_protected_tokens_may_exceed_the_share_they_are_counted() -> None:
    cache = PrunedCache(PruneConfig("recency", 0.5, (2,)), LAYERS, protect=[(0, 39)])
    cache.begin(torch.arange(80, device="meta").unsqueeze(0), None, 1)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        hooks._drop(cache, 2, torch.empty(1, 80, 16, device="meta"))


def test_an_error_is_raised_where_it_is_born_on_a_cpu_and_when_the_read_ends_elsewhere(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    model, words = tiny("llama"), "Broken gave a non-finite score at layer 4"
    ran: list[int] = []
    marks = [
        layer.register_forward_hook(lambda *_, n=n: ran.append(n)) for n, layer in enumerate(model.get_decoder().layers)
    ]
    for later, layers in ((False, 4), (True, LAYERS)):
        monkeypatch.setattr(hooks, "late", lambda hidden, later=later: later)
        cache = PrunedCache(PruneConfig(Broken(), 0.5, (2, 4)), LAYERS)
        ran.clear()
        with attach(model, cache), torch.no_grad(), pytest.raises(FloatingPointError, match=words):
            model(**prompt(40), past_key_values=cache)
        assert len(ran) == layers
        # Nothing of the read is left.
        assert cache.get_seq_length() == 0 and cache.kv_bytes() == 0 and cache.reading is None
    for mark in marks:
        mark.remove()


def test_what_ends_with_an_error_takes_no_time() -> None:
    clock = StageClock()
    with pytest.raises(ValueError), clock.running(torch.device("cpu")):
        raise ValueError
    assert clock.seconds == 0
    with clock.running(torch.device("cpu")):
        pass
    once = clock.seconds
    assert once > 0 and clock.seconds == once


@CUDA
def test_an_accelerator_is_not_waited_for() -> None:
    cache = PrunedCache(PruneConfig("recency", 0.5, (2, 4)), LAYERS)
    cache.begin(torch.arange(80, device="cuda").unsqueeze(0), None, 1)
    hidden = torch.zeros(1, 80, 16, device="cuda")
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for layer in (2, 4):
            with cache.clock.running(hidden.device):
                hidden = hooks._drop(cache, layer, hidden)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    cache.finish()
    assert 0 < cache.prune_seconds == cache.prune_seconds
