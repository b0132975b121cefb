"""The connector's parts that need no vLLM: parameters, the bounded list of entries, their rows, and the rotation."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ValidationError, model_validator
from transformers import GlmConfig, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from erecap.engines.rotate_keys import Turn
from erecap.engines.vllm.index import Entry, StoreIndex, refusal
from erecap.engines.vllm.library import reason_of
from erecap.engines.vllm.limits import version_problem
from erecap.engines.vllm.model import VllmOptions
from erecap.engines.vllm.paged import PagedLayer
from erecap.engines.vllm.rows import MOST_PARTS, Part, Rows, joined
from erecap.engines.vllm.turning import disagreement, turn_of, turned
from erecap.engines.vllm.wire import Asked, Told, WireError, numbers, runs_of
from erecap.errors import ConfigError


def test_parameters_come_back_as_they_were() -> None:
    asked = Asked("a", ((0, 3), (7, 9)), ((-2, 3), (5, 2)), False, ("b",))
    assert Asked.of(asked.params()) == asked and asked.kept == 5
    assert asked.rows().tolist() == [0, 1, 2, 7, 8] and asked.places().tolist() == [-2, -1, 0, 5, 6]
    assert Asked.of({"other": 1}) is None and Asked.of(None) is None
    assert Asked("a", ((2, 4),)).places().tolist() == [0, 1]
    told = Told("x", 9, 5, None)
    assert Told.of(told.params()) == told and Told.of({}) is None
    for seed in range(20):
        draw = random.Random(seed)
        values = np.array(sorted(draw.sample(range(60), draw.randint(0, 40))), np.int64)
        assert numbers(runs_of(values)).tolist() == values.tolist()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "allowed are parameters of version 1"),
        ({"keep": [[0, 3], [2, 5]]}, r"keep must be rising rows .*got \[2, 5\]"),
        ({"keep": [[3, 3]]}, "keep must be rising rows"),
        ({"keep": [[0, True]]}, "keep must be a list of pairs of whole numbers"),
        ({"keep": []}, "from and keep need each other"),
        ({"from": 3}, "from must be a text"),
        ({"at": [[0, 4]]}, "at must have a position for each of the 3 kept rows"),
        ({"at": [[1 << 40, 3]]}, r"at must be positions \[first, count\]"),
        ({"drop": "a"}, "drop must be a list of texts"),
        ({"kept": []}, "kept is not a parameter"),
    ],
)
def test_parameters_that_are_wrong_are_named(change: dict[str, Any], reason: str) -> None:
    fine = {"version": 1, "from": "a", "keep": [[0, 3]]}
    assert Asked.of({"erecap": fine}) == Asked("a", ((0, 3),))
    with pytest.raises(WireError, match=reason):
        Asked.of({"erecap": fine | change})


def tokens(count: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.int64)


def test_the_store_is_bounded_and_forgets_what_was_used_longest_ago() -> None:
    index = StoreIndex(most_bytes=100, row_bytes=2)
    a, b, c = (index.add(tokens(16), tokens(16), None) for _ in range(3))
    assert index.bytes == 96 and index.get(a) is not None  # a is used: b is the oldest now
    d = index.add(tokens(10), tokens(10), None)
    assert index.get(b) is None and index.dropped == [b] and index.names() == [c, a, d] and index.bytes == 84
    index.pin(c), index.pin(c), index.pin(a)
    assert index.add(tokens(30), tokens(30), None) is None  # 64 bytes are in use
    assert index.names() == [c, a, d], "what has no room drops nothing"
    index.unpin(c)
    index.drop(c)
    assert index.get(c) is not None, "another request uses it"
    index.unpin(c)
    whole = index.add(tokens(30), tokens(30), None, instead=(d,))
    assert whole is not None and index.names() == [a, whole] and index.bytes == 92
    assert index.dropped == [b, d, c] and len({a, b, c, d, whole}) == 5
    assert index.add(tokens(51), tokens(51), None) is None


def test_a_full_store_says_how_much_is_wanted_and_how_much_there_is() -> None:
    index = StoreIndex(most_bytes=8 << 20, row_bytes=1 << 16)
    a, _ = (index.add(tokens(40), tokens(40), None) for _ in range(2))
    assert a is not None
    index.pin(a)
    assert index.add(tokens(100), tokens(100), None) is None
    assert index.why_full(100) == (
        "an entry of 6.25 MiB does not fit into a store of 8.00 MiB, 2.50 of them in use: "
        "the store is full of entries in use"
    )


@pytest.mark.parametrize("dtype", ["int4", "half", "fp8", ""])
def test_precisions_that_vllm_is_not_asked_for_are_refused_when_options_are_made(dtype: str) -> None:
    with pytest.raises(ConfigError, match=f"dtype is '{dtype}'; allowed: auto, float32, bfloat16, float16"):
        VllmOptions(dtype=dtype)
    assert VllmOptions(dtype="bfloat16").dtype == "bfloat16"


def test_the_reason_of_a_model_that_vllm_does_not_load_is_one_line() -> None:
    class Config(BaseModel):
        heads: int

        @model_validator(mode="after")
        def _even(self) -> Config:
            if self.heads % 2:
                raise ValueError("heads must be\n even")
            return self

    for given, reason in (
        ({"heads": 3}, "Value error, heads must be even"),
        ({"heads": "x"}, "heads: Input should be a valid integer, unable to parse string as an integer"),
    ):
        with pytest.raises(ValidationError) as caught:
            Config.model_validate(given)
        assert reason_of(caught.value) == reason
    assert reason_of(RuntimeError("first\nsecond")) == "first" and reason_of(OSError()) == "OSError"


def test_random_use_never_passes_the_bound() -> None:
    draw, index, pinned = random.Random(3), StoreIndex(400, 4), []
    for _ in range(600):
        step = draw.choice(("add", "add", "get", "pin", "unpin", "drop"))
        names = index.names()
        if step == "add":
            count = draw.randint(1, 60)
            name = index.add(tokens(count), tokens(count), None)
            held = 4 * sum(len(index.get(name).ids) for name in set(pinned))
            assert (name is None) == (held + 4 * count > 400)
        elif step == "unpin" and pinned:
            index.unpin(pinned.pop(draw.randrange(len(pinned))))
        elif names and step in ("get", "pin", "drop"):
            name = draw.choice(names)
            getattr(index, step)(name)
            pinned += [name] if step == "pin" else []
        assert index.bytes <= 400 and set(pinned) <= set(index.names())


def test_a_request_has_rows_only_if_they_are_its_own() -> None:
    entry = Entry("e", tokens(10, 50), tokens(10), "salt")
    whole, some = Asked("e", ((0, 10),)), Asked("e", ((0, 3), (6, 10)))
    moved = Asked("e", ((0, 10),), ((4, 10),))

    def why(asked: Asked, ids: list[int], salt: str | None, found: Entry | None = entry, turns: str | None = None):
        return refusal(asked, found, np.array(ids), salt, turns)

    goes_on, cut = [*range(50, 60), 1], [50, 51, 52, 56, 57, 58, 59, 1]
    assert why(whole, goes_on, "salt") is None and why(Asked("e", ((0, 4),)), [50, 51, 52, 53, 1], "salt") is None
    assert why(some, cut, some.salt() + "-1") is None and why(moved, goes_on, moved.salt()) is None
    assert why(Asked(), [1, 2], None) is None
    for asked, ids in ((some, cut), (moved, goes_on)):
        for salt in ("salt", None, whole.salt()):
            assert "needs a cache_salt" in str(why(asked, ids, salt))
    assert "needs a cache_salt" in str(why(whole, goes_on, "other"))
    assert "has no entry e" in str(why(whole, goes_on, "salt", None))
    assert "at least one token must be new" in str(why(whole, goes_on[:10], "salt"))
    assert "does not begin with the ids" in str(why(whole, [*range(50, 59), 3, 1], "salt"))
    assert "has 10 rows, row 10 is asked for" in str(why(Asked("e", ((0, 11),)), goes_on * 2, "salt"))
    assert (
        why(moved, goes_on, moved.salt(), turns="fixed") == "fixed" and why(whole, goes_on, "salt", turns="f") is None
    )


def part(count: int, first: int = 0) -> Part:
    numbers = torch.arange(first, first + count)
    keys = numbers.float().view(1, -1, 1, 1).expand(2, -1, 3, 4) + torch.arange(2).view(2, 1, 1, 1) * 1000
    return Part(keys.contiguous(), -keys, numbers)


def test_rows_of_many_parts_are_those_of_one() -> None:
    rows, draw, parts = Rows(), random.Random(1), []
    for number in range(MOST_PARTS + 8):
        parts = [*parts, part(draw.randint(1, 5), sum(map(len, parts)))]
        rows.put(f"{number}", parts)
        total = sum(map(len, parts))
        some = torch.tensor(sorted(draw.sample(range(total), draw.randint(1, total))))
        found = joined(rows.taken(f"{number}", some))
        assert found.first.tolist() == some.tolist() and found.keys[1, :, 2, 3].tolist() == (some + 1000).tolist()
        assert torch.equal(found.values, -found.keys)
    rows.drop("0"), rows.drop("none")
    assert "0" not in rows and len(rows) == MOST_PARTS + 7
    shared = rows.taken("3", torch.arange(sum(map(len, parts[:4]))))
    assert all(one is other for one, other in zip(shared, parts, strict=False)), "whole parts are shared"


ROPES = [
    {"rope_type": "default", "rope_theta": 1e4},
    {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 64},
    {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64},
]  # fmt: skip


@pytest.mark.parametrize("rope", ROPES, ids=lambda rope: rope["rope_type"])
def test_keys_are_turned_as_the_models_embedding_turns_them(rope: dict[str, Any]) -> None:
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=2, head_dim=32, max_position_embeddings=256, rope_parameters=rope
    )
    turn, embedding = turn_of(config), LlamaRotaryEmbedding(config)
    assert isinstance(turn, Turn)
    raw = torch.randn(2, 20, 3, 32)  # layers, tokens, heads
    raw[:, 10:] = raw[:, :10]

    def at(positions: torch.Tensor) -> torch.Tensor:
        cos, sin = embedding(raw, positions.unsqueeze(0))
        return apply_rotary_pos_emb(raw, raw, cos, sin, unsqueeze_dim=2)[1]

    first, wanted = torch.arange(20) * 3 + 5, torch.arange(20)
    assert torch.allclose(turned(turn, at(first), wanted - first), at(wanted), atol=2e-4)
    assert turned(turn, raw, torch.zeros(20, dtype=torch.long)) is raw
    ids = torch.arange(20) % 10
    found, other = disagreement(turn, ids, at(first)[0], first), Turn(turn.frequencies * 1.1)  # type: ignore[operator]
    assert found is not None and found < 1e-3
    assert disagreement(other, ids, at(first)[0], first) > 0.05  # type: ignore[operator]
    assert disagreement(Turn(turn.frequencies, neighbours=True), ids, at(first)[0], first) > 0.05  # type: ignore[operator]
    assert disagreement(turn, torch.arange(20), at(first)[0], first) is None


def test_models_whose_keys_cannot_be_turned_are_named() -> None:
    changing = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert "kind dynamic depend on the length" in str(turn_of(LlamaConfig(rope_parameters=changing)))
    found = turn_of(GlmConfig(head_dim=32, partial_rotary_factor=0.5))
    assert isinstance(found, Turn) and found.neighbours and len(found.frequencies) == 8  # type: ignore[arg-type]
    assert version_problem("0.32.0+cpu") is None and "this is 0.33.1" in str(version_problem("0.33.1"))
    assert version_problem("0.320.0") is not None


class _Impl:
    """A backend that packs keys by fours and values by tokens, as kernels do."""

    num_kv_heads, head_size = 2, 8

    def do_kv_cache_update(self, layer: Any, key: Any, value: Any, cache: Any, slots: Any) -> None:
        size = cache.shape[-1] // (2 * self.num_kv_heads * self.head_size)
        for row, slot in enumerate(slots.tolist()):
            block = cache.select(layer.axis, slot // size).view(2, self.num_kv_heads, -1, size, 4)
            block[0, :, :, slot % size] = key[row].view(self.num_kv_heads, -1, 4)
            block[1].reshape(self.num_kv_heads, size, -1)  # a view
            block[1].view(self.num_kv_heads, size, -1)[:, slot % size] = value[row]


@pytest.mark.parametrize("axis", [0, 1])
def test_the_layout_of_a_paged_cache_is_measured(axis: int) -> None:
    class Layer:
        impl = _Impl()
        kv_cache = torch.zeros((5, 2 * 2 * 8 * 16) if axis == 0 else (1, 5, 2 * 2 * 8 * 16), dtype=torch.bfloat16)

    Layer.axis = axis  # type: ignore[attr-defined]
    layer = PagedLayer(Layer(), blocks=5, block=16)
    keys, values = (torch.randn(40, 2, 8).bfloat16() for _ in range(2))
    blocks = torch.tensor([3, 0, 4])
    layer.write(blocks, 7, keys, values)
    read = layer.read(blocks, 7, 47)
    assert torch.equal(read[0], keys) and torch.equal(read[1], values)
    assert torch.equal(layer.read(blocks, 20, 21)[0], keys[13:14])
    with pytest.raises(ValueError, match="cannot write the cache of _Impl"):
        PagedLayer(Layer(), blocks=7, block=16)
