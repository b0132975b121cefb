"""Packages behind engines: one line says whether they are missing, or there and damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from erecap.engines.packages import package
from erecap.errors import ConfigError

TEXTS = {
    "erecap_lacks": "import erecap_nothing_of_this_name",
    "erecap_linked": "raise OSError('libmissing.so: cannot open\\nshared object file')",
    "erecap_whole": "value = 3",
}
FOUND = {
    "erecap_none.api": "erecap_none is not installed",
    "erecap_lacks.api": "erecap_lacks cannot be loaded: No module named 'erecap_nothing_of_this_name'",
    "erecap_linked.api": "erecap_linked cannot be loaded: libmissing.so: cannot open shared object file",
    "erecap_whole.other": "erecap_whole cannot be loaded: No module named 'erecap_whole.other'",
}


@pytest.fixture(autouse=True)
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of each kind that can be imported."""
    for name, text in TEXTS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "api.py").write_text(text + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("module", FOUND)
def test_what_is_wrong_with_a_package_is_one_line(module: str) -> None:
    with pytest.raises(ConfigError) as caught:
        package("some", module, "pip install it")
    assert str(caught.value) == f"engine some: {FOUND[module]}; pip install it"


def test_a_package_that_is_there_is_imported() -> None:
    assert package("some", "erecap_whole.api", "pip install it").value == 3
