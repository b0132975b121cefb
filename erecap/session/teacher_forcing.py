"""Teacher forcing: the logits of a session at every token of a given continuation, for comparing sessions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from erecap.decoding.answer import answer_ends
from erecap.decoding.loop import negative_log_likelihood
from erecap.generation import Message
from erecap.session.conversation.chat import ChatPart
from erecap.session.conversation.digest import RunningDigest
from erecap.session.conversation.transcript import Mark
from erecap.session.fit_call import fit_chat
from erecap.session.session import ReplanSession


def plan_choices(session: ReplanSession, messages: Sequence[Message], plan: str) -> list[int] | None:
    """The most probable next token before each token of `plan`, and after the last, in answer to `messages`.

    As `plan_logits`, of a plan that is given as text.

    Returns:
        One token id more than the plan has tokens; None where the chat outgrew the window, so that messages had to go.

    Raises:
        ValueError: an empty plan.
        BudgetError: as `ReplanSession.generate`.
    """
    rows = plan_logits(session, messages, session.tokenizer(plan, add_special_tokens=False)["input_ids"])
    return None if rows is None else [int(choice) for choice in rows.argmax(-1)]


def plan_loss(session: ReplanSession, messages: Sequence[Message], plan: str) -> float | None:
    """Mean negative log-likelihood, in nats, of `plan` and its end in answer to `messages`; see `plan_choices`.

    As `ReplanSession.plan_loss`, of a plan that need not be the session's own.
    """
    wanted = session.tokenizer(plan, add_special_tokens=False)["input_ids"]
    rows = plan_logits(session, messages, wanted)
    if rows is None:
        return None
    end = answer_ends(session.model, session.tokenizer)[0]
    losses = [negative_log_likelihood(row, token) for row, token in zip(rows, [*wanted, end], strict=True)]
    return sum(losses) / len(losses)


def plan_logits(session: ReplanSession, messages: Sequence[Message], plan: Sequence[int]) -> np.ndarray | None:
    """Logits before each token of a plan, and after the last, in answer to `messages`.

    The session reads `messages` and evicts as it would in `generate`, after the plan; the plan itself is forgotten
    again. No constraint holds.

    Args:
        session: reads the part of the chat that it has not read.
        messages: the whole chat.
        plan: the tokens that the answer is assumed to be.

    Returns:
        `(len(plan) + 1, vocab)` float32; None where the chat outgrew the window, so that messages had to go.

    Raises:
        ValueError: an empty plan.
        BudgetError: as `ReplanSession.generate`.
    """
    if not plan:
        raise ValueError("an empty plan has no tokens to compare")
    fitted = fit_chat(messages, session.conversation, session.policy, session.engine, len(plan) + 1)
    if fitted.dropped or fitted.truncated:
        return None
    prefill, conversation, engine = session.prefill, session.conversation, session.engine
    try:
        ids, marks, _ = prefill.enter(fitted.part, conversation.match(fitted.part), answering=True)
        with engine.attached():
            first = prefill.read(ids, marks, fitted.part, len(plan) + 1)
            rows = prefill.probe(plan)
    finally:
        prefill.roll_back(len(conversation.transcript.marks))
    prefill.enforce(fitted.part)
    conversation.chat = fitted.chat
    return np.concatenate([first[None], rows])


def text_logits(
    session: ReplanSession,
    context: Sequence[int],
    continuation: Sequence[int],
    protect: Sequence[tuple[int, int]] = (),
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Logits before each token of `continuation`, behind a text that is no chat.

    The session reads the text but for its last token, and evicts down to its budget. Then it reads that token and the
    continuation in one pass. So no logit comes from more stored tokens than the budget allows, besides these.

    Args:
        session: has read nothing; has read nothing again afterwards.
        context: tokens of the text, at least one.
        continuation: at least one token.
        protect: token indices `(start, end)` of the context that are evicted last.

    Returns:
        `(len(continuation), vocab)` float32, and the tokens that each layer stored of the context but for its last.

    Raises:
        ValueError: no context or no continuation, or a session that has read something.
        BudgetError: they do not fit the model's window.
    """
    if not context or not continuation:
        raise ValueError("a continuation is scored behind at least one token of context")
    if session.conversation.transcript.tokens:
        raise ValueError("the session has read something already")
    *before, last = context
    prefill, engine, room = session.prefill, session.engine, len(continuation)
    session.policy.room = room
    # One message without a chat around it. Its characters are its tokens, so that spans of tokens can be protected.
    mark = Mark(0, 0, b"", len(before), starts=tuple(range(len(before))))
    spans = [(0, start, min(end, len(before))) for start, end in protect if start < len(before)]
    claims: dict[int, Message] = {0: {"role": "user", "content": "", "protect": [span[1:] for span in spans]}}
    part = ChatPart("", [], [], 0, 0, RunningDigest(), claims, spans)
    try:
        with engine.attached():
            if before:
                prefill.read(before, [mark], part, room)
                prefill.enforce(part)
            stored = engine.stored().per_layer
            if before:
                rows = prefill.probe([last, *continuation[:-1]])
            else:  # a session that prunes would prune the first tokens that it reads
                rows = prefill.read([last], [], part, room)[None]
                if len(continuation) > 1:
                    rows = np.concatenate([rows, prefill.probe(continuation[:-1])])
    finally:
        session.close()
    return rows, stored
