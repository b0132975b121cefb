"""One call of a planner that can only be shown other text: shorten, ask, note; and now and then compare."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from erecap.context.compaction import compact_messages
from erecap.context.lines import PATTERNS, LinePatterns, annotate
from erecap.errors import ConfigError
from erecap.protocols import Message, Timing, Usage
from erecap.wrapping.conversations import Conversations
from erecap.wrapping.log import CallLog
from erecap.wrapping.prompts import PromptTalk

CHARACTERS_PER_TOKEN = 4  # of English text in the common vocabularies; used only where nothing better is given
SWITCH = "ERECAP_MODE"  # environment variable; "full" turns the middleware off
OnError = Literal["raise", "full"]


@dataclass(frozen=True)
class TextOptions:
    """How a planner's text is shortened.

    Raises:
        ConfigError: an unusable value.
    """

    keep: float = 0.7  # share of the tokens of a call; where `keep_tokens` is given, that holds
    keep_tokens: int | None = None
    count_tokens: Callable[[str], int] | None = None
    patterns: str | LinePatterns | None = None
    on_error: OnError = "raise"

    def __post_init__(self) -> None:
        if not 0.0 < self.keep <= 1.0:
            raise ConfigError(f"keep must be above 0 and at most 1, got {self.keep}")
        if self.keep_tokens is not None and self.keep_tokens < 1:
            raise ConfigError(f"keep_tokens must be 1 or more, got {self.keep_tokens}")
        if self.on_error not in ("raise", "full"):
            raise ConfigError(f"on_error: got {self.on_error!r}; allowed: raise, full")
        if isinstance(self.patterns, str) and self.patterns not in PATTERNS:
            raise ConfigError(f"patterns: got {self.patterns!r}; allowed: {', '.join(PATTERNS)}, or LinePatterns")

    def count(self, text: str) -> int:
        """Tokens of `text`."""
        counted = self.count_tokens or (lambda text: math.ceil(len(text) / CHARACTERS_PER_TOKEN))
        return counted(text)

    @property
    def lines(self) -> LinePatterns | None:
        return PATTERNS[self.patterns] if isinstance(self.patterns, str) else self.patterns


@dataclass
class Call:
    """What is sent instead of what was given."""

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


class TextCalls:
    """Shortens calls and notes them.

    Args:
        options: checked ones.
        log: notes each call.
    """

    def __init__(self, options: TextOptions, log: CallLog) -> None:
        self._options, self.log = options, log
        self._talks = Conversations(
            options.count,
            max_tokens=options.keep_tokens or 1 << 40,
            patterns=options.lines,
        )

    def prepare(self, given: str | Sequence[Message]) -> Call:
        """What to send instead of `given`, a chat or a prompt string.

        Raises:
            ConfigError: neither of the two, or messages that hold something else than text.
        """
        check_messages(given)
        call = Call(given, self._tokens(given), 0)
        try:
            if os.environ.get(SWITCH) == "full":
                call.reason = f"{SWITCH}=full"
            else:
                self._shorten(call, given)
        except Exception as error:  # the host decides what an error in here does
            if self._options.on_error == "raise":
                raise
            call.shown, call.decision = given, "failed"
            call.reason, call.talk = f"{type(error).__name__}: {error}", None
        call.after = self._tokens(call.shown)
        call.prepared = time.perf_counter()
        return call

    def note(self, call: Call, answer: Any, **extra: object) -> None:
        """Note a call that was answered."""
        said = answer if isinstance(answer, str) else ""
        if call.talk is not None:
            call.talk.answer = said
        usage = Usage(
            prompt_tokens=call.before,
            new_tokens=call.after - call.reused,
            reused_tokens=call.reused,
            kept_per_layer=(call.after,),
            completion_tokens=self._options.count(said),
            overflow_messages=call.left_out,
        )
        ended = time.perf_counter()
        timing = Timing(prune_ms=1e3 * (call.prepared - call.started), total_ms=1e3 * (ended - call.started))
        estimated = self._options.count_tokens is None
        self.log.note(usage, timing, call.decision, call.reason, tokens_estimated=estimated, **extra)

    def _shorten(self, call: Call, given: str | Sequence[Message]) -> None:
        options = self._options
        if isinstance(given, str):
            if options.keep_tokens is None and options.keep < 1.0:
                raise ConfigError("a prompt string is shortened to a number of tokens; give keep_tokens")
            call.shown, shown, call.talk = self._talks.show_prompt(given)
            call.reused = shown.same
        elif options.keep_tokens is not None:
            shown = self._talks.show_chat(given)
            call.shown, call.reused = _plain(shown.messages), shown.same
            call.left_out = len(given) - len(shown.messages)
        else:
            if not given:
                return
            budget = math.ceil(options.keep * call.before)
            marked = annotate(given, options.lines) if options.lines else given
            shorter = compact_messages(marked, budget, self._talks.count)
            call.shown, call.left_out = _plain(shorter.messages), len(shorter.dropped)
            call.reason = shorter.reason
        if self._tokens(call.shown) < call.before:
            call.decision = "pruned"
            call.reason = f"{call.before - self._tokens(call.shown)} of {call.before} tokens left out"

    def _tokens(self, given: str | Sequence[Message]) -> int:
        if isinstance(given, str):
            return self._options.count(given)
        return self._talks.count(given)


def check_messages(given: Any) -> None:
    """Raises ConfigError unless `given` is a text, or a sequence of messages with a role and text content."""
    if isinstance(given, str):
        return
    if not isinstance(given, Sequence):
        raise ConfigError(f"a wrapped planner takes a list of messages or a text, got {type(given).__name__}")
    for number, message in enumerate(given):
        if not isinstance(message, Mapping) or "role" not in message:
            raise ConfigError(f"message {number} must have a role and a text content, got {message!r:.80}")
        content = message.get("content")
        if isinstance(content, list):
            kinds = sorted({str(part.get("type")) for part in content if isinstance(part, Mapping)} - {"text"})
            raise ConfigError(
                f"message {number} has parts ({', '.join(kinds) or 'text'}); only text can be shortened: give the text "
                "as one string, or images to a planner that is not wrapped"
            )
        if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
            raise ConfigError(f"message {number} must have a role and a text content, got {message!r:.80}")


def _plain(messages: Sequence[Message]) -> list[Message]:
    """Without the spans, which hosts and servers do not know. Messages that had none are handed on as they are."""
    keys = ("protect", "stale", "observations")
    return [
        {key: value for key, value in message.items() if key not in keys} if set(keys) & set(message) else message  # type: ignore[misc]
        for message in messages
    ]
