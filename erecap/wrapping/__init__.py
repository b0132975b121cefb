"""`erecap.wrap`: put the middleware under a planner that already exists, without changing it."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from erecap.context.lines import LinePatterns
from erecap.errors import ConfigError
from erecap.tokens.scoring.schedule import PruneConfig
from erecap.wrapping.log import CallLog


def wrap(
    target: Any,
    *,
    keep: float = 0.7,
    scorer: str = "recency",
    prune: PruneConfig | None = None,
    keep_tokens: int | None = None,
    count_tokens: Callable[[str], int] | None = None,
    patterns: str | LinePatterns | None = None,
    on_error: str = "raise",
    rank: Callable[[str], float] | None = None,
    shadow: float = 0.0,
    log: str | Path | None = None,
) -> Any:
    """An object with the interface of `target` that prunes each call and otherwise changes nothing.

    A **Hugging Face causal model** is pruned inside, token by token, while it reads the prompt: `wrap(model)` has
    the same `generate` and everything else of `model`.

    A **callable** cannot be looked into, so its text is shortened, record by record (`erecap.context.compaction`). Its
    first argument is a chat (OpenAI-style dictionaries with `role` and `content`), or a prompt string that grows from
    call to call. System messages, the first user message and the newest message always stay; of a string, the first
    prompt and the newest exchange. With `keep_tokens`, what is shown is only appended to until it is full, so that the
    prompt cache of a server holds; conversations that take turns are told apart by their beginnings.

    A **client** of the package `openai`, sync or async, is treated likewise in `chat.completions`: streams, tools and
    all else that a call has go through as they are. A **text-generation pipeline** of transformers gets a wrapped
    model.

    An **object with a method `generate`** that takes such a prompt or chat, as of PARTNR, smolagents or BALROG, is
    shown a shorter one, too.

    The environment variable `ERECAP_MODE=full` turns all of it off, call by call.

    Args:
        target: the model, pipeline, client or callable.
        keep: for a model, the share of tokens that each pruning stage keeps; for a callable with a chat, the share of
            all tokens of a call. 1.0 keeps everything.
        scorer: for a model, a name of `erecap.registries.SCORERS`; for a callable only `recency`.
        prune: for a model, the full configuration instead of `keep` and `scorer`.
        keep_tokens: for a callable, the most tokens of a call instead of `keep`, so that calls stop growing.
        count_tokens: for a callable, tokens of a text; without it a token is taken to be four characters.
        patterns: for a callable, how lines tell what was seen: a name of `erecap.context.lines.PATTERNS`, or patterns
            of your own. None: all messages of users and tools were, and all that follows an answer in a string.
        on_error: for a callable, what happens if shortening fails: `raise`, or `full`, which sends everything and notes
            the error in the log.
        rank: for a callable, what an observation is worth, from its text; the least worth goes first. Such as
            `erecap.wrapping.ranking.SelfInformation` of a small local model. None: the oldest goes first.
        shadow: for a callable, the share of the calls that are made once more with everything, in the background, to
            compare times and answers (`shadow.jsonl` beside the log; not for streams). Eight may wait; others are
            skipped.
        log: a folder that gets `run.json` and one row a call in `replans.jsonl`; `erecap report` reads it.

    Returns:
        The wrapped object; `.log.rows` counts the calls noted.

    Raises:
        ConfigError: an option that the kind of target does not have, or an unusable value.
        TypeError: a target of another kind.
    """
    if _is_pipeline(target):
        if target.task not in ("text-generation", ""):  # "" where it was built by hand
            raise ConfigError(f"a pipeline for {target.task!r} plans nothing; only text-generation can be wrapped")
        piped = copy.copy(target)
        piped.model = wrap(
            target.model, keep=keep, scorer=scorer, prune=prune, keep_tokens=keep_tokens, count_tokens=count_tokens,
            patterns=patterns, on_error=on_error, rank=rank, shadow=shadow, log=log,
        )  # fmt: skip
        piped.log = piped.model.log
        return piped
    if hasattr(target, "generate") and hasattr(target, "config") and hasattr(target, "forward"):
        if keep_tokens is not None or count_tokens is not None:
            raise ConfigError("keep_tokens and count_tokens are for callables; a model is pruned by keep and scorer")
        if patterns is not None or on_error != "raise" or rank is not None or shadow:
            raise ConfigError(
                "patterns, on_error, rank and shadow are for callables; a model is pruned by keep and scorer"
            )
        from erecap.wrapping.model import WrappedModel

        try:
            config = prune or PruneConfig(scorer=scorer, keep=keep)
            folder = None if log is None else Path(log)
            return WrappedModel(target, config, CallLog(folder, "model", f"prune[{_name(config.scorer)}]"))
        except ValueError as error:
            raise ConfigError(str(error)) from error
    client = hasattr(target, "chat") and hasattr(target.chat, "completions")
    generator = callable(getattr(target, "generate", None))
    if client or generator or callable(target):
        if prune is not None:
            raise ConfigError("prune is for models; a callable is pruned by keep or keep_tokens")
        if scorer != "recency":
            raise ConfigError(f"scorer {scorer!r} looks inside a model; for a callable only 'recency' is possible")
        from erecap.wrapping.calls import TextCalls
        from erecap.wrapping.shadow import Shadow

        calls = TextCalls.opened(
            "client" if client else "generator" if generator else "callable", log, keep=keep, keep_tokens=keep_tokens,
            count_tokens=count_tokens, patterns=patterns, on_error=on_error, rank=rank,
        )  # fmt: skip
        replays = Shadow(shadow, calls.log)
        if client:
            from erecap.wrapping.openai_client import WrappedClient

            return WrappedClient(target, calls, replays)
        if generator:
            from erecap.wrapping.generators import WrappedGenerator

            return WrappedGenerator(target, calls, replays)
        from erecap.wrapping.callables import wrap_callable

        return wrap_callable(target, calls, replays)
    raise TypeError(
        "wrap takes a transformers model or pipeline, an openai client, or a callable messages -> str or prompt -> str,"
        f" got {type(target).__name__}"
    )


def _is_pipeline(target: Any) -> bool:
    """Whether it is a pipeline of transformers; agents of other libraries have a model, a tokenizer and a task, too."""
    module = sys.modules.get("transformers.pipelines.base")  # loaded, if there is a pipeline at all
    return module is not None and isinstance(target, module.Pipeline)


def _name(scorer: Any) -> str:
    return scorer if isinstance(scorer, str) else type(scorer).__name__
