"""Change of hidden states, ridge and latencies, each against a small case done by hand."""

from __future__ import annotations

import math

import pytest
import torch

from erecap.errors import ConfigError, RunError
from erecap.layers import LayerPlan
from erecap.layers.search import Latencies, SearchOptions, Target
from erecap.layers.search.change import Change
from erecap.layers.search.options import METRICS, OVER
from erecap.layers.search.ridge import Ridge

# Two sequences of two tokens with two channels.
DENSE = torch.tensor([[[3.0, 4.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 2.0]]])
OTHER = torch.tensor([[[3.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 2.0]]])


def root(*squares: float) -> float:
    return math.sqrt(sum(squares))


BY_HAND = {
    ("l1", "token"): (3 / 7 + 0 + 2 / 1 + 0) / 4,
    ("l1", "sentence"): (3 / 8 + 2 / 3) / 2,
    ("l1", "channel"): (1 / 4 + 4 / 7) / 2,
    ("l2", "token"): (3 / 5 + 0 + root(1, 1) / 1 + 0) / 4,
    ("l2", "sentence"): (3 / root(9, 16, 1) + root(1, 1) / root(1, 4)) / 2,
    ("l2", "channel"): (1 / root(9, 1) + root(9, 1) / root(16, 1, 4)) / 2,
    ("cosine", "token"): ((1 - 13 / (5 * root(9, 1))) + 0 + 1 + 0) / 4,
    ("cosine", "sentence"): ((1 - 14 / (root(26) * root(11))) + (1 - 4 / (root(5) * root(5)))) / 2,
    ("cosine", "channel"): ((1 - 9 / (root(10) * 3)) + (1 - 9 / (root(21) * root(1, 1, 1, 4)))) / 2,
}


@pytest.mark.parametrize(("metric", "over"), [(metric, over) for metric in METRICS for over in OVER])
def test_changes_by_hand(metric: str, over: str) -> None:
    whole, parts = Change(metric, over), Change(metric, over)
    whole.add(DENSE, OTHER)
    for number in range(2):
        parts.add(DENSE[number : number + 1], OTHER[number : number + 1])
    assert whole.value() == pytest.approx(BY_HAND[metric, over], abs=1e-12) == parts.value()
    same = Change(metric, over)
    same.add(DENSE, DENSE)
    assert same.value() == pytest.approx(0.0, abs=1e-12)
    zeros = Change(metric, over)
    zeros.add(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))
    assert zeros.value() == 0.0
    broken = Change(metric, over)
    broken.add(DENSE, OTHER / 0)
    assert not math.isfinite(broken.value())


def test_ridge_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    residual = torch.tensor([[2.0, 1.0], [0.0, 1.0], [2.0, 1.0]])
    ridge = Ridge(2, 2, torch.device("cpu"))
    ridge.add(x[:2], residual[:2])
    ridge.add(x[2:], residual[2:])
    # X'X = [[2, 1], [1, 5]], mean diagonal 3.5; X'R = [[2, 2], [4, 3]]
    exact = torch.tensor([[2 * 5 - 4, 2 * 4 - 2], [2 * 5 - 3, 2 * 3 - 2]], dtype=torch.float64) / 9
    assert torch.allclose(ridge.solve(0.0), exact)
    damped = torch.tensor([[9.0, 1.0], [1.0, 12.0]], dtype=torch.float64)  # damping 2: lambda 7
    cross = torch.tensor([[2.0, 2.0], [4.0, 3.0]], dtype=torch.float64)
    assert torch.allclose(ridge.solve(2.0), torch.linalg.inv(damped).mul(1.0).matmul(cross).T)
    # The second output lacks 3, the first 8.
    half = ridge.solve(0.0, 0.5)
    assert torch.allclose(half[0], exact[0]) and not half[1].any()
    few = Ridge(2, 1, torch.device("cpu"))
    few.add(x[:1], residual[:1, :1])
    with pytest.raises(ConfigError, match="--damping: got 0; 1 calibration tokens do not decide 2 inputs"):
        few.solve(0.0)


def test_predicted_latencies_by_hand() -> None:
    found = Latencies(20.0, attention=1.0, mlp=2.0, block=3.5)
    plan = LayerPlan(6, attention=(0, 1), mlp=(2,), blocks=(3,))
    assert found.predicted(plan) == 20 - 2 - 2 - 3.5 and found.speed_up(plan) == 20 / 12.5
    assert found.speed_up(LayerPlan(6)) == 1.0
    whole = LayerPlan(6, blocks=(0, 1, 2, 3, 4), mlp=(5,))
    assert found.predicted(whole) == pytest.approx(20 - 5 * 3.5 - 2)
    assert Latencies(10.0, 1.0, 2.0, 3.0).speed_up(whole) == float("inf")
    assert Latencies.parse(found.as_dict()) == found
    for values in ((20.0, -0.1, 2.0, 3.0), (20.0, 1.0, 0.0, 3.0), (20.0, 1.0, 2.0, 30.0)):
        with pytest.raises(RunError, match=r"latency of one \w+: .* cannot be; measure again with more repetitions"):
            Latencies(*values)


def test_targets() -> None:
    latency = Latencies(20.0, attention=1.0, mlp=1.5, block=2.6)
    for arguments, message in (
        ((None, None), "--sublayers or --speed-up, one of the two"),
        ((1, 1.5), "one of the two"),
        ((0, None), "--sublayers: got 0; allowed: 1 or more"),
        ((None, 1.0), "--speed-up: got 1; allowed: above 1"),
        ((None, float("inf")), "--speed-up: got inf; allowed: above 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            Target(*arguments)
    Target(speed_up=3.6).check(6, latency)  # 20 - 5 * 2.6 - 1.5 = 5.5
    with pytest.raises(ConfigError, match=r"--speed-up: got 3.7; with one attention left it would be 3.64, as embed"):
        Target(speed_up=3.7).check(6, latency)
    Target(11).check(6, None)
    with pytest.raises(ConfigError, match="--sublayers: got 12; allowed: 1 to 11, as one attention is left at least"):
        Target(12).check(6, None)
    assert Target(3).reached(LayerPlan(6, blocks=(1,), mlp=(2,)), None)
    assert not Target(speed_up=1.2).reached(LayerPlan(6, blocks=(1,)), latency)
    assert Target(speed_up=1.14).reached(LayerPlan(6, blocks=(1,)), latency)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "l3"}, "--metric: got 'l3'; allowed: l1, l2, cosine"),
        ({"over": "word"}, "--over: got 'word'; allowed: sentence, token, channel"),
        ({"phase": "train"}, "--phase: got 'train'; allowed: decode, prefill"),
        ({"tune": ("mlp", "mlp")}, "--tune: got 'mlp,mlp'; allowed: none, attention, mlp, or both"),
        ({"tune": ("head",)}, "--tune: got 'head'"),
        ({"ratio": 0.0}, "--ratio: got 0; allowed: above 0 and at most 1"),
        ({"damping": -1.0}, "--damping: got -1; allowed: 0 or more"),
        ({"candidates": 0}, "--candidates: got 0; allowed: 1 or more"),
        ({"checkpoints": -1}, "--checkpoints: got -1; allowed: 0 or more"),
        ({"batch_tokens": 0}, "--batch-tokens: got 0; allowed: 1 or more"),
    ],
)
def test_options_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchOptions(**options)  # type: ignore[arg-type]
