"""`erecap bench serve`: time that a socket adds to a replanning call, and growth of that time over a conversation."""

from __future__ import annotations

from typing import Annotated

import typer

from erecap.cli.bench import MODEL, Dtype, KvTokens, Out, Threads
from erecap.cli.benching import setting


def serve(
    turns: Annotated[int, typer.Option(min=4, help="Planning calls of the conversation.")] = 60,
    turn_tokens: Annotated[int, typer.Option(min=8, help="New tokens before each call.")] = 100,
    plan_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 32,
    kv_tokens: KvTokens = 1024,
    model: Annotated[str, typer.Option(help="Catalog name, folder or hub name.")] = MODEL,
    dtype: Dtype = "auto",
    threads: Threads = None,
    out: Out = None,
) -> None:
    """Let one conversation grow on a server and on a session in this process, in turn, and compare their times."""
    from erecap.bench.serve import ServeBench, serve_bench
    from erecap.files import write_json

    bench = ServeBench(turns, turn_tokens, plan_tokens, kv_tokens)
    about, load, say = setting(model, dtype, threads, "erecap bench serve")
    found = {"part": "serve", **about, **serve_bench(bench, *load(), say)}
    summary = found["summary"]
    first, last = summary["tokens"]
    typer.echo(f"{summary['calls']} calls with chats of {first:,} to {last:,} tokens, {kv_tokens:,} stored, medians:")
    typer.echo(f"  served {summary['served_ms']:.0f} ms, in the process {summary['direct_ms']:.0f} ms")
    typer.echo(f"  served over in the process, call by call: {summary['served_over_direct']:.3f}")
    typer.echo(f"  the later half over the earlier: {summary['late_over_early']:.3f}")
    typer.echo(f"  same answers: {summary['same_answers']:.0%}")
    if out is not None:
        write_json(out, found)
        typer.echo(f"results: {out}")
