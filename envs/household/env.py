"""The household environment: text games of tidying up in real floor plans, on the ALFWorld engine."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym

from erecap.envs.episodes import Episodes, command_of, render_mode_of, text_spaces
from erecap.envs.household.commands import command_templates, fill_slots, names_in
from erecap.envs.household.data.gamefile import GameData, Goal, Task
from erecap.envs.household.engine.opening import open_engine
from erecap.envs.household.experts.goals import GoalList
from erecap.envs.household.experts.memory import Memory
from erecap.envs.household.experts.oracle import best_way
from erecap.envs.household.experts.search import search_plan
from erecap.envs.household.experts.travel import floor_plan
from erecap.envs.household.games.games import Games
from erecap.envs.household.options import HouseholdOptions
from erecap.errors import GameError
from erecap.protocols import StepInfo

_SHOWN = re.compile(r"On the ([a-z]+ \d+), you see|The ([a-z]+ \d+) is open\. In it, you see")
_SHUT = re.compile(r"The ([a-z]+ \d+) is closed\.")


class HouseholdEnv(gym.Env[str, str]):
    """Find, treat and put away objects in a room, told in text.

    Description: one of ALFWorld's six task types in a kitchen, living room, bedroom or bathroom of AI2-THOR.
    The agent sees what it stands before, and must open closed furniture to see inside.

    Actions: one command as text, such as `go to fridge 1`; `info["skills"]` lists those that are admissible. Any
    other text fails: `info["failed"]` is true and nothing changes.

    Observations: the engine's answer; at first the receptacles of the room. The goal is in `info["goal"]`. In a chain
    the observation that fulfils a goal ends with "Done. Your next task is: ...", and `info["goal"]` changes with it.

    Rewards: 1 when the task is fulfilled (in a chain, the last one), else 0.

    Starting state: at a reachable point of the floor plan that the game file names, away from the furniture, with
    empty hands. Travel is counted from there, in metres along the floor plan's grid.

    Termination: when the task is fulfilled, in a chain the last one. The environment itself never truncates.

    Experts: `expert_path_length` and `expert_steps` are those of an expert that knows where everything is; in a chain
    it goes from goal to goal, each by its own shortest walk. `expert_actions` are that expert's or the searching
    expert's, as the options say.

    Source: Shridhar et al., ALFWorld, ICLR 2021 (https://arxiv.org/abs/2010.03768).
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 (gymnasium's own shape)

    def __init__(
        self,
        options: HouseholdOptions,
        *,
        seed: int,
        episodes: int,
        expert: bool = False,
        render_mode: str | None = None,
    ) -> None:
        """Open the engine; games are generated when their episode is first played.

        Args:
            options: which games.
            seed: selects the games; episode `i` depends on `(options, seed, i)` alone.
            episodes: how many games there are to select from.
            expert: put the expert's next commands into `info["expert_actions"]`.
            render_mode: None, or `ansi` for the observation as text.

        Raises:
            ConfigError: there are not enough games, or no such render mode.
            EnvironmentUnavailable: the simulator's packages are missing.
            GameError: there is no game in `options.games_dir`.
        """
        self.render_mode = render_mode_of(render_mode, "ansi")
        self.action_space, self.observation_space = text_spaces()
        self._expert = expert
        self._searches = options.expert == "search"
        self._games = Games(options, seed=seed, episodes=episodes)
        self._numbers = Episodes(episodes)
        self.episode = 0  # the number of the one that is played
        self._engine = open_engine()
        self._closed = False
        self._started = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin an episode: `options["episode"]`, or else one that a new seed draws, or else the next one.

        A seed decides nothing but which episodes are played without their number: each is the same under every seed.

        Raises:
            ConfigError: there is no such episode.
            GameError: the game file is damaged, or the expert knows no way to win it.
        """
        super().reset(seed=seed)
        drawn = 0 if seed is None else int(self.np_random.integers(self._games.episodes))
        self.episode = self._numbers.begin(seed, options, drawn)
        game = self._games.load(self.episode, self._engine)
        self._plan = floor_plan(game.task.room)
        sentence = self._engine.load(game)
        self.turn = self._engine.reset()
        self.verbs = self._engine.verbs
        self._goals = GoalList(game.chain or self._only_goal(game, sentence))
        self._chained = len(self._goals.goals) > 1
        self._said = self.turn.feedback
        self.memory = Memory.of([self._said])
        if not self.memory.receptacles:  # a game of others, where the agent starts before a receptacle
            self.memory.receptacles = tuple(self._places())
        self._templates = command_templates(self.verbs, self.turn.world)
        self._path_length = 0.0
        self._seen: set[str] = set()
        self._looked_into: set[str] = set()
        self._subject = ""
        self._started = True
        self._take_in()
        return self._said, dict(self._info())

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one command.

        Raises gymnasium's ResetNeeded before the first `reset`, and InvalidAction for what is no text.
        """
        self._need_reset("step")
        command = command_of(action).strip()
        failed = command not in self.turn.commands
        before = self.turn.world.place
        self.turn = self._engine.step(command)
        after = self.turn.world.place
        if after != before:
            self._path_length += self._plan.between(before, after)
        announced = self._goals.check(self.turn.world)
        self._said = f"{self.turn.feedback} {announced}".strip()
        self.memory.read(self.turn.feedback)
        self._take_in()
        info = self._info(f"{command!r} is not admissible now" if failed else "")
        return self._said, float(self._won), self._won, False, dict(info)

    def observe_again(self) -> tuple[str, dict[str, Any]]:
        """The last observation and an info as after a command that went well; nothing changes, no time passes.

        For wrappers that keep a command from being played.
        """
        self._need_reset("observe_again")
        return self._said, dict(self._info())

    def render(self) -> str | None:  # type: ignore[override]
        """The last observation, in render mode `ansi`."""
        return self._said if self.render_mode == "ansi" and self._started else None

    def close(self) -> None:
        """Unload the engine."""
        if not self._closed:
            self._engine.close()
            self._closed = True

    @property
    def task(self) -> Task:
        """The task to achieve now."""
        return self._goals.current.task

    @property
    def _won(self) -> bool:
        # The engine knows the first goal only, and goes on when it is met. What it says of a single game counts.
        return self._goals.done if self._chained else self.turn.won

    def _only_goal(self, game: GameData, sentence: str) -> tuple[Goal, ...]:
        way = best_way(self.turn.world, game.task, self._plan, self.verbs)
        if way is None:
            raise GameError(f"game file {game.path}: the expert knows no way to win it")
        return (Goal(game.task, sentence, len(way.commands), way.metres),)

    def _places(self) -> list[str]:
        going = self.verbs["gotolocation"].format(r="")
        return [command.removeprefix(going) for command in self.turn.commands if command.startswith(going)]

    def _expert_actions(self) -> list[str]:
        task = self._goals.current.task
        if self._won:
            return []
        if self._searches:
            return list(search_plan(self.memory, task, self.verbs))
        way = best_way(self.turn.world, task, self._plan, self.verbs)
        return list(way.commands) if way else []

    def _take_in(self) -> None:
        """Note what the newest observation names, and what it is about."""
        text = self.turn.feedback
        self._seen |= names_in(text)
        shown, shut = _SHOWN.search(text), _SHUT.search(text)
        self._subject = ""
        if shown:
            self._subject = shown.group(1) or shown.group(2)
            self._looked_into.add(self._subject)
        # A shut door says nothing of what was seen behind it before, so it is about the receptacle only if it is
        # all that is known of it. Neither is taking something out a view of what is left.
        elif shut and shut.group(1) not in self._looked_into:
            self._subject = shut.group(1)

    def _info(self, failure: str = "") -> StepInfo:
        world = self.turn.world
        info = StepInfo(
            goal=self._goals.current.sentence,
            skills=[command for command in self.turn.commands if command != "help"],
            templates=list(self._templates),
            entities=fill_slots(self._seen, world),
            subject=self._subject,
            failed=bool(failure),
            failure=failure,
            events=[],
            success=self._won,
            progress=self._goals.progress(world),
            path_length=self._path_length,
            expert_path_length=sum(goal.expert_metres for goal in self._goals.goals),
            expert_steps=sum(goal.expert_steps for goal in self._goals.goals),
            path_unit="m",
        )
        if self._expert:
            info["expert_actions"] = self._expert_actions()
        return info

    def _need_reset(self, method: str) -> None:
        if not self._started:
            raise gym.error.ResetNeeded(f"call reset() before {method}()")
