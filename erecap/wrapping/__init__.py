"""`erecap.wrap`: put the middleware under a planner that already exists, without changing it."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from erecap.budget import Budget
from erecap.context.lines import LinePatterns
from erecap.errors import ConfigError
from erecap.tokens.scoring.schedule import PruneConfig
from erecap.wrapping.log import CallLog
from erecap.wrapping.option_types import is_number
from erecap.wrapping.probing import attribute
from erecap.wrapping.stand_ins import is_stand_in

KEEP = 0.7  # share of the tokens that stay where pruning is asked for, and no share is said


def wrap(
    target: Any,
    *,
    budget: int | str | Budget | None = None,
    evict_by: Any = None,
    protect_first: int | None = None,
    conversations: int | None = None,
    memory_bytes: int | None = None,
    exit: Any = None,
    keep: float | None = None,
    scorer: str | None = None,
    prune: PruneConfig | None = None,
    keep_tokens: int | None = None,
    count_tokens: Callable[[str], int] | None = None,
    tokenizer: Any = None,
    patterns: str | LinePatterns | None = None,
    on_error: str = "raise",
    rank: Callable[[str], float] | None = None,
    shadow: float = 0.0,
    thinking_first: bool = False,
    emit_edits: bool = False,
    log: str | Path | None = None,
) -> Any:
    """Wrap `target` in an object with the same interface that makes each call cheaper and changes nothing else.

    A **Hugging Face causal model** becomes a session behind its own `generate`:

        planner = erecap.wrap(model)
        while not done:
            output = planner.generate(ids, max_new_tokens=64)  # prefills only the new tokens of `ids`
            ids = torch.cat([output, tokens_of(observation)], 1)

    The keys and values of prompts and answers stay. A call prefills only the tokens that its prompt does not share
    with a stored conversation. While a conversation fits the window, the result is the bare model's. Calls that
    cannot be served in this way (batches, beams, a cache of the caller's, and others) go to the model as they are; the
    log says why. With a smaller `budget`, old tokens are evicted earlier. With `keep`, `scorer` or `prune`, the model
    instead reads every prompt whole and drops tokens from its deeper layers while it does.

    A **callable** gives no access to its cache, so its text is shortened, record by record
    (`erecap.context.compaction`). One of its arguments is a chat (OpenAI-style dictionaries with `role` and `content`,
    or messages in the shape of another host), or a prompt string that grows from call to call. It is found by its name,
    such as `messages` or `prompt`; otherwise it is the first chat, or the first argument. System messages, the first
    user message and the newest message always stay; of a string, the first prompt and the newest exchange. With
    `keep_tokens`, the shown chat is only appended to until it is full, so that the prompt cache of a server holds.
    Conversations that take turns are told apart by their beginnings.

    A **client** of the package `openai`, sync or async, is treated likewise in `chat.completions` and `responses`:
    streams, tools and all else that a call has go through as they are; so are clients of `anthropic` and others. A
    **text-generation pipeline** of transformers gets a wrapped model.

    An **object with methods that plan**, as a chat model of LangChain, PARTNR's `BaseLLM`, smolagents' `Model` or
    `llama_cpp.Llama`, is shown less in each of them. The result is an object of the same class that shares all state
    with the wrapped one. An object that holds a model of transformers and its tokenizer, as smolagents'
    `TransformersModel`, gets a wrapped model instead, unless an option of callables is given. An agent that keeps its
    own messages is refused, with the line that works; docs/hosts.md has a row for each framework.

    The wrapped planner keeps signature, attributes, copies and pickles of what it wraps, and its kind of answer:
    coroutines, generators, streams and context managers are measured until they end. Messages that cannot be
    shortened, such as pictures, pass as they are, and the log counts them.

    The environment variable `ERECAP_MODE=full` turns all of it off, call by call.

    Args:
        target: the model, pipeline, client or callable.
        budget: for a model, the most tokens that each layer stores of one conversation, or a `Budget`. Never evicted
            are the first prompt, up to a quarter of the budget, and the newest quarter of the budget. None
            or `auto`: `Budget.auto()`, which drops nothing while the conversation fits the model's window.
        evict_by: for a model with a budget, the ranking of the other tokens: `recency` (None), `random`, `attention`,
            the name or folder of a trained pruner, or a scorer of tokens when they are read, as of `ReplanSession`.
        protect_first: for a model with a budget, how many tokens at the beginning are protected instead.
        conversations: for a model, how many are stored between calls (8), the least recently used out first.
        memory_bytes: for a model, the most bytes of keys and values of all conversations; None: a quarter of the
            memory of its device. An automatic budget evicts within a number given, so that the newest conversation
            stays stored. `budget=Budget.auto(memory_bytes=...)` is the limit of each conversation instead.
        exit: for a model, early exit in decoding, verified: an `Exit`, the name or folder of a predictor that `erecap
            train exit` made, or settings such as `{"layer": 20}`; False: none. Answers stay the bare model's.
        keep: for a model, the share of tokens that each pruning stage keeps (0.7 if `scorer` is given); for a callable
            with a chat, the share of all tokens of a call. 1.0 keeps everything.
        scorer: for a model, a name of `erecap.registries.SCORERS`; for a callable only `recency`.
        prune: for a model, the full configuration instead of `keep` and `scorer`.
        keep_tokens: for a callable, the most tokens of a call instead of `keep`, so that calls stop growing. All that
            is sent counts: tools and their calls, reasoning, schemas, and each image as 1,600 tokens. With neither,
            nothing is shortened: calls are counted, logged and passed, and a warning says so.
        count_tokens: for a callable, tokens of a text.
        tokenizer: for a callable, what counts instead: a tokenizer with `encode`, a function of a text that returns a
            number or tokens, a model's catalog or hub name, its folder, or a file `tokenizer.json`. The tags of its
            chat template tell the turns of a prompt string. None: an estimate by scripts, rather too high.
        patterns: for a callable, how lines mark observations: a name of `erecap.context.lines.PATTERNS`, or patterns
            of your own. None: all messages of users and tools were; in a string, each turn between two known chat
            tags. Of a string whose turns cannot be told, whole exchanges go, or nothing.
        on_error: for a callable, what happens if shortening fails: `raise`, or `full`, which sends everything and notes
            the error in the log.
        rank: for a callable, importance score of an observation's text; the lowest goes first. Such as
            `erecap.wrapping.ranking.SelfInformation` of a small local model. None: the oldest goes first.
        shadow: for a callable, the share of the calls that are made once more with everything, in the background, to
            compare times and answers (`shadow.jsonl` beside the log; not for streams). Eight may wait; others are
            skipped. Answers of unknown kinds are not compared.
        thinking_first: for a callable, the thinking in earlier answers (`<think>`) goes before anything else. Without
            it answers stay as they are, or go with their exchange.
        emit_edits: for an `openai` client of a server that carries out edits (`erecap serve`, AKV's): chats are sent
            whole, with `drop_message` and `reposition` in `extra_body`. A server whose answers do not count what it
            dropped gets no further one.
        log: a folder that gets `run.json` and one row a call in `replans.jsonl`; `erecap report` reads it. If a row
            cannot be written, the call is answered all the same, with one warning.

    Returns:
        The wrapped object; `.log.rows` counts the calls noted. A wrapped model has `.conversations`, which counts
        what is stored, and `.reset()`, which forgets it.

    Raises:
        ConfigError: an option that the kind of target does not have, an unusable value, what is wrapped already, or
            what holds its planner elsewhere.
        TypeError: a target of another kind.
    """
    _refuse(target)
    session: dict[str, Any] = {
        "budget": budget, "evict_by": evict_by, "protect_first": protect_first, "conversations": conversations,
        "memory_bytes": memory_bytes, "exit": None if exit is False else exit,
    }  # fmt: skip
    session = {name: value for name, value in session.items() if value is not None}
    pruning: dict[str, Any] = {"keep": keep, "scorer": scorer, "prune": prune}
    pipeline = _is_pipeline(target)
    if pipeline and target.task not in ("text-generation", ""):  # "" where it was built by hand
        raise ConfigError(f"a pipeline for {target.task!r} plans nothing; only text-generation can be wrapped")
    text = any(given is not None for given in (keep, keep_tokens, count_tokens, tokenizer, patterns, rank))
    text = text or on_error != "raise" or bool(shadow) or thinking_first or emit_edits
    if pipeline or (_holds_a_model(target) and not text):
        holder = copy.copy(target)
        holder.model = wrap(
            target.model, **session, **pruning, keep_tokens=keep_tokens, count_tokens=count_tokens,
            tokenizer=tokenizer, patterns=patterns, on_error=on_error, rank=rank, shadow=shadow,
            thinking_first=thinking_first, emit_edits=emit_edits, log=log,
        )  # fmt: skip
        holder.log = holder.model.log
        return holder
    if _is_model(target):
        if keep_tokens is not None or count_tokens is not None:
            raise ConfigError("keep_tokens and count_tokens are for callables; a model has budget, or keep and scorer")
        if tokenizer is not None:
            raise ConfigError("tokenizer is for callables; a model is given token ids")
        if patterns is not None or on_error != "raise" or rank is not None or shadow:
            raise ConfigError(
                "patterns, on_error, rank and shadow are for callables; a model has budget, or keep and scorer"
            )
        if thinking_first or emit_edits:
            raise ConfigError("thinking_first and emit_edits are for callables, whose chats are shortened as text")
        return _wrapped_model(target, session, pruning, log)
    if session:
        raise ConfigError(f"{', '.join(session)}: for models, which have keys and values; a callable has keep_tokens")
    if prune is not None:
        raise ConfigError("prune is for models; a callable is pruned by keep or keep_tokens")
    if scorer not in (None, "recency"):
        raise ConfigError(f"scorer {scorer!r} looks inside a model; for a callable only 'recency' is possible")
    from erecap.wrapping.text_planners import wrap_text

    options: dict[str, Any] = {
        "keep": 1.0 if keep is None else keep, "keep_tokens": keep_tokens, "count_tokens": count_tokens,
        "tokenizer": tokenizer, "patterns": patterns, "on_error": on_error, "rank": rank, "shadow": shadow,
        "thinking_first": thinking_first, "emit_edits": emit_edits, "log": log,
    }  # fmt: skip
    wrapped = wrap_text(target, options, rewrapped)
    if keep is None and keep_tokens is None:
        warnings.warn(
            "erecap.wrap shortens nothing without a limit: calls are counted and passed as they are; give keep_tokens, "
            "the most tokens of a call, or keep, a share of them",
            stacklevel=2,
        )
    return wrapped


def rewrapped(target: Any, options: dict[str, Any]) -> Any:
    """As `wrap`, with its options in a dictionary: what copies and pickles of wrapped planners are made by."""
    return wrap(target, **options)


def _wrapped_model(model: Any, session: dict[str, Any], pruning: dict[str, Any], log: str | Path | None) -> Any:
    """A session behind `generate`, or, where pruning is asked for, a model that prunes at prefill."""
    given = [name for name, value in pruning.items() if value is not None]
    if not given:
        from erecap.wrapping.session_model import SessionModel

        return SessionModel(model, **session, log=log)
    if session:
        raise ConfigError(
            f"{', '.join(given)}: every prompt is then read whole and pruned, and there is no session for "
            f"{', '.join(session)}; give either"
        )
    from erecap.wrapping.model import WrappedModel

    keep, scorer, prune = pruning.values()
    if keep is not None and not is_number(keep):
        raise ConfigError(f"keep must be a number above 0 and at most 1, got {keep!r}")
    if prune is not None and not isinstance(prune, PruneConfig):
        raise ConfigError(f"prune: got {prune!r}; allowed: a PruneConfig")
    try:
        config = prune or PruneConfig(scorer=scorer or "recency", keep=KEEP if keep is None else keep)
        return WrappedModel(model, config, CallLog(log, "model", f"prune[{_name(config.scorer)}]"))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _refuse(target: Any) -> None:
    """Refuse what would pass for a callable, and is none: something wrapped, or a module that cannot generate."""
    if is_stand_in(target):
        raise ConfigError("it is already wrapped; give all options to one wrap")
    torch = sys.modules.get("torch")  # loaded, if there is a module at all
    if torch is not None and isinstance(target, torch.nn.Module) and not callable(getattr(target, "generate", None)):
        raise TypeError(
            f"wrap takes a causal language model; {type(target).__name__} is a torch module without generate"
        )


def _is_model(target: Any) -> bool:
    return all(attribute(target, name) is not None for name in ("generate", "config", "forward"))


def _holds_a_model(target: Any) -> bool:
    """An object that generates with a model and a tokenizer of its own, such as smolagents' `TransformersModel`."""
    tokens = attribute(target, "tokenizer") is not None or attribute(target, "processor") is not None
    generates = callable(attribute(target, "generate")) and not _is_model(target)
    return generates and tokens and _is_model(attribute(target, "model"))


def _is_pipeline(target: Any) -> bool:
    """Return True for a pipeline of transformers; agents of other libraries have model, tokenizer and task, too."""
    module = sys.modules.get("transformers.pipelines.base")  # loaded, if there is a pipeline at all
    return module is not None and isinstance(target, module.Pipeline)


def _name(scorer: Any) -> str:
    return scorer if isinstance(scorer, str) else type(scorer).__name__
