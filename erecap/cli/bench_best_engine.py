"""`erecap bench best-engine`: `full` and `erecap`, each on the faster of transformers and llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.cli.bench import MODEL, Dtype, KvTokens, NewTokens, PlanTokens, Repetitions, Threads, Weights
from erecap.cli.benching import finish_sides, numbers_in, setting
from erecap.cli.outputs import ResultFile


def best_engine(
    lengths: Annotated[str, typer.Option(help="Tokens of history, with commas.")] = "4000,7500",
    new_tokens: NewTokens = 100,
    plan_tokens: PlanTokens = 32,
    repetitions: Repetitions = 5,
    kv_tokens: KvTokens = 1024,
    decode_weights: Weights = "int4",
    model: Annotated[str, typer.Option(help="A model of the catalog that comes as a GGUF file.")] = MODEL,
    dtype: Dtype = "auto",
    threads: Threads = None,
    results: Annotated[
        Path | None, typer.Option(help="A results file that the product rows of R1a and R1b go into.")
    ] = None,
    out: ResultFile = Path("runs/bench/best-engine.json"),
) -> None:
    """Time one replanning call of `full` and of `erecap` on transformers and on llama.cpp, in turn.

    Needs an interpreter that has llama.cpp: `make bench-llamacpp` builds one and calls this with it.
    """
    from dataclasses import asdict

    from erecap.bench.llamacpp.best_engine import (
        PART,
        BestEngineBench,
        best_engine_bench,
        best_engine_rows,
        best_engine_summary,
    )  # fmt: skip
    from erecap.bench.suite import BEST_ENGINE
    from erecap.bench.tables import seconds
    from erecap.engines.llamacpp.model import LlamaCppModel, LlamaCppOptions

    bench = BestEngineBench(
        numbers_in(lengths, "--lengths", 1), new_tokens, plan_tokens, repetitions, kv_tokens, decode_weights
    )
    options = LlamaCppOptions(threads=threads)
    gguf = LlamaCppModel.open(model, options)
    about, load, say = setting(model, dtype, threads, BEST_ENGINE)
    raw = best_engine_bench(bench, load()[0], gguf, gguf.tokenizer, say)
    part = {
        "part": PART, "settings": asdict(bench), **about, "rows": best_engine_rows(raw, about, gguf.shape),
        "summary": {"calls": best_engine_summary(raw)}, "raw": raw, "faults": [],
    }  # fmt: skip
    finish_sides(
        "one replanning call, engine by engine (seconds, medians)",
        part,
        {
            "history": lambda entry: f"{entry['length']:,}",
            "prefill": lambda entry: seconds(entry["prefill_ms"]),
            "decode": lambda entry: seconds(entry["decode_ms"]),
        },
        out,
        results,
        "4,000 and 7,500 tokens of history",
        file="replan",
    )
