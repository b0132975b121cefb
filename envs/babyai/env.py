"""BabyAI levels as a text environment: commands in, descriptions of the agent's view out."""

from __future__ import annotations

import logging
from typing import Any, SupportsFloat

import gymnasium as gym
import minigrid  # noqa: F401  # registers the levels
import numpy as np
from gymnasium.error import ResetNeeded
from minigrid.envs.babyai.core import roomgrid_level
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel

from erecap.envs.babyai import expert as experts
from erecap.envs.babyai import paths
from erecap.envs.babyai.describe import describe
from erecap.envs.babyai.options import BabyAIOptions
from erecap.envs.babyai.skills import TEMPLATES, Body, Outcome
from erecap.envs.episodes import Episodes, command_of, render_mode_of, text_spaces
from erecap.errors import GameError
from erecap.protocols import StepInfo

_log = logging.getLogger(__name__)
# The level generator prints each rejected draw; standard output belongs to results.
roomgrid_level.print = lambda *words: _log.debug(" ".join(map(str, words)))  # type: ignore[attr-defined]

_MAX_DRAWS = 50  # levels drawn for one episode before giving up
_EXPERT_LIMIT = 200  # commands that the expert may use for one episode
_LOOKAHEAD = 5  # expert commands shown in `expert_actions`: the longest plan a planner writes


