"""`erecap bench layers`: figures L1 to L5, part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.cli.bench import MODEL, Dtype, Threads
from erecap.cli.layer_options import (
    METHODS,
    SLICES,
    CallsOption,
    ClockRoundsOption,
    CountOption,
    EpisodesOption,
    HistoriesOption,
    LengthOption,
    MethodsOption,
    PerplexityOption,
    PlayBatchOption,
    PlayEpisodesOption,
    PlayFromOption,
    PlayOption,
    SlicesOption,
    TextsOption,
    listed,
    refuse_without_play,
)

RESULTS = Path("docs/results/layers.json")  # that `make layers` names
# Options that a smoke test sets itself.
SIZES = ("slices", "count", "length", "episodes", "calls", "repetitions", "prompts")
# Options that a row's command states: they change what is measured.
PLAYING = ("play", "play_episodes", "play_batch", "play_from")
STATED = (*SIZES, *PLAYING, "model", "adapter", "pruner", "methods", "texts", "smoke")
CALLS_SUITE, CALLS_FIRST = "household-chains-train", 5000  # of the recorded calls that a controller is trained on


def layers(
    context: typer.Context,
    parts: Annotated[str, typer.Option(metavar="PART,PART", help="front (L1 to L3), slices (L4), controller (L5).")] = (
        "front,slices,controller"
    ),
    model: Annotated[str, typer.Option(help="Catalog name, folder or hub name.")] = MODEL,
    adapter: Annotated[
        str | None, typer.Option(help="LoRA adapter merged into it: a folder, a name, or none.")
    ] = "smollm2-135m-planner",
    pruner: Annotated[
        str | None, typer.Option(help="Trained pruner that ranks what sessions with a budget evict, or none.")
    ] = "smollm2-135m-pruner",
    methods: MethodsOption = METHODS,
    slices: SlicesOption = SLICES,
    count: CountOption = 32,
    length: LengthOption = 128,
    episodes: EpisodesOption = 8,
    calls: CallsOption = 12,
    repetitions: ClockRoundsOption = 5,
    prompts: Annotated[int, typer.Option(metavar="N", help="Prompts of the controller.")] = 32,
    play: PlayOption = None,
    play_episodes: PlayEpisodesOption = 120,
    play_batch: PlayBatchOption = 1,
    play_from: PlayFromOption = 1.0,
    histories: HistoriesOption = None,
    texts: TextsOption = None,
    perplexity: PerplexityOption = None,
    dtype: Dtype = "auto",
    threads: Threads = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Few and short measurements, the first three methods; rows say so.")
    ] = False,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="runs/layers, or runs/layers-smoke.")] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Results file of the rows; layers.json in --out if left out.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure anew; searches stay.")] = False,
) -> None:
    """Search, time and judge layer plans, slices and a controller, and write rows L1 to L5.

    Whatever was measured lies in the folder; the same command goes on from there.
    """
    from erecap.bench.layer_clock import LayerClock
    from erecap.cli.benching import given_options, names_in, refuse_given, setting
    from erecap.cli.tune_layers import transcripts
    from erecap.errors import ConfigError
    from erecap.evaluation.layer_front.measuring import FILE, PARTS, LayersMeasure, Measuring, smoke_settings
    from erecap.evaluation.layer_front.output import front_table, proposal
    from erecap.evaluation.layer_front.settings import FrontSettings
    from erecap.evaluation.texts import read_texts
    from erecap.language_models.build import ModelSettings, open_model

    chosen = names_in(parts)
    wrong = next((part for part in chosen if part not in PARTS), None)
    if wrong is not None or not chosen:
        raise ConfigError(f"--parts: got {wrong!r:.40}; allowed: {', '.join(PARTS)}")
    if smoke:
        refuse_given(context, SIZES, "--smoke")
    refuse_without_play(context, play)
    adapter, pruner = (None if name == "none" else name for name in (adapter, pruner))
    front = FrontSettings(
        methods=listed(methods, names_in),
        slices=listed(slices, names_in),
        texts=tuple(texts or ("planner",)),
        count=count,
        length=length,
        evict_by=pruner,
        episodes=episodes,
        calls=calls,
        clock=LayerClock(repetitions=repetitions),
        play=play,
        play_episodes=play_episodes,
        play_batch=play_batch,
        play_from=play_from,
    )
    settings = smoke_settings(front) if smoke else LayersMeasure(front, controller_prompts=prompts)
    out = out or Path("runs/layers-smoke" if smoke else "runs/layers")
    results = results or out / f"{FILE}.json"
    given = given_options(context, STATED)
    made, called = f'make layers ARGS="{given}"' if given else "make layers", f"erecap bench layers {given}".strip()
    command = made if results == RESULTS else called
    about, _, say = setting(model, dtype, threads, command)
    opened = open_model(ModelSettings(model, adapter, dtype, "auto", threads))
    stated = {"model": model, "adapter": adapter, "dtype": dtype, "device": "auto", "threads": threads}
    measuring = Measuring(settings, opened, stated, about, out, results, smoke=smoke, say=say)
    if "front" in chosen:
        compared = transcripts(histories, None, settings.front.episodes, out, settings.front.seed)
        run = measuring.front(compared, texts=read_texts(perplexity or []), fresh=fresh)
        typer.echo(front_table(run.result))
        for line in proposal(run.result, run.profile):
            typer.echo(line)
    if "slices" in chosen:
        measuring.slices(fresh=fresh)
    if "controller" in chosen:
        recorded = histories or _recorded(out, settings.controller_prompts // settings.controller_each)
        measuring.controller(recorded, pruner, fresh=fresh)
    _show(results)


def _recorded(out: Path, episodes: int) -> Path:
    """Calls of the expert in chains of the training floor plans, which are played unless they lie in a folder in `out`.

    Another number of episodes has another folder.
    """
    from erecap.config import load_suite
    from erecap.training.collect.collect import collect
    from erecap.training.collect.episode import Recipe

    suite, recipe = load_suite(CALLS_SUITE), Recipe(episodes=max(4, episodes), first=CALLS_FIRST)
    folder = out / f"calls-{recipe.episodes}"
    result = collect(recipe, {suite.name: suite}, folder)
    if result.status == "interrupted":
        raise KeyboardInterrupt
    return folder


def _show(results: Path) -> None:
    """Print the rows of the results file."""
    from rich.console import Console
    from rich.table import Table

    from erecap.bench.results import read_results

    table = Table("id", "target", "measured", "range", "n", "", box=None, padding=(0, 2, 0, 0))
    for row in read_results(results).get("rows", []):
        word = {True: "holds", False: row.get("verdict", "short"), None: "smoke"}[row["holds"]]
        ends = f"{row['low']:g} to {row['high']:g}"
        table.add_row(row["id"], f"{row['target']} {row['unit']}", f"{row['measured']:g}", ends, str(row["n"]), word)
    Console(markup=False, emoji=False).print(table)
    typer.echo(f"results: {results}")
