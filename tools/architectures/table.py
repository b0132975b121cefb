"""The page of architectures: its text, and its rows read back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import transformers

from erecap.tokens.servable import INSTEAD
from tools.architectures.tried import EXACT, REFUSED, UNBUILT, UNPRUNED, Trial

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architectures.md"
_MEANINGS = {
    EXACT: "Sessions give the bare model's answers. `keep=1.0` is the bare model, and `keep=0.5` is the model under "
    "the masks of what was kept.",
    UNPRUNED: "Sessions give the bare model's answers. Tokens cannot be dropped inside the model; that is refused when "
    "it is wrapped.",
    REFUSED: "`ReplanSession`, and `wrap` with a budget or `keep`, refuse the model with the sentence in the last "
    "column. `erecap.wrap(model)` passes every call on and says so once.",
    UNBUILT: "The class could not be built with a few narrow layers, or does not read plain text by itself. So nothing "
    "is known; a model of it is tried when it is wrapped.",
}
_HEAD = "| `model_type` | class | result | budget | what does not work |"
_PAGE = """# Architectures

Every causal architecture of transformers {version} was built small, with random weights, and tried: sessions
(`erecap.wrap(model)`, `ReplanSession`) and pruning at prefill (`keep=1.0`, `keep=0.5`), on prompts longer than its
sliding windows. `python -m tools.architectures.write` generates the page.

| result | architectures | meaning |
|---|---|---|
{meanings}
**budget**: `yes` where old tokens can be evicted and the rest moved to consecutive positions, so that a conversation
outlives the window. Elsewhere a budget is refused when the session is made.

The code has no list of names. A model that is wrapped reads a few tokens bare and through the hooks, once; logits and
stored tokens have to agree. A class that is not in the table is served or refused by the same test. What a refusal
proposes instead: {instead} ([remote planners](remote-planners.md)).

{head}
|---|---|---|---|---|
{rows}"""


def render(rows: Sequence[Trial]) -> str:
    """The whole page."""
    counts = Counter(row.result for row in rows)
    return _PAGE.format(
        version=transformers.__version__,
        meanings="".join(f"| {result} | {counts[result]} | {text} |\n" for result, text in _MEANINGS.items()),
        instead=INSTEAD,
        head=_HEAD,
        rows="".join(_row(row) for row in rows),
    )


def read_rows(page: Path) -> list[Trial]:
    """The rows of a written page; none where there is no page yet."""
    if not page.is_file():
        return []
    lines = page.read_text(encoding="utf-8").split(_HEAD)[1].splitlines()[2:]
    return [Trial(*(cell.strip() for cell in line.strip("|").split("|"))) for line in lines if line.startswith("|")]


def _row(row: Trial) -> str:
    sentence = row.sentence.replace("|", "/").replace("\n", " ")
    return f"| {row.kind} | {row.name} | {row.result} | {row.budget} | {sentence} |\n"
