"""`erecap controller`: show a trained controller, test it on other prompts, show what it would see of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.cli.numbers import finite

app = typer.Typer(
    help="Controllers that choose a session's levers: show, test, and what they see.", no_args_is_help=True
)

ControllerArgument = Annotated[str, typer.Argument(metavar="CONTROLLER", help="Folder or name of a controller.")]


@app.command("show")
def show(controller: ControllerArgument) -> None:
    """Print a controller's actions, its base, how it was trained, and its test."""
    from erecap.language_models.controlled import find_controller
    from erecap.scheduling.checkpoint import load_controller

    trained = load_controller(find_controller(controller))
    base, test = trained.base, trained.test
    adapter = f", adapter {str(base['adapter'])[:19]}" if base["adapter"] else ""
    typer.echo(
        f"{trained.learner.method} for {base['name']} ({str(base['hash'])[:19]}{adapter}), seed {trained.settings.seed}"
    )
    typer.echo(f"SLO: {', '.join(f'{slo:,.0f}' for slo in trained.slo_ms)} ms")
    for action in trained.actions:
        typer.echo(f"  {action.name}: {action.words()}")
    if not test:
        typer.echo("no test was made")
        return
    row = test["minus"]["best fixed"]
    typer.echo(
        f"reward {test['reward']:.3f}; minus the best fixed action ({test['best_fixed']}): {row['value']:+.3f} "
        f"({row['low']:+.3f} to {row['high']:+.3f}, {test['prompts']} held-out prompts)"
    )


@app.command("state")
def state(
    device: Annotated[str, typer.Option(help="Of the model: cpu, cuda, cuda:1.")] = "cpu",
    seconds: Annotated[
        float, typer.Option(callback=finite, min=0.1, max=60.0, help="Time over which the processor is watched.")
    ] = 1.0,
) -> None:
    """Print the state of this machine as a controller sees it; what cannot be read is absent."""
    import time

    from erecap.scheduling.hardware import HardwareMonitor

    if device.startswith("cuda"):
        import torch  # noqa: F401  # asked for the GPU's memory, where NVML is not at hand
    monitor = HardwareMonitor(device)
    time.sleep(seconds)
    names = {
        "cpu_others": "processor taken by other programs",
        "memory_free": "memory free",
        "battery": "battery",
        "gpu_use": "GPU busy",
        "gpu_memory_free": "GPU memory free",
    }
    for name, value in vars(monitor.read()).items():
        typer.echo(f"{names[name]}: {'absent' if value is None else f'{value:.0%}'}")


@app.command("test")
def test(
    controller: ControllerArgument,
    table: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run of `erecap train controller`, whose table is used.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the report goes.")],
    passes: Annotated[int, typer.Option(min=1, help="Schedules of loads in which each conversation is tested.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the schedules.")] = 0,
) -> None:
    """Test a controller without exploration on the held-out prompts of a table, beside the baselines."""
    from erecap.language_models.controlled import find_controller
    from erecap.scheduling.checkpoint import load_controller
    from erecap.training.controller.testing import judge_controller

    done = judge_controller(load_controller(find_controller(controller)), table, out, passes=passes, seed=seed)
    typer.echo(f"{done.words} Report: {done.folder / 'report.md'}")
