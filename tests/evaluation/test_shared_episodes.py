"""Episodes that never filled the budget stand for the budgeted modes; all others are played."""

import pytest
from tinyworld import tiny_run, tiny_suite

from erecap.config.modes import parse_mode
from erecap.evaluation.shared_episodes import unpressed_rows
from erecap.rollout.run_folder.identity import identity_of

SUITE = tiny_suite()
WEIGHTS = {"model": "aaaa", "adapter": "bbbb", "pruner": "cccc"}
CONFIG = tiny_run(modes=["erecap", "mask", "expert"], budget={"kv_tokens": 512})
IDENTITIES = {
    (SUITE.name, mode): identity_of(CONFIG, SUITE, parse_mode(mode), WEIGHTS)
    for mode in ("reuse", "erecap", "mask", "expert")
}
FITS = 512 - CONFIG.planner.max_new_tokens


def unpruned(**changes):
    row = {"suite": SUITE.name, "mode": "reuse", "budget": None, "episode": 3, "success": True, "tokens": FITS}
    own = IDENTITIES[SUITE.name, "reuse"].fields()
    return {**row, "error": None, "overflow": 0, "kept_share": 1.0, "same_as": None, **own, **changes}


def test_a_short_episode_counts_for_every_budgeted_mode():
    rows = unpressed_rows([unpruned()], CONFIG, IDENTITIES)
    assert [(row["mode"], row["budget"], row["same_as"]) for row in rows] == [
        ("erecap", 512, "reuse"),
        ("mask", 512, "reuse"),
    ]
    assert all(row["success"] and row["kept_share"] == 1.0 and row["episode"] == 3 for row in rows)
    ours, masked = rows
    assert (ours["adapter"], ours["pruner"], masked["pruner"]) == ("bbbb", "cccc", None)
    assert ours["config"] == IDENTITIES[SUITE.name, "erecap"].config != unpruned()["config"]


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": FITS + 1},
        {"tokens": 0},
        {"error": "GameError: no"},
        {"overflow": 2},
        {"adapter": "dddd"},
        {"config": "eeee"},
        {"mode": "recency", "budget": 512},
        {"suite": "elsewhere"},
    ],
)
def test_other_episodes_are_played(changes):
    assert unpressed_rows([unpruned(**changes)], CONFIG, IDENTITIES) == []


def test_another_engine_plays_its_own_episodes():
    parts = {"kv": {"evict": "recency"}}
    modes = [{"name": "same", **parts}, {"name": "other", **parts, "engine": "llamacpp"}]
    config = tiny_run(modes=modes, budget={"kv_tokens": 512})
    identities = {(SUITE.name, name): identity_of(config, SUITE, config.mode(name), WEIGHTS) for name in config.modes}
    identities[SUITE.name, "reuse"] = IDENTITIES[SUITE.name, "reuse"]
    assert [row["mode"] for row in unpressed_rows([unpruned()], config, identities)] == ["same"]


def test_the_automatic_budget_is_filled_where_the_window_is():
    config = tiny_run(modes=["erecap", "mask"], budget={"kv_tokens": "auto"})
    identities = {
        (SUITE.name, mode): identity_of(config, SUITE, parse_mode(mode), WEIGHTS)
        for mode in ("reuse", "erecap", "mask")
    }
    rows = unpressed_rows([unpruned(tokens=7000), unpruned(tokens=7000, overflow=1)], config, identities)
    assert [(row["mode"], row["budget"], row["tokens"]) for row in rows] == [
        ("erecap", "auto", 7000),
        ("mask", "auto", 7000),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"budget": {"kv_tokens": 512, "kv_ratio": 0.5}},
        {"budget": {"memory_gb": 1.0}},
        {"budget": {"pays": 0.2}},
        {"schedule": {}},
    ],
)
def test_settings_that_may_act_on_short_chats(change):
    config = tiny_run(**{"modes": ["erecap", "mask"], "budget": {"kv_tokens": 512}, **change})
    assert unpressed_rows([unpruned()], config, IDENTITIES) == []
