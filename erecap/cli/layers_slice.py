"""`erecap layers slice` and `erecap layers profiles`: heads and channels that matter least, sliced off."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from erecap.cli.model_options import AdapterOption, DeviceOption, DtypeOption, ModelArgument, ThreadsOption
from erecap.cli.numbers import finite

if TYPE_CHECKING:
    from collections.abc import Callable

    from erecap.language_models.opened import OpenedModel
    from erecap.layers.plan import LayerPlan
    from erecap.layers.slices.making import Slicer
    from erecap.layers.slices.profiles import Source

ImportanceOption = Annotated[str, typer.Option(help="What ranks parts: activation, output or weights.")]
SpreadOption = Annotated[str, typer.Option(help="uniform: alike in all layers; global: the least important parts.")]
MultipleOption = Annotated[int, typer.Option(min=1, help="Channels that a layer keeps are a multiple of this.")]
ReconstructOption = Annotated[str, typer.Option(help="Fit of what is left: none, gain, channel-gain, least-squares.")]
DampingOption = Annotated[float, typer.Option(callback=finite, help="Of least squares: the higher, the less it moves.")]
TextOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SOURCE", help="Calibration text: planner (if left out), a file, or a collected folder; several add up."
    ),
]
CountOption = Annotated[int, typer.Option(min=1, help="Calibration texts.")]
LengthOption = Annotated[int, typer.Option(min=2, help="Tokens of each.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the calibration texts.")]


def slice_(
    context: typer.Context,
    model: ModelArgument,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the plan goes.")],
    adapter: AdapterOption = None,
    heads: Annotated[float, typer.Option(callback=finite, help="Share of the KV groups that goes.")] = 0.0,
    channels: Annotated[float, typer.Option(callback=finite, help="Share of the MLP channels that goes.")] = 0.0,
    two_four: Annotated[
        str | None, typer.Option(metavar="KIND", help="Zero two of every four weights by: magnitude or activation.")
    ] = None,
    importance: ImportanceOption = "activation",
    spread: SpreadOption = "uniform",
    multiple: MultipleOption = 32,
    reconstruct: ReconstructOption = "none",
    damping: DampingOption = 0.01,
    text: TextOption = None,
    count: CountOption = 64,
    length: LengthOption = 128,
    seed: SeedOption = 0,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Slice off the KV groups and channels that matter least, fit what is left, and write a plan.

    A plan that was made from the same inputs is kept. With --two-four, masks of weights as well or instead.
    """
    from erecap.errors import ConfigError
    from erecap.language_models.build import ModelSettings, open_model
    from erecap.layers.files import PLAN, load_plan
    from erecap.layers.slices.profiles import known, make
    from erecap.layers.slices.settings import SliceSettings
    from erecap.layers.slices.two_four import packing_problem

    settings = SliceSettings(heads, channels, importance, spread, multiple, reconstruct, damping, two_four)
    _refuse_idle(context, settings.needs_text, bool(heads or channels), bool(channels), reconstruct)
    _check_place(out)
    opened = open_model(ModelSettings(model, adapter, dtype, device, threads))
    source, slicer = _source(opened, text if settings.needs_text else [], count, length, seed)
    plan = known(out, source, settings)
    if plan is None and (out / PLAN).exists():
        load_plan(out)  # a damaged one is told as such
        raise ConfigError(f"--out: {out} holds a slice that was made from other inputs; choose another folder")
    kept = plan is not None
    if plan is None:
        plan = make(out, slicer(), source, settings, _command(opened, settings.facts()))
    typer.echo(f"{_words(plan)}; {'made already with the same inputs, kept' if kept else 'in'} {out}")
    if two_four is not None:
        problem = packing_problem(opened.model.device, opened.model.dtype)
        typer.echo(
            "2:4: `erecap bench slices --pack` packs these weights here"
            if problem is None
            else f"2:4: nothing gets faster here: {problem}"
        )


