"""The small text world of tests/rollout, for commands that play."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "rollout"))


@pytest.fixture(scope="module", autouse=True)
def tiny_environment():
    """The environment `tiny` is registered while a module of these tests runs, and for no other test."""
    from tinyworld import ENTRY

    from erecap.envs import ENVIRONMENTS

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENTS, "tiny", ENTRY)
        yield


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and its tokenizer."""
    from tests.context.small_tokenizers import byte_level
    from tests.session.chats import model

    folder = tmp_path_factory.mktemp("tiny")
    model("llama", 1024).save_pretrained(folder)
    byte_level().save_pretrained(folder)
    return folder
