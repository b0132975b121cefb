"""Reasons why a model, or one call of its `generate`, cannot be served from stored keys and values."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin

from erecap.models.cache_argument import given_cache
from erecap.parallel.ranks import is_split
from erecap.tokens.cache.ropes import rope_switch
from erecap.tokens.hooks import find_decoder
from erecap.tokens.scoring.probe import base_name
from erecap.tokens.servable import INSTEAD, read_problem
from erecap.wrapping.switch import SWITCH, switched_off

_SIGNATURE = inspect.signature(GenerationMixin.generate)
_PARAMETERS = frozenset(_SIGNATURE.parameters) - {"self", "kwargs"}
_KNOWN = _PARAMETERS | frozenset(GenerationConfig().__dict__) | {"input_ids", "attention_mask", "tokenizer"}
_ASSISTED = ("prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")
_METHODS = ("penalty_alpha", "dola_layers", "constraints", "force_words_ids", "num_beam_groups", "token_healing")
_TYPES = ("token_type_ids", "mm_token_type_ids")  # of multimodal classes; 0 everywhere where a prompt is text


def bound(args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of `generate`, all by name, without token types that say no more than "text".

    Raises:
        TypeError: more positional arguments than `generate` takes, or one given twice.
    """
    found = dict(_SIGNATURE.bind(None, *args, **kwargs).arguments)
    found.pop("self")
    found |= found.pop("kwargs", {})
    text = [name for name in _TYPES if isinstance(found.get(name), torch.Tensor) and not bool(found[name].any())]
    return {name: value for name, value in found.items() if name not in text}


def prompt_of(arguments: dict[str, Any]) -> Any:
    """The prompt of a call, under either of its two names; None where it is given as something else."""
    ids = arguments.get("input_ids")
    return arguments.get("inputs") if ids is None else ids


def setting(model: Any, arguments: dict[str, Any], name: str) -> Any:
    """A generation setting as `generate` will see it: from the call, its configuration, or the model's."""
    if name in arguments:
        return arguments[name]
    given = getattr(arguments.get("generation_config"), name, None)
    return getattr(model.generation_config, name, None) if given is None else given


def model_problem(model: Any) -> str | None:
    """Reason why no call of `model` can be served from stored keys and values; None where calls can be."""
    method = getattr(model.generate, "__func__", None)
    if method is not GenerationMixin.generate and not type(model).__module__.startswith("peft."):
        return f"{type(model).__name__} has a generate of its own, which may read and store in another way; {INSTEAD}"
    if is_split(model):
        return f"{type(model).__name__} is split over several processes; sessions of rank 0 serve it (docs/devices.md)"
    problem = read_problem(model)
    if problem is not None:
        return problem
    text = find_decoder(model).config
    attention = base_name(getattr(text, "_attn_implementation", None) or "eager")
    flash = attention.startswith("flash_attention")
    if attention not in ("sdpa", "eager") and not flash:
        return f"its attention implementation {attention!r} takes no masks of ours; load it with 'sdpa'"
    if flash and getattr(text, "sliding_window", None) is not None:
        return f"{attention} counts sliding windows in stored tokens; load it with attn_implementation='sdpa'"
    return None


def rope_limit(model: Any) -> int | None:
    """Tokens from where on the rotary embeddings change with the length of the sequence; None: they never do."""
    return rope_switch(find_decoder(model).config)


def keeps_positions(model: Any) -> bool:
    """Return True if `model` notes between calls how far pictures have moved its positions, as Qwen-VL does."""
    return any(hasattr(module, "rope_deltas") for module in (model, getattr(model, "model", None)))


def answer_tokens(model: Any, arguments: dict[str, Any], prompt: int) -> int:
    """The most tokens that the call generates after a prompt of `prompt` tokens."""
    most = setting(model, arguments, "max_new_tokens")
    length = setting(model, arguments, "max_length")
    if most is None:
        most = 20 if length is None else length - prompt  # 20: what transformers generates if nobody says
    return max(1, int(most))


def call_problem(model: Any, arguments: dict[str, Any]) -> str | None:
    """Reason why this call of `generate` goes to the bare model; None where it can be served."""
    if switched_off():
        return f"{SWITCH}=full"
    if model.training:
        return "the model is in training mode"
    problem = _prompt_problem(model, arguments)
    if problem is not None:
        return problem
    if given_cache(arguments) is not None:
        return "the call brings its own past_key_values"
    for name in ("assistant_model", "custom_generate", "synced_gpus"):
        if arguments.get(name):
            return f"the call gives {name}"
    return other_inputs(arguments) or _setting_problem(model, arguments)


def _prompt_problem(model: Any, arguments: dict[str, Any]) -> str | None:
    if arguments.get("inputs_embeds") is not None:
        return "the prompt comes as embeddings"
    if arguments.get("inputs") is not None and arguments.get("input_ids") is not None:
        return "the prompt is given twice"
    ids = prompt_of(arguments)
    whole = isinstance(ids, torch.Tensor) and ids.ndim == 2 and ids.dtype in (torch.int32, torch.int64)
    if not whole or ids.shape[1] == 0:
        return "the prompt is no tensor of token ids (1, tokens)"
    if ids.shape[0] != 1:
        return f"the batch has {ids.shape[0]} rows"
    mask = arguments.get("attention_mask")
    if mask is None:
        # Without a mask, transformers takes padding tokens for padding, unless they also end texts.
        pad, end = (setting(model, arguments, name) for name in ("pad_token_id", "eos_token_id"))
        ends = end if isinstance(end, (list, tuple)) else [end]
        if pad is not None and pad not in ends and bool((ids == pad).any()):
            return "the prompt has padding in it"
    elif not isinstance(mask, torch.Tensor) or mask.shape != ids.shape or not bool((mask == 1).all()):
        return "the prompt is padded or masked"
    return None


def _setting_problem(model: Any, arguments: dict[str, Any]) -> str | None:
    def of(name: str) -> Any:
        return setting(model, arguments, name)

    if of("use_cache") is False:
        return "the call switches caching off"
    for name in ("num_beams", "num_return_sequences"):
        if (of(name) or 1) > 1:
            return f"{name}={of(name)}: several answers share one cache"
    if any(of(name) for name in _ASSISTED):
        return "assisted generation manages the cache itself"
    for name in _METHODS:
        if of(name) not in (None, False, 1):
            return f"{name}={of(name)!r}: this decoding method manages the cache itself"
    for name in ("output_attentions", "output_hidden_states"):
        if of(name):
            return f"{name}: of tokens read before there are none"
    return cache_wish(model, arguments)


def cache_wish(model: Any, arguments: dict[str, Any]) -> str | None:
    """Reason that the call itself chooses a cache; a default in the model's folder is nobody's wish."""
    for name in ("cache_implementation", "cache_config", "compile_config"):
        given = setting(model, arguments, name)
        # Pipelines copy the folder's default into every call.
        if given is not None and (name in arguments or given != getattr(model.generation_config, name, None)):
            return f"the call chooses a cache implementation ({name})"
    return None


def without_folder_cache(model: Any) -> dict[str, Any]:
    """Arguments that keep the cache in the model's folder from standing beside one of ours."""
    folder = getattr(model.generation_config, "cache_implementation", None)
    return {} if folder is None else {"cache_implementation": None}


def other_inputs(arguments: dict[str, Any]) -> str | None:
    """Reason that the call gives the model more than tokens, such as pictures; None where it does not."""
    unknown = sorted(name for name in arguments if name not in _KNOWN and arguments[name] is not None)
    return f"the call gives the model more than tokens: {', '.join(unknown)}" if unknown else None
