"""Verification of a checkpoint's card: play its held-out episodes again, and score the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erecap.decoding.stopping import answer_ends
from erecap.errors import ConfigError
from erecap.training.collect.replay import Place, recipe_of, replay
from erecap.training.collect.trajectories import Trajectory, transcript_name, transcript_place
from erecap.training.planner.data import chat_of

if TYPE_CHECKING:
    from erecap.training.planner.scores import Scores

Say = Callable[[str], None]
Play = Callable[..., list[Trajectory]]
# Rounding differs between processors, and a tie may fall the other way: a plan or two of a hundred.
RELATIVE, SHARE = 0.02, 0.015


@dataclass(frozen=True)
class Figure:
    """A figure of a card beside its new measurement."""

    name: str
    stated: float
    measured: float

    @property
    def holds(self) -> bool:
        """True if both agree: counts exactly, losses and divergences to `RELATIVE`, shares and the like to `SHARE`."""
        apart = abs(self.stated - self.measured)
        if self.name.endswith("plans"):
            return apart == 0
        if self.name.endswith(("loss", "kl")):
            return apart <= RELATIVE * max(abs(self.stated), abs(self.measured)) + 1e-4
        return apart <= SHARE


def verify_planner(
    folder: Path, card: Mapping[str, Any], *, model: str | None = None, say: Say, play: Play = replay
) -> list[Figure]:
    """Score a planner on its held-out plans of expert-made folders.

    Args:
        folder: of the adapter or, after a full training, of the model.
        card: its `card.json`.
        model: its base, where that is not found under the name on the card.
        say: takes lines for the person who waits; folders that a model has played are named and passed over.
        play: plays episodes again.

    Raises:
        ConfigError: nothing was held out that can be played again.
        ModelError: the base or the adapter cannot be loaded.
    """
    _, found = score_again(folder, card, model=model, say=say, play=play)
    stated = {part["folder"]: part for part in card["held_out"]}
    return [
        Figure(f"{name}: {key}", stated[name][key], value)
        for name, scores in found.items()
        for key, value in scores.facts().items()
    ]


def score_again(
    folder: Path, card: Mapping[str, Any], *, model: str | None = None, say: Say, play: Play = replay
) -> tuple[Scores, dict[str, Scores]]:
    """Scores of a planner on the held-out plans that `card` names: of all, and by their folder.

    Args, raises: as `verify_planner`.
    """
    from erecap.models import load, locate
    from erecap.models.adapters import check_adapter
    from erecap.training.planner.model import Trainee
    from erecap.training.planner.scores import score_by_folder
    from erecap.training.planner.settings import PlannerTraining
    from erecap.training.sequences import plan_sequence

    full = card["kind"] == "full"
    base = model or card["base"]["name"]
    if not full:
        check_adapter(folder, locate(base))
    loaded, tokenizer = load(str(folder) if full else base, "float32", "auto")
    settings = PlannerTraining((str(folder),), full=full, amp="none", device=str(loaded.device))
    trainee = Trainee(loaded, settings, None if full else folder)
    ends, longest = answer_ends(loaded, tokenizer), int(card["settings"]["max_tokens"])
    sequences = []
    for part in card.get("held_out", ()):
        source = next(one for one in card["data"]["sources"] if one["folder"] == part["folder"])
        places = [(suite, number) for suite, numbers in part["episodes"].items() for number in numbers]
        for one in _played(source, places, say, play):
            name = transcript_name(part["folder"], one.suite, one.episode, one.agent)
            made = plan_sequence(name, chat_of(one), one.targets, tokenizer, ends, longest)
            sequences += [] if made is None else [made]
    if not sequences:
        raise ConfigError(f"{folder}: its card names no held-out episodes that can be played again")
    say(f"scoring {len(sequences)} transcripts")
    return score_by_folder(trainee, sequences)


def verify_pruner(
    folder: Path,
    card: Mapping[str, Any],
    adapter: str | None,
    *,
    model: str | None = None,
    say: Say,
    play: Play = replay,
) -> list[Figure]:
    """Repeat the test of a pruner on the held-out samples that its card names.

    Args:
        adapter: the planner's adapter that it was trained for, if it was trained for one.
        model, say, play: as for `verify_planner`.

    Raises:
        ConfigError: nothing that was tested can be played again.
        ModelError: model, adapter or pruner cannot be loaded, or do not belong together.
    """
    from erecap.tokens.scoring.by_name import learned_scorer
    from erecap.training.pruner.base_model import load_base
    from erecap.training.pruner.test import trial
    from erecap.training.saliency.files import Labelled, labelled
    from erecap.training.saliency.labels import label
    from erecap.training.saliency.samples import chat_sample

    if not (card.get("test") or {}).get("names"):
        raise ConfigError(f"{folder}: its card names no samples that it was tested on")
    loaded, tokenizer, base = load_base(model or card["base"]["name"], "auto", adapter)
    pruner = learned_scorer(folder, loaded, base=base["hash"], adapter=base["adapter"], allow_untested=True).pruner
    asked, test = card["labels"]["settings"], card["test"]
    ends = answer_ends(loaded, tokenizer)
    rows: list[Labelled] = []
    for source in card["labels"]["data"]["sources"]:
        names = [transcript_place(name) for name in test["names"]]
        places = list(dict.fromkeys((suite, number) for owner, suite, number in names if owner == source["folder"]))
        for one in _played(source, places, say, play) if places else ():
            name = transcript_name(source["folder"], one.suite, one.episode, one.agent)
            if name not in test["names"]:
                continue  # another planner of a team
            sample = chat_sample(name, chat_of(one), one.targets, tokenizer, ends, asked["max_tokens"])
            if sample is not None:
                labels = label(loaded, sample, pruner.stages, asked["kind"], discount=asked["discount"])
                rows.append(labelled(sample, labels, asked["cache_tokens"], asked["seed"], len(rows)))
    if len(rows) < len(test["names"]):
        raise ConfigError(f"{folder}: {len(rows)} of {len(test['names'])} tested samples can be played again")
    found = trial(
        loaded,
        pruner,
        rows,
        budget=test["budget"],
        kv_tokens=card["settings"]["kv_tokens"],
        seed=card["settings"]["seed"],
        say=say,
    )
    figures = [Figure("spearman_session", test["spearman_session"], found["spearman_session"])]
    for where, stated, now in (("", test, found), ("session, ", test["sessions"], found["sessions"])):
        for name in (stated or {}).get("rankers", ()):
            one, other = stated["rankers"][name], now["rankers"][name]
            figures += [Figure(f"{where}{name}: {key}", one[key], other[key]) for key in one]
    return figures


def _played(source: Mapping[str, Any], places: Sequence[Place], say: Say, play: Play) -> list[Trajectory]:
    recipe = recipe_of(source)
    if recipe is None:
        say(f"{source['folder']}: a model acted in it, so it is passed over")
        return []
    say(f"playing {len(places)} episodes of {source['folder']} again")
    return play(recipe, places, say=say)
