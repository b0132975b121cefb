"""Entries of registries: what is refused when it is registered, and entry points that cannot be loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from erecap.errors import ConfigError
from erecap.registries import ENGINES, ENVIRONMENTS, PLANNERS, SCORERS, EnvEntry, Registry

POINTS = """
[erecap.engines]
absent = no_such_module:Engine
lacking = broken_plugin:Engine
raising = broken_plugin_inside:Engine
number = broken_plugin:NUMBER

[erecap.scorers]
instance = broken_plugin:SCORER
"""
CODE = """
class Scorer:
    needs_attention = False

    def score(self, layer, hidden, ctx):
        return hidden.norm(dim=-1)


SCORER, NUMBER = Scorer(), 5
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution whose entry points cannot be loaded, or are of another kind."""
    info = tmp_path / "broken_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    (tmp_path / "broken_plugin.py").write_text(CODE)
    (tmp_path / "broken_plugin_inside.py").write_text("import a_library_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("registry", "name", "point", "why"),
    [
        (ENGINES, "absent", "no_such_module:Engine of erecap.engines", "No module named 'no_such_module'"),
        (ENGINES, "lacking", "broken_plugin:Engine of erecap.engines", "has no attribute 'Engine'"),
        (ENGINES, "raising", "broken_plugin_inside:Engine of erecap.engines", "'a_library_that_is_missing'"),
        (ENGINES, "number", "broken_plugin:NUMBER of erecap.engines", "must be callable, got an object of type int"),
        (
            SCORERS,
            "instance",
            "broken_plugin:SCORER of erecap.scorers",
            "must be a class, got an object of type Scorer",
        ),
    ],
)
def test_an_entry_point_that_cannot_be_used(broken: None, registry: Registry, name: str, point: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.get_or_refuse(name, "engine")
    told = str(caught.value)
    assert f"{registry.kind} {name!r}: entry point {point} (distribution broken-plugin)" in told
    assert why in told and "\n" not in told


class Scoreless:
    needs_attention = False


class Undecided:
    def score(self, layer: int, hidden: Any, ctx: Any) -> Any:
        return hidden


class Whole(Undecided):
    needs_attention = True


@pytest.mark.parametrize(
    ("registry", "entry", "why"),
    [
        (SCORERS, Whole(), "must be a class, got an object of type Whole"),
        (SCORERS, Scoreless, "must be a class with a method score; Scoreless has none"),
        (SCORERS, Undecided, "must be a class with the attribute needs_attention; Undecided has none"),
        (SCORERS, None, "must be a class, got an object of type NoneType"),
        (SCORERS, "somewhere.Scorer", "got 'somewhere.Scorer'; a string must have the form 'module:attribute'"),
        (PLANNERS, 5, "must be callable, got an object of type int"),
        (ENGINES, None, "must be callable, got an object of type NoneType"),
        (ENGINES, "", "a string must have the form 'module:attribute'"),
        (ENVIRONMENTS, Whole, "must be an EnvEntry, got the class Whole"),
    ],
)
def test_entries_of_another_kind_are_refused_when_they_are_registered(registry: Registry, entry: Any, why: str) -> None:
    with pytest.raises(ConfigError, match="'mine'") as caught:
        registry.register("mine", entry)
    assert why in str(caught.value) and "mine" not in registry


@pytest.mark.parametrize(
    ("registry", "entry"),
    [
        (SCORERS, Whole),
        (SCORERS, "somewhere:Scorer"),
        (PLANNERS, lambda settings, model: None),
        (ENVIRONMENTS, EnvEntry("somewhere:Options", "somewhere:Env", "somewhere")),
    ],
)
def test_entries_of_the_right_kind(registry: Registry, entry: Any) -> None:
    registry.register("mine", entry)
    try:
        if isinstance(entry, str):
            with pytest.raises(ConfigError, match="scorer 'mine' cannot be imported: ModuleNotFoundError"):
                registry["mine"]
        else:
            assert registry["mine"] is entry
    finally:
        del registry["mine"]


def test_the_name_of_trained_scorers_is_reserved() -> None:
    with pytest.raises(ConfigError, match="scorer 'learned': the name is reserved"):
        SCORERS.register("learned", Whole)
    assert "learned" not in SCORERS
