"""The page on adding an engine runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

from erecap.engines import ENGINES
from erecap.engines.protocol import SessionEngine
from tests.context.small_tokenizers import byte_level


def test_the_examples_of_the_page_run(capsys) -> None:  # type: ignore[no-untyped-def]
    page = (Path(__file__).parents[2] / "docs" / "add-an-engine.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(blocks) == 3
    names: dict = {"tokenizer": byte_level()}
    try:
        for block in blocks:
            exec(block, names)
        session = names["session"]
        assert session.engine.name == "counting" and session.engine.prefilled == names["answer"].usage.new_tokens > 0
        assert capsys.readouterr().out == f"{session.engine.prefilled} tokens read\n"
        wanted = {name for name in vars(SessionEngine) if not name.startswith("_")}
        assert all(hasattr(session.engine, name) for name in wanted)
    finally:
        del ENGINES["counting"]
