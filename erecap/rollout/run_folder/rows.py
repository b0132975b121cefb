"""Rows of `episodes.jsonl` and `replans.jsonl`; `docs/run-format.md` describes every field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from erecap.config.modes import Mode
from erecap.config.suite import Suite
from erecap.generation import Generation, JsonRow, Timing, Usage
from erecap.protocols import Plan
from erecap.rollout.clock import EpisodeClock
from erecap.rollout.jobs import Job, Played
from erecap.rollout.observed import Observed, clean


def spl(success: bool, path: float, expert_path: float) -> float:
    """Success weighted by path length (Anderson et al. 2018, arXiv:1807.06757), of one episode.

    1 for a success on a path no longer than the expert's, and for a success where the expert needs no path.
    """
    if not success:
        return 0.0
    longest = max(path, expert_path)
    return expert_path / longest if expert_path > 0 else 1.0


def replan_row(
    job: Job, mode: Mode, number: int, step: int, trigger: str, plan: Plan, elapsed_ms: float, contended: bool
) -> JsonRow:
    """One planning call. `elapsed_ms` stands for the total where no model was called."""
    generation = plan.generation
    usage = generation.usage if generation else Usage()
    timing = generation.timing if generation else Timing(total_ms=elapsed_ms)
    return {
        "suite": job.suite,
        "mode": job.mode,
        "episode": job.episode,
        "replan": number,
        "step": step,
        "trigger": trigger,
        "prompt_tokens": usage.prompt_tokens,
        "new_tokens": usage.new_tokens,
        "reused_tokens": usage.reused_tokens,
        "kept_tokens": round(usage.kept_tokens, 3),
        "kept_per_layer": list(usage.kept_per_layer),
        "plan_tokens": usage.completion_tokens,
        "kv_bytes": usage.kv_bytes,
        "overflow_messages": usage.overflow_messages,
        "truncated_tokens": usage.truncated_tokens,
        "evicted_tokens": usage.evicted_tokens,
        "rewritten_tokens": usage.rewritten_tokens,
        "drafted_tokens": usage.drafted_tokens,
        "accepted_tokens": usage.accepted_tokens,
        "decode_passes": usage.decode_passes,
        "exit_layers": list(usage.exit_layers),
        "exit_skipped_layers": usage.exit_skipped_layers,
        "exit_differing": usage.exit_differing,
        "exit_bytes": usage.exit_bytes,
        "crossed_bytes": usage.crossed_bytes,
        "masked_observations": usage.masked_observations,
        "dropped_messages": usage.dropped_messages,
        "tokenize_ms": round(timing.tokenize_ms, 3),
        "prefill_ms": round(timing.prefill_ms, 3),
        "prune_ms": round(timing.prune_ms, 3),
        "decode_ms": round(timing.decode_ms, 3),
        "total_ms": round(timing.total_ms, 3),
        "plan": [clean(step) for step in plan.steps],
        "problem": None if plan.problem is None else clean(plan.problem),
        **_decided(mode, generation, usage),
        "dropped_because": generation.dropped_because if generation else None,
        "reread": _reread(generation),
        "controller": _controlled(generation),
        "clock": None,
        "agent": plan.agent or None,
        "conflicts": [clean(conflict) for conflict in plan.conflicts],
        "contended": contended,
    }


def _reread(generation: Generation | None) -> JsonRow | None:
    """Tokens and times of the same call on an empty cache, and whether it gave the same answer; None: not made."""
    if generation is None or generation.reread is None:
        return None
    again = generation.reread
    return {
        "new_tokens": again.usage.new_tokens,
        "prefill_ms": round(again.timing.prefill_ms, 3),
        "decode_ms": round(again.timing.decode_ms, 3),
        "total_ms": round(again.timing.total_ms, 3),
        "same": again.text == generation.text,
    }


def _controlled(generation: Generation | None) -> JsonRow | None:
    """The controller's action and its price; None: there is no controller."""
    if generation is None or generation.control is None:
        return None
    control = generation.control
    return {
        "action": control.action,
        "reason": control.reason,
        "switched": control.switched,
        "reread_tokens": control.reread_tokens,
        "switch_ms": round(control.switch_ms, 3),
    }


def _decided(mode: Mode, generation: Generation | None, usage: Usage) -> JsonRow:
    """The decision about the prompt, its reason, and the milliseconds that were predicted for the call."""
    if generation is not None and generation.decision is not None:
        decision = generation.decision
        predicted = None if decision.predicted_ms is None else round(decision.predicted_ms, 3)
        return {"decision": decision.action, "reason": decision.reason, "predicted_ms": predicted}
    if mode.expert:
        done = "expert"
    elif mode.prune is not None and not mode.session:
        done = "prune"
    else:
        done = "append" if usage.reused_tokens else "re-read"
    return {"decision": done, "reason": "set by the mode", "predicted_ms": None}


def episode_row(
    job: Job,
    suite: Suite,
    replans: Sequence[JsonRow],
    last: Observed | None,
    *,
    steps: int,
    end: str,
    error: str | None,
    contended: bool,
    wall_s: float,
    team: int = 0,
    clock: EpisodeClock | None = None,
) -> JsonRow:
    """One episode, from what was last observed; None if the episode did not even start.

    Args:
        team: planners that cooperate, those included that were not asked before the episode ended.
    """
    success = end == "success"
    path, expert_path = (last.path_length, last.expert_path_length) if last else (0.0, 0.0)
    return {
        "suite": job.suite,
        "env": suite.env,
        "mode": job.mode,
        "episode": job.episode,
        "seed": job.seed,
        "goal": last.goal if last else "",
        "success": success,
        "progress": last.progress if last else 0.0,
        "spl": spl(success, path, expert_path),
        "steps": steps,
        "path_length": path,
        "path_unit": last.path_unit if last else "",
        "expert_path_length": expert_path,
        "expert_steps": last.expert_steps if last else 0,
        "measures": dict(last.measures) if last else {},
        "replans": len(replans),
        "triggers": dict(Counter(row["trigger"] for row in replans)),
        "invalid_plans": sum(row["problem"] is not None for row in replans),
        "end": end,
        "error": None if error is None else clean(error),
        "overflow": sum(bool(row["overflow_messages"] or row["truncated_tokens"]) for row in replans),
        "robots": max(1, len(last.situation.robots)) if last else None,
        "agents": max(team, len({row["agent"] for row in replans if row["agent"]})) or None,
        "seconds": last.seconds if last else None,
        "waited": last.waited if last else None,
        "conflicts": sum(len(row["conflicts"]) for row in replans),
        "contended": contended,
        "planner_ms": round(sum(row["total_ms"] for row in replans), 3),
        "wall_s": round(wall_s, 3),
        "clock": None if clock is None else clock.totals(),
    }


def lost_episode(job: Job, suite: Suite, error: str, contended: bool) -> Played:
    """An episode that could not be played: an error row, so that it is neither lost nor played for ever."""
    row = episode_row(job, suite, [], None, steps=0, end="error", error=error, contended=contended, wall_s=0.0)
    return Played(job, row, [])
