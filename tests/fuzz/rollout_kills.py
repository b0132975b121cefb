"""Kills small rollouts at random moments, lets them go on, and looks for rows that are lost or doubled.

    python -m tests.fuzz.rollout_kills --count 200 --seed 0

prints one line of figures, and ends with 1 where a row was lost, doubled, torn, or another than in a run left alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).parents[1] / "rollout" / "tinyworld.py"
EXECUTORS = ((), ("--executor", "process", "--workers", "2"))
_PATIENCE_S = 120  # a program that has written nothing for so long hangs
Key = tuple[str, str, int]


@dataclass
class Report:
    """The figures of a series of kills."""

    kills: int = 0
    missed: int = 0  # besides them: the rollout had ended before
    rollouts: int = 0
    rows: int = 0  # that were there when a kill came, all kills together
    faults: list[str] = field(default_factory=list)

    def line(self) -> str:
        """The figures, in one line."""
        return (
            f"kills {self.kills} of {self.rollouts} rollouts ({self.missed} more came after the end), {self.rows} rows "
            f"found after them, faults {len(self.faults)}"
        )


def kill_rollouts(count: int, seed: int, folder: Path) -> Report:
    """Kill rollouts so many times, each up to five times before it may end.

    Args:
        count: kills.
        seed: of their moments.
        folder: gets a run folder for each rollout.
    """
    moments, report = random.Random(seed), Report()
    whole = folder / "whole"
    _finish(whole, ())
    wanted = _contents(whole)
    while report.kills < count:
        run, executor = folder / f"rollout-{report.rollouts}", moments.choice(EXECUTORS)
        report.rollouts += 1
        known: set[Key] = set()
        for _ in range(min(moments.randint(1, 5), count - report.kills)):
            hit = _kill(run, executor, moments)
            report.kills += hit
            report.missed += not hit
            found = keys_of(run, report)
            report.rows += len(found)
            if known - found:
                report.faults.append(f"{run.name}: lost {sorted(known - found)}")
            known |= found
            if not hit:
                break
        _finish(run, executor)
        if _contents(run) != wanted:
            report.faults.append(f"{run.name}: its rows are not those of a run that was left alone")
    return report


def _start(run: Path, executor: Sequence[str], delay: float) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TINY_DELAY": str(delay), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROGRAM), str(run), *executor]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)


def _kill(run: Path, executor: Sequence[str], moments: random.Random) -> bool:
    """Start a rollout and kill it with all its processes; False if it had ended before."""
    rows = run / "episodes.jsonl"
    before = rows.stat().st_size if rows.exists() else 0
    program = _start(run, executor, delay=moments.choice((0.0, 0.02, 0.1)))
    deadline = time.monotonic() + _PATIENCE_S
    if moments.random() < 0.8:  # while it plays; else anywhere, while it starts as well
        while (rows.stat().st_size if rows.exists() else 0) <= before and program.poll() is None:
            assert time.monotonic() < deadline, "nothing was written"
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.2))
    else:
        time.sleep(moments.uniform(0, 3))
    ended = program.poll() is not None
    if not ended:
        os.killpg(program.pid, signal.SIGKILL)
    program.wait()
    return not ended


def _finish(run: Path, executor: Sequence[str]) -> None:
    code = _start(run, executor, delay=0).wait(_PATIENCE_S)
    assert code == 0, f"{run}: ended with {code}"


def keys_of(run: Path, report: Report) -> set[Key]:
    """Episodes with a whole row."""
    path = run / "episodes.jsonl"
    *lines, _ = path.read_bytes().split(b"\n") if path.exists() else [b""]
    keys: list[Key] = []
    for line in lines:
        try:
            row = json.loads(line)
            keys.append((row["suite"], row["mode"], row["episode"]))
        except (ValueError, KeyError):
            report.faults.append(f"{run.name}: a row is torn: {line[:80]!r}")
    if len(set(keys)) < len(keys):
        report.faults.append(f"{run.name}: a row is doubled")
    return set(keys)


def _contents(run: Path) -> list[list[str]]:
    """All rows, sorted, without what may differ between two plays; and the names of recorded episodes."""
    found = []
    for name in ("episodes.jsonl", "replans.jsonl"):
        rows: list[dict[str, Any]] = [json.loads(line) for line in (run / name).read_bytes().splitlines()]
        timings = ("wall_s", "contended")
        plain = [{k: v for k, v in row.items() if not k.endswith("_ms") and k not in timings} for row in rows]
        found.append(sorted(json.dumps(row, sort_keys=True) for row in plain))
    return [*found, sorted(path.name for path in (run / "samples").iterdir())]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = kill_rollouts(given.count, given.seed, Path(folder))
    print(report.line(), *report.faults, sep="\n")
    return 1 if report.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
