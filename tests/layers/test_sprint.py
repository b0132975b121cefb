"""SPRINT: scores, tuned weights and activation checkpoints."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from erecap.errors import ModelError
from erecap.layers import LayerPlan
from erecap.layers.search import Latencies, Search, SearchOptions, Step, Sublayer
from erecap.layers.search.sprint import sprint
from tests.layers.plans import identities, logits, own
from tests.layers.search_models import planted, search_of, sequences
from tests.tokens.models import ARCHITECTURES, LAYERS

ROWS = sequences(6, 16)


def made(search: Search, count: int) -> list[Step]:
    for step in islice(sprint(search), count):
        search.add(step)
    return search.steps


def hidden(model, ids, layer: int) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """Hidden states behind a layer."""
    seen = []
    handle = model.get_decoder().layers[layer].register_forward_hook(lambda m, a, out: seen.append(out))
    logits(model, torch.tensor(ids), use_cache=False)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scores_by_hand(name: str) -> None:
    """The relative change behind the next MLP that is left, over the latency."""
    model = own(name)
    search = search_of(model, ids=ROWS, tune=())
    first, second = made(search, 2)
    for step, out in ((first, ()), (second, first.removed)):
        live = [Sublayer(n, kind) for n in range(LAYERS) for kind in ("attention", "mlp")]
        live = [one for one in live if one not in out]
        found = {Sublayer.parse(one): score for one, score in step.notes["scores"].items()}
        assert set(found) == set(live)
        for one in live[:2] + live[-2:]:
            anchor = next((o for o in live if o > one and o.kind == "mlp"), Sublayer(LAYERS - 1, "mlp")).layer
            gone = [*out, one]
            plan = LayerPlan(
                LAYERS,
                attention=tuple(o.layer for o in gone if o.kind == "attention"),
                mlp=tuple(o.layer for o in gone if o.kind == "mlp"),
            )
            dense = hidden(model, ROWS, anchor)
            with identities(model, plan):
                changed = hidden(model, ROWS, anchor)
            expected = ((changed - dense).norm(dim=-1) / dense.norm(dim=-1)).mean()
            assert found[one] == pytest.approx(float(expected), rel=1e-4), str(one)
        latency = {"attention": 0.5, "mlp": 0.4}
        best = min(found, key=lambda one: found[one] / latency[one.kind])
        assert step.removed == (best,) and step.score == pytest.approx(found[best] / latency[best.kind])
    blind = made(search_of(model, ids=ROWS, tune=(), latency_aware=False), 1)[0]
    assert blind.notes["scores"] == first.notes["scores"]
    assert blind.score == min(first.notes["scores"].values()) == first.notes["scores"][str(blind.removed[0])]


def test_the_latency_decides_between_equals() -> None:
    model = planted(attention=False, mlp=False)
    ids = {"batch_tokens": 32, "tune": ()}
    found = []
    for attention, mlp in ((0.001, 1.0), (1.0, 0.001)):
        search = Search(model, ROWS, {"decode": Latencies(20.0, attention, mlp, 1.1)}, SearchOptions(**ids))  # type: ignore[arg-type]
        found.append(made(search, 1)[0].removed[0].kind)
    assert found == ["mlp", "attention"]


@pytest.mark.parametrize("tune", [("mlp",), ("attention",), ("attention", "mlp")])
def test_tuning_lowers_the_change_and_is_what_it_says(tune: tuple[str, ...]) -> None:
    model = own()
    search = search_of(model, ids=ROWS, tune=tune, damping=1e-3, candidates=8)
    (step,) = made(search, 1)
    scores, tuned = step.notes["scores"], step.notes["tuned"]
    assert tuned and all(tuned[one] < scores[one] for one in tuned)
    kinds = {name.split(".")[2] for name in step.tuned}
    assert kinds <= {{"mlp": "mlp", "attention": "self_attn"}[kind] for kind in tune} and len(step.tuned) == 1
    # The weight is the ridge's: the dense hidden states behind it, seen from what is left.
    (name,) = step.tuned
    if name.endswith("down_proj.weight"):
        layer = int(name.split(".")[1])
        wanted = hidden(model, ROWS, layer)
        found = hidden(search.thin, ROWS, layer)
        change = ((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).mean()
        assert float(change) == pytest.approx(tuned[str(step.removed[0])], rel=1e-3)


@pytest.mark.parametrize("over", ["token", "sentence", "channel"])
def test_least_squares_weigh_errors_as_the_metric_does(over: str) -> None:
    """At the solution, no change of the weight would lower the sum of squared relative errors: the gradient is zero."""
    model = own()
    search = search_of(model, ids=ROWS, over=over, damping=1e-7, candidates=16)
    (step,) = made(search, 1)
    ((name, weight),) = step.tuned.items()
    layer = int(name.split(".")[1])
    projection = search.thin.get_decoder().layers[layer].mlp.down_proj
    inputs: list[torch.Tensor] = []
    handle = projection.register_forward_pre_hook(lambda module, args: inputs.append(args[0].double()))
    wanted, after = hidden(model, ROWS, layer).double(), hidden(search.thin, ROWS, layer).double()
    projection.weight = model.get_decoder().layers[layer].mlp.down_proj.weight
    before = hidden(search.thin, ROWS, layer).double()
    handle.remove()
    lengths = {
        "token": wanted.norm(dim=2, keepdim=True),
        "sentence": wanted.flatten(1).norm(dim=1)[:, None, None],
        "channel": torch.ones(1, 1, 1),
    }[over]
    gradients = [
        torch.einsum("bti,bto->io", inputs[0] / lengths, (wanted - found) / lengths) for found in (before, after)
    ]
    assert float(gradients[1].norm()) < 1e-3 * float(gradients[0].norm()) and not torch.equal(weight, projection.weight)


def test_worse_weights_are_not_taken() -> None:
    """On bfloat16 and with a ridge that hardly moves, a weight may round to one that is no better."""
    model = own()
    (step,) = made(search_of(model, ids=ROWS, damping=1e30), 1)
    scores, tuned = step.notes["scores"], step.notes["tuned"]
    assert all(tuned[one] == pytest.approx(scores[one]) for one in tuned)
    assert step.tuned == {} or tuned[str(step.removed[0])] < scores[str(step.removed[0])]
    assert step.score <= min(scores.values()) / 0.4


def test_a_share_of_the_channels_is_tuned() -> None:
    model = own()
    (step,) = made(search_of(model, ids=ROWS, ratio=0.25), 1)
    ((name, weight),) = step.tuned.items()
    old = model.get_decoder().layers[int(name.split(".")[1])].mlp.down_proj.weight
    changed = (weight != old).any(1)
    assert int(changed.sum()) == 8 and len(old) == 32


@pytest.mark.parametrize("tune", [(), ("attention", "mlp")])
def test_checkpoints_change_no_bit_and_save_work(tune: tuple[str, ...]) -> None:
    found, work = [], []
    for checkpoints in (0, 3, 8):
        search = search_of(own(), ids=ROWS, tune=tune, checkpoints=checkpoints)
        steps = made(search, 4)
        found.append([(step.removed, step.score, step.notes) for step in steps])
        assert len({step.removed for step in steps}) == 4
        work.append(search.passes)
        tuned = {name: tensor for step in steps for name, tensor in step.tuned.items()}
        assert bool(tuned) == bool(tune)
    assert found[0] == found[1] == found[2] and work[2] < work[1] < work[0]


def test_scores_that_still_hold_are_not_computed_again() -> None:
    search = search_of(own(), ids=ROWS, tune=())
    evaluations = []
    for step in islice(sprint(search), 6):
        before = len(search.live())
        evaluations.append(search.evaluations - sum(evaluations))
        search.add(step)
        assert evaluations[-1] <= before
    assert evaluations[0] == 16 and sum(evaluations[1:]) < sum(range(11, 16))


def test_models_that_cannot_be_tuned_are_told() -> None:
    with pytest.raises(
        ModelError, match=r"Gemma3ForCausalLM changes the output of its mlp before it is added.*--tune none"
    ):
        next(sprint(search_of(own("gemma3"))))
    model = own()
    model.model.layers[0].mlp.down_proj = torch.nn.Sequential(model.model.layers[0].mlp.down_proj)
    with pytest.raises(
        ModelError, match=r"0.mlp has no plain linear down_proj, so it cannot be tuned; use --tune none"
    ):
        next(sprint(search_of(model)))
