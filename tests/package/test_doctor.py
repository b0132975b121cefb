"""The doctor finds what is missing, and names the remedy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from erecap import doctor
from erecap.doctor import check_disk, check_model, check_package, check_simulator, check_writable


def test_every_check_reports(tmp_path: Path) -> None:
    checks = doctor.run_checks(runs=tmp_path / "runs")
    names = [check.name for check in checks]
    assert len(names) == len(set(names))
    assert {"python", "torch", "threads", "memory", "disk", "gpu", "bfloat16", "model", "runs folder"} <= set(names)
    for check in checks:
        assert check.found and (check.ok is True) == (check.advice == ""), check
    assert not (tmp_path / "runs").exists()


def test_a_missing_package_is_needed() -> None:
    check = check_package("no-such-package", "1.0")
    assert check.ok is False and "pip install 'no-such-package==1.0'" in check.advice


def test_another_version_is_a_warning() -> None:
    assert check_package("numpy", "0.1").ok == "warn"


def test_a_missing_simulator_is_a_warning() -> None:
    check = check_simulator("household", ("no_such_simulator",))
    assert check.ok == "warn" and check.advice == "pip install 'erecap[household]'"


def test_a_missing_model_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERECAP_CHECKPOINTS", str(tmp_path))
    check = check_model()
    assert check.ok is False and "erecap models pull" in check.advice
    (tmp_path / doctor.EMBEDDED).mkdir()
    damaged = check_model()
    assert damaged.ok is False and "config.json is missing" in damaged.found


def test_folders(tmp_path: Path) -> None:
    assert check_writable("runs", tmp_path / "not" / "yet").ok is True
    assert not (tmp_path / "not").exists()
    assert check_disk(tmp_path / "not" / "yet").found.endswith("not/yet")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    check = check_writable("runs", tmp_path)
    assert check.ok is False and "permission" in check.advice
