"""The types that meet at the joints: messages, generations, and the four protocols.

Classes need not inherit from any of these; having the methods is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NotRequired, Protocol, TypedDict, runtime_checkable

if TYPE_CHECKING:
    import torch

    from erecap.context import Context
    from erecap.tokens.scorers import ScoreContext


class Message(TypedDict):
    """One chat message, in the shape of the OpenAI API, with one optional extra key."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    # Character spans [start, end) of `content` that pruning must keep. Absent: the default rule of
    # `erecap.context.protection` applies. Chat templates ignore keys that they do not know.
    protect: NotRequired[list[tuple[int, int]]]
    # Spans that something newer has made worthless, such as an old look at the same place: evicted first.
    stale: NotRequired[list[tuple[int, int]]]
    # Spans that tell what was seen, which `erecap.context.compaction` may blank. Absent: its default rule applies.
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
    masked_observations: int = 0  # blanked in the chat before it was read
    dropped_messages: int = 0  # left out of the chat, beyond the blanked observations, to stay within a token budget

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
    """What the scheduler chose to do in one replanning call, and why."""

    action: Action
    reason: str  # one plain sentence, with the figures that decided
    predicted_ms: float | None = None  # of the whole call; None where no calibrated model was at hand


@dataclass(frozen=True)
class Generation:
    """What a language model returns."""

    text: str
    finish_reason: FinishReason = "stop"
    usage: Usage = field(default_factory=Usage)
    timing: Timing = field(default_factory=Timing)
    pieces: tuple[PromptPiece, ...] = ()  # only when the model was asked to trace its prompt
    decision: Decision | None = None  # only where a scheduler decided
    dropped_because: str | None = None  # why part of the history was dropped since the last answer; None: nothing was


AllowedTokens = Callable[[Sequence[int]], Sequence[int]]
"""Maps the ids generated so far (prompt excluded) to the ids allowed next. Never empty."""


@runtime_checkable
class LanguageModel(Protocol):
    """Chat messages in, text out. What the middleware takes, and what it gives back."""

    def generate(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int,
        stop: Sequence[str] | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        allowed_tokens: AllowedTokens | None = None,
        deadline_ms: float | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Generation: ...


@dataclass(frozen=True)
class Plan:
    """What a planner returns: commands in order, or the reason why there are none."""

    steps: tuple[str, ...]
    text: str = ""  # as the model wrote it
    problem: str | None = None  # set if and only if the text could not be parsed; steps are then ()
    generation: Generation | None = None  # the call behind the plan, where there was one


@runtime_checkable
class Planner(Protocol):
    """Turns what is known of an episode into the next few commands."""

    def plan(self, context: Context) -> Plan: ...


class StepInfo(TypedDict, total=False):
    """The `info` of an environment's `reset` and `step`."""

    goal: str  # the mission in words; another one once it is fulfilled and a further one begins
    skills: list[str]  # commands that are admissible now
    templates: list[str]  # the skills' shapes, such as "take {object} from {receptacle}"
    entities: dict[str, list[str]]  # slot name -> names seen so far that can fill it, sorted
    subject: str  # what this observation is about, such as "cabinet 3"; "" if nothing in particular
    failed: bool  # the last command had no effect
    failure: str  # why, in words; "" unless failed
    events: list[str]  # disturbances that struck in this step, such as "slip"
    success: bool
    progress: float  # share of goal conditions that hold, 0..1
    path_length: float  # travelled so far
    expert_path_length: float  # what the expert travels from the start; for SPL
    expert_steps: int  # commands that the expert needs from the start
    path_unit: Literal["m", "cells"]
    expert_actions: list[str]  # the expert's next commands from here; only if asked for (`expert=True`)


class TokenScorer(Protocol):
    """Ranks tokens for pruning; higher is kept longer."""

    needs_attention: bool  # ask for `ctx.attention_mass`, which costs one extra pass per stage

    def score(self, layer: int, hidden: torch.Tensor, ctx: ScoreContext) -> torch.Tensor:
        """Scores `(batch, tokens)` float32 from `hidden` `(batch, tokens, hidden_size)`."""
        ...


JsonRow = dict[str, Any]
