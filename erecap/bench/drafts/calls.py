"""One answer decoded in several ways, in turn, each from the same state."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from erecap.bench.drafts.settings import PLAIN, DraftsBench
from erecap.bench.replan.calls import steady
from erecap.budget import Budget
from erecap.decoding.drafts.acceptance import Acceptance
from erecap.decoding.drafts.texts import DraftMemory
from erecap.decoding.linear import known_weights
from erecap.generation import JsonRow, Message
from erecap.registries import SHARED_DRAFTS
from erecap.session.session import ReplanSession

Scene = dict[str, Any]  # what the rows of one answer have in common


class Ways:
    """One session for each kind of weights, and one memory of answers for each way that has one."""

    def __init__(self, bench: DraftsBench, model: Any, tokenizer: Any) -> None:
        self._bench, self._model, self._tokenizer = bench, model, tokenizer
        self._memories: dict[tuple[str, str], DraftMemory] = {}
        self._acceptance: dict[tuple[str, str], Acceptance] = {}
        self.forget()

    def forget(self) -> None:
        """Forget all answers, and which drafted tokens were right."""
        self._acceptance = {}
        kinds, shared = self._bench.weights, [way for way in self._bench.ways if way in SHARED_DRAFTS]
        self._memories = {(kind, way): DraftMemory() for kind in kinds for way in shared}

    def sessions(self, budget: Budget | None) -> dict[str, ReplanSession]:
        """New sessions by their weights."""
        return {
            kind: ReplanSession(
                self._model, self._tokenizer, budget=budget, decode_weights=known_weights(kind), seed=self._bench.seed
            )
            for kind in self._bench.weights
        }

    def answer(
        self,
        sessions: dict[str, ReplanSession],
        messages: Sequence[Message],
        scene: Scene,
        *,
        tokens: int,
        least: int = 0,
        given: str | None = None,
        repetitions: int,
    ) -> tuple[str, list[JsonRow]]:
        """The plain answer of the first weights, and a row for each way, weights and repetition.

        Args:
            sessions: have read `messages` as far as that is not to be timed.
            tokens, least: most and least tokens of the answer.
            given: text that the answer may repeat.
        """
        rows: list[JsonRow] = []
        plain: dict[str, tuple[str, list[int]]] = {}
        learned: dict[tuple[str, str], Acceptance] = {}
        with steady() as collect:
            for repetition in range(repetitions):
                for kind, session in sessions.items():
                    for way in (PLAIN, *self._bench.ways):
                        collect()
                        twin = session.fork()
                        twin.draft = False if way == PLAIN else way
                        memory = self._memories.get((kind, way))
                        # Copies: what they are taught by this answer must not help to give it once more.
                        twin.drafts.memory = None if memory is None else memory.copy()
                        known = twin.drafts if twin.drafts.memory is None else twin.drafts.memory
                        known.acceptance = self._acceptance.get((kind, way), Acceptance()).copy()
                        learned[kind, way] = known.acceptance
                        row = timed(twin, messages, tokens, least, given)
                        said = row.pop("said")
                        if way == PLAIN:
                            plain.setdefault(kind, said)
                        agreed = agreement(said[1], plain[kind][1])
                        head = {**scene, "weights": kind, "way": way, "repetition": repetition}
                        rows.append({**head, **row, "agreement": agreed, "same_text": said[0] == plain[kind][0]})
        for (kind, _), memory in self._memories.items():
            memory.add(plain[kind][1])
        self._acceptance.update(learned)
        return plain[self._bench.weights[0]][0], rows


def timed(session: ReplanSession, messages: Sequence[Message], tokens: int, least: int, given: str | None) -> JsonRow:
    """Counts and times of decoding one answer; `said` is its text and its ids."""
    begun: list[float] = []

    def first_text(text: str) -> None:
        if not begun:  # the first token is there, which the prefill gives
            begun.append(time.process_time())

    generation = session.generate(
        messages, max_new_tokens=tokens, min_new_tokens=least, draft=given, on_text=first_text
    )
    processor = time.process_time() - begun[0] if begun else 0.0
    usage = generation.usage
    return {
        "decode_ms": generation.timing.decode_ms,
        "processor_ms": 1e3 * processor,
        "tokens": usage.completion_tokens - 1,
        "passes": usage.decode_passes,
        "drafted_tokens": usage.drafted_tokens,
        "accepted_tokens": usage.accepted_tokens,
        "said": (generation.text, list(session.conversation.previous)),
    }


def agreement(ids: Sequence[int], plain: Sequence[int]) -> float:
    """Share of the plain answer's tokens before the first that differs."""
    same = 0
    while same < min(len(ids), len(plain)) and ids[same] == plain[same]:
        same += 1
    return same / len(plain) if plain else float(not ids)
