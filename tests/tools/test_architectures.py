"""The table of architectures says what a trial of some of them says now."""

from __future__ import annotations

import pytest
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tools.architectures.small import architectures
from tools.architectures.table import PAGE, read_rows, render
from tools.architectures.tried import RESULTS, UNBUILT, tried

SOME = (
    "llama", "gemma3", "gpt_neox", "phi", "glm4", "cohere2", "smollm3", "deepseek_v3", "nanochat", "opt", "gpt_oss",
    "falcon_h1", "lfm2", "gemma3n_text", "bloom", "mamba",
)  # fmt: skip


pytestmark = pytest.mark.skipif(
    f"transformers {transformers.__version__} " not in PAGE.read_text(), reason="the page is of another transformers"
)


@pytest.mark.integration
@pytest.mark.parametrize("kind", SOME)
def test_a_trial_gives_the_row_of_the_page(kind: str) -> None:
    [row] = [row for row in read_rows(PAGE) if row.kind == kind]
    assert tried(kind) == row


def test_the_page_has_every_architecture_and_no_fault() -> None:
    rows = read_rows(PAGE)
    assert [row.kind for row in rows] == architectures() == sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert {row.result for row in rows} <= set(RESULTS)
    assert all(row.sentence for row in rows if row.result not in RESULTS[:1])
    assert sum(row.result == UNBUILT for row in rows) < 20
    assert PAGE.read_text() == render(rows)
