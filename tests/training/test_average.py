"""Adapters that cannot be averaged are refused in one line; `test_verify.py` averages one."""

from __future__ import annotations

from pathlib import Path

import pytest

from erecap.errors import ConfigError, ModelError
from erecap.models.adapters import CARD, CONFIG, WEIGHTS, adapter_with
from erecap.models.wheels import sha256
from erecap.training.average import average_adapter


@pytest.mark.parametrize(
    ("card", "error", "said"),
    [
        ("{", ModelError, "card.json is not valid JSON: "),
        ("[]", ModelError, "card.json must hold a JSON object, not a list"),
        ('{"kind": "lora"}', ConfigError, "card.json: format: got None; allowed: 'erecap-planner-1'"),
    ],
)
def test_a_card_that_is_none_of_a_planner_is_one_line(
    card: str, error: type[Exception], said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "tuned"
    folder.mkdir()
    for name, text in ((CARD, card), (CONFIG, "{}"), (WEIGHTS, "")):
        (folder / name).write_text(text)
    with pytest.raises(error, match=said) as raised:
        average_adapter(str(folder), 0.5, tmp_path / "out", say=lambda line: None)
    assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()


def test_what_an_adapter_started_from_lies_beside_it_or_among_the_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("runs/start", "runs/tuned", "shelf/other"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / WEIGHTS).write_text(name)
    monkeypatch.setenv("ERECAP_CHECKPOINTS", str(tmp_path / "shelf"))
    digests = {name: f"sha256:{sha256(tmp_path / name / WEIGHTS)}" for name in ("runs/start", "shelf/other")}
    for name, digest in digests.items():
        assert adapter_with(digest, beside=tmp_path / "runs/tuned") == tmp_path / name
    assert adapter_with(digests["shelf/other"]) == tmp_path / "shelf/other"
    with pytest.raises(ModelError, match="no adapter with weights sha256:"):
        adapter_with(digests["runs/start"])
