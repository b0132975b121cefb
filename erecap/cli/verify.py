"""`erecap verify`: measure the figures on a checkpoint's card again."""

from __future__ import annotations

from typing import Annotated

import typer


def verify(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Name or folder of a planner or a pruner.")],
    adapter: Annotated[
        str | None, typer.Option(help="Of a pruner: the planner's adapter, where it is not among the checkpoints.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The base, where it has another name than on the card.")] = None,
) -> None:
    """Play the held-out episodes of a checkpoint again, score its weights, and compare with its card.

    Exits with 1 if a figure differs by more than rounding on another processor explains.
    """
    from rich.console import Console
    from rich.table import Table

    from erecap.errors import ConfigError
    from erecap.models.adapters import CARD, adapter_with
    from erecap.models.inspection import read_json
    from erecap.tokens.scoring.pruner_files import FORMAT as PRUNER
    from erecap.tokens.scoring.pruner_files import find_pruner
    from erecap.training.planner.train import FORMAT as PLANNER
    from erecap.training.verify import verify_planner, verify_pruner

    folder = find_pruner(checkpoint, "checkpoint")
    card = read_json(folder / CARD)
    progress = Console(markup=False, emoji=False, stderr=True, highlight=False)
    kind = card.get("format")
    if kind not in (PLANNER, PRUNER):
        raise ConfigError(f"{folder / CARD}: format: got {kind!r}; allowed: {PLANNER!r}, {PRUNER!r}")
    if kind == PLANNER:
        figures = verify_planner(folder, card, model=model, say=progress.print)
    else:
        wanted = card["base"]["adapter"]
        found = adapter or (str(adapter_with(wanted)) if wanted else None)
        figures = verify_pruner(folder, card, found, model=model, say=progress.print)
    table = Table("figure", "on the card", "now", "", box=None, padding=(0, 2, 0, 0))
    for figure in figures:
        table.add_row(figure.name, f"{figure.stated:.4f}", f"{figure.measured:.4f}", "" if figure.holds else "differs")
    Console(markup=False, emoji=False).print(table)
    if not all(figure.holds for figure in figures):
        raise typer.Exit(1)
