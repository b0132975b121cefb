"""Options of the commands that search for layer plans and weigh them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from erecap.cli.numbers import finite
from erecap.errors import ConfigError

Value = TypeVar("Value")
METHODS = "sprint,sleb,blockpruner,shortgpt,magnitude,random"
SLICES = "heads-0.1,heads-0.2,heads-0.3,channels-0.1,channels-0.2,channels-0.3"

MethodsOption = Annotated[str, typer.Option(metavar="NAME,NAME", help="Methods that search; none: no search.")]
SlicesOption = Annotated[
    str, typer.Option(metavar="NAME,NAME", help="Slices on the front: heads-SHARE, channels-SHARE; none: no slice.")
]
TextsOption = Annotated[
    list[str] | None,
    typer.Option("--text", metavar="TEXT", help="Calibration: planner, a file, or a collected folder; several."),
]
CountOption = Annotated[int, typer.Option(metavar="N", help="Calibration sequences of the searches.")]
LengthOption = Annotated[int, typer.Option(metavar="N", help="Tokens of each.")]
LossSequencesOption = Annotated[
    int, typer.Option(metavar="N", help="sleb, blockpruner: judge on the first N calibration sequences; 0: all.")
]
TuneOption = Annotated[str, typer.Option(help="sprint: sublayers that are tuned: mlp, attention, both or none.")]
ClockTokensOption = Annotated[int, typer.Option(metavar="N", help="Tokens of the prompt that is timed.")]
ClockDecodedOption = Annotated[int, typer.Option(metavar="N", help="Tokens that are decoded after it.")]
ClockRoundsOption = Annotated[int, typer.Option(metavar="N", help="Timed rounds of prefill and decoding.")]
HistoriesOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Recorded plans, of `erecap collect`; else the expert plays a suite."),
]
EpisodesOption = Annotated[int, typer.Option(metavar="N", help="Episodes whose plans are compared.")]
CallsOption = Annotated[int, typer.Option(metavar="N", help="Planning calls of each, evenly spread.")]
PerplexityOption = Annotated[
    list[Path] | None, typer.Option(metavar="FILE", help="Texts whose perplexity is measured; several.")
]
PlayOption = Annotated[
    str | None, typer.Option(metavar="SUITE", help="Play the front on this suite; nothing is played if left out.")
]
PlayEpisodesOption = Annotated[int, typer.Option(metavar="N", help="Episodes that are played.")]
PlayBatchOption = Annotated[int, typer.Option(metavar="N", help="Episodes that are played side by side.")]
PlayFromOption = Annotated[
    float, typer.Option(metavar="X", callback=finite, help="Play only points of the front with this speed-up or more.")
]


def kinds_of(tune: str) -> tuple[str, ...]:
    """The kinds of sublayers by the words of `--tune`."""
    return {"both": ("attention", "mlp"), "none": ()}.get(tune, tuple(tune.split(",")))


def refuse_without_play(context: typer.Context, play: str | None) -> None:
    """Refuse the options of played episodes where no suite is named.

    Raises:
        ConfigError: one of them is given.
    """
    from erecap.cli.benching import is_given

    for name in ("play_episodes", "play_batch", "play_from"):
        if play is None and is_given(context, name):
            raise ConfigError(f"--{name.replace('_', '-')}: nothing is played; name a suite with --play")


def listed(text: str, parse: Callable[[str], Iterable[Value]]) -> tuple[Value, ...]:
    """The values of an option; `none` is no value."""
    return () if text.strip() == "none" else tuple(parse(text))
