"""What a run says: `summary.json`, tables for the terminal, and one self-contained page.

Light to import; plotting and templates load when a report is built.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType


def build(run_dir: Path) -> Path:
    """Write `summary.json` and `report.html` into the run folder; returns the path of the page.

    Both are written from the rows alone, so a run that is still going, or was cut short, can be reported too.

    Raises RunError if the folder is not a run or a row of it is damaged.
    """
    from erecap.files import write_atomic, write_json
    from erecap.report.load import load_run_folder
    from erecap.report.page.html import render_page
    from erecap.report.page.summary import summarise

    run = load_run_folder(run_dir)
    summary = summarise(run)
    page = render_page(run, summary)
    write_json(run_dir / "summary.json", summary)
    write_atomic(run_dir / "report.html", page)
    return run_dir / "report.html"


def table(run_dir: Path) -> RenderableType:
    """The comparison for the terminal, computed from the rows of the run.

    Raises RunError if the folder is not a run or a row of it is damaged.
    """
    from erecap.report.load import load_run_folder
    from erecap.report.page.headline import headline
    from erecap.report.page.summary import summarise
    from erecap.report.page.terminal import make_table

    run = load_run_folder(run_dir)
    summary = summarise(run)
    return make_table(summary, headline(run, summary))


__all__ = ["build", "table"]
