"""The file of committed episode rows, from which a run goes on in a fresh clone.

A row says which configuration, model, adapter and pruner it was played with, as hashes; rows of others are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from erecap.budget import budget_order
from erecap.config.run import RunConfig
from erecap.config.suite import Suite
from erecap.errors import RunError
from erecap.evaluation.shared_episodes import UNPRUNED, unpressed_rows
from erecap.files import write_atomic
from erecap.generation import JsonRow
from erecap.rollout.jobs import EpisodeKey, all_jobs, row_key
from erecap.rollout.run_folder.identity import IDENTITY, budget_of, digest_of, identity_of, weights_of
from erecap.rollout.run_folder.lock import owned, writing
from erecap.rollout.run_folder.resume import erase, repair
from erecap.rollout.run_folder.writer import EPISODES, REPLANS, encode_row
from erecap.untrusted import parse_json

# Taken over from a row of `episodes.jsonl` as they are.
SAME = ("seed", "success", "progress", "spl", "steps", "path_length", "path_unit", "replans", "invalid_plans", "end")
OF_CALLS = "of_calls"  # key of an imported row for what was measured over its calls
ALSO = ("tokens", "overflow", "error", "seconds")
RowKey = tuple[str, str, int | str | None, int]  # suite, mode, budget, episode


class CommittedRows:
    """The rows file of a configuration's modes and suites, beside rows of others that stay as they are.

    Several processes may add rows to one file: each write keeps what others have written since it was read.

    Args:
        path: the file; it need not exist.
        config: the configuration to be played.
        suites: its suites by name.

    Raises:
        RunError: a damaged row, one that is there twice, or one of this configuration's episodes that was played with
            something else; the message names the line.
        ModelError, ConfigError: model, adapter or pruner are not to be found.
    """

    def __init__(self, path: Path, config: RunConfig, suites: Mapping[str, Suite], *, fresh: bool = False) -> None:
        self.path = path
        self._config, self._suites = config, suites
        weights = weights_of(config)
        self.identities = {
            (suite.name, mode): identity_of(config, suite, config.mode(mode), weights)
            for suite in suites.values()
            for mode in {*config.modes, *([UNPRUNED] if weights else [])}
        }
        self._own = {(suite, mode, budget_of(config, mode)) for suite in suites for mode in config.modes}
        self._dropping = fresh  # until the first write
        self._rows: dict[RowKey, JsonRow] = {}
        self._take_in()

    def _take_in(self) -> None:
        """Rows as the file has them now, and of this configuration's episodes those that it does not have yet."""
        rows = {key: row for key, row in self._rows.items() if key[:3] in self._own}
        for number, row in enumerate(read_rows(self.path), start=1):
            key = committed_key(row)
            if key[:3] not in self._own:
                rows[key] = row
            elif not self._dropping:
                self._check(number, row)
                rows.setdefault(key, row)
        self._rows = rows

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that name the configuration with its weights, for the name of a run folder."""
        shown = self._config.model_dump(mode="json", exclude={"executor", "workers", "batch"})
        played = [(key, identity) for key, identity in self.identities.items() if key[1] in self._config.modes]
        identities = [[*key, *identity.fields().values()] for key, identity in sorted(played)]
        return digest_of([shown, identities])[:8]

    def prepare(self, folder: Path, *, fresh: bool = False) -> None:
        """Prepare `folder` for playing: import all rows that there are, and lose none of a killed call.

        Args:
            folder: of the run.
            fresh: forget what an earlier call has left in it.
        """
        if fresh:
            with owned(folder):
                erase(folder)
        self.export_from(folder)
        for row in unpressed_rows(list(self._rows.values()), self._config, self.identities):
            if row["episode"] in self._suites[row["suite"]].numbers:
                self._rows.setdefault(committed_key(row), row)
        self._write()  # before the run folder has them, which does not know where they come from
        self.import_into(folder)

    def import_into(self, folder: Path) -> int:
        """Put the rows of this configuration's episodes that `folder` lacks into its `episodes.jsonl`.

        They lack the goal's text and the triggers, and have no rows of their calls.

        Returns:
            How many.
        """
        with owned(folder):
            done = {row_key(row) for row in repair(folder)}
            new = []
            for job in self._jobs():
                row = self._rows.get((job.suite, job.mode, budget_of(self._config, job.mode), job.episode))
                if row is not None and job.key not in done:
                    if row["seed"] != job.seed:
                        raise RunError(
                            f"{self.path}: episode {job.episode} of {job.suite} in mode {job.mode} has seed "
                            f"{row['seed']}, now it is {job.seed}; --fresh plays it anew"
                        )
                    new.append(self._run_row(row))
            if new:
                before = (folder / EPISODES).read_bytes() if (folder / EPISODES).exists() else b""
                write_atomic(folder / EPISODES, before + b"".join(map(encode_row, new)))
        return len(new)

    def export_from(self, folder: Path) -> int:
        """Add the episodes that were played in `folder` to the file, which is sorted and replaced as a whole.

        Returns:
            Rows that are new.
        """
        calls: dict[EpisodeKey, list[JsonRow]] = {}
        for row in _lines(folder / REPLANS):
            calls.setdefault(row_key(row), []).append(row)
        new = 0
        for row in _lines(folder / EPISODES):
            key = (row["suite"], row["mode"], budget_of(self._config, row["mode"]), row["episode"])
            if key not in self._rows and row["mode"] in self._config.modes:
                self._rows[key] = self._small_row(row, calls.get(row_key(row), []))
                new += 1
        self._write()
        return new

    def _write(self) -> None:
        with writing(self.path.parent):
            self._take_in()
            if not self._rows:
                return  # nothing was played yet, so there is no file to write
            ordered = sorted(self._rows.items(), key=lambda item: (*item[0][:2], *budget_order(item[0][2]), item[0][3]))
            write_atomic(self.path, b"".join(encode_row(row) for _, row in ordered))
            self._dropping = False

    def _jobs(self) -> Sequence[Any]:
        return all_jobs(self._suites, self._config.modes, 0)

    def _check(self, number: int, row: JsonRow) -> None:
        now = self.identities[row["suite"], row["mode"]].fields()
        for field in IDENTITY:
            if row[field] != now[field]:
                raise RunError(
                    f"{self.path}:{number}: {row['suite']} in mode {row['mode']} was played with {field} {row[field]}, "
                    f"now it is {now[field]}; --fresh plays these episodes anew, --rows FILE keeps both"
                )

    def _small_row(self, row: JsonRow, calls: Sequence[JsonRow]) -> JsonRow:
        read = [call for call in calls if call["prompt_tokens"]]
        measured = {
            "kept_share": round(fmean(c["kept_tokens"] / c["prompt_tokens"] for c in read), 4) if read else None,
            "tokens": max((call["prompt_tokens"] for call in read), default=0),
            "dropped": max((call.get("dropped_messages", 0) for call in calls), default=0),
            "dropping": round(fmean(map(_drops, read)), 4) if read else None,  # share of calls that dropped something
            "same_as": None,
        }
        return {
            "suite": row["suite"],
            "mode": row["mode"],
            "budget": budget_of(self._config, row["mode"]),
            "episode": row["episode"],
            **{key: row[key] for key in SAME},
            **(row.get(OF_CALLS) or measured),
            "overflow": row["overflow"],
            "error": row["error"],
            "seconds": round(row["wall_s"], 1),
            **self.identities[row["suite"], row["mode"]].fields(),
        }

    def _run_row(self, row: JsonRow) -> JsonRow:
        taken = {key: row[key] for key in ("suite", "mode", "episode", *SAME, "overflow", "error")}
        # Whoever finds the run folder without the rows file gets these back; the calls themselves are gone.
        taken[OF_CALLS] = {key: row.get(key) for key in ("kept_share", "tokens", "dropped", "same_as")}
        if "dropping" in row:
            taken[OF_CALLS]["dropping"] = row["dropping"]
        env = self._suites[row["suite"]].env
        return taken | {"env": env, "goal": "", "triggers": {}, "planner_ms": 0.0, "wall_s": row["seconds"]}


def _drops(call: Mapping[str, Any]) -> bool:
    # Rows of calls from before reasons were written tell it by their counts.
    counts = ("evicted_tokens", "overflow_messages", "truncated_tokens", "masked_observations", "dropped_messages")
    return bool(call["dropped_because"] if "dropped_because" in call else any(call.get(key) for key in counts))


def committed_key(row: Mapping[str, Any]) -> RowKey:
    """The key of the episode that a committed row is about."""
    return row["suite"], row["mode"], row["budget"], row["episode"]


def read_rows(path: Path) -> list[JsonRow]:
    """The rows of a committed file; none where there is no file.

    Raises:
        RunError: a damaged row, or one that is there twice, with its line.
    """
    rows, seen = [], set()
    for number, row in enumerate(_lines(path), start=1):
        missing = [key for key in ("suite", "mode", "budget", "episode", *SAME, *ALSO, *IDENTITY) if key not in row]
        if missing:
            raise RunError(f"{path}:{number}: the row lacks {', '.join(missing)}; restore the file from the repository")
        if committed_key(row) in seen:
            raise RunError(
                f"{path}:{number}: episode {row['episode']} of {row['suite']} in mode {row['mode']} is there twice"
            )
        seen.add(committed_key(row))
        rows.append(row)
    return rows


def _lines(path: Path) -> list[JsonRow]:
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else [], start=1):
        try:
            row = parse_json(line)
        except ValueError as error:
            raise RunError(f"{path}:{number}: the row is damaged ({error})") from error
        if not isinstance(row, dict):
            raise RunError(f"{path}:{number}: the row is damaged (no object)")
        rows.append(row)
    return rows