def profiles(
    context: typer.Context,
    model: ModelArgument,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the profiles, one folder each.")],
    adapter: AdapterOption = None,
    ratios: Annotated[str, typer.Option(metavar="R,R", help="Shares that go, each of heads and of channels.")] = (
        "0.1,0.2,0.3"
    ),
    importance: ImportanceOption = "activation",
    spread: SpreadOption = "uniform",
    multiple: MultipleOption = 32,
    reconstruct: ReconstructOption = "least-squares",
    damping: DampingOption = 0.01,
    text: TextOption = None,
    count: CountOption = 64,
    length: LengthOption = 128,
    seed: SeedOption = 0,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Make the static profiles: heads alone and channels alone, at three shares each.

    Those whose inputs did not change are kept: the model and its adapter, the text, the options.
    """
    from erecap.language_models.build import ModelSettings, open_model
    from erecap.layers.slices.profiles import known, make, six_profiles
    from erecap.layers.slices.settings import SliceSettings

    shares = _shares(ratios)
    first = SliceSettings(0.0, shares[0], importance, spread, multiple, reconstruct, damping)
    _refuse_idle(context, first.needs_text, True, True, reconstruct)
    _check_place(out)
    opened = open_model(ModelSettings(model, adapter, dtype, device, threads))
    source, slicer = _source(opened, text if first.needs_text else [], count, length, seed)
    for name, settings in six_profiles(first, shares).items():
        plan = known(out / name, source, settings)
        kept = plan is not None
        if plan is None:
            plan = make(out / name, slicer(), source, settings, _command(opened, settings.facts()))
        typer.echo(f"{name:13s} {_words(plan)}{'; kept' if kept else ''}")


def _source(
    opened: OpenedModel, text: list[str] | None, count: int, length: int, seed: int
) -> tuple[Source, Callable[[], Slicer]]:
    """What slices are made from, and what makes them, which is prepared when it is asked for first.

    Args:
        text: sources; None: the planner's; empty: no text is needed.
    """
    from functools import cache

    from rich.console import Console

    from erecap.layers.slices.making import Slicer
    from erecap.layers.slices.profiles import Source
    from erecap.tuning.calibration_texts import PLANNER, calibration_ids

    dtype = opened.facts["dtype"]
    progress = Console(markup=False, emoji=False, stderr=True)
    say = lambda line: progress.print(line)  # noqa: E731
    if text == []:
        return Source(opened.base, dtype), cache(lambda: Slicer(opened.model, (), say))
    ids = calibration_ids(text or [PLANNER], opened.tokenizer, count=count, length=length, seed=seed)
    facts = {"texts": count, "length": length, "seed": seed, "sources": ids.facts()}
    return Source(opened.base, dtype, ids, facts), cache(lambda: Slicer(opened.model, ids, say))


def _refuse_idle(context: typer.Context, text: bool, slices: bool, channels: bool, reconstruct: str) -> None:
    """Refuse options that would have no effect.

    Args:
        text: calibration text is read.
        slices, channels: heads or channels go; channels go.
    """
    from erecap.cli.benching import is_given
    from erecap.errors import ConfigError

    idle = {
        "where no text is read": () if text else ("text", "count", "length", "seed"),
        "without --heads or --channels": () if slices else ("importance", "spread"),
        "without --channels": () if channels else ("multiple",),
        "without --reconstruct least-squares": () if reconstruct == "least-squares" else ("damping",),
    }
    for where, names in idle.items():
        given = next((name for name in names if is_given(context, name)), None)
        if given is not None:
            raise ConfigError(f"--{given}: changes nothing {where}; leave it out")


def _check_place(out: Path) -> None:
    """Refuse a file where a folder is to be made, before anything is computed."""
    from erecap.errors import ConfigError

    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out: {out} is a file; name a folder")


def _shares(text: str) -> tuple[float, ...]:
    from erecap.errors import ConfigError

    try:
        shares = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        shares = ()
    if not shares or not all(0 < share < 1 for share in shares):
        raise ConfigError(f"--ratios: got {text!r:.60}; allowed: shares between 0 and 1, such as 0.1,0.2,0.3")
    return shares


def _command(opened: OpenedModel, settings: dict[str, Any]) -> str:
    """The command that makes a slice, with the options that differ from their defaults."""
    from erecap.layers.slices.settings import SliceSettings

    defaults = SliceSettings(channels=0.5).facts() | {"channels": 0.0}
    options = {name: value for name, value in settings.items() if value != defaults[name]}
    if opened.facts["adapter"] is not None:
        options = {"adapter": opened.facts["adapter"]["name"], **options}
    words = (f"--{name.replace('_', '-')} {value}" for name, value in options.items())
    return f"erecap layers slice {opened.facts['name']} {' '.join(words)}"


def _words(plan: LayerPlan) -> str:
    """How much a slice takes out, and how well what is left was fitted."""
    parts = [f"{name} {share}" for name, share in plan.found["gone"].items()]
    if "missed" in plan.found:
        missed = plan.found["missed"]
        parts.append(f"sublayers miss {missed['before']:.1%} of their output, {missed['after']:.1%} after the fit")
    if plan.found["settings"]["two_four"] is not None:
        parts.append(f"two of four weights in {len(plan.tuned)} projections")
    return ", ".join(parts)
