"""Figures from a run folder, with the standard library alone. `docs/run-format.md` names every key of the rows.

    erecap compare demo && python examples/read_run.py runs/demo

With pandas (`pip install pandas`), which this package does not need, the two tables are

    episodes = pandas.read_json("runs/demo/episodes.jsonl", lines=True)
    replans = pandas.read_json("runs/demo/replans.jsonl", lines=True)
    episodes.groupby("mode").success.mean()
    replans.groupby(["mode", "replan"])[["prompt_tokens", "new_tokens", "total_ms"]].median()
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, median
from typing import Any


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def by(key: str, table: list[dict[str, Any]]) -> dict[Any, list[dict[str, Any]]]:
    """The rows by their value of `key`, in the order in which the values first appear."""
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in table:
        groups[row[key]].append(row)
    return groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a folder that erecap rollout or erecap compare wrote")
    args = parser.parse_args()

    head = json.loads((args.run / "run.json").read_text(encoding="utf-8"))
    calls = by("mode", rows(args.run / "replans.jsonl"))
    print(f"{head['name']}: {head['status']}, on {head['machine']['cpu']}")
    for mode, episodes in by("mode", rows(args.run / "episodes.jsonl")).items():
        solved, spl = mean(row["success"] for row in episodes), mean(row["spl"] for row in episodes)
        print(f"\n{mode}: {len(episodes)} episodes, success {solved:.0%}, SPL {spl:.2f}")
        print(f"{'replan':>8} {'calls':>6} {'prompt':>8} {'new':>8} {'median ms':>10}")
        for number, group in sorted(by("replan", calls.get(mode, [])).items()):
            prompt, new = (median(row[key] for row in group) for key in ("prompt_tokens", "new_tokens"))
            ms = median(row["total_ms"] for row in group)
            print(f"{number:8} {len(group):6} {prompt:8.0f} {new:8.0f} {ms:10.1f}")


if __name__ == "__main__":
    main()
