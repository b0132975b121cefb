"""The small files of a model folder that change what the model computes or says: configuration, tokenizer, template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from erecap.errors import ModelError
from erecap.models.inspection import read_json

SETTINGS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model", "tekken.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_TEMPLATES = "additional_chat_templates/*.jinja"  # one of them may be called `default`
# Keys that say who wrote a file, not what the model does.
IDLE = frozenset({"transformers_version", "_name_or_path", "_commit_hash"})


def settings_files(folder: Path) -> dict[str, str]:
    """SHA-256 of each of these files that the folder has; of JSON, over its content.

    Raises:
        ModelError: one cannot be read.
    """
    found = {}
    for name in (*SETTINGS, *sorted(str(path.relative_to(folder)) for path in folder.glob(_TEMPLATES))):
        path = folder / name
        if not path.is_file():
            continue
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}") from error
        if path.suffix == ".json":
            values = {key: value for key, value in read_json(path).items() if key not in IDLE}
            raw = json.dumps(values, sort_keys=True).encode()
        found[name] = hashlib.sha256(raw).hexdigest()
    return found


def changed_files(pinned: Mapping[str, str], folder: Path) -> list[str]:
    """Names of files that are not as `settings_files` told earlier, missing and new ones included.

    Args:
        pinned: what it told; empty: nothing is known, so nothing differs.
    """
    if not pinned:
        return []
    found = settings_files(folder)
    return [name for name in {**pinned, **found} if found.get(name) != pinned.get(name)]
