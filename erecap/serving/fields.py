"""Fields of requests that this server does not serve: refused by name, unless their value asks for what is done anyway.

A field that is in neither table is refused too, so that none is ever ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What says who asks, or how a bill is made; no answer depends on it.
HARMLESS = frozenset(
    {
        "user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
        "request_id", "priority",
    }
)  # fmt: skip

# Values that ask for what is done anyway; None always does.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "store": (False,),
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),  # of chat completions; /v1/completions has a number
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    "echo": (False,),
    "suffix": ("",),
    "top_k": (-1, 0),
    "min_p": (0,),
    "typical_p": (1,),
    "repetition_penalty": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "length_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "use_beam_search": (False,),
    "early_stopping": (False,),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (False,),
    "truncate_prompt_tokens": (),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "bad_words_ids": ([],),
    "logit_bias": ({},),
    "documents": ([],),
    "chat_template_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "functions": ([],),
    "function_call": ("none",),
    "modalities": (["text"],),
    "reasoning_effort": (),
    "verbosity": ("medium",),
    "background": (False,),
    "truncation": ("disabled",),
    "include": ([],),
    "reasoning": ({},),
}


def unserved(given: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The first field that asks for something else than this server does, and its value."""
    for name, value in given.items():
        if value is None or name in HARMLESS or _is_neutral(value, NEUTRAL.get(name, ())):
            continue
        return name, value
    return None


def _is_neutral(value: Any, neutral: tuple[Any, ...]) -> bool:
    # True is 1 to Python, but no number of answers.
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral)
