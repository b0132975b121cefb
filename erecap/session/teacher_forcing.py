"""What a session would write at every token of a given plan: for comparing sessions, teacher-forced."""

from __future__ import annotations

from collections.abc import Sequence

from erecap.generation import Message
from erecap.session.session import ReplanSession


def plan_choices(session: ReplanSession, messages: Sequence[Message], plan: str) -> list[int] | None:
    """The most probable next token before each token of `plan`, and after the last, in answer to `messages`.

    The session reads `messages` and evicts as it would in `generate`, after the plan; the plan itself is forgotten
    again. No constraint holds.

    Args:
        session: reads what of the chat it has not read.
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
    chat, part, dropped, truncated = session._fit(messages, len(wanted) + 1)
    if dropped or truncated:
        return None
    transcript, reader = session._transcript, session._reader
    known = transcript.matched(part.unseen, part.before)
    try:
        ids, marks, _ = session._enter(part, known, answering=True)
        with reader.attached():
            first = reader.prefill(ids, marks, transcript, part.claims, part.protected, len(wanted) + 1)
            rows = reader.probe(wanted)
    finally:
        session._go_back(len(transcript.marks))
    reader.enforce(transcript, part.claims, part.protected)
    session._chat = chat
    return [int(first.argmax()), *rows.argmax(-1).tolist()]
