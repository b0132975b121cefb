"""`erecap bench`: times of calls, measured on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.cli.benching import end, is_given, measure, names_in, numbers_in, refuse_given, setting, show
from erecap.cli.model_options import DeviceMapOption
from erecap.cli.numbers import finite
from erecap.cli.outputs import result_file
from erecap.errors import ConfigError

app = typer.Typer(help="Measure on this machine.", no_args_is_help=True)

MODEL = "smollm2-135m-instruct"
Model = Annotated[str, typer.Option(help="Catalog name, folder or hub name.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="Threads; torch's choice if left out.")]
Out = Annotated[Path | None, typer.Option(callback=result_file, help="JSON file for settings, summary and raw rows.")]
Repetitions = Annotated[int, typer.Option(min=1, help="Timed calls of each kind, in turn.")]
KvTokens = Annotated[int, typer.Option(min=16, help="Budget of the sessions that evict.")]
PlanTokens = Annotated[int, typer.Option(min=2, help="Tokens generated in every call.")]
NewTokens = Annotated[int, typer.Option(min=8, help="Tokens of a new turn.")]
Weights = Annotated[str, typer.Option(help="Weights of the product row while decoding: same, int8 or int4.")]


@app.callback()
def _benches() -> None:
    pass


@app.command()
def replan(
    context: typer.Context,
    lengths: Annotated[str, typer.Option(help="Tokens of history, with commas.")] = "1000,2000,4000,7500",
    modes: Annotated[str, typer.Option(help="Modes, with commas.")] = "full,reuse,erecap,prune[recency]",
    rows: Annotated[
        str,
        typer.Option(help="algorithm (plain decoding, one precision), product (each side at its best), hf (stock)."),
    ] = "algorithm",
    decode_weights: Weights = "int4",
    new_tokens: NewTokens = 100,
    plan_tokens: PlanTokens = 32,
    repetitions: Repetitions = 5,
    kv_tokens: KvTokens = 1024,
    model: Model = MODEL,
    dtype: Dtype = "auto",
    device_map: DeviceMapOption = None,
    threads: Threads = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for plots of latency and of ceilings (SVG).")] = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="Also the peak memory of each call, in processes of their own.")
    ] = False,
    neighbour: Annotated[
        bool, typer.Option("--neighbour", help="Instead: `erecap` at one length, alone and beside a busy program.")
    ] = False,
    out: Out = None,
) -> None:
    """Time one replanning call after histories of several lengths, mode by mode, beside its floor and its ceiling.

    A mode that runs out of memory is left out at that length and beyond.
    With --neighbour: at 1,000 tokens, alone and beside a program that is busy on two threads.
    """
    from erecap.bench.replan.settings import ReplanBench

    if neighbour:
        refuse_given(context, ("modes", "rows", "decode_weights", "plots", "memory"), "--neighbour")
        from erecap.bench.neighbour import R11_LENGTH, NeighbourBench

        given = numbers_in(lengths, "--lengths", 1) if is_given(context, "lengths") else (R11_LENGTH,)
        if len(given) > 1:
            raise ConfigError(f"--lengths: --neighbour takes one length, got {lengths!r}")
        beside = NeighbourBench(given[0], new_tokens, plan_tokens, repetitions, kv_tokens)
        end([measure(beside, model, dtype, threads, out, command="replan --neighbour", device_map=device_map)])
        return

    counts = numbers_in(lengths, "--lengths", 1)
    bench = ReplanBench(
        lengths=counts,
        modes=names_in(modes),
        rows=names_in(rows),
        decode_weights=decode_weights,
        new_tokens=new_tokens,
        plan_tokens=plan_tokens,
        repetitions=repetitions,
        kv_tokens=kv_tokens,
        stock_lengths=counts,
        memory=memory,
    )
    if memory and "algorithm" not in bench.rows:
        raise ConfigError("--memory measures the row algorithm; name it among --rows")
    part = measure(bench, model, dtype, threads, out, device_map=device_map)
    if plots is not None:
        from erecap.bench.plots import write_plots

        for path in write_plots(plots, part):
            typer.echo(f"plot: {path}")
    end([part])


@app.command()
def prefill(
    tokens: Annotated[int, typer.Option(min=16, help="Tokens of household text.")] = 4096,
    keep: Annotated[float, typer.Option(callback=finite, help="Share of the tokens that each stage keeps.")] = 0.7,
    scorer: Annotated[str, typer.Option(help="What ranks the tokens.")] = "recency",
    repetitions: Repetitions = 5,
    model: Model = MODEL,
    dtype: Dtype = "auto",
    device_map: DeviceMapOption = None,
    threads: Threads = None,
    out: Out = None,
) -> None:
    """Time a cold prefill, pruned against full, beside what pruning can save at most; and the peak memory of each."""
    from erecap.bench.prefill import PrefillBench

    bench = PrefillBench(tokens=tokens, keep=keep, scorer=scorer, repetitions=repetitions)
    end([measure(bench, model, dtype, threads, out, device_map=device_map)])


@app.command()
def decode(
    kv: Annotated[str, typer.Option(help="Stored tokens of history, with commas.")] = "0,1024,4096",
    tokens: PlanTokens = 32,
    weights: Annotated[str, typer.Option(help="Weights while decoding, with commas.")] = "same,int8,int4",
    drafted: Annotated[bool, typer.Option(help="Also replans that repeat part of the plan before.")] = True,
    decode_weights: Weights = "int4",
    points: Annotated[int, typer.Option(min=1, help="Such replans, one after the other.")] = 8,
    history: Annotated[int, typer.Option(min=1, help="Tokens of chat before the first of them.")] = 1000,
    kv_tokens: KvTokens = 1024,
    repetitions: Repetitions = 5,
    model: Model = MODEL,
    dtype: Dtype = "auto",
    device_map: DeviceMapOption = None,
    threads: Threads = None,
    out: Out = None,
) -> None:
    """Time decoding, token by token on several lengths of stored text, and drafted where a plan repeats the last."""
    from erecap.bench.decode_settings import DecodeBench

    bench = DecodeBench(
        kv=numbers_in(kv, "--kv", 0),
        tokens=tokens,
        weights=names_in(weights),
        drafted=drafted,
        product_weights=decode_weights,
        points=points,
        history=history,
        kv_tokens=kv_tokens,
        repetitions=repetitions,
    )
    end([measure(bench, model, dtype, threads, out, device_map=device_map)])


@app.command()
def episode(
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of the episode; more than the window.")] = 20_000,
    new_tokens: NewTokens = 100,
    plan_tokens: PlanTokens = 32,
    kv_tokens: KvTokens = 1024,
    early: Annotated[int, typer.Option(min=1, help="Tokens at which the first replans are measured.")] = 1000,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes, each in other games.")] = 2,
    model: Model = MODEL,
    dtype: Dtype = "auto",
    device_map: DeviceMapOption = None,
    threads: Threads = None,
    out: Out = None,
) -> None:
    """Follow an episode past the model's window: time of a replan, and whether its plans stay what they would be."""
    from erecap.bench.episode import EpisodeBench

    bench = EpisodeBench(
        tokens=tokens,
        new_tokens=new_tokens,
        plan_tokens=plan_tokens,
        kv_tokens=kv_tokens,
        early=early,
        episodes=episodes,
    )
    end([measure(bench, model, dtype, threads, out, device_map=device_map)])


