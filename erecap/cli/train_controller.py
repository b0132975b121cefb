"""`erecap train controller`: measure what actions cost and change, and train a policy that chooses among them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.cli.numbers import finite
from erecap.cli.outputs import result_folder

OF_MEASURING = (
    "model", "adapter", "pruner", "actions", "loads", "limit", "each", "max_tokens", "held_out", "repeats",
    "busy_threads", "memory_mb", "dtype", "device", "threads",
)  # fmt: skip
MethodOption = Annotated[str, typer.Option(help="dqn, bandit or linucb; the report has all of them.")]


def controller(
    context: typer.Context,
    data: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[DATA...]", help="CSV or JSONL files with prompt and plan, folders of `erecap collect`."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(callback=result_folder, metavar="FOLDER", help="Numbered runs go in here.")
    ] = Path("runs/controller"),
    table: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Learn on the table of this run instead of measuring one.")
    ] = None,
    model: Annotated[str, typer.Option(help="Catalog name, folder or hub name.")] = "smollm2-135m-instruct",
    adapter: Annotated[str | None, typer.Option(help="LoRA adapter merged into the model.")] = None,
    pruner: Annotated[str | None, typer.Option(help="Trained pruner that ranks what is evicted; else recency.")] = None,
    actions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML file {name: {lever: value}}; else the default actions.")
    ] = None,
    loads: Annotated[str, typer.Option(help="With commas between them: idle, busy, memory.")] = "idle,busy",
    limit: Annotated[int | None, typer.Option(min=2, help="Prompts at most; whole conversations are drawn.")] = None,
    each: Annotated[int | None, typer.Option(min=1, help="Calls of one conversation, evenly spread.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=16, help="Leave longer prompts out.")] = None,
    held_out: Annotated[
        float, typer.Option(callback=finite, help="Share of the conversations that are tested on.")
    ] = 0.2,
    repeats: Annotated[int, typer.Option(min=1, max=100, help="Timed calls of a cell; the median counts.")] = 1,
    busy_threads: Annotated[int, typer.Option(min=1, help="Threads of the busy neighbour.")] = 2,
    memory_mb: Annotated[int, typer.Option(min=32, help="Megabytes that the load memory holds.")] = 1024,
    method: MethodOption = "bandit",
    steps: Annotated[int, typer.Option(min=1, help="Decisions in training.")] = 8000,
    gamma: Annotated[float, typer.Option(callback=finite, help="dqn: discount of the next call's value.")] = 0.95,
    slo_ms: Annotated[
        str | None, typer.Option(help="Latencies to train for, with commas; else 1.25 times the quiet median.")
    ] = None,
    late: Annotated[float, typer.Option(callback=finite, help="Reward: weight of the time beyond the SLO.")] = 1.0,
    agreement: Annotated[
        float, typer.Option(callback=finite, help="Reward: weight of the plan tokens that stay the same.")
    ] = 1.0,
    whole_plan: Annotated[
        float, typer.Option(callback=finite, help="Reward: weight of plans that stay the same as a whole.")
    ] = 0.5,
    time: Annotated[float, typer.Option(callback=finite, help="Reward: weight of the time within the SLO.")] = 0.2,
    passes: Annotated[int, typer.Option(min=1, help="Schedules of loads in which each conversation is tested.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the split, the schedules, weights and exploration.")] = 0,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="Threads; torch's choice if left out.")] = None,
) -> None:
    """Train a controller that chooses a session's levers before each call.

    First every prompt is answered with every action under every load; that can be stopped, and goes on when called
    again. Then a policy learns on this table, which takes seconds.
    """
    from erecap.cli.benching import refuse_given
    from erecap.errors import ConfigError
    from erecap.language_models.opened import ModelSettings
    from erecap.scheduling.controllers import LearnerSettings
    from erecap.scheduling.reward import RewardWeights
    from erecap.training.controller.run import train_controller
    from erecap.training.controller.settings import MeasureSettings, TrainSettings

    if table is not None and not data:
        refuse_given(context, OF_MEASURING, "--table")
    try:
        learner = LearnerSettings(gamma=gamma, seed=seed)
        weights = RewardWeights(agreement=agreement, whole_plan=whole_plan, late=late, time=time)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    train = TrainSettings(
        method=method, steps=steps, slo_ms=_numbers(slo_ms), passes=passes, reward=weights, learner=learner
    )
    measure = None
    if data:
        for source in data:
            if not source.exists():
                raise ConfigError(f"{source}: no such file or folder")
        measure = MeasureSettings(
            data=tuple(data),
            actions=actions,
            loads=tuple(part.strip() for part in loads.split(",")),
            limit=limit,
            each=each,
            max_tokens=max_tokens,
            held_out=held_out,
            seed=seed,
            repeats=repeats,
            busy_threads=busy_threads,
            memory_mb=memory_mb,
        )
    done = train_controller(
        measure,
        train,
        out,
        model=ModelSettings(model, adapter, dtype, device, threads) if measure is not None else None,
        pruner=pruner,
        table=table,
        say=lambda line: typer.echo(line, err=True),
    )
    typer.echo(f"{done.words} Report: {done.folder / 'report.md'}")


def _numbers(text: str | None) -> tuple[float, ...]:
    from erecap.errors import ConfigError

    if text is None:
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--slo-ms: got {text!r}; allowed: milliseconds with commas between them") from None
