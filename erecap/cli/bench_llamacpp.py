"""`erecap bench llamacpp`: a replanning call against llama.cpp with its prompt cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.bench.llamacpp.client import BUILT
from erecap.cli.bench import MODEL, Dtype, KvTokens, NewTokens, PlanTokens, Repetitions, Threads, Weights
from erecap.cli.benching import names_in, numbers_in, setting
from erecap.cli.outputs import ResultFile


def llamacpp(
    lengths: Annotated[str, typer.Option(help="Tokens of history, with commas.")] = "7500",
    rows: Annotated[
        str, typer.Option(help="algorithm (plain decoding, one precision), product (each side at its best).")
    ] = "algorithm,product",
    variants: Annotated[
        str, typer.Option(help="Ways of calling llama.cpp in the product row, with commas; `plain` among them.")
    ] = "plain,lookup-2,lookup-10,generate,generate-lookup-10",
    decode_weights: Weights = "int4",
    new_tokens: NewTokens = 100,
    plan_tokens: PlanTokens = 32,
    repetitions: Repetitions = 5,
    kv_tokens: KvTokens = 1024,
    flash_attention: Annotated[bool, typer.Option(help="llama.cpp's flash attention.")] = False,
    model: Annotated[str, typer.Option(help="A model of the catalog that comes as a GGUF file.")] = MODEL,
    dtype: Dtype = "auto",
    threads: Threads = None,
    python: Annotated[Path, typer.Option(help="An interpreter that has llama-cpp-python.")] = BUILT,
    results: Annotated[Path | None, typer.Option(help="A results file that R8 is merged into.")] = None,
    out: ResultFile = Path("runs/bench/llamacpp.json"),
) -> None:
    """Time one replanning call against llama.cpp with its prompt cache, which `make bench-llamacpp` builds first."""
    from dataclasses import asdict

    from rich.console import Console

    from erecap.bench.llamacpp.bench import LlamaBench, Place, llama_bench
    from erecap.bench.llamacpp.client import require
    from erecap.bench.llamacpp.summary import llama_rows, llama_summary, llama_tables, publish_llama
    from erecap.bench.suite import write_part
    from erecap.bench.tables import result_table

    require(python)  # before minutes are spent on anything else
    bench = LlamaBench(
        lengths=numbers_in(lengths, "--lengths", 1),
        rows=names_in(rows),
        variants=names_in(variants),
        decode_weights=decode_weights,
        new_tokens=new_tokens,
        plan_tokens=plan_tokens,
        repetitions=repetitions,
        kv_tokens=kv_tokens,
        flash=flash_attention,
    )
    about, load, say = setting(model, dtype, threads, "erecap bench llamacpp")
    place = Place(python=python, threads=about["machine"]["threads"])
    found = llama_bench(bench, *load(), model, place, say)
    summary = llama_summary(found["raw"])
    told = {key: found[key] for key in ("loaded", "checks", "quality")}
    part = {
        "part": "llamacpp",
        "settings": asdict(bench),
        **about,
        "summary": {"calls": summary, **told},
        "raw": found["raw"],
        "rows": llama_rows(found, about),
        "faults": [],
    }
    console = Console(markup=False, emoji=False)
    for table in llama_tables(summary):
        console.print(table)
    if part["rows"]:
        console.print(result_table(part["rows"]))
    write_part(out, part)
    typer.echo(f"results: {out}")
    if results is not None:
        publish_llama(results, part)
        typer.echo(f"results: {results}")
