"""Checks of a model on this machine: the right files, and a working model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from erecap.errors import ModelError
from erecap.models.catalog import CARD, CATALOG, WheelModel
from erecap.models.hashing import fingerprint
from erecap.models.inspection import inspect_folder, read_json
from erecap.models.loading import load
from erecap.models.locating import locate
from erecap.models.pins import changed_settings


@dataclass(frozen=True)
class Check:
    """One check: what was looked at, the finding, and what to do about it."""

    name: str
    ok: bool | Literal["warn"]  # "warn": usable, but less than it could be
    found: str
    advice: str = ""  # empty where there is nothing to do


def check(name: str) -> list[Check]:
    """Look at a model from its files to a generated token; stops at the first thing that later ones need.

    Args:
        name: catalog name, folder or hub name.
    """
    again = f"run `erecap models pull {name} --force`" if name in CATALOG else "fetch or save the model again"
    try:
        folder = locate(name)
    except ModelError as error:
        return [Check("folder", False, str(error), f"run `erecap models pull {name}`" if name in CATALOG else "")]
    try:
        inspect_folder(folder)
    except ModelError as error:
        return [Check("files", False, str(error), again)]
    results = [Check("files", True, str(folder)), _check_hash(name, folder, again)]
    problem = changed_settings(name, folder)
    if problem is not None:
        return [*results, Check("settings", False, problem, again)]
    try:
        model, tokenizer = load(str(folder.resolve()))
    except ModelError as error:
        return [*results, Check("loads", False, str(error), again)]
    parameters = sum(tensor.numel() for tensor in model.parameters())
    kind = f"{model.config.model_type}, {parameters / 1e6:.0f} M parameters"
    results.append(Check("loads", True, f"{kind}, {str(model.dtype).removeprefix('torch.')}, {model.device}"))
    results.append(_check_tokenizer(name, tokenizer, again))
    results += _check_generation(model, tokenizer, again)
    return results


def _check_hash(name: str, folder: Path, again: str) -> Check:
    entry, found = CATALOG.get(name), fingerprint(folder)
    expected = None
    if isinstance(entry, WheelModel):
        expected = entry.fingerprint
    elif (folder / CARD).is_file():
        expected = read_json(folder / CARD).get("fingerprint")
    if expected is None:
        return Check("weights", True, f"{found[:23]} (nothing to compare with)")
    if found == expected:
        return Check("weights", True, f"{found[:23]}, as pinned")
    return Check("weights", False, f"{found[:23]}, expected {expected[:23]}", again)


def _check_tokenizer(name: str, tokenizer: Any, again: str) -> Check:
    entry = CATALOG.get(name)
    if isinstance(entry, WheelModel):
        text, ids = entry.probe
        if tuple(tokenizer.encode(text, add_special_tokens=False)) != ids:
            return Check("tokenizer", False, f"{text!r} does not give the expected ids", again)
    return Check("tokenizer", True, f"{len(tokenizer):,} tokens, chat template present")


def _check_generation(model: Any, tokenizer: Any, again: str) -> list[Check]:
    import torch

    from erecap.models.cache_argument import CACHE

    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Say hello."}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    ).to(model.device)
    with torch.inference_mode():
        output = model(**prompt, logits_to_keep=1, use_cache=True)
    logits = output.logits[0, -1].float()
    if not bool(torch.isfinite(logits).all()):
        return [Check("generates", False, "the logits are not finite", again)]
    generates = Check("generates", True, f"first token {tokenizer.decode([int(logits.argmax())])!r}")
    return [generates, *_stored(output[CACHE], prompt["input_ids"].shape[1])]


def _stored(cache: Any, tokens: int) -> list[Check]:
    """Bytes of keys and values of a token, as the cache of `tokens` tokens holds them; none for other caches."""
    layers = getattr(cache, "layers", [])
    found = [tensor for layer in layers for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))]
    each = sum(tensor.nbytes for tensor in found if tensor is not None) // tokens
    session = f"{each * 1024 / 2**20:.1f} MiB for a budget of 1,024"
    return [Check("stores", True, f"{each:,} bytes of keys and values a token, {session}")] if each else []
