"""Runnables of LangChain that hold chat models: each of the models is wrapped, and the runnable stays as it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from erecap.errors import ConfigError

_HOW = "erecap.wrap({}, keep_tokens=3000)"


def is_langchain_model(target: Any) -> bool:
    """Return True for a chat model of LangChain."""
    return is_a(target, "langchain_core.language_models.chat_models", "BaseChatModel")


def holds_models(target: Any) -> bool:
    """Return True for a chat model with tools or options bound, with fallbacks, or with what is chosen at each call."""
    if is_a(target, "langchain_core.runnables.base", "RunnableBindingBase"):
        return is_langchain_model(target.bound) or holds_models(target.bound)
    return _is_fallback(target) or _is_dynamic(target)


def with_models_wrapped(target: Any, wrapped: Callable[[Any], Any]) -> Any:
    """A copy of the runnable in which `wrapped` was applied to each model.

    Raises:
        ConfigError: a part of it is no chat model, or is made anew by a function at each call.
    """
    if _is_fallback(target):
        parts = {"runnable": target.runnable, "fallbacks": list(target.fallbacks)}
        line = f"wrap each model before: {_HOW.format('llm')}.with_fallbacks([{_HOW.format('other')}])"
    elif _is_dynamic(target):
        parts = {"default": target.default}
        if hasattr(target, "alternatives"):
            parts["alternatives"] = dict(target.alternatives)
        line = (
            f"wrap each model before: {_HOW.format('llm')}.configurable_alternatives(..., "
            f"other={_HOW.format('other')}); configurable_fields likewise"
        )
    else:
        return target.model_copy(update={"bound": wrapped(target.bound)})

    def part(held: Any) -> Any:
        if isinstance(held, list):
            return [part(one) for one in held]
        if isinstance(held, Mapping):
            return {name: part(one) for name, one in held.items()}
        if not (is_langchain_model(held) or holds_models(held)):
            raise ConfigError(f"{type(target).__name__} holds a {type(held).__name__}, which is no chat model; {line}")
        return wrapped(held)

    return target.model_copy(update={name: part(held) for name, held in parts.items()})


def is_a(target: Any, module: str, name: str) -> bool:
    """Return True for an object of that class, without importing its package."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(target, kind)


def _is_fallback(target: Any) -> bool:
    return is_a(target, "langchain_core.runnables.fallbacks", "RunnableWithFallbacks")


def _is_dynamic(target: Any) -> bool:
    return is_a(target, "langchain_core.runnables.configurable", "DynamicRunnable")
