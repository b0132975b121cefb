"""Cutting a whole chat to the model's window, where nothing may be evicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erecap.context.fit import fit_messages
from erecap.context.tokenize import encode_from, render_prompt
from erecap.engines.protocol import SessionEngine
from erecap.generation import Message
from erecap.session.conversation.chat import ChatPart, SessionChat, whole_part
from erecap.session.conversation.conversation import Conversation
from erecap.session.policy import SessionPolicy


@dataclass(frozen=True)
class FittedChat:
    """A chat that a call answers."""

    chat: SessionChat  # the session's own from now on
    part: ChatPart  # what of it is to be read
    dropped: int = 0  # oldest whole messages left out
    truncated: int = 0  # tokens cut out of the middle of the newest message


def fit_chat(
    messages: Sequence[Message],
    conversation: Conversation,
    policy: SessionPolicy,
    engine: SessionEngine,
    max_new_tokens: int,
) -> FittedChat:
    """The whole chat, cut so that it and `max_new_tokens` fit the window.

    With a budget the session outlives the window, and nothing is cut; except where an automatic one finds that the
    engine cannot reposition.

    Raises:
        BudgetError: system and goal alone do not fit.
    """
    tokenizer = conversation.tokenizer
    part = whole_part(messages, tokenizer, header=True)
    limit = engine.window - max_new_tokens
    if policy.outlives_window(engine) or _fits(part, conversation, engine, limit):
        return FittedChat(conversation.chat.becomes(messages), part)

    def count(some: Sequence[Message]) -> int:
        return len(render_prompt(some, tokenizer).input_ids)

    fitted = fit_messages(messages, count, limit)
    part = whole_part(fitted.messages, tokenizer, header=True)
    return FittedChat(conversation.chat.becomes(fitted.messages), part, fitted.dropped, fitted.truncated_tokens)


def _fits(part: ChatPart, conversation: Conversation, engine: SessionEngine, limit: int) -> bool:
    """Return True if the stored and the new tokens take at most `limit` positions."""
    known = conversation.match(part)
    base = conversation.mark_before(known)
    characters, used = (base.characters, base.tokens) if base else (0, 0)
    if known == len(conversation.transcript.marks):
        used += len(conversation.pending) - (engine.tokens - engine.next_position)
    # Bytes bound tokens from above, so that short texts need not be tokenised to know that they fit.
    if used + len(part.text[characters:].encode("utf-8")) <= limit:
        return True
    return used + len(encode_from(conversation.tokenizer, part.text, characters).ids) <= limit
