"""Reasons why a model, or one call of its `generate`, cannot be served from stored keys and values."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin

from erecap.tokens.cache.ropes import CHANGING, rope_kinds
from erecap.tokens.hooks import find_decoder
from erecap.tokens.scoring.probe import base_name
from erecap.wrapping.switch import SWITCH, switched_off

_SIGNATURE = inspect.signature(GenerationMixin.generate)
_PARAMETERS = frozenset(_SIGNATURE.parameters) - {"self", "kwargs"}
_KNOWN = _PARAMETERS | frozenset(GenerationConfig().__dict__) | {"input_ids", "attention_mask", "tokenizer"}
_ASSISTED = ("prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")
_METHODS = ("penalty_alpha", "dola_layers", "constraints", "force_words_ids", "num_beam_groups", "token_healing")
_LAYERS = {"full_attention", "sliding_attention"}


def bound(args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of `generate`, all by name.

    Raises:
        TypeError: more positional arguments than `generate` takes, or one given twice.
    """
    found = dict(_SIGNATURE.bind(None, *args, **kwargs).arguments)
    found.pop("self")
    return found | found.pop("kwargs", {})


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
    name, config = type(model).__name__, model.config
    if getattr(config, "is_encoder_decoder", False):
        return f"{name} has an encoder, whose keys and values are not those of one growing text"
    method = getattr(model.generate, "__func__", None)
    if method is not GenerationMixin.generate and not type(model).__module__.startswith("peft."):
        return f"{name} has a generate of its own"
    try:
        decoder = find_decoder(model)
    except ValueError as error:
        return str(error)
    text = decoder.config
    kinds = set(getattr(text, "layer_types", None) or ()) | set(getattr(text, "layers_block_type", None) or ())
    if kinds - _LAYERS:
        return f"{name} has layers of the kind {', '.join(sorted(kinds - _LAYERS))}, which cannot be rolled back"
    attention = base_name(getattr(text, "_attn_implementation", None) or "eager")
    flash = attention.startswith("flash_attention")
    if attention not in ("sdpa", "eager") and not flash:
        return f"its attention implementation {attention!r} takes no masks of ours; load it with 'sdpa'"
    if flash and getattr(text, "sliding_window", None) is not None:
        return f"{attention} counts sliding windows in stored tokens; load it with attn_implementation='sdpa'"
    return None


def rope_limit(model: Any) -> int | None:
    """Tokens from where on the rotary embeddings change with the length of the sequence; None: they never do."""
    config = find_decoder(model).config
    if not rope_kinds(config) & CHANGING:
        return None
    original = getattr(config, "original_max_position_embeddings", None)
    parameters = getattr(config, "rope_parameters", None) or {}
    return int(original or parameters.get("original_max_position_embeddings") or config.max_position_embeddings)


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
    if arguments.get("past_key_values") is not None:
        return "the call brings its own past_key_values"
    for name in ("assistant_model", "custom_generate", "synced_gpus"):
        if arguments.get(name):
            return f"the call gives {name}"
    unknown = sorted(name for name in arguments if name not in _KNOWN and arguments[name] is not None)
    if unknown:
        return f"the call gives the model more than tokens: {', '.join(unknown)}"
    return _setting_problem(model, arguments)


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
    # A default in the folder of the model is nobody's wish, and pipelines copy it into every call.
    for name in ("cache_implementation", "cache_config", "compile_config"):
        given = of(name)
        if given is not None and (name in arguments or given != getattr(model.generation_config, name, None)):
            return f"the call chooses {name}"
    return None
