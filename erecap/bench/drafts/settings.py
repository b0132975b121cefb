"""Settings of the bench of drafts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from erecap.decoding.linear import WEIGHTS
from erecap.errors import ConfigError
from erecap.generation import JsonRow
from erecap.registries import DEFAULT_DRAFT, DRAFTS

PLAIN = "plain"
OURS = DEFAULT_DRAFT  # the way that the rows R7, R7-lookup and R7-suffix are about


@dataclass(frozen=True)
class DraftsBench:
    """Settings of `erecap bench drafts`."""

    ways: tuple[str, ...] = DRAFTS  # beside plain decoding
    weights: tuple[str, ...] = ("same", "int4")
    replans: bool = True  # of a household game, which follow one another, and new plans
    tokens: int = 32  # of each plan, no more and no fewer
    points: int = 8  # replans
    new_plans: int = 4  # each in another game, with no plan of the model before it
    history: int = 1000  # tokens of chat before the first replan, and before each new plan
    kv_tokens: int = 1024  # budget of these sessions
    prompts: Path | None = None  # folder of prompt sets, each a JSONL file whose rows have `turns`
    prompt_count: int = 10  # prompts of each set, the first ones
    prompt_tokens: int = 64  # of an answer at most
    repetitions: int = 5
    processor_time: bool = False  # speed-ups are of processor time, which other programs disturb less
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            ConfigError: nothing to measure, or a way or weights of an unknown name.
        """
        for option, names, allowed in (("ways", self.ways, DRAFTS), ("weights", self.weights, WEIGHTS)):
            unknown = [name for name in names if name not in allowed]
            if unknown or not names:
                raise ConfigError(f"--{option}: unknown {', '.join(unknown) or 'none'}; allowed: {', '.join(allowed)}")
        if not self.replans and self.prompts is None:
            raise ConfigError("--no-replans: nothing is left to measure; allowed: with --prompts FOLDER")

    def as_row(self) -> JsonRow:
        """For files: of the folder only its name, since paths are private."""
        return {**asdict(self), "prompts": None if self.prompts is None else self.prompts.name}
