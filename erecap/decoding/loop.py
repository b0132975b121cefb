"""The decode loop: one token at a time where it must be, several in one pass where they can be verified.

Three ways save passes and change nothing in the answer: a token that the constraint leaves no choice about is
appended without asking the model; drafted tokens are read in one pass and kept as far as they are what would have
been chosen; and both ride along in the same pass. Where nothing can be looked up, the first layers of the model may
draft (`erecap.decoding.exits`); the pass that verifies finishes what they began.

Sampled answers are drafted as well. Speculative sampling (Leviathan et al., 2211.17192; Chen et al., 2302.01318) keeps
a drafted token x with probability min(1, p(x) / q(x)), and else draws from max(0, p - q), renormalised. A draft that is
looked up has q(x) = 1, so x stays with probability p(x), and what replaces it has the distribution p without x. That is
what comes out of drawing one token from p and comparing it with x. So this is what the loop does: a seeded answer is
then the same with and without a draft, not only equal in distribution, and each token needs one draw, not two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from erecap.generation import AllowedTokens

if TYPE_CHECKING:
    from erecap.decoding.choosing import Chooser
    from erecap.decoding.exits.drafting import ExitDraft

Ended = Callable[[list[int]], bool]


class Reader(Protocol):
    """The part of an engine that the decode loop needs."""

    @property
    def tokens(self) -> int:
        """Tokens read so far."""
        ...

    def verify(self, ids: Sequence[int]) -> Any:
        """Read `ids`, storing their keys; logits `(len(ids), vocab)` after each of them, as an array."""
        ...

    def rollback(self, to: int) -> None:
        """Forget everything read after the first `to` tokens."""
        ...


class Draft(Protocol):
    """Proposals for one answer; `erecap.decoding.drafts` has several ways to make them."""

    def propose(self, generated: Sequence[int], pending: int = 1) -> list[int]:
        """Tokens that may follow `generated`; `pending`: tokens that the pass which verifies them reads anyway."""
        ...

    def learn(self, proposed: int, accepted: int) -> None:
        """Record that of the first `proposed` tokens of the newest proposal the first `accepted` were right."""
        ...


@dataclass
class Decoded:
    """The outcome of a decode loop."""

    ids: list[int] = field(default_factory=list)  # generated, in order
    unread: int = 0  # of these, newest ones whose keys are not stored yet
    passes: int = 0  # forward calls
    drafted: int = 0  # tokens proposed
    accepted: int = 0  # of these, kept
    losses: list[float] = field(default_factory=list)  # of chosen tokens, where they were asked for
    exit_layers: list[int] = field(default_factory=list)  # layers after which kept tokens left early, in order
    differing: int = 0  # kept tokens that left early and are not what all layers choose; only without verification


def decode(
    reader: Reader,
    logits: Any,
    *,
    max_new_tokens: int,
    ended: Ended,
    pick: Callable[[np.ndarray], int] | None = None,
    allowed: AllowedTokens | None = None,
    draft: Draft | None = None,
    exits: ExitDraft | None = None,
    chooser: Chooser | None = None,
    not_before: tuple[int, Sequence[int]] = (0, ()),
    force: Sequence[int] | None = None,
    losses: bool = False,
) -> Decoded:
    """Generate until `ended` says so or `max_new_tokens` are there.

    Args:
        reader: reads on from the prompt.
        logits: `(vocab,)` after the prompt's last token.
        ended: asked with all generated ids after each token.
        pick: draws a token from masked logits `(vocab,)`; None is greedy. It is asked once per token that is not
            forced, in order, with and without a draft.
        allowed: ids allowed after the generated ones; it is asked at every drafted token as well.
        draft: proposals to verify.
        exits: drafts with the first layers of a reader that can (`LayerReader`), where `draft` proposes nothing. If it
            is not `lossless`, its tokens stay even where all layers choose another.
        chooser: chooses among the tokens of `allowed` without the logits of others, where the answer is greedy. It is
            the same answer.
        not_before: `(count, ids)`: these ids are not chosen among the first `count` generated ones.
        force: the ids of the answer, its end included, which `allowed` allows. The passes are made as if the model had
            chosen them; for measuring what an answer takes.
        losses: note the negative log-likelihood, in nats and without the constraint, of each token that was chosen
            among several.
    """
    out = Decoded()
    greedy = pick is None
    among_some = chooser is not None and allowed is not None and greedy and not losses and force is None
    pending: list[int] = []  # generated, not read

    def choose(row: np.ndarray) -> int:
        ids = None if allowed is None else list(allowed(out.ids))
        if ids is not None and len(ids) == 1:
            return ids[0]
        token = among(row, ids)
        if losses:
            out.losses.append(negative_log_likelihood(row, token))
        return token

    def among(row: np.ndarray, ids: list[int] | None) -> int:
        if force is not None:
            return force[len(out.ids)]
        if ids is not None:
            if greedy:
                # argmax over the allowed ones in order of id, so that ties fall as in the full vocabulary.
                index = np.sort(ids)
                return int(index[row[index].argmax()])
            whole, row = row, np.full_like(row, -np.inf)
            row[ids] = whole[ids]
        elif len(out.ids) < not_before[0]:
            row = row.copy()
            row[list(not_before[1])] = -np.inf
        return int(row.argmax()) if pick is None else pick(row)

    def add(token: int) -> bool:
        out.ids.append(token)
        return len(out.ids) >= max_new_tokens or ended(out.ids)

    def add_forced() -> bool:
        """Append tokens as long as there is only one choice; true if that ended the answer."""
        while allowed is not None:
            ids = allowed(out.ids)
            if len(ids) != 1:
                return False
            pending.append(ids[0])
            if add(ids[0]):
                return True
        return False

    token = choose(np.asarray(logits))
    while True:
        pending.append(token)
        if add(token) or add_forced():
            break
        room = max_new_tokens - len(out.ids) - 1
        proposal = draft.propose(out.ids, len(pending))[:room] if draft is not None and room > 0 else []
        early = exits if not proposal and room > 0 else None
        if early is not None:
            banned = not_before[1] if len(out.ids) < not_before[0] else ()
            # The reader is one of layers: the session has seen to that.
            proposal = early.propose(reader, pending, out.ids, room, allowed, banned)  # type: ignore[arg-type]
        # Without verification drafted tokens stay that were not chosen, and the grammar goes on behind them.
        picks: list[int] | None = None
        if among_some and (early is None or early.lossless):
            picks = chooser.choices(allowed, out.ids, pending, proposal)  # type: ignore[union-attr, arg-type]
        rows = np.empty((0, 0))
        if picks is None:
            rows = np.asarray(reader.verify(pending + proposal))[-1 - len(proposal) :]
        out.passes += 1
        out.drafted += len(proposal)
        pending.clear()
        accepted, done = 0, False
        for place, drafted in enumerate(proposal):
            token = choose(rows[place]) if picks is None else picks[place]
            if token != drafted:
                if early is None or early.lossless:
                    break  # the token chosen instead is the next one
                out.differing += 1
                token = drafted
            accepted += 1
            if add(token):
                done = True
                break
        else:
            token = choose(rows[-1]) if picks is None else picks[-1]
        out.accepted += accepted
        if early is not None:
            early.learn(accepted)
            out.exit_layers += [layer for layer in early.left[:accepted] if layer is not None]
        elif draft is not None and proposal:
            draft.learn(len(proposal), accepted)
        if accepted < len(proposal):
            reader.rollback(reader.tokens - (len(proposal) - accepted))
        if done:
            break
    out.unread = len(pending)
    return out


def negative_log_likelihood(row: np.ndarray, token: int) -> float:
    """Negative log-likelihood, in nats, of `token` under logits `(vocab,)`."""
    highest = float(row.max())
    return highest + float(np.log(np.exp(row - highest).sum(dtype=np.float64))) - float(row[token])
