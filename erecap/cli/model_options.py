"""Options of the commands that open a model: which one, what is put into it, how and where it computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from erecap.config.exits import Exit

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Catalog name, folder or hub name.")]
AdapterOption = Annotated[str | None, typer.Option(help="LoRA adapter merged into it: a folder or a name.")]
LayersOption = Annotated[str | None, typer.Option(help="Layer plan applied to it: a folder or a name.")]
DtypeOption = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
ExitOption = Annotated[
    str | None,
    typer.Option("--exit", help="Early exit: a predictor's folder or name, or settings: layer=20,threshold=0.9."),
]
DeviceMapOption = Annotated[
    str | None,
    typer.Option(
        metavar="MAP",
        help="Layers on several devices: auto, balanced, sequential, cuda:0=0-15,cpu=16-29, or a JSON file.",
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, max=1024, help="Threads; torch's choice if left out.")]


def exit_settings(text: str | None) -> Exit | None:
    """The settings of early exit that `--exit` names.

    Raises:
        ConfigError: no such settings.
    """
    from erecap.config.exits import Exit
    from erecap.errors import ConfigError

    try:
        return Exit.of(text)
    except ValueError as error:
        raise ConfigError(f"--exit: {str(error).removeprefix('exit: ')}") from error
