"""The jobs of a run: their order and their seeds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from erecap.config.suite import Suite
from erecap.generation import JsonRow

EpisodeKey = tuple[str, str, int]  # suite, mode, episode


@dataclass(frozen=True)
class Job:
    """One episode to be played in one mode."""

    suite: str
    mode: str
    episode: int
    seed: int  # the same for every mode: that is what makes them pairs
    sample: bool  # record it for reading

    @property
    def key(self) -> EpisodeKey:
        return self.suite, self.mode, self.episode


@dataclass(frozen=True)
class Played:
    """The result of a job: rows as `docs/run-format.md` describes them."""

    job: Job
    episode: JsonRow
    replans: list[JsonRow]
    sample: JsonRow | None = None


def row_key(row: Mapping[str, object]) -> EpisodeKey:
    """The key of the episode that a row of `episodes.jsonl` or `replans.jsonl` belongs to."""
    return row["suite"], row["mode"], row["episode"]  # type: ignore[return-value]


def episode_seed(suite_seed: int, episode: int) -> int:
    """Seed of one episode: a hash that no Python version, platform or mode changes. 0 <= seed < 2**31."""
    digest = hashlib.sha256(f"{suite_seed}:{episode}".encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF


def all_jobs(suites: Mapping[str, Suite], modes: Sequence[str], samples: int) -> list[Job]:
    """Every job of a run. Modes take turns (A B C A B C ...), so that a slow hour of the machine hits all."""
    return [
        Job(name, mode, episode, episode_seed(suite.seed, episode), sample=episode < suite.first + samples)
        for name, suite in suites.items()
        for episode in suite.numbers
        for mode in modes
    ]
