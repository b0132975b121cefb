"""Points of a front: the whole model or one with a layer plan, with or without a budget and drafts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from erecap.budget import AUTO
from erecap.config.modes import Decode, Evict, Mode
from erecap.evaluation.layer_front.plans import Candidate
from erecap.evaluation.subjects import DENSE, Change, Subject
from erecap.language_models.opened import OpenedModel


@dataclass(frozen=True)
class Point:
    """A composition of levers. Without any it is the whole model in a session that keeps everything."""

    candidate: Candidate | None = None
    kv_tokens: int | None = None
    draft: bool = False

    @property
    def name(self) -> str:
        """In tables and plots: `sprint-6 + 512 tokens + drafts`."""
        parts = [self.candidate.name] if self.candidate else []
        parts += [f"{self.kv_tokens} tokens"] if self.kv_tokens else []
        parts += ["drafts"] if self.draft else []
        return " + ".join(parts) or DENSE

    @property
    def method(self) -> str:
        """The method that found the plan; `dense` without one."""
        return self.candidate.method if self.candidate else DENSE

    @property
    def lossless(self) -> bool:
        """True if the answers are the dense model's."""
        return self.candidate is None and self.kv_tokens is None

    def mode(self, evict_by: str | None) -> Mode:
        """The mode of a run."""
        kv: Any = "reuse" if self.kv_tokens is None else Evict(evict_by, stale_first=True)
        return Mode("reuse" if self.kv_tokens is None else "erecap", kv=kv, decode=Decode(draft=self.draft))

    def change(self, evict_by: str | None) -> Change:
        """The point as a change of the whole model."""
        layers = None if self.candidate is None else str(self.candidate.folder)
        budget: Any = AUTO if self.kv_tokens is None else self.kv_tokens
        return Change(self.mode(evict_by), layers=layers, kv_tokens=budget)

    def subject(self, opened: OpenedModel, evict_by: str | None) -> Subject:
        """The point as evaluations ask it. The model with its plan is freed with the subject."""
        alone = replace(opened)  # the opened model itself would keep every plan that was ever applied
        return Subject(self.name, alone, self.change(evict_by))

    def parts(self, evict_by: str | None, layers: str | None) -> dict[str, Any]:
        """The mode as a run's configuration states it, without its name."""
        found: dict[str, Any] = {"kv": "reuse"}
        if self.kv_tokens is not None:
            found["kv"] = {"evict": evict_by, "stale_first": True, "kv_tokens": self.kv_tokens}
        if layers is not None:
            found["layers"] = layers
        return found if self.draft else found | {"decode": {"draft": False}}


def alone(candidates: Sequence[Candidate]) -> list[Point]:
    """The whole model, then each plan without further levers."""
    return [Point(), *(Point(candidate) for candidate in candidates)]


def combinations(points: Sequence[Point], kv_tokens: Sequence[int], drafts: bool) -> list[Point]:
    """Every combination of `points` with the budgets and with drafts that is not among them."""
    found = [
        Point(point.candidate, tokens, draft)
        for point in points
        for tokens in (None, *kv_tokens)
        for draft in ((False, True) if drafts else (False,))
    ]
    return [point for point in found if point not in points]
