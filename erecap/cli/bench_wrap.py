"""`erecap bench wrap`: a call of a growing chat, of a model as it is and wrapped."""

from __future__ import annotations

from typing import Annotated

import typer

from erecap.cli.bench import MODEL, Dtype, KvTokens, NewTokens, Out, PlanTokens, Threads
from erecap.cli.benching import numbers_in, setting


def wrap(
    lengths: Annotated[str, typer.Option(help="Tokens of history, with commas.")] = "500,1000,2000,4000",
    new_tokens: NewTokens = 100,
    plan_tokens: PlanTokens = 32,
    repetitions: Annotated[int, typer.Option(min=1, help="Chats, each in other games.")] = 3,
    kv_tokens: KvTokens = 1024,
    model: Annotated[str, typer.Option(help="Catalog name, folder or hub name.")] = MODEL,
    dtype: Dtype = "auto",
    threads: Threads = None,
    note: Annotated[str, typer.Option(help="A sentence on the circumstances, for the file.")] = "",
    out: Out = None,
) -> None:
    """Let a chat grow on a bare model, on a wrapped one, and on one with a budget, in turn, and compare their calls."""
    from rich.console import Console
    from rich.table import Table

    from erecap.bench.wrap import WrapBench, wrap_bench
    from erecap.files import write_json

    bench = WrapBench(numbers_in(lengths, "--lengths", 1), new_tokens, plan_tokens, kv_tokens, repetitions)
    about, load, say = setting(model, dtype, threads, "erecap bench wrap")
    found = {"part": "wrap", **about, "note": note, **wrap_bench(bench, *load(), say)}
    names = {"bare": "bare", "wrapped": "wrapped", "budget": f"wrapped, budget {kv_tokens:,}"}
    table = Table("history", "side", "prompt tokens", "read", "stored", "call, s", "bare over it", "same tokens")
    for row in found["summary"]:
        seconds = "{:.2f} ({:.2f} to {:.2f})".format(*(ms / 1e3 for ms in row["ms"]))
        ratio = "{:.2f} ({:.2f} to {:.2f})".format(*row["speed_up"])
        counts = (f"{row[name]:,.0f}" for name in ("prompt_tokens", "read_tokens", "stored_tokens"))
        table.add_row(f"{row['length']:,}", names[row["side"]], *counts, seconds, ratio, f"{row['equal_tokens']:.1%}")
    Console(markup=False, emoji=False).print(table)
    if out is not None:
        write_json(out, found)
        typer.echo(f"results: {out}")
