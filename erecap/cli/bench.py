"""`erecap bench`: times of calls, measured on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Measure on this machine.", no_args_is_help=True)


@app.callback()
def _benches() -> None:
    pass


@app.command()
def replan(
    lengths: Annotated[str, typer.Option(help="Tokens of history, with commas.")] = "1000,2000,4000,7500",
    modes: Annotated[str, typer.Option(help="Modes, with commas.")] = "full,reuse,erecap,prune[recency]",
    new_tokens: Annotated[int, typer.Option(min=8, help="Tokens of the new turn.")] = 100,
    plan_tokens: Annotated[int, typer.Option(min=1, help="Tokens generated in every call.")] = 32,
    repetitions: Annotated[int, typer.Option(min=1, help="Timed calls of each mode at each length.")] = 5,
    kv_tokens: Annotated[int, typer.Option(min=16, help="Budget of the sessions that evict.")] = 1024,
    draft: Annotated[bool, typer.Option(help="Let sessions draft from the previous plan.")] = False,
    model: Annotated[str, typer.Option(help="Catalog name, folder or hub name.")] = "smollm2-135m-instruct",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; torch's choice if left out.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for raw rows and summary.")] = None,
) -> None:
    """Time one replanning call after histories of several lengths, mode by mode, beside its floor."""
    from rich.console import Console

    from erecap.bench.replan import ReplanBench, measure, summarise
    from erecap.bench.tables import as_table, write_results
    from erecap.errors import ConfigError
    from erecap.models import load

    try:
        counts = tuple(sorted({int(part) for part in lengths.split(",")}))
    except ValueError:
        counts = ()
    if not counts or counts[0] < 1:
        raise ConfigError(f"--lengths: got {lengths!r}; allowed: whole numbers from 1 on, with commas")
    bench = ReplanBench(
        lengths=counts,
        modes=tuple(part.strip() for part in modes.split(",")),
        new_tokens=new_tokens,
        plan_tokens=plan_tokens,
        repetitions=repetitions,
        kv_tokens=kv_tokens,
        draft=draft,
    )
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    progress = Console(stderr=True)
    loaded = load(model, dtype, "auto")
    rows = measure(bench, *loaded, say=lambda text: progress.print(text))
    summary = summarise(rows)
    Console().print(as_table(summary))
    if out is not None:
        write_results(out, bench, summary, rows, model, loaded[0])
        typer.echo(f"results: {out}")
