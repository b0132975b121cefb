"""Export of a model with a plan as an ordinary Hugging Face folder, which needs nothing of ours to be loaded.

A configuration of transformers has one width for all layers. So whole blocks and slices of equal width can be written;
a layer without one of its sublayers, and slices that differ between layers, cannot.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from erecap.errors import ModelError
from erecap.layers.applied import plan_of
from erecap.layers.checking import probe_logits
from erecap.layers.decoder import ATTENTION, MLP, configs, planned_decoder
from erecap.layers.plan import LayerPlan
from erecap.models.unpacking import quiet

_MISSING = object()
INSTEAD = "keep it as a plan (layers: FOLDER)"


def export_problem(plan: LayerPlan) -> str | None:
    """Reason why a model with `plan` is no ordinary Hugging Face folder, as far as the plan tells; None: it is one."""
    part = plan.attention or plan.mlp
    if part:
        what = "attention" if plan.attention else "MLP"
        return f"layer {part[0]} is without its {what}, which no Hugging Face configuration says; {INSTEAD}"
    for name, slices in (("heads", plan.heads), ("channels", plan.channels)):
        counts = {layer: len(slices.get(layer, ())) for layer in plan.kept}
        first = plan.kept[0]
        other = next((layer for layer in plan.kept if counts[layer] != counts[first]), None)
        if other is not None:
            return (
                f"layers {first} and {other} lose different numbers of {name} ({counts[first]} and {counts[other]}), "
                f"and a Hugging Face configuration has one width for all layers; {INSTEAD}"
            )
    return None


def export(model: Any, folder: Path, tokenizer: Any = None) -> Path:
    """Write a model that has a plan as a Hugging Face folder, load it again, and compare the two.

    Args:
        model: with a plan applied.
        folder: must not exist, or be empty.
        tokenizer: is written beside it.

    Returns:
        `folder`.

    Raises:
        ModelError: no plan, one that no such folder can express, a folder that holds something, or a model that
            computes something else once it is loaded.
    """
    plan = plan_of(model)
    if plan is None:
        raise ModelError("the model has no layer plan to export; save_pretrained writes it as it is")
    problem = export_problem(plan)
    if problem is not None:
        raise ModelError(f"the plan cannot be exported: {problem}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder}: holds something already; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        _write(model, aside, plan)
        if tokenizer is not None:
            tokenizer.save_pretrained(aside)
        _compare(model, aside)
        aside.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _write(model: Any, folder: Path, plan: LayerPlan) -> None:
    """Save the model under a configuration with the widths that are left."""
    decoder = planned_decoder(model)
    attention, mlp = (getattr(decoder.layers[0], name) for name in (ATTENTION, MLP))
    widths: dict[str, int] = {}
    if plan.heads:
        heads = attention.o_proj.in_features // attention.head_dim
        widths |= {
            "num_attention_heads": heads,
            "num_key_value_heads": heads // attention.num_key_value_groups,
            "head_dim": attention.head_dim,
        }
    if plan.channels:
        widths["intermediate_size"] = mlp.down_proj.in_features
    with ExitStack() as stack:
        for config in configs(model, decoder):
            stack.callback(_restore, config, {name: vars(config).get(name, _MISSING) for name in widths})
            for name, value in widths.items():
                setattr(config, name, value)
        stack.enter_context(quiet())
        model.save_pretrained(folder)


def _restore(config: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if value is _MISSING:
            delattr(config, name)
        else:
            setattr(config, name, value)


def _compare(model: Any, folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    name = type(model).__name__
    try:
        with quiet():
            loaded = AutoModelForCausalLM.from_pretrained(
                folder, dtype=model.dtype, attn_implementation=model.config._attn_implementation, local_files_only=True
            )
        with torch.no_grad():
            found = probe_logits(loaded.eval().to(model.device))
    except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{name} cannot be exported with this plan: it does not load again ({line})") from error
    with torch.no_grad():
        expected = probe_logits(model)
    apart = float((found - expected).abs().amax() / expected.abs().amax())
    if not apart <= (1e-4 if model.dtype == torch.float32 else 0.05):  # NaN is no agreement
        raise ModelError(f"{name} cannot be exported with this plan: loaded again, its logits differ by {apart:.2g}")
