"""The report of a call: its times by phase and its token counts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from erecap.decoding.loop import Decoded
from erecap.engines.protocol import SessionEngine
from erecap.generation import Timing, Usage
from erecap.session.conversation.conversation import Conversation
from erecap.session.edit_steps import EditCounts
from erecap.session.policy import SessionPolicy

if TYPE_CHECKING:
    from erecap.decoding.exits.drafting import ExitDraft


class CallReport:
    """Takes times while a call goes on, and reports its steps afterwards.

    Phases are noted in order: `matched`, `prefilled`, `decoded`.
    """

    def __init__(self, conversation: Conversation, policy: SessionPolicy, engine: SessionEngine) -> None:
        self.started = time.perf_counter()
        self._policy, self._engine = policy, engine
        self._read = conversation.transcript.tokens  # before the call
        self._evicted, self._pruning, self._crossed = policy.evicted, self._prune_seconds(), self._crossings()
        self._reused = self._new = 0
        self._kept: tuple[int, ...] = ()

    def matched(self) -> None:
        """Note the end of matching: the tokens of the chat that were read before are known."""
        self._matched_at = time.perf_counter()

    def prefilled(self, reused: int, new: int) -> None:
        """Note the end of prefill: `new` tokens were read behind `reused` ones."""
        self._prefilled_at = time.perf_counter()
        self._reused, self._new = reused, new
        self._kept = self._engine.stored().per_layer
        self._pruned = self._prune_seconds() - self._pruning

    def decoded(self) -> None:
        """Note the end of decoding: the answer is there."""
        self._decoded_at = time.perf_counter()

    def rewritten(self, reused: int) -> int:
        """Tokens read before this call that were given up, where `reused` stay."""
        return self._read - reused

    def deferred(self) -> tuple[Usage, Timing]:
        """Counts and times of a call that read nothing."""
        timing = Timing(tokenize_ms=self._ms(self.started, self._matched_at), total_ms=self._since_start())
        return Usage(kv_bytes=self._engine.kv_bytes()), timing

    def finished(
        self, out: Decoded, dropped: int, truncated: int, edited: EditCounts, exits: ExitDraft | None = None
    ) -> tuple[Usage, Timing]:
        """Counts and times of the whole call; now it has ended."""
        total_ms = self._since_start()
        usage = Usage(
            prompt_tokens=self._reused + self._new,
            new_tokens=self._new,
            reused_tokens=self._reused,
            completion_tokens=len(out.ids),
            kept_per_layer=self._kept,
            kv_bytes=self._engine.kv_bytes(),
            overflow_messages=dropped,
            truncated_tokens=truncated,
            evicted_tokens=self._policy.evicted - self._evicted,
            rewritten_tokens=self.rewritten(self._reused),
            drafted_tokens=out.drafted,
            accepted_tokens=out.accepted,
            decode_passes=out.passes,
            skipped_tokens=min(edited.skipped, self._reused),
            moved_tokens=min(edited.moved, max(0, self._reused - edited.skipped)),
            exit_layers=tuple(out.exit_layers),
            exit_differing=out.differing,
            exit_bytes=0 if exits is None else exits.nbytes,
            # A conversation that is read anew in between counts from there.
            crossed_bytes=total - self._crossed if (total := self._crossings()) >= self._crossed else total,
        )
        timing = Timing(
            tokenize_ms=self._ms(self.started, self._matched_at),
            prefill_ms=self._ms(self._matched_at, self._prefilled_at),
            prune_ms=1e3 * self._pruned,
            decode_ms=self._ms(self._prefilled_at, self._decoded_at),
            total_ms=total_ms,
        )
        return usage, timing

    def _crossings(self) -> int:
        """Bytes moved between devices so far; only the engine of transformers places layers."""
        crossed = getattr(self._engine, "crossed", None)
        return 0 if crossed is None else int(crossed().total)

    def _prune_seconds(self) -> float:
        return self._engine.prune_seconds + self._policy.seconds

    def _since_start(self) -> float:
        return self._ms(self.started, time.perf_counter())

    @staticmethod
    def _ms(start: float, end: float) -> float:
        return 1e3 * (end - start)
