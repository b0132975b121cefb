"""The rows of a run folder as they are read back.

Unknown keys are ignored, so that a run with an addition still reads. Numbers must be finite;
milliseconds, tokens and bytes must not be negative, nor beyond what any machine has.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from erecap.cost.flops import ModelShape

Share = Annotated[float, Field(ge=0, le=1)]
ImageUri = Annotated[str, StringConstraints(pattern=r"^data:image/(png|jpeg);base64,[A-Za-z0-9+/]+={0,2}$")]
Point = tuple[float, float]  # metres on the map of a scene; y grows downwards
Colour = Annotated[str, StringConstraints(pattern=r"^(#[0-9a-fA-F]{6}|[a-z]*)$")]
# Larger ones are slips of whoever wrote them, and arithmetic fails at them.
_MOST = 10**15
Count = Annotated[int, Field(ge=0, le=_MOST)]
Size = Annotated[int, Field(ge=1, le=_MOST)]
Amount = Annotated[float, Field(ge=0, le=_MOST)]
EpisodeKey = tuple[str, str, int]  # suite, mode, episode


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, protected_namespaces=())


class TrainedPart(_Row):
    """Trained weights beside the model: an adapter or a pruner."""

    name: str
    hash: str = ""


class ModePlan(TrainedPart):
    """The layer plan of one mode, and the layers that are left with it."""

    layers: Size


class ModelFacts(_Row):
    """The planner model as `run.json` states it."""

    name: str
    hash: str = ""
    adapter: TrainedPart | None = None  # merged into it
    pruner: TrainedPart | None = None
    plan: TrainedPart | None = None  # layer plan that is applied to it in all modes
    plans: dict[str, ModePlan] = {}  # by mode, where the modes have several
    controllers: dict[str, TrainedPart] = {}  # by mode
    dtype: str = ""
    parameters: Count = 0
    layers: Size
    hidden_size: Size
    intermediate_size: Size
    heads: Size
    kv_heads: Size
    head_dim: Size
    vocab_size: Size

    @property
    def title(self) -> str:
        """Its name, with that of the adapter in it."""
        return f"{self.name} with {self.adapter.name}" if self.adapter else self.name

    def layers_of(self, mode: str) -> int:
        """Decoder layers of the model as a mode runs it."""
        return self.plans[mode].layers if mode in self.plans else self.layers

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
    served: str | None = None  # name of a server's model, of which nothing else is known
    git: str | None = None
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _served_apart(cls, values: Any) -> Any:
        model = values.get("model") if isinstance(values, dict) else None
        if not isinstance(model, dict) or "served" not in model:
            return values
        return {**values, "model": None, "served": model["served"]}

    @field_validator("config")
    @classmethod
    def _readable(cls, config: dict[str, Any]) -> dict[str, Any]:
        modes, parts, budget = config.get("modes", []), config.get("compositions", {}), config.get("budget", {})
        if not isinstance(modes, list) or not all(isinstance(mode, str) for mode in modes):
            raise ValueError("modes is no list of names")
        if not isinstance(parts, dict) or not all(isinstance(mode, dict) for mode in parts.values()):
            raise ValueError("compositions is no mapping of names to parts")
        if not isinstance(budget, dict):
            raise ValueError("budget is no mapping")
        return config


class EpisodeClock(_Row):
    """The clock at the end of an episode in which the world did not wait for the planner."""

    seconds: Amount  # simulated, of the whole episode
    thinking_s: Amount  # of these, waited for plans
    slo_violations: Count | None = None  # None: no latency was asked for
    deferred: Count = 0
    reused_plans: Count = 0


class EpisodeRow(_Row):
    """One line of `episodes.jsonl`."""

    suite: str
    env: str = ""
    mode: str
    episode: Count
    seed: int
    goal: str
    success: bool
    progress: Share
    spl: Share
    steps: Count
    path_length: Amount
    path_unit: str
    expert_path_length: Amount | None = None
    expert_steps: Count | None = None
    measures: dict[str, float] = {}
    replans: Count
    triggers: dict[str, Count] = {}
    invalid_plans: Count = 0
    end: Literal["success", "horizon", "deadline", "error"]
    error: str | None = None
    overflow: Count = 0
    robots: Count | None = None
    agents: Count | None = None
    seconds: Amount | None = None
    waited: Amount | None = None
    conflicts: Count = 0
    contended: bool = False
    planner_ms: Amount = 0
    wall_s: Amount = 0
    clock: EpisodeClock | None = None  # None: the world waited for the planner

    @property
    def key(self) -> EpisodeKey:
        return self.suite, self.mode, self.episode

    @property
    def pair(self) -> tuple[str, int]:
        """The key of an episode, equal in every mode."""
        return self.suite, self.episode


class RereadCall(_Row):
    """The same call made once more on an empty cache."""

    new_tokens: Count
    prefill_ms: Amount = 0
    decode_ms: Amount = 0
    total_ms: Amount
    same: bool  # it gave the same text


class ControlledCall(_Row):
    """A planning call whose session a controller steered."""

    action: str
    reason: str = ""
    switched: bool = False
    reread_tokens: Count = 0
    switch_ms: Amount = 0


class CallClock(_Row):
    """A planning call on the clock."""

    at_s: Amount  # simulated second at which it began
    waited_ms: Amount  # simulated milliseconds that the world went on for it
    read_ahead_tokens: Count = 0  # read since the last call, while the plan was carried out
    read_ahead_ms: Amount = 0
    slo_met: bool | None = None


class ReplanRow(_Row):
    """One line of `replans.jsonl`."""

    suite: str
    mode: str
    episode: Count
    replan: Count
    step: Count
    trigger: str
    prompt_tokens: Count
    new_tokens: Count = 0
    reused_tokens: Count = 0
    kept_tokens: Amount = 0
    kept_per_layer: list[Count] = []
    plan_tokens: Count = 0
    kv_bytes: Count = 0
    overflow_messages: Count = 0
    truncated_tokens: Count = 0
    evicted_tokens: Count = 0
    rewritten_tokens: Count = 0
    drafted_tokens: Count = 0
    accepted_tokens: Count = 0
    decode_passes: Count = 0
    exit_layers: list[Count] = []
    exit_skipped_layers: Count = 0
    exit_differing: Count = 0
    exit_bytes: Count = 0
    crossed_bytes: Count = 0
    masked_observations: Count = 0
    dropped_messages: Count = 0
    tokenize_ms: Amount = 0
    prefill_ms: Amount = 0
    prune_ms: Amount = 0
    decode_ms: Amount = 0
    total_ms: Amount = 0
    plan: list[str] = []
    problem: str | None = None
    decision: str | None = None
    reason: str | None = None
    predicted_ms: Amount | None = None
    dropped_because: str | None = None
    reread: RereadCall | None = None
    controller: ControlledCall | None = None
    clock: CallClock | None = None
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


class MapOutline(_Row):
    """A room or a piece of furniture seen from above."""

    name: str
    outline: list[Point]
    colour: Colour = ""


class MapDoor(_Row):
    """A doorway seen from above."""

    ends: tuple[Point, Point]
    open: bool = True


class MapThing(_Row):
    """An object seen from above, where it was at the start."""

    name: str
    at: Point
    colour: Colour = ""


class SampleMap(_Row):
    """The scene of a recorded episode seen from above, see `erecap.protocols.FloorMap`."""

    rooms: list[MapOutline] = []
    doors: list[MapDoor] = []
    furniture: list[MapOutline] = []
    things: list[MapThing] = []
    floor: list[tuple[float, float, float, float]] = []


class SampleStep(_Row):
    """One step of a recorded episode; step 0 is what the agent sees before it acts."""

    step: Count
    action: str | None = None
    observation: str = ""
    failed: bool = False
    events: list[str] = []
    frame: ImageUri | None = None
    trail: dict[str, list[Point]] = {}


class SampleReplan(_Row):
    """One planning call of a recorded episode, with the prompt as the model kept it."""

    replan: Count
    step: Count
    trigger: str
    plan: list[str] = []
    problem: str | None = None
    pieces: list[tuple[int, str, Share]] = []
    messages: list[dict[str, Any]] = []


class Sample(_Row):
    """One file of `samples/`."""

    suite: str
    mode: str
    episode: Count
    goal: str
    success: bool
    steps: list[SampleStep] = []
    replans: list[SampleReplan] = []
    map: SampleMap | None = None
    frames_left_out: Count = 0

    @property
    def key(self) -> EpisodeKey:
        return self.suite, self.mode, self.episode
