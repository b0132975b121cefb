"""Trajectories: episodes as chats with the expert's plan at every planning call. The format, and its reader.

A folder holds `meta.json` and `episodes.jsonl`; `docs/training.md` describes both. `erecap collect` writes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from erecap.errors import ConfigError
from erecap.untrusted import read_json

FORMAT = "erecap-trajectories-1"
META = "meta.json"
EPISODES = "episodes.jsonl"

Source = Literal["expert", "perturbed", "planner"]


class ChatMessage(BaseModel):
    """One message of the chat; converts to `erecap.protocols.Message` with `model_dump()`."""

    model_config = ConfigDict(strict=True, frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str


class Target(BaseModel):
    """The expert's answer at one planning call."""

    model_config = ConfigDict(strict=True, frozen=True)

    message: int = Field(ge=2)  # the assistant message that answered the call
    plan: str = Field(min_length=1)  # commands, one a line; of a team's planner, its whole answer


class Trajectory(BaseModel):
    """One episode. `messages` is what `erecap.context.render` gives at its end."""

    model_config = ConfigDict(strict=True, frozen=True)

    suite: str
    episode: int = Field(ge=0)
    seed: int  # of the episode, as in the rows of a run
    source: Source  # who acted
    goal: str  # the first goal, where an episode has several
    success: bool
    steps: int = Field(ge=0)  # commands executed
    max_steps: int = Field(ge=1)  # the longest plan that the system message asks for, in commands
    messages: list[ChatMessage]
    targets: list[Target]
    error: str | None = None  # why the episode ended early, or why it was dropped
    tokens: int | None = None  # of the whole chat, where a tokenizer was given
    agent: str = ""  # whose chat it is, where several planners cooperate
    agents: int = Field(default=1, ge=1)  # rows of the same episode, one for each of them

    @model_validator(mode="after")
    def _targets_answer_calls(self) -> Trajectory:
        newest = 0
        for target in self.targets:
            if target.message >= len(self.messages) or self.messages[target.message].role != "assistant":
                raise ValueError(f"target of message {target.message}, which is no assistant message")
            if target.message <= newest:
                raise ValueError(f"targets of messages {newest} and {target.message} are out of order")
            newest = target.message
        return self

    @model_serializer(mode="wrap")
    def _without_a_team(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Rows of one planner stay as they were before there were teams, byte for byte.
        alone = (("agent", ""), ("agents", 1))
        return {key: value for key, value in handler(self).items() if (key, value) not in alone}

    def is_branch(self, target: Target) -> bool:
        """True if the label stands beside the chat: it follows `messages[:target.message]`, and was not played."""
        return self.messages[target.message].content != target.plan


def read_meta(folder: Path) -> dict[str, Any]:
    """`meta.json` of a trajectory folder.

    Raises:
        ConfigError: there is no such folder, it holds no trajectories, or the file is damaged.
    """
    path = folder / META
    if not path.is_file():
        raise ConfigError(f"{folder}: holds no {META}, so no trajectories; `erecap collect` makes such a folder")
    try:
        meta = read_json(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    found = meta.get("format") if isinstance(meta, dict) else None
    if found != FORMAT:
        raise ConfigError(f"{path}: format: got {found!r}; allowed: {FORMAT!r}")
    return meta


def source_facts(folder: Path) -> dict[str, Any]:
    """A card's description of a folder that was learned from: all that is needed to play its episodes again.

    Returns:
        `folder` (its name), `sha256` of its rows, and as far as stated `suites` (names), `team`, `seed`, `options`,
        `counts`.

    Raises:
        ConfigError: as `read_meta`, or there are no rows.
    """
    meta = read_meta(folder)
    path = folder / EPISODES
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    keys = ("suites", "team", "seed", "options", "counts")
    stated: dict[str, Any] = {key: meta[key] for key in keys if key in meta}
    if isinstance(stated.get("suites"), dict):
        stated["suites"] = sorted(stated["suites"])  # in full they are in the folder
    return {"folder": folder.resolve().name, "sha256": digest, **stated}


def transcript_name(folder: str, suite: str, episode: int, agent: str = "") -> str:
    """The name of a folder's episode in messages and cards; of a team's, with the planner whose chat it is."""
    return f"{folder}/{suite}/{episode}" + (f"@{agent}" if agent else "")


def transcript_place(name: str) -> tuple[str, str, int]:
    """Folder, suite and episode of a name that `transcript_name` made."""
    folder, suite, episode = name.rsplit("/", 2)
    return folder, suite, int(episode.partition("@")[0])


def read_trajectories(folder: Path) -> Iterator[Trajectory]:
    """The episodes of a folder that have a target, in the order of their rows, read one at a time.

    Rows without a target are passed over: games that could not be opened, and episodes that were dropped for
    their length. Both are counted in `meta.json`.

    Raises:
        ConfigError: as `read_meta`; a damaged row, with file and line; or no episode with a target.
    """
    read_meta(folder)
    path = folder / EPISODES
    found = False
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                trajectory = parse_row(line, f"{path}:{number}")
                if trajectory.targets:
                    found = True
                    yield trajectory
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if not found:
        raise ConfigError(f"{path}: no episode with a plan to learn from")


def parse_row(line: bytes, where: str) -> Trajectory:
    """A line of `episodes.jsonl`.

    Raises:
        ConfigError: the line is cut short, or damaged; begins with `where`.
    """
    if not line.endswith(b"\n"):
        raise ConfigError(f"{where}: the row is cut short; the same `erecap collect` command repairs it")
    try:
        return Trajectory.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{where}: the row is damaged: {key + ': ' if key else ''}{what}") from error
