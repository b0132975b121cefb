"""`erecap profile`: a model over lengths, as prefills, whole calls, and peak memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from erecap.cli.benching import end, names_in, numbers_in, setting
from erecap.cli.model_options import AdapterOption, DtypeOption, ModelArgument, ThreadsOption
from erecap.cli.outputs import result_file
from erecap.cli.shared_options import with_options

app = typer.Typer(help="Profile a model over lengths, presets and modes.", no_args_is_help=True)

Repetitions = Annotated[int, typer.Option(min=1, help="Timed calls of each kind, in turn, after one warm-up.")]
NewTokens = Annotated[int, typer.Option(min=8, help="Tokens of the new turn.")]
PlanTokens = Annotated[int, typer.Option(min=2, help="Tokens generated in every call.")]


@dataclass(frozen=True)
class Profiling:
    """Options of all three parts."""

    model: ModelArgument
    lengths: Annotated[str, typer.Option(help="Tokens of the whole call, with commas.")] = "1024,2048,4096,8192"
    presets: Annotated[str, typer.Option(help="Keep ratios of the modes prune[...], with commas.")] = (
        "keep09,keep08,keep07"
    )
    modes: Annotated[str, typer.Option(help="Modes, with commas.")] = "full,prune[recency],reuse,erecap"
    window: Annotated[
        int | None,
        typer.Option(min=512, metavar="TOKENS", help="Stretch the model's window to this, for its shape alone."),
    ] = None
    repetitions: Repetitions = 5
    kv_tokens: Annotated[int, typer.Option(min=16, help="Budget of the modes that evict.")] = 1024
    adapter: AdapterOption = None
    pruner: Annotated[
        str | None, typer.Option(metavar="NAME", help="Trained pruner that ranks in erecap and in prune\\[learned].")
    ] = None
    dtype: DtypeOption = "auto"
    threads: ThreadsOption = None
    folder: Annotated[Path, typer.Option(help="Where measured calls are kept, so that a stopped profile goes on.")] = (
        Path("runs/profile")
    )
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure anew what was measured already.")] = False
    out: Annotated[
        Path | None,
        typer.Option(callback=result_file, metavar="FILE", help="JSON file for settings, summary and raw rows."),
    ] = None
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Markdown file for the table.")] = None
    plots: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder for curves and the heat map (SVG).")] = (
        None
    )
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A results file that the part is merged into.")
    ] = None


@dataclass(frozen=True)
class Peaks(Profiling):
    """The same of the peaks, which scatter little."""

    repetitions: Repetitions = 1


@app.command()
@with_options(Profiling)
def prefill(options: Profiling) -> None:
    """Time reading a whole chat on an empty cache; beside it the FLOP ceiling, what is claimed, and the KV saved.

    Sessions (`reuse`, `erecap`) read in chunks, and `erecap` evicts between them. Lengths that do not fit into memory
    are left out.
    """
    _profile("prefill", options)


@app.command()
@with_options(Profiling)
def end2end(options: Profiling, new_tokens: NewTokens = 100, plan_tokens: PlanTokens = 32) -> None:
    """Time a replanning call: the history is there, a turn is new, a plan is decoded; beside it the call's floor.

    `full` and `prune[...]` read everything in the call; sessions have read the history before.
    """
    _profile("end2end", options, new_tokens=new_tokens, plan_tokens=plan_tokens)


@app.command()
@with_options(Peaks)
def memory(
    options: Peaks,
    of: Annotated[str, typer.Option(help="The call whose peak is measured: prefill or end2end.")] = "prefill",
) -> None:
    """Measure the peak memory of each call beside the weights, by device: on CPUs in a process of its own."""
    _profile("memory", options, of=of)


def _profile(part: str, options: Profiling, **more: Any) -> None:
    """Measure a part and write what was asked for; `more`: settings of that part alone."""
    from rich.console import Console

    from erecap.bench.profile.plots import write_profile_plots
    from erecap.bench.profile.run import key_of, play_profile, publish_profile
    from erecap.bench.profile.settings import LEAST, Profile
    from erecap.bench.profile.stretched import stretched_folder
    from erecap.bench.profile.table import markdown, screen_table
    from erecap.bench.suite import write_part
    from erecap.files import write_atomic

    profile = Profile(
        part,
        lengths=numbers_in(options.lengths, "--lengths", LEAST),
        presets=names_in(options.presets),
        modes=names_in(options.modes),
        repetitions=options.repetitions,
        kv_tokens=options.kv_tokens,
        pruner=options.pruner,
        **more,
    )
    model, window, adapter, folder = options.model, options.window, options.adapter, options.folder
    source = model if window is None else str(stretched_folder(model, window, folder / "models"))
    about, load, say = setting(source, options.dtype, options.threads, f"erecap profile {part}", adapter)
    loaded, tokenizer = load()
    about["model"] |= _windows(loaded, model, window)
    if adapter is not None:
        about["model"]["adapter"] = Path(adapter).name
    played = play_profile(
        profile, loaded, tokenizer, about, folder, say, source=source, adapter=adapter, fresh=options.fresh
    )
    Console(markup=False, emoji=False).print(screen_table(played))
    key = key_of(profile, about)
    if options.out is not None:
        write_part(options.out, played)
        typer.echo(f"results: {options.out}")
    if options.markdown is not None:
        write_atomic(options.markdown, markdown([played]) + "\n")
        typer.echo(f"table: {options.markdown}")
    for path in [] if options.plots is None else write_profile_plots(options.plots, played, f"profile-{key}"):
        typer.echo(f"plot: {path}")
    if options.results is not None:
        publish_profile(options.results, played, key)
        typer.echo(f"results: {options.results}")
    end([played])


def _windows(loaded: object, model: str, window: int | None) -> dict[str, object]:
    """Name and window of the model, and where it was stretched its own window."""
    from erecap.models import locate
    from erecap.untrusted import read_json

    config = loaded.config.get_text_config(decoder=True)  # type: ignore[attr-defined]
    found: dict[str, object] = {"name": Path(model).name, "window": config.max_position_embeddings}
    if window is not None:
        found["own_window"] = read_json(locate(model) / "config.json")["max_position_embeddings"]
    return found
