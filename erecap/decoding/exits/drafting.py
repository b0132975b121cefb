"""Drafts by early exit: the first layers name tokens, and the pass that verifies them finishes what they left.

Nothing is computed twice. A token that leaves early waits in the cache with its hidden state; the next token that goes
deeper takes it along, and so does the pass that verifies (`erecap.decoding.exits.partial`). So drafting and verifying
share one cache, as in LayerSkip (Elhoushi et al., 2404.16710), and the tokens are those of decoding with all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from erecap.decoding.exits.candidates import Followers
from erecap.decoding.exits.draft_length import DraftLength
from erecap.decoding.exits.looks import Judge, Look, SliceOf
from erecap.decoding.exits.partial import Heads
from erecap.generation import AllowedTokens

LookAt = Callable[[Heads, int, torch.Tensor], bool]  # (head, layers run, hidden state of the newest token) -> stop


class LayerReader(Protocol):
    """An engine that can read through the first layers only."""

    def begin(self, ids: Sequence[int], look: LookAt) -> bool:
        """Read `ids`, at least one, until `look` says stop; `verify` finishes them.

        Returns:
            False, with nothing read, where something on the model has to see whole passes.
        """
        ...

    def unfinished_bytes(self) -> int:
        """Bytes of the hidden states that wait."""
        ...


@dataclass
class ExitState:
    """State of early exit in one session.

    Args:
        judge: names tokens between layers.
        layers: decoder layers of the model.
        small: `(n,)` small vocabulary; None: the judge takes the whole head.
        length: number of drafts.
        lossless: verified tokens only.
        check: the whole head must agree at the exit.
        nbytes: of the predictor.
    """

    judge: Judge
    layers: int
    small: torch.Tensor | None
    length: DraftLength
    lossless: bool
    check: bool
    nbytes: int = 0

    def copy(self) -> ExitState:
        """An independent state that knows the same, for a fork."""
        return ExitState(
            self.judge.copy(), self.layers, self.small, self.length.copy(), self.lossless, self.check, self.nbytes
        )


@dataclass
class ExitDraft:
    """The early exits of one answer.

    Args:
        state: of the session.
        ends: ids that end the answer.
        past: tokens read before it.
    """

    state: ExitState
    ends: Sequence[int]
    past: Sequence[int]
    left: list[int | None] = field(default_factory=list)  # of the newest proposal: layers run; None: forced tokens
    most_bytes: int = 0  # of hidden states that waited

    def __post_init__(self) -> None:
        self._followers = Followers(self.past)
        self._slices: SliceOf | None = None

    @property
    def lossless(self) -> bool:
        """True if only verified tokens stay."""
        return self.state.lossless

    @property
    def nbytes(self) -> int:
        """Bytes of the predictor and of the hidden states that waited at most."""
        return self.state.nbytes + self.most_bytes

    def propose(
        self,
        reader: LayerReader,
        pending: Sequence[int],
        generated: Sequence[int],
        room: int,
        allowed: AllowedTokens | None,
        banned: Sequence[int] = (),
    ) -> list[int]:
        """Begin to read `pending`, and name tokens that may follow `generated`, at most `room`.

        Args:
            banned: ids that may not come now.
        """
        proposal: list[int] = []
        self.left = []
        ids = list(pending)
        for _ in range(min(room, self.state.length.next())):
            look = _Looking(self, [*generated, *proposal], allowed, banned)
            if not reader.begin(ids, look):
                break
            self.most_bytes = max(self.most_bytes, reader.unfinished_bytes())
            if look.token is None:
                break
            ids = [look.token]
            self.state.judge.left(look.layer)
            self.left.append(look.layer)
            # A token that the grammar leaves no choice about needs no layer.
            while allowed is not None and ids[-1] not in self.ends and len(proposal) + len(ids) < room:
                choices = allowed([*generated, *proposal, *ids])
                if len(choices) != 1:
                    break
                ids.append(choices[0])
                self.left.append(None)
            proposal += ids
            if proposal[-1] in self.ends or len(proposal) >= room:
                break
        return proposal

    def learn(self, accepted: int) -> None:
        """Record that the first `accepted` tokens of the newest proposal stayed."""
        ran = [layer for layer in self.left if layer is not None]
        if ran:
            right = sum(layer is not None for layer in self.left[:accepted])
            self.state.length.learn(len(ran), right, sum(ran) / len(ran) / self.state.layers)

    def slices(self, heads: Heads) -> SliceOf:
        """Rows of the head that reads now."""
        if self._slices is None or self._slices.heads.decoder is not heads.decoder:
            small = self.state.small
            self._slices = SliceOf(heads, None if small is None else small.to(heads.decoder.device))
        return self._slices

    def followers(self, generated: Sequence[int]) -> list[int]:
        """Tokens that followed the newest ones before."""
        return self._followers.after(generated)


class _Looking:
    """Looks at one token on its way through the layers; `token` is what it left with."""

    def __init__(
        self, draft: ExitDraft, generated: list[int], allowed: AllowedTokens | None, banned: Sequence[int]
    ) -> None:
        self.token: int | None = None
        self.layer = 0
        self._draft, self._generated = draft, generated
        self._choices = None if allowed is None else list(allowed(generated))
        self._banned = banned if allowed is None else ()
        self._layers = draft.state.judge.layers()
        self._look: Look = draft.state.judge.fresh()
        self._rows: tuple | None = None

    def __call__(self, heads: Heads, layer: int, hidden: torch.Tensor) -> bool:
        """Stop where the token is named, and at the last layer that is looked at."""
        if layer not in self._layers:
            return layer > self._layers[-1]
        normed = heads.normed(hidden.unsqueeze(0))
        among, logits = self._logits(heads, normed)
        token = self._look.named(layer, logits, among)
        if token is not None and self._agreed(heads, normed, logits, among, token):
            self.token, self.layer = token, layer
            return True
        return layer == self._layers[-1]

    def _logits(self, heads: Heads, normed: torch.Tensor) -> tuple:
        if self._choices is None and not self._draft.state.judge.needs_slice:
            return None, self._masked(heads.whole(normed)[0])
        if self._rows is None:
            slices = self._draft.slices(heads)
            if self._choices is not None:
                self._rows = slices.allowed(self._choices)
            else:
                self._rows = slices.free(self._draft.followers(self._generated), self._banned)
        among, weight, bias = self._rows
        logits = (normed @ weight.t())[0]
        return among, (logits if bias is None else logits + bias).float()

    def _masked(self, logits: torch.Tensor) -> torch.Tensor:
        if not self._banned:
            return logits
        logits = logits.clone()
        logits[list(self._banned)] = -torch.inf
        return logits

    def _agreed(self, heads: Heads, normed: torch.Tensor, logits: torch.Tensor, among: object, token: int) -> bool:
        """Return True if nothing else in the vocabulary, as far as it is allowed, has a higher logit here."""
        if self._choices is not None or among is None or not self._draft.state.check:
            return True
        return int(self._masked(heads.whole(normed)[0]).argmax()) == token
