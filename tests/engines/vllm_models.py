"""A tiny model as vLLM opens it, where it is installed, and the same one of transformers."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from erecap.engines.vllm.model import VllmModel

NEEDS_VLLM = pytest.mark.skipif(
    find_spec("vllm") is None, reason="needs vllm; `make test-engines` installs it and runs this"
)
_FOLDER = tempfile.TemporaryDirectory(prefix="erecap-vllm-")


@cache
def plain_llama() -> Any:
    """A tiny llama whose heads are of a size that vLLM's kernels take."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.context.small_tokenizers import byte_level

    tokenizer = byte_level()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(31)
    made = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0)
    return made


@cache
def small_vllm() -> VllmModel:
    """That model in vLLM, in float32; vLLM has one in a process. Its paged cache is small, so it soon was all used."""
    from erecap.engines.vllm.model import VllmModel, VllmOptions
    from tests.context.small_tokenizers import byte_level

    folder = Path(_FOLDER.name)
    plain_llama().save_pretrained(folder)
    byte_level().save_pretrained(folder)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return VllmModel.open(folder, VllmOptions(dtype="float32", store_mb=64, block=32, blocks=384))
