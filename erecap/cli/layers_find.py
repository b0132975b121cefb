"""`erecap layers find`, `steps` and `take`: searches for layer plans, and plans taken from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from erecap.cli.layer_options import (
    ClockDecodedOption,
    ClockRoundsOption,
    ClockTokensOption,
    CountOption,
    LengthOption,
    LossSequencesOption,
    TextsOption,
    TuneOption,
    kinds_of,
)
from erecap.cli.model_options import AdapterOption, DeviceOption, DtypeOption, ModelArgument, ThreadsOption
from erecap.cli.numbers import finite

if TYPE_CHECKING:
    from erecap.layers.search import SearchFolder

WIDTH = 118  # of a table that goes into a file

FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="Result of `erecap layers find`.")]
PhaseOption = Annotated[str, typer.Option(help="Latencies that count: decode or prefill.")]


def find(
    context: typer.Context,
    method: Annotated[
        str, typer.Argument(metavar="METHOD", help="sprint, sleb, shortgpt, blockpruner, magnitude, random.")
    ],
    model: ModelArgument,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the steps go; the same command goes on there.")],
    adapter: AdapterOption = None,
    sublayers: Annotated[int | None, typer.Option(metavar="N", help="Stop when so many sublayers are out.")] = None,
    speed_up: Annotated[
        float | None, typer.Option(metavar="X", callback=finite, help="Stop at this predicted speed-up.")
    ] = None,
    texts: TextsOption = None,
    count: CountOption = 64,
    length: LengthOption = 256,
    held_out: Annotated[int, typer.Option(metavar="N", help="Further sequences that judge the steps; 0: none.")] = 16,
    evaluate_every: Annotated[int, typer.Option(metavar="N", help="Steps between two judgements.")] = 1,
    metric: Annotated[str, typer.Option(help="Change of hidden states: l1, l2 or cosine.")] = "l2",
    over: Annotated[str, typer.Option(help="Vectors that it is taken of: sentence, token or channel.")] = "token",
    latency_aware: Annotated[bool, typer.Option(help="Divide the change by the latency saved.")] = True,
    phase: PhaseOption = "decode",
    tune: TuneOption = "mlp",
    ratio: Annotated[float, typer.Option(callback=finite, help="Share of output channels that are tuned.")] = 1.0,
    damping: Annotated[float, typer.Option(callback=finite, help="Ridge, over the mean diagonal of X'X.")] = 0.1,
    candidates: Annotated[int, typer.Option(metavar="N", help="Best sublayers that are tuned at each step.")] = 5,
    checkpoints: Annotated[int, typer.Option(metavar="N", help="Layers before which hidden states are kept.")] = 8,
    batch_tokens: Annotated[int, typer.Option(metavar="N", help="Tokens of one forward pass.")] = 2048,
    loss_sequences: LossSequencesOption = 0,
    clock_tokens: ClockTokensOption = 1024,
    clock_decoded: ClockDecodedOption = 32,
    clock_batch: Annotated[int, typer.Option(metavar="N", help="Sequences side by side; 1: a session.")] = 1,
    repetitions: ClockRoundsOption = 5,
    latencies: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Take the latencies of another search; else they are measured."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of texts and of the method random.")] = 0,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the steps that are there.")] = False,
) -> None:
    """Search for sublayers that a model can do without, step by step. `take` makes a plan of the first steps."""
    from rich.console import Console

    from erecap.bench.layer_clock import LayerClock
    from erecap.cli.benching import refuse_given
    from erecap.language_models.build import ModelSettings, open_model
    from erecap.layers.search import SearchOptions, Target
    from erecap.layers.search.options import options_of
    from erecap.registries import LAYER_SEARCHES
    from erecap.tuning.layer_search import LayerSearch, search_layers

    if latencies is not None:
        refuse_given(context, ("clock_tokens", "clock_decoded", "clock_batch", "repetitions"), "--latencies")
    used = options_of(LAYER_SEARCHES.get_or_refuse(method, "METHOD"))
    # Of a target speed-up, every method needs to know which one.
    always = {"phase"} if speed_up is not None else set()
    unused = [name for name in SearchOptions.__dataclass_fields__ if name not in {*used, *always}]
    refuse_given(context, unused, f"method {method}")
    if "tune" in used and not kinds_of(tune):
        refuse_given(context, ("ratio", "damping", "candidates"), "--tune none")
    if held_out == 0:
        refuse_given(context, ("evaluate_every",), "--held-out 0")
    options = SearchOptions(
        metric, over, latency_aware, phase, kinds_of(tune), ratio, damping, candidates, checkpoints, batch_tokens,
        loss_sequences,
    )  # fmt: skip
    settings = LayerSearch(
        method=method,
        target=Target(sublayers, speed_up),
        options=options,
        texts=tuple(texts or ("planner",)),
        count=count,
        length=length,
        held_out=held_out,
        evaluate_every=evaluate_every,
        seed=seed,
        clock=LayerClock(clock_tokens, clock_decoded, repetitions, clock_batch),
        latencies=latencies,
    )
    progress = Console(markup=False, emoji=False, stderr=True)
    opened = open_model(ModelSettings(model, adapter, dtype, device, threads))
    found = search_layers(settings, opened, out, fresh=fresh, say=lambda text: progress.print(text))
    _show(found)


def steps(folder: FolderArgument) -> None:
    """Print the steps of a search."""
    from erecap.layers.search import SearchFolder

    _show(SearchFolder.open(folder))


def take(
    context: typer.Context,
    folder: FolderArgument,
    out: Annotated[Path, typer.Option(metavar="PLAN", help="Where the plan goes.")],
    count: Annotated[int | None, typer.Option("--steps", metavar="N", help="The first N steps.")] = None,
    speed_up: Annotated[
        float | None, typer.Option(metavar="X", callback=finite, help="As many as this predicted speed-up takes.")
    ] = None,
    phase: PhaseOption = "decode",
) -> None:
    """Make a layer plan of the first steps of a search."""
    from erecap.cli.benching import refuse_given
    from erecap.errors import ConfigError
    from erecap.layers.files import PLAN, save_plan
    from erecap.layers.search import SearchFolder
    from erecap.layers.search.options import PHASES

    if phase not in PHASES:
        raise ConfigError(f"--phase: got {phase!r:.60}; allowed: {', '.join(PHASES)}")
    if (count is None) == (speed_up is None):
        raise ConfigError("layers take: name --steps or --speed-up, one of the two")
    if count is not None:
        refuse_given(context, ("phase",), "--steps")
    if (out / PLAN).exists():
        raise ConfigError(f"--out: {out} holds a layer plan already; choose another folder")
    found = SearchFolder.open(folder)
    number = count if count is not None else found.steps_for(phase, speed_up or 0.0)
    plan = found.plan(number)
    save_plan(out, plan)
    typer.echo(f"{number} steps: {plan.words()} of {plan.layers} layers; in {out}")


def _show(found: SearchFolder) -> None:
    """A table of the steps."""
    from rich.console import Console
    from rich.table import Table

    assert found.head is not None, "only a folder with a search is shown"
    phases = [phase for phase in ("decode", "prefill") if phase in found.latencies]
    table = Table(title=f"{found.head['method']} on {found.head['base']['name']}", title_justify="left")
    for name in ("step", "removed", "tuned", "score", *phases, "perplexity", "same next", "evaluations", "passes", "s"):
        table.add_column(name, justify="left" if name in ("removed", "tuned") else "right")
    for row in found.rows:
        judged = row.evaluation
        table.add_row(
            str(row.step),
            " ".join(row.removed) or "dense model",
            "yes" if row.tuned else "",
            "" if row.score is None else f"{row.score:.4g}",
            *(f"{row.predicted[phase]:.3f}x" for phase in phases),
            *(("", "") if judged is None else (f"{judged['perplexity']:.3f}", f"{100 * judged['agreement']:.1f} %")),
            str(row.evaluations or ""),
            f"{row.passes:.1f}" if row.passes else "",
            f"{row.seconds:.1f}" if row.seconds else "",
        )
    console = Console(markup=False, emoji=False)
    (console if console.is_terminal else Console(markup=False, emoji=False, width=WIDTH)).print(table)
    typer.echo("decode, prefill: predicted speed-up; perplexity, same next: on held-out text, against the dense model")
