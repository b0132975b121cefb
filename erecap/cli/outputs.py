"""Checks of places for results among options: what cannot be written is refused before anything is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.errors import ConfigError
from erecap.files import try_writing


def result_file(param: typer.CallbackParam, path: Path | None) -> Path | None:
    """Callback of options that name a file which is written at the end.

    Raises:
        ConfigError: a folder, another thing that is no file, or a place where no file can be made.
    """
    if path is not None:
        if path.exists() and not path.is_file():
            found = "a folder" if path.is_dir() else "no regular file"
            raise ConfigError(f"{param.opts[0]}: {path} is {found}; allowed: a file")
        _refuse_unwritable(param, path, path.parent)
    return path


def result_folder(param: typer.CallbackParam, path: Path | None) -> Path | None:
    """Callback of options that name a folder which is made, or filled.

    Raises:
        ConfigError: a file, or a place where no folder can be made.
    """
    if path is not None:
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{param.opts[0]}: {path} is a file; allowed: a folder")
        _refuse_unwritable(param, path, path)
    return path


def _refuse_unwritable(param: typer.CallbackParam, path: Path, folder: Path) -> None:
    try:
        try_writing(folder)
    except OSError as error:
        raise ConfigError(
            f"{param.opts[0]}: {path} cannot be written: {error.filename} takes no files ({error.strerror})"
        ) from error


ResultFile = Annotated[Path, typer.Option(callback=result_file, help="JSON file for settings, summary and raw rows.")]
