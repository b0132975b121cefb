"""`erecap bench engines`: a session on llama.cpp against llama.cpp with its prompt cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.cli.bench import MODEL, KvTokens, NewTokens, PlanTokens, Repetitions, Threads
from erecap.cli.benching import setting


def engines(
    length: Annotated[int, typer.Option(min=1, help="Tokens of history.")] = 7500,
    new_tokens: NewTokens = 100,
    plan_tokens: PlanTokens = 32,
    repetitions: Repetitions = 5,
    kv_tokens: KvTokens = 1024,
    model: Annotated[str, typer.Option(help="GGUF file, or a model of the catalog that comes as one.")] = MODEL,
    adapter: Annotated[str | None, typer.Option(help="LoRA adapter that is applied on both sides.")] = None,
    threads: Threads = None,
    results: Annotated[Path | None, typer.Option(help="A results file that R8-plain and R8-drafted go into.")] = None,
    out: Annotated[Path, typer.Option(help="JSON file for settings, summary and raw rows.")] = Path(
        "runs/bench/engines.json"
    ),
) -> None:
    """Time one replanning call of a session on llama.cpp against llama.cpp with its prompt cache.

    Needs an interpreter that has llama.cpp: `make bench-llamacpp` builds one and calls this with it.
    """
    from dataclasses import asdict

    from rich.console import Console

    from erecap.bench.llamacpp.one_engine import OneEngineBench, engine_rows, one_engine_bench, summary_of
    from erecap.bench.results import merge_rows, read_results
    from erecap.bench.suite import write_part
    from erecap.bench.tables import result_table, seconds, table_of
    from erecap.engines.llamacpp.model import LlamaCppModel, LlamaCppOptions

    options = LlamaCppOptions(threads=threads)
    opened = LlamaCppModel.open(model, options, adapter=adapter)
    about, _, say = setting(model, "auto", options.own_threads, "erecap bench engines")
    bench = OneEngineBench(length, new_tokens, plan_tokens, repetitions, kv_tokens)
    found = one_engine_bench(bench, opened, opened.tokenizer, say)
    summary, rows = summary_of(found["raw"]), engine_rows(found, about, bench)
    part = {
        "part": "engines", "settings": asdict(bench), **about, "rows": rows, "faults": [],
        "summary": {"calls": summary, **{key: value for key, value in found.items() if key != "raw"}},
        "raw": found["raw"],
    }  # fmt: skip
    console = Console(markup=False, emoji=False)
    console.print(
        table_of(
            f"one replanning call on llama.cpp (seconds, medians): {length:,} tokens of history",
            ("call", "total", "min–max", "prefill", "decode", "× floor", "× ours"),
            [
                (
                    entry["mode"],
                    seconds(entry["total_ms"]),
                    f"{seconds(entry['min_ms'])}–{seconds(entry['max_ms'])}",
                    seconds(entry["prefill_ms"]),
                    seconds(entry["decode_ms"]),
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
        before = read_results(results).get("parts", {})
        merge_rows(results, rows, file="engines", parts={**before, "llamacpp": own})
        typer.echo(f"results: {results}")
