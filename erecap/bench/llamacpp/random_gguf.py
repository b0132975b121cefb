"""GGUF files of random weights in four bits: a model's speed depends on its shape, not on what it has learned."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from erecap.cost.flops import ModelShape
from erecap.files import cache_dir

# The shape of Llama 3.2 1B, with the vocabulary of the embedded model: 1.07 * 10^9 parameters.
ONE_BILLION = ModelShape(
    layers=16, hidden_size=2048, intermediate_size=8192, heads=32, kv_heads=8, head_dim=64, vocab_size=49152
)
SPREAD = 0.02  # standard deviation of the weights
BLOCK = 32  # weights that share a scale
_KEPT = "tokenizer."  # keys that are taken over from the other file


def random_gguf(
    source: Path,
    shape: ModelShape = ONE_BILLION,
    *,
    window: int = 8192,
    seed: int = 0,
    target: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """A file of the llama architecture with random weights: Q4_1 matrices, Q8_0 embeddings that are also the head.

    Args:
        source: a GGUF file whose tokenizer and chat template the new one gets; its vocabulary is the shape's.
        shape: its sizes; `hidden_size` and `intermediate_size` are multiples of 32.
        window: tokens of its context.
        target: the new file; None: one in the cache, which is written once.

    Raises:
        ValueError: sizes that such a file cannot have, or a vocabulary that is not the tokenizer's.
    """
    width = shape.heads * shape.head_dim
    if shape.hidden_size % BLOCK or shape.intermediate_size % BLOCK or shape.hidden_size != width:
        raise ValueError(f"sizes must be multiples of {BLOCK}, and heads as wide together as the model, got {shape}")
    if target is None:
        sizes = "-".join(map(str, vars(shape).values()))
        target = cache_dir() / "gguf" / f"random-{sizes}-{window}-{seed}.gguf"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    say(f"writing random weights to {target.name}")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".", suffix=".part") as work:
        part = Path(work) / target.name
        _write(part, source, shape, window, np.random.default_rng(seed))
        part.replace(target)
    return target


def _write(path: Path, source: Path, shape: ModelShape, window: int, drawn: np.random.Generator) -> None:
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

    out = GGUFWriter(path, "llama", use_temp_file=True)
    out.add_name(f"random weights, {shape.layers} layers of {shape.hidden_size}")
    out.add_context_length(window)
    out.add_embedding_length(shape.hidden_size)
    out.add_block_count(shape.layers)
    out.add_feed_forward_length(shape.intermediate_size)
    out.add_head_count(shape.heads)
    out.add_head_count_kv(shape.kv_heads)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_freq_base(500000.0)
    out.add_rope_dimension_count(shape.head_dim)
    out.add_vocab_size(shape.vocab_size)
    out.add_file_type(3)  # mostly Q4_1
    _take_tokenizer(out, GGUFReader(source), shape)

    def add(name: str, rows: int, columns: int, kind: Any) -> None:
        blocks = rows * columns // BLOCK
        data = _q4_1(drawn, blocks) if kind is GGMLQuantizationType.Q4_1 else _q8_0(drawn, blocks)
        out.add_tensor(name, data.reshape(rows, -1), raw_dtype=kind)

    width, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    add("token_embd.weight", shape.vocab_size, shape.hidden_size, GGMLQuantizationType.Q8_0)
    out.add_tensor("output_norm.weight", np.ones(shape.hidden_size, np.float32))
    matrices = {
        "attn_q": (width, shape.hidden_size), "attn_k": (keys, shape.hidden_size), "attn_v": (keys, shape.hidden_size),
        "attn_output": (shape.hidden_size, width), "ffn_gate": (shape.intermediate_size, shape.hidden_size),
        "ffn_up": (shape.intermediate_size, shape.hidden_size),
        "ffn_down": (shape.hidden_size, shape.intermediate_size),
    }  # fmt: skip
    for layer in range(shape.layers):
        for name, (rows, columns) in matrices.items():
            add(f"blk.{layer}.{name}.weight", rows, columns, GGMLQuantizationType.Q4_1)
        for name in ("attn_norm", "ffn_norm"):
            out.add_tensor(f"blk.{layer}.{name}.weight", np.ones(shape.hidden_size, np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def _take_tokenizer(out: Any, reader: Any, shape: ModelShape) -> None:
    """Copy all that the other file says about its tokenizer."""
    from gguf import GGUFValueType

    tokens = len(reader.fields["tokenizer.ggml.tokens"].data)
    if tokens != shape.vocab_size:
        raise ValueError(f"the shape has a vocabulary of {shape.vocab_size}, the tokenizer one of {tokens}")
    for name, field in reader.fields.items():
        if name.startswith(_KEPT):
            inner = field.types[-1] if field.types[0] is GGUFValueType.ARRAY else None
            out.add_key_value(name, field.contents(), field.types[0], inner)


def _q4_1(drawn: np.random.Generator, blocks: int) -> np.ndarray:
    """Bytes of blocks with a scale, a least value and 32 numbers of four bits each, as ggml lays them out."""
    packed = np.empty((blocks, 4 + BLOCK // 2), np.uint8)
    scale = SPREAD / np.sqrt((16**2 - 1) / 12)  # uniform numbers from 0 to 15
    packed[:, :4] = np.array([scale, -7.5 * scale], np.float16).view(np.uint8)
    packed[:, 4:] = drawn.integers(256, size=(blocks, BLOCK // 2), dtype=np.uint8)
    return packed


def _q8_0(drawn: np.random.Generator, blocks: int) -> np.ndarray:
    """Bytes of blocks with a scale and 32 numbers of eight bits each."""
    packed = np.empty((blocks, 2 + BLOCK), np.uint8)
    packed[:, :2] = np.array([SPREAD / np.sqrt((255**2 - 1) / 12)], np.float16).view(np.uint8)
    packed[:, 2:] = drawn.integers(-127, 128, size=(blocks, BLOCK), dtype=np.int8).view(np.uint8)
    return packed
