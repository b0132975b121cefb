"""The types of a call: messages, token counts, times, decisions, and a language model's answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, TypedDict


class Message(TypedDict):
    """One chat message, in the shape of the OpenAI API, with one optional extra key."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    # Character spans [start, end) of `content` that pruning must keep. Absent: the default rule of
    # `erecap.context.protection` applies. Chat templates ignore keys that they do not know.
    protect: NotRequired[list[tuple[int, int]]]
    # Stale spans: something newer has overwritten them, such as a later observation of the same room. Evicted first.
    stale: NotRequired[list[tuple[int, int]]]
    # Thinking in an answer, which may go before anything else. Absent: what is between `<think>` and `</think>`.
    thoughts: NotRequired[list[tuple[int, int]]]
    # Spans of observations, which `erecap.context.compaction` may blank. Absent: its default rule applies.
    observations: NotRequired[list[tuple[int, int]]]


@dataclass(frozen=True)
class Usage:
    """Token counts of one call."""

    prompt_tokens: int = 0  # tokens of the rendered prompt that the model was shown
    new_tokens: int = 0  # of these, read (prefilled) in this call
    reused_tokens: int = 0  # of these, found in a KV cache of an earlier call
    completion_tokens: int = 0  # tokens generated
    kept_per_layer: tuple[int, ...] = ()  # prompt tokens whose keys each layer stores after prefill
    kv_bytes: int = 0  # bytes of keys and values stored when the call returned
    overflow_messages: int = 0  # oldest whole messages left out to fit the model's window
    truncated_tokens: int = 0  # tokens cut out of the middle of the newest message to fit
    evicted_tokens: int = 0  # stored tokens dropped in this call to stay within the budget
    rewritten_tokens: int = 0  # tokens read earlier and given up because the chat before them was rewritten
    drafted_tokens: int = 0  # tokens proposed to be verified
    accepted_tokens: int = 0  # of these, kept
    decode_passes: int = 0  # forward passes of decoding
    exit_layers: tuple[int, ...] = ()  # layers after which accepted tokens left early, in order
    exit_differing: int = 0  # of these, tokens that all layers would not choose; above 0 only without verification
    exit_bytes: int = 0  # bytes of the exit predictor, and of hidden states that waited at most
    crossed_bytes: int = 0  # moved between devices, of a model whose layers lie on several ones
    masked_observations: int = 0  # blanked in the chat before it was read
    skipped_tokens: int = 0  # of the reused ones, dropped by edits of the chat, so that nothing of this call saw them
    moved_tokens: int = 0  # of the reused ones, given other positions by edits of the chat in this call
    dropped_messages: int = 0  # left out of the chat, beyond the blanked observations, to stay within a token budget

    @property
    def exit_skipped_layers(self) -> int:
        """Layers that accepted tokens had not run when they left early; later passes ran them, for several at once."""
        return sum(len(self.kept_per_layer) - layer for layer in self.exit_layers)

    @property
    def kept_tokens(self) -> float:
        """Stored prompt tokens, mean over layers; `prompt_tokens` where nothing was counted."""
        if not self.kept_per_layer:
            return float(self.prompt_tokens)
        return sum(self.kept_per_layer) / len(self.kept_per_layer)


@dataclass(frozen=True)
class Timing:
    """Wall-clock milliseconds of one call, by phase."""

    tokenize_ms: float = 0.0  # chat template, tokenizer, spans
    prefill_ms: float = 0.0  # reading the prompt, pruning included
    prune_ms: float = 0.0  # the share of prefill spent on scoring and dropping tokens
    decode_ms: float = 0.0  # generating the tokens after the first
    total_ms: float = 0.0


FinishReason = Literal["stop", "length", "deadline", "cancelled", "deferred"]


@dataclass(frozen=True)
class PromptPiece:
    """A run of prompt text whose tokens were kept by the same share of layers."""

    message: int  # number of the message in the chat as it was given; -1 for template text between them
    text: str
    kept: float  # share of layers that store it, 0..1


Action = Literal["append", "evict", "splice", "re-read", "reuse-plan", "defer"]


@dataclass(frozen=True)
class Decision:
    """The scheduler's choice in one replanning call, and its reason."""

    action: Action
    reason: str  # one plain sentence, with the figures that decided
    predicted_ms: float | None = None  # of the whole call; None where no calibrated model was at hand


@dataclass(frozen=True)
class Control:
    """The controller's action in one planning call, and its reason."""

    action: str  # its name
    reason: str  # one plain sentence
    switched: bool = False  # another action was in force before
    reread_tokens: int = 0  # read again because of that
    switch_ms: float = 0.0  # that the switch took; part of the call's total


@dataclass(frozen=True)
class Generation:
    """The answer of a language model."""

    text: str
    finish_reason: FinishReason = "stop"
    usage: Usage = field(default_factory=Usage)
    timing: Timing = field(default_factory=Timing)
    pieces: tuple[PromptPiece, ...] = ()  # only when the model was asked to trace its prompt
    decision: Decision | None = None  # only where a scheduler decided
    dropped_because: str | None = None  # why part of the history was dropped since the last answer; None: nothing was
    reread: Generation | None = None  # the same call on an empty cache, where one was made beside it to be measured
    control: Control | None = None  # only where a controller chose an action


AllowedTokens = Callable[[Sequence[int]], Sequence[int]]
"""Maps the ids generated so far (prompt excluded) to the ids allowed next. Never empty."""

JsonRow = dict[str, Any]
"""One row of a JSON Lines file."""
