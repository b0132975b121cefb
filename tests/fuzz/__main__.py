"""All fuzzers, slice by slice, with their figures in a file.

    python -m tests.fuzz --share 0.01 --only sequences --only kills

Each slice is a process of its own, with its own seed, and leaves one line in runs/fuzz.jsonl. A slice that is there
already, of the same code, is not played again: a run that was stopped goes on. All slices are played, also after a
failure; the table at the end names the command that reproduces it, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CODE = ("erecap", "envs", "planners", "tests/fuzz")  # what the figures are of
SLICE_LIMIT_S = 3600  # a slice that takes longer hangs


@dataclass(frozen=True)
class Part:
    """A fuzzer, and how much of it is a whole run."""

    name: str
    module: str
    count: int
    slice: int  # of the count, in one process
    unit: str


PARTS = (
    Part("requests", "server_requests", 100_000, 2_000, "requests to the server"),
    Part("sequences", "session_sequences", 10_000, 250, "sequences of session calls"),
    Part("compactions", "compactions", 20_000, 500, "compactions"),
    Part("kills", "rollout_kills", 200, 10, "kills of rollouts"),
    Part("proxy", "proxy_requests", 20_000, 1_000, "requests to the proxy"),
    Part("interrupts", "interrupts", 100, 5, "interrupts of each kind of call"),
    Part("wrapped", "wrapped_interrupts", 100, 5, "interrupts of each kind of call of a wrapped model"),
)


@dataclass(frozen=True)
class Slice:
    """Some of a part."""

    part: Part
    seed: int
    count: int

    @property
    def command(self) -> list[str]:
        """Arguments of the interpreter."""
        return ["-m", f"tests.fuzz.{self.part.module}", "--count", str(self.count), "--seed", str(self.seed)]


def slices(parts: Sequence[Part], share: float, seed: int) -> list[Slice]:
    """The slices of a run, so ordered that at any moment about the same share of each part is done."""
    found: list[tuple[float, Slice]] = []
    for part in parts:
        whole = max(1, round(share * part.count))
        for done in range(0, whole, part.slice):
            count = min(part.slice, whole - done)
            found.append(((done + count) / whole, Slice(part, seed + done, count)))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def code_hash() -> str:
    """Hash of the code that the figures are of."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py")):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def play(one: Slice, code: str) -> dict[str, Any]:
    """Play a slice in a process of its own; its row."""
    started = time.monotonic()
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    program = [sys.executable, *one.command]
    try:
        done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SLICE_LIMIT_S)
        status, figures, errors = done.returncode, done.stdout.strip(), done.stderr.strip()
    except subprocess.TimeoutExpired:
        status, figures, errors = 124, "", f"no end after {SLICE_LIMIT_S} s"
    row = {"part": one.part.name, "count": one.count, "seed": one.seed, "code": code, "status": status}
    row |= {"wall_s": round(time.monotonic() - started, 1), "figures": figures.split("\n")[0][:600]}
    if status:
        row["error"] = "\n".join([*figures.split("\n")[1:], *errors.split("\n")])[-4000:]
    return row


def rows_of(path: Path, code: str) -> list[dict[str, Any]]:
    """Rows of earlier runs of the same code. A line that was torn by a stop is left out."""
    rows = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["code"] == code:
            rows.append(row)
    return rows


def table(wanted: Sequence[Slice], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines that say what was reached, and how failures are reproduced."""
    found = {(row["part"], row["seed"], row["count"]): row for row in rows}
    lines = [f"{'part':12} {'done':>8} {'of':>8} {'slices failed':>14} {'wall s':>8}"]
    failed = []
    for part in dict.fromkeys(one.part for one in wanted):
        mine = [one for one in wanted if one.part == part]
        own = [(one, found[key]) for one in mine if (key := (part.name, one.seed, one.count)) in found]
        wrong = [(one, row) for one, row in own if row["status"]]
        count = sum(one.count for one, row in own if not row["status"])
        wall = sum(row["wall_s"] for _, row in own)
        lines.append(f"{part.name:12} {count:8} {sum(one.count for one in mine):8} {len(wrong):14} {wall:8.0f}")
        failed += wrong
    for one, row in failed:
        lines += [f"failed: python {' '.join(one.command)}", *row["error"].split("\n")[-3:]]
    return lines


def run(wanted: Sequence[Slice], path: Path, *, fresh: bool = False) -> int:
    """Play the slices that are not in the file yet; the exit code.

    Args:
        wanted: the slices of the run.
        path: file of rows; lines are appended.
        fresh: play all of them, also those that are there.
    """
    code = code_hash()
    rows = [] if fresh else rows_of(path, code)
    known = {(row["part"], row["seed"], row["count"]) for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(wanted):
        if (one.part.name, one.seed, one.count) in known:
            continue
        row = play(one, code)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        rows.append(row)
        words = row["figures"] if not row["status"] else f"FAILED: python {' '.join(one.command)}"
        print(f"[{number + 1}/{len(wanted)}] {one.part.name}: {words}", flush=True)
    print("\n".join(table(wanted, rows)))
    keys = {(one.part.name, one.seed, one.count) for one in wanted}
    return int(any(row["status"] for row in rows if (row["part"], row["seed"], row["count"]) in keys))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--share", type=float, default=1.0, help="of the full counts: " + _counts())
    parser.add_argument("--only", action="append", choices=names, help="a part; may be given several times")
    parser.add_argument("--seed", type=int, default=0, help="of the first slice of each part")
    parser.add_argument("--rows", type=Path, default=ROOT / "runs" / "fuzz.jsonl", help="file of rows")
    parser.add_argument("--fresh", action="store_true", help="play again what is there already")
    given = parser.parse_args(arguments)
    if not 0 < given.share:
        parser.error(f"--share: got {given.share}; allowed: above 0")
    parts = [part for part in PARTS if given.only is None or part.name in given.only]
    return run(slices(parts, given.share, given.seed), given.rows, fresh=given.fresh)


def _counts() -> str:
    return ", ".join(f"{part.count:,} {part.unit}" for part in PARTS)


if __name__ == "__main__":
    sys.exit(main())
