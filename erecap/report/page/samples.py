"""Recorded episodes as the page shows them: prompts cut into shaded runs, calls with the steps that followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from markupsafe import Markup

from erecap.report.load import Run
from erecap.report.page.floor_map import Frame, draw_scene, draw_ways, frame_of, trails_of
from erecap.report.rows import Sample, SampleReplan, SampleStep

MAX_CALLS = 8  # calls of an episode that the page holds in each mode; the first and the last are among them
MAX_FRAMES = 30  # pictures that the page holds in each mode
# Lower ends of the shades, in the share of layers that kept a token; the class of shade i is "k{i}".
SHADES = (0.0, 1e-9, 0.25, 0.5, 0.75, 1.0)
SHADE_NAMES = ("no layer", "under ¼", "¼ to ½", "½ to ¾", "¾ and more", "all layers")


@dataclass
class Block:
    """One chat message of a prompt, or the template text between two of them."""

    role: str  # "" for template text
    kept: float  # share of layers that kept its text, mean over characters
    runs: list[tuple[int, str]]  # shade and text


@dataclass
class CallView:
    """One planning call, and what the agent did and saw until the next one."""

    number: int  # from 1
    step: int
    trigger: str
    plan: list[str]
    problem: str | None
    blocks: list[Block]
    kept: float | None  # share of layers that kept the prompt, mean over characters; None without a prompt
    steps: list[SampleStep]
    way: Markup | None = None  # the map with the way up to the last of the steps


@dataclass
class ModeView:
    """A recorded episode in one mode."""

    mode: str
    success: bool
    calls: list[CallView]
    all_calls: int  # calls that were recorded; more than `calls` where the page leaves some out
    frames_left_out: int = 0


@dataclass
class SuiteView:
    """The recorded episode that the page shows for one suite."""

    suite: str
    episode: int
    goal: str
    modes: list[ModeView] = field(default_factory=list)
    scene: Markup | None = None  # the map that the drawings of all calls refer to


def sample_views(run: Run) -> list[SuiteView]:
    """One episode for each suite with recordings: the one recorded in most modes, the first among equals."""
    views: list[SuiteView] = []
    for suite in run.suites:
        recorded: dict[int, list[Sample]] = {}
        for sample in run.samples:
            if sample.suite == suite:
                recorded.setdefault(sample.episode, []).append(sample)
        if not recorded:
            continue
        episode = min(recorded, key=lambda number: (-len(recorded[number]), number))
        samples = sorted(recorded[episode], key=lambda sample: _place(run.modes, sample))
        view = SuiteView(suite, episode, samples[0].goal)
        scene = next((sample.map for sample in samples if sample.map is not None), None)
        frame = None if scene is None else frame_of(scene, [step for sample in samples for step in sample.steps])
        name = f"scene{len(views)}"
        if scene is not None and frame is not None:
            view.scene = draw_scene(scene, frame, name)
        view.modes = [_mode_view(sample, frame, name) for sample in samples]
        views.append(view)
    return views


def _place(modes: Sequence[str], sample: Sample) -> tuple[bool, bool, int]:
    """Pruned modes come first and modes without a prompt last, so that what opens first is worth reading."""
    shares = [share for call in sample.replans for _, _, share in call.pieces]
    return not any(share < 1 for share in shares), not shares, modes.index(sample.mode)


def _mode_view(sample: Sample, frame: Frame | None, scene: str) -> ModeView:
    calls = sorted(sample.replans, key=lambda call: call.replan)
    chosen = _spread(len(calls), MAX_CALLS)
    frames = MAX_FRAMES
    left_out = 0
    views = []
    for index in chosen:
        call = calls[index]
        until = calls[index + 1].step if index + 1 < len(calls) else None
        steps = []
        for step in sample.steps:
            # Step 0 is what the agent saw before it acted; the first call follows it.
            if not (call.step < step.step or step.step == call.step == 0):
                continue
            if until is not None and step.step > until:
                continue
            if step.frame and not frames:
                left_out += 1
                step = step.model_copy(update={"frame": None})
            elif step.frame:
                frames -= 1
            steps.append(step)
        view = _call_view(call, steps)
        if frame is not None:
            before = [step for step in sample.steps if step.step <= call.step and step not in steps]
            label = f"Way up to step {steps[-1].step if steps else call.step}"
            view.way = draw_ways(frame, scene, trails_of(before), trails_of(steps), label)
        views.append(view)
    return ModeView(sample.mode, sample.success, views, len(calls), left_out + sample.frames_left_out)


def _call_view(call: SampleReplan, steps: list[SampleStep]) -> CallView:
    blocks: list[Block] = []
    place: int | None = None
    for message, text, share in call.pieces:
        if not text:
            continue
        if message != place:
            role = str(call.messages[message].get("role", "")) if 0 <= message < len(call.messages) else ""
            blocks.append(Block(role, 0.0, []))
            place = message
        block, shade = blocks[-1], shade_of(share)
        block.kept += share * len(text)  # a sum for now, divided below
        if block.runs and block.runs[-1][0] == shade:
            block.runs[-1] = (shade, block.runs[-1][1] + text)
        else:
            block.runs.append((shade, text))
    sums = [(block.kept, sum(len(text) for _, text in block.runs)) for block in blocks]
    length = sum(characters for _, characters in sums)
    return CallView(
        number=call.replan + 1,
        step=call.step,
        trigger=call.trigger,
        plan=call.plan,
        problem=call.problem,
        blocks=[replace(block, kept=kept / n) for block, (kept, n) in zip(blocks, sums, strict=True)],
        kept=sum(kept for kept, _ in sums) / length if length else None,
        steps=steps,
    )


def shade_of(share: float) -> int:
    """The shade (0 to 5) of a token that this share of the layers kept."""
    return max(index for index, low in enumerate(SHADES) if share >= low)


def _spread(number: int, most: int) -> list[int]:
    """At most `most` of the indices below `number`, evenly spread, the first and the last among them."""
    if number <= most:
        return list(range(number))
    return [round(index * (number - 1) / (most - 1)) for index in range(most)]
