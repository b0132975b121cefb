"""The worker where there is no habitat-sim: packages of its names without content, for what calls none of it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from erecap.envs.habitat.client import WORKER, Connection, find_python
from erecap.envs.habitat.options import POINT_WITHIN
from erecap.errors import GameError


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path of this interpreter and its children, with habitat-sim as it is built without Bullet."""
    for name, code in (("habitat_sim", "built_with_bullet = False\n"), ("magnum", "")):
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield tmp_path
    for name in ("habitat_sim", "magnum"):
        sys.modules.pop(name, None)


@pytest.fixture
def worker(packages: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("habitat_worker", WORKER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_this_interpreter_runs_a_worker_where_it_has_habitat_sim(packages: Path) -> None:
    connection = Connection(find_python(None, {}), 30.0)
    assert connection.python == Path(sys.executable) and connection.hello()["bullet"] is False
    assert connection.pid is not None and "habitat_sim" not in sys.modules
    connection.close()


@pytest.mark.parametrize("sight", ["rays", "semantic"])
def test_without_bullet_nothing_is_seen_but_along_the_floor(packages: Path, sight: str) -> None:
    connection = Connection(Path(sys.executable), 30.0)
    wanted = f"built without Bullet and casts no rays, which sight: {sight} needs; choose sight: navmesh"
    with pytest.raises(GameError, match=wanted):
        connection.ask("open", scene="a.glb", sight=sight)
    with pytest.raises(GameError, match="there is no scene file"):
        connection.ask("open", scene="a.glb", sight="navmesh")
    connection.close()


def test_a_navmesh_of_other_settings_is_another_file(worker: ModuleType) -> None:
    before = worker.navmesh_file("folder/house.navmesh")
    assert worker.navmesh_file("folder/house.navmesh") == before and before.startswith("folder/house-")
    worker.NAVMESH = {**worker.NAVMESH, "agent_radius": 0.3}
    assert worker.navmesh_file("folder/house.navmesh") != before


def test_the_follower_comes_nearer_than_any_stop_has_to_be(worker: ModuleType) -> None:
    assert worker.ARRIVED < POINT_WITHIN
