"""Table of checks: findings, and what to do about each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from erecap.models import Check

_MARKS = {True: ("ok", "green"), "warn": ("warn", "yellow"), False: ("fail", "red")}


def show_checks(checks: Iterable[Check]) -> None:
    """Print the checks as a table. Raises typer.Exit with code 1 if one of them failed."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = list(checks)
    grid = Table.grid(padding=(0, 2))
    for row in rows:
        word, colour = _MARKS[row.ok]
        grid.add_row(Text(word, style=colour), Text(row.name), Text(row.found))
        if row.advice:
            grid.add_row("", "", Text(row.advice, style="bold"))
    Console(markup=False, emoji=False).print(grid)
    if any(row.ok is False for row in rows):
        raise typer.Exit(1)
