"""Pins of models that go by a short name: the folder behind the name has to hold what was pulled under it."""

from __future__ import annotations

import math
from pathlib import Path

from erecap.errors import ModelError
from erecap.models.catalog import CARD, CATALOG, WheelModel
from erecap.models.hashing import fingerprint
from erecap.models.inspection import read_json, weight_files
from erecap.models.settings_files import changed_files

_hashed: dict[tuple[tuple[int, ...], ...], str] = {}  # fingerprints in this process, by the state of the files


def check_pins(name: str, folder: Path) -> None:
    """Refuse a folder whose weights, configuration, tokenizer or template are not those pinned for `name`.

    Names outside of the catalog, paths among them, have no pins.

    Raises:
        ModelError: names the first thing that differs.
    """
    entry = CATALOG.get(name)
    if entry is None:
        return
    card = read_json(folder / CARD) if (folder / CARD).is_file() else {}
    again = f"run `erecap models pull {name} --force`, or load the folder by its path"
    expected = entry.fingerprint if isinstance(entry, WheelModel) else card.get("fingerprint")
    found = _fingerprint(folder)
    if expected is not None and found != expected:
        raise ModelError(
            f"model '{name}': the weights in {folder} are {found[:23]}, pinned are {expected[:23]}; {again}"
        )
    problem = changed_settings(name, folder)
    if problem is not None:
        raise ModelError(f"model '{name}': {problem}; {again}")


def changed_settings(name: str, folder: Path) -> str | None:
    """Reason why the small files of a catalog model are not as pinned; None: they are."""
    entry = CATALOG.get(name)
    card = read_json(folder / CARD) if (folder / CARD).is_file() else {}
    settings = card.get("settings")
    for file in changed_files(settings, folder) if isinstance(settings, dict) else ():
        return f"{folder / file} is not as it was pulled"
    if isinstance(entry, WheelModel):
        config = read_json(folder / "config.json")
        rope = config.get("rope_parameters") or {}
        for key, value in entry.config:
            found = rope[key] if key in rope else config.get(key)
            close = (
                isinstance(value, float)
                and isinstance(found, (int, float))
                and math.isclose(found, value, rel_tol=1e-6)
            )
            if found != value and not close:
                return f"{folder / 'config.json'} has another {key} than the pinned {value}"
    return None


def _fingerprint(folder: Path) -> str:
    """The folder's fingerprint; once as long as its files have the same identity, size and times."""
    files = (folder / "config.json", *weight_files(folder))
    stats = [path.stat() for path in files]
    state = tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in stats)
    if state not in _hashed:
        _hashed[state] = fingerprint(folder)
    return _hashed[state]
