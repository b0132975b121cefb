"""Quality of points: agreement with the dense planner on plans, perplexity of texts, success on a suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erecap.evaluation import perplexity as texts_part
from erecap.evaluation import plans as plans_part
from erecap.evaluation.comparison import Measure, Measured, compare
from erecap.evaluation.items import Items
from erecap.evaluation.layer_front.points import Point
from erecap.evaluation.plans import Transcribed
from erecap.evaluation.subjects import DENSE, Change, Subject
from erecap.evaluation.texts import Text
from erecap.generation import JsonRow
from erecap.language_models.opened import OpenedModel


class Judging:
    """Judges points one by one beside the dense model; what lies in `items` is not asked again.

    Args:
        plans, texts: rows of earlier calls; without texts to read there are none of these.
        episodes: whose plans are compared.
        read: texts whose perplexity is measured.
        evict_by: ranking of points with a budget.
    """

    def __init__(
        self,
        opened: OpenedModel,
        plans: Items,
        texts: Items | None,
        episodes: Sequence[Transcribed],
        read: Sequence[Text],
        evict_by: str | None,
        seed: int,
    ) -> None:
        self._opened, self._plans, self._texts = opened, plans, texts
        self._episodes, self._read, self._evict_by, self._seed = episodes, read, evict_by, seed
        self._dense = Subject(DENSE, opened, Change())

    def judge(self, point: Point) -> JsonRow:
        """Figures of one point by measure, with intervals; `episodes`: counts of each; `data`: what was read."""
        # Drafts change no answer. So a point with them is judged as the one without.
        plain = Point(point.candidate, point.kv_tokens)
        subjects = [self._dense, self._dense if point.lossless else plain.subject(self._opened, self._evict_by)]
        rows, read = plans_part.agreement(subjects, self._episodes, self._plans, _quiet)
        found: JsonRow = {
            "figures": _figures(plans_part.MEASURES, rows, self._seed),
            "episodes": [row and {key: row[key] for key in _COUNTS} for row in rows[1]],
            "data": {"plans": read},
        }
        if self._texts is not None:
            pieces, stated = texts_part.perplexity(subjects, self._read, self._texts, None, None, _quiet)
            found["figures"] |= _figures(texts_part.MEASURES[:1], pieces, self._seed)
            found["data"]["texts"] = stated
        return found


_COUNTS = ("plans", "compared", "same", "differ")


def _figures(measures: Sequence[Measure], rows: Sequence[Sequence[JsonRow | None]], seed: int) -> JsonRow:
    measured = [Measured(name, {}, own) for name, own in zip((DENSE, "changed"), rows, strict=True)]
    found: JsonRow = compare(measures, measured, seed)[1]["figures"]
    return found


def _quiet(text: str) -> None:
    pass


def played(
    point: Point,
    *,
    name: str,
    suite: str,
    episodes: int,
    batch: int,
    model: dict[str, Any],
    evict_by: str | None,
    out: Path,
    fresh: bool,
) -> list[JsonRow]:
    """Rows of the first episodes of a suite with one point; those that lie in `out` are not played again.

    Args:
        name: of the run.
        batch: episodes side by side.
        model: `model`, `adapter`, `dtype`, `device` and `threads` of the run's configuration.
        fresh: forget what lies in `out`.

    Raises:
        KeyboardInterrupt: after SIGINT or SIGTERM; finished episodes have their rows.
        ConfigError, RunError, ModelError: as `erecap.rollout.run.run`.
    """
    from erecap.config.run import RunConfig
    from erecap.report.load import load_run_folder
    from erecap.rollout.run import run

    layers = None if point.candidate is None else str(point.candidate.folder.resolve())
    modes = [{"name": "front", **point.parts(evict_by, layers)}]
    stated = {"name": name, "suites": [suite], "modes": modes, "episodes": episodes, "batch": batch, "samples": 0}
    stated |= model
    result = run(RunConfig.model_validate(stated), out, fresh=fresh)
    if result.status == "interrupted":
        raise KeyboardInterrupt
    rows = load_run_folder(out).episodes
    return [{"episode": row.episode, "success": bool(row.success), "error": row.error} for row in rows]
