"""`erecap bench slices`: measured speed of sliced models over what their FLOPs promise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from erecap.cli.bench import MODEL, Dtype, Out, Repetitions, Threads
from erecap.cli.benching import setting

if TYPE_CHECKING:
    from erecap.bench.slices import SlicesBench
    from erecap.language_models.opened import OpenedModel


def slices(
    context: typer.Context,
    heads: Annotated[str, typer.Option(metavar="R,R", help="Shares of the KV groups that go.")] = "0.2,0.3",
    channels: Annotated[str, typer.Option(metavar="R,R", help="Shares of the channels that go.")] = "0.2,0.3",
    spread: Annotated[str, typer.Option(help="uniform or global.")] = "uniform",
    multiple: Annotated[int, typer.Option(min=1, help="Channels that a layer keeps are a multiple of this.")] = 32,
    plan: Annotated[
        list[str] | None, typer.Option(metavar="PLAN", help="Measure these plans instead; repeat for several.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=16, help="Tokens of household text that are read.")] = 1024,
    decoded: Annotated[int, typer.Option(min=1, help="Tokens that are decoded after them.")] = 32,
    decode_weights: Annotated[str, typer.Option(help="Weights while decoding: same, int8 or int4.")] = "same",
    pack: Annotated[bool, typer.Option("--pack", help="Pack 2:4 weights of the plans for the device.")] = False,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Instead: plain prefill with torch.compile and without.")
    ] = False,
    repetitions: Repetitions = 15,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the household game.")] = 0,
    model: Annotated[str, typer.Option(help="Catalog name, folder or hub name.")] = MODEL,
    adapter: Annotated[str | None, typer.Option(help="LoRA adapter merged into it: a folder or a name.")] = None,
    dtype: Dtype = "auto",
    threads: Threads = None,
    out: Out = None,
    results: Annotated[Path | None, typer.Option(help="A results file that L4 is merged into.")] = None,
) -> None:
    """Time the whole model and sliced ones in turn: prefill and decoding, beside the FLOPs that were saved.

    Slices are chosen by weights, which takes no text: which parts go does not change how fast the rest is.
    """
    from erecap.bench.compiled import compiled_bench
    from erecap.bench.layers import LayersBench, household_ids
    from erecap.bench.results import merge_rows
    from erecap.bench.slices import SlicesBench, slices_bench, slices_rows, slices_summary
    from erecap.cli.benching import refuse_given
    from erecap.decoding.linear import known_weights
    from erecap.errors import ConfigError
    from erecap.files import write_json
    from erecap.language_models.build import ModelSettings, open_model

    if plan:
        refuse_given(context, ("heads", "channels", "spread", "multiple", "results"), "--plan")
    elif pack:
        raise ConfigError("--pack: packs the 2:4 weights of a plan; name one with --plan")
    if compile_:
        refuse_given(context, ("decoded", "decode_weights", "pack", "results"), "--compile")
    shares = {"heads": _shares("--heads", heads), "channels": _shares("--channels", channels)}
    try:
        weights = known_weights(decode_weights)
    except ValueError as error:
        raise ConfigError(f"--decode-weights: {error}") from error
    bench = SlicesBench(
        shares["heads"], shares["channels"], spread, multiple, tokens, decoded, weights, repetitions, seed
    )
    if results is not None and not bench.published:
        raise ConfigError(
            "--results: figure L4 is of heads and channels at 0.2 and 0.3; leave out one of the two options"
        )
    about, _, say = setting(model, dtype, threads, "erecap bench slices")
    if adapter is not None:
        about["model"]["adapter"] = Path(adapter).name
    opened = open_model(ModelSettings(model, adapter, dtype, "auto", threads))
    models = _models(opened, bench, plan, pack, say)
    ids = household_ids(LayersBench(tokens, seed=seed), opened.tokenizer)
    if compile_:
        found = {"compiled": compiled_bench(models, ids, say, repetitions=repetitions)}
        _show_compiled(found["compiled"])
    else:
        found = slices_bench(bench, models, ids, say)
        summary = slices_summary(found)
        found |= {"summary": summary, "rows": slices_rows(bench, summary, about) if not plan else []}
        _show(summary)
    if out is not None:
        write_json(out, {"part": "slices", "settings": vars(bench), **about, **found})
        typer.echo(f"results: {out}")
    if results is not None:
        merge_rows(results, found["rows"], file="layers")
        typer.echo(f"results: {results}")


def _models(opened: OpenedModel, bench: SlicesBench, plans: list[str] | None, pack: bool, say: Any) -> dict[str, Any]:
    """The whole model and the sliced ones by name; they share what they have in common."""
    from erecap.bench.slices import WHOLE, sliced_models
    from erecap.errors import ConfigError
    from erecap.layers.slices.two_four import pack as pack_weights

    if not plans:
        return sliced_models(opened.model, bench)
    models = {WHOLE: opened.model}
    for name in plans:
        short = Path(name).name
        if short in models:
            raise ConfigError(f"--plan: two are called {short}; figures are told apart by the last part of a path")
        models[short] = opened.with_layers(name).model
        if pack:
            say(f"{short}: {pack_weights(models[short])} projections packed")
    return models


def _shares(option: str, text: str) -> tuple[float, ...]:
    from erecap.errors import ConfigError

    try:
        shares = tuple(sorted({float(part) for part in text.split(",") if part.strip()}))
    except ValueError:
        shares = (0.0,)
    if not all(0 < share < 1 for share in shares):
        raise ConfigError(f"{option}: got {text!r:.60}; allowed: shares between 0 and 1, such as 0.2,0.3")
    return shares


def _show(summary: list[dict[str, Any]]) -> None:
    from rich.console import Console

    from erecap.bench.tables import table_of

    rows = [
        (
            f"{row['model']}, {row['phase']}",
            *(f"{ms:,.0f}" if ms >= 1000 else f"{ms:.1f}" for ms in (row["whole_ms"], row["ms"])),
            f"{row['speed_up']['value']:.3f} ({row['speed_up']['low']:.2f}–{row['speed_up']['high']:.2f})",
            f"{row['flop_ratio']:.3f}",
            "–" if row["bound"] is None else f"{row['bound']:.3f}",
            "–" if row["share"] is None else f"{row['share']['value']:.2f}",
        )
        for row in summary
    ]
    columns = ("model", "whole", "sliced", "speed-up", "FLOPs", "bound", "kept")
    table = table_of(
        "Milliseconds of a prefill and of a decoded token (medians, in turn)", columns, rows, left=("model",)
    )
    Console(markup=False, emoji=False).print(table)


def _show_compiled(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        typer.echo(
            f"{row['model']:14s} plain prefill {row['eager_ms']:,.1f} ms, compiled {row['compiled_ms']:,.1f} ms: "
            f"{row['speed_up']['value']:.2f}x; compiling took {row['compile_s']:.0f} s"
        )
