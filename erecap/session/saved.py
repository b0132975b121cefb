"""The plain values of a saved session, checked before anything is made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from erecap.errors import RunError

Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Hex = Annotated[str, Field(pattern=r"^(?:[0-9a-f]{2})*$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
# message, characters, digest, tokens, aligned, first, starts, generated
SavedMark = tuple[Count, Count, Digest | Annotated[str, Field(max_length=0)], Count, bool, Count, list[Count], bool]

# message, dropped, thinking, reposition, at, lowest, tokens, done
SavedEdit = tuple[Count, list[Count], bool, bool, Count, Count, Count, bool]


class SavedMessage(BaseModel):
    """A chat message; what else it carries is taken as it is."""

    model_config = ConfigDict(extra="allow")
    role: str
    content: str
    protect: list[tuple[Count, Count]] = []
    stale: list[tuple[Count, Count]] = []


class SavedChat(BaseModel):
    """The session's own chat, as `SessionChat.to_json` wrote it."""

    ends: tuple[Count, list[SavedMessage], list[SavedMessage]]
    claims: tuple[Count, Annotated[int, Field(ge=-1)], list[tuple[Count, SavedMessage]], list[tuple[Count, Count]]]
    digest: tuple[Hex, Hex, Count]
    waiting: list[SavedMessage]
    answered: bool
    messages: list[SavedMessage] | None


class SavedState(BaseModel):
    """The newest answer, the chat, and the distance of positions from token indices."""

    previous: list[Count]
    pending: list[Count]
    shift: Count
    chat: SavedChat


class SavedSession(BaseModel):
    """Everything of a session that is no tensor."""

    forgotten: Count
    overlays: list[tuple[Count, list[Count]]]
    due: list[Count]
    edits: list[SavedEdit] = []
    marks: list[SavedMark]
    older: list[SavedMark]
    logical: Count
    state: SavedState
    tokenizer: dict[str, str]


def check_saved(path: Path, known: dict[str, Any], ids: Iterable[int], vocabulary: int) -> None:
    """Refuse values of another type or out of range.

    Args:
        ids: the ids read.
        vocabulary: token ids are below this.

    Raises:
        RunError: names the first.
    """
    try:
        saved = SavedSession.model_validate_json(json.dumps(known), strict=True)
    except (ValidationError, RecursionError) as error:
        first = error.errors(include_url=False)[0] if isinstance(error, ValidationError) else None
        where = ".".join(map(str, first["loc"])) + ": " + first["msg"] if first else "nested too deeply"
        raise RunError(f"{path.name}: damaged session file: {where}") from error
    ids = list(ids)
    corrections = [token for _, own in saved.overlays for token in own]
    every = [*ids, *saved.state.previous, *saved.state.pending, *saved.due, *corrections]
    wrong = next((token for token in every if not 0 <= token < vocabulary), None)
    ends = [mark[3] for mark in (*saved.older, *saved.marks)]
    problem = None
    if wrong is not None:
        problem = f"token id {wrong} is outside of the vocabulary of {vocabulary}"
    elif saved.forgotten + len(ids) != saved.logical:
        problem = f"{saved.logical} tokens were read, and it has the ids of {saved.forgotten + len(ids)}"
    elif ends != sorted(ends) or (ends and ends[-1] > saved.logical):
        problem = f"ends of messages do not rise within the {saved.logical} tokens read"
    elif any(mark[5] > mark[3] for mark in (*saved.older, *saved.marks)):
        problem = "a message ends before it begins"
    elif any(at > saved.logical for at, _ in saved.overlays):
        problem = "a correction lies behind the tokens read"
    elif any(edit[5] > edit[4] for edit in saved.edits):
        problem = "an edit reaches behind its own place"
    if problem is not None:
        raise RunError(f"{path.name}: damaged session file: {problem}")
