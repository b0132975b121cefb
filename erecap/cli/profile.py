"""`erecap profile`: a model over lengths, as prefills, whole calls, and peak memory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.cli.benching import end, names_in, numbers_in, setting
from erecap.cli.model_options import AdapterOption, DtypeOption, ModelArgument, ThreadsOption

app = typer.Typer(help="Profile a model over lengths, presets and modes.", no_args_is_help=True)

Lengths = Annotated[str, typer.Option(help="Tokens of the whole call, with commas.")]
Presets = Annotated[str, typer.Option(help="Keep ratios of the modes prune[...], with commas.")]
Modes = Annotated[str, typer.Option(help="Modes, with commas.")]
Window = Annotated[
    int | None, typer.Option(min=512, metavar="TOKENS", help="Stretch the model's window to this, for its shape alone.")
]
Repetitions = Annotated[int, typer.Option(min=1, help="Timed calls of each kind, in turn, after one warm-up.")]
KvTokens = Annotated[int, typer.Option(min=16, help="Budget of the modes that evict.")]
NewTokens = Annotated[int, typer.Option(min=8, help="Tokens of the new turn.")]
PlanTokens = Annotated[int, typer.Option(min=2, help="Tokens generated in every call.")]
Pruner = Annotated[
    str | None, typer.Option(metavar="NAME", help="Trained pruner that ranks in erecap and in prune[learned].")
]
Folder = Annotated[Path, typer.Option(help="Where measured calls are kept, so that a stopped profile goes on.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Measure anew what was measured already.")]
Out = Annotated[Path | None, typer.Option(metavar="FILE", help="JSON file for settings, summary and raw rows.")]
Markdown = Annotated[Path | None, typer.Option(metavar="FILE", help="Markdown file for the table.")]
Plots = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder for curves and the heat map (SVG).")]
Results = Annotated[Path | None, typer.Option(metavar="FILE", help="A results file that the part is merged into.")]

LENGTHS, PRESETS = "1024,2048,4096,8192", "keep09,keep08,keep07"
MODES = "full,prune[recency],reuse,erecap"
FOLDER = Path("runs/profile")


@app.command()
def prefill(
    model: ModelArgument,
    lengths: Lengths = LENGTHS,
    presets: Presets = PRESETS,
    modes: Modes = MODES,
    window: Window = None,
    repetitions: Repetitions = 5,
    kv_tokens: KvTokens = 1024,
    adapter: AdapterOption = None,
    pruner: Pruner = None,
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    folder: Folder = FOLDER,
    fresh: Fresh = False,
    out: Out = None,
    markdown: Markdown = None,
    plots: Plots = None,
    results: Results = None,
) -> None:
    """Time reading a whole chat on an empty cache; beside it the FLOP ceiling, what is claimed, and the KV saved.

    Sessions (`reuse`, `erecap`) read in chunks, and `erecap` evicts between them. Lengths that do not fit into memory
    are left out.
    """
    given = {"lengths": lengths, "presets": presets, "modes": modes, "repetitions": repetitions, "kv_tokens": kv_tokens}
    given["pruner"] = pruner
    _profile("prefill", given, model, adapter, window, dtype, threads, folder, fresh, (out, markdown, plots, results))


@app.command()
def end2end(
    model: ModelArgument,
    lengths: Lengths = LENGTHS,
    presets: Presets = PRESETS,
    modes: Modes = MODES,
    window: Window = None,
    new_tokens: NewTokens = 100,
    plan_tokens: PlanTokens = 32,
    repetitions: Repetitions = 5,
    kv_tokens: KvTokens = 1024,
    adapter: AdapterOption = None,
    pruner: Pruner = None,
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    folder: Folder = FOLDER,
    fresh: Fresh = False,
    out: Out = None,
    markdown: Markdown = None,
    plots: Plots = None,
    results: Results = None,
) -> None:
    """Time a replanning call: the history is there, a turn is new, a plan is decoded; beside it the call's floor.

    `full` and `prune[...]` read everything in the call; sessions have read the history before.
    """
    given = {"lengths": lengths, "presets": presets, "modes": modes, "repetitions": repetitions, "kv_tokens": kv_tokens}
    given["pruner"] = pruner
    given |= {"new_tokens": new_tokens, "plan_tokens": plan_tokens}
    _profile("end2end", given, model, adapter, window, dtype, threads, folder, fresh, (out, markdown, plots, results))


@app.command()
def memory(
    model: ModelArgument,
    lengths: Lengths = LENGTHS,
    presets: Presets = PRESETS,
    modes: Modes = MODES,
    of: Annotated[str, typer.Option(help="The call whose peak is measured: prefill or end2end.")] = "prefill",
    window: Window = None,
    repetitions: Repetitions = 1,
    kv_tokens: KvTokens = 1024,
    adapter: AdapterOption = None,
    pruner: Pruner = None,
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    folder: Folder = FOLDER,
    fresh: Fresh = False,
    out: Out = None,
    markdown: Markdown = None,
    plots: Plots = None,
    results: Results = None,
) -> None:
    """Measure the peak memory of each call beside the weights, by device: on CPUs in a process of its own."""
    given = {"lengths": lengths, "presets": presets, "modes": modes, "repetitions": repetitions, "kv_tokens": kv_tokens}
    given["pruner"] = pruner
    _profile(
        "memory",
        {**given, "of": of},
        model,
        adapter,
        window,
        dtype,
        threads,
        folder,
        fresh,
        (out, markdown, plots, results),
    )


def _profile(
    part: str,
    given: dict[str, object],
    model: str,
    adapter: str | None,
    window: int | None,
    dtype: str,
    threads: int | None,
    folder: Path,
    fresh: bool,
    files: tuple[Path | None, Path | None, Path | None, Path | None],
) -> None:
    """Measure a part and write what was asked for."""
    from rich.console import Console

    from erecap.bench.profile.plots import write_profile_plots
    from erecap.bench.profile.run import key_of, play_profile, publish_profile
    from erecap.bench.profile.settings import Profile
    from erecap.bench.profile.stretched import stretched_folder
    from erecap.bench.profile.table import markdown, screen_table
    from erecap.bench.suite import write_part
    from erecap.files import write_atomic

    numbers = numbers_in(str(given["lengths"]), "--lengths", 1)
    lists = {name: names_in(str(given[name])) for name in ("presets", "modes")}
    profile = Profile(part, **{**given, "lengths": numbers, **lists})  # type: ignore[arg-type]
    source = model if window is None else str(stretched_folder(model, window, folder / "models"))
    about, load, say = setting(source, dtype, threads, f"erecap profile {part}", adapter)
    loaded, tokenizer = load()
    about["model"] |= _windows(loaded, model, window)
    if adapter is not None:
        about["model"]["adapter"] = Path(adapter).name
    played = play_profile(profile, loaded, tokenizer, about, folder, say, source=source, adapter=adapter, fresh=fresh)
    Console(markup=False, emoji=False).print(screen_table(played))
    key = key_of(profile, about)
    out, text, plots, results = files
    if out is not None:
        write_part(out, played)
        typer.echo(f"results: {out}")
    if text is not None:
        write_atomic(text, markdown([played]) + "\n")
        typer.echo(f"table: {text}")
    for path in [] if plots is None else write_profile_plots(plots, played, f"profile-{key}"):
        typer.echo(f"plot: {path}")
    if results is not None:
        publish_profile(results, played, key)
        typer.echo(f"results: {results}")
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
