"""Schema of a task suite: its simulator, episodes, horizon and disturbances."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

# Names become file names and table headings.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=80)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Disturbances(BaseModel):
    """Probabilities per step, and rates by simulated time, that the world disturbs a plan."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    slip: float = Field(default=0.0, ge=0, le=1, description="A command has no effect.")
    move: float = Field(default=0.0, ge=0, le=1, description="An object that the agent has not touched moves.")
    moves_per_minute: float = Field(
        default=0.0, ge=0, le=600, description="Untouched objects that others move in a simulated minute, on average."
    )
    closings_per_minute: float = Field(
        default=0.0, ge=0, le=600, description="Open doors that others close in a simulated minute, on average."
    )

    @model_serializer(mode="wrap")
    def _without_rates_of_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Runs from before there were disturbances by time stay those of the same configuration.
        return {key: value for key, value in handler(self).items() if value or not key.endswith("_per_minute")}


class Suite(BaseModel):
    """A set of episodes that every mode plays."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Name = Field(description="The suite's name in tables and file names; that of its file.")
    env: str = Field(description="The environment: a name in `erecap.envs.ENVIRONMENTS`.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="The environment's own options, checked by its options class."
    )
    episodes: int = Field(ge=1, le=100_000, description="How many episodes the suite has.")
    first: int = Field(default=0, ge=0, le=100_000, description="Number of the first episode that is played.")
    seed: Seed = Field(default=0, description="Seed of the games and of every episode's chances.")
    horizon: int = Field(ge=1, le=100_000, description="Commands after which an episode ends.")
    disturbances: Disturbances = Field(
        default_factory=Disturbances, description="How often the world gets in the way of a plan."
    )

    @property
    def numbers(self) -> range:
        """Numbers of the episodes that are played."""
        return range(self.first, self.first + self.episodes)

    @model_serializer(mode="wrap")
    def _without_the_usual_first(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Runs from before suites had a first episode stay those of the same configuration.
        return {key: value for key, value in handler(self).items() if (key, value) != ("first", 0)}
