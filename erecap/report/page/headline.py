"""Sentences on the figures for the top of the report. No claim goes beyond its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from erecap.report.formats import count, interval_points, listing, milliseconds, percent, plural, points, times
from erecap.report.load import Run
from erecap.report.page.course import courses
from erecap.report.page.course_sentences import busy_sentence
from erecap.report.page.realtime import EXPERT_PLANS, plays_expert_plans
from erecap.report.page.summary import RESULT_EPISODES
from erecap.report.rows import ModelFacts

LOW_SR = 0.3  # below this success rate in every planned mode, the page says whose failure that is
MIN_PAIRS = 20  # below this many pairs a bootstrap interval is too narrow to be believed
SHORT_PROMPT = 1000  # tokens; below, what is always protected decides most of what is kept
TOO_HARD = (
    "Success is low in every mode, the expert's included, so it says nothing of the planner model: the horizon is too "
    "short for these episodes, or the episodes are too hard."
)
STOCK_MODELS = ("smollm2-135m-instruct",)  # prefixes of models that were never trained on these tasks


@dataclass(frozen=True)
class Sentence:
    """One statement of the headline, and its subject."""

    kind: Literal["label", "success", "speed", "note"]
    text: str


def headline(run: Run, summary: dict[str, Any]) -> list[Sentence]:
    """Sentences for the top of the page, the most important first."""
    finished = sum(figures["episodes"] for figures in summary["modes"].values())
    if not finished:
        return [Sentence("label", "No episode has finished yet, so there is nothing to report.")]
    return [
        _label(run, summary),
        *_success(run, summary),
        *_speed(summary),
        *_busy(run),
        *_rough(summary),
        *_notes(summary),
    ]


def _busy(run: Run) -> list[Sentence]:
    """A word on a busy machine, where the sentences on re-read calls, which say it too, do not stand above."""
    busy = None if courses(run) else busy_sentence(run)
    return [] if busy is None else [Sentence("note", busy)]


def _rough(summary: dict[str, Any]) -> list[Sentence]:
    """Modes whose times cannot all be right; on a busy machine single calls take several times as long."""
    sentences = []
    for mode in summary["faults"]:
        figures = summary["ceiling"][mode]
        sentences.append(
            Sentence(
                "note",
                f"This machine was busy, times are rough: in the median of {figures['pairs']} pairs of calls the "
                f"prefill of {mode} was {times(figures['share_of_ceiling'])} as fast as its token counts allow "
                f"(allowance {percent(figures['allowance'])}).",
            )
        )
    return sentences


def _label(run: Run, summary: dict[str, Any]) -> Sentence:
    sizes = [figures["counted"] for figures in summary["modes"].values()]
    least = min(sizes)
    status = "" if run.head.status == "finished" else f" The run is not complete (status: {run.head.status})."
    if summary["label"] == "smoke":
        return Sentence(
            "label",
            f"Smoke test: with {plural(least, 'counted episode')} in the smallest mode, under "
            f"{RESULT_EPISODES}, the figures show that everything runs, and do not rank the modes.{status}",
        )
    return Sentence("label", f"Result over at least {plural(least, 'counted episode')} in every mode.{status}")


def _success(run: Run, summary: dict[str, Any]) -> list[Sentence]:
    rates = {mode: percent(figures["sr"]["value"]) for mode, figures in summary["modes"].items() if figures["counted"]}
    if not rates:
        return []
    by_mode = ", ".join(f"{mode} {rate}" for mode, rate in rates.items() if mode != "expert")
    sentences = [Sentence("success", f"Success rate: {by_mode}.")] if by_mode else []
    if "expert" in rates:
        sentences.append(
            Sentence(
                "success",
                f"The expert, which uses no language model, solved {rates['expert']} of its episodes.",
            )
        )
    sentences += _differences(summary)
    planned = [summary["modes"][mode]["sr"]["value"] for mode in rates if mode != "expert"]
    if plays_expert_plans(run):
        return [*sentences, Sentence("success", EXPERT_PLANS)]
    if planned and max(planned) < LOW_SR and run.head.model is not None:
        expert = summary["modes"]["expert"]["sr"]["value"] if "expert" in rates else None
        hard = expert is not None and expert < LOW_SR
        sentences.append(Sentence("success", TOO_HARD if hard else _low_success(run.head.model)))
    return sentences


def _low_success(model: ModelFacts) -> str:
    if model.adapter is None and model.name.startswith(STOCK_MODELS):
        return (
            f"Success is low in every mode because of the model: {model.name} as it comes was never trained to plan in "
            "these environments. With so few successes, no mode can lose many."
        )
    return f"Success is low in every mode, so it is the limit of the planner model ({model.title}) before any pruning."


def _differences(summary: dict[str, Any]) -> list[Sentence]:
    """The modes that differ from the baseline in success, as far as the intervals tell."""
    base = summary["baseline"]
    few, alike, open_modes, sentences = [], [], [], []
    for mode, paired in summary["paired"].items():
        success = paired["success"]
        if mode == "expert" or success is None:
            continue
        if paired["pairs"] < MIN_PAIRS:
            few.append(mode)
        elif success["value"] == success["low"] == success["high"] == 0:
            alike.append(mode)
        elif success["low"] <= 0 <= success["high"]:
            open_modes.append(mode)
        else:
            sentences.append(
                Sentence(
                    "success",
                    f"{mode} differs from {base} by {points(success['value'])} of success; the 95 % interval "
                    f"{interval_points(success)} over {plural(paired['pairs'], 'pair')} excludes zero.",
                )
            )
    if few:
        sentences.append(
            Sentence(
                "success",
                f"No claim is made about the difference in success of {listing(few)} from {base}: under "
                f"{MIN_PAIRS} paired episodes an interval cannot be trusted.",
            )
        )
    if open_modes:
        sentences.append(
            Sentence(
                "success",
                f"No difference in success from {base} is shown for {listing(open_modes)}: the 95 % interval of the "
                "paired difference includes zero.",
            )
        )
    if alike:
        sentences.append(
            Sentence(
                "success",
                f"{listing(alike)} won and lost exactly the same episodes as {base}, which leaves the interval "
                "without width and says little.",
            )
        )
    return sentences


def _speed(summary: dict[str, Any]) -> list[Sentence]:
    base = summary["baseline"]
    compared = {mode: figures for mode, figures in summary["ceiling"].items() if figures["pairs"]}
    if not compared:
        total = summary["modes"][base]["latency"]["total_ms"]
        if total is None:
            return []
        calls = plural(total["n"], "call")
        return [
            Sentence("speed", f"A replanning call in {base} took {milliseconds(total['p50'])} (median of {calls}).")
        ]
    parts = [
        f"{mode} {times(figures['prefill_speed_up'])}"
        + (f" (at most {times(figures['total'])} possible)" if figures["total"] else "")
        for mode, figures in compared.items()
    ]
    whole = [f"{mode} {times(figures['replan_speed_up'])}" for mode, figures in compared.items()]
    fewest = min(figures["pairs"] for figures in compared.values())
    over = f"medians over at least {plural(fewest, 'pair')} of calls"
    sentences = [
        Sentence("speed", f"Prefill speed-up over {base} at equal prompt length, {over}: {', '.join(parts)}."),
        Sentence("speed", f"Speed-up of the whole replanning call, decoding included: {', '.join(whole)}."),
    ]
    slower = [mode for mode, figures in compared.items() if figures["prefill_speed_up"] < 1]
    if slower:
        sentences.append(Sentence("speed", f"Below 1× is slower: the prefill of {listing(slower)} saved no time."))
    return sentences


def _notes(summary: dict[str, Any]) -> list[Sentence]:
    sentences = []
    contended = sum(figures["latency"]["contended_calls"] for figures in summary["modes"].values())
    if contended:
        sentences.append(
            Sentence(
                "note",
                f"{plural(contended, 'call')} ran beside other episodes and {_stand(contended)} outside all times.",
            )
        )
    prompts = [figures["tokens"]["prompt"]["p50"] for figures in summary["modes"].values() if figures["model_calls"]]
    if summary["ceiling"] and prompts and max(prompts) < SHORT_PROMPT:
        sentences.append(
            Sentence(
                "note",
                f"Prompts are short (at most {count(max(prompts))} tokens in the median). Under {count(SHORT_PROMPT)} "
                "tokens, what is always protected decides most of what is kept, so scorers can hardly differ.",
            )
        )
    errors = len(summary["apart"]["errors"])
    if errors:
        sentences.append(
            Sentence("note", f"{plural(errors, 'episode')} ended with an error and {_stand(errors)} apart.")
        )
    overflow = summary["apart"]["overflow"]["episodes"]
    if overflow:
        sentences.append(
            Sentence(
                "note",
                f"{plural(overflow, 'episode')} outgrew the model's window in some mode and {_stand(overflow)} "
                "apart, in every mode.",
            )
        )
    return sentences


def _stand(number: int) -> str:
    return "stands" if number == 1 else "stand"
