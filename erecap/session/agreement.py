"""Agreement of a given plan with the model's greedy choices, in one pass over its tokens."""

from __future__ import annotations

from collections.abc import Sequence

from erecap.session.conversation.chat import ChatPart
from erecap.session.prefill import SessionPrefill


def agreement(prefill: SessionPrefill, part: ChatPart, wanted: Sequence[int]) -> float:
    """Share of the tokens `wanted`, an answer to `part`, that are the greedy choice, each after those before it.

    What is read for it is forgotten again.
    """
    conversation = prefill.conversation
    known = conversation.match(part)
    prefill.roll_back(known, reread=True)
    header, _ = conversation.unread(part, known)
    try:
        prefill.make_room(len(header) + len(wanted), part)
        rows = prefill.probe([*header, *wanted])
    finally:
        prefill.roll_back(len(conversation.transcript.marks))
    choices = rows[len(header) - 1 : -1].argmax(-1).tolist()
    return sum(a == b for a, b in zip(choices, wanted, strict=True)) / len(wanted)
