"""A session on disk: the engine's file, which also holds the session's conversation.

The number of evicted tokens is not among it: it follows from how many were read (`logical`) and how many are stored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from erecap.engines.protocol import SessionEngine
from erecap.errors import RunError
from erecap.session.conversation.chat import SessionChat
from erecap.session.conversation.conversation import Conversation
from erecap.session.conversation.edit_record import Event, Made
from erecap.session.conversation.tokenizer_print import tokenizer_print
from erecap.session.conversation.transcript import Mark
from erecap.session.saved import check_saved


def save_session(path: Path, engine: SessionEngine, conversation: Conversation) -> None:
    """Write an engine's keys and values and the conversation to `path`."""
    transcript = conversation.transcript
    known = {
        "forgotten": transcript.forgotten,
        "overlays": transcript.corrections,
        "due": transcript.due,
        "edits": [[*made.event, made.at, made.lowest, made.tokens, made.done] for made in transcript.edits],
        "marks": _plain(transcript.marks),
        "older": _plain(transcript.older),
        "logical": engine.tokens,
        "state": {
            "previous": conversation.previous,
            "pending": conversation.pending,
            "shift": engine.tokens - engine.next_position,
            "chat": conversation.chat.to_json(),
        },
        "tokenizer": tokenizer_print(conversation.tokenizer),
    }
    engine.save(path, {"ids": np.asarray(transcript.ids, np.int64)}, known)


def load_session(path: Path, engine: SessionEngine, conversation: Conversation) -> None:
    """Fill an engine and a conversation that have read nothing from `path`.

    Raises:
        RunError: no such file, a damaged one, or one of another model, tokenizer or chat template.
    """
    arrays, known = engine.restore(path)
    ids = arrays.get("ids")
    if ids is None or ids.dtype != np.int64 or ids.ndim != 1:
        raise RunError(f"{path.name}: damaged session file: ids are not one row of whole numbers")
    check_saved(path, known, ids.tolist(), engine.vocabulary)
    own = tokenizer_print(conversation.tokenizer)
    for part, name in (("tokenizer", "tokenizer"), ("template", "chat template")):
        if known["tokenizer"].get(part) != own[part]:
            raise RunError(f"{path.name}: saved with another {name} than this session's; its tokens would not fit")
    state: dict[str, Any] = known["state"]
    transcript = conversation.transcript
    transcript.ids = ids.tolist()
    transcript.forgotten, transcript.due = known["forgotten"], known["due"]
    transcript.corrections = [(at, list(ids)) for at, ids in known["overlays"]]
    transcript.marks, transcript.older = _marks(known["marks"]), _marks(known["older"])
    transcript.edits = [_made(*values) for values in known.get("edits", ())]  # sessions of earlier versions have none
    conversation.previous, conversation.pending = state["previous"], state["pending"]
    conversation.chat = SessionChat.from_json(conversation.tokenizer, state["chat"])


def _made(
    message: int, dropped: list[int], thinking: bool, reposition: bool, at: int, lowest: int, tokens: int, done: bool
) -> Made:
    return Made(Event(message, tuple(dropped), thinking, reposition), at, lowest, tokens, done)


def _plain(marks: list[Mark]) -> list[list[Any]]:
    return [
        [m.message, m.characters, m.digest.hex(), m.tokens, m.aligned, m.first, list(m.starts), m.generated]
        for m in marks
    ]


def _marks(values: list[list[Any]]) -> list[Mark]:
    return [
        Mark(message, characters, bytes.fromhex(digest), tokens, aligned, first, tuple(starts), generated)
        for message, characters, digest, tokens, aligned, first, starts, generated in values
    ]
