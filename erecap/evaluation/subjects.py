"""Subjects of an evaluation: one model as it is, and changed by a layer plan, by pruning, by a session's budget."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch

from erecap.budget import AUTO
from erecap.config.modes import PRESETS, Evict, Mode, parse_mode
from erecap.config.run import BudgetSettings, PruneSettings
from erecap.errors import ConfigError, RunError
from erecap.generation import Generation, Message
from erecap.language_models.build import CallSettings, OpenedModel, build_language_model
from erecap.language_models.per_episode import EpisodeSessions
from erecap.language_models.transformers import TransformersLanguageModel
from erecap.layers.files import describe_plan
from erecap.serving.raw_text import raw_tokenizer
from erecap.session.teacher_forcing import text_logits
from erecap.tokens.cache.ropes import window_of_model
from erecap.tokens.scoring.pruner_files import describe_pruner
from erecap.tuning.agreement import pruned_logits, unpruned_logits

DENSE = "dense"
NEWEST = 4  # of a text without messages, the newest 1/4 of the budget is evicted last, as in `erecap.wrap`
Model = TransformersLanguageModel | EpisodeSessions


@dataclass(frozen=True)
class Change:
    """The changes of one subject. Without any it is the dense model."""

    mode: Mode = PRESETS["full"]
    layers: str | None = None  # layer plan: a folder or a name
    kv_tokens: int | Literal["auto"] | None = AUTO  # of modes that evict
    keep: float = 0.7  # share of its tokens that one stage keeps, in modes that prune
    stages: tuple[int, ...] | None = None  # layers before which tokens are dropped; None: every third from 4 on
    pruner: str | None = None  # the trained pruner of `prune[learned]`: a folder or a name
    allow_untested_pruner: bool = False
    seed: int = 0  # of rankings that draw

    @property
    def dense(self) -> bool:
        """True if nothing is changed."""
        return self.layers is None and not self.mode.session and self.mode.prune is None


@dataclass(frozen=True)
class Scores:
    """The tokens of a continuation, as a model saw them coming."""

    logprobs: tuple[float, ...]  # natural logarithm of the probability of each token
    choices: tuple[int, ...]  # most probable token in place of each
    kept: float | None = None  # share of the context's tokens that was stored, mean over the layers that store any

    @property
    def nats(self) -> float:
        """Negative log-likelihood of the continuation."""
        return -sum(self.logprobs)


class Subject:
    """One changed model that scores continuations and answers prompts.

    Args:
        name: in tables and plots.
        opened: the dense model; several subjects share its weights.
        change: what is changed.

    Raises:
        ConfigError: a change that the model cannot serve.
        ModelError: a layer plan or a trained pruner that is damaged or of another model.
    """

    def __init__(self, name: str, opened: OpenedModel, change: Change) -> None:
        self.name, self.change = name, change
        self.opened = opened.with_layers(change.layers)
        self.facts = _facts(change)
        self.key = key_of(opened, change)
        _ = self.text_model  # so that what cannot be served is said before anything is measured

    @property
    def drops(self) -> bool:
        """True if tokens of a context may be dropped."""
        return self.change.mode.budgeted or self.change.mode.prune is not None

    @property
    def window(self) -> int:
        """Tokens that the model can take."""
        return window_of_model(self.opened.model, reused=False)

    @cached_property
    def text_model(self) -> Model:
        """The language model of texts without a chat template."""
        return self._model(replace(self.opened, tokenizer=raw_tokenizer(self.opened.tokenizer)), self.change.mode)

    @cached_property
    def chat_model(self) -> Model:
        """The language model of chats."""
        return self._model(self.opened, self.change.mode)

    @cached_property
    def sessions(self) -> EpisodeSessions | None:
        """Sessions that read growing chats; None where the mode prunes, and so reads each chat anew.

        Without a budget they keep everything: the dense model's answers up to rounding, and each token is read once.
        """
        mode = self.change.mode
        if not mode.session and mode.prune is not None:
            return None
        found = self._model(self.opened, mode if mode.session else PRESETS["reuse"])
        assert isinstance(found, EpisodeSessions), "modes that keep keys and values are sessions"
        return found

    def _model(self, opened: OpenedModel, mode: Mode) -> Model:
        change = self.change
        settings = CallSettings(
            BudgetSettings(kv_tokens=change.kv_tokens),
            PruneSettings(keep=change.keep, stages=None if change.stages is None else list(change.stages)),
            pruner=change.pruner,
            allow_untested_pruner=change.allow_untested_pruner,
            seed=change.seed,
        )
        model = build_language_model(opened, mode, settings)
        assert isinstance(model, (TransformersLanguageModel, EpisodeSessions)), "checked by `check_mode`"
        return model

    def scores(
        self, context: Sequence[int], continuation: Sequence[int], protect: Sequence[tuple[int, int]] = ()
    ) -> Scores:
        """Score the tokens of `continuation` behind those of `context`. Nothing of the context is scored.

        Args:
            protect: token indices `(start, end)` of the context that pruning and eviction spare.

        Raises:
            ConfigError: no context, or more tokens than the model's window has.
            RunError: logits that are not finite.
        """
        if not context or not continuation:
            raise ConfigError("evaluate: a continuation is scored behind at least one token of context")
        if len(context) + len(continuation) - 1 > self.window:  # the last token is not read
            raise ConfigError(
                f"evaluate: {len(context):,} tokens of context and {len(continuation):,} of continuation pass the "
                f"model's window of {self.window:,}"
            )
        model, kept = self.text_model, None
        if isinstance(model, EpisodeSessions):
            model.reset()
            spans = [*protect, *self._newest(len(context))]
            rows, stored = text_logits(model.session, context, continuation, spans)
            logits = torch.from_numpy(rows)
            kept = share_of(stored, len(context) - 1)
        elif model.prune is not None:
            logits, counts = pruned_logits(model.model, model.prune, context, continuation, protect)
            kept = share_of(counts, len(context))
        else:
            logits = unpruned_logits(model.model, context, continuation)
        return scores_of(logits, continuation, self.name, kept)

    def _newest(self, tokens: int) -> list[tuple[int, int]]:
        """The newest tokens of a text that a session evicts last."""
        assert isinstance(self.text_model, EpisodeSessions)
        limit = self.text_model.session.budget.tokens(tokens)
        return [] if limit is None else [(max(0, tokens - limit // NEWEST), tokens)]

    def answer(
        self, messages: Sequence[Message], *, max_new_tokens: int, stop: Sequence[str] = (), raw: bool = False
    ) -> Generation:
        """Answer a prompt greedily. A session reads it first, and is within its budget when the answer begins.

        Args:
            raw: `messages` are pieces of one text, without a chat template.

        Raises:
            ConfigError: no room for the answer.
            BudgetError: what is protected exceeds the budget or the window.
        """
        model = self.text_model if raw else self.chat_model
        model.reset()
        try:
            if isinstance(model, EpisodeSessions):
                model.read(messages)
            return model.generate(messages, max_new_tokens=max_new_tokens, stop=stop)
        except ValueError as error:
            raise ConfigError(f"{self.name}: {error}") from error

    def protected_characters(self, text: str) -> int:
        """Newest characters of a text without messages that a session evicts last."""
        if not isinstance(self.text_model, EpisodeSessions):
            return 0
        encoded = self.opened.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans = self._newest(len(encoded["input_ids"]))
        return len(text) - int(encoded["offset_mapping"][spans[0][0]][0]) if spans and spans[0][0] else 0


def build_subjects(opened: OpenedModel, changes: Sequence[Change]) -> list[Subject]:
    """The dense model, then a subject for each change.

    Raises:
        ConfigError: two subjects of one name, or a change that the model cannot serve.
        ModelError: as `Subject`.
    """
    every = [Change(), *(change for change in changes if not change.dense)]
    names = [name_of(change) for change in every]
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise ConfigError(f"evaluate: two subjects are called {twice!r}; name each change once")
    return [Subject(name, opened, change) for name, change in zip(names, every, strict=True)]


def key_of(opened: OpenedModel, change: Change) -> str:
    """The digest by which rows name a subject: of its weights, its number format and what is changed."""
    base = {key: opened.facts[key] for key in ("hash", "dtype")} | {"adapter": opened.adapter_hash}
    return digest({**base, **_nameless(_facts(change))})


def mode_of(text: str, evict_by: str | None = None) -> Mode:
    """The mode of a subject: a preset, or a preset with sessions and one that prunes, as `erecap+prune[attention]`.

    Args:
        evict_by: ranking of what `erecap` evicts, where it is given.

    Raises:
        ConfigError: no such mode, or one that has no text to score.
    """
    try:
        first, *rest = [parse_mode(part) for part in text.split("+")]
    except ValueError as error:
        raise ConfigError(f"--mode: {error}") from error
    if rest:
        second = rest[0]
        if len(rest) > 1 or not first.session or second.session or second.prune is None:
            raise ConfigError(
                f"--mode: got {text!r}; allowed with +: a session and pruning, as erecap+prune[attention]"
            )
        first = replace(first, name=f"{first.name}+{second.name}", prune=second.prune)
    if not first.opens_model or first.text is not None:
        raise ConfigError(
            f"--mode: {first} has no model's own reading to judge; allowed: full, reuse, erecap, prune[...]"
        )
    if evict_by is None or not isinstance(first.kv, Evict) or first.kv.by is not None:
        return first
    return replace(first, kv=replace(first.kv, by=evict_by))


def name_of(change: Change) -> str:
    """The name of a subject in tables: `dense`, `thin`, `erecap 512`, `prune[attention] 0.7 + thin`."""
    mode, words = change.mode, []
    if mode.session or mode.prune is not None:
        numbers = [str(change.kv_tokens or "all")] if mode.budgeted else []
        numbers += [f"{change.keep:g}"] if mode.prune is not None else []
        words.append(" ".join([mode.name, *numbers]))
    if change.layers is not None:
        words.append(describe_plan(change.layers)["name"])
    return " + ".join(words) or DENSE


def scores_of(logits: Any, continuation: Sequence[int], where: str, kept: float | None = None) -> Scores:
    """Scores from logits `(len(continuation), vocab)`.

    Raises:
        RunError: logits that are not finite.
    """
    rows = torch.as_tensor(logits).float()
    if not bool(torch.isfinite(rows).all()):
        raise RunError(f"{where}: logits that are not finite; try dtype float32")
    wanted = torch.tensor(list(continuation), device=rows.device)
    logprobs = rows.log_softmax(-1).gather(-1, wanted[:, None])[:, 0]
    return Scores(tuple(logprobs.tolist()), tuple(rows.argmax(-1).tolist()), kept)


def digest(value: Any) -> str:
    """16 hexadecimal digits that stand for JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def share_of(stored: Sequence[int], tokens: int) -> float | None:
    """Share of `tokens` that is stored, mean over the layers that store any; None where there is nothing to store."""
    counts = [count for count in stored if count]
    return sum(counts) / len(counts) / tokens if counts and tokens else None


def _facts(change: Change) -> dict[str, Any]:
    """The change as results state it: names for people, hashes for comparisons."""
    mode = change.mode
    found: dict[str, Any] = {"mode": mode.parts()}
    if mode.budgeted:
        found["kv_tokens"] = change.kv_tokens
    if mode.prune is not None:
        found["keep"] = change.keep
        found["stages"] = change.stages and list(change.stages)
    if mode.budgeted or mode.prune is not None:
        found["seed"] = change.seed
    if change.layers is not None:
        found["layers"] = describe_plan(change.layers)
    pruner = mode.own_pruner or (change.pruner if mode.takes_run_pruner else None)
    if pruner is not None:
        found["pruner"] = describe_pruner(pruner)
    if mode.own_pruner is not None:
        found["mode"]["kv"]["evict"] = "own"  # wherever it lies; its hash stands beside
    return found


def _nameless(facts: dict[str, Any]) -> dict[str, Any]:
    """`facts` with hashes in place of names and hashes."""
    return {key: value["hash"] if key in ("layers", "pruner") else value for key, value in facts.items()}
