"""Reports of runs: `summary.json`, tables for the terminal, and one self-contained page.

Light to import; plotting and templates load when a report is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from erecap.report.load import Run


@dataclass(frozen=True)
class Report:
    """A run with its figures, loaded and summarised once for all that is made of them."""

    run: Run
    summary: dict[str, Any]

    @classmethod
    def of(cls, run_dir: Path) -> Report:
        """The report of a run folder.

        It is made from the rows alone, so a run that is still going, or was cut short, can be reported too.

        Raises RunError if the folder is not a run or a row of it is damaged.
        """
        from erecap.report.load import load_run_folder
        from erecap.report.page.summary import summarise

        run = load_run_folder(run_dir)
        return cls(run, summarise(run))

    def write(self) -> Path:
        """Write `summary.json` and `report.html` into the run folder; returns the path of the page."""
        from erecap.files import write_atomic, write_json
        from erecap.report.page.html import render_page

        folder, page = self.run.folder, render_page(self.run, self.summary)
        write_json(folder / "summary.json", self.summary)
        write_atomic(folder / "report.html", page)
        return folder / "report.html"

    def table(self) -> RenderableType:
        """The comparison for the terminal."""
        from erecap.report.page.headline import headline
        from erecap.report.page.terminal import make_table

        return make_table(self.summary, headline(self.run, self.summary))

    def ending(self) -> RenderableType | None:
        """The end of the terminal's report: what re-read calls showed, with a chart; None where none were made."""
        from erecap.report.page.terminal import make_ending

        return make_ending(self.run)


def build(run_dir: Path) -> Path:
    """Write the report of a run folder, see `Report`; returns the path of the page."""
    return Report.of(run_dir).write()


__all__ = ["Report", "build"]
