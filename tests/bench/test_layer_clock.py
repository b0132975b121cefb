"""Times of several models in turn, and the latencies of sublayers that follow from them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from erecap.bench.layer_clock import TURN, LayerClock, Times, clock, latencies_of, measure_latencies
from erecap.errors import ConfigError, RunError
from erecap.layers import plan_of
from tests.layers.plans import own
from tests.session.chats import model
from tests.tokens.models import LAYERS

IDS = list(range(3, 43))


def test_latencies_by_hand() -> None:
    whole = Times([100.0, 120.0, 104.0], [10.0, 10.2, 16.0, 10.1])
    without = {
        "attention": Times([96.0, 117.0, 99.0], [9.0, 9.4, 14.0, 9.1]),  # saves 4, 3, 5; 1, 0.8, 2, 1
        "mlp": Times([94.0, 114.0, 98.0], [9.6, 9.8, 15.6, 9.7]),
        "block": Times([90.0, 110.0, 94.0], [8.4, 8.6, 14.4, 8.5]),
    }
    found = latencies_of(whole, without, 2, {"tokens": 40})
    prefill, decode = found["prefill"], found["decode"]
    assert (prefill.dense, prefill.attention, prefill.mlp, prefill.block) == (104.0, 2.0, 3.0, 5.0)
    assert decode.dense == pytest.approx(10.15) and decode.attention == pytest.approx(0.5)
    assert decode.mlp == pytest.approx(0.2) and decode.block == pytest.approx(0.8) and decode.about == {"tokens": 40}
    assert whole.speed_up(without["block"], "prefill") == pytest.approx(104 / 94)
    with pytest.raises(RunError, match=r"latency of one attention: 0 ms of 10.15 cannot be; measure again with more"):
        latencies_of(whole, {**without, "attention": whole}, 2, {})


@pytest.mark.parametrize("batch", [1, 3])
def test_models_are_timed_in_turn(batch: int) -> None:
    said: list[str] = []
    settings = LayerClock(tokens=40, decoded=TURN + 1, repetitions=3, batch=batch)
    models, turns = [model(), own()], []
    hooks = [
        one.model.embed_tokens.register_forward_pre_hook(lambda *_, number=number: turns.append(number))
        for number, one in enumerate(models)
    ]
    try:
        found = clock(models, IDS, settings, said.append)
    finally:
        for hook in hooks:  # other tests share the model
            hook.remove()
    expected = []
    for order in ([0, 1], [1, 0], [0, 1], [1, 0]):  # both read, both decode some, both decode the rest
        expected += [*order, *(number for number in order for _ in range(TURN)), *order]
    assert turns[-len(expected) :] == expected
    assert [len(times.prefill) for times in found] == [3, 3] and [len(times.decode) for times in found] == [6, 6]
    assert all(spent > 0 for times in found for spent in (*times.prefill, *times.decode))
    assert [prefill for prefill, _ in found[0].rounds(TURN + 1)] == found[0].prefill
    assert found[0].rounds(TURN + 1)[1][1] == (TURN * found[0].decode[2] + found[0].decode[3]) / (TURN + 1)
    assert said[0] == "warmed up" and said[-1] == "timed 3 of 3 rounds" and all(a != b for a, b in pairwise(said))


def test_what_cannot_be_timed() -> None:
    for name in ("tokens", "decoded", "repetitions", "batch"):
        with pytest.raises(ConfigError, match=f"clock {name}: got 0; allowed: 1 or more"):
            LayerClock(**{name: 0})
    with pytest.raises(ConfigError, match="clock weights: got int8 with batch 2; allowed: same, or batch 1"):
        LayerClock(batch=2, weights="int8")
    with pytest.raises(ConfigError, match="40 tokens and 500 decoded ones pass the window of 512"):
        clock([own()], IDS, LayerClock(decoded=500))
    single = own()
    single.config.num_hidden_layers = 1
    with pytest.raises(ConfigError, match="a model of one layer has none to leave out"):
        measure_latencies(single, IDS, LayerClock())


def test_a_model_is_timed_whole_and_with_a_quarter_left_out() -> None:
    timed = own()
    try:
        found = measure_latencies(timed, IDS, LayerClock(40, 4, 3))
    except RunError as error:  # what a tiny layer takes may drown in the noise of this machine, and that is told
        assert "measure again with more repetitions" in str(error)
    else:
        assert set(found) == {"decode", "prefill"}
        assert found["decode"].about["left_out"] == [2, 6] and found["decode"].about["tokens"] == 40
    assert plan_of(timed) is None and len(timed.model.layers) == LAYERS
