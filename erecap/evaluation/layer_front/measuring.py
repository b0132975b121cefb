"""`make layers`: the front with figures L1 to L3, slices with L4, a controller with L5; each goes on where it ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from erecap.bench.layer_clock import LayerClock
from erecap.bench.layers import LayersBench, household_ids
from erecap.bench.plots import standalone
from erecap.bench.results import Figure, merge_rows, result_row, rounded
from erecap.bench.slices import SlicesBench, sliced_models, slices_bench, slices_rows, slices_summary
from erecap.evaluation.layer_front.output import front_plot
from erecap.evaluation.layer_front.rows import SPEED_UPS, SPRINT, removal_rows
from erecap.evaluation.layer_front.running import FrontRun, about_opened, draw_front
from erecap.evaluation.layer_front.settings import FrontSettings
from erecap.evaluation.subjects import digest
from erecap.evaluation.texts import Text
from erecap.files import write_atomic, write_json
from erecap.generation import JsonRow
from erecap.language_models.build import ModelSettings, OpenedModel
from erecap.layers.files import describe_plan
from erecap.tokens.scoring.pruner_files import describe_pruner
from erecap.training.controller.evaluation import BEST_FIXED
from erecap.training.controller.outputs import DONE
from erecap.training.controller.run import train_controller
from erecap.training.controller.settings import MeasureSettings, TrainSettings
from erecap.tuning.samples import Transcript
from erecap.untrusted import read_json

Say = Callable[[str], None]
PARTS = ("front", "slices", "controller")
FILE = "layers"  # results file, as targets name it
PLOT = "layer-front.svg"  # beside it
MEASURED = "measured.json"  # beside a controller's result: command, date and machine
SHOWN = (
    "name", "method", "steps", "kv_tokens", "draft", "speed_up", "clock", "predicted", "agreement", "figures", "front",
    "success",
)  # fmt: skip


@dataclass(frozen=True)
class LayersMeasure:
    """Settings of `erecap bench layers`."""

    front: FrontSettings = field(default_factory=FrontSettings)
    slices: SlicesBench = field(default_factory=SlicesBench)
    controller_prompts: int = 32
    controller_each: int = 2  # calls of one conversation
    controller_tokens: int = 1500  # of a prompt at most
    loads: tuple[str, ...] = ("idle", "busy")
    train: TrainSettings = field(default_factory=TrainSettings)


def smoke_settings(front: FrontSettings) -> LayersMeasure:
    """Few and short measurements of everything, with the first three methods of `front`."""
    small = replace(
        front,
        methods=front.methods[:3],
        speed_ups=(1.1, max(front.speed_ups)),
        count=min(front.count, 2),
        length=min(front.length, 32),
        slices=(),
        combined=1,
        episodes=min(front.episodes, 2),
        calls=2,
        timed_calls=1,
        rounds=1,
        clock=LayerClock(64, 8, 3),
    )
    slices = SlicesBench(multiple=4, tokens=64, decoded=2, repetitions=1)
    train = TrainSettings(steps=50, passes=2)
    return LayersMeasure(small, slices, controller_prompts=6, loads=("idle",), train=train)


class Measuring:
    """Parts of `make layers` in one folder.

    Args:
        stated: model, adapter, dtype, device and threads, as a run's configuration names them.
        about: `command`, `date`, `machine`, `versions`, `model`.
        out: folder of everything that is measured.
        results: results file that rows are merged into.
        smoke: rows say that they are no result.
    """

    def __init__(
        self,
        settings: LayersMeasure,
        opened: OpenedModel,
        stated: dict[str, Any],
        about: JsonRow,
        out: Path,
        results: Path,
        *,
        smoke: bool = False,
        say: Say = lambda text: None,
    ) -> None:
        self._settings, self._opened, self._stated = settings, opened, stated
        self._about = about_opened(about, opened)
        self._out, self._results, self._smoke, self._say = out, results, smoke, say

    def front(self, transcripts: Iterable[Transcript], *, texts: Sequence[Text] = (), fresh: bool = False) -> FrontRun:
        """Draw the front, and merge L1 to L3, the table and the plot. Raises as `draw_front`."""
        settings = self._settings.front
        run = draw_front(
            settings, self._opened, self._stated, self._out, self._about, transcripts, texts=texts, fresh=fresh,
            say=self._say,
        )  # fmt: skip
        rows, missing = removal_rows(run.result["points"], run.searches, self._about, settings.seed)
        for line in missing:
            self._say(f"not told: {line}")
        points = [{key: point[key] for key in SHOWN if key in point} for point in run.result["points"]]
        shown = {**run.result, "points": points, "episodes": len(run.result["points"][0]["episodes"])}
        shown |= {"date": self._about["date"], "machine": self._about["machine"], "model": self._about["model"]}
        shown["profile"] = run.profile and run.profile["name"]
        self._merge(rows, front=rounded(shown), missing=missing)
        write_atomic(self._results.with_name(PLOT), standalone(front_plot(run.result)))
        return run

    def slices(self, *, fresh: bool = False) -> JsonRow:
        """Time slices beside the whole model, and merge L4. What was timed before is kept."""
        bench = self._settings.slices
        path = self._out / f"slices-{self._digest([asdict(bench), self._about['machine']])}.json"
        if fresh or not path.exists():
            models = sliced_models(self._opened.model, bench)
            ids = household_ids(LayersBench(bench.tokens, seed=bench.seed), self._opened.tokenizer)
            found = slices_bench(bench, models, ids, self._say)
            write_json(path, {"part": "slices", "settings": asdict(bench), **self._about, **found})
        found = read_json(path)
        summary = slices_summary(found)
        about = {key: found[key] for key in ("command", "machine", "date")}
        self._merge(slices_rows(bench, summary, about), slices=rounded(summary))
        return found

    def controller(self, calls: Path, pruner: str | None, *, fresh: bool = False) -> JsonRow:
        """Train a controller on recorded calls, and merge L5, with its verdict. A finished training is kept.

        Args:
            calls: folder of `erecap collect`.
        """
        settings = self._settings
        actions = self._actions()
        weights = [describe_plan(action["layers"])["hash"] for action in actions.values() if "layers" in action]
        weights += [describe_pruner(pruner)["hash"]] if pruner is not None else []
        asked = [str(calls.resolve()), self._prompt_settings(), asdict(settings.train)]
        name = self._digest([actions, weights, asked, self._about["machine"]])
        folder = self._out / f"controller-{name}"
        write_atomic(folder / "actions.yaml", json.dumps(actions) + "\n")
        done = sorted(folder.glob(f"*/{DONE}"))
        if fresh or not done:
            measure = MeasureSettings((calls,), folder / "actions.yaml", **self._prompt_settings())
            model = ModelSettings(**{"name" if key == "model" else key: value for key, value in self._stated.items()})
            run = train_controller(
                measure, settings.train, folder, model=model, pruner=pruner, open_it=lambda _: self._opened,
                say=self._say,
            )  # fmt: skip
            done = [run.folder / DONE]
            write_json(run.folder / MEASURED, self._about)
        result, when = read_json(done[-1]), done[-1].with_name(MEASURED)
        about = read_json(when) if when.exists() else self._about
        shown = {"about": result["about"], "test": result["test"], "figures": result["figures"]}
        self._merge([controller_row(result, about)], controller=rounded(shown))
        return dict(result)

    def _prompt_settings(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "loads": settings.loads,
            "limit": settings.controller_prompts,
            "each": settings.controller_each,
            "max_tokens": settings.controller_tokens,
            "held_out": 0.4,
            "seed": settings.front.seed,
        }

    def _actions(self) -> dict[str, Any]:
        """Actions by name: no lever, each lever alone, and the plan of the front at the least of `SPEED_UPS`."""
        found: dict[str, Any] = {"dense": {}, "kv-512": {"kv_tokens": 512}, "no-draft": {"draft": False}}
        if self._opened.model.device.type == "cpu":
            found["int8"] = {"decode_weights": "int8"}
        path = self._out / "front.json"
        points = read_json(path)["points"] if path.exists() else []
        plans = sorted(
            (point["predicted"]["decode"], point["name"])
            for point in points
            if point["method"] == SPRINT and point["name"] == f"{SPRINT}-{point['steps']}"
        )
        name = next((name for predicted, name in plans if predicted >= SPEED_UPS[0]), None)
        if name is not None:
            found["thin"] = {"layers": str(self._out / "plans" / name)}
        return found

    def _merge(self, rows: Sequence[JsonRow], **more: Any) -> None:
        for row in rows:
            if self._smoke:
                row["note"] = "smoke; " + row["note"]
                row["holds"] = None
        merge_rows(self._results, rows, file=FILE, **more)

    def _digest(self, value: Any) -> str:
        facts = self._opened.facts
        model = [facts["hash"], facts["dtype"], self._opened.adapter_hash]
        return digest([json.loads(json.dumps(value, default=str)), model])[:8]


def controller_row(result: JsonRow, about: JsonRow) -> JsonRow:
    """L5: the low end of the controller's reward minus the best fixed action's; a verdict where it is not above 0.

    Args:
        result: `about` and `test` of a controller's training.
    """
    test = result["test"]
    own, bound = test["minus"][BEST_FIXED], test["bound"]
    figure = Figure(own["low"], own["low"], own["high"], test["prompts"])
    note = (
        f"mean {own['value']:+.3f} ({own['low']:+.3f} to {own['high']:+.3f}) over {test['best_fixed']}, "
        f"{test['prompts']} held-out prompts, {result['about']['method']}"
    )
    row = result_row("L5", figure, about, row="algorithm", note=note)
    if not row["holds"]:
        row |= {"verdict": "does not pay", "bound": bound}
        row["note"] += (
            f"; does not pay: an oracle gains {bound['value']:+.3f} ({bound['low']:+.3f} to {bound['high']:+.3f})"
        )
    return row
