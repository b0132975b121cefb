"""`erecap.wrap`: put the middleware under a planner that already exists, without changing it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from erecap.errors import ConfigError
from erecap.tokens.schedule import PruneConfig
from erecap.wrapping.log import CallLog


def wrap(
    target: Any,
    *,
    keep: float = 0.7,
    scorer: str = "recency",
    prune: PruneConfig | None = None,
    keep_tokens: int | None = None,
    count_tokens: Callable[[str], int] | None = None,
    log: str | Path | None = None,
) -> Any:
    """An object with the interface of `target` that prunes each call and otherwise changes nothing.

    A **Hugging Face causal model** is pruned inside, token by token, while it reads the prompt: `wrap(model)` has
    the same `generate` and everything else of `model`.

    A **callable** `messages -> str` (OpenAI-style dictionaries with `role` and `content`) cannot be looked into, so
    the oldest whole messages are left out. System messages, the first user message and the last message always
    stay, and roles go on alternating; no message is cut.

    Args:
        target: the model or callable.
        keep: for a model, the share of tokens that each pruning stage keeps; for a callable, the share of all
            tokens of a call. 1.0 keeps everything.
        scorer: for a model, one of `erecap.tokens.SCORER_NAMES`; for a callable only `recency`.
        prune: for a model, the full configuration instead of `keep` and `scorer`.
        keep_tokens: for a callable, an absolute budget instead of `keep`, so that calls stop growing.
        count_tokens: for a callable, tokens of a text; without it a token is taken to be four characters.
        log: a folder that gets `run.json` and one row a call in `replans.jsonl`.

    Returns:
        The wrapped object; `.log.rows` counts the calls noted.

    Raises:
        ConfigError: an option that the kind of target does not have, or an unusable value.
        TypeError: a target of another kind.
    """
    given_log = None if log is None else Path(log)
    if hasattr(target, "generate") and hasattr(target, "config") and hasattr(target, "forward"):
        if keep_tokens is not None or count_tokens is not None:
            raise ConfigError("keep_tokens and count_tokens are for callables; a model is pruned by keep and scorer")
        from erecap.wrapping.model import WrappedModel

        try:
            config = prune or PruneConfig(scorer=scorer, keep=keep)
            return WrappedModel(target, config, CallLog(given_log, "model", f"prune[{_name(config.scorer)}]"))
        except ValueError as error:
            raise ConfigError(str(error)) from error
    if callable(target):
        if prune is not None:
            raise ConfigError("prune is for models; a callable is pruned by keep or keep_tokens")
        if scorer != "recency":
            raise ConfigError(f"scorer {scorer!r} looks inside a model; for a callable only 'recency' is possible")
        from erecap.wrapping.callables import wrap_callable

        return wrap_callable(target, keep, keep_tokens, count_tokens, CallLog(given_log, "callable", "recency"))
    raise TypeError(f"wrap takes a Hugging Face model or a callable messages -> str, got {type(target).__name__}")


def _name(scorer: Any) -> str:
    return scorer if isinstance(scorer, str) else type(scorer).__name__
