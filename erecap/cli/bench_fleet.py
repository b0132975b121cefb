"""`erecap bench fleet`: replanning calls of one agent and of many on one device, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.cli.bench import MODEL
from erecap.cli.numbers import finite
from erecap.cli.outputs import ResultFile


def fleet(
    shape: Annotated[
        str | None, typer.Option(help="Shape of the model: 8b, 1b or tiny; if left out, 8b on CUDA and tiny elsewhere.")
    ] = None,
    history: Annotated[int, typer.Option(min=1, help="Tokens that every agent has read before.")] = 7500,
    kept: Annotated[int, typer.Option(min=16, help="Tokens that a session with a budget keeps.")] = 1024,
    agents: Annotated[str, typer.Option(help="Numbers of agents that call together, with commas.")] = "1,64",
    new_tokens: Annotated[int, typer.Option(min=1, help="New tokens of a call, at least.")] = 100,
    plan_tokens: Annotated[int, typer.Option(min=2, help="Tokens generated in a call.")] = 32,
    repetitions: Annotated[int, typer.Option(min=1, help="Measured calls of each kind.")] = 3,
    minutes: Annotated[float, typer.Option(callback=finite, help="Time after which nothing new is begun.")] = 5.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    tokenizer: Annotated[str, typer.Option(help="Model whose tokenizer is used: a catalog name or a folder.")] = MODEL,
    out: ResultFile = Path("runs/bench/fleet.json"),
) -> None:
    """Time replanning calls of one agent and of many: everything read again, everything kept, or some tokens kept.

    Weights are random numbers in the shape of a published model, since neither time nor memory depends on what they
    are. `erecap scale --measured FILE` goes on with the speeds.
    """
    from dataclasses import replace
    from datetime import UTC, datetime

    import torch
    from rich.console import Console

    from erecap.bench.fleet import FleetBench, fleet_bench, random_model
    from erecap.cli.benching import numbers_in
    from erecap.cost.fleet.gpu import MODELS, SHAPES
    from erecap.cost.flops import ModelShape
    from erecap.errors import ConfigError
    from erecap.files import write_json
    from erecap.models import locate
    from erecap.models.loading import load_tokenizer, resolve_device
    from erecap.rollout.run_folder.machine import machine, versions

    shapes = {**SHAPES, "tiny": ModelShape(2, 64, 128, 4, 2, 16, 1000)}
    where = resolve_device(device)
    name = shape or ("8b" if where.type == "cuda" else "tiny")
    if name not in shapes:
        raise ConfigError(f"--shape: got {name!r}; allowed: {', '.join(shapes)}")
    words = load_tokenizer(locate(tokenizer))
    sizes = replace(shapes[name], vocab_size=max(shapes[name].vocab_size, len(words)))
    try:
        bench = FleetBench(
            history, kept, numbers_in(agents, "--agents", 1), new_tokens, plan_tokens, repetitions, minutes
        )
        say = Console(markup=False, emoji=False, stderr=True).print
        say(f"making a model of shape {name} with random weights")
        dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
        tied = name in MODELS and MODELS[name].tied
        model = random_model(sizes, 2 * history + 4096, where, dtype, tied=tied)
        found = fleet_bench(bench, model, words, say)
    except ValueError as error:
        raise ConfigError(f"bench fleet: {error}") from error
    gpu = torch.cuda.get_device_name(where) if where.type == "cuda" else None
    about = {
        "part": "fleet", "command": "erecap bench fleet", "date": datetime.now(UTC).date().isoformat(),
        "machine": {**machine(torch.get_num_threads()), "gpu": gpu}, "versions": versions(),
        "model": {"name": f"random weights, {name}", **vars(sizes), "dtype": str(dtype).removeprefix("torch.")},
    }  # fmt: skip
    typer.echo(f"{'way':>8} {'agents':>6} {'seconds':>8} {'range':>15} {'MB an agent':>11} {'agents in memory':>16}")
    for row in found["summary"]:
        spread, held = f"{row['low']:.3f}-{row['high']:.3f}", "-" if row["fit"] is None else f"{row['fit']:,}"
        line = f"{row['way']:>8} {row['agents']:>6} {row['seconds']:>8.3f} {spread:>15}"
        typer.echo(f"{line} {row['kv_bytes'] / 1e6:>11.1f} {held:>16}")
    for row in found["left_out"]:
        typer.echo(f"not measured: {row['way']} with {row['agents']} agents: {row['reason']}")
    write_json(out, {**about, **found})
    typer.echo(f"results: {out}")
