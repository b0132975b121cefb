"""Lookup of a model's folder by its name."""

from __future__ import annotations

import re
from pathlib import Path

from erecap.errors import ModelError
from erecap.models.catalog import CATALOG
from erecap.models.folders import candidates
from erecap.models.inspection import first_line

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
# What a model folder needs of a hub repository; no pickled weights, no code.
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


def locate(name: str) -> Path:
    """The folder behind a catalog name, a path, or a hub name (`owner/model`).

    A hub model is downloaded into the hub client's own cache.

    Raises:
        ModelError: nothing of that name here, with the command that fetches it; the hub does not answer.
    """
    if not name:
        raise ModelError("the model's name is empty; give a catalog name, a folder, or a hub name owner/model")
    if PLAIN_NAME.fullmatch(name):
        for folder in candidates(name):
            if folder.is_dir():
                return folder
        if name in CATALOG:
            raise ModelError(f"model '{name}' is not pulled yet: run `erecap models pull {name}`")
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if HUB_NAME.fullmatch(name):
        return download(name)
    raise ModelError(
        f"no model '{name}': it is neither a folder, nor in the catalog ({', '.join(CATALOG)}), "
        "nor a hub name of the form owner/model"
    )


def download(repository: str, into: Path | None = None) -> Path:
    """Fetch a hub repository's model files; what is already there is not fetched again.

    Raises:
        ModelError: the hub does not answer, or has no such repository.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    # Every failure of the network or the hub is an OSError (HfHubHTTPError, LocalEntryNotFoundError, ...).
    try:
        return Path(snapshot_download(repository, local_dir=into, allow_patterns=HUB_FILES))
    except (OSError, HFValidationError) as error:
        raise ModelError(f"cannot get '{repository}' from the model hub: {first_line(error)}") from error
