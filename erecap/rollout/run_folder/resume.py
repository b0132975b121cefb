"""The contents of a run folder when a run starts, and the cleaning before it can go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erecap.errors import RunError
from erecap.files import write_atomic
from erecap.generation import JsonRow
from erecap.rollout.jobs import EpisodeKey, row_key
from erecap.rollout.run_folder.lock import LOCK
from erecap.rollout.run_folder.writer import EPISODES, HEAD, REPLANS, SAMPLES, encode_row, unwritable
from erecap.untrusted import parse_json, read_json

# How the work is spread changes no row but its timings and `contended`, so a run may go on with another.
_FREE = {"config.executor", "config.workers", "config.batch"}
_WRITTEN = (HEAD, EPISODES, REPLANS, "summary.json", "report.html")


def read_head(folder: Path) -> dict[str, Any] | None:
    """`run.json` of a folder, or None if no run was started in it.

    Raises:
        RunError: it is not readable, of another format, or the folder holds something that is not a run.
    """
    path = folder / HEAD
    if not path.exists():
        names = sorted(item.name for item in folder.iterdir()) if folder.is_dir() else []
        strange = next((name for name in names if not _is_ours(name)), None)
        if strange is not None:
            raise RunError(f"{folder}: holds {strange!r} but no run.json, so it is no run; choose another --out")
        return None
    try:
        head = read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); --fresh starts anew") from error
    if not isinstance(head, dict) or head.get("format") != 1:
        raise RunError(f"{path}: not a run of format 1; --fresh starts anew")
    return head


def has_rows(folder: Path) -> bool:
    """True where an episode of a run has its row in the folder."""
    path = folder / EPISODES
    return path.exists() and path.stat().st_size > 0


def require_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to mix rows of two configurations.

    Args:
        folder: the run folder, for the message.
        old: `run.json` as found.
        new: the head that a new run would get; `config`, `suites` and `team` are compared, the last where both have it.

    Raises:
        RunError: names the first key that differs, and how to start anew.
    """
    # Runs from before agents files were written out lack them.
    teams = ("team",) if "team" in old and "team" in new else ()
    for part in ("config", "suites", *teams):
        before, after = _flat(old.get(part), part), _flat(new[part], part)
        for key in sorted(before.keys() | after.keys()):
            if key in _FREE or before.get(key) == after.get(key):
                continue
            raise RunError(
                f"{folder}: this run was started with {key} = {_show(before.get(key))}, now it is "
                f"{_show(after.get(key))}; --fresh starts anew and deletes its rows, --out FOLDER keeps both"
            )


def require_same_model(folder: Path, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> None:
    """Refuse to mix episodes that were played with different weights.

    Args:
        folder: for the message.
        old, new: what was recorded of the model, and what is loaded now; None where no mode has one.

    Raises:
        RunError: model, adapter, pruner or layer plan differ; or the name of a server's model.
    """
    if old is None or new is None:
        return
    if old.get("served") != new.get("served"):
        raise RunError(
            f"{folder}: its episodes were played with the server's model {old.get('served')}, now it is "
            f"{new.get('served')}; --fresh starts anew, --out FOLDER keeps both"
        )
    for part, name in (("hash", "model"), ("adapter", "adapter"), ("pruner", "pruner"), ("plan", "layer plan")):
        if old.get(part) != new.get(part):
            raise RunError(
                f"{folder}: its episodes were played with {name} {_weights(old, part)}, now it is "
                f"{_weights(new, part)}; --fresh starts anew, --out FOLDER keeps both"
            )
    for part, name in (("pruners", "pruner"), ("plans", "layer plan"), ("controllers", "controller")):
        before, after = old.get(part) or {}, new.get(part) or {}
        for mode in sorted(before.keys() & after.keys()):
            if before[mode] != after[mode]:
                raise RunError(
                    f"{folder}: its episodes of mode {mode} were played with {name} {_weights(before, mode)}, now it "
                    f"is {_weights(after, mode)}; --fresh starts anew, --out FOLDER keeps both"
                )


def _weights(facts: Mapping[str, Any], part: str) -> str:
    own = facts if part == "hash" else facts.get(part)
    return f"{own['name']} {own['hash'][:19]}" if own else "none"


def repair(folder: Path) -> list[JsonRow]:
    """Bring the row files back to whole episodes, and return the rows of those that count.

    A last line that was cut short goes; replan rows without their episode's row go. Both files are
    replaced atomically, and only if something goes. Files that were being written aside go too.

    Raises:
        RunError: a line in the middle of a file is damaged, which no kill of ours can cause, or the files can neither
            be read nor replaced.
    """
    try:
        return _repaired(folder)
    except OSError as error:
        raise unwritable(folder, error) from error


def _repaired(folder: Path) -> list[JsonRow]:
    for unfinished in (*folder.glob(".*.part"), *(folder / SAMPLES).glob(".*.part")):
        unfinished.unlink()
    episodes = _read_rows(folder / EPISODES)
    done: set[EpisodeKey] = set()
    for row in episodes:
        if row_key(row) in done:
            suite, mode, number = row_key(row)
            raise RunError(f"{folder / EPISODES}: episode {number} of {suite} in mode {mode} is there twice")
        done.add(row_key(row))
    _rewrite(folder / EPISODES, episodes)
    _rewrite(folder / REPLANS, [row for row in _read_rows(folder / REPLANS) if row_key(row) in done])
    return episodes


def erase(folder: Path) -> None:
    """Delete what a run wrote, and nothing else. `run.json` goes last, so a kill in between leaves a run."""
    shutil.rmtree(folder / SAMPLES, ignore_errors=True)
    for name in reversed(_WRITTEN):
        (folder / name).unlink(missing_ok=True)


def _is_ours(name: str) -> bool:
    return name in (*_WRITTEN, SAMPLES, LOCK) or name.endswith(".part")


def _read_rows(path: Path) -> list[JsonRow]:
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    lines.pop()  # what follows the last newline: nothing, or a row that was cut short
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_json(line)
            row_key(row)
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path}:{number}: the row is damaged; --fresh starts anew") from error
        rows.append(row)
    return rows


def _rewrite(path: Path, rows: list[JsonRow]) -> None:
    data = b"".join(map(encode_row, rows))
    if not path.exists() or path.read_bytes() != data:
        write_atomic(path, data)


def _flat(value: Any, prefix: str) -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {k: v for key, below in value.items() for k, v in _flat(below, f"{prefix}.{key}").items()}
    return {prefix: value}


def _show(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
