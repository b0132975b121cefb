"""The main protocols: language model, planner, environment info, scorer; and the types that they exchange.

Classes need not inherit from any of these; having the methods is enough. `erecap.generation` has the types of a call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, runtime_checkable

from erecap.context import Context
from erecap.generation import AllowedTokens, Generation, Message

if TYPE_CHECKING:
    import torch


@runtime_checkable
class LanguageModel(Protocol):
    """A language model: chat messages in, text out. The middleware takes one and gives one back."""

    trace: bool  # whether generations say which share of the layers kept each piece of the prompt

    @property
    def tokenizer(self) -> Any | None:
        """The fast tokenizer whose ids `allowed_tokens` takes; None: the model does not know token ids."""

    @property
    def takes_old_plan(self) -> bool:
        """True if `generate` also takes `old_plan` (the rest of the previous plan) and `trigger` (of the call)."""

    def reset(self) -> None:
        """Begin an episode: nothing of the last one is remembered."""

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
        on_text: Callable[[str], None] | None = None,
    ) -> Generation: ...


@runtime_checkable
class ReadingModel(Protocol):
    """A language model that can read a chat before it is asked to answer it."""

    @property
    def stored_tokens(self) -> int:
        """Tokens stored for the next call, in the layer that stores most."""

    def read(self, messages: Sequence[Message]) -> int:
        """Read what is new of a chat that ends with a user message; returns the tokens read."""


@runtime_checkable
class PatternModel(Protocol):
    """A language model that constrains its answers itself: `generate` takes `pattern`, a regular expression."""

    @property
    def takes_pattern(self) -> bool:
        """True if it does."""


@dataclass(frozen=True)
class ReadAhead:
    """The reading of new observations while a plan is carried out."""

    tokens: int  # read
    stored: int  # by the fullest layer, before


@runtime_checkable
class ForkingModel(LanguageModel, Protocol):
    """A language model that can hold several conversations with one beginning, as cooperating planners do."""

    def fork(self, messages: Sequence[Message]) -> ForkingModel:
        """A conversation of its own that begins with `messages`.

        What all forks begin with is read once and stored once, where the model stores anything. Asked before the model
        itself has answered in this episode.
        """
        ...


@dataclass(frozen=True)
class Plan:
    """The result of a planner: commands in order, or the reason why there are none."""

    steps: tuple[str, ...]
    text: str = ""  # as the model wrote it
    problem: str | None = None  # set if and only if the text could not be parsed; steps are then ()
    generation: Generation | None = None  # the call behind the plan, where there was one
    agent: str = ""  # who planned, where several planners cooperate
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # robot -> its plan, where this one changed it
    conflicts: tuple[str, ...] = ()  # contradictions between plans of several robots that were found in this call
    messages: Sequence[Message] | None = None  # the chat that was asked, where it is not the whole context's
    team: int = 0  # planners that cooperate, asked so far or not; 0: one plans


@runtime_checkable
class Planner(Protocol):
    """Turns an episode's context into the next few commands."""

    def plan(self, context: Context) -> Plan: ...


class FloorMap(TypedDict, total=False):
    """A plan of the scene seen from above, for people to look at; planners never see it.

    Points are (x, y) in metres, with y growing towards the lower edge of the picture. Every key may be missing.
    """

    rooms: list[dict[str, Any]]  # {name, outline: [(x, y), ...]}
    doors: list[dict[str, Any]]  # {ends: [(x, y), (x, y)], open: bool}
    furniture: list[dict[str, Any]]  # {name, outline, colour: a word or #rrggbb}
    things: list[dict[str, Any]]  # {name, at: (x, y), colour}
    floor: list[tuple[float, float, float, float]]  # free floor as rectangles x0, y0, x1, y1, where no rooms are known


@runtime_checkable
class ReadingPlanner(Protocol):
    """A planner that can read what was observed before it is asked for a plan."""

    def read_ahead(self, context: Context) -> ReadAhead | None:
        """Read what is new in the context; None where its model cannot."""


class ExtraInfo(TypedDict, total=False):
    """Keys of an `info` that only some environments have."""

    out_of_time: bool  # the episode's deadline has passed; absent where it has none
    measures: dict[str, float]  # further figures of the simulator's field by name; only where it has some
    map: FloorMap  # at `reset`, where there is one
    trail: dict[str, list[tuple[float, float]]]  # who moved in this step -> points of the map passed, the last one held


class StepInfo(ExtraInfo, total=False):
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


class TeamInfo(StepInfo, total=False):
    """The further `info` of environments with several robots, or with a clock."""

    robot: str  # the robot whose turn it is; skills and the expert's commands are those of this one
    robots: list[str]  # all of them
    constraints: list[str]  # rules of the task, such as "put cup before put book"; they hold for the whole episode
    seconds: float  # simulated time until the last robot was done: the makespan so far
    waited: float  # simulated seconds that robots have waited, all of them together


@dataclass(frozen=True)
class ScoreContext:
    """Inputs of a scorer besides the hidden states. All tensors are on the hidden states' device."""

    index: torch.Tensor  # (batch, tokens) int64: token indices in everything read so far, pads included
    positions: torch.Tensor  # (batch, tokens) int64: its position id (RoPE)
    valid: torch.Tensor  # (batch, tokens) bool: False for padding
    seed: int  # from the pruning configuration
    attention_mass: torch.Tensor | None  # (batch, tokens) float32, mean over heads; only if the scorer asks


class TokenScorer(Protocol):
    """Ranks tokens for pruning; higher is kept longer."""

    needs_attention: bool  # ask for `ctx.attention_mass`, which costs one extra pass per stage

    def score(self, layer: int, hidden: torch.Tensor, ctx: ScoreContext) -> torch.Tensor:
        """Scores `(batch, tokens)` float32 from `hidden` `(batch, tokens, hidden_size)`."""
        ...