class BabyAIEnv(gym.Env[str, str]):
    """A BabyAI level that is played with skills in words.

    Description: a grid of rooms with doors, balls, boxes and keys, and a mission in the language of the
        BabyAI levels. The agent sees 7 x 7 cells in front of it, not through walls and closed doors.
    Actions: one command, such as "pick up red ball"; `info["skills"]` lists those that are admissible, which
        are about objects seen in this episode that can be reached through open ways. A command that cannot be
        carried out has no effect or stops half-way, and comes back with `failed` and the reason.
    Observations: a sentence on what the command did, then the view (`describe.py`). Nothing is remembered for
        the planner, but names are stable: "red ball 2" is the second red ball that came into view.
    Rewards: 1.0 at the step that accomplishes the mission, else 0.0.
    Termination: the level's own verifier says that the mission is accomplished.
    Info: see `StepInfo`. `path_length` counts cells walked, turns are free. `expert_path_length` (cells) and
        `expert_steps` (commands) come from `expert.py`, played with the same skills and the same partial view
        on a copy of the episode's start. `progress` is the share of the mission's clauses accomplished.
    Episodes: drawn from (seed, episode); a draw that the expert does not win is replaced by the next one and
        counted in `rejected`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012 (gymnasium's own shape)

    def __init__(
        self,
        options: BabyAIOptions,
        *,
        seed: int,
        episodes: int,
        expert: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self.action_space, self.observation_space = text_spaces()
        self.render_mode = render_mode_of(render_mode, "rgb_array")
        self.options, self.seed, self.episodes, self.expert = options, seed, episodes, expert
        self._started: Body | None = None
        self._numbers, self._drawn_from = Episodes(episodes), seed
        self.episode = 0  # the number of the one that is played
        self.rejected = 0  # levels drawn and dropped so far, because the expert did not win them

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode: `options["episode"]`, or else the first of a new seed, or else the next one.

        Args:
            seed: of this and the following episodes; at first the constructor's.

        Raises:
            ConfigError: the episode is not in 0..episodes-1.
            GameError: no level that the expert wins was found.
        """
        super().reset(seed=seed)
        self.episode = self._numbers.begin(seed, options)
        self._drawn_from = self._drawn_from if seed is None else seed
        drawn = self._draw(self._drawn_from, self.episode)
        self._started, self._expert_steps, self._expert_cells = drawn
        grid = self.body.level.grid
        cells = [((i, j), grid.get(i, j)) for j in range(grid.height) for i in range(grid.width)]
        self.movable = [thing for _, thing in cells if thing and thing.can_pickup()]
        for cell, thing in cells:
            if thing and thing.cur_pos is None:
                thing.cur_pos = cell  # BlockedUnlockPickup puts its ball there without telling it
        return self._report(Outcome(""))

    def step(self, action: str) -> tuple[str, SupportsFloat, bool, bool, dict[str, Any]]:
        """Carry out one command. Never truncates: the horizon is a wrapper's business.

        Raises gymnasium's InvalidAction for what is no text.
        """
        command = command_of(action)
        if self.body.success:
            over = Outcome("The mission is accomplished already.", failure="the episode is over")
            observation, info = self._report(over)
            return observation, 0.0, True, False, info
        self.body.memory.update(self.body.level)  # something may have moved since
        observation, info = self._report(self.body.perform(command))
        return observation, float(self.body.success), self.body.success, False, info

    def observe_again(self) -> tuple[str, dict[str, Any]]:
        """The present observation and info, with nothing done and nothing failed."""
        self.body.memory.update(self.body.level)
        return self._report(Outcome(""))

    def move_untouched(self, rng: np.random.Generator) -> str | None:
        """Move one object that the agent never picked up to a free place in its room; its kind, or None.

        Never beside a door, and never so that something is walled in that was not. The agent sees it only if it looks.
        """
        level = self.body.level
        untouched = [thing for thing in self.movable if thing not in self.body.touched]
        if not untouched:
            return None
        # Ranked over all objects, so that the same draw meets the same object whatever was touched meanwhile.
        ranks = rng.permutation(len(self.movable))
        thing = next(self.movable[i] for i in ranks if self.movable[i] not in self.body.touched)
        origin = (int(thing.cur_pos[0]), int(thing.cur_pos[1]))
        top, size = level.room_from_pos(*origin).top, level.room_size
        cells = [(top[0] + i, top[1] + j) for i in range(1, size - 1) for j in range(1, size - 1)]
        walled_in = paths.walled_in(level)
        for index in rng.permutation(len(cells)):
            cell = cells[index]
            beside = [level.grid.get(*other) for other in paths.neighbours(cell)]
            taken = level.grid.get(*cell) is not None or cell == self.body.cell
            if taken or any(content is not None and content.type == "door" for content in beside):
                continue
            self._place(thing, origin, cell)
            if paths.walled_in(level) <= walled_in:
                level.update_objs_poss()
                return f"{thing.color} {thing.type}"
            self._place(thing, cell, origin)
        return None

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The grid from above, the agent's view lit: (height, width, 3) uint8, about 400 pixels wide."""
        if self.render_mode is None:
            return None
        level = self.body.level
        return level.get_frame(tile_size=max(8, min(32, 400 // max(level.width, level.height))))

    @property
    def body(self) -> Body:
        if self._started is None:
            raise ResetNeeded("call reset before step, observe_again, move_untouched or render")
        return self._started

    def _draw(self, seed: int, episode: int) -> tuple[Body, int, int]:
        levels = [self.options.level] if isinstance(self.options.level, str) else self.options.level
        name = levels[episode % len(levels)]
        for draw in range(_MAX_DRAWS):
            # A level of its own for each draw: what was played before cannot leave traces.
            level = gym.make(name, disable_env_checker=True).unwrapped
            assert isinstance(level, RoomGridLevel)
            level.reset(seed=int(np.random.SeedSequence([seed, episode, draw]).generate_state(1)[0]))
            body = Body(level, self.options.skill_steps)
            commands, played = experts.play(body, _EXPERT_LIMIT)
            if played.success:
                return body, len(commands), played.travelled
            self.rejected += 1
        raise GameError(f"{name}: the expert won none of {_MAX_DRAWS} levels drawn for episode {episode}")

    def _report(self, outcome: Outcome) -> tuple[str, dict[str, Any]]:
        body = self.body
        done, clauses = experts.progress(body.level.instrs, body.success)
        info: StepInfo = {
            "goal": body.level.mission,
            "skills": body.skills(),
            "templates": list(TEMPLATES),
            "entities": body.entities(),
            "subject": outcome.subject,
            "failed": bool(outcome.failure),
            "failure": outcome.failure,
            "events": [],
            "success": body.success,
            "progress": done / clauses,
            "path_length": float(body.travelled),
            "expert_path_length": float(self._expert_cells),
            "expert_steps": self._expert_steps,
            "path_unit": "cells",
        }
        if self.expert:
            info["expert_actions"] = [] if body.success else experts.lookahead(body, _LOOKAHEAD)
        view = describe(body.level, body.memory.names)
        return f"{outcome.text} {view}".strip(), dict(info)

    def _place(self, thing: Any, origin: tuple[int, int], cell: tuple[int, int]) -> None:
        self.body.level.grid.set(*origin, None)
        self.body.level.grid.set(*cell, thing)
        thing.cur_pos = cell
