"""Teacher forcing: the choices of a session at every token of a given plan, for comparing sessions."""

from __future__ import annotations

from collections.abc import Sequence

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
    return [int(first.argmax()), *rows.argmax(-1).tolist()]
