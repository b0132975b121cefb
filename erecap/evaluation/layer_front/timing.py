"""Measured times of a front: planning calls of points, prefill and decoding of plans, each beside the dense model.

Models are timed in groups, the dense one in each group, in turn and in changing order. So every ratio comes from one
group, and groups may be measured on different days.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from erecap.bench.layer_clock import LayerClock, clock
from erecap.bench.replan.calls import steady
from erecap.bench.replan.ceilings import ratio
from erecap.bench.results import Figure
from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError
from erecap.evaluation.items import Items
from erecap.evaluation.layer_front.points import Point
from erecap.evaluation.subjects import Subject, digest, key_of
from erecap.generation import JsonRow, Message
from erecap.language_models.opened import OpenedModel
from erecap.rollout.run_folder.machine import machine
from erecap.session.session import ReplanSession
from erecap.tuning.calibration_texts import calibration_ids
from erecap.tuning.samples import Transcript, asked

Say = Callable[[str], None]
CALLS, CLOCK = "calls", "clock"  # kinds of rows
CALL_KEYS = ("dense_ms", "ms", "prefill_ms", "decode_ms")
CLOCK_KEYS = ("dense", "own")
PHASES = ("prefill", "decode")


@dataclass(frozen=True)
class TimedCall:
    """One planning call."""

    history: Sequence[Message]  # that a session has read before the call
    messages: Sequence[Message]  # that the call sees
    plan: str  # the answer, forced token by token, so that all models do the same work
    tokens: int  # of the answer and its end


def timed_calls(transcripts: Iterable[Transcript], tokenizer: Any, window: int, count: int) -> list[TimedCall]:
    """The middle planning call of each of the first `count` transcripts that has one which fits the window.

    Raises:
        ConfigError: there is none.
    """
    found: list[TimedCall] = []
    for transcript in transcripts:
        if len(found) == count:
            break
        plans = [(place, plan.strip()) for place, plan in sorted(transcript.plans) if plan.strip() and place > 0]
        for place, plan in plans[len(plans) // 2 :: -1] if plans else ():
            tokens = len(tokenizer(plan, add_special_tokens=False)["input_ids"]) + 1
            messages = transcript.messages[:place]
            if len(render_prompt(messages, tokenizer).input_ids) + tokens <= window:
                answers = [number for number, one in enumerate(messages) if one["role"] == "assistant"]
                found.append(TimedCall(messages[: answers[-1] + 1] if answers else [], asked(messages), plan, tokens))
                break
    if not found:
        raise ConfigError("tune layers: no planning call fits the model's window, so none can be timed")
    return found


class Timer:
    """Times what is missing of a front, and keeps each group on the disk when it is done.

    Args:
        calls, clocks: rows of earlier calls, kinds `CALLS` and `CLOCK`.
        timed: the planning calls.
        rounds: of each of them.
        settings: of plans alone.
        together: models of a group beside the dense one.
        evict_by: ranking of points with a budget.
    """

    def __init__(
        self,
        opened: OpenedModel,
        calls: Items,
        clocks: Items,
        timed: Sequence[TimedCall],
        rounds: int,
        settings: LayerClock,
        together: int,
        evict_by: str | None,
        say: Say,
    ) -> None:
        self._opened, self._calls, self._clocks, self._timed = opened, calls, clocks, timed
        self._rounds, self._settings, self._together, self._evict_by, self._say = (
            rounds,
            settings,
            together,
            evict_by,
            say,
        )
        here = machine(torch.get_num_threads())
        place = [here["cpu"], here["threads"], opened.model.device.type]  # times of another machine are others
        place += [here["gpu"]] if opened.model.device.type != "cpu" else []
        self._call_item = digest(
            [[[str(message["content"]) for message in call.messages], call.plan] for call in timed] + [rounds, *place]
        )
        self._clock_item = digest([vars(settings), *place])

    def calls(self, points: Sequence[Point]) -> dict[str, JsonRow]:
        """By name of a point milliseconds of all its planning calls together, a value a round.

        `dense_ms`: of the dense model in the same rounds; `prefill_ms`, `decode_ms`: parts of `ms`.
        """
        dense = Point()
        found, due = self._known(self._calls, [one for one in points if one != dense], self._call_item, self._evict_by)
        for start in range(0, len(due), self._together):
            group = due[start : start + self._together]
            subjects = [one.subject(self._opened, self._evict_by) for one in (dense, *(point for point, _ in group))]
            base, *rows = self._in_turn(subjects)
            for (point, key), row in zip(group, rows, strict=True):
                values = {"dense_ms": base["ms"], **row}
                found[point.name] = self._calls.add(key, self._call_item, values)
            self._say(f"timed planning calls of {min(start + self._together, len(due))} of {len(due)} points")
        return found

    def clocks(self, points: Sequence[Point], texts: Sequence[str], seed: int) -> dict[str, JsonRow]:
        """By name of a plan the times of prefill and of a decoded token, a value a round: `dense` and `own`."""
        planned = [one for one in points if one.candidate is not None]
        found, due = self._known(self._clocks, planned, self._clock_item, None)
        ids = self._text(texts, seed) if due else []
        for start in range(0, len(due), self._together):
            group = due[start : start + self._together]
            models = [point.subject(self._opened, None).opened.model for point, _ in group]
            times = clock([self._opened.model, *models], ids, self._settings, what="tune layers")
            rounds = [one.rounds(self._settings.decoded) for one in times]
            by_phase = [
                {phase: [values[number] for values in one] for number, phase in enumerate(PHASES)} for one in rounds
            ]
            for (point, key), own in zip(group, by_phase[1:], strict=True):
                found[point.name] = self._clocks.add(key, self._clock_item, {"dense": by_phase[0], "own": own})
            self._say(f"timed {min(start + self._together, len(due))} of {len(due)} plans")
        return found

    def _known(
        self, rows: Items, points: Sequence[Point], item: str, evict_by: str | None
    ) -> tuple[dict[str, JsonRow], list[tuple[Point, str]]]:
        """Rows that are there, by name; and the points that lack one, with their keys."""
        found, due = {}, []
        for point in points:
            key = key_of(self._opened, point.change(evict_by))
            row = rows.get(key, item)
            if row is None:
                due.append((point, key))
            else:
                found[point.name] = row
        return found, due

    def _text(self, texts: Sequence[str], seed: int) -> list[int]:
        """Tokens to read; times do not depend on their words."""
        length = min(128, self._settings.tokens)
        found = calibration_ids(texts, self._opened.tokenizer, count=len(texts), length=length, seed=seed)
        ids = [token for row in found for token in row]
        return (ids * -(-self._settings.tokens // len(ids)))[: self._settings.tokens]

    def _in_turn(self, subjects: Sequence[Subject]) -> list[JsonRow]:
        """Of each subject the sums over all calls, a value a round; one more round warms up."""
        rounds = self._rounds
        found = [{name: [0.0] * rounds for name in ("ms", "prefill_ms", "decode_ms")} for _ in subjects]
        order = list(range(len(subjects)))
        with steady() as collect:
            for call in self._timed:
                readers = [_reader(subject, call) for subject in subjects]
                for round_ in range(rounds + 1):
                    for number in order:
                        session = readers[number].fork()
                        collect()
                        started = time.perf_counter()
                        answer = session.generate(call.messages, max_new_tokens=call.tokens, force=call.plan)
                        spent = 1e3 * (time.perf_counter() - started)
                        if round_:  # the first warms up
                            own = found[number]
                            own["ms"][round_ - 1] += spent
                            own["prefill_ms"][round_ - 1] += answer.timing.prefill_ms
                            own["decode_ms"][round_ - 1] += answer.timing.decode_ms
                    order.reverse()
        return [{name: [round(ms, 3) for ms in values] for name, values in row.items()} for row in found]


def _reader(subject: Subject, call: TimedCall) -> ReplanSession:
    """A session that has read the history of a call."""
    sessions = subject.sessions
    assert sessions is not None, "points of a front are sessions"
    sessions.reset()
    if call.history:
        sessions.read(call.history)
    return sessions.session


def call_speed_up(row: JsonRow) -> Figure:
    """Speed-up of planning calls, with the range of its rounds."""
    return ratio(row["dense_ms"], row["ms"])


def clock_speed_up(row: JsonRow, phase: str) -> Figure:
    """Speed-up of `prefill` or `decode`, with the range of its rounds."""
    return ratio(row["dense"][phase], row["own"][phase])
