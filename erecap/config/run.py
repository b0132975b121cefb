"""Schema of a run: its modes, suites, model and settings, and the checks of what goes together."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from erecap.config.clock import ClockSettings, kind_or_settings
from erecap.config.composition import ModeParts, names_and_parts
from erecap.config.controller import ControllerSettings, folder_or_settings
from erecap.config.modes import SESSION_MODES, Mode, is_url, parse_mode
from erecap.config.planner import COOPERATIVE, EXPERT, LLM, MODEL, PLAN_TOKENS, TEAM_TOKENS, PlannerSettings
from erecap.config.server_url import ServerUrl
from erecap.config.sessions import BudgetSettings, PruneSettings, RereadSettings, ScheduleSettings
from erecap.config.suite import Name, Seed

__all__ = [  # all settings of a run, whichever file of this folder has them
    "COOPERATIVE",
    "EXPERT",
    "LLM",
    "MODEL",
    "PLAN_TOKENS",
    "TEAM_TOKENS",
    "BudgetSettings",
    "PlannerSettings",
    "PruneSettings",
    "RereadSettings",
    "RunConfig",
    "ScheduleSettings",
]


def _split(value: Any) -> Any:
    # On the command line `modes=full,prune[recency]` is easier to write than a quoted YAML list.
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


NameList = Annotated[list[str], Field(min_length=1), BeforeValidator(_split)]


class RunConfig(BaseModel):
    """A run: modes side by side on the same episodes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Name = Field(description="The run's name; its folder is `runs/<name>` unless told otherwise.")
    suites: NameList = Field(description="Task suites: packaged names, or paths of YAML files.")
    modes: NameList = Field(
        description="Modes to compare: full, expert, prune[attention], ..., or {name: ..., kv: ..., ...} of parts."
    )
    compositions: dict[Name, ModeParts] = Field(
        default_factory=dict, description="Parts of the modes that are none of the presets; written among `modes`."
    )
    model: str = Field(
        default="smollm2-135m-instruct",
        min_length=1,
        description="Model: a catalog name, a folder, a hub name; with the mode served, a server's URL, with #NAME "
        "behind it for one of several models.",
    )
    adapter: str | None = Field(
        default=None, min_length=1, description="LoRA adapter merged into the model: a folder, or a name as of models."
    )
    layers: str | None = Field(
        default=None,
        min_length=1,
        description="Layer plan that the model is run with, a folder or a checkpoint's name; null: the whole model.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Number format of the weights; auto: the model's choice for the device."
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$",
        description="Where the model runs: auto, cpu, cuda, cuda:1, mps.",
    )
    device_map: str | None = Field(
        default=None,
        min_length=1,
        description="Layers on several devices: auto, balanced, sequential, ranges such as cuda:0=0-15,cpu=16-29, or a "
        "JSON file {part: device}; null: all on `device`.",
    )
    decode_weights: Literal["same", "int8", "int4"] = Field(
        default="same", description="Weights with which the session modes decode: the model's, or packed copies."
    )
    pruner: str | None = Field(
        default=None,
        min_length=1,
        description="Trained pruner, a folder or a checkpoint's name: what `erecap` ranks by, and `prune[learned]`.",
    )
    allow_untested_pruner: bool = Field(
        default=False, description="Take a pruner whose card shows no test in which it beats random."
    )
    prune: PruneSettings = Field(default_factory=PruneSettings, description="Pruning at prefill.")
    budget: BudgetSettings = Field(default_factory=BudgetSettings, description="What sessions keep.")
    schedule: ScheduleSettings | None = Field(
        default=None, description="Scheduling of session modes; null: evict down to the budget after each call."
    )
    controller: Annotated[ControllerSettings | None, BeforeValidator(folder_or_settings)] = Field(
        default=None,
        description="What changes the levers of sessions between calls: a trained controller's folder, or {fixed: "
        "ACTION}; null: nothing.",
    )
    reread: RereadSettings | None = Field(
        default=None,
        description="Some calls of one mode are made once more on an empty cache, to measure what reading everything "
        "again takes; null: none.",
    )
    clock: Annotated[ClockSettings | None, BeforeValidator(kind_or_settings)] = Field(
        default=None,
        description="Whether the world goes on while the planner thinks: settings, charged or wall; null: it waits.",
    )
    planner: PlannerSettings = Field(default_factory=PlannerSettings, description="The planner.")
    episodes: int | None = Field(
        default=None, ge=1, le=100_000, description="Episodes per suite; null: what the suite says."
    )
    horizon: int | None = Field(
        default=None, ge=1, le=100_000, description="Commands per episode; null: what the suite says."
    )
    seed: Seed = Field(default=0, description="Seed of what the run itself draws: the random scorer.")
    executor: Literal["serial", "process", "ray"] = Field(
        default="serial",
        description="serial: one episode at a time; process: in worker processes; ray: on workers of a Ray cluster.",
    )
    workers: int = Field(default=1, ge=1, le=256, description="Workers of the executors process and ray.")
    batch: int = Field(
        default=1, ge=1, le=256, description="Episodes that one process plays at a time, in shared forward calls."
    )
    samples: int = Field(
        default=1, ge=0, description="First episodes of each suite and mode that are recorded for reading."
    )
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="Threads of the model's arithmetic; null: torch's choice."
    )

    @model_validator(mode="before")
    @classmethod
    def _parts_among_modes(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        names, found = names_and_parts(values.get("modes"))
        if not found:
            return values
        stated = values.get("compositions") or {}
        twice = next((name for name in found if name in stated), None)
        if twice is not None:
            raise ValueError(f"modes: two modes of parts are called {twice!r}; allowed: one")
        return {**values, "modes": names, "compositions": {**stated, **found}}

    @model_validator(mode="after")
    def _known_modes(self) -> RunConfig:
        try:
            names = [name if name in self.compositions else str(parse_mode(name)) for name in self.modes]
            _refuse_repeats(names)
        except ValueError as error:
            raise ValueError(f"modes: {error}") from error
        unplayed = next((name for name in self.compositions if name not in names), None)
        if unplayed is not None:
            raise ValueError(f"compositions: {unplayed!r} is none of the modes; add it to modes, or leave it out")
        object.__setattr__(self, "modes", names)
        return self

    @model_validator(mode="after")
    def _learned_needs_pruner(self) -> RunConfig:
        needs = [name for name in self.modes if self.mode(name).needs_run_pruner]
        if self.pruner is None and needs:
            raise ValueError(f"mode {needs[0]} needs a trained pruner; give pruner: FOLDER")
        return self

    @model_validator(mode="after")
    def _servers_serve(self) -> RunConfig:
        asked = [name for name in self.modes if self.mode(name).needs_model]
        served = [name for name in asked if self.mode(name).served]
        if not is_url(self.model):
            if served:
                raise ValueError(f"mode served: got model {self.model}; allowed: a server's URL, http://HOST:PORT/v1")
            return self
        ServerUrl.of(self.model)
        other = next((name for name in asked if name not in served), None)
        if other is not None:
            raise ValueError(f"model: mode {other} needs a model in this process, got a server's URL; allowed: served")
        planner, clock = self.planner, self.clock
        unfit = {
            "adapter": self.adapter is not None,
            "layers": self.layers is not None,
            "device_map": self.device_map is not None,
            f"planner.name {planner.name}": planner.name == COOPERATIVE,
            f"planner.plans {planner.plans}": planner.plans == EXPERT,
            "clock.charge cost-model": clock is not None and clock.charge == "cost-model",
        }
        found = next((what for what, there in unfit.items() if there), None)
        if served and found is not None:
            raise ValueError(f"{found}: cannot be had of a server; leave it out, or name a model")
        return self

    @model_validator(mode="after")
    def _reread_is_beside_a_session(self) -> RunConfig:
        if self.reread is None:
            return self
        sessions = [name for name in self.modes if self.mode(name).session and self.mode(name).text is None]
        if self.reread.mode not in sessions:
            allowed = ", ".join(sessions) or "none of this run's modes keeps a session of the whole chat"
            raise ValueError(f"reread.mode: got {self.reread.mode!r}; allowed: {allowed}")
        if self.batch > 1:
            raise ValueError(f"reread: its calls are measured alone, and batch is {self.batch}; allowed: 1")
        return self

    @model_validator(mode="after")
    def _batch_is_of_sessions(self) -> RunConfig:
        if self.batch > 1:
            if self.executor != "serial":
                raise ValueError(f"batch: got {self.batch} with executor {self.executor}; allowed: 1, or serial")
            alone = [name for name in self.modes if not (self.mode(name).session or self.mode(name).expert)]
            if alone:
                allowed = ", ".join((*SESSION_MODES, "expert"))
                raise ValueError(f"batch: got {self.batch} with mode {alone[0]}; allowed with a batch: {allowed}")
            if self.schedule is not None:
                raise ValueError(
                    f"batch: got {self.batch} with a schedule; allowed: 1, since calls wait for each other"
                )
        return self

    @model_validator(mode="after")
    def _clocks_measure_alone(self) -> RunConfig:
        clock = self.clock
        if clock is None:
            return self
        if clock.charge == "measured" and (self.batch > 1 or self.executor != "serial"):
            got = f"batch {self.batch} and executor {self.executor}"
            raise ValueError(f"clock: measured times are of one episode at a time, got {got}; allowed: 1 and serial")
        if clock.kind == "wall" and self.reread is not None:
            raise ValueError("clock: got wall beside reread, whose calls would pass for thinking; allowed: one of them")
        prunes = [name for name in self.modes if self.mode(name).prune is not None]
        if clock.charge == "cost-model" and prunes:
            raise ValueError(f"clock.charge: no cost model knows mode {prunes[0]}, which prunes; allowed: measured")
        return self

    @model_validator(mode="after")
    def _controllers_steer_sessions(self) -> RunConfig:
        controlled = [name for name in self.modes if self.controller_of(self.mode(name)) is not None]
        for name in controlled:
            mode = self.mode(name)
            if not mode.session or mode.text is not None or mode.engine != "transformers":
                raise ValueError(
                    f"controller: mode {name} keeps no session of transformers over the whole chat; allowed: modes "
                    "with kv: reuse or evict, or name the controller in a mode of parts"
                )
            if self.reread is not None and self.reread.mode == name:
                raise ValueError(f"reread.mode: got {name}, which a controller steers; allowed: another mode")
        if not controlled:
            return self
        unfit = {
            "schedule": self.schedule is not None,
            f"batch {self.batch}": self.batch > 1,
            f"planner.name {COOPERATIVE}": self.planner.name == COOPERATIVE,
            "budget.pays": self.budget.pays is not None,
            "clock.charge cost-model": self.clock is not None and self.clock.charge == "cost-model",
        }
        found = next((what for what, there in unfit.items() if there), None)
        if found is not None:
            raise ValueError(f"controller: mode {controlled[0]} has one beside {found}; allowed: one of the two")
        return self

    @model_validator(mode="after")
    def _plans_fit(self) -> RunConfig:
        if self.batch > 1 and len(self.plans()) > 1:
            raise ValueError(
                f"batch: got {self.batch} with modes of several layer plans; allowed: 1, or one plan for all"
            )
        other = next((name for name in self.modes if self.mode(name).engine != "transformers"), None)
        if self.layers is not None and other is not None:
            raise ValueError(f"layers: mode {other} has another engine; allowed: modes with engine: transformers")
        return self

    @model_validator(mode="after")
    def _device_map_stands_alone(self) -> RunConfig:
        if self.device_map is not None and self.device != "auto":
            raise ValueError(f"device: got {self.device} beside a device_map; allowed: one of the two")
        other = next((name for name in self.modes if self.mode(name).engine != "transformers"), None)
        if self.device_map is not None and other is not None:
            raise ValueError(f"device_map: mode {other} has another engine; allowed: modes with engine: transformers")
        return self

    @model_validator(mode="after")
    def _cluster_hands_out_gpus(self) -> RunConfig:
        if self.executor == "ray" and ":" in self.device:
            raise ValueError(f"device: got {self.device} with executor ray; allowed: auto, cpu, cuda")
        return self

    @field_validator("suites")
    @classmethod
    def _distinct_suites(cls, suites: list[str]) -> list[str]:
        _refuse_repeats(suites)
        return suites

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Runs from before modes had parts, worlds clocks, and models plans, stay those of the same configuration.
        unused: dict[str, Any] = {"compositions": {}, "clock": None, "layers": None, "controller": None}
        unused |= {"device_map": None}
        return {key: value for key, value in handler(self).items() if key not in unused or unused[key] != value}

    def asks_expert(self, mode: Mode) -> bool:
        """True if a mode's environments have to tell what their expert would do."""
        return mode.expert or self.planner.plans == EXPERT

    def plan_of(self, mode: Mode) -> str | None:
        """Name or folder of the layer plan that a mode's model is run with; None: the whole model."""
        return (mode.layers or self.layers) if mode.needs_model else None

    def controller_of(self, mode: Mode) -> ControllerSettings | None:
        """The controller of a mode's sessions: its own, or the run's; None: nothing changes their levers."""
        return (mode.controller or self.controller) if mode.needs_model else None

    def plans(self) -> set[str | None]:
        """The layer plans of all modes that ask a model; None among them where one asks the whole model."""
        modes = [self.mode(name) for name in self.modes]
        return {self.plan_of(mode) for mode in modes if mode.needs_model}

    def mode(self, name: str) -> Mode:
        """The mode of that name: one that is composed here, or else a preset.

        Raises:
            ValueError: neither.
        """
        parts = self.compositions.get(name)
        return parse_mode(name) if parts is None else parts.mode(name)


def _refuse_repeats(names: list[str]) -> None:
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(f"{repeated!r} is named twice; once each is allowed")
