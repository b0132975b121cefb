"""The row X1: what of the bound of early exit is reached, with the answers of plain decoding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from erecap.bench.exits.bounds import PAYS
from erecap.bench.replan.ceilings import ratio
from erecap.bench.results import Figure, merge_rows, read_results, result_row
from erecap.generation import JsonRow

FREE = ("full", "small")  # heads that may name a token where no grammar holds, as these answers are decoded
VERDICT = "does not pay"


def exits_row(summary: JsonRow, timed: Sequence[JsonRow], about: JsonRow, row: str) -> JsonRow | None:
    """The row X1 of a part, with `bound`, `speed_up` and, where that is so, the verdict; None: nothing was decoded.

    The bound is that of verified exits with a predictor that is always right, head and looks counted. Each repetition
    is the sum over all answers. It does not pay where the bound is below `PAYS` or a repetition gained nothing.

    Args:
        row: `algorithm` for a planner as it is, `product` for an adapter that was trained for early exit.
    """
    bound = max(summary["heads"][name]["bounds"]["verified"] for name in FREE if name in summary["heads"])
    speed = _speed_up(timed)
    if speed is None:
        return None
    found = summary["exit"]
    mean = found["mean_layer"]
    note = (
        f"{speed.value:.2f}x ({speed.low:.2f} to {speed.high:.2f}) of at most {bound:.2f}x; "
        f"{100 * found['left_early']:.0f} % of the tokens left early"
        + (f", after {mean:.1f} of {summary['layers']} layers on average" if mean is not None else "")
        + f"; {100 * found['same_texts']:.0f} % of the answers are the plain ones"
    )
    figure = Figure(_share(speed.value, bound), _share(speed.low, bound), _share(speed.high, bound), speed.n)
    holds = None if speed.value > 1 and found["same_texts"] == 1 else False
    made = result_row("X1", figure, about, row=row, note=note, holds=holds)
    made |= {"bound": round(bound, 3), "speed_up": round(speed.value, 3)}
    return made | ({"verdict": VERDICT} if bound < PAYS or speed.low <= 1 else {})


def publish_exits(path: Path, part: JsonRow) -> JsonRow:
    """Merge a part into the results file `path`: its row, and its settings, summary and timed answers."""
    before = read_results(path).get("parts", {})
    (row,) = part["rows"]
    own = {key: part[key] for key in ("date", "command", "settings", "model", "summary")}
    own["raw"] = part["raw"]["timed"]  # those of the bounds, a row a token, stay in the part's own file
    return merge_rows(
        path,
        [row],
        file="exits",
        what="what `make exits` measured: the bounds of early exit, and decoding with it beside plain decoding",
        machine=part["machine"],
        versions=part["versions"],
        parts={**before, row["row"]: own},
    )


def _speed_up(timed: Sequence[JsonRow]) -> Figure | None:
    """Time of plain decoding over that with early exit, a sum over all answers in each repetition."""
    sums: dict[str, list[float]] = {}
    for way in ("plain", "exit"):
        own = [row for row in timed if row["way"] == way and row["tokens"] > 1]
        rounds = sorted({row["round"] for row in own})
        sums[way] = [sum(row["ms"] for row in own if row["round"] == number) for number in rounds]
    return ratio(sums["plain"], sums["exit"]) if sums["plain"] and sums["exit"] else None


def _share(speed: float, bound: float) -> float:
    """The share of what the bound allows to gain; 0 where it allows nothing."""
    return (speed - 1) / (bound - 1) if bound > 1 else 0.0
