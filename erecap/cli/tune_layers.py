"""`erecap tune layers`: the front of layer plans, and the plan that is proposed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from erecap.cli.layer_options import (
    METHODS,
    SLICES,
    CallsOption,
    ClockDecodedOption,
    ClockRoundsOption,
    ClockTokensOption,
    CountOption,
    EpisodesOption,
    HistoriesOption,
    LengthOption,
    LossSequencesOption,
    MethodsOption,
    PerplexityOption,
    PlayBatchOption,
    PlayEpisodesOption,
    PlayFromOption,
    PlayOption,
    SlicesOption,
    TextsOption,
    TuneOption,
    kinds_of,
    listed,
    refuse_without_play,
)
from erecap.cli.model_options import AdapterOption, DeviceOption, DtypeOption, ModelArgument, ThreadsOption
from erecap.cli.numbers import finite

if TYPE_CHECKING:
    from collections.abc import Iterable

    from erecap.tuning.samples import Transcript

SUITE = "household-chains-unseen"


def layers(
    context: typer.Context,
    model: ModelArgument,
    adapter: AdapterOption = None,
    methods: MethodsOption = METHODS,
    speed_ups: Annotated[
        str, typer.Option(metavar="X,X", help="Predicted speed-ups of decoding; each method gives a plan for each.")
    ] = "1.1,1.15,1.2,1.3,1.37",
    slices: SlicesOption = SLICES,
    kv_tokens: Annotated[
        str, typer.Option(metavar="N,N", help="Budgets that are combined with the best plans; none: no budget.")
    ] = "512",
    evict_by: Annotated[
        str | None, typer.Option(help="Ranking under a budget: recency, random, attention, or a trained pruner.")
    ] = None,
    drafts: Annotated[bool, typer.Option(help="Combine the best plans with drafts.")] = True,
    combined: Annotated[int, typer.Option(metavar="N", help="Plans of the front that are combined.")] = 3,
    texts: TextsOption = None,
    count: CountOption = 32,
    length: LengthOption = 128,
    slice_count: Annotated[int, typer.Option(metavar="N", help="Calibration sequences of the slices.")] = 64,
    multiple: Annotated[int, typer.Option(metavar="N", help="Channels that a sliced layer keeps: N, 2 N, ...")] = 32,
    loss_sequences: LossSequencesOption = 0,
    tune: TuneOption = "mlp",
    histories: HistoriesOption = None,
    suite: Annotated[str | None, typer.Option(metavar="SUITE", help=f"{SUITE} if left out.")] = None,
    episodes: EpisodesOption = 8,
    calls: CallsOption = 12,
    perplexity: PerplexityOption = None,
    timed_calls: Annotated[int, typer.Option(metavar="N", help="Planning calls that are timed.")] = 3,
    rounds: Annotated[int, typer.Option(metavar="N", help="Timed rounds of planning calls.")] = 3,
    clock_tokens: ClockTokensOption = 1024,
    clock_decoded: ClockDecodedOption = 32,
    repetitions: ClockRoundsOption = 5,
    together: Annotated[int, typer.Option(metavar="N", help="Models timed in turn with the whole one.")] = 4,
    play: PlayOption = None,
    play_episodes: PlayEpisodesOption = 20,
    play_batch: PlayBatchOption = 1,
    play_from: PlayFromOption = 1.0,
    by: Annotated[str, typer.Option(help="Agreement of the front: tokens of plans, or whole plans.")] = "tokens",
    least: Annotated[float, typer.Option(callback=finite, help="Agreement that the proposal keeps.")] = 0.9,
    seed: Annotated[int, typer.Option(min=0, help="Of texts, histories, random and intervals.")] = 0,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where everything goes.")] = Path("runs/layers"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget times, judgements and played episodes; searches stay.")
    ] = False,
) -> None:
    """Draw measured speed against plan agreement for all methods, with eviction and drafts; propose a layer plan.

    Searches, times and judgements lie in the folder when they are done; the same command goes on from there.
    """
    from erecap.bench.layer_clock import LayerClock
    from erecap.cli.benching import names_in, numbers_in
    from erecap.errors import ConfigError
    from erecap.evaluation.layer_front.settings import FrontSettings
    from erecap.layers.search import SearchOptions

    if histories is not None and suite is not None:
        raise ConfigError("--histories and --suite exclude each other: transcripts are read, or a suite is played")
    refuse_without_play(context, play)
    settings = FrontSettings(
        methods=listed(methods, names_in),
        speed_ups=_floats(speed_ups),
        options=SearchOptions(tune=kinds_of(tune), loss_sequences=loss_sequences),
        texts=tuple(texts or ("planner",)),
        count=count,
        length=length,
        slices=listed(slices, names_in),
        slice_count=slice_count,
        multiple=multiple,
        kv_tokens=listed(kv_tokens, lambda text: numbers_in(text, "--kv-tokens", 16)),
        evict_by=evict_by,
        drafts=drafts,
        combined=combined,
        episodes=episodes,
        calls=calls,
        by=by,
        least=least,
        timed_calls=timed_calls,
        rounds=rounds,
        clock=LayerClock(clock_tokens, clock_decoded, repetitions),
        together=together,
        play=play,
        play_episodes=play_episodes,
        play_batch=play_batch,
        play_from=play_from,
        seed=seed,
    )
    run_front(
        settings, {"model": model, "adapter": adapter, "dtype": dtype, "device": device, "threads": threads}, out,
        histories=histories, suite=suite, perplexity=perplexity or [], fresh=fresh,
    )  # fmt: skip


def run_front(
    settings: Any,
    stated: dict[str, Any],
    out: Path,
    *,
    histories: Path | None,
    suite: str | None,
    perplexity: list[Path],
    fresh: bool,
) -> Any:
    """Draw a front, show it, and write its results.

    Args:
        settings: `FrontSettings`.
        stated: model, adapter, dtype, device, threads.

    Returns:
        `FrontRun`.
    """
    from rich.console import Console

    from erecap.cli.benching import setting
    from erecap.evaluation.layer_front.output import front_table, proposal
    from erecap.evaluation.layer_front.running import draw_front
    from erecap.evaluation.texts import read_texts
    from erecap.language_models.build import ModelSettings, open_model

    texts = read_texts(perplexity)
    about, _, _ = setting(stated["model"], stated["dtype"], stated["threads"], "erecap tune layers")
    progress = Console(markup=False, emoji=False, stderr=True)
    opened = open_model(ModelSettings(**{"name" if key == "model" else key: value for key, value in stated.items()}))
    run = draw_front(
        settings, opened, stated, out, about, transcripts(histories, suite, settings.episodes, out, settings.seed),
        texts=texts, fresh=fresh, say=lambda text: progress.print(text),
    )  # fmt: skip
    typer.echo(front_table(run.result))
    for line in proposal(run.result, run.profile):
        typer.echo(line)
    typer.echo(f"results: {', '.join(path.name for path in run.paths)} in {out}")
    return run


def transcripts(histories: Path | None, suite: str | None, episodes: int, out: Path, seed: int) -> Iterable[Transcript]:
    """Transcripts to compare plans on: those of a folder, or the expert's on a suite that was not trained on."""
    from erecap.evaluation.plans import collected, generated

    if histories is not None:
        return collected(histories, seed)
    played = suite or SUITE
    return generated(played, episodes, out / "transcripts" / f"{Path(played).stem}-{episodes}")


def _floats(text: str) -> tuple[float, ...]:
    from erecap.errors import ConfigError

    try:
        return tuple(sorted(float(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError(f"--speed-ups: got {text!r:.60}; allowed: numbers above 1, with commas") from None
