"""Settings of a profile, and the cells that it measures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erecap.bench.replan.settings import ReplanBench
from erecap.config.modes import Mode, parse_mode
from erecap.errors import ConfigError
from erecap.registries import LEARNED, PRESETS

PARTS = ("prefill", "end2end", "memory")
FULL, FLOOR = "full", "floor"
LENGTHS = (1024, 2048, 4096, 8192)
MODES = (FULL, "prune[recency]", "reuse", "erecap")
LEAST = 256  # tokens: the beginning of a household chat with a turn

# Speed-ups that publications claim, by preset: E-RECAP's paper for cold prefills, on another model and other machines.
CLAIMS = {"keep09": 1.43, "keep08": 1.96, "keep07": 2.48}


@dataclass(frozen=True)
class Cell:
    """One thing that is measured: a mode at a length, and for `prune[...]` at a preset."""

    length: int
    preset: str | None  # keep ratio by name; None: the mode drops nothing on the way
    mode: str

    @property
    def key(self) -> tuple[str, str]:
        """The cell without its length."""
        return self.preset or "", self.mode

    @property
    def name(self) -> str:
        """In what is said."""
        return self.mode if self.preset is None else f"{self.mode} {self.preset}"

    @property
    def keep(self) -> float:
        """Share of the tokens that each stage keeps."""
        return 1.0 if self.preset is None else PRESETS[self.preset]

    @property
    def parsed(self) -> Mode:
        """The mode's parts; the floor is no mode."""
        return parse_mode(self.mode)

    def head(self) -> dict[str, Any]:
        """The fields that name the cell in rows."""
        return {"length": self.length, "preset": self.preset, "mode": self.mode}


@dataclass(frozen=True)
class Profile:
    """Settings of `erecap profile`."""

    part: str  # of `PARTS`
    lengths: tuple[int, ...] = LENGTHS  # tokens of the whole call: what is read, and in `end2end` the plan, too
    presets: tuple[str, ...] = tuple(PRESETS)  # of `prune[...]`
    modes: tuple[str, ...] = MODES
    repetitions: int = 5
    of: str = "prefill"  # what `memory` is the peak of: `prefill` or `end2end`
    new_tokens: int = 100  # of the turn that is new in `end2end`
    plan_tokens: int = 32  # generated there in every call
    kv_tokens: int = 1024  # budget of the modes that evict
    seed: int = 0  # of the household text
    pruner: str | None = None  # name or folder of a trained pruner: ranks in `erecap` and in `prune[learned]`

    def check(self, window: int, layers: int) -> None:
        """Raise ConfigError for settings that cannot be measured on a model with that window and number of layers."""
        if self.part not in PARTS:
            raise ConfigError(f"a profile of {self.part}; allowed: {', '.join(PARTS)}")
        if self.of not in PARTS[:2]:
            raise ConfigError(f"--of: got {self.of}; allowed: {', '.join(PARTS[:2])}")
        if not self.lengths or min(self.lengths) < LEAST:
            raise ConfigError(f"--lengths: got {_words(self.lengths)}; allowed: {LEAST} tokens or more")
        if max(self.lengths) > window:
            raise ConfigError(
                f"--lengths: {max(self.lengths):,} tokens exceed the model's window of {window:,}; "
                f"--window {max(self.lengths)} profiles a model of the same shape with a longer one"
            )
        unknown = [preset for preset in self.presets if preset not in PRESETS]
        if unknown:
            raise ConfigError(f"--presets: unknown preset {unknown[0]}; allowed: {', '.join(PRESETS)}")
        try:
            modes = [parse_mode(name) for name in self.modes]
        except ValueError as error:
            raise ConfigError(f"--modes: {error}") from error
        for mode in modes:
            if not mode.opens_model or mode.text is not None:
                raise ConfigError(f"--modes: {mode} cannot be profiled; allowed: full, sessions, prune[SCORER]")
            if mode.prune == LEARNED and self.pruner is None:
                raise ConfigError(f"--modes: {mode} needs a trained pruner; name it with --pruner")
        if any(mode.prune for mode in modes):
            if not self.presets:
                raise ConfigError("--presets: the modes prune[...] need one; allowed: " + ", ".join(PRESETS))
            if layers < 7:
                raise ConfigError(
                    f"--modes: a model of {layers} layers has no layer that drops tokens; leave prune out"
                )
        if not modes:
            raise ConfigError("--modes: none given")
        if self.repetitions < 1 or self.plan_tokens < 2 or self.new_tokens < 8 or self.kv_tokens < 16:
            raise ConfigError("a profile takes 1 repetition, 2 plan tokens, 8 new tokens and 16 stored ones at least")

    def cells(self) -> list[Cell]:
        """All cells, shortest length first; `full` comes first among those of a length, others are compared with it."""
        modes = sorted(dict.fromkeys(self.modes), key=lambda mode: mode != FULL)
        found = []
        for length in sorted(set(self.lengths)):
            for mode in modes:
                presets = self.presets if parse_mode(mode).prune else (None,)
                found += [Cell(length, preset, mode) for preset in dict.fromkeys(presets)]
            if self.part == "end2end":
                found.append(Cell(length, None, FLOOR))
        return found

    def replan(self, cell: Cell) -> ReplanBench:
        """The settings of the replanning call of a cell."""
        return ReplanBench(
            modes=(cell.mode,),
            new_tokens=self.new_tokens,
            plan_tokens=self.plan_tokens,
            kv_tokens=self.kv_tokens,
            keep=cell.keep,
            seed=self.seed,
        )

    def fixed(self) -> dict[str, Any]:
        """The settings that all rows of one file share; lengths, presets, modes and repetitions may be added to."""
        shared: dict[str, Any] = {"part": self.part, "kv_tokens": self.kv_tokens, "seed": self.seed}
        if self.pruner is not None:
            shared["pruner"] = Path(self.pruner).name
        if self.part == "memory":
            shared["of"] = self.of
        if "end2end" in (self.part, self.of if self.part == "memory" else None):
            shared |= {"new_tokens": self.new_tokens, "plan_tokens": self.plan_tokens}
        return shared


def _words(numbers: tuple[int, ...]) -> str:
    return ",".join(str(number) for number in numbers) or "nothing"
