"""Stage sets tried on samples: asked of the record first, then of the judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from erecap.tuning.agreement import Answers, Judge
from erecap.tuning.candidates import Stages, words
from erecap.tuning.front import Candidate
from erecap.tuning.record import Part, Record
from erecap.tuning.speed import SpeedModel


@dataclass
class Trial:
    """Turns a stage set into a candidate; recorded answers are not measured again."""

    record: Record
    part: Part
    judge: Judge
    speed: SpeedModel
    lengths: list[int]  # tokens of the prompts of the judge's samples
    say: Callable[[str], None]
    found: dict[Stages, Candidate] = field(default_factory=dict)

    def __call__(self, stages: Stages, origin: str) -> Candidate:
        answers = self.record.get(self.part, stages)
        if answers is None:
            answers = self.judge.compare(stages)
            self.record.add(self.part, stages, answers)
        candidate = self.found[stages] = self._candidate(stages, answers, origin)
        self.say(
            f"{len(self.found)}: {words(stages)}: speed-up {candidate.speed_up:.2f}, "
            f"agreement {100 * candidate.agreement:.1f} %, score {candidate.score:.2f}"
        )
        return candidate

    def recall(self) -> None:
        """Take in what earlier runs tried and this one did not ask for."""
        for stages, answers in self.record.of(self.part).items():
            if stages not in self.found:
                self.found[stages] = self._candidate(stages, answers, "an earlier run")

    def _candidate(self, stages: Stages, answers: Answers, origin: str) -> Candidate:
        shares = [
            sum(counts) / (len(counts) * length) for counts, length in zip(answers.kept, self.lengths, strict=True)
        ]
        return Candidate(
            stages,
            self.speed.speed_up(answers.kept, self.lengths),
            sum(answers.same),
            sum(answers.tokens),
            sum(shares) / len(shares),
            origin,
        )
