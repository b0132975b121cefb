"""Settings of a run's planner, and the names of planners."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from erecap.registries import PLANNERS

LLM, EXPERT, COOPERATIVE = "llm", "expert", "cooperative"  # names of planners
MODEL: Final = "model"  # whose plans are played, unless the expert's
PLAN_TOKENS, TEAM_TOKENS = 64, 128  # most of a plan, and of an answer of a team, which with five commands has about 70


class PlannerSettings(BaseModel):
    """Settings of the planner: its calls, and the triggers of a replan."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str = Field(default=LLM, description="Which planner asks the model: a name in `erecap.registries.PLANNERS`.")
    agents: str | None = Field(
        default=None,
        min_length=1,
        description="With name: cooperative, the agents file: team, team-shared, or a YAML file; null: team.",
    )
    max_steps: int = Field(default=5, ge=1, le=20, description="Most commands in one plan.")
    max_new_tokens: int = Field(
        default=PLAN_TOKENS,
        ge=1,
        le=4096,
        description=f"Most tokens generated for one plan; {TEAM_TOKENS} with name {COOPERATIVE}, unless written out.",
    )
    constrained: bool = Field(default=True, description="Decode only commands that the environment can understand.")
    period: int | None = Field(default=None, ge=1, description="Replan after this many commands at the latest.")
    max_invalid: int = Field(default=3, ge=1, description="Invalid plans in a row that end an episode.")
    plans: Literal["model", "expert"] = Field(
        default=MODEL,
        description="Whose plans are played: the model's, or the expert's, which the model reads and decodes all the "
        "same, so that only its time is its own.",
    )
    stuck_after: int | None = Field(
        default=None, ge=1, description="After this many commands without news, begin with one of those tried least."
    )

    @model_validator(mode="before")
    @classmethod
    def _teams_answer_at_length(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("name") == COOPERATIVE:
            return {"max_new_tokens": TEAM_TOKENS, **values}
        return values

    @field_validator("name")
    @classmethod
    def _known_planner(cls, name: str) -> str:
        allowed = [planner for planner in PLANNERS if planner != EXPERT]
        if name == EXPERT:
            raise ValueError(f"the expert plays as the mode {EXPERT}; allowed: {', '.join(allowed)}")
        if name not in allowed:
            raise ValueError(f"{name!r} is not a planner; allowed: {', '.join(allowed)}")
        return name

    @model_validator(mode="after")
    def _agents_cooperate(self) -> PlannerSettings:
        if self.agents is not None and self.name != COOPERATIVE:
            raise ValueError(f"agents: got {self.agents!r} with name {self.name}; allowed: with name {COOPERATIVE}")
        return self

    @model_validator(mode="after")
    def _settings_of_some_planners(self) -> PlannerSettings:
        if self.plans == EXPERT and self.name != LLM:
            raise ValueError(f"plans: got {EXPERT} with name {self.name}; allowed: {MODEL}, or name {LLM}")
        if self.stuck_after is not None and (self.plans == EXPERT or self.name == COOPERATIVE):
            beside = f"plans {EXPERT}" if self.plans == EXPERT else f"name {COOPERATIVE}"
            raise ValueError(f"stuck_after: got {self.stuck_after} with {beside}; allowed: null")
        return self

    @model_serializer(mode="wrap")
    def _without_the_usual_name(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Runs and rows from before planners had names, teams and plans of others stay those of the same configuration.
        usual: dict[str, Any] = {"name": LLM, "plans": MODEL, "agents": None}
        return {key: value for key, value in handler(self).items() if key not in usual or usual[key] != value}
