"""Edits of a chat on their way into a session: planned before a read, made when it comes to their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from erecap.engines.protocol import SessionEngine
from erecap.generation import Message
from erecap.session.chat_edits import thought_tokens
from erecap.session.conversation.chat import ChatPart
from erecap.session.conversation.digest import RunningDigest
from erecap.session.conversation.edit_record import Event, Made
from erecap.session.conversation.places import Places
from erecap.session.conversation.transcript import Mark, Transcript


@dataclass(frozen=True)
class EditStep:
    """An event with its place among the tokens."""

    event: Event
    at: int  # token index before which it is made
    spans: tuple[tuple[int, int], ...]  # token indices that it evicts
    mark: Mark  # the end of the message, the template's text included: reading can go on from there


def planned(
    events: Sequence[Event], messages: Sequence[Message], part: ChatPart, places: Places, marks: Sequence[Mark]
) -> list[EditStep]:
    """The steps of `events`.

    Args:
        part: the whole chat, as far as it is read now; events behind its last character are left out.
        marks: of the messages read and of those to be read.

    Raises:
        MessagesError: the template does not tell where a message ends.
    """
    newest = {mark.message: mark for mark in marks}
    steps = []
    for event in events:
        number = event.message
        if number + 1 == len(part.spans) and part.spans[number][1] == len(part.text):
            break  # the chat is read up to the end of a content, and what ends the message comes later
        character = places.end(number)
        at, own = places.token(character, number), newest[number]
        spans = [places.span(dropped) for dropped in event.dropped]
        if event.thinking:
            spans += thought_tokens(messages[number]["content"], own)
        digest = RunningDigest().update(part.text[:character]).digest()
        mark = replace(own, characters=character, digest=digest, tokens=at, aligned=places.is_between(character))
        steps.append(EditStep(event, at, tuple(spans), mark))
    return steps


@dataclass
class EditCounts:
    """Tokens that were read in earlier calls, and that edits kept from the newest one or moved."""

    skipped: int = 0  # dropped before anything of the call was read
    moved: int = 0  # given other positions


def make(step: EditStep, engine: SessionEngine, transcript: Transcript, before: int) -> tuple[int, int]:
    """Make an edit; its record in the transcript says before it begins how far back it reaches.

    Args:
        before: tokens before this index were read in earlier calls.

    Returns:
        Of these, the tokens evicted and those moved.
    """
    stored = engine.stored()
    gone = [_within(own, step.spans) for own in stored.groups]
    changed = [own[:1] for own in gone]
    evicted = np.unique(np.concatenate([*gone, np.empty(0, np.int64)]))
    moved = np.empty(0, np.int64)
    if step.event.reposition:
        rest = np.setdiff1d(stored.indices, evicted)
        moved = rest[rest != np.arange(len(rest))]
        changed.append(moved[:1])
    lowest = int(min([step.at, *np.concatenate([*changed, np.empty(0, np.int64)]).tolist()]))
    begun = Made(step.event, step.at, lowest, max(map(len, gone), default=0), done=False)
    transcript.edits = [*transcript.edits, begun]
    if len(evicted):
        engine.evict(gone)
    if step.event.reposition:
        engine.reposition()
    transcript.edits = [*transcript.edits[:-1], replace(begun, done=True)]
    return int((evicted < before).sum()), int((moved < before).sum())


def _within(indices: np.ndarray, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """Those of rising token indices that lie in one of the spans."""
    inside = np.zeros(len(indices), bool)
    for start, end in spans:
        inside[np.searchsorted(indices, start) : np.searchsorted(indices, end)] = True
    return indices[inside]
