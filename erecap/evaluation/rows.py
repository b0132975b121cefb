"""The committed rows of played episodes, and of plans compared token by token, as they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from erecap.errors import RunError
from erecap.report.rows import Share


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, protected_namespaces=(), frozen=True)


class QualityRow(_Row):
    """One line of `quality-episodes.jsonl`: an episode in one mode."""

    suite: str
    mode: str
    budget: PositiveInt | Literal["auto"] | None
    episode: NonNegativeInt
    success: bool
    spl: Share
    progress: Share
    steps: NonNegativeInt
    replans: NonNegativeInt
    kept_share: Share | None = None  # of the chat's tokens stored, mean over the calls
    tokens: NonNegativeInt = 0  # of the longest chat
    dropped: NonNegativeInt = 0
    dropping: Share | None = None  # of the calls that dropped something; None where it was not counted
    overflow: NonNegativeInt = 0
    end: Literal["success", "horizon", "deadline", "error"]
    same_as: str | None = None  # mode in which it was played, where it went the same way in that
    model: str | None = None
    adapter: str | None = None
    pruner: str | None = None


class AgreementRow(_Row):
    """One line of `quality-agreement.jsonl`: the plans of an episode, teacher-forced."""

    suite: str
    budget: PositiveInt
    episode: NonNegativeInt
    plans: PositiveInt
    plan_tokens: PositiveInt
    agreed: NonNegativeInt  # plan tokens with the same most probable token as the unpruned model
    model: str | None = None
    adapter: str | None = None
    pruner: str | None = None


Row = TypeVar("Row", QualityRow, AgreementRow)


def read_quality(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a file; none where there is no file.

    Raises:
        RunError: a damaged row, with its line.
    """
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else [], start=1):
        try:
            rows.append(kind.model_validate_json(line))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the row"
            raise RunError(f"{path}:{number}: {where}: {first['msg']}") from error
    return rows


def require_one_planner(rows: list[QualityRow], agreement: list[AgreementRow]) -> None:
    """Refuse to compare modes that were played with different weights.

    Raises:
        RunError: two models or adapters among the rows of modes that have one.
    """
    every: list[QualityRow | AgreementRow] = [*rows, *agreement]
    found = {(row.model, row.adapter): row for row in every if row.model is not None}
    if len(found) > 1:
        (first, other), *_ = [list(found)[:2]]
        raise RunError(
            f"rows of two planners cannot be compared: model {first[0]} with adapter {first[1]}, and model {other[0]} "
            f"with adapter {other[1]} ({found[other].suite}); play all modes with one"
        )
