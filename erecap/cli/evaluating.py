"""Shared parts of the commands under `erecap evaluate`: their options, subjects, results."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from erecap.cli.numbers import finite
from erecap.cli.numbers import kv_tokens as tokens_of

if TYPE_CHECKING:
    from rich.console import Console

    from erecap.evaluation.comparison import Measure
    from erecap.evaluation.items import Items
    from erecap.evaluation.subjects import Change, Subject
    from erecap.generation import JsonRow

NO_PLAN = "none"
PROGRESS_SECONDS = 5.0
ChangedLayersOption = Annotated[
    list[str] | None,
    typer.Option("--layers", metavar="PLAN", help="Layer plan: a folder, a name, or none; may be repeated."),
]
ModesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--mode",
        metavar="MODE",
        help="erecap, recency, prune\\[attention], erecap+prune\\[attention], ...; may be repeated.",
    ),
]
PrunerOption = Annotated[
    str | None,
    typer.Option("--evict-by", "--pruner", help="Ranking of erecap: recency, random, attention, or a trained pruner."),
]
AllowUntestedOption = Annotated[
    bool, typer.Option("--allow-untested-pruner", help="Take one whose card shows no test that it passed.")
]
KvTokensOption = Annotated[
    list[str] | None,
    typer.Option(metavar="N", help="Budget of modes that evict: auto, a number, or all; may be repeated."),
]
KeepOption = Annotated[
    float | None, typer.Option(callback=finite, help="With prune[...]: share that a stage keeps; 0.7 if left out.")
]
StagesOption = Annotated[
    str | None, typer.Option(metavar="N,N", help="With prune[...]: layers before which tokens are dropped.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of random rankings and of intervals.")]
EvaluationOutOption = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where rows and results go.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Forget what was measured before.")]


def changes_of(
    layers: Sequence[str] | None,
    modes: Sequence[str] | None,
    pruner: str | None,
    allow_untested: bool,
    kv_tokens: Sequence[str] | None,
    keep: float | None,
    stages: str | None,
    seed: int,
) -> list[Change]:
    """Every mode with every layer plan, and with every budget where it has one.

    Raises:
        ConfigError: an option out of range, or one that no mode takes.
    """
    from erecap.budget import AUTO
    from erecap.cli.benching import numbers_in
    from erecap.config.modes import Evict
    from erecap.errors import ConfigError
    from erecap.evaluation.subjects import Change, mode_of
    from erecap.registries import LEARNED

    chosen = [mode_of(text, pruner) for text in modes or ["full"]]
    budgets: list[int | Literal["auto"] | None] = [tokens_of(text, least=16) for text in kv_tokens or []]
    unbudgeted: list[int | Literal["auto"] | None] = [AUTO]
    if budgets and not any(mode.budgeted for mode in chosen):
        raise ConfigError("--kv-tokens: no mode has a budget; allowed with --mode erecap, recency, random, attention")
    for name, value in (("--keep", keep), ("--stages", stages)):
        if value is not None and not any(mode.prune is not None for mode in chosen):
            raise ConfigError(f"{name}: no mode prunes at prefill; allowed with --mode prune[...]")
    if keep is not None and not 0 < keep <= 1:
        raise ConfigError(f"--keep: got {keep}; allowed: above 0, at most 1")
    learned = any(mode.prune == LEARNED for mode in chosen)
    takes = learned or any(isinstance(mode.kv, Evict) and mode.kv.by == pruner for mode in chosen)
    if pruner is not None and not takes:
        raise ConfigError(
            "--evict-by: no mode leaves a choice of a ranking; allowed with --mode erecap, prune[learned]"
        )
    if learned and pruner is None:
        raise ConfigError("--pruner: mode prune[learned] wants the trained pruner itself; give its name or folder")
    return [
        Change(
            mode,
            plan,
            budget,
            0.7 if keep is None else keep,
            None if stages is None else numbers_in(stages, "--stages", 1),
            pruner if mode.prune == LEARNED else None,
            allow_untested,
            seed,
        )
        for mode in chosen
        for plan in (None if name == NO_PLAN else name for name in layers or [NO_PLAN])
        for budget in ((budgets or unbudgeted) if mode.budgeted else unbudgeted)
    ]


@dataclass
class Judge:
    """Subjects, items and results of one command."""

    kind: str
    subjects: list[Subject]
    items: Items
    out: Path
    about: dict[str, Any]
    console: Console
    _told: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Tell something on stderr."""
        self.console.print(f"{self.kind}: {text}")

    def progress(self, text: str) -> None:
        """Tell about progress on stderr, now and then."""
        if time.monotonic() - self._told >= PROGRESS_SECONDS:
            self._told = time.monotonic()
            self.say(text)

    def end(
        self,
        measures: Sequence[Measure],
        rows: Sequence[Sequence[JsonRow | None]],
        data: JsonRow,
        settings: JsonRow,
        counts: Sequence[JsonRow] | None = None,
    ) -> None:
        """Write the results, and print their table.

        Args:
            rows: for each subject its items.
            data: what was read.
            counts: further facts of each subject.
        """
        from rich.console import Console

        from erecap.evaluation.comparison import Measured, compare
        from erecap.evaluation.shown import notes, table, write_results

        measured = [
            Measured(subject.name, {"change": subject.facts}, own)
            for subject, own in zip(self.subjects, rows, strict=True)
        ]
        found = compare(measures, measured, settings.get("seed", 0))
        for row, more in zip(found, counts or [], strict=False):
            row |= more
        content = {**self.about, "settings": settings, "data": data, "subjects": found}
        paths = write_results(self.out, self.kind, content, measures)
        wide = None if sys.stdout.isatty() else 160
        Console(markup=False, emoji=False, width=wide, highlight=False).print(table(found, measures))
        for line in notes(found):
            typer.echo(line, err=True)
        typer.echo(f"results: {', '.join(path.name for path in paths)} in {self.out}")


@contextmanager
def judging(
    kind: str,
    keys: Sequence[str],
    model: str,
    adapter: str | None,
    changes: Sequence[Change],
    dtype: str,
    device: str,
    threads: int | None,
    out: Path,
    fresh: bool,
) -> Iterator[Judge]:
    """Open the model, and hold the folder `out` while it is judged.

    Raises:
        ModelError, ConfigError: model, adapter, plan or pruner cannot be loaded, or not be served together.
        RunError: the folder is in use, or its rows are damaged.
    """
    from datetime import UTC, datetime

    import torch
    from rich.console import Console

    from erecap.evaluation.items import Items
    from erecap.evaluation.subjects import build_subjects
    from erecap.files import portable
    from erecap.language_models.build import ModelSettings, open_model
    from erecap.rollout.run_folder.lock import owned
    from erecap.rollout.run_folder.machine import git_revision, machine, versions

    with owned(out):
        items = Items(out / f"{kind}.jsonl", kind, keys, fresh=fresh)
        opened = open_model(ModelSettings(model, adapter, dtype, device, threads))
        subjects = build_subjects(opened, changes)
        about = {
            "command": shlex.join(["erecap", *portable(sys.argv[1:])]),
            "date": datetime.now(UTC).date().isoformat(),
            "model": opened.facts,
            "machine": machine(torch.get_num_threads()),
            "versions": {**versions(), **_more_versions()},
            "revision": git_revision(),
        }
        # Bound to the stream of now: parts of the work keep other people's progress bars from it.
        console = Console(markup=False, emoji=False, file=sys.stderr, highlight=False)
        yield Judge(kind, subjects, items, out, about, console)


def _more_versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("tokenizers", "lm_eval"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
