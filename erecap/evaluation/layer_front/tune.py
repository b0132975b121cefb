"""Draw a front: search, slice, time, judge, combine the best plans with budgets and drafts, and propose the knee."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from erecap.config import load_suite
from erecap.evaluation import perplexity as texts_part
from erecap.evaluation import plans as plans_part
from erecap.evaluation.items import Items
from erecap.evaluation.layer_front.front import Place, knee, pareto
from erecap.evaluation.layer_front.judging import Judging, played
from erecap.evaluation.layer_front.plans import Candidate, prefixes, search_all, sliced
from erecap.evaluation.layer_front.points import Point, alone, combinations
from erecap.evaluation.layer_front.settings import FrontSettings
from erecap.evaluation.layer_front.timing import (
    CALL_KEYS,
    CALLS,
    CLOCK,
    CLOCK_KEYS,
    PHASES,
    Timer,
    call_speed_up,
    clock_speed_up,
    timed_calls,
)
from erecap.evaluation.plans import episodes_of
from erecap.evaluation.subjects import DENSE
from erecap.evaluation.texts import Text
from erecap.generation import JsonRow
from erecap.language_models.opened import OpenedModel
from erecap.report.stats import bootstrap_mean, rate
from erecap.tokens.cache.ropes import window_of_model
from erecap.tuning.samples import Transcript

Say = Callable[[str], None]
PLAYED = "episodes"  # folder of runs


class Front:
    """One front in a folder. Every plan, time and judgement lies there when it is done; the same call goes on.

    Args:
        transcripts: whose plans are compared and whose calls are timed; not those of the calibration.
        texts: whose perplexity is measured; none: it is not.
        model: `model`, `adapter`, `dtype`, `device` and `threads` of a run's configuration, for episodes.
        fresh: forget times, judgements and played episodes; searches and plans stay.

    Raises:
        ConfigError: no plan to compare, no call that fits the window, or no such suite or ranking.
        ModelError: a ranking of another model.
        RunError: rows that are damaged.
    """

    def __init__(
        self,
        settings: FrontSettings,
        opened: OpenedModel,
        folder: Path,
        transcripts: Iterable[Transcript],
        *,
        texts: Sequence[Text] = (),
        model: dict[str, Any] | None = None,
        fresh: bool = False,
        say: Say = lambda text: None,
    ) -> None:
        self._settings, self._opened, self._folder, self._say = settings, opened, folder, say
        self._model, self._fresh = model or {}, fresh
        # What is needed in the end only is looked at before anything is searched.
        if settings.play is not None:
            load_suite(settings.play)
        for tokens in settings.kv_tokens:
            Point(kv_tokens=tokens).subject(opened, settings.evict_by)
        kinds = {plans_part.KIND: plans_part.KEYS, CALLS: CALL_KEYS, CLOCK: CLOCK_KEYS}
        if texts:
            kinds[texts_part.KIND] = texts_part.KEYS
        items = {kind: Items(folder / f"{kind}.jsonl", kind, keys, fresh=fresh) for kind, keys in kinds.items()}
        chats = list(transcripts)
        episodes = episodes_of(chats, opened.model, opened.tokenizer, settings.episodes, settings.calls)
        window = window_of_model(opened.model, reused=False)
        timed = timed_calls(chats, opened.tokenizer, window, settings.timed_calls)
        self._timer = Timer(
            opened,
            items[CALLS],
            items[CLOCK],
            timed,
            settings.rounds,
            settings.clock,
            settings.together,
            settings.evict_by,
            say,
        )
        self._judging = Judging(
            opened,
            items[plans_part.KIND],
            items.get(texts_part.KIND),
            episodes,
            texts,
            settings.evict_by,
            settings.seed,
        )
        self.searches = search_all(settings, opened, folder, say)
        self.candidates: list[Candidate] = prefixes(self.searches, settings, folder)
        self.candidates += sliced(settings, opened, folder, say)

    def draw(self) -> JsonRow:
        """Measure what is missing.

        Returns:
            `data` (what was read), `points` (the dense model first), `front` (names, slowest first), `knee` (a name, or
            None), `settings`.

        Raises:
            KeyboardInterrupt: playing was stopped.
        """
        settings = self._settings
        points = alone(self.candidates)
        rows = self._measured(points)
        clocks = self._timer.clocks(points, settings.texts, settings.seed)
        best = _best([place for place in pareto(_places(rows)) if place.name != DENSE], settings)
        more = combinations([Point(), *map(self.point, best)], settings.kv_tokens, settings.drafts)
        points, rows = [*points, *more], [*rows, *self._measured(more)]
        front = pareto(_places(rows))
        found = knee(front, settings.least)
        names = [place.name for place in front]
        for point, row in zip(points, rows, strict=True):
            row["front"] = point.name in names
            if point.name in clocks:
                row["clock"] = {phase: vars(clock_speed_up(clocks[point.name], phase)) for phase in PHASES}
        if settings.play is not None:
            front_rows = [pair for pair in zip(points, rows, strict=True) if pair[1]["front"]]
            fast = [pair for pair in front_rows if pair[1]["speed_up"]["value"] >= settings.play_from]
            if fast:
                self._play(fast, rows[0])
            else:
                self._say(f"no point of the front is {settings.play_from:g} times as fast, so none is played")
        data = [row.pop("data") for row in rows]
        return {
            "data": data[0],
            "points": rows,
            "front": names,
            "knee": found and found.name,
            "settings": settings.facts(),
        }

    def point(self, name: str) -> Point:
        """The point of that name."""
        every = alone(self.candidates)
        every += combinations(every, self._settings.kv_tokens, self._settings.drafts)
        return next(point for point in every if point.name == name)

    def _measured(self, points: Sequence[Point]) -> list[JsonRow]:
        """A row for each point: what it is, its speed and its quality."""
        times = self._timer.calls(points)
        found = []
        for number, point in enumerate(points, start=1):
            row: JsonRow = {
                "name": point.name, "method": point.method, "kv_tokens": point.kv_tokens, "draft": point.draft,
                "lossless": point.lossless,
            }  # fmt: skip
            if point.candidate is not None:
                row |= {"out": point.candidate.out, "steps": point.candidate.steps}
                row["predicted"] = dict(point.candidate.predicted)
            timed = times.get(point.name)
            row["speed_up"] = {"value": 1.0, "low": 1.0, "high": 1.0, "n": 0}
            if timed is not None:
                row["speed_up"] = vars(call_speed_up(timed))
                row["ms"] = {name: timed[name] for name in CALL_KEYS}
            row |= self._judging.judge(point)
            row["agreement"] = 1.0 if point.lossless else _agreement(row["figures"], self._settings.by)
            found.append(row)
            self._say(f"judged {number} of {len(points)} points")
        return found

    def _play(self, points: Sequence[tuple[Point, JsonRow]], dense: JsonRow) -> None:
        """Put success on a suite into the rows of these points; the dense model plays the same episodes."""
        settings = self._settings
        assert settings.play is not None, "a suite was named"
        done: dict[str, list[JsonRow]] = {}
        for point, row in [(Point(), dense), *points]:
            # Drafts change no answer, so episodes with them are those without.
            plain = Point(point.candidate, point.kv_tokens)
            if plain.name not in done:
                self._say(f"playing {settings.play_episodes} episodes of {Path(settings.play).stem} with {plain.name}")
                done[plain.name] = played(
                    plain,
                    name="front",
                    suite=settings.play,
                    episodes=settings.play_episodes,
                    batch=settings.play_batch,
                    model=self._model,
                    evict_by=settings.evict_by,
                    out=self._folder / PLAYED / Path(settings.play).stem / plain.name.replace(" ", ""),
                    fresh=self._fresh,
                )
            row["success"] = _success(done[plain.name], done[DENSE], settings.seed)


def _places(rows: Sequence[JsonRow]) -> list[Place]:
    return [Place(row["name"], row["speed_up"]["value"], row["agreement"]) for row in rows]


def _best(front: Sequence[Place], settings: FrontSettings) -> list[str]:
    """Names of the plans that are combined: the fastest that agree enough, then those that agree most."""
    enough = sum(place.agreement >= settings.least for place in front)
    start = max(0, enough - settings.combined)
    return [place.name for place in front[start : start + settings.combined]]


def _agreement(figures: JsonRow, by: str) -> float:
    """Share of plan tokens, or of whole plans, that stay the dense planner's."""
    if by == "tokens":
        return float(figures["same tokens"]["value"]) / 100
    return 1 - float(figures["plans that differ"]["value"]) / 100


def _success(rows: Sequence[JsonRow], dense: Sequence[JsonRow], seed: int) -> JsonRow:
    """Success rate with its interval, and the paired difference from the dense model in points."""
    own = {row["episode"]: row["success"] for row in rows if row["error"] is None}
    others = {row["episode"]: row["success"] for row in dense if row["error"] is None}
    share = rate(sum(own.values()), len(own))
    pairs = [100.0 * (own[episode] - others[episode]) for episode in own if episode in others]
    difference = bootstrap_mean(pairs, seed=seed)
    return {
        "n": len(own),
        "sr": None if share is None else vars(share),
        "against_dense": None if difference is None else vars(difference),
    }
