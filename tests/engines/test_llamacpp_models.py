"""Kinds of GGUF models that no session can serve, and what is known of those that one can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter
from safetensors.numpy import load_file

from erecap.errors import ModelError
from erecap.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.engines.llamacpp_models import NEEDS_LLAMACPP, small_llama
from tests.engines.small_gguf import SIZES, random_weights, write_gguf

pytestmark = NEEDS_LLAMACPP


def sliding(path: Path) -> None:
    weights = random_weights(64)
    del weights["output.weight"]
    for layer in range(SIZES["layers"]):
        for name in ("post_attention_norm", "post_ffw_norm"):
            weights[f"blk.{layer}.{name}.weight"] = np.ones(SIZES["hidden"], np.float32)
    write_gguf(path, weights, architecture="gemma2", sliding=8)


def recurrent(path: Path) -> None:
    hidden, inner, state, rank = 32, 64, 8, 2
    shapes = {
        "attn_norm.weight": (hidden,), "ssm_in.weight": (2 * inner, hidden), "ssm_conv1d.weight": (inner, 4),
        "ssm_conv1d.bias": (inner,), "ssm_x.weight": (rank + 2 * state, inner), "ssm_dt.weight": (inner, rank),
        "ssm_dt.bias": (inner,), "ssm_a": (inner, state), "ssm_d": (inner,), "ssm_out.weight": (hidden, inner),
    }  # fmt: skip
    out = GGUFWriter(path, "mamba")
    out.add_context_length(64)
    out.add_embedding_length(hidden)
    out.add_block_count(1)
    out.add_feed_forward_length(0)
    out.add_head_count(0)
    out.add_layer_norm_rms_eps(1e-6)
    out.add_vocab_size(64)
    out.add_tokenizer_model("none")
    out.add_ssm_conv_kernel(4)
    out.add_ssm_inner_size(inner)
    out.add_ssm_state_size(state)
    out.add_ssm_time_step_rank(rank)
    for name, shape in {"token_embd.weight": (64, hidden), "output_norm.weight": (hidden,)}.items():
        out.add_tensor(name, np.zeros(shape, np.float32))
    for name, shape in shapes.items():
        out.add_tensor(f"blk.0.{name}", np.zeros(shape, np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (sliding, r"gemma2 models attend within a window of 8 tokens in some layers.* folder .* safetensors, not this"),
        (recurrent, "mamba models have a recurrent state, of which no part can be evicted"),
    ],
)
def test_kinds_that_no_session_can_serve_are_refused_when_opened(tmp_path: Path, write, reason: str) -> None:  # type: ignore[no-untyped-def]
    from erecap.engines.llamacpp.model import LlamaCppModel

    write(tmp_path / "a.gguf")
    with pytest.raises(ModelError, match=f"a.gguf: {reason}"):
        LlamaCppModel.open(tmp_path / "a.gguf")


def test_files_without_text_need_a_tokenizer(tmp_path: Path) -> None:
    from erecap.engines.llamacpp.model import LlamaCppModel

    bare = LlamaCppModel.open(write_gguf(tmp_path / "a.gguf", random_weights(64)))
    with pytest.raises(ModelError, match=r"a.gguf: holds no tokenizer; give one of transformers"):
        _ = bare.tokenizer
    with pytest.raises(ValueError, match="token id 64 is not in the vocabulary"):  # nothing to compare it with
        ReplanSession(bare, byte_level(), engine="llamacpp").engine.read([64])


def test_bytes_of_a_token_are_those_that_llama_cpp_stores(tmp_path: Path) -> None:
    from erecap.engines import ENGINES
    from erecap.engines.protocol import EngineSettings

    sizes = []
    for kv, count in (("float32", 20), ("float32", 60), ("float16", 20), ("float16", 60)):
        engine = ENGINES["llamacpp"](small_llama(kv=kv), EngineSettings())
        engine.read(list(range(count)))
        engine.save(tmp_path / "a.safetensors", {}, {"logical": count, "state": {"shift": 0}})
        sizes.append(len(load_file(tmp_path / "a.safetensors")["llamacpp.state"]))
    wide, narrow = (small_llama(kv=kv).bytes_per_token for kv in ("float32", "float16"))
    assert wide == 2 * narrow
    for grown, each in ((sizes[1] - sizes[0], wide), (sizes[3] - sizes[2], narrow)):
        assert grown == 40 * (each + 12)  # and a position, a count and a sequence for each
    marks = {name: byte_level().convert_tokens_to_ids(name) for name in ("<|endoftext|>", "<|im_end|>")}
    assert small_llama().ends == sorted(marks.values())  # llama.cpp knows both by name
