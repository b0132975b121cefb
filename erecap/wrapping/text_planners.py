"""Planners that take text: each kind gets the wrapper that fits it, or one sentence with what to wrap instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from erecap.errors import ConfigError
from erecap.wrapping.asking import Asker
from erecap.wrapping.callables import WrappedCallable
from erecap.wrapping.calls import TextCalls
from erecap.wrapping.clients import WrappedClient
from erecap.wrapping.kinds import is_client, is_function, methods_of, why_not
from erecap.wrapping.langchain_runnables import holds_models, is_langchain_model, with_models_wrapped
from erecap.wrapping.objects import stand_in_object
from erecap.wrapping.proxies import Reduced
from erecap.wrapping.shadow import Shadow
from erecap.wrapping.watching import watched_methods


def wrap_text(target: Any, options: dict[str, Any], rewrapped: Callable[..., Any]) -> Any:
    """The wrapped planner.

    Args:
        target: a function, an object with methods that plan, or a client.
        options: of `erecap.wrap`, for planners that take text.
        rewrapped: makes a wrapped planner from a target and such options; copies and pickles name it.

    Raises:
        ConfigError: an unusable option, or a target that holds its planner elsewhere; with the line that works.
        TypeError: a target of another kind.
    """
    reason = why_not(target)
    if reason is not None:
        raise ConfigError(reason)
    if holds_models(target):
        return with_models_wrapped(target, lambda model: rewrapped(model, options))
    client = is_client(target)
    methods = [] if client or is_function(target) else methods_of(target)
    if not client and not methods and not callable(target):
        raise TypeError(
            "wrap takes a transformers model or pipeline, an openai client, or a callable messages -> str or prompt ->"
            f" str, got {type(target).__name__}"
        )

    def again(other: Any) -> Reduced:
        return rewrapped, (other, options)

    plans = set(methods) - {"__call__"}
    kind = "client" if client else "generator" if plans else "callable"
    text = {name: value for name, value in options.items() if name not in ("log", "shadow")}
    calls = TextCalls.opened(kind, options["log"], **text)
    asker = Asker(calls, Shadow(options["shadow"], calls.log), strict=kind == "callable")
    if client:
        return WrappedClient(target, asker, again)
    if methods:
        try:
            watched = [] if is_langchain_model(target) else watched_methods(target, methods)
            return stand_in_object(target, methods, asker, again, watched=watched)
        except (TypeError, AttributeError) as error:  # of a class written in C, or without a `__dict__`
            if plans and "__call__" in methods:
                raise ConfigError(
                    f"{type(target).__name__} cannot be wrapped as a whole ({error}); wrap the method that is called: "
                    f"erecap.wrap(planner.{min(plans)}, keep_tokens=3000)"
                ) from error
        if plans:
            return WrappedClient(target, asker, again)
    return WrappedCallable(target, asker, again)
