"""The tiny models of the tests as llama.cpp opens them, where it is installed."""

from __future__ import annotations

import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.engines.small_gguf import sizes_of, weights_of, write_gguf

if TYPE_CHECKING:
    from erecap.engines.llamacpp.model import LlamaCppModel

NEEDS_LLAMACPP = pytest.mark.skipif(
    find_spec("llama_cpp") is None, reason="needs llama-cpp-python; `make test-engines` builds it and runs this"
)
_FOLDER = tempfile.TemporaryDirectory(prefix="erecap-gguf-")


@cache
def gguf_of_small_llama(window: int = 4096) -> Path:
    """The llama model of `tests.session.chats` as a GGUF file."""
    from tests.context.small_tokenizers import byte_level
    from tests.session.chats import model

    made, path = model(window=window), Path(_FOLDER.name) / f"small-llama-{window}.gguf"
    return write_gguf(path, weights_of(made), tokenizer=byte_level(), **sizes_of(made))


@cache
def small_llama(window: int = 4096, **options: Any) -> LlamaCppModel:
    """That file opened, with keys and values in float32 and one thread."""
    from erecap.engines.llamacpp.model import LlamaCppModel, LlamaCppOptions

    options = {"threads": 1, "kv": "float32", "flash": False, **options}
    return LlamaCppModel.open(gguf_of_small_llama(window), LlamaCppOptions(**options))
