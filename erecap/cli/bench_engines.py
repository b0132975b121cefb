"""`erecap bench engines`: a session on llama.cpp against llama.cpp with its prompt cache, or against its floor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.cli.bench import MODEL, KvTokens, NewTokens, PlanTokens, Repetitions, Threads
from erecap.cli.benching import finish_sides, setting
from erecap.cli.outputs import ResultFile


def engines(
    length: Annotated[int, typer.Option(min=1, help="Tokens of history.")] = 7500,
    new_tokens: NewTokens = 100,
    plan_tokens: PlanTokens = 32,
    repetitions: Repetitions = 5,
    kv_tokens: KvTokens = 1024,
    model: Annotated[str, typer.Option(help="GGUF file, or a model of the catalog that comes as one.")] = MODEL,
    adapter: Annotated[str | None, typer.Option(help="LoRA adapter that is applied on both sides.")] = None,
    random: Annotated[
        bool,
        typer.Option(
            "--random", help="R10: a model of 1B parameters with random weights in 4 bits, against its floor alone."
        ),
    ] = False,
    threads: Threads = None,
    results: Annotated[
        Path | None, typer.Option(help="A results file that R8-plain and R8-drafted go into, or R10.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what the results file has.")] = False,
    out: ResultFile = Path("runs/bench/engines.json"),
) -> None:
    """Time one replanning call of a session on llama.cpp against llama.cpp with its prompt cache.

    What the results file has with the same settings is not measured again. Needs an interpreter that has llama.cpp:
    `make bench-llamacpp` builds one and calls this with it.
    """
    from dataclasses import asdict

    from erecap.bench.llamacpp.one_engine import LENGTH, OneEngineBench, engine_rows, one_engine_bench, summary_of
    from erecap.bench.llamacpp.random_gguf import random_gguf
    from erecap.bench.results import read_results
    from erecap.bench.tables import seconds
    from erecap.engines.llamacpp.model import LlamaCppModel, LlamaCppOptions
    from erecap.errors import ConfigError
    from erecap.models.gguf_files import locate_gguf

    bench = OneEngineBench(length, new_tokens, plan_tokens, repetitions, kv_tokens, random)
    if random and (model != MODEL or adapter is not None):
        raise ConfigError("--random: got a model or an adapter beside it; allowed: one of them")
    name = "llamacpp-random" if random else "llamacpp"
    parts = {} if results is None else read_results(results).get("parts", {})
    measured = {**asdict(bench), "gguf": model, "adapter": adapter}
    if not fresh and parts.get(name, {}).get("settings") == measured:
        typer.echo(f"{results}: {name} was measured on {parts[name]['date']}; --fresh measures it again")
        return
    options = LlamaCppOptions(threads=threads)
    path = random_gguf(locate_gguf(model), say=typer.echo) if random else model
    about, _, say = setting(str(path), "auto", options.own_threads, "erecap bench engines" + " --random" * random)
    opened = LlamaCppModel.open(path, options, adapter=adapter)
    found = one_engine_bench(bench, opened, opened.tokenizer, say)
    part = {
        "part": name, "settings": measured, **about, "rows": engine_rows(found, about, bench), "faults": [],
        "summary": {"calls": summary_of(found["raw"]), **{key: value for key, value in found.items() if key != "raw"}},
        "raw": found["raw"],
    }  # fmt: skip
    finish_sides(
        f"one replanning call on llama.cpp (seconds, medians): {length:,} tokens of history",
        part,
        {
            "prefill": lambda entry: seconds(entry["prefill_ms"]),
            "decode": lambda entry: seconds(entry["decode_ms"]),
        },
        out,
        results,
        f"{LENGTH:,} tokens of history",
    )
