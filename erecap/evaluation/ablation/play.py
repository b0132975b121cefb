"""An ablation from a run's configuration to its figures: times, agreement, success; it goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from erecap.config.load import load_suites
from erecap.config.run import RunConfig
from erecap.evaluation.ablation.agreement import REFERENCE, compare_variants, identities_of, rows_done
from erecap.evaluation.ablation.components import AblationComponents
from erecap.evaluation.ablation.parts import played_config, variants_of
from erecap.evaluation.ablation.summary import summarise
from erecap.generation import JsonRow
from erecap.report.load import Run, load_run_folder
from erecap.rollout.components import OpenComponents
from erecap.rollout.run import new_head, run
from erecap.rollout.run_folder.resume import has_rows, read_head, require_same

STEPS = ("time", "agreement", "success")


def ablate(
    config: RunConfig,
    folder: Path,
    say: Callable[[str], None],
    *,
    parts: Sequence[str] | None = None,
    added: Mapping[str, JsonRow] | None = None,
    timed_episodes: int = 2,
    steps: Sequence[str] = STEPS,
    fresh: bool = False,
) -> JsonRow:
    """Measure what is missing in `folder`, and summarise all of it.

    Times come from calls on the expert's plans, so that every variant reads and decodes the same; success from plans
    of the variant's own, on the episodes of the configuration.

    Args:
        config: has one mode, a session of parts; its planner, model, suites and episodes are those of the ablation.
        parts, added: see `variants_of`.
        timed_episodes: episodes of each suite that are timed and compared.
        steps: of `STEPS`, those that are measured now; figures of the others are shown where they are there.

    Returns:
        `variants` (rows) and `settings`.

    Raises:
        ConfigError: a configuration that has no parts to switch off.
        RunError: rows in `folder` that are damaged, or of another configuration.
        KeyboardInterrupt: what is finished is there, and the same call goes on.
    """
    variants = variants_of(config, folder, only=parts, added=added)
    alone = {"executor": "serial", "workers": 1, "batch": 1}
    planner = {**config.planner.model_dump(exclude_unset=True), "plans": "expert", "stuck_after": None}
    timed = played_config(config, variants, "time", planner=planner, episodes=timed_episodes, **alone)
    compared = [variant for variant in variants if variant.compares]
    played = [variant for variant in variants if variant.plays]
    comparing = played_config(config, compared, "agreement", episodes=timed_episodes, **alone)
    comparing = comparing.model_copy(update={"modes": [REFERENCE, *comparing.modes]})
    playing = played_config(config, played, "success")
    path = folder / "agreement.jsonl"
    # Figures of all steps are shown, also of those that are not measured now. So all have to be of one configuration.
    if path.exists() and not (fresh and "agreement" in steps):
        rows_done(path, identities_of(comparing, load_suites(comparing), compared))
    for step, own in (("time", timed), ("success", playing)):
        if step not in steps and (head := read_head(folder / step)) is not None and has_rows(folder / step):
            require_same(folder / step, head, new_head(own, load_suites(own)))
    if "time" in steps:
        say(f"times: {timed_episodes} episodes a suite, {len(variants)} variants in turn, on the expert's plans")
        _play(timed, folder / "time", AblationComponents, fresh)
    if "agreement" in steps:
        say(f"plan agreement with the unpruned model: {len(compared)} variants")
        compare_variants(path, comparing, compared, say, fresh=fresh)
    if "success" in steps:
        say(f"success: {len(played)} variants")
        _play(playing, folder / "success", AblationComponents, fresh)
    return {
        "settings": {
            "config": config.name,
            "suites": list(load_suites(config)),
            "mode": variants[0].composition,
            "timed_episodes": timed_episodes,
            "episodes": config.episodes,
        },
        "variants": summarise(variants, _loaded(folder / "time"), _loaded(folder / "success"), path),
    }


def _play(config: RunConfig, folder: Path, components: OpenComponents, fresh: bool) -> None:
    if run(config, folder, open_components=components, fresh=fresh).status == "interrupted":
        raise KeyboardInterrupt


def _loaded(folder: Path) -> Run | None:
    return load_run_folder(folder) if (folder / "run.json").exists() else None
