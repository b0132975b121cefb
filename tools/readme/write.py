"""Generated parts of the documents, from the measured results in docs/results.

The tables of DOCUMENTS, the result lines of README.md and its figure, docs/results/replan-time.svg; and the page
docs/reference/cli.md, from the help texts of the commands.

python -m tools.readme.write --demo runs/demo-full     # keep its figures as docs/results/demo.json
python -m tools.readme.write --realtime runs/realtime  # of one or several runs, as docs/results/realtime.json
python -m tools.readme.write --cooperative runs/cooperative  # of one or several runs, as docs/results/cooperative.json
python -m tools.readme.write --habitat runs/habitat    # of one run, as docs/results/habitat.json
python -m tools.readme.write --engines runs/quality-engines  # of one policy on several engines, into engines.json
python -m tools.readme.write                      # write all of them anew
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from erecap.bench.results import merge_rows, read_results
from erecap.evaluation.ablation.table import ablation_table
from erecap.evaluation.table import quality_table
from erecap.files import write_atomic, write_json
from tools.readme.cli_reference import PAGE, cli_reference
from tools.readme.cooperative_table import cooperative_figures, cooperative_results, cooperative_table
from tools.readme.drafts_table import drafts_table
from tools.readme.engines_table import PART, engine_quality, engines_table
from tools.readme.exits_table import exits_table
from tools.readme.habitat_table import habitat_results, habitat_table
from tools.readme.kept_run import adapted, read_run
from tools.readme.layers_table import layers_table
from tools.readme.profile_table import profile_table
from tools.readme.realtime_table import realtime_results, realtime_table
from tools.readme.remote_table import remote_table
from tools.readme.scale_table import scale_table
from tools.readme.short_results import short_results
from tools.readme.time_figure import FIGURE, time_figure
from tools.readme.together_table import together_table


def demo_results(run: Path) -> dict[str, Any]:
    """The figures to keep of a finished run: small, without rows or paths."""
    head, summary, kept = read_run(run)
    return {
        "what": "success and latency of a replanning call, mode by mode, on the same episodes",
        "command": f"erecap compare {head['name']}",
        **kept,
        "modes": {
            mode: {
                "episodes": figures["counted"],
                "success_rate": figures["sr"]["value"],
                "calls": figures["model_calls"],
                "prompt_tokens_p50": figures["tokens"]["prompt"]["p50"],
                "total_ms": figures["latency"]["total_ms"],
                "prefill_speed_up": summary["ceiling"].get(mode, {}).get("prefill_speed_up"),
                "prefill_ceiling": summary["ceiling"].get(mode, {}).get("total"),
                "replan_speed_up": summary["ceiling"].get(mode, {}).get("replan_speed_up"),
            }
            for mode, figures in summary["modes"].items()
        },
    }


def demo_table(results: dict[str, Any]) -> str:
    """Markdown: one row a mode."""
    model = results["model"]
    lines = [
        f"`make demo ARGS=--full`, {results['date']}, {adapted(model)} in {model['dtype']} on "
        f"{results['machine']['threads']} threads. A {results['label']} run: it shows that everything works, and ranks "
        "nothing. Speed-ups are medians over pairs of calls with prompts of equal length; the ceiling is what the "
        "counted FLOPs allow.",
        "",
        "| mode | episodes | success | calls | replan P50 | replan P95 | prefill against `full` | ceiling | "
        "whole call against `full` |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for mode, row in results["modes"].items():
        total = row["total_ms"] or {}
        cells = [
            f"`{mode}`",
            row["episodes"],
            f"{100 * row['success_rate']:.0f} %",
            row["calls"],
            _ms(total.get("p50")),
            _ms(total.get("p95")),
            _times(row["prefill_speed_up"]),
            _times(row["prefill_ceiling"]),
            _times(row["replan_speed_up"]),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def replan_table(results: dict[str, Any]) -> str:
    """Markdown: targets beside what was measured, then seconds by length of history and mode, a table a row."""
    lines = [
        "Each figure is a ratio of two sides that were measured in turn in one run (`make bench`; "
        "[how](benchmarks.md)). *algorithm*: one precision and plain decoding on both sides. *product*: each side "
        "at its best settings. In brackets the range of the repetitions.",
        "",
        "| figure | id | target | algorithm | product |",
        "|---|---|---|---|---|",
    ]
    found = {(row["id"], row["row"]): row for row in results["rows"]}
    for name, target in results["targets"].items():
        cells = [_measured(found.get((name, row)), target["row"] == row) for row in ("algorithm", "product")]
        lines.append("| " + " | ".join([target["what"], name, target["target"], *cells]) + " |")
    notes = [f"- {row['id']}, {row['row']}: {row['note']}." for row in results["rows"] if row.get("note")]
    if notes:
        lines += ["", *notes]
    part = results.get("parts", {}).get("replan")
    if part is not None:
        lines += ["", *_by_length(results, part)]
    return "\n".join(lines)


def _measured(row: dict[str, Any] | None, judged: bool) -> str:
    """One cell: the figure with its range, and a plain word where it falls short of the target."""
    if row is None:
        return "not measured" if judged else "–"
    text = f"{row['measured']:.4g} ({row['low']:.4g} to {row['high']:.4g})"
    return f"{text} **short**" if row["holds"] is False else text  # None: no target


def _by_length(results: dict[str, Any], part: dict[str, Any]) -> list[str]:
    settings, calls = part["settings"], part["summary"]["calls"]
    columns = list(dict.fromkeys((call["row"], call["mode"]) for call in calls))

    def head(row: str, mode: str) -> str:
        name = "stock `generate`" if row == "hf" else mode if mode == "floor" else f"`{mode}`"
        return f"{name}, product" if row == "product" else name

    lines = [
        f"Seconds of one replanning call ({settings['new_tokens']} new tokens, {settings['plan_tokens']} plan tokens, "
        f"median of {settings['repetitions']}) after histories of household text, {part['date']}, "
        f"{part['model']['name']} in {part['model']['dtype']} on {results['machine']['threads']} threads. "
        f"`erecap` keeps {settings['kv_tokens']:,} tokens. The floor is the new turn alone on an empty cache.",
        "",
        "| history | " + " | ".join(head(*column) for column in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for length in sorted({call["length"] for call in calls}):
        own = {(call["row"], call["mode"]): call["total_ms"] for call in calls if call["length"] == length}
        cells = [f"{own[column] / 1e3:.2f}" if column in own else "–" for column in columns]
        lines.append(f"| {length:,} | " + " | ".join(cells) + " |")
    return lines


DOCUMENTS = (Path("README.md"), *(Path("docs") / f"{page}.md" for page in ("results", "profiles", "ablation", "scale")))
ALWAYS = ("replan.json", "demo.json")  # results that are never missing
QUALITY, REMOTE, REALTIME, HABITAT = "quality.json", "remote.json", "realtime.json", "habitat.json"
COOPERATIVE, ENGINES, LAYERS, EXITS = "cooperative.json", "engines.json", "layers.json", "exits.json"
PROFILE, ABLATION = "profile.json", "ablation.json"
TABLES: dict[str, tuple[tuple[str, ...], Callable[..., str]]] = {
    "demo": (("demo.json",), demo_table),
    "engines": ((ENGINES,), engines_table),
    "layers": ((LAYERS,), layers_table),
    "drafts": (("replan.json",), drafts_table),
    "exits": ((EXITS,), exits_table),
    "quality": ((QUALITY,), quality_table),
    "remote": ((REMOTE,), remote_table),
    "replan": (("replan.json",), replan_table),
    "habitat": ((HABITAT,), habitat_table),
    "cooperative": ((COOPERATIVE,), cooperative_table),
    "realtime": ((REALTIME,), realtime_table),
    "together": (("replan.json", QUALITY), together_table),
}  # of docs/results.md
PAGES: dict[str, tuple[tuple[str, ...], Callable[..., str]]] = {
    "profile": ((PROFILE,), profile_table),
    "ablation": ((ABLATION,), ablation_table),
}  # of docs/profiles.md and docs/ablation.md
LINES: dict[str, tuple[tuple[str, ...], Callable[..., str]]] = {
    "short": (("replan.json", QUALITY), short_results),
}  # of README.md
SCALE: dict[str, tuple[tuple[str, ...], Callable[..., str]]] = {
    "scale": (("scale.json",), scale_table),
}  # of docs/scale.md


def filled(text: str, results: Path) -> str:
    """`text` with every block `<!-- results:NAME -->` holding what its files in `results` say."""
    for name, (files, table) in (TABLES | LINES | PAGES | SCALE).items():
        block = re.compile(rf"(<!-- results:{name} -->\n).*?(<!-- /results:{name} -->)", re.S)
        if block.search(text) is None:
            continue
        content = table(*(_read(results / file) for file in files))
        text = block.sub(lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text)  # type: ignore[misc]
    return text


def _read(path: Path) -> dict[str, Any]:
    """Results of one file. Before their first measurement some have none, and their tables say so."""
    if path.name not in ALWAYS and not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value / 1e3:.2f} s"


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×"


def _keep(given: argparse.Namespace, folder: Path) -> None:
    """Write what is kept of the runs that the command line names.

    Raises ValueError for a run that is not finished, FileNotFoundError for a folder that holds none.
    """
    if given.demo is not None:
        write_json(folder / "demo.json", demo_results(given.demo))
    if given.realtime is not None:
        write_json(folder / REALTIME, realtime_results(given.realtime, _read(folder / REALTIME)))
    if given.cooperative is not None:
        found = cooperative_results(given.cooperative, _read(folder / COOPERATIVE))
        write_json(folder / COOPERATIVE, found)
        for name, svg in cooperative_figures(found).items():
            write_atomic(folder / name, svg)
    if given.habitat is not None:
        write_json(folder / HABITAT, habitat_results(given.habitat))
    if given.engines is not None:
        parts = read_results(folder / ENGINES).get("parts", {})
        merge_rows(folder / ENGINES, [], file="engines", parts={**parts, PART: engine_quality(given.engines)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the generated parts of README.md and of docs.")
    parser.add_argument("--demo", type=Path, help="a finished run whose figures become docs/results/demo.json")
    parser.add_argument(
        "--realtime", type=Path, nargs="+", help=f"finished runs against a clock, for docs/results/{REALTIME}"
    )
    parser.add_argument(
        "--cooperative",
        type=Path,
        nargs="+",
        help=f"finished runs of cooperating planners, for docs/results/{COOPERATIVE}",
    )
    parser.add_argument("--habitat", type=Path, help=f"a finished run in Habitat, for docs/results/{HABITAT}")
    parser.add_argument("--engines", type=Path, help=f"a finished run of one policy on several engines, for {ENGINES}")
    given = parser.parse_args()
    folder = Path("docs/results")
    try:
        _keep(given, folder)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    for document in DOCUMENTS:
        write_atomic(document, filled(document.read_text("utf-8"), folder))
    write_atomic(folder / FIGURE, time_figure(_read(folder / "replan.json")))
    write_atomic(Path("docs") / PAGE, cli_reference())
