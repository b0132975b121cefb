"""Figures from a run folder, with pandas. `docs/run-format.md` names every key of the rows.

    pip install pandas
    erecap compare demo && python examples/read_run.py runs/demo

It prints, for each mode, success and the medians of tokens and times over replans.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a folder that erecap rollout or erecap compare wrote")
    args = parser.parse_args()

    head = json.loads((args.run / "run.json").read_text(encoding="utf-8"))
    episodes = pandas.read_json(args.run / "episodes.jsonl", lines=True)  # a row an episode and mode
    replans = pandas.read_json(args.run / "replans.jsonl", lines=True)  # a row a planning call
    print(f"{head['name']}: {head['status']}, on {head['machine']['cpu']}")
    for mode, played in episodes.groupby("mode", sort=False):
        print(f"\n{mode}: {len(played)} episodes, success {played.success.mean():.0%}, SPL {played.spl.mean():.2f}")
        calls = replans[replans["mode"] == mode].groupby("replan", as_index=False)
        table = calls.agg(
            calls=("episode", "size"),
            prompt=("prompt_tokens", "median"),
            new=("new_tokens", "median"),
            median_ms=("total_ms", "median"),
        )
        whole, tenths = "{:.0f}".format, "{:.1f}".format
        print(table.to_string(index=False, formatters={"prompt": whole, "new": whole, "median_ms": tenths}))


if __name__ == "__main__":
    main()
