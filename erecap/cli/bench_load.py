"""`erecap bench load`: many agents ask one server at a time."""

from __future__ import annotations

from typing import Annotated

import typer

from erecap.cli.bench import Out
from erecap.cli.numbers import finite


def load(
    url: Annotated[str, typer.Argument(metavar="URL", help="A server with its /v1, such as http://127.0.0.1:8000/v1.")],
    agents: Annotated[int, typer.Option(min=1, max=4096, help="Conversations at a time.")] = 16,
    calls: Annotated[int, typer.Option(min=1, help="Calls of each agent.")] = 8,
    history: Annotated[int, typer.Option(min=1, help="Tokens that a conversation begins with, about.")] = 2000,
    new_tokens: Annotated[int, typer.Option(min=1, help="New tokens of a call, about.")] = 100,
    plan_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 32,
    pause: Annotated[float, typer.Option(callback=finite, min=0, help="Seconds from an answer to the next.")] = 0.0,
    out: Out = None,
) -> None:
    """Let many agents lead conversations on an OpenAI-compatible server, and tell how long their calls took.

    Ends with an error if a call failed. `OPENAI_API_KEY` goes to the server where it is set.
    """
    from rich.console import Console

    from erecap.bench.load import LoadBench, load_bench
    from erecap.errors import RunError
    from erecap.files import write_json

    bench = LoadBench(agents, calls, history, new_tokens, plan_tokens, pause)
    found = load_bench(bench, url, Console(markup=False, emoji=False, stderr=True).print)
    summary = found["summary"]
    typer.echo(f"{summary['calls']} calls of {agents} agents, {summary['failed']} failed")
    if summary["p50_s"] is not None:
        times = f"P50 {summary['p50_s']:.2f} s, P95 {summary['p95_s']:.2f} s, longest {summary['max_s']:.2f} s"
        typer.echo(f"{times}; {summary['calls_per_s']:.2f} calls a second")
    if summary["cached"] is not None:
        typer.echo(f"found in the cache after the first call: {summary['cached']:.1%} of the prompts")
    if out is not None:
        write_json(out, {"part": "load", "command": "erecap bench load", **found})
        typer.echo(f"results: {out}")
    if summary["failed"]:
        raise RunError(f"{summary['failed']} of {summary['calls']} calls failed; the first: {summary['first_error']}")
