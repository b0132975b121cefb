"""Plans that can be meant, and their files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from erecap.errors import ConfigError, ModelError
from erecap.layers import Base, LayerPlan, describe_plan, load_plan, save_plan
from tests.layers.plans import PLANS

BASE = Base("tiny", "sha256:" + "a" * 64, None)


def test_a_layer_without_both_sublayers_is_a_block() -> None:
    plan = LayerPlan(6, blocks=(5,), attention=(3, 1), mlp=(4, 3))
    assert (plan.blocks, plan.attention, plan.mlp) == ((3, 5), (1,), (4,))
    assert plan.kept == (0, 1, 2, 4) and plan.sublayers == 6
    assert plan.words() == "blocks 3, 5; attention 1; mlp 4"
    assert LayerPlan(6).words() == "nothing"
    assert plan.digest() == LayerPlan(6, blocks=(3, 5), attention=(1,), mlp=(4,), found={"method": "x"}).digest()
    assert plan.digest() != LayerPlan(6, blocks=(3, 5), attention=(1,)).digest()


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"blocks": (6,)}, "blocks: got 6; allowed: 0 to 5, the base has 6 layers"),
        ({"mlp": (-1,)}, "mlp: got -1; allowed: 0 to 5"),
        ({"attention": (1, 1)}, "attention: a number is named twice"),
        ({"blocks": (1,), "mlp": (1,)}, "layer 1 is out as a block, and a sublayer of it is named as well"),
        ({"attention": (1,), "heads": {1: (0,)}}, "heads of layer 1 are named, and its attention is out"),
        ({"blocks": (1,), "channels": {1: (0,)}}, "channels of layer 1 are named, and its mlp is out"),
        ({"channels": {7: (0,)}}, "channels: got 7; allowed: 0 to 5"),
        ({"channels": {1: (3, 3)}}, "channels of layer 1: a number is named twice"),
        ({"blocks": tuple(range(6))}, "no attention is left of 6 layers"),
        ({"blocks": (0, 1, 2), "attention": (3, 4, 5)}, "no attention is left of 6 layers"),
        ({"tuned": {"lm_head.weight": torch.ones(1)}}, "tuned weight 'lm_head.weight' is none of a decoder layer"),
        ({"tuned": {"layers.02.mlp.x": torch.ones(1)}}, "tuned weight 'layers.02.mlp.x' is none of a decoder layer"),
        ({"mlp": (2,), "tuned": {"layers.2.mlp.x": torch.ones(1)}}, "layers.2.mlp.x belongs to a sublayer that is out"),
    ],
)
def test_a_plan_that_cannot_be_meant(parts: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerPlan(6, **parts)


@pytest.mark.parametrize("kind", PLANS)
def test_a_plan_comes_back_from_its_folder(kind: str, tmp_path: Path) -> None:
    parts = {name: getattr(PLANS[kind], name) for name in ("blocks", "attention", "mlp", "heads", "channels")}
    tuned = {"layers.1.self_attn.o_proj.weight": torch.randn(3, 2)}
    found, test = {"method": "by hand", "seed": 3}, {"agreement": 0.97}
    plan = LayerPlan(8, **parts, tuned=tuned, base=BASE, found=found, test=test)
    save_plan(tmp_path, plan)
    again = load_plan(tmp_path)
    assert again.structure() == plan.structure() and again.digest() == plan.digest()
    assert (again.base, again.found, again.test) == (BASE, found, test)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["out"] == plan.words() and card["base"]["hash"] == BASE.hash and card["test"] == test
    assert describe_plan(tmp_path)["name"] == tmp_path.name and describe_plan(tmp_path)["hash"].startswith("sha256:")


def test_the_same_plan_is_the_same_file(tmp_path: Path) -> None:
    for number in range(8):
        save_plan(tmp_path / str(number), LayerPlan(6, mlp=(1,), base=BASE, found={"method": "by hand"}))
    assert len({(tmp_path / str(number) / "plan.safetensors").read_bytes() for number in range(8)}) == 1


def test_a_plan_without_a_base_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without its base is not saved"):
        save_plan(tmp_path, LayerPlan(6))


def test_damaged_plans_are_told_in_one_line(tmp_path: Path) -> None:
    save_plan(tmp_path, LayerPlan(6, mlp=(1,), base=BASE))
    path, whole = tmp_path / "plan.safetensors", (tmp_path / "plan.safetensors").read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(ModelError, match=r"plan.safetensors is damaged: "):
        load_plan(tmp_path)
    path.write_bytes(whole.replace(b"[1]", b"[2]"))
    with pytest.raises(ModelError, match=r"plan.safetensors is damaged: its SHA-256 is not the one in card.json"):
        load_plan(tmp_path)
    path.unlink()
    with pytest.raises(ModelError, match=r"plan.safetensors is missing"):
        load_plan(tmp_path)
    (tmp_path / "card.json").unlink()
    with pytest.raises(ModelError, match=r"card.json is missing"):
        load_plan(tmp_path)
    with pytest.raises(ConfigError, match="layer plan nowhere: no such folder, and no checkpoint of that name"):
        load_plan("nowhere")


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "Expecting property name"),
        ('{"layers": 6}', "base: is missing"),
        (
            '{"layers": 6, "base": {"name": "a", "hash": "b"}}',
            r"base.hash: got 'b' \(text\); allowed: text, of the form",
        ),
        ('{"layers": 6, "base": BASE, "blokcs": [1]}', r"unknown key \(did you mean 'blocks'\?\)"),
        ('{"layers": 6, "base": BASE, "blocks": [7]}', "blocks: got 7; allowed: 0 to 5"),
        ('{"layers": 6, "base": BASE, "heads": {"x": [7]}}', "got layer 'x'; allowed: a number"),
        ('{"layers": 6, "base": BASE, "heads": {"3": [0], "03": [1]}}', "got layer '03'; allowed: a number, with no"),
    ],
)
def test_a_plan_that_somebody_else_wrote(text: str, message: str, tmp_path: Path) -> None:
    write_plan(tmp_path, text, {})
    with pytest.raises(ModelError, match=message) as caught:
        load_plan(tmp_path)
    assert "\n" not in str(caught.value)


def write_plan(folder: Path, text: str, tensors: dict[str, torch.Tensor]) -> None:
    """A plan's files as another program may write them."""
    from erecap.models.wheels import sha256

    text = text.replace("BASE", json.dumps({"name": "tiny", "hash": BASE.hash}))
    path = folder / "plan.safetensors"
    save_file(tensors, path, metadata={"format": "erecap-layers-1", "plan": text})
    card = {"format": "erecap-layers-1", "files": {"plan.safetensors": sha256(path)}}
    (folder / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    "weight, message",
    [
        (torch.tensor([1.0, float("nan")]), "holds values that are not finite"),
        (torch.ones(2, dtype=torch.int8), "holds torch.int8; allowed: floating-point numbers"),
    ],
)
def test_tuned_weights_that_are_no_finite_floats(weight: torch.Tensor, message: str, tmp_path: Path) -> None:
    tuned = {"layers.1.mlp.down_proj.weight": weight}
    with pytest.raises(ValueError, match=rf"layers\.1\.mlp\.down_proj\.weight {message}"):
        LayerPlan(6, tuned=tuned, base=BASE)
    write_plan(tmp_path, '{"layers": 6, "base": BASE}', tuned)
    with pytest.raises(ModelError, match=rf"layers\.1\.mlp\.down_proj\.weight {message}"):
        load_plan(tmp_path)
