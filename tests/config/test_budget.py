"""Budgets in a run's configuration: a number, `auto`, or everything; and the options that go with each."""

import pytest

from erecap.budget import Budget
from erecap.config import load_run
from erecap.errors import ConfigError


def budget(*overrides: str) -> Budget:
    return load_run("smoke", ["modes=erecap", *overrides]).budget.budget()


def test_what_a_budget_becomes():
    assert budget() == budget("budget.kv_tokens=auto") == Budget.auto()
    assert budget("budget.kv_tokens=64") == Budget(64)
    assert budget("budget.kv_tokens=null") == Budget() and not budget("budget.kv_tokens=").limited
    assert budget("budget.memory_gb=0.5", "budget.pays=0.25") == Budget.auto(500_000_000, 0.25)
    # A share of what is read is a limit of its own, which has never been automatic.
    assert budget("budget.kv_ratio=0.35") == Budget(None, 0.35)
    assert budget("budget.kv_ratio=0.35", "budget.kv_tokens=64") == Budget(64, 0.35)


@pytest.mark.parametrize("name", ["demo-full", "quality", "quality-smoke"])
def test_published_rows_keep_their_fixed_budget(name):
    assert load_run(name).budget.budget() == Budget(1024)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["budget.kv_tokens=8"], "budget.kv_tokens: got 8; allowed: auto, null or a whole number, at least 16"),
        (["budget.kv_tokens=many"], "budget.kv_tokens: got 'many'; allowed: auto, null or a whole number"),
        (["budget.kv_tokens=true"], "budget.kv_tokens: got True; allowed: auto"),
        (["budget.kv_tokens=64", "budget.pays=0.2"], "budget: pays: got 0.2 with kv_tokens 64; allowed with auto"),
        (["budget.kv_tokens=", "budget.memory_gb=1.0"], "memory_gb: got 1.0 with kv_tokens None; allowed with auto"),
        (["budget.kv_tokens=auto", "budget.kv_ratio=0.5"], "beside kv_tokens auto; allowed: one of them"),
        (["budget.pays=0.5"], "budget.pays: got 0.5; allowed: a number or null, more than 0 and less than 0.5"),
        (["budget.memory_gb=0"], "budget.memory_gb: got 0; allowed: a number or null, more than 0"),
    ],
)
def test_bad_budgets_are_one_line(overrides, message):
    with pytest.raises(ConfigError) as caught:
        load_run("smoke", overrides)
    assert message in str(caught.value) and "\n" not in str(caught.value)
