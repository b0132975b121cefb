"""`erecap collect`: play episodes for their transcripts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from erecap.cli.numbers import finite


def collect(
    suites: Annotated[list[str], typer.Argument(metavar="SUITE...", help="Packaged names, or YAML files.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The trajectory folder.")],
    episodes: Annotated[int, typer.Option(min=1, max=100_000, help="Episodes of each suite.")],
    first: Annotated[int, typer.Option(min=0, max=100_000, help="Number of the first episode.")] = 0,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of the detours and of who acts.")] = 0,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that play.")] = 1,
    batch: Annotated[
        int, typer.Option(min=1, max=256, help="With --planner: episodes that a process plays at a time.")
    ] = 1,
    perturb: Annotated[
        float, typer.Option(callback=finite, min=0.0, max=1.0, help="Share of episodes with detours.")
    ] = 0.0,
    max_steps: Annotated[int, typer.Option(min=1, max=20, help="Most commands in one plan.")] = 5,
    planner: Annotated[
        str | None, typer.Option(help="Let this act (adapter folder, model or run configuration); label as the expert.")
    ] = None,
    beta: Annotated[
        float,
        typer.Option(
            callback=finite, min=0.0, max=1.0, help="With --planner: share of calls in which the expert acts."
        ),
    ] = 0.0,
    model: Annotated[str | None, typer.Option(help="Count tokens with this model's tokenizer.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="With --model: drop longer episodes.")] = None,
    agents: Annotated[
        str | None,
        typer.Option(
            help="Cooperating planners: a packaged team (team, home-crew) or an agents file; a chat for each."
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete what the folder holds of an earlier call.")] = False,
) -> None:
    """Play episodes with the expert, and keep chats with the expert's plan at every planning call, to train on.

    Can be stopped at any time, and goes on when called again.
    """
    from rich.console import Console

    from erecap.config import load_suite
    from erecap.errors import ConfigError
    from erecap.training.collect.acting_model import planner_config
    from erecap.training.collect.collect import collect as run
    from erecap.training.collect.episode import Recipe

    loaded = [load_suite(suite) for suite in suites]
    by_name = {suite.name: suite for suite in loaded}
    if len(by_name) < len(loaded):
        raise ConfigError("SUITE: two suites have the same name; once each is allowed")
    recipe = Recipe(
        episodes=episodes,
        first=first,
        seed=seed,
        perturb=perturb,
        beta=beta,
        max_steps=max_steps,
        tokenizer=model,
        max_tokens=max_tokens,
        agents=agents,
    )
    acting = planner_config(planner) if planner is not None else None
    result = run(recipe, by_name, out, planner=acting, workers=workers, batch=batch, fresh=fresh)
    if result.status == "interrupted":
        typer.echo(
            f"interrupted after {result.rows} of {result.total} episodes; the same command goes on from there "
            f"({result.folder})",
            err=True,
        )
        raise typer.Exit(130)
    if result.played == 0:
        typer.echo(f"{out}: finished already, all {result.total} episodes are there (--fresh plays anew)", err=True)
    # Wide enough for the table where nobody says how wide the output is.
    Console(markup=False, emoji=False, width=None if sys.stdout.isatty() else 120).print(result.tally.table())
    typer.echo(f"{out}: {result.rows} episodes")
