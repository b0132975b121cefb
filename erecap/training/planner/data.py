"""Training data of a planner: token sequences from trajectory folders, some of them held out."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erecap.errors import ConfigError
from erecap.generation import Message
from erecap.training.collect.trajectories import Trajectory, read_trajectories, source_facts, transcript_name
from erecap.training.planner.settings import PlannerTraining
from erecap.training.saliency.samples import Sample, chat_sample
from erecap.training.sequences import PlanSequence, plan_sequence


@dataclass(frozen=True)
class PlannerData:
    """Sequences to learn from and to score, and where they come from."""

    train: list[PlanSequence]
    held_out: list[PlanSequence]
    sources: list[dict[str, Any]]  # per folder: its name, hash, suites, seed, counts
    cut_transcripts: int  # that lost planning calls beyond `max_tokens`
    cut_plans: int
    too_long: int  # transcripts whose first planning call lies beyond it
    samples: dict[str, Sample]  # by name of the transcript, where the settings have a budget

    def facts(self) -> dict[str, Any]:
        """Counts, for the card and the terminal."""
        return {
            "transcripts": len(self.train),
            "plans": sum(plans(sequence) for sequence in self.train),
            "plan_tokens": sum(len(sequence.labels) for sequence in self.train),
            "tokens": sum(sequence.tokens for sequence in self.train),
            "branches": sum(len(sequence.branches) for sequence in self.train),
            "held_out_transcripts": len(self.held_out),
            "held_out_plans": sum(plans(sequence) for sequence in self.held_out),
            "cut_transcripts": self.cut_transcripts,
            "cut_plans": self.cut_plans,
            "too_long": self.too_long,
        }


def plans(sequence: PlanSequence) -> int:
    """Planning calls that a sequence has labels for."""
    return int(sequence.calls[-1]) + 1


def load_data(
    settings: PlannerTraining, tokenizer: Any, ends: Collection[int], say: Callable[[str], None]
) -> PlannerData:
    """Read and tokenise all folders.

    Episodes are held out by suite and number, whatever folder they are in: a second round of collecting that plays an
    episode again does not move it between what is learned and what is scored.

    Raises:
        ConfigError: a folder is missing, empty or damaged; or nothing is left to learn from.
        ModelError: the chat template cannot be trained on (see `plan_sequence`).
    """
    pairs: list[tuple[tuple[str, int], PlanSequence]] = []
    sources: list[dict[str, Any]] = []
    samples: dict[str, Sample] = {}
    cut_transcripts = cut_plans = too_long = 0
    for name in settings.data:
        folder = Path(name)
        say(f"reading {folder}")
        sources.append(source_facts(folder))
        for trajectory in read_trajectories(folder):
            title = transcript_name(sources[-1]["folder"], trajectory.suite, trajectory.episode, trajectory.agent)
            made = _sequence(title, trajectory, tokenizer, ends, settings, samples)
            if made is None:
                too_long += 1
                cut_plans += len(trajectory.targets)
                continue
            cut_transcripts += made.cut > 0
            cut_plans += made.cut
            pairs.append(((trajectory.suite, trajectory.episode), made))
    out = held_out_episodes([key for key, _ in pairs], settings.held_out, settings.seed)
    train = [made for key, made in pairs if key not in out]
    if not train:
        raise ConfigError(
            f"{', '.join(settings.data)}: no transcript to learn from: {len(pairs)} fit into --max-tokens "
            f"{settings.max_tokens}, {too_long} do not, {len(out)} episodes are held out; "
            "a larger --max-tokens or a smaller --held-out helps"
        )
    held_out = [made for key, made in pairs if key in out]
    return PlannerData(train, held_out, sources, cut_transcripts, cut_plans, too_long, samples)


def _sequence(
    title: str,
    trajectory: Trajectory,
    tokenizer: Any,
    ends: Collection[int],
    settings: PlannerTraining,
    samples: dict[str, Sample],
) -> PlanSequence | None:
    """A transcript as tokens; where the settings have a budget, `samples` gets what decides what stays within it."""
    messages = chat_of(trajectory)
    if settings.kv_tokens is None:
        return plan_sequence(title, messages, trajectory.targets, tokenizer, ends, settings.max_tokens)
    sample = chat_sample(title, messages, trajectory.targets, tokenizer, ends, settings.max_tokens)
    if sample is None:
        return None
    samples[title] = sample
    return sample.sequence


def held_out_episodes(keys: Sequence[tuple[str, int]], share: float, seed: int) -> set[tuple[str, int]]:
    """Draw `share` of the distinct episodes, rounded up, in the order of a seeded hash."""
    ranked = sorted(set(keys), key=lambda key: hashlib.sha256(f"{seed} {key[0]} {key[1]}".encode()).digest())
    return set(ranked[: math.ceil(share * len(ranked))])


def order(count: int, seed: int, epoch: int) -> list[int]:
    """Numbers below `count` in the order of an epoch; a function of its arguments alone, so a resume needs no state."""
    numbers = list(range(count))
    random.Random(f"{seed} {epoch}").shuffle(numbers)
    return numbers


def chat_of(trajectory: Trajectory) -> list[Message]:
    """The messages of a trajectory, as tokenizers take them."""
    return [{"role": message.role, "content": message.content} for message in trajectory.messages]
