"""Shared parts of the commands under `erecap bench`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from erecap.errors import ConfigError, RunError

if TYPE_CHECKING:
    from erecap.bench.suite import Load, Settings


def measure(
    bench: Settings,
    model: str,
    dtype: str,
    threads: int | None,
    out: Path | None,
    *,
    command: str | None = None,
    device_map: str | None = None,
) -> dict[str, Any]:
    """Measure one part, show it, and write it to `out` if that is given.

    Args:
        command: after `erecap bench`, where it is not the part's name.
    """
    from erecap.bench.suite import part_of, play, write_part

    about, load, say = setting(
        model, dtype, threads, f"erecap bench {command or part_of(bench)}", device_map=device_map
    )
    part = play(bench, *load(), about, say, source=model)
    show(part)
    if out is not None:
        write_part(out, part)
        typer.echo(f"results: {out}")
    return part


def setting(
    model: str,
    dtype: str,
    threads: int | None,
    command: str,
    adapter: str | None = None,
    device_map: str | None = None,
) -> tuple[dict[str, Any], Load, Callable[[str], None]]:
    """The settings that every part gets: machine and model, loading, and where progress goes."""
    from datetime import UTC, datetime

    import torch
    from rich.console import Console

    from erecap.models import load
    from erecap.models.loading import resolve_device, resolve_dtype
    from erecap.rollout.run_folder.machine import machine, versions

    if threads is not None:
        torch.set_num_threads(threads)
    progress = Console(markup=False, emoji=False, stderr=True)
    about = {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(torch.get_num_threads()),
        "versions": versions(),
        "model": {
            "name": Path(model).name,  # the path of a folder is private
            "dtype": str(resolve_dtype(dtype, resolve_device("auto"))).removeprefix("torch."),
            **({} if device_map is None else {"device_map": device_map}),
        },
    }
    return (
        about,
        lambda: load(model, dtype, "auto", adapter=adapter, device_map=device_map),
        lambda text: progress.print(text),
    )


def show(part: dict[str, Any]) -> None:
    """Print the tables of a part."""
    from rich.console import Console

    from erecap.bench.tables import tables_of

    console = Console(markup=False, emoji=False)
    for table in tables_of(part):
        console.print(table)


def finish_sides(
    title: str,
    part: dict[str, Any],
    columns: Mapping[str, Callable[[dict[str, Any]], str]],
    out: Path,
    results: Path | None,
    defined_for: str,
    file: str = "engines",
) -> None:
    """Show a part of engines whose sides made calls in turn, and write it.

    Args:
        part: `summary` has `calls`, of `erecap.bench.sides.side_summary`; `part` is its name among the results.
        columns: the part's own, between the times and their multiples: headings, and the texts of a side's entry.
        out: the part's own file.
        results: a results file that gets the part with its rows.
        file: whose targets the rows have, as `erecap.targets` names it.
        defined_for: settings that the figures are defined for, for those who asked for `results` with others.
    """
    from rich.console import Console

    from erecap.bench.results import merge_part
    from erecap.bench.suite import write_part
    from erecap.bench.tables import result_table, seconds, table_of

    told: dict[str, Callable[[dict[str, Any]], str]] = {
        "call": lambda entry: str(entry["mode"]),
        "total": lambda entry: seconds(entry["total_ms"]),
        "min–max": lambda entry: f"{seconds(entry['min_ms'])}–{seconds(entry['max_ms'])}",
        **columns,
        "× floor": lambda entry: f"{entry['over_floor']:.2f}",
        "× ours": lambda entry: f"{entry['over_erecap']:.2f}",
    }
    lines = [tuple(text(entry) for text in told.values()) for entry in part["summary"]["calls"]]
    console = Console(markup=False, emoji=False)
    console.print(table_of(title, tuple(told), lines, left=("call",)))
    if part["rows"]:
        console.print(result_table(part["rows"]))
    write_part(out, part)
    typer.echo(f"results: {out}")
    if results is not None and part["rows"]:
        merge_part(results, part["part"], part, part["rows"], file=file)
        typer.echo(f"results: {results}")
    elif results is not None:
        typer.echo(f"results: nothing goes into {results}, whose figures are defined for {defined_for}")


def end(parts: list[dict[str, Any]]) -> None:
    """End the command with an error if a figure lies above its ceiling, after everything was written."""
    faults = [line for part in parts for line in part["faults"]]
    if faults:
        raise RunError("; ".join(faults))


def names_in(text: str) -> tuple[str, ...]:
    """`"a, b"` as `("a", "b")`."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers_in(text: str, option: str, least: int) -> tuple[int, ...]:
    """`"20, 10"` as `(10, 20)`. Raises ConfigError for anything but whole numbers from `least` on."""
    try:
        counts = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        counts = ()
    if not counts or counts[0] < least:
        raise ConfigError(f"{option}: got {text!r}; allowed: whole numbers from {least} on, with commas")
    return counts


def given_options(context: typer.Context, names: Iterable[str]) -> str:
    """Those of the options `names` that the caller gave, as words of a command; of a path only its last part."""
    words: list[str] = []
    for option in context.command.params:
        if option.name not in names or not is_given(context, option.name):
            continue
        value = context.params[option.name]
        for one in value if isinstance(value, list | tuple) else (value,):
            text = one.name if isinstance(one, Path) else Path(one).name if isinstance(one, str) else str(one)
            words += [option.opts[0]] if one is True else [option.opts[0], text]
    return " ".join(words)


def is_given(context: typer.Context, parameter: str) -> bool:
    """True if the user named this option."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name != "DEFAULT"


def refuse_given(context: typer.Context, parameters: Iterable[str], option: str) -> None:
    """Raise ConfigError if the user named one of `parameters`, which mean nothing beside `option`."""
    named = [f"--{name.replace('_', '-')}" for name in parameters if is_given(context, name)]
    if named:
        raise ConfigError(f"{option} goes without {', '.join(named)}")
