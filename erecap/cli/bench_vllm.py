"""`erecap bench vllm`: several agents at once on vLLM, with its prefix cache and with the connector of sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.cli.bench import MODEL, KvTokens, Model, NewTokens, PlanTokens, Repetitions, Threads
from erecap.cli.benching import setting


def vllm(
    agents: Annotated[int, typer.Option(min=1, help="Agents that replan at once.")] = 8,
    length: Annotated[int, typer.Option(min=1, help="Tokens of each one's history.")] = 7500,
    new_tokens: NewTokens = 100,
    plan_tokens: PlanTokens = 32,
    repetitions: Repetitions = 5,
    kv_tokens: KvTokens = 1024,
    model: Model = MODEL,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32, as vLLM takes it.")] = "auto",
    kv_gb: Annotated[int, typer.Option(min=1, help="GiB of vLLM's paged cache, on a CPU.")] = 4,
    threads: Threads = None,
    results: Annotated[Path | None, typer.Option(help="A results file that R9-speed and R9-blocks go into.")] = None,
    out: Annotated[Path, typer.Option(help="JSON file for settings, summary and raw rows.")] = Path(
        "runs/bench/vllm.json"
    ),
) -> None:
    """Time one replanning call of several agents on vLLM, with its prefix cache and with the sessions' connector.

    Needs an interpreter that has vLLM: `make bench-vllm` makes one and calls this with it. Goes on from its file where
    that has repetitions with the same settings.
    """
    import os
    from dataclasses import asdict

    from rich.console import Console

    from erecap.bench.results import merge_rows, read_results
    from erecap.bench.suite import read_part, write_part
    from erecap.bench.tables import result_table, seconds, table_of
    from erecap.bench.vllm.agents import AgentsBench, agents_bench, agents_rows, summary_of
    from erecap.engines.vllm.model import VllmModel, VllmOptions

    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    bench = AgentsBench(agents, length, new_tokens, plan_tokens, repetitions, kv_tokens)
    about, _, say = setting(model, "auto", threads, "erecap bench vllm")
    settings = {**asdict(bench), "model": about["model"]["name"], "dtype": dtype}
    before = read_part(out)
    done = before["raw"] if before is not None and before.get("settings") == settings else []
    opened = VllmModel.open(model, VllmOptions(dtype=dtype, kv_gb=kv_gb, together=max(16, agents)))
    about["model"]["dtype"] = opened.dtype

    def kept(found: dict) -> dict:
        return {"part": "vllm", "settings": settings, **about, "faults": [], "rows": [], "summary": {}, **found}

    found = agents_bench(bench, opened, say, done=done, save=lambda raw: write_part(out, kept({"raw": raw})))
    if not any(found["read_s"].values()) and before is not None:
        found["read_s"] = before["summary"].get("read_s", found["read_s"])
    summary, rows = summary_of(found["raw"]), agents_rows(found, about, bench)
    part = kept(
        {
            "rows": rows,
            "summary": {"calls": summary, **{key: value for key, value in found.items() if key != "raw"}},
            "raw": found["raw"],
        }
    )
    console = Console(markup=False, emoji=False)
    console.print(
        table_of(
            f"{agents} agents replan at once on vLLM (seconds, medians): {length:,} tokens of history each",
            ("call", "total", "min–max", "blocks", "not read", "× floor", "× ours"),
            [
                (
                    entry["mode"],
                    seconds(entry["total_ms"]),
                    f"{seconds(entry['min_ms'])}–{seconds(entry['max_ms'])}",
                    f"{entry['blocks']:.1f}",
                    f"{entry['cached']:,.0f}",
                    f"{entry['over_floor']:.2f}",
                    f"{entry['over_erecap']:.2f}",
                )
                for entry in summary
            ],
            left=("call",),
        )
    )
    if rows:
        console.print(result_table(rows))
    write_part(out, part)
    typer.echo(f"results: {out}")
    if results is not None and rows:
        own = {key: part[key] for key in ("date", "command", "settings", "model", "summary", "raw")}
        parts = read_results(results).get("parts", {})
        merge_rows(results, rows, file="engines", parts={**parts, "vllm": own})
        typer.echo(f"results: {results}")
