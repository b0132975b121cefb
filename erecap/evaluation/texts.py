"""Texts to measure on: whole files, or the rows of JSON Lines files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erecap.errors import ConfigError
from erecap.untrusted import parse_json

JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Text:
    """A text, and where it stands."""

    name: str  # file, and line if the file has rows
    content: str


def read_texts(paths: Sequence[Path], field: str | None = None) -> list[Text]:
    """The texts of files, in order. A file of JSON Lines has a text a row, any other file is one text.

    Args:
        field: key of the text in a row, or of a list of texts; None: `text`, else the contents of `messages`, else an
            `instruction` with what follows it (`input`, `output`, or `instances` of these).

    Raises:
        ConfigError: a file that is missing, empty or not UTF-8, or a row without text; file and line are named.
    """
    found: list[Text] = []
    for path in paths:
        content = read_utf8(path)
        texts = _rows(path, content, field) if path.suffix in JSON_LINES else [Text(path.name, content)]
        texts = [text for text in texts if text.content.strip()]
        if not texts:
            raise ConfigError(f"{path}: holds no text")
        found += texts
    return found


def read_utf8(path: Path) -> str:
    """The content of a file, without a byte order mark.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _rows(path: Path, content: str, field: str | None) -> list[Text]:
    found = []
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            try:
                found.append(Text(f"{path.name}:{number}", _text_of(parse_json(line), field)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                what = f"no key {error}" if isinstance(error, KeyError) else error
                if isinstance(error, (TypeError, AttributeError)):
                    what = "it or a part of it has another form"
                raise ConfigError(f"{path}:{number}: no text in the row ({what}); --field names its key") from error
    return found


def _text_of(row: Any, field: str | None) -> str:
    if field is not None:
        parts = row[field] if isinstance(row[field], list) else [row[field]]
    elif isinstance(row, str):
        parts = [row]
    elif "text" in row:
        parts = [row["text"]]
    elif "messages" in row:
        parts = [message["content"] for message in row["messages"]]
    else:
        parts = [row["instruction"]]
        parts += [one.get(key, "") for one in row.get("instances", [row]) for key in ("input", "output")]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("a part of it is no text")
    return "\n".join(part for part in parts if part)
