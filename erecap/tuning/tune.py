"""The tuner: tries stage sets, reads the best few again on other calls, times them, and chooses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erecap.cost.machine import cost_key
from erecap.cost.store import load_cost_model
from erecap.errors import ConfigError
from erecap.generation import JsonRow
from erecap.language_models.opened import shape_of
from erecap.models import fingerprint
from erecap.registries import LEARNED, mode_scorers
from erecap.tokens.scoring.learned import LearnedScorer
from erecap.tuning.agreement import Judge
from erecap.tuning.candidates import Stages, check_sets, published
from erecap.tuning.counts import Counts
from erecap.tuning.front import Candidate, eligible, pareto, ranked
from erecap.tuning.record import Record
from erecap.tuning.samples import Sample, built_in, digest, recorded, take
from erecap.tuning.search import Search
from erecap.tuning.speed import SpeedModel
from erecap.tuning.trial import Trial

Say = Callable[[str], None]


@dataclass(frozen=True)
class Tune:
    """Settings of the tuner.

    Raises:
        ConfigError: a number out of range.
    """

    keep: float = 0.7  # share of its tokens that a stage keeps
    scorer: str = "attention"  # a name of `erecap.registries.mode_scorers`
    length: int = 2000  # tokens of a prompt, at least
    samples: int = 8  # planning calls that every set is tried on, and as many others for the best few
    budget: int = 40  # stage sets that are tried at most
    candidates: tuple[Stages, ...] = ()  # these and no others; empty: a search
    seed: int = 0
    least_agreement: float = 0.0  # of a set that may be chosen
    confirm: int = 3  # best sets that are read on other samples and timed
    repetitions: int = 5  # timed reads of each; 0: none

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ConfigError(f"--keep: got {self.keep:g}; allowed: above 0 and at most 1")
        if self.scorer not in mode_scorers():
            raise ConfigError(f"--scorer: got {self.scorer!r}; allowed: {', '.join(mode_scorers())}")
        if not 0 <= self.least_agreement <= 1:
            raise ConfigError(f"--least-agreement: got {self.least_agreement:g}; allowed: 0 to 1")
        for name, least in (("samples", 1), ("budget", 1), ("confirm", 1), ("repetitions", 0), ("seed", 0)):
            if getattr(self, name) < least:
                option = "budget-evals" if name == "budget" else name
                raise ConfigError(f"--{option}: got {getattr(self, name)}; allowed: {least} or more")


def tune(
    settings: Tune,
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    base: str,
    histories: Path | None = None,
    scorer: LearnedScorer | None = None,
    fresh: bool = False,
    say: Say = lambda text: None,
) -> JsonRow:
    """Try stage sets and choose one.

    Args:
        folder: where the answers are kept, row by row; those that lie there already are not asked for again.
        base: `fingerprint` of the folder that the model was loaded from, which a calibration is found by.
        histories: a trajectory folder; None: walks through generated household games.
        scorer: a trained pruner, where `settings.scorer` is `learned`; only its layers are tried.
        fresh: forget what lies in `folder`.

    Returns:
        `candidates` (best first, with `pareto`), `confirmed` (best first), `chosen` (None where none agrees enough),
        `timing` (None without repetitions), `speed_up_from`, `hopeless` (sets passed over), `head`, `lengths`.

    Raises:
        ConfigError: stages that the model does not have, no planning call that is long enough, or no trained pruner.
        RunError: `folder` holds answers to another question.
    """
    if (settings.scorer == LEARNED) != (scorer is not None):
        raise ConfigError(f"--scorer {LEARNED} needs a trained pruner (--pruner FOLDER), and other scorers take none")
    layers = model.config.get_text_config(decoder=True).num_hidden_layers
    allowed = None if scorer is None else scorer.pruner.stages
    check_sets(settings.candidates, layers, allowed)
    say(f"looking for planning calls of {settings.length} tokens")
    stream = (
        built_in(settings.length, tokenizer, settings.seed) if histories is None else recorded(histories, settings.seed)
    )
    found = take(stream, 2 * settings.samples, settings.length, model, tokenizer)
    calls, others = found[: settings.samples], found[settings.samples :]
    if len(calls) < settings.samples:
        say(f"only {len(calls)} of {settings.samples} planning calls are long enough")
    head = {
        "weights": fingerprint(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "keep": settings.keep,
        "scorer": settings.scorer,
        "seed": settings.seed,
        "text": digest(calls),
        "other_text": digest(others),
    }
    if scorer is not None:
        head["pruner"] = _digest(scorer)
    record = Record(folder, head, fresh=fresh)
    if len(record):
        say(f"{len(record)} answers are there already, and are kept")
    lengths = [len(call.prompt) for call in calls]
    ranking = settings.scorer if scorer is None else scorer
    cost = load_cost_model(cost_key(model, weights=base))
    speed = SpeedModel(shape_of(model), settings.scorer, cost)
    trial = Trial(record, "search", Judge(model, calls, settings.keep, ranking, settings.seed), speed, lengths, say)
    sets = settings.candidates
    if sets:
        for stages in sets:
            trial(stages, "given")
        hopeless = 0
    else:
        counts = Counts(calls, layers, trial.judge.config((1,)))
        search = Search(
            layers,
            trial,
            lambda stages: speed.speed_up(counts(stages), lengths),
            counts.nearly,
            settings.budget,
            settings.seed,
            settings.least_agreement,
            allowed,
        )
        search.run()
        hopeless = len(search.hopeless)
        trial.recall()
    candidates = ranked(trial.found.values())
    front = {candidate.stages for candidate in pareto(candidates)}
    best = eligible(candidates, settings.least_agreement)[: settings.confirm]
    confirmed = _confirm(best, others, record, settings, model, ranking, speed, say)
    chosen = next((row for row in confirmed if row["agreement"] >= settings.least_agreement), None)
    timing = None
    if settings.repetitions and confirmed:
        from erecap.tuning.timing import measure

        named = [tuple(row["stages"]) for row in confirmed]
        if published(layers) in trial.found and published(layers) not in named:
            named.append(published(layers))
        timing = measure(model, calls[0], named, trial.judge.config, settings.repetitions, say)
    return {
        "head": head,
        "layers": layers,
        "lengths": lengths,
        "plan_tokens": sum(len(call.plan) for call in calls),
        "speed_up_from": speed.source,
        "hopeless": hopeless,
        "candidates": [{**c.as_row(), "pareto": c.stages in front} for c in candidates],
        "confirmed": confirmed,
        "timing": timing,
        "chosen": chosen,
    }


def _confirm(
    best: Sequence[Candidate],
    others: Sequence[Sample],
    record: Record,
    settings: Tune,
    model: Any,
    ranking: Any,
    speed: SpeedModel,
    say: Say,
) -> list[JsonRow]:
    """The best few on calls that the search did not see, best first; without such calls, as they were found.

    The best of many on a few hundred tokens is partly the luckiest.
    """
    if not others:
        say("no planning calls are left to read the best sets again on")
        return [{**candidate.as_row(), "held_out": False} for candidate in best]
    judge = Judge(model, others, settings.keep, ranking, settings.seed)
    again = Trial(record, "held-out", judge, speed, [len(call.prompt) for call in others], say)
    say(f"reading the best {len(best)} again on {len(others)} other calls")
    return [
        {**candidate.as_row(), "held_out": True}
        for candidate in ranked([again(candidate.stages, candidate.origin) for candidate in best])
    ]


def _digest(scorer: LearnedScorer) -> str:
    """16 hexadecimal digits that stand for the weights of a pruner."""
    found = hashlib.sha256()
    for name, tensor in sorted(scorer.pruner.state_dict().items()):
        found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
