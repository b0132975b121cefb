"""`erecap train`: fit what ships with the package. `planner` lies here, other commands in files of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.cli import train_average, train_controller, train_exit, train_pruner
from erecap.cli.numbers import finite

app = typer.Typer(help="Train planners, pruners and controllers from collected trajectories.", no_args_is_help=True)


@app.callback()
def _train() -> None:
    # With a callback, a command stays a command of its own although it is the only one.
    pass


app.command("average")(train_average.average)
app.command("saliency")(train_pruner.saliency)
app.command("pruner")(train_pruner.pruner)
app.command("controller")(train_controller.controller)
app.command("exit")(train_exit.exit_predictor)


@app.command("planner")
def planner(
    data: Annotated[list[str], typer.Argument(metavar="DATA...", help="Folders that `erecap collect` wrote.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The result.")] = Path("runs/planner"),
    model: Annotated[
        str, typer.Option(help="Base: a catalog name, a folder, or a hub name.")
    ] = "smollm2-135m-instruct",
    init: Annotated[str | None, typer.Option(metavar="ADAPTER", help="Go on from this adapter.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Train all weights instead of a LoRA adapter.")] = False,
    rank: Annotated[
        int | None, typer.Option(help="Rank of the adapter, at most 32; else 16, or that of --init.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(callback=finite, help="Highest learning rate; else 5e-4, or 5e-5 with --full.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the transcripts.")] = 2,
    accumulate: Annotated[int, typer.Option(help="Transcripts a step.")] = 8,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Read so many tokens of transcripts at once, with padding; else one transcript.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens of a transcript; the rest is cut after a plan.")] = 4096,
    held_out: Annotated[
        float, typer.Option(callback=finite, help="Share of the episodes that are scored, not learned.")
    ] = 0.05,
    evaluations: Annotated[int, typer.Option(help="Evaluations on them in an epoch.")] = 2,
    patience: Annotated[int, typer.Option(help="Evaluations without improvement that end the training.")] = 3,
    warmup: Annotated[
        float, typer.Option(callback=finite, help="Share of the steps in which the learning rate rises.")
    ] = 0.05,
    schedule: Annotated[str, typer.Option(help="How it falls: cosine or linear.")] = "cosine",
    weight_decay: Annotated[float, typer.Option(callback=finite, help="Of AdamW.")] = 0.01,
    clip: Annotated[float, typer.Option(callback=finite, help="Largest norm of the gradient.")] = 1.0,
    amp: Annotated[str, typer.Option(help="bf16, none, or auto: bf16 where the hardware computes in it.")] = "auto",
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights on the same machine.")] = 0,
    kv_tokens: Annotated[
        int | None, typer.Option(help="Read some transcripts as a session does that keeps so many tokens.")
    ] = None,
    pruner: Annotated[
        str | None, typer.Option(metavar="PRUNER", help="Ranks what such a session keeps; else the newest.")
    ] = None,
    pruned_share: Annotated[
        float, typer.Option(callback=finite, help="Share of the transcripts that are read so.")
    ] = 0.5,
    layer_dropout: Annotated[
        float, typer.Option(callback=finite, help="For early exit: leave the last layer out so often, others less.")
    ] = 0.0,
    early_loss: Annotated[
        float, typer.Option(callback=finite, help="For early exit: weight of the losses after early layers.")
    ] = 0.0,
    early_turns: Annotated[int, typer.Option(help="Steps in which each early layer has its turn once.")] = 8,
    hours: Annotated[
        float | None, typer.Option(callback=finite, help="Stop after this time; the same command goes on later.")
    ] = None,
    save_minutes: Annotated[float, typer.Option(callback=finite, help="Time between checkpoints.")] = 10.0,
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="Train anew, or go on with what FOLDER holds.")
    ] = False,
) -> None:
    """Teach a model the expert's plans: supervised, on whole transcripts, with the loss on the plans alone."""
    from erecap.errors import ConfigError
    from erecap.training.planner.loop import Limits
    from erecap.training.planner.settings import PlannerTraining
    from erecap.training.planner.train import train_planner

    for name, value in (("hours", hours), ("save-minutes", save_minutes)):
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"--{name} is {value}; allowed: more than 0")
    settings = PlannerTraining(
        data=tuple(data),
        model=model,
        init=init,
        full=full,
        rank=rank,
        lr=lr,
        epochs=epochs,
        accumulate=accumulate,
        batch_tokens=batch_tokens,
        max_tokens=max_tokens,
        held_out=held_out,
        evaluations=evaluations,
        patience=patience,
        warmup=warmup,
        schedule=schedule,  # type: ignore[arg-type]  # checked by the settings
        weight_decay=weight_decay,
        clip=clip,
        amp=amp,  # type: ignore[arg-type]
        checkpointing=gradient_checkpointing,
        device=device,
        seed=seed,
        kv_tokens=kv_tokens,
        pruner=pruner,
        pruned_share=pruned_share,
        layer_dropout=layer_dropout,
        early_loss=early_loss,
        early_turns=early_turns,
    )
    trained = train_planner(
        settings, out, limits=Limits(hours, save_minutes), fresh=fresh, say=lambda line: typer.echo(line, err=True)
    )
    if trained.card is None:
        typer.echo(f"interrupted; the same command goes on from the checkpoint in {out}", err=True)
        raise typer.Exit(130)
    scores = trained.card["scores"]
    said = f"plans right {scores['plan_accuracy']:.1%} of {scores['plans']} held out" if scores else "nothing held out"
    typer.echo(f"{out}: {trained.end} after {trained.card['training']['steps']} steps; {said}")
    if trained.end == "time":
        typer.echo("the time is up; the same command goes on from the checkpoint", err=True)
