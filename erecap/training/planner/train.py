"""Fine-tuning a planner on expert plans: from trajectory folders to an adapter with its card."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erecap.errors import ConfigError, RunError
from erecap.tokens.scoring.by_name import learned_scorer
from erecap.tokens.scoring.pruner_files import describe_pruner
from erecap.training.collect.trajectories import transcript_place
from erecap.training.planner.card import CARD, CURVES, draw_curves, versions, write_card
from erecap.training.planner.data import PlannerData, load_data
from erecap.training.planner.loop import End, Limits, Loop, read_log
from erecap.training.planner.model import Trainee
from erecap.training.planner.scores import score, score_by_folder
from erecap.training.planner.settings import PlannerTraining
from erecap.training.planner.under_budget import Holes
from erecap.training.sequences import PlanSequence

FORMAT = "erecap-planner-1"
PROGRESS = "training"  # folder of the checkpoint and the log, inside the result's
Say = Callable[[str], None]


@dataclass(frozen=True)
class Trained:
    """The end of a training."""

    folder: Path
    end: End  # "finished", "early" (no improvement), "time" or "interrupted": the last two can be resumed
    card: dict[str, Any] | None  # None where an interrupt left only the checkpoint


def train_planner(
    settings: PlannerTraining, out: Path, *, limits: Limits | None = None, fresh: bool = False, say: Say = print
) -> Trained:
    """Train, or go on with what `out` holds, and write the best weights with their card.

    After a time limit the best weights so far are written too, and the same call goes on later; the result is that
    of one uninterrupted call.

    Args:
        settings: checked ones.
        out: gets `adapter_model.safetensors` and `adapter_config.json` (or, for a full training, a model folder),
            `card.json`, `card.md`, `curves.svg`, and `training/` with the checkpoint and `log.jsonl`.
        limits: when to stop; None: at the end.
        fresh: forget what `out` holds of an earlier training.
        say: takes lines for the person who waits.

    Raises:
        ConfigError: data that is missing, empty or damaged; settings that do not fit the model.
        ModelError: the model or the adapter to start from cannot be loaded.
        RunError: a loss or gradient that is not finite; a checkpoint that is damaged or of another training.
    """
    from erecap.decoding.stopping import answer_ends
    from erecap.models import describe_adapter, fingerprint, load, locate, locate_adapter
    from erecap.models.adapters import check_adapter
    from erecap.models.settings_files import settings_files

    _prepare(out, fresh)
    base = locate(settings.model)
    init = locate_adapter(settings.init) if settings.init is not None else None
    if init is not None:
        check_adapter(init, base)
    say(f"loading model {settings.model}")
    merged = settings.init if settings.full else None
    model, tokenizer = load(settings.model, "float32", settings.device, adapter=merged)
    window = model.config.get_text_config(decoder=True).max_position_embeddings
    if settings.max_tokens > window:
        raise ConfigError(f"--max-tokens is {settings.max_tokens}; allowed: at most {window}, the model's window")
    data = load_data(settings, tokenizer, answer_ends(model, tokenizer), say)
    counts = data.facts()
    say(
        f"{counts['transcripts']:,} transcripts, {counts['plans']:,} plans, {counts['tokens']:,} tokens; "
        f"{counts['held_out_transcripts']:,} transcripts held out; {counts['cut_transcripts']:,} cut at "
        f"{settings.max_tokens} tokens ({counts['cut_plans']:,} plans lost), {counts['too_long']:,} left out"
    )
    trainee = Trainee(model, settings, None if settings.full else init)
    fingerprinted = fingerprint(base)
    facts: dict[str, Any] = {
        "base": {"name": settings.facts()["model"], "fingerprint": fingerprinted, "settings": settings_files(base)},
        "init": describe_adapter(settings.init) if settings.init is not None else None,
        "data": {**counts, "sources": data.sources},
    }
    # Where nothing is read under a budget, how it would be does not matter.
    unused: tuple[str, ...] = () if settings.kv_tokens is not None else ("pruner", "pruned_share")
    if not settings.trains_early:
        unused += ("layer_dropout", "early_loss", "early_turns")
    asked = {key: value for key, value in settings.facts().items() if key not in unused}
    identity = {**asked, "base": fingerprinted, "init": facts["init"], "bf16": trainee.bf16}
    if settings.pruner is not None:
        identity["pruner"] = describe_pruner(settings.pruner)["hash"]
    identity["data"] = [source["sha256"] for source in data.sources]
    holes = _holes(settings, data, model, fingerprinted, facts["init"])
    loop = Loop(trainee, data, settings, out / PROGRESS, identity, say, holes)
    end = loop.run(limits or Limits())
    if end == "interrupted":
        return Trained(out, end, None)
    return Trained(out, end, _finish(settings, out, loop, trainee, data, tokenizer, facts, end, holes))


def _holes(
    settings: PlannerTraining, data: PlannerData, model: Any, base: str, init: dict[str, str] | None
) -> Holes | None:
    """The reader of transcripts under the settings' budget; None where there is none."""
    if settings.kv_tokens is None:
        return None
    scorer = None
    if settings.pruner is not None:
        scorer = learned_scorer(settings.pruner, model, base=base, adapter=init["hash"] if init else None)
    return Holes(data.samples, scorer, settings.kv_tokens, settings.pruned_share, settings.seed)