@app.command("all")
def everything(
    parts: Annotated[str, typer.Option(help="Parts, with commas.")] = "replan,prefill,decode,episode,neighbour",
    fresh: Annotated[bool, typer.Option(help="Measure parts anew that were measured already.")] = False,
    folder: Annotated[Path, typer.Option(help="Where each part leaves its file.")] = Path("runs/bench"),
    results: Annotated[Path, typer.Option(help="The results file that they are merged into.")] = Path(
        "docs/results/replan.json"
    ),
    model: Model = MODEL,
    dtype: Dtype = "auto",
    threads: Threads = None,
) -> None:
    """Measure everything with the published settings; a run that was stopped goes on with the part it was at."""
    from erecap.bench.suite import PUBLISHED, play_all, publish
    from erecap.errors import ConfigError

    chosen_names = names_in(parts)
    unknown = [name for name in chosen_names if name not in PUBLISHED]
    if unknown or not chosen_names:
        raise ConfigError(f"--parts: unknown part {', '.join(unknown) or 'none'}; allowed: {', '.join(PUBLISHED)}")
    about, load, say = setting(model, dtype, threads, "erecap bench all")
    chosen = {name: PUBLISHED[name] for name in PUBLISHED if name in chosen_names}
    done = play_all(chosen, load, folder, about, source=model, fresh=fresh, say=say)
    for part in done.values():
        show(part)
    publish(results, done, about)
    typer.echo(f"results: {results}")
    end(list(done.values()))
