"""`erecap train average`: the mean of a fine-tuned adapter and the one that it started from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.cli.numbers import finite


def average(
    adapter: Annotated[
        str, typer.Argument(metavar="ADAPTER", help="Name or folder of an adapter trained with --init.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The result; must not exist.")],
    share: Annotated[
        float, typer.Option(callback=finite, help="Share of its weights; the rest is of what it started from.")
    ] = 0.5,
    model: Annotated[str | None, typer.Option(help="The base, where it has another name than on the card.")] = None,
) -> None:
    """Average a fine-tuned adapter with the one that it started from, which keeps more of what that one could.

    The held-out episodes of the card are played again and scored.
    """
    from rich.console import Console

    from erecap.training.average import average_adapter

    progress = Console(markup=False, emoji=False, stderr=True, highlight=False)
    card = average_adapter(adapter, share, out, model=model, say=progress.print)
    scores = card["scores"]
    typer.echo(f"{out}: plans right {scores['plan_accuracy']:.1%} of {scores['plans']:,} held out")
