"""Calls of a planner that takes only text: shorten, ask, note; and now and then compare."""

from __future__ import annotations

import logging
import math
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from erecap.context.compaction import Shown, compact_messages
from erecap.context.lines import PATTERNS, LinePatterns, annotate
from erecap.context.turn_tags import template_tags
from erecap.errors import ConfigError
from erecap.generation import Message, Timing, Usage
from erecap.wrapping.answers import counts_drops, field_of, said_by
from erecap.wrapping.conversations import Conversations
from erecap.wrapping.hosted import hosted
from erecap.wrapping.log import CallLog
from erecap.wrapping.option_types import is_number, is_whole
from erecap.wrapping.prompts import PromptTalk
from erecap.wrapping.shapes import UNKNOWN, WHOLE, check_spans, read_messages, write_messages
from erecap.wrapping.switch import SWITCH, switched_off
from erecap.wrapping.token_counting import TokenCounter

_log = logging.getLogger(__name__)
_IGNORED = "the server does not carry out drop_message: its usage has no prompt_tokens_details.drop_skipped_tokens"
_SENDS_EDITS = ("client", "callable", "generator", "proxy")
OVER_BUDGET = 3  # calls after which a wrap that has shortened none says so; with fewer, all may be the newest exchange
OnError = Literal["raise", "full"]


@dataclass(frozen=True)
class TextOptions:
    """Settings of shortening a planner's text.

    Raises:
        ConfigError: an unusable value.
    """

    keep: float = 1.0  # share of the tokens of a call; where `keep_tokens` is given, that holds
    keep_tokens: int | None = None
    count_tokens: Callable[[str], int] | None = None
    patterns: str | LinePatterns | None = None
    on_error: OnError = "raise"
    rank: Callable[[str], float] | None = None  # importance score of an observation; None: the oldest goes first
    tokenizer: Any = None  # what counts tokens, as for `erecap.wrap`; None: `count_tokens`, or an estimate
    thinking_first: bool = False  # the thinking in answers goes before anything else
    # Send the whole chat with a list of edits (`drop_message`, `reposition`) for a server that carries them out.
    emit_edits: bool = False

    def __post_init__(self) -> None:
        if not is_number(self.keep) or not 0.0 < self.keep <= 1.0:
            raise ConfigError(f"keep must be above 0 and at most 1, got {self.keep!r}")
        if self.keep_tokens is not None and (not is_whole(self.keep_tokens) or self.keep_tokens < 1):
            raise ConfigError(f"keep_tokens must be 1 or more, a whole number, got {self.keep_tokens!r}")
        for name in ("count_tokens", "rank"):
            given = getattr(self, name)
            if given is not None and not callable(given):
                raise ConfigError(f"{name}: got {given!r}; allowed: a function of a text")
        if self.on_error not in ("raise", "full"):
            raise ConfigError(f"on_error: got {self.on_error!r}; allowed: raise, full")
        known = self.patterns in PATTERNS if isinstance(self.patterns, str) else isinstance(self.patterns, LinePatterns)
        if self.patterns is not None and not known:
            raise ConfigError(f"patterns: got {self.patterns!r}; allowed: {', '.join(PATTERNS)}, or LinePatterns")

        for name in ("thinking_first", "emit_edits"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}: got {getattr(self, name)!r}; allowed: True, False")
        if self.emit_edits and self.keep_tokens is None:
            raise ConfigError("emit_edits: messages are dropped to stay within a number of tokens; give keep_tokens")
        if self.emit_edits and self.thinking_first:
            raise ConfigError(
                "emit_edits: whole messages are dropped, their thinking with them; leave out thinking_first"
            )
        if self.tokenizer is not None and self.count_tokens is not None:
            raise ConfigError("count_tokens and tokenizer both count tokens; give one of them")

    @cached_property
    def counter(self) -> TokenCounter:
        """Counter of tokens.

        Raises:
            ConfigError: the tokenizer is none, or cannot be found.
        """
        return TokenCounter(self.tokenizer) if self.count_tokens is None else TokenCounter.by(self.count_tokens)

    @property
    def lines(self) -> LinePatterns | None:
        return PATTERNS[self.patterns] if isinstance(self.patterns, str) else self.patterns


@dataclass
class Call:
    """The content that is sent instead of the given one."""

    shown: Any  # of the kind that was given
    before: int  # tokens given
    after: int  # tokens shown
    reused: int = 0  # of these, at the beginning, as in the call before
    left_out: int = 0  # messages
    decision: str = "passed"
    reason: str = "it fits"
    started: float = field(default_factory=time.perf_counter)
    prepared: float = 0.0
    talk: PromptTalk | None = None
    beside: int = 0  # tokens of what is sent beside it
    compactions: int = 0  # of its conversation, up to now
    thrashed: int = 0  # of these, soon after another
    whole: int = 0  # messages with something else than one text, which are never shortened
    said: bool = False  # a warning of its own says that it was not shortened
    edits: dict[str, Any] | None = None  # fields to send beside the chat, for the server to edit it


