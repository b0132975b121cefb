"""The parts of a mode, and the variants of it that lack one or have one more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from erecap.config.modes import Mode
from erecap.config.run import RunConfig
from erecap.errors import ConfigError
from erecap.generation import JsonRow
from erecap.registries import EVICT_BY
from erecap.validation import one_line

WHOLE = "all"
REUSE, STALE, RANK, AGE = "reuse", "stale-first", "learned-rank", "age"
DRAFTS, CONSTRAINTS, WEIGHTS = "drafts", "constraints", "packed-weights"
PRUNING, PLAN, EXIT = "prefill-pruning", "layer-plan", "exit"

# What is there instead of each part where it is switched off.
INSTEAD = {
    REUSE: "every call reads the whole chat anew",
    STALE: "overwritten text is ranked like any other",
    RANK: "the oldest tokens are evicted first",
    AGE: "the learned score alone ranks, however old a token is",
    DRAFTS: "one pass a token",
    CONSTRAINTS: "any text can be decoded, and is parsed afterwards",
    WEIGHTS: "the model's own number format while decoding",
    PRUNING: "every layer reads every token",
    PLAN: "all sublayers run",
    EXIT: "all layers name every token",
}
ADDED = {
    PRUNING: "layers on the way drop tokens of a prefill",
    PLAN: "sublayers are left out",
    EXIT: "the first layers draft, all layers verify",
}
SAME_ANSWERS = (DRAFTS, EXIT)  # verified by the whole model, so that success needs no playing


@dataclass(frozen=True)
class Variant:
    """The mode with one part switched off, or on."""

    name: str  # of its mode: `all`, `without-PART`, `with-PART`
    part: str | None  # None: as it is
    what: str  # is done instead
    composition: JsonRow  # parts of its mode, as configurations write them

    @property
    def anew(self) -> bool:
        """True if its session is thrown away before every call."""
        return self.name == f"without-{REUSE}"

    @property
    def unconstrained(self) -> bool:
        """True if its planner writes freely."""
        return self.name == f"without-{CONSTRAINTS}"

    @property
    def plays(self) -> bool:
        """True if its success is played; else its answers are those of the whole, or follow the same policy."""
        return not self.anew and (self.part not in SAME_ANSWERS or not _lossless(self.composition))

    @property
    def compares(self) -> bool:
        """True if its plan tokens can differ from those of the whole where no constraint holds."""
        return self.plays and not self.unconstrained


def variants_of(
    config: RunConfig,
    folder: Path,
    *,
    only: Sequence[str] | None = None,
    added: Mapping[str, JsonRow] | None = None,
) -> list[Variant]:
    """The whole first, then a variant for each of its parts, then those with one part more.

    Args:
        config: has one mode, a session of parts.
        folder: where the pruner without an age is written, if there is one.
        only: parts to take; None: all that the mode has.
        added: compositions that parts bring which the mode has not.

    Raises:
        ConfigError: several modes, one that keeps no session, a part that it does not have, or has already.
    """
    if len(config.modes) != 1 or not config.mode(config.modes[0]).session or config.mode(config.modes[0]).text:
        raise ConfigError(
            f"modes: got {', '.join(config.modes)}; allowed: one mode that keeps a session and reads the whole chat"
        )
    mode = config.mode(config.modes[0])
    whole = mode.parts()
    # What the run states for all modes becomes a part of these. The mode that they are compared with has none of it.
    if mode.layers is None and config.layers is not None:
        whole["layers"] = config.layers
    if mode.decode.weights is None and config.decode_weights != "same":
        whole = _decode(whole, weights=config.decode_weights)
    if mode.controller is None and config.controller is not None:
        whole["controller"] = config.controller.model_dump(exclude_none=True)
    found = [Variant(WHOLE, None, "as it is", whole)]
    for part, without in _switched_off(config, mode, folder).items():
        if only is None or part in only:
            found.append(Variant(f"without-{part}", part, INSTEAD[part], without(deepcopy(whole))))
    unknown = sorted(set(only or ()) - {str(variant.part) for variant in found})
    if unknown:
        has = ", ".join(_switched_off(config, mode, folder))
        raise ConfigError(f"--parts: the mode has no {unknown[0]}; allowed: {has}")
    for part, parts in (added or {}).items():
        if part in _switched_off(config, mode, folder):
            raise ConfigError(f"--with-{part}: the mode has it already; it is switched off instead")
        found.append(Variant(f"with-{part}", part, ADDED[part], _joined(deepcopy(whole), parts)))
    return found


def played_config(config: RunConfig, variants: Sequence[Variant], name: str, **changes: Any) -> RunConfig:
    """The configuration with the variants as its modes, and other changes.

    Raises:
        ConfigError: a variant that cannot be composed.
    """
    values: JsonRow = {}
    for field in config.model_fields_set - {"compositions", "layers", "decode_weights", "controller"}:
        value = getattr(config, field)
        values[field] = value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
    modes = [{"name": variant.name, **variant.composition} for variant in variants]
    values |= {"name": f"{config.name}-{name}", "modes": modes, "samples": 0, **changes}
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(one_line("ablation", error, RunConfig)) from error


def _switched_off(config: RunConfig, mode: Mode, folder: Path) -> dict[str, Callable[[JsonRow], JsonRow]]:
    """By part that the mode has, what takes it out of a composition."""
    found: dict[str, Callable[[JsonRow], JsonRow]] = {REUSE: lambda parts: parts}
    evict = mode.parts().get("kv") if isinstance(mode.parts().get("kv"), dict) else None
    if evict is not None and evict.get("stale_first"):
        found[STALE] = lambda parts: _kv(parts, stale_first=False)
    pruner = None if evict is None else mode.own_pruner or (config.pruner if mode.takes_run_pruner else None)
    if pruner is not None:
        found[RANK] = lambda parts: _kv(parts, evict=EVICT_BY[0])
        if _age(pruner):
            found[AGE] = lambda parts: _kv(parts, evict=str(ageless(pruner, folder / "pruner-without-age")))
    if mode.decode.draft:
        found[DRAFTS] = lambda parts: _decode(parts, draft=False)
    if config.planner.constrained:
        found[CONSTRAINTS] = lambda parts: parts
    if (mode.decode.weights or config.decode_weights) != "same":
        found[WEIGHTS] = lambda parts: _decode(parts, weights="same")
    if mode.prune is not None:
        found[PRUNING] = lambda parts: _less(parts, "prune")
    if mode.layers is not None or config.layers is not None:
        found[PLAN] = lambda parts: _less(parts, "layers")
    if mode.decode.exit is not None:
        found[EXIT] = lambda parts: {**parts, "decode": _less(parts["decode"], "exit")}
    return found


def ageless(pruner: str, folder: Path) -> Path:
    """A folder with the same trained pruner, whose sessions do not count a token less for its age."""
    import torch

    from erecap.tokens.scoring.pruner_files import find_pruner, load_pruner, read_card, save_pruner

    source = find_pruner(pruner)
    card = read_card(source)
    made = load_pruner(source, hidden_size=card["hidden_size"], layers=10_000, allow_untested=True)
    made.age_weight = torch.zeros_like(made.age_weight)
    save_pruner(folder, made, {**card, "age_weight": 0.0})
    return folder.resolve()


def _age(pruner: str) -> float:
    from erecap.tokens.scoring.pruner_files import find_pruner, read_card

    return float(read_card(find_pruner(pruner)).get("age_weight") or 0.0)


def _kv(parts: JsonRow, **changes: Any) -> JsonRow:
    return {**parts, "kv": {**parts["kv"], **changes}}


def _decode(parts: JsonRow, **changes: Any) -> JsonRow:
    return {**parts, "decode": {**parts.get("decode", {}), **changes}}


def _less(parts: JsonRow, name: str) -> JsonRow:
    return {key: value for key, value in parts.items() if key != name}


def _joined(parts: JsonRow, more: JsonRow) -> JsonRow:
    return {**parts, **more, "decode": {**parts.get("decode", {}), **more.get("decode", {})}}


def _lossless(composition: JsonRow) -> bool:
    exits = composition.get("decode", {}).get("exit")
    return exits is None or bool(exits.get("lossless", True))
