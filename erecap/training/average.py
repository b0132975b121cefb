"""The mean of a fine-tuned adapter and the one that it started from.

Fine-tuning for new tasks costs skill in the old ones. Weights between both ends often keep most of either:
WiSE-FT (Wortsman et al. 2022, https://arxiv.org/abs/2109.01903), here for the factors of LoRA.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erecap.errors import ConfigError
from erecap.files import write_atomic
from erecap.models.adapters import CARD, CONFIG, WEIGHTS, adapter_with, check_adapter, describe_adapter, locate_adapter
from erecap.models.inspection import read_json
from erecap.training.collect.replay import replay
from erecap.training.planner.card import versions, write_card
from erecap.training.planner.train import FORMAT
from erecap.training.verify import Play, Say, score_again


def average_adapter(
    adapter: str, share: float, out: Path, *, model: str | None = None, say: Say, play: Play = replay
) -> dict[str, Any]:
    """Write the mean as an adapter of its own, scored on the held-out plans of the fine-tuned one.

    Args:
        adapter: the fine-tuned one, whose card says what it started from.
        share: of its weights; the rest is of the one that it started from, which is looked for beside it and among
            the checkpoints.
        out: folder, which must not exist.
        model: its base, where that is not found under the name on the card.
        say, play: as for `verify_planner`.

    Returns:
        The card.

    Raises:
        ConfigError: a share that is none, a folder that is there, an adapter without the card of a planner or that
            started from nothing, or adapters of different shapes.
        ModelError: the base or one of the adapters cannot be loaded, or the one that it started from is not found.
    """
    from erecap.models import locate

    if not 0 < share < 1:
        raise ConfigError(f"share: got {share:g}; allowed: a number between 0 and 1")
    if out.exists():
        raise ConfigError(f"{out}: is there already; name another folder")
    folder = locate_adapter(adapter)
    before = _card(folder)
    init = before.get("init")
    if before["kind"] != "lora" or not init:
        raise ConfigError(f"{folder}: did not start from another adapter, so there is nothing to average it with")
    start = adapter_with(init["hash"], beside=folder)
    check_adapter(folder, locate(model or before["base"]["name"]))
    try:
        return _written(start, folder, before, share, out, model, say, play)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)  # an adapter without its scores is none of ours
        raise


def _written(
    start: Path,
    folder: Path,
    before: Mapping[str, Any],
    share: float,
    out: Path,
    model: str | None,
    say: Say,
    play: Play,
) -> dict[str, Any]:
    """The mean with its card, in a new folder."""
    from erecap.models.wheels import sha256

    _mix(start, folder, share, out)
    write_atomic(out / CONFIG, (folder / CONFIG).read_text("utf-8"))
    card = {
        **before,
        "name": out.resolve().name,
        "average": {"share": share, "of": describe_adapter(str(folder)), "with": before["init"]},
        "scores": None,
        "scores_within_budget": None,
        "held_out": [],
        "curve": [],
        "versions": versions(),
        "command": f"erecap train average {folder.resolve().name} --share {share:g} --out {out.name}",
        "files": {name: sha256(out / name) for name in (WEIGHTS, CONFIG)},
    }
    write_card(out, card)
    scores, by_folder = score_again(out, before, model=model, say=say, play=play)
    episodes = {part["folder"]: part["episodes"] for part in before["held_out"]}
    card["scores"] = scores.facts()
    card["held_out"] = [{"folder": name, "episodes": episodes[name], **own.facts()} for name, own in by_folder.items()]
    write_card(out, card)
    return card


def _card(folder: Path) -> Mapping[str, Any]:
    if not (folder / CARD).is_file():
        raise ConfigError(f"{folder}: has no card, which names what it started from")
    card = read_json(folder / CARD)
    if card.get("format") != FORMAT:
        raise ConfigError(f"{folder / CARD}: format: got {card.get('format')!r}; allowed: {FORMAT!r}")
    return card


def _mix(start: Path, tuned: Path, share: float, out: Path) -> None:
    """Write the mean of two adapters' tensors, in their own precision."""
    from safetensors.torch import load_file, save

    first, second = load_file(start / WEIGHTS), load_file(tuned / WEIGHTS)
    if {name: value.shape for name, value in first.items()} != {name: value.shape for name, value in second.items()}:
        raise ConfigError(f"{tuned} and {start}: adapters of different shapes have no mean")
    out.mkdir(parents=True)
    mean = {
        name: value.float().lerp(second[name].float(), share).to(second[name].dtype) for name, value in first.items()
    }
    write_atomic(out / WEIGHTS, save(mean, metadata={"format": "pt"}))
