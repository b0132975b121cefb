"""`erecap train`: fit what ships with the package. Each command lies in a file of its own or below."""

from __future__ import annotations

import typer

app = typer.Typer(help="Train planners and pruners from collected trajectories.", no_args_is_help=True)


@app.callback()
def _train() -> None:
    # With a callback, a command stays a command of its own although it is the only one.
    pass
