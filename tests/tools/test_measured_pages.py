"""The tables of the pages of profiles and of the ablation, before and after there are results."""

from __future__ import annotations

from pathlib import Path

import pytest

from erecap.files import write_json
from tools.readme import profile_table as module
from tools.readme.write import PAGES, filled

DOCS = Path(__file__).parents[2] / "docs"
CELLS = {"length": 1024, "mode": "full", "preset": None, "n": 1, "tokens": 1000, "peak_bytes": {"cpu": 2**21}}


@pytest.mark.parametrize(("page", "name"), [("profiles", "profile"), ("ablation", "ablation")])
def test_the_page_holds_what_its_results_say(page: str, name: str) -> None:
    text = (DOCS / f"{page}.md").read_text()
    assert f"<!-- results:{name} -->\n" in text and filled(text, DOCS / "results") == text
    assert name in PAGES


def test_a_profile_shows_its_figure_its_tables_and_the_plots_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PLOTS", tmp_path)
    part = {
        "part": "memory", "date": "2026-01-31", "machine": {"threads": 2}, "settings": {"of": "prefill"},
        "model": {"name": "tiny", "dtype": "float32", "window": 8192},
        "summary": {"cells": [CELLS], "skipped": []},
    }  # fmt: skip
    row = {"id": "P1", "target": "<= 1.3", "measured": 1.4, "holds": False, "note": "a note"}
    write_json(tmp_path / "profile.json", {"rows": [row], "parts": {"memory-tiny-8192": part}})
    (tmp_path / "profile-memory-tiny-8192.svg").write_text("<svg/>")
    text = filled("<!-- results:profile -->\n<!-- /results:profile -->", tmp_path)
    assert "**P1**, target <= 1.3: 1.4 **short** (a note)." in text
    assert "| 1,024 | `full` | – | cpu 2 | – |" in text
    assert text.count("![") == 1 and "(results/profile-memory-tiny-8192.svg)" in text
