"""`erecap scale`: what one GPU holds and how many robots it serves, computed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from erecap.cli.numbers import finite
from erecap.cli.outputs import result_file

if TYPE_CHECKING:
    from erecap.cost.fleet.gpu import Gpu, Served


def scale(
    gpu: Annotated[str, typer.Option(help="Data sheet: l4, a100-80, h100 or h200.")] = "h200",
    shape: Annotated[str, typer.Option(help="Model in bfloat16: 8b or 1b.")] = "8b",
    histories: Annotated[str, typer.Option(help="Tokens of history, with commas.")] = "8000,32000,128000",
    kept: Annotated[int, typer.Option(min=1, help="Tokens that a session with a budget keeps.")] = 1024,
    robots: Annotated[str, typer.Option(help="Numbers of robots, with commas.")] = "1,4,16,64,256,1000",
    new_tokens: Annotated[int, typer.Option(min=1, help="New tokens of a call.")] = 100,
    plan_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a plan.")] = 32,
    period: Annotated[float, typer.Option(callback=finite, help="Mean seconds that a plan is carried out.")] = 10.0,
    slo: Annotated[float, typer.Option(callback=finite, help="Seconds that 95 % of the calls may take.")] = 1.0,
    host_gb: Annotated[
        float, typer.Option(callback=finite, help="10^9 bytes of the host's memory for keys and values.")
    ] = 512.0,
    measured: Annotated[
        Path | None, typer.Option(help="File of `erecap bench fleet`: shares of the data sheet that were reached.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(callback=result_file, help="JSON file for assumptions and all figures.")
    ] = None,
) -> None:
    """Simulate robots that replan on one GPU: read everything again, keep everything, or keep some tokens.

    Nothing is measured here: bytes follow from the model's shape, seconds from a roofline of the GPU.
    """
    from rich.console import Console

    from erecap.cli.benching import numbers_in
    from erecap.cost.fleet.gpu import GPUS, MODELS
    from erecap.cost.fleet.table import Scale, scale_table
    from erecap.errors import ConfigError
    from erecap.files import write_json

    for option, value, allowed in (("--gpu", gpu, GPUS), ("--shape", shape, MODELS)):
        if value not in allowed:
            raise ConfigError(f"{option}: got {value!r}; allowed: {', '.join(allowed)}")
    for option, seconds in (("--period", period), ("--slo", slo)):
        if seconds <= 0:
            raise ConfigError(f"{option}: got {seconds:g}; allowed: seconds above 0")
    if host_gb < 0:
        raise ConfigError(f"--host-gb: got {host_gb:g}; allowed: memory from 0 on")
    device, model = GPUS[gpu], MODELS[shape]
    say = Console(markup=False, emoji=False, stderr=True).print
    try:
        settings = Scale(
            numbers_in(histories, "--histories", 1), kept, numbers_in(robots, "--robots", 1), new_tokens, plan_tokens,
            period, slo_s=slo, host_gb=host_gb,
        )  # fmt: skip
        if measured is not None:
            device = _fitted(measured, device, model)
        found = scale_table(settings, device, model, say)
    except ValueError as error:
        raise ConfigError(f"scale: {error}") from error
    found["command"] = "erecap scale" + (f" --measured {measured.name}" if measured is not None else "")
    typer.echo(f"{found['tokens_held']:,} tokens fit beside the weights; robots in memory at a time:")
    for row in found["holds"]:
        typer.echo(f"  history {row['history']:>7,}, {row['way']:>6}: {row['robots']:>5}")
    typer.echo(f"most robots with 95 % of the calls within {slo:g} s:")
    for row in found["most"]:
        more = "+" if row["at_least"] else ""
        typer.echo(f"  history {row['history']:>7,}, {row['way']:>6}: {row['robots']:>5}{more}")
    if out is not None:
        write_json(out, found)
        typer.echo(f"results: {out}")


def _fitted(path: Path, gpu: Gpu, model: Served) -> Gpu:
    """The GPU with the speeds of a file of `erecap bench fleet`.

    Raises:
        ValueError: no such file, or one that tells no speeds of this model.
    """
    from erecap.cost.fleet.gpu import fit_of, fitted
    from erecap.untrusted import read_json

    try:
        return fitted(gpu, model, fit_of(read_json(path), model))
    except OSError as error:
        raise ValueError(f"--measured: {path}: cannot be read: {error.strerror}") from error
    except KeyError as error:
        raise ValueError(f"--measured: {path}: `fit` lacks {error}") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"--measured: {path}: {error}") from error
