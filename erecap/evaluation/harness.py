"""Tasks of lm-eval, run with every subject: the same documents and prompts, paired document by document."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import io
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from erecap.errors import ConfigError
from erecap.evaluation.comparison import Measure
from erecap.evaluation.items import Items
from erecap.evaluation.subjects import Subject, digest
from erecap.generation import JsonRow

KIND = "lm-eval"
KEYS = ("kept",)
_OF_TASKS = (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError)  # that task files lead to
# Ways in which lm-eval makes a metric of its documents, by the names of its functions, that are sums over documents.
AGGREGATIONS = ("mean", "perplexity", "weighted_perplexity", "bits_per_byte")
SEED = 1234  # of few-shot examples, as lm-eval has it


def require_lm_eval() -> None:
    """Raise ConfigError where the package is missing."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("evaluate lm-eval: the package lm-eval is missing; pip install 'erecap[evaluate]'")


class Tasks:
    """Tasks by name, with their documents.

    Args:
        names: of tasks, groups or tags.
        folder: with task files of one's own. Data files that a task names are looked up from there.

    Raises:
        ConfigError: the package is missing, no such folder or task, or a task whose data cannot be had.
    """

    def __init__(self, names: Sequence[str], folder: Path | None = None) -> None:
        require_lm_eval()
        if not names:
            raise ConfigError("--tasks: got no name; allowed: names of tasks of lm-eval, with commas")
        if folder is not None and not folder.is_dir():
            raise ConfigError(f"--include-path: {folder} is no folder")
        _quiet()
        from lm_eval.tasks import TaskManager

        own = None if folder is None else str(folder.resolve())
        self._manager = TaskManager(include_path=own, include_defaults=own is None)
        if own is not None and any(name not in self._manager.task_index for name in names):
            self._manager = TaskManager(include_path=own)  # reads thousands of files
        unknown = [name for name in names if name not in self._manager.task_index]
        if unknown:
            near = difflib.get_close_matches(unknown[0], self._manager.all_tasks, n=3)
            hint = f"; near to it: {', '.join(near)}" if near else ""
            raise ConfigError(f"--tasks: lm-eval has no task {unknown[0]!r}{hint}")
        self.names, self._folder = tuple(names), folder
        self.load()  # so that what is missing is said before anything is measured

    def run(self, subject: Subject, items: Items, *, limit: int | None, shots: int | None, chat: bool, cut: bool,
            say: Callable[[str], None]) -> tuple[JsonRow, JsonRow]:  # fmt: skip
        """Run all tasks with one subject.

        Args:
            limit: documents of a task; None: all.
            shots: examples in front of each document; None: as the task says.
            chat: put prompts into the chat template.
            cut: see `HarnessModel`.

        Returns:
            The results of lm-eval, with the names of its `aggregations`; and what `HarnessModel.counts` says.

        Raises:
            ConfigError: a request that does not fit the window, or a task that this model cannot do.
        """
        from lm_eval.evaluator import evaluate

        from erecap.evaluation.harness_model import HarnessModel

        model = HarnessModel(subject, items, cut=cut, say=say)
        tasks = self.load()
        for task in tasks.values():
            own = task.get_config("num_fewshot")
            if own is None or (shots is not None and own != 0):  # as lm-eval: a task that says 0 means it
                task.set_config(key="num_fewshot", value=shots or 0)
            task.set_fewshot_seed(seed=SEED)
        with _told_in_one_line("the tasks cannot be run", ValueError), _without_bars():
            found = evaluate(
                model, {"tasks": tasks}, limit=limit, bootstrap_iters=0, apply_chat_template=chat, log_samples=True
            )
        assert found is not None, "there is one process"
        made = {name: {key: _name(how) for key, how in task.aggregation().items()} for name, task in tasks.items()}
        return {**found, "aggregations": made}, model.counts()

    def load(self) -> dict[str, Any]:
        """Every task anew: a run leaves its answers in them."""
        here = contextlib.chdir(self._folder or Path.cwd())
        with here, _told_in_one_line(", ".join(self.names), *_OF_TASKS), _without_bars():
            tasks: dict[str, Any] = self._manager.load(list(self.names))["tasks"]
        return tasks


def measured(results: Sequence[JsonRow]) -> tuple[list[Measure], list[list[JsonRow | None]], list[str]]:
    """Measures of the tasks, and each subject's documents with a value for each.

    Args:
        results: of `Tasks.run`, for each subject.

    Returns:
        A measure for each metric that lm-eval makes of sums over documents (`AGGREGATIONS`); for each subject a row a
        document; and the metrics that are made in another way, of which there is no measure.

    Raises:
        ConfigError: there is no measure at all.
    """
    measures: dict[str, Measure] = {}
    left_out: dict[str, None] = {}
    columns: list[list[JsonRow | None]] = [[] for _ in results]
    for task, samples in results[0]["samples"].items():
        made, better = results[0]["aggregations"][task], results[0].get("higher_is_better", {}).get(task, {})
        for number, sample in enumerate(samples):
            filtered = "" if sample["filter"] == "none" else f" ({sample['filter']})"
            keys = {name: f"{task} {name}{filtered}" for name in sample["metrics"]}
            for name, key in keys.items():
                if made.get(name) in AGGREGATIONS and isinstance(sample[name], (bool, int, float, tuple, list)):
                    measures.setdefault(key, _measure(key, made[name], better.get(name) is not False))
                else:
                    left_out[key] = None
            for found, column in zip(results, columns, strict=True):
                values = found["samples"][task][number]
                row: JsonRow = {}
                for name, key in keys.items():
                    if key in measures:
                        row |= _values(key, made[name], values[name])
                column.append(row)
    if not measures:
        raise ConfigError(f"lm-eval: {', '.join(left_out)}: no metric is a sum over documents, so none can be compared")
    return list(measures.values()), columns, list(left_out)


def _measure(key: str, made: str, higher: bool) -> Measure:
    if made == "mean":
        return Measure(key, "", key, better="higher" if higher else "lower", digits=3)
    over = None if made == "perplexity" else f"{key}: weight"
    if made == "bits_per_byte":
        return Measure(key, "", key, over, scale=1 / math.log(2), digits=3)
    return Measure(key, "", key, over, exponential=True)


def _values(key: str, made: str, value: Any) -> JsonRow:
    """A document's share in a metric: of those of log-likelihoods the loss, and the weight if there is one."""
    if made == "mean":
        return {key: float(value)}
    if made == "perplexity":
        return {key: -float(value)}
    loglikelihood, weight = value
    return {key: -float(loglikelihood), f"{key}: weight": float(weight)}


def documents(results: JsonRow) -> JsonRow:
    """Documents of each task, and a digest of them."""
    samples = results["samples"]
    hashes = {task: [sample["doc_hash"] for sample in rows] for task, rows in samples.items()}
    return {
        "tasks": {task: len(set(found)) for task, found in hashes.items()},
        "versions": results.get("versions", {}),
        "digest": digest(hashes),
    }


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", function))


@contextlib.contextmanager
def _told_in_one_line(what: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of lm-eval and datasets into one line."""
    from datasets.exceptions import DatasetsError
    from yaml import YAMLError

    try:
        yield
    except (DatasetsError, YAMLError, *kinds) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"lm-eval: {what}: {type(error).__name__}: {line:.300}") from error


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Keep the progress bars of lm-eval and datasets off the terminal; progress is told by the command."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def _quiet() -> None:
    """Let only errors of the package be printed."""
    for name in ("lm_eval", "datasets", "evaluate"):
        logging.getLogger(name).setLevel(logging.ERROR)
