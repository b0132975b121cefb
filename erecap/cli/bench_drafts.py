"""`erecap bench drafts`: ways to draft side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.cli.bench import MODEL, Dtype, KvTokens, Model, Out, PlanTokens, Repetitions, Threads
from erecap.cli.benching import is_given, names_in, refuse_given, setting
from erecap.cli.model_options import AdapterOption


def drafts(
    context: typer.Context,
    ways: Annotated[
        str, typer.Option(help="Ways to draft beside plain decoding, with commas.")
    ] = "automaton,automaton-run,lookup,prompt-lookup,suffix",
    weights: Annotated[str, typer.Option(help="Weights while decoding, with commas.")] = "same,int4",
    replans: Annotated[bool, typer.Option(help="Replans of a household game, and new plans.")] = True,
    tokens: PlanTokens = 32,
    points: Annotated[int, typer.Option(min=1, help="Replans, one after the other.")] = 8,
    new_plans: Annotated[int, typer.Option(min=0, help="New plans, each in another game.")] = 4,
    history: Annotated[int, typer.Option(min=1, help="Tokens of chat before the first plan.")] = 1000,
    kv_tokens: KvTokens = 1024,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Prompt sets: JSONL files whose rows have a list `turns`.")
    ] = None,
    prompt_count: Annotated[int, typer.Option(min=1, help="Prompts of each set, the first ones.")] = 10,
    prompt_tokens: Annotated[int, typer.Option(min=2, help="Most tokens of an answer to a prompt.")] = 64,
    repetitions: Repetitions = 5,
    processor_time: Annotated[
        bool, typer.Option("--processor-time", help="Compare processor time; with one thread on a CPU.")
    ] = False,
    model: Model = MODEL,
    adapter: AdapterOption = None,
    dtype: Dtype = "auto",
    threads: Threads = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep what --out was measured with the same settings.")] = (
        False
    ),
    results: Annotated[
        Path | None, typer.Option(help="Results file that the rows R7, R7-lookup and R7-suffix are merged into.")
    ] = None,
) -> None:
    """Compare ways to draft: accepted tokens, tokens a pass, time a token, and agreement with plain decoding.

    On replans that repeat part of the last plan, on new plans, and on prompt sets of a folder.
    """
    from rich.console import Console

    from erecap.bench.drafts.bench import drafts_bench
    from erecap.bench.drafts.settings import DraftsBench
    from erecap.bench.drafts.tables import drafts_tables
    from erecap.bench.suite import measured_part, publish, write_part
    from erecap.errors import ConfigError
    from erecap.models import describe_adapter, load

    if not replans:
        refuse_given(context, ("tokens", "points", "new_plans", "history", "kv_tokens", "results"), "--no-replans")
    if prompts is None:
        named = [name for name in ("prompt_count", "prompt_tokens") if is_given(context, name)]
        refuse_given(context, named, "a bench without --prompts")
    bench = DraftsBench(
        ways=names_in(ways), weights=names_in(weights), replans=replans, tokens=tokens, points=points,
        new_plans=new_plans, history=history, kv_tokens=kv_tokens, prompts=prompts, prompt_count=prompt_count,
        prompt_tokens=prompt_tokens, repetitions=repetitions, processor_time=processor_time,
    )  # fmt: skip
    bench.check()
    if resume and out is None:
        raise ConfigError("--resume: got it without --out; allowed: with the file that may hold the part")
    about, _, say = setting(model, dtype, threads, "erecap bench drafts")
    if adapter is not None:
        about["model"]["adapter"] = describe_adapter(adapter)
    part = measured_part(out, bench.as_row(), about) if resume and out is not None else None
    kept = part is not None
    if part is None:
        part = drafts_bench(bench, *load(model, dtype, "auto", adapter=adapter), about, say)
    else:
        say(f"drafts: measured on {part['date']} already, kept ({Path(str(out)).name}; without --resume it is anew)")
    console = Console(markup=False, emoji=False)
    for table in drafts_tables(part):
        console.print(table)
    for name, count in part["summary"]["left_out"].items():
        if count:
            typer.echo(f"{name}: {count} prompts do not fit the model's window with their answers, and were left out")
    if out is not None and not kept:
        write_part(out, part)
        typer.echo(f"file: {out}")
    if results is not None:
        publish(results, {"drafts": part}, about)
        typer.echo(f"results: {results}")
