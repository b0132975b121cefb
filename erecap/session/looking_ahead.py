"""Token counts of a call before it is made."""

from __future__ import annotations

from collections.abc import Sequence

from erecap.generation import Message
from erecap.session.conversation.chat import whole_part
from erecap.session.session import ReplanSession


def tokens_of_call(session: ReplanSession, messages: Sequence[Message]) -> tuple[int, int]:
    """Tokens of the whole chat up to the header of its answer, and of these, those that the session has not read."""
    conversation = session.conversation
    part = whole_part(messages, session.tokenizer, header=True)
    known = conversation.match(part)
    base = conversation.mark_before(known)
    new = len(conversation.unread(part, known)[0])
    return (base.tokens if base else 0) + new, new
