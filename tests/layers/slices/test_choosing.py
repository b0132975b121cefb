"""Shares of a model, counted by hand."""

from __future__ import annotations

import re

import pytest

from erecap.errors import ConfigError
from erecap.layers.slices.choosing import blocks_of, choose
from erecap.layers.slices.settings import SliceSettings

# The embedded model: 30 layers of 3 KV groups. Layer n's groups cost n, n + 0.25 and n + 0.5.
GROUPS = {layer: [layer, layer + 0.25, layer + 0.5] for layer in range(30)}
ONES = {layer: [1, 1, 1] for layer in range(30)}


def test_whole_groups_meet_the_share_over_the_whole_model() -> None:
    for ratio, groups in ((0.1, 9), (0.2, 18), (0.3, 27), (0.35, 31)):  # of 90; 31.5 groups round to 31
        for spread in ("global", "uniform"):
            assert sum(choose(GROUPS, ONES, ratio, spread, "heads", "KV groups").values()) == groups


def test_global_takes_the_cheapest_and_leaves_each_layer_its_last() -> None:
    # Two of each of the first four layers, then the cheapest of the fifth: its third group cost less than the sixth's.
    assert choose(GROUPS, ONES, 0.1, "global", "heads", "") == {0: 2, 1: 2, 2: 2, 3: 2, 4: 1}


def test_uniform_takes_one_of_each_layer_before_a_second_of_any() -> None:
    assert choose(GROUPS, ONES, 0.1, "uniform", "heads", "") == dict.fromkeys(range(9), 1)
    assert choose(GROUPS, ONES, 0.4, "uniform", "heads", "") == {
        **dict.fromkeys(range(6), 2),
        **dict.fromkeys(range(6, 30), 1),
    }


def test_channels_go_in_steps_that_leave_a_multiple() -> None:
    assert blocks_of(1536, 32) == [32] * 48
    assert blocks_of(100, 32) == [4, 32, 32, 32]
    assert blocks_of(20, 32) == [20]  # cannot go
    assert blocks_of(5, 1) == [1] * 5
    sizes = {layer: blocks_of(1536, 32) for layer in range(30)}
    costs = {layer: [float(layer)] * 48 for layer in range(30)}
    lost = choose(costs, sizes, 0.2, "uniform", "channels", "channels")
    # 0.2 of 48 blocks are 9.6: 288 of 1,440 go, 9 of each layer and a tenth of 18 of them.
    assert sum(lost.values()) == 288 and sorted(lost.values()) == [9] * 12 + [10] * 18
    assert [layer for layer, blocks in lost.items() if blocks == 10] == list(range(18))


def test_a_layer_with_one_group_keeps_it() -> None:
    with pytest.raises(ConfigError, match=r"heads 0\.5: each layer keeps some, so at most 0 of 2 KV groups can go"):
        choose({0: [1.0], 1: [1.0]}, {0: [1], 1: [1]}, 0.5, "global", "heads", "KV groups")


def test_layers_of_different_width_lose_the_same_share() -> None:
    lost = choose({0: [1.0] * 4, 1: [1.0] * 8}, {0: [1] * 4, 1: [1] * 8}, 0.5, "uniform", "channels", "")
    assert lost == {0: 2, 1: 4}


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        (0.005, "heads 0.005: none of 90 KV groups would go; allowed: above 0.00556"),
        (0.7, "heads 0.7: each layer keeps some, so at most 60 of 90 KV groups can go; allowed: to 0.667"),
    ],
)
def test_shares_that_cannot_be_met(ratio: float, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        choose(GROUPS, ONES, ratio, "global", "heads", "KV groups")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "slice: nothing goes; give heads, channels or two-four"),
        ({"heads": 1.0}, "heads: got 1.0; allowed: a share from 0 to below 1"),
        ({"channels": float("nan")}, "channels: got nan"),
        ({"heads": -0.1}, "heads: got -0.1"),
        ({"heads": 0.1, "importance": "luck"}, "importance: got 'luck'; allowed: activation, output, weights"),
        ({"heads": 0.1, "spread": "here"}, "spread: got 'here'; allowed: global, uniform"),
        ({"heads": 0.1, "reconstruct": "glue"}, "reconstruct: got 'glue'; allowed: none, gain, channel-gain, least-"),
        ({"channels": 0.1, "multiple": 0}, "multiple: got 0; allowed: 1 or more"),
        ({"channels": 0.1, "damping": 0.0}, "damping: got 0.0; allowed: above 0"),
        ({"two_four": "half"}, "two-four: got 'half'; allowed: magnitude, activation"),
        ({"two_four": "magnitude", "reconstruct": "gain"}, "reconstruct: gain fits sliced layers, and no heads or"),
    ],
)
def test_settings_that_mean_nothing(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        SliceSettings(**values)
    assert "\n" not in str(error.value)
