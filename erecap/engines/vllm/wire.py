"""The `kv_transfer_params` of a request, written by a frontend and read by the connector. Without torch and vLLM.

A request's prompt is the ids of kept rows, then new ids. `from` names the entry of the store that holds the rows,
`keep` the rows `[start, end)`, and `at` the positions `[first, count]` that their keys are turned to; without `at` they
follow each other from 0, as vLLM numbers the prompt. An entry never changes: a request makes a new one, whose name is
told when it has ended. So a request can be repeated, and two requests can go on from one entry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

FIELD = "erecap"  # of `kv_transfer_params`
VERSION = 1  # of what stands there
MOST = 1 << 30  # tokens, rows and positions are below this
Runs = tuple[tuple[int, int], ...]


class WireError(ValueError):
    """Parameters that are not those of a request to the connector; the text says what is wrong."""


@dataclass(frozen=True)
class Asked:
    """The parameters of one request.

    Attributes:
        source: name of the entry that holds the kept rows; None: nothing is kept.
        keep: rows `(start, end)` of it, rising.
        at: positions `(first, count)` of the kept rows, in their order; None: 0, 1, 2 and so on.
        store: make an entry of what the request has read when it ends.
        drop: entries that are not needed any more when it has ended.
    """

    source: str | None = None
    keep: Runs = ()
    at: Runs | None = None
    store: bool = True
    drop: tuple[str, ...] = ()

    @classmethod
    def of(cls, params: Any) -> Asked | None:
        """The parameters in a request's `kv_transfer_params`; None: it has none for this connector.

        Raises:
            WireError: they are of another version, or not as they should be.
        """
        if not isinstance(params, Mapping) or FIELD not in params:
            return None
        found = params[FIELD]
        if not isinstance(found, Mapping) or found.get("version") != VERSION:
            raise WireError(f"{FIELD}: allowed are parameters of version {VERSION}")
        unknown = sorted(set(map(str, found)) - {"version", "from", "keep", "at", "store", "drop"})
        if unknown:
            raise WireError(f"{FIELD}: {unknown[0]} is not a parameter")
        source, store, drop = found.get("from"), found.get("store", True), found.get("drop", [])
        if not (source is None or isinstance(source, str)) or not isinstance(store, bool):
            raise WireError(f"{FIELD}: from must be a text, store true or false")
        if not isinstance(drop, list) or not all(isinstance(name, str) for name in drop):
            raise WireError(f"{FIELD}: drop must be a list of texts")
        keep, at = _pairs(found.get("keep", []), "keep"), found.get("at")
        asked = cls(source, keep, None if at is None else _pairs(at, "at"), store, tuple(drop))
        asked._check()
        return asked

    def _check(self) -> None:
        end = 0
        for start, stop in self.keep:
            if not end <= start < stop <= MOST:
                raise WireError(f"{FIELD}: keep must be rising rows [start, end), got {[start, stop]}")
            end = stop
        if (self.source is None) != (not self.keep):
            raise WireError(f"{FIELD}: from and keep need each other")
        if self.at is not None and any(not -MOST < first < MOST or not 0 < count < MOST for first, count in self.at):
            raise WireError(f"{FIELD}: at must be positions [first, count]")
        if self.at is not None and sum(count for _, count in self.at) != self.kept:
            raise WireError(f"{FIELD}: at must have a position for each of the {self.kept} kept rows")

    @property
    def kept(self) -> int:
        """Rows that are kept."""
        return sum(end - start for start, end in self.keep)

    def rows(self) -> np.ndarray:
        """The kept rows `(kept,)`, rising."""
        return numbers((start, end - start) for start, end in self.keep)

    def places(self) -> np.ndarray:
        """The position `(kept,)` of each kept row."""
        return np.arange(self.kept) if self.at is None else numbers(self.at)

    def salt(self) -> str:
        """The beginning of the `cache_salt` of a request; anything may follow.

        vLLM finds blocks by their ids and this salt. Keys and values of kept rows depend on what was read before them,
        so no request with other rows may find them. A request that goes on where the one that made the entry ended,
        without other edits, may have that one's salt, and then finds its blocks.
        """
        text = json.dumps([VERSION, self.source, runs_of(self.rows()), runs_of(self.places())])
        return hashlib.sha256(text.encode()).hexdigest()

    def dropping(self, names: Sequence[str]) -> Asked:
        """The same, with more entries that are not needed any more."""
        return replace(self, drop=(*self.drop, *names))

    def params(self) -> dict[str, Any]:
        """The request's `kv_transfer_params`."""
        made: dict[str, Any] = {"version": VERSION, "store": self.store}
        if self.source is not None:
            made |= {"from": self.source, "keep": [list(run) for run in self.keep]}
        if self.at is not None:
            made["at"] = [list(run) for run in self.at]
        if self.drop:
            made["drop"] = list(self.drop)
        return {FIELD: made}


@dataclass(frozen=True)
class Told:
    """The connector's word about a request that has ended.

    Attributes:
        entry: name of the entry that was made; None: none was.
        rows: tokens that it holds.
        given: kept tokens that the request had; where these are fewer than it asked for, its answer must not be used.
        refused: reason why they were not given, or no entry was made.
    """

    entry: str | None = None
    rows: int = 0
    given: int = 0
    refused: str | None = None

    @classmethod
    def of(cls, params: Any) -> Told | None:
        """The word in the `kv_transfer_params` of an answer; None: another connector wrote them, or none."""
        found = params.get(FIELD) if isinstance(params, Mapping) else None
        if not isinstance(found, Mapping):
            return None
        return cls(found.get("entry"), found.get("rows", 0), found.get("given", 0), found.get("refused"))

    def params(self) -> dict[str, Any]:
        """The answer's `kv_transfer_params`."""
        return {FIELD: vars(self).copy()}


def numbers(runs: Any) -> np.ndarray:
    """All numbers of runs `(first, count)`."""
    parts = [np.arange(first, first + count, dtype=np.int64) for first, count in runs]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def runs_of(values: np.ndarray | Sequence[int]) -> Runs:
    """The shortest runs `(first, count)` of numbers that follow each other."""
    values = np.asarray(values, np.int64)
    if not len(values):
        return ()
    cuts = np.flatnonzero(np.diff(values) != 1) + 1
    firsts, ends = np.concatenate([[0], cuts]), np.concatenate([cuts, [len(values)]])
    return tuple((int(values[first]), int(end - first)) for first, end in zip(firsts, ends, strict=True))


def _pairs(value: Any, name: str) -> Runs:
    pairs = isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
    if not pairs or not all(type(number) is int for pair in value for number in pair):
        raise WireError(f"{FIELD}: {name} must be a list of pairs of whole numbers")
    return tuple((pair[0], pair[1]) for pair in value)
