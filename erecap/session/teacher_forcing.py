"""Teacher forcing: the choices of a session at every token of a given plan, for comparing sessions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from erecap.decoding.answer import answer_ends
from erecap.decoding.loop import negative_log_likelihood
from erecap.generation import Message
from erecap.session.fit_call import fit_chat
from erecap.session.session import ReplanSession


def plan_choices(session: ReplanSession, messages: Sequence[Message], plan: str) -> list[int] | None:
    """The most probable next token before each token of `plan`, and after the last, in answer to `messages`.

    The session reads `messages` and evicts as it would in `generate`, after the plan; the plan itself is forgotten
    again. No constraint holds.

    Args:
        session: reads the part of the chat that it has not read.
        messages: the whole chat.
        plan: the text that the answer is assumed to be.

    Returns:
        One token id more than the plan has tokens; None where the chat outgrew the window, so that messages had to go.

    Raises:
        ValueError: an empty plan.
        BudgetError: as `ReplanSession.generate`.
    """
    found = _forced(session, messages, plan)
    return None if found is None else [int(row.argmax()) for row in found[1]]


def plan_loss(session: ReplanSession, messages: Sequence[Message], plan: str) -> float | None:
    """Mean negative log-likelihood, in nats, of `plan` and its end in answer to `messages`; see `plan_choices`.

    As `ReplanSession.plan_loss`, of a plan that need not be the session's own.
    """
    found = _forced(session, messages, plan)
    if found is None:
        return None
    wanted, rows = found
    end = answer_ends(session.model, session.tokenizer)[0]
    losses = [negative_log_likelihood(row, token) for row, token in zip(rows, [*wanted, end], strict=True)]
    return sum(losses) / len(losses)


def _forced(
    session: ReplanSession, messages: Sequence[Message], plan: str
) -> tuple[list[int], list[np.ndarray]] | None:
    """The plan's tokens, and logits `(vocab,)` before each of them and after the last."""
    wanted = session.tokenizer(plan, add_special_tokens=False)["input_ids"]
    if not wanted:
        raise ValueError("an empty plan has no tokens to compare")
    fitted = fit_chat(messages, session.conversation, session.policy, session.engine, len(wanted) + 1)
    if fitted.dropped or fitted.truncated:
        return None
    prefill, conversation, engine = session.prefill, session.conversation, session.engine
    try:
        ids, marks, _ = prefill.enter(fitted.part, conversation.match(fitted.part), answering=True)
        with engine.attached():
            first = prefill.read(ids, marks, fitted.part, len(wanted) + 1)
            rows = prefill.probe(wanted)
    finally:
        prefill.roll_back(len(conversation.transcript.marks))
    prefill.enforce(fitted.part)
    conversation.chat = fitted.chat
    return wanted, [first, *rows]
