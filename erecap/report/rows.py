"""The rows of a run folder as they are read back.

Unknown keys are ignored, so that a run with an addition still reads. Numbers must be finite;
milliseconds, tokens and bytes must not be negative.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
)

from erecap.cost.flops import ModelShape

Share = Annotated[float, Field(ge=0, le=1)]
PngUri = Annotated[str, StringConstraints(pattern=r"^data:image/png;base64,[A-Za-z0-9+/]+={0,2}$")]
EpisodeKey = tuple[str, str, int]  # suite, mode, episode


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, protected_namespaces=())


class TrainedPart(_Row):
    """Trained weights beside the model: an adapter or a pruner."""

    name: str
    hash: str = ""


class ModelFacts(_Row):
    """The planner model as `run.json` states it."""

    name: str
    hash: str = ""
    adapter: TrainedPart | None = None  # merged into it
    pruner: TrainedPart | None = None
    dtype: str = ""
    parameters: NonNegativeInt = 0
    layers: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    vocab_size: PositiveInt

    @property
    def title(self) -> str:
        """Its name, with that of the adapter in it."""
        return f"{self.name} with {self.adapter.name}" if self.adapter else self.name

    @property
    def shape(self) -> ModelShape:
        return ModelShape(
            self.layers,
            self.hidden_size,
            self.intermediate_size,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.vocab_size,
        )


class RunHead(_Row):
    """`run.json`."""

    format: int
    name: str
    status: Literal["running", "finished", "interrupted"]
    created: str
    config: dict[str, Any] = {}
    suites: dict[str, dict[str, Any]] = {}
    versions: dict[str, Any] = {}
    machine: dict[str, Any] = {}
    model: ModelFacts | None = None
    git: str | None = None
    seed: int = 0


class EpisodeRow(_Row):
    """One line of `episodes.jsonl`."""

    suite: str
    env: str = ""
    mode: str
    episode: NonNegativeInt
    seed: int
    goal: str
    success: bool
    progress: Share
    spl: Share
    steps: NonNegativeInt
    path_length: NonNegativeFloat
    path_unit: str
    expert_path_length: NonNegativeFloat | None = None
    expert_steps: NonNegativeInt | None = None
    replans: NonNegativeInt
    triggers: dict[str, NonNegativeInt] = {}
    invalid_plans: NonNegativeInt = 0
    end: Literal["success", "horizon", "error"]
    error: str | None = None
    overflow: NonNegativeInt = 0
    robots: NonNegativeInt | None = None
    agents: NonNegativeInt | None = None
    seconds: NonNegativeFloat | None = None
    waited: NonNegativeFloat | None = None
    conflicts: NonNegativeInt = 0
    contended: bool = False
    planner_ms: NonNegativeFloat = 0
    wall_s: NonNegativeFloat = 0

    @property
    def key(self) -> EpisodeKey:
        return self.suite, self.mode, self.episode

    @property
    def pair(self) -> tuple[str, int]:
        """The key of an episode, equal in every mode."""
        return self.suite, self.episode


class RereadCall(_Row):
    """The same call made once more on an empty cache."""

    new_tokens: NonNegativeInt
    prefill_ms: NonNegativeFloat = 0
    decode_ms: NonNegativeFloat = 0
    total_ms: NonNegativeFloat
    same: bool  # it gave the same text


class ReplanRow(_Row):
    """One line of `replans.jsonl`."""

    suite: str
    mode: str
    episode: NonNegativeInt
    replan: NonNegativeInt
    step: NonNegativeInt
    trigger: str
    prompt_tokens: NonNegativeInt
    new_tokens: NonNegativeInt = 0
    reused_tokens: NonNegativeInt = 0
    kept_tokens: NonNegativeFloat = 0
    kept_per_layer: list[NonNegativeInt] = []
    plan_tokens: NonNegativeInt = 0
    kv_bytes: NonNegativeInt = 0
    overflow_messages: NonNegativeInt = 0
    truncated_tokens: NonNegativeInt = 0
    evicted_tokens: NonNegativeInt = 0
    rewritten_tokens: NonNegativeInt = 0
    drafted_tokens: NonNegativeInt = 0
    accepted_tokens: NonNegativeInt = 0
    masked_observations: NonNegativeInt = 0
    dropped_messages: NonNegativeInt = 0
    tokenize_ms: NonNegativeFloat = 0
    prefill_ms: NonNegativeFloat = 0
    prune_ms: NonNegativeFloat = 0
    decode_ms: NonNegativeFloat = 0
    total_ms: NonNegativeFloat = 0
    plan: list[str] = []
    problem: str | None = None
    decision: str | None = None
    reason: str | None = None
    predicted_ms: NonNegativeFloat | None = None
    dropped_because: str | None = None
    reread: RereadCall | None = None
    agent: str | None = None
    conflicts: list[str] = []
    contended: bool = False

    @property
    def key(self) -> EpisodeKey:
        return self.suite, self.mode, self.episode

    @property
    def drops(self) -> bool:
        """True if part of the history was dropped in this call; rows from before there were reasons tell by counts."""
        text = self.overflow_messages or self.truncated_tokens or self.masked_observations or self.dropped_messages
        return self.dropped_because is not None or bool(self.evicted_tokens or text)


class SampleStep(_Row):
    """One step of a recorded episode; step 0 is what the agent sees before it acts."""

    step: NonNegativeInt
    action: str | None = None
    observation: str = ""
    failed: bool = False
    events: list[str] = []
    frame: PngUri | None = None


class SampleReplan(_Row):
    """One planning call of a recorded episode, with the prompt as the model kept it."""

    replan: NonNegativeInt
    step: NonNegativeInt
    trigger: str
    plan: list[str] = []
    problem: str | None = None
    pieces: list[tuple[int, str, Share]] = []
    messages: list[dict[str, Any]] = []


class Sample(_Row):
    """One file of `samples/`."""

    suite: str
    mode: str
    episode: NonNegativeInt
    goal: str
    success: bool
    steps: list[SampleStep] = []
    replans: list[SampleReplan] = []

    @property
    def key(self) -> EpisodeKey:
        return self.suite, self.mode, self.episode
