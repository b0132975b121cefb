"""Classes that read pictures too: text is served, pictures go to the bare model whole."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch

import erecap
from tests.tokens.families import GREEDY, ids_of, whole, with_images

PAGES = {"depth": 1, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
SIGLIP = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
CLASSES: dict[str, dict[str, Any]] = {
    "Gemma3": {"vision_config": SIGLIP, "mm_tokens_per_image": 4},
    "Qwen2_5_VL": {
        "vision_config": PAGES | {"hidden_size": 32, "out_hidden_size": 64, "window_size": 112},
        "text_config": {"rope_parameters": MROPE},
    },
    "Qwen3VL": {
        "vision_config": PAGES | {"hidden_size": 32, "out_hidden_size": 64, "deepstack_visual_indexes": []},
        "text_config": {"rope_parameters": MROPE | {"mrope_interleaved": True}},
    },
    "Qwen2VL": {
        "vision_config": PAGES | {"embed_dim": 32, "hidden_size": 64}, "text_config": {"rope_parameters": MROPE},
    },
    "Llava": {"vision_config": SIGLIP},
    "InternVL": {},
}  # fmt: skip


@cache
def model_of(name: str) -> Any:
    return with_images(name, **CLASSES[name])


def rows_of(folder: Any) -> list[dict]:
    return [json.loads(line) for line in (folder / "replans.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", CLASSES)
def test_text_is_pruned_and_reused_as_with_any_model(name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model, ids = model_of(name), ids_of(40)
    expected = model.generate(**whole(ids), **GREEDY)
    assert torch.equal(erecap.wrap(model, keep=1.0).generate(**whole(ids), **GREEDY), expected)
    pruned = erecap.wrap(model, prune=erecap.PruneConfig(keep=0.5, stages=(2, 5)), log=tmp_path / "pruned")
    assert pruned.generate(**whole(ids), **GREEDY).shape == expected.shape
    assert rows_of(tmp_path / "pruned")[0]["kept_per_layer"][-1] == 10
    wrapped = erecap.wrap(model, log=tmp_path / "session")
    for turn in range(3):
        expected = model.generate(**whole(ids), **GREEDY)
        assert torch.equal(wrapped.generate(**whole(ids), **GREEDY), expected)
        ids = torch.cat([expected, ids_of(7, turn + 2)], 1)
    assert [row["decision"] for row in rows_of(tmp_path / "session")] == ["read", "reused", "reused"]


@pytest.mark.parametrize(("name", "field"), [("Gemma3", "token_type_ids"), ("Qwen3VL", "mm_token_type_ids")])
def test_token_types_that_say_text_are_no_pictures(name: str, field: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model, ids = model_of(name), ids_of(30)
    given = whole(ids) | {field: torch.zeros_like(ids)}
    expected = model.generate(**given, **GREEDY)
    for options in ({}, {"keep": 1.0}):
        wrapped = erecap.wrap(model, **options, log=tmp_path / str(len(options)))
        assert torch.equal(wrapped.generate(**given, **GREEDY), expected)
        assert rows_of(tmp_path / str(len(options)))[0]["decision"] != "passed"


@pytest.mark.parametrize("options", [{}, {"keep": 0.5, "scorer": "recency"}], ids=["session", "prune"])
@pytest.mark.parametrize("name", ["Gemma3", "Qwen2_5_VL", "Qwen2VL"])
def test_pictures_go_to_the_bare_model_whole(name: str, options: dict, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = model_of(name)
    wrapped = erecap.wrap(model, **options, log=tmp_path)
    text, seen = ids_of(20), ids_of(20)
    image = model.config.image_token_id
    if name == "Gemma3":
        seen[0, 5:9] = image
        given = whole(seen) | {"pixel_values": torch.rand(1, 3, 28, 28)}
        given["token_type_ids"] = (seen == image).long()
    else:
        seen[0, 4], seen[0, 5:9] = model.config.vision_start_token_id, image
        given = whole(seen) | {"pixel_values": torch.rand(16, 3 * 2 * 14 * 14)}
        given["image_grid_thw"] = torch.tensor([[1, 4, 4]])
        given["mm_token_type_ids"] = (seen == image).long()
    wrapped.generate(**whole(text), **GREEDY)
    expected = model.generate(**given, **GREEDY)
    assert torch.equal(wrapped.generate(**given, **GREEDY), expected)
    # A picture moves the positions of what follows it, and the model notes by how much: text after it must not care.
    longer = torch.cat([text, ids_of(9, 3)], 1)
    if not options:
        assert torch.equal(wrapped.generate(**whole(longer), **GREEDY), model.generate(**whole(longer), **GREEDY))
    rows = rows_of(tmp_path)
    assert rows[1]["decision"] == "passed" and "pixel_values" in rows[1]["reason"]
    assert all(row["decision"] != "passed" for row in (rows[0], *rows[2:]))


def test_a_cache_of_ours_refuses_pictures_by_name() -> None:
    model, ids = model_of("Gemma3"), ids_of(20)
    with erecap.prune(model) as cache, pytest.raises(ValueError, match="text only, and the call gives pixel_values"):
        model(ids, past_key_values=cache, pixel_values=torch.rand(1, 3, 28, 28))
    with erecap.prune(model) as cache, pytest.raises(ValueError, match="2-D attention_mask"):
        model(ids, past_key_values=cache, attention_mask=torch.ones(1, 1, 20, 20, dtype=torch.bool))


def test_padded_batches_of_text() -> None:
    ids = ids_of(24).repeat(2, 1)
    mask = torch.ones_like(ids)
    ids[1, :9], mask[1, :9] = 0, 0
    for name in ("Gemma3", "Qwen3VL"):
        model = model_of(name)
        expected = model.generate(input_ids=ids, attention_mask=mask, **GREEDY)
        got = erecap.wrap(model, keep=1.0).generate(input_ids=ids, attention_mask=mask, **GREEDY)
        assert torch.equal(got, expected), name