def _finish(
    settings: PlannerTraining,
    out: Path,
    loop: Loop,
    trainee: Trainee,
    data: PlannerData,
    tokenizer: Any,
    facts: dict[str, Any],
    end: End,
    holes: Holes | None,
) -> dict[str, Any]:
    """Ship the best weights, scored as they are in the file."""
    from erecap.models.wheels import sha256

    chosen = loop.choose()
    trainee.round_to_shipped()
    within = score(trainee, data.held_out, holes) if data.held_out and holes is not None else None
    scores, by_folder = score_by_folder(trainee, data.held_out) if data.held_out else (None, {})
    # Without its card an adapter is refused, so weights and card never disagree unnoticed.
    (out / CARD).unlink(missing_ok=True)
    files = trainee.ship(out, facts["base"]["name"], tokenizer)
    rows = read_log(out / PROGRESS)
    draw_curves(rows, out / CURVES)
    card = {
        "format": FORMAT,
        "name": out.resolve().name,
        "kind": "full" if settings.full else "lora",
        "rank": trainee.rank,
        **facts,
        "settings": settings.facts(),
        "training": {
            "end": end,
            "steps": loop.step,
            "planned_steps": loop.steps,
            "chosen_step": chosen,
            "seconds": round(loop.seconds, 1),
            "bf16": trainee.bf16,
            "device": str(trainee.model.device),
        },
        "scores": scores.facts() if scores else None,
        "scores_within_budget": within.facts() if within else None,
        "held_out": [
            {"folder": name, "episodes": _episodes(data.held_out, name), **own.facts()}
            for name, own in by_folder.items()
        ],
        "curve": [{"step": row["step"], **row["held_out"]} for row in rows if "held_out" in row],
        "versions": versions(),
        "command": settings.command(out),
        "files": {name: sha256(out / name) for name in files},
    }
    write_card(out, card)
    return card


def _episodes(sequences: list[PlanSequence], folder: str) -> dict[str, list[int]]:
    """By suite: the numbers of a folder's episodes."""
    found: dict[str, list[int]] = {}
    for own, suite, episode in (transcript_place(sequence.name) for sequence in sequences):
        if own == folder and episode not in found.setdefault(suite, []):  # a team has a transcript for each planner
            found[suite].append(episode)
    return found


def _prepare(out: Path, fresh: bool) -> None:
    """Refuse a folder that holds something else; clear one that is to be trained anew."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; a folder is wanted")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / PROGRESS).is_dir():
        raise RunError(f"{out} holds no training but is not empty; choose another --out")
    if fresh:
        for name in (CARD, CURVES, "card.md", "adapter_model.safetensors", "adapter_config.json", "model.safetensors"):
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / PROGRESS)
        (out / PROGRESS).mkdir()
