"""Counts, stages and scorers, as numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import erecap
from erecap.config.run import PruneSettings
from erecap.protocols import ScoreContext
from erecap.registries import SINKS
from erecap.tokens import PruneConfig, prune, scheduled_counts, stage_count
from erecap.tokens.scoring.scorers import RandomScorer
from erecap.tokens.scoring.select import choose, protected_bound, protected_mask
from tests.tokens.models import LAYERS, padded, prompt, tiny


@pytest.mark.parametrize(("layers", "expected"), [(28, (4, 7, 10, 13, 16, 19, 22, 25)), (8, (4,)), (7, (4,))])
def test_default_stages(layers: int, expected: tuple[int, ...]) -> None:
    assert PruneConfig().resolve_stages(layers) == expected


def test_no_stage_is_an_error_unless_everything_is_kept() -> None:
    with pytest.raises(ValueError, match="no layer drops tokens"):
        PruneConfig(keep=0.7).resolve_stages(6)
    with pytest.raises(ValueError, match="no layer drops tokens"):
        PruneConfig(keep=0.7, stages=()).resolve_stages(30)
    assert PruneConfig(keep=1.0).resolve_stages(6) == ()


@pytest.mark.parametrize(
    "bad",
    [{"keep": 0.0}, {"keep": 1.1}, {"local": -0.1}, {"local": 2}, {"sinks": -1}, {"stages": (0, 3)},
     {"stages": (5, 3)}, {"stages": (3, 3)}, {"scorer": "saliency"}],
)  # fmt: skip
def test_bad_values_say_what_is_allowed(bad: dict) -> None:
    with pytest.raises(ValueError, match=str(next(iter(bad)))):
        PruneConfig(**bad)


def test_a_stage_beyond_the_model() -> None:
    with pytest.raises(ValueError, match="layers 0 to 7"):
        with prune(tiny("llama"), PruneConfig(stages=(4, 8))):
            pass


def test_sinks_are_as_many_wherever_nobody_says_how_many() -> None:
    assert PruneConfig().sinks == PruneSettings().sinks == SINKS
    defined = [path for path in Path(erecap.__file__).parent.rglob("*.py") if "\nSINKS = " in path.read_text("utf-8")]
    assert [path.name for path in defined] == ["registries.py"]


def test_presets() -> None:
    assert [PruneConfig.preset(name).keep for name in ("keep09", "keep08", "keep07")] == [0.9, 0.8, 0.7]
    assert PruneConfig.preset("keep08", scorer="random").scorer == "random"
    with pytest.raises(ValueError, match="keep07"):
        PruneConfig.preset("keep06")


@given(st.integers(1, 20_000), st.integers(1, 100), st.integers(0, 300))
def test_stage_count_is_the_ceiling_within_bounds(tokens: int, percent: int, protected: int) -> None:
    count = stage_count(tokens, percent / 100, min(protected, tokens))
    exact = math.ceil(tokens * percent / 100) if (tokens * percent) % 100 else tokens * percent // 100
    assert count == max(exact, min(protected, tokens), 1)


@pytest.mark.parametrize("tokens", [23, 40, 101])
@pytest.mark.parametrize("keep", [0.5, 0.7, 0.9])
def test_counts_after_each_stage_are_those_of_the_schedule(tokens: int, keep: float) -> None:
    stages = (2, 4, 6)
    with (
        prune(tiny("llama"), PruneConfig("random", keep, stages, sinks=0, local=0.0)) as cache,
        torch.no_grad(),
    ):
        tiny("llama")(**prompt(tokens), past_key_values=cache)
    expected = scheduled_counts(tokens, LAYERS, stages, keep)
    assert cache.prompt_kept == cache.kept_lengths() == expected
    assert [counts for _, counts in cache.stage_log] == [[expected[layer]] for layer in stages]
    # The list is still there when the context has closed.
    assert cache.kept_lengths() == expected


def test_rows_of_a_padded_batch_keep_their_own_counts() -> None:
    stages = (3, 5)
    with (
        prune(tiny("qwen2"), PruneConfig("attention", 0.6, stages, sinks=2, local=0.0)) as cache,
        torch.no_grad(),
    ):
        tiny("qwen2")(**padded((40, 31, 22)), past_key_values=cache)
    for row, tokens in enumerate((40, 31, 22)):
        assert cache.kept_lengths(row) == scheduled_counts(tokens, LAYERS, stages, 0.6)


def test_protected_tokens_survive_every_stage_and_hold_the_count_up() -> None:
    with (
        prune(
            tiny("llama"), PruneConfig("random", 0.3, (1, 2, 3, 4, 5), sinks=4, local=0.1), protect=[(10, 25)]
        ) as cache,
        torch.no_grad(),
    ):
        tiny("llama")(**prompt(40), past_key_values=cache)
    kept = set(cache.layout(LAYERS - 1).index[0].tolist())
    assert set(range(4)) | set(range(10, 25)) | {39} <= kept
    assert len(kept) <= 4 + 15 + 3


@given(st.data())
def test_choose_keeps_protected_in_order_and_exact(data: st.DataObject) -> None:
    rows, tokens = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 30))
    seed = data.draw(st.integers(0, 10_000))
    keep = data.draw(st.floats(0.05, 1.0))
    generator = torch.Generator().manual_seed(seed)
    pads = [data.draw(st.integers(0, tokens - 1)) for _ in range(rows)]
    valid = torch.stack([torch.arange(tokens) >= p for p in pads])
    index = torch.arange(tokens).expand(rows, -1)
    scores = torch.randint(0, 4, (rows, tokens), generator=generator).float()  # many ties
    protected = protected_mask(index, valid, torch.tensor(pads).unsqueeze(1), sinks=2, local=0.1, spans=None)
    select, real, whole = choose(scores, valid, protected, keep)
    assert whole <= bool(real.all())  # never claimed where it is not so
    most = protected_bound(tokens, 2, 0.1, 0)
    assert int(protected.sum(1).max()) <= most
    told = choose(scores, valid, protected, keep, whole=not any(pads), most=most)
    assert torch.equal(told[0], select) and torch.equal(told[1], real) and told[2] == whole
    for row in range(rows):
        columns = select[row].tolist()
        assert columns == sorted(set(columns))
        kept = {c for c, r in zip(columns, real[row].tolist(), strict=True) if r}
        assert len(kept) == stage_count(tokens - pads[row], keep, int(protected[row].sum()))
        assert set(torch.nonzero(protected[row]).flatten().tolist()) <= kept
        assert all(c >= pads[row] for c in kept)
        dropped = [c for c in range(pads[row], tokens) if c not in kept]
        open_kept = [c for c in kept if not protected[row, c]]
        if dropped and open_kept:
            # No dropped token outranks a kept one; among equals the newer wins.
            worst = min(open_kept, key=lambda c: (scores[row, c].item(), c))
            best = max(dropped, key=lambda c: (scores[row, c].item(), c))
            assert (scores[row, worst].item(), worst) > (scores[row, best].item(), best)


def test_random_scores_belong_to_the_token_not_to_the_chunk() -> None:
    index = torch.arange(500).unsqueeze(0)

    def scores(part: torch.Tensor, layer: int = 4, seed: int = 0) -> torch.Tensor:
        ctx = ScoreContext(part, part, torch.ones_like(part, dtype=torch.bool), seed, None)
        return RandomScorer().score(layer, torch.empty(1, part.shape[1], 8), ctx)

    whole = scores(index)
    assert torch.equal(whole, torch.cat([scores(index[:, :123]), scores(index[:, 123:])], 1))
    assert not torch.equal(whole, scores(index, layer=7)) and not torch.equal(whole, scores(index, seed=1))
    assert whole.min() >= 0 and whole.max() < 1 and abs(whole.mean() - 0.5) < 0.05
    assert abs(torch.corrcoef(torch.cat([whole, scores(index, layer=7)]))[0, 1]) < 0.15


def test_a_scorer_of_ones_own() -> None:
    class Longest:
        needs_attention = False

        def score(self, layer, hidden, ctx):  # type: ignore[no-untyped-def]
            return hidden.norm(dim=-1)

    with prune(tiny("llama"), PruneConfig(Longest(), 0.5, (3,))) as cache, torch.no_grad():
        tiny("llama")(**prompt(40), past_key_values=cache)
    assert cache.prompt_kept == [40, 40, 40] + [20] * 5


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        (lambda h: h.mean(-1) * float("nan"), FloatingPointError, "non-finite score at layer 3"),
        (lambda h: h.mean(-1)[:, :-1], ValueError, r"wanted \(batch, tokens\)"),
    ],
)
def test_bad_scores_stop_where_they_appear(scores, error, message) -> None:  # type: ignore[no-untyped-def]
    class Bad:
        needs_attention = False

        def score(self, layer, hidden, ctx):  # type: ignore[no-untyped-def]
            return scores(hidden)

    with prune(tiny("llama"), PruneConfig(Bad(), 0.5, (3,))) as cache, torch.no_grad():
        with pytest.raises(error, match=message):
            tiny("llama")(**prompt(40), past_key_values=cache)
    assert cache.get_seq_length() == 0 and cache.kept_lengths() == [0] * LAYERS


def test_not_a_scorer() -> None:
    with pytest.raises(TypeError, match="needs_attention"):
        with prune(tiny("llama"), PruneConfig(scorer=object())):  # type: ignore[arg-type]
            pass