class TextCalls:
    """Shortens calls and notes them.

    Args:
        options: checked ones.
        log: notes each call.
    """

    def __init__(self, options: TextOptions, log: CallLog) -> None:
        self._options, self.log = options, log
        self._told: set[str] = set()  # what was said in the program's log
        self._ignored: list[bool] = []  # holds something once a server has ignored edits; shared by calls kept apart
        self._counter = options.counter
        self._counting, self._over, self._shortened = threading.Lock(), 0, False
        self._talks = Conversations(
            self._counter.chat,
            self._counter.text,
            max_tokens=options.keep_tokens,  # with a share it is None, and no conversation fills up
            patterns=options.lines,
            tags=template_tags(self._counter.tokenizer),
            rank=options.rank,
            thinking_first=options.thinking_first,
            emit_edits=options.emit_edits,
        )

    @classmethod
    def opened(cls, kind: str, log: str | Path | None, **options: Any) -> TextCalls:
        """Calls of a planner of this kind, noted in the folder `log`; `options` as of `TextOptions`.

        Raises:
            ConfigError: an unusable option, or edits for a host that cannot send them.
        """
        if options.get("emit_edits") and kind not in _SENDS_EDITS:
            raise ConfigError(f"emit_edits: {kind} sends messages and no fields beside them; wrap the client below it")
        return cls(TextOptions(**options), CallLog(log, kind, "compact"))

    def apart(self) -> TextCalls:
        """Calls with the same settings and log, and with conversations of their own."""
        other = TextCalls(self._options, self.log)
        other._told, other._ignored = self._told, self._ignored
        return other

    def prepare(self, given: Any, request: Mapping[str, Any] | None = None) -> Call:
        """The content to send instead of `given`, a chat or a prompt string.

        Args:
            given: it, in the host's shape.
            request: what is sent beside it: tools, schemas and system text are counted (`request_parts.FIELDS`).

        Raises:
            ConfigError: neither of the two, or messages as `read_messages` does not take them.
        """
        call = Call(given, 0, 0)
        try:
            ours = given if isinstance(given, str) else read_messages(given, strict=False)
            if not isinstance(ours, str):
                call.whole = sum(WHOLE in message for message in ours)
                ours = self._counter.beside(ours, given)
            call.beside = self._counter.request(request or {})
            call.before = call.after = self._tokens(ours) + call.beside
            if switched_off():
                call.reason = f"{SWITCH}=full"
            elif (host := hosted(given, request or {})) is not None:
                call.reason, call.said = host, True
                self._tell(host.split(":")[0] if ":" in host else "compaction", host)
            else:
                self._shorten(call, given, ours)
        except Exception as error:  # the host decides what an error in here does
            if self._options.on_error == "raise":
                raise
            call.shown, call.after, call.decision = given, call.before, "failed"
            call.reason, call.talk = f"{type(error).__name__}: {error}", None
        call.prepared = time.perf_counter()
        return call

    def carried_out(self, answer: Any) -> None:
        """Look whether a server has carried out the edits of a call; one that has not gets no further ones."""
        if field_of(answer, "usage") is not None and not counts_drops(answer):
            self._ignored.append(True)
            self._tell("emit_edits", _IGNORED)

    def _tell(self, what: str, words: str) -> None:
        """Say once in the program's log why calls are not shortened."""
        with self._counting:
            known = what in self._told
            self._told.add(what)
        if not known:
            _log.warning("%s; calls of this kind pass as they are", words)

    def shortens(self, given: Any) -> bool:
        """Return True if such a history can be shortened at all; a prompt string needs `keep_tokens`."""
        return not isinstance(given, str) or self._options.keep_tokens is not None or self._options.keep == 1.0

    def pass_on(self, given: Any, reason: str) -> Call:
        """A call whose history is none that could be shortened, such as token ids or a prompt with images."""
        return Call(given, 0, 0, reason=reason, whole=1, prepared=time.perf_counter())

    def passing(self, given: Any, reason: str) -> Call | None:
        """A call of a method that is not shortened; None where its history fits the budget, or cannot be counted."""
        if switched_off():
            return None
        try:
            ours = given if isinstance(given, str) else read_messages(given, strict=False)
            before = self._tokens(ours if isinstance(ours, str) else self._counter.beside(ours, given))
        except Exception:  # noqa: BLE001 (nothing of this call was to be shortened, and the host has its answer)
            return None
        if before <= self._most(before):
            return None
        return Call(given, before, before, reason=reason, prepared=time.perf_counter(), said=True)

    def note(self, call: Call, answer: Any, **extra: object) -> int:
        """Note a call that was answered; the number of its row. The answer is there, so nothing here loses it."""
        said = said_by(answer)
        if call.talk is not None:
            call.talk.answer = said
        usage = Usage(
            prompt_tokens=call.before,
            new_tokens=call.after - call.reused,
            reused_tokens=call.reused,
            kept_per_layer=(call.after,),
            completion_tokens=self._answer_tokens(call, said),
            overflow_messages=call.left_out,
        )
        ended = time.perf_counter()
        timing = Timing(prune_ms=1e3 * (call.prepared - call.started), total_ms=1e3 * (ended - call.started))
        self._watch(call)
        extra = {
            "dropped_because": self._dropped_because(call),
            "tokens_estimated": self._counter.estimated,
            "compactions": call.compactions,
            "thrashed": call.thrashed,
            **({"whole_messages": call.whole} if call.whole else {}),
            **extra,
        }
        return self.log.note(usage, timing, call.decision, call.reason, **extra)

    def _watch(self, call: Call) -> None:
        """Say once that calls pass the budget and nothing of them can be shortened."""
        over = call.whole > 0 if not call.before else call.before > self._most(call.before)
        with self._counting:
            if call.decision == "pruned":
                self._shortened = True
            elif over and call.decision == "passed" and SWITCH not in call.reason and not call.said:
                self._over += 1
                if self._over == OVER_BUDGET and not self._shortened:
                    warnings.warn(
                        f"erecap.wrap has shortened none of {OVER_BUDGET} calls that were over their budget "
                        f"({call.reason}); docs/hosts.md says what to wrap",
                        stacklevel=3,
                    )

    def _most(self, before: int) -> int:
        """The most tokens of a call that has `before`."""
        most = self._options.keep_tokens
        return math.ceil(self._options.keep * before) if most is None else most

    def _answer_tokens(self, call: Call, said: str) -> int:
        if call.decision == "failed":  # perhaps in the count
            return 0
        try:
            return self._counter.text(said)
        except Exception as error:  # noqa: BLE001 (the host's own function, and the host's answer)
            call.reason = f"{call.reason}; the answer was not counted: {type(error).__name__}: {error}"
            return 0

    def _dropped_because(self, call: Call) -> str | None:
        if call.decision != "pruned":
            return None
        most = self._options.keep_tokens
        if most is None:
            return f"keep={self._options.keep:g} of the {call.before:,} tokens of the call are asked for"
        return f"the {call.before:,} tokens of the call pass keep_tokens={most:,}"

    def _shorten(self, call: Call, given: Any, ours: str | list[Message]) -> None:
        options = self._options
        if not isinstance(ours, str) and (call.before > self._most(call.before) or options.lines):
            check_spans(ours)
        shown: Shown | None = None
        room = None if options.keep_tokens is None else max(1, options.keep_tokens - call.beside)
        if isinstance(ours, str) and options.emit_edits:
            raise ConfigError("emit_edits: edits number the messages of a chat, and this planner takes one string")
        if isinstance(ours, str):
            if room is None and options.keep < 1.0:
                raise ConfigError("a prompt string is shortened to a number of tokens; give keep_tokens")
            call.shown, shown, call.talk = self._talks.show_prompt(ours, room)
            call.after = self._tokens(call.shown) + call.beside
        elif not ours:
            return
        elif unknown := [number for number, message in enumerate(ours) if UNKNOWN in message]:
            if call.before > self._most(call.before):
                call.reason = f"message {unknown[0]} has no role, so that nothing of this chat is left out"
            return
        elif room is not None:
            shown = self._talks.show_chat(ours, room)
            call.shown, call.after = write_messages(shown.messages, given), shown.tokens + call.beside
            call.left_out = len(ours) - len(shown.messages) + len(shown.dropped) * bool(shown.edits)
            call.edits = shown.edits
            if call.edits is not None and self._ignored:
                raise ConfigError(f"emit_edits: {_IGNORED}; leave it out")
        else:
            marked = annotate(ours, options.lines) if options.lines else ours
            target = max(1, math.ceil(options.keep * call.before) - call.beside)
            shorter = compact_messages(
                marked, target, self._counter.chat, rank=options.rank, thinking_first=options.thinking_first
            )
            call.shown, call.after = write_messages(shorter.messages, given), shorter.tokens + call.beside
            call.left_out = len(shorter.dropped)
        if shown is not None:
            call.reused, call.compactions, call.thrashed = shown.same, shown.compactions, shown.thrashed
        if call.after < call.before:
            how = "left out" if call.edits is None else "dropped by edits that the server carries out"
            call.decision, call.reason = "pruned", f"{call.before - call.after} of {call.before} tokens {how}"
        if options.keep_tokens is not None and call.after > options.keep_tokens:
            over = f"{call.after} tokens are protected, more than the {options.keep_tokens} of the budget"
            call.reason = over if call.decision == "passed" else f"{call.reason}; {over}"
        over_budget = room is not None and call.before > room + call.beside
        if call.talk is not None and call.talk.doubt and (over_budget or call.decision == "pruned"):
            call.reason = f"{call.talk.doubt}; {call.reason}"

    def _tokens(self, given: str | Sequence[Message]) -> int:
        if isinstance(given, str):
            return self._counter.text(given)
        return self._counter.chat(given)
