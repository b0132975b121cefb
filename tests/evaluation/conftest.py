"""The small text world of tests/rollout, for comparisons that play, and a console that nobody sees."""

import hashlib
import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "rollout"))


@pytest.fixture(scope="module", autouse=True)
def tiny_environment():
    """The environment `tiny` is registered while a module of these tests runs, and for no other test."""
    from tinyworld import ENTRY

    from erecap.envs import ENVIRONMENTS

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENTS, "tiny", ENTRY)
        yield


@pytest.fixture
def quiet():
    """A console whose output nobody sees; `quiet.file.getvalue()` tells what it was."""
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def opened():
    """Opens a tiny model of 8 layers with a tokenizer, as `open_model` does."""
    from erecap.language_models.opened import OpenedModel
    from tests.context.small_tokenizers import byte_level
    from tests.session.chats import model

    def make(name="llama", window=1024):
        made = hashlib.sha256(f"{name} {window}".encode()).hexdigest()
        facts = {"name": name, "hash": f"sha256:{made}", "adapter": None, "dtype": "float32", "layers": 8}
        return OpenedModel(model(name, window), byte_level(), facts)

    return make


@pytest.fixture
def plan(tmp_path, opened):
    """Saves a layer plan for the tiny model; returns its folder."""
    from erecap.layers import LayerPlan, save_plan

    def make(name, opened_model=None, **parts):
        save_plan(tmp_path / name, LayerPlan(8, base=(opened_model or opened()).base, **parts))
        return str(tmp_path / name)

    return make
