"""One call of `erecap tune layers` in a folder that no other process uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erecap.evaluation.layer_front.output import propose, write_front
from erecap.evaluation.layer_front.settings import FrontSettings
from erecap.evaluation.layer_front.tune import Front
from erecap.evaluation.texts import Text
from erecap.generation import JsonRow
from erecap.language_models.opened import OpenedModel
from erecap.layers.search import SearchFolder
from erecap.rollout.run_folder.lock import owned
from erecap.tuning.samples import Transcript


@dataclass(frozen=True)
class FrontRun:
    """A front that was drawn."""

    result: JsonRow
    profile: JsonRow | None  # of the knee; None: no point agrees enough
    searches: dict[str, SearchFolder]
    paths: list[Path]


def draw_front(
    settings: FrontSettings,
    opened: OpenedModel,
    stated: dict[str, Any],
    out: Path,
    about: JsonRow,
    transcripts: Iterable[Transcript],
    *,
    texts: Sequence[Text] = (),
    fresh: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> FrontRun:
    """Draw a front, write its results into `out`, and its knee as a profile.

    Args:
        stated: model, adapter, dtype, device and threads, as a run's configuration names them.
        about: `command`, `date`, `machine`, `versions`, `model`.
        transcripts, texts, fresh: as for `Front`.

    Raises:
        ConfigError, ModelError, RunError: as `Front`; or another process uses the folder.
    """
    about = about_opened(about, opened)
    with owned(out):
        front = Front(settings, opened, out, transcripts, texts=texts, model=stated, fresh=fresh, say=say)
        result = front.draw()
        profile = None
        if result["knee"] is not None:
            row = next(one for one in result["points"] if one["name"] == result["knee"])
            profile = propose(out, front.point(result["knee"]), row, stated, settings.evict_by)
        paths = write_front(out, result, about, profile)
    return FrontRun(result, profile, front.searches, paths)


def about_opened(about: JsonRow, opened: OpenedModel) -> JsonRow:
    """`about` with the number format and the adapter of the model as it was opened, whatever the options left open."""
    adapter = opened.facts["adapter"]
    model = {**about["model"], "dtype": opened.facts["dtype"], "adapter": adapter and adapter["name"]}
    return {**about, "model": model}
