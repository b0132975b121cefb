"""pyrobosim as a text environment: one to eight robots that fetch and gather in a house they have to search."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded

from erecap.envs.commands import Outcome
from erecap.envs.draws import Draws, UselessDraw
from erecap.envs.episodes import Episodes, command_of, render_mode_of, text_spaces
from erecap.envs.pyrobosim.commands import TEMPLATES, addressee
from erecap.envs.pyrobosim.crew import Crew
from erecap.envs.pyrobosim.expert import next_turn
from erecap.envs.pyrobosim.floor_map import floor_map, standing, take_trails
from erecap.envs.pyrobosim.goals import Goal, draw_goal
from erecap.envs.pyrobosim.options import MOST_ROBOTS, PyRoboSimOptions
from erecap.envs.pyrobosim.simulation import Simulation
from erecap.envs.pyrobosim.worlds.files import read_world
from erecap.envs.pyrobosim.worlds.generate import generate_world
from erecap.envs.words import find_name, plain
from erecap.errors import ConfigError, GameError
from erecap.protocols import TeamInfo

EXPERT_LIMIT = 400  # commands that the expert may use for one episode


class PyRoboSimEnv(gym.Env[str, str]):
    """Fetch and gather objects in a house with one robot or several, told in text.

    Description: rooms joined by hallways, furniture that is open or opens, objects on and in it. The floor plan and its
        doors are known; a robot sees the furniture of a room when it comes in, and what lies at a place when it stands
        before it. Robots move by pyrobosim's path planners and its actions; time is simulated, nothing waits.
    Actions: one command, such as `go to table 1`; with several robots `robot 2: go to table 1`, or commands without a
        name for the robot whose turn it is, as the option `turns` says. `info["skills"]` lists the admissible ones.
    Observations: what the robot did, where it is, what it sees, its battery if moving costs any.
    Rewards: 1.0 at the step that fulfils the goal, else 0.0.
    Termination: everything that is wanted lies at its place.
    Truncation: with the option `deadline_s`, when the simulated clock passes it; `info["out_of_time"]` says so.
    Info: see `TeamInfo`. `path_length` counts metres of all robots together. `expert_path_length` and `expert_steps`
        are those of an expert that knows where everything is and whose actions never fail by chance.
    Episodes: world, task and chance are drawn from (seed, episode). A draw that the expert which knows everything does
        not win, since what is wanted does not fit the place, is replaced by the next one and counted in `rejected`.
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 (gymnasium's own shape)

    def __init__(
        self,
        options: PyRoboSimOptions,
        *,
        seed: int,
        episodes: int,
        expert: bool = False,
        render_mode: str | None = None,
    ) -> None:
        """Worlds are built when their episode is first played.

        Raises:
            ConfigError: the world file cannot be read, has fewer robots than wanted, more than can be played, or one
                where options are for several; or no such render mode.
        """
        self.action_space, self.observation_space = text_spaces()
        self.render_mode = render_mode_of(render_mode, "ansi")
        self.options, self.expert = options, expert
        self._file = None if options.world is None else read_world(options.world)
        if self._file is not None:
            there = len(self._file["robots"])
            if (options.robots or 1) > there:
                raise ConfigError(f"robots: got {options.robots}; allowed: 1 to {there}, which {options.world} has")
            if options.robots is None and there > MOST_ROBOTS:
                raise ConfigError(f"{options.world}: has {there} robots; `robots: {MOST_ROBOTS}` plays the first")
            if there == 1 and options.refusal_for_one_robot():
                raise ConfigError(f"{options.world}: {options.refusal_for_one_robot()}")
        self._numbers, self._drawn_from = Episodes(episodes), seed
        self.episode = 0  # the number of the one that is played
        self._crew: Crew | None = None
        self._draws = Draws(self._win)
        self._said = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode: `options["episode"]`, or else the first of a new seed, or else the next one.

        Args:
            seed: of this and the following episodes; at first the constructor's.

        Raises:
            ConfigError: there is no such episode.
            GameError: the world cannot be loaded, has no such task, or the expert does not win it.
        """
        super().reset(seed=seed)
        self.episode = self._numbers.begin(seed, options)
        self._drawn_from = self._drawn_from if seed is None else seed
        self._crew = None
        self._won = self._draws.find(self._drawn_from, self.episode)
        begun = self._begin(self._drawn_from, self.episode, self._won.draw, self.options.failures)
        self._crew, self._goal = begun
        outcomes = [self.crew.describe(number) for number in range(self.robots)]
        plan = f"The house has {self._listed(self.crew.simulation.world.rooms)}."
        shut = [hallway for hallway in self.crew.simulation.world.hallways if not hallway.is_open]
        doors = f" Closed: {self._listed(shut)}." if shut else ""
        views = " ".join(self._named(number, outcome.text) for number, outcome in enumerate(outcomes))
        observation, info = self._report(Outcome(f"{plan}{doors} {views}"))
        return observation, info | {"map": floor_map(self.crew.simulation), "trail": standing(self.crew.simulation)}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Carry out one command. Truncates at the deadline only: the horizon is a wrapper's business.

        Raises gymnasium's ResetNeeded before the first `reset`, and InvalidAction for what is no text.
        """
        command, crew = command_of(action), self.crew
        name, rest = addressee(command)
        turn = self.turn
        number = turn if turn is not None else self._robot_called(name)
        if number is None:
            allowed = ", ".join(self._robot(index) for index in range(self.robots))
            wrong = f"Nothing happens: {plain(command)!a} names no robot; commands begin with {allowed} and a colon."
            outcome = Outcome(wrong, "no such robot")
        else:
            outcome = crew.perform(number, rest if turn is None else command)
            outcome = Outcome(self._addressed(number, outcome.text), outcome.failure, outcome.subject)
        won = self.success
        observation, info = self._report(outcome)
        info["trail"] = take_trails(crew.simulation)
        return observation, float(won), won, self.out_of_time, info

    def advance(self, seconds: float) -> tuple[bool, dict[str, Any]]:
        """Let simulated seconds pass in which the robots wait for their planner.

        With `turns: earliest` only the robot whose turn it is waits, and the others go on with what they do. Where
        commands name their robot, all wait from the time when the last was done.

        Returns:
            True if the deadline passed, and an info as `observe_again` gives it.
        """
        simulation = self.crew.simulation
        waiting = range(self.robots) if self.turn is None else [self.turn]
        until = max(simulation.clocks[number] for number in waiting) + seconds
        for number in waiting:
            simulation.stand(simulation.robots[number], until)
        return self.out_of_time, self.observe_again()[1]

    def observe_again(self) -> tuple[str, dict[str, Any]]:
        """The last observation and an info as after a command that went well; nothing changes, no time passes."""
        said = self._said
        return said, self._info(Outcome(said))

    def move_untouched(self, rng: np.random.Generator) -> str | None:
        """Move one object that no robot has picked up to another open place; its name, or None.

        What lies where it is wanted stays. A robot sees it only if it looks.
        """
        crew, simulation = self.crew, self.crew.simulation
        goal = simulation.names[self._goal.place]
        items = sorted(simulation.world.objects, key=lambda item: item.name)
        free = [place for place in simulation.places if place.is_open and place.nav_poses]
        places = [place for place in free if place is not goal and not place.parent.is_charger]
        # Ranked over all, so that the same draw meets the same object whatever was touched meanwhile.
        ranks, targets = rng.permutation(len(items)), rng.permutation(len(places))
        for item in (items[i] for i in ranks):
            fixed = simulation.name(item) in crew.touched or item.parent is goal or not item.parent.is_open
            for place in (places[i] for i in targets):
                if not fixed and place is not item.parent and simulation.move(item, place, rng):
                    return simulation.name(item)
        return None

    def close_door(self, rng: np.random.Generator) -> str | None:
        """Close one open door between two rooms; its name, or None. No door closes on a robot."""
        simulation = self.crew.simulation
        doors = sorted(simulation.world.hallways, key=lambda door: door.name)
        for door in (doors[i] for i in rng.permutation(len(doors))):  # ranked over all, as objects are
            if door.is_open and simulation.shut(door):
                return simulation.name(door)
        return None

    def render(self) -> str | None:  # type: ignore[override]
        """The last observation, in render mode `ansi`."""
        return self._said if self.render_mode == "ansi" and self._crew is not None else None

    # ---- what others may ask

    @property
    def crew(self) -> Crew:
        """The robots of the episode, their knowledge and their world."""
        if self._crew is None:
            raise ResetNeeded("call reset() before step, observe_again or move_untouched")
        return self._crew

    @property
    def goal(self) -> Goal:
        """The goal of the episode."""
        if self._crew is None:
            raise ResetNeeded("call reset() before asking for the goal")
        return self._goal

    @property
    def rejected(self) -> int:
        """Draws dropped so far, because the expert did not win them."""
        return self._draws.rejected

    @property
    def robots(self) -> int:
        """Number of robots in the episode."""
        return len(self.crew.knowledge)

    @property
    def seconds(self) -> float:
        """Simulated seconds until the last robot was done: the makespan so far."""
        return self.crew.simulation.seconds

    @property
    def success(self) -> bool:
        """True if everything that is wanted lies at its place, and was brought there in time."""
        return not any(self._goal.missing(self.crew.simulation).values()) and not self.out_of_time

    @property
    def out_of_time(self) -> bool:
        """True if the simulated clock has passed the deadline."""
        return self._late(self.crew)

    @property
    def turn(self) -> int | None:
        """The robot that commands without a name go to; None: commands name theirs."""
        return self._turn_of(self.crew)

    # ---- inside

    def _late(self, crew: Crew) -> bool:
        deadline = self.options.deadline_s
        return deadline is not None and crew.simulation.seconds > deadline

    def _turn_of(self, crew: Crew) -> int | None:
        clocks = crew.simulation.clocks
        if len(clocks) == 1:
            return 0
        return None if self.options.turns == "addressed" else clocks.index(min(clocks))

    def _begin(self, seed: int, episode: int, draw: int, failures: float | None) -> tuple[Crew, Goal]:
        rng = random.Random(f"pyrobosim/{seed}/{episode}/{draw}")
        world = generate_world(self.options, rng) if self._file is None else self._file
        folder = Path.cwd() if self.options.world is None else self.options.world.expanduser().parent
        simulation = Simulation(
            world,
            folder.resolve(),
            seed=[seed % 2**64, episode, draw],
            robots=self.options.robots,
            failures=failures,
            battery_per_metre=self.options.battery_per_metre,
            battery_per_waiting_second=self.options.battery_per_waiting_second,
        )
        kinds = self.options.tasks
        goal = draw_goal(simulation, kinds[episode % len(kinds)], self.options.gather, rng)
        if self.options.deadline_s is not None:
            goal = replace(goal, sentence=f"{goal.sentence} You have {self.options.deadline_s:g} seconds.")
        return Crew(simulation, goal, shared=self.options.knowledge == "shared"), goal

    def _win(self, seed: int, episode: int, draw: int) -> tuple[int, float]:
        """Commands and metres with which the expert that knows everything wins a draw, nothing failing by chance.

        Raises:
            UselessDraw: there is no goal, one of its commands fails, they are too many, or take too long.
            GameError: there is no goal in the world file, which is the same at every draw.
        """
        try:
            crew, goal = self._begin(seed, episode, draw, 0.0)
        except UselessDraw as error:
            if self._file is None:
                raise
            raise GameError(str(error)) from error
        for steps in range(EXPERT_LIMIT):
            if self._late(crew):
                break
            if not any(goal.missing(crew.simulation).values()):
                return steps, crew.simulation.metres
            turn = next_turn(crew, goal, oracle=True, only=self._turn_of(crew))
            if turn is None or crew.perform(turn.robot, turn.commands[0]).failure:
                break
        raise UselessDraw(f"pyrobosim: the expert does not win episode {episode}: {goal.sentence!r}")

    def _report(self, outcome: Outcome) -> tuple[str, dict[str, Any]]:
        self._said = outcome.text
        if self.robots > 1 and self.options.turns == "earliest" and not self.success:
            self._said += f" It is the turn of {self._robot(self.turn)}."
        return self._said, self._info(outcome)

    def _info(self, outcome: Outcome) -> dict[str, Any]:
        crew, goal = self.crew, self._goal
        named = self.turn is None
        numbers = range(self.robots) if self.turn is None else [self.turn]
        skills = [
            f"{self._robot(number)}: {command}" if named else command
            for number in numbers
            for command in crew.skills(number)
        ]
        entities = crew.entities()
        if named:
            entities = {**entities, "robot": sorted(self._robot(number) for number in numbers)}
        info = TeamInfo(
            goal=goal.sentence,
            skills=skills,
            templates=[f"{{robot}}: {shape}" if named else shape for shape in self._shapes()],
            entities=entities,
            subject=outcome.subject,
            failed=bool(outcome.failure),
            failure=outcome.failure,
            events=[],
            success=self.success,
            progress=goal.progress(crew.simulation),
            path_length=crew.simulation.metres,
            expert_path_length=self._won.metres,
            expert_steps=self._won.steps,
            path_unit="m",
            trail={},  # a step has one: to look again moves nobody
            out_of_time=self.out_of_time,
            constraints=goal.constraints(),
            seconds=self.seconds,
            waited=crew.simulation.waited,
        )
        if self.robots > 1 and self.turn is not None:
            info["robot"] = self._robot(self.turn)
            info["robots"] = [self._robot(number) for number in range(self.robots)]
        if self.expert:
            info["expert_actions"] = [] if self.success else self._expert_actions()
        return dict(info)

    def _expert_actions(self) -> list[str]:
        turn = next_turn(self.crew, self._goal, oracle=self.options.expert == "oracle", only=self.turn)
        if turn is None:
            return []
        if self.turn is None:
            return [f"{self._robot(turn.robot)}: {command}" for command in turn.commands]
        # Before the second command of a robot others have their turn, and may change what is best.
        return list(turn.commands[:1]) if self.options.turns == "earliest" and self.robots > 1 else list(turn.commands)

    def _shapes(self) -> list[str]:
        charger = any(location.is_charger for location in self.crew.simulation.world.locations)
        without = {"wait"} if self.robots == 1 else set()
        without |= set() if charger else {"charge"}
        return [shape for shape in TEMPLATES if shape not in without]

    def _robot(self, number: int) -> str:
        simulation = self.crew.simulation
        return simulation.name(simulation.robots[number])

    def _robot_called(self, name: str) -> int | None:
        robots = [self._robot(number) for number in range(self.robots)]
        found = find_name(name, robots)
        return robots.index(found) if found in robots else None

    def _addressed(self, number: int, text: str) -> str:
        return text if self.options.turns == "team" else self._named(number, text)

    def _named(self, number: int, text: str) -> str:
        return text if self.robots == 1 else f"{self._robot(number)}: {text}"

    def _listed(self, entities: list[Any]) -> str:
        return ", ".join(sorted(self.crew.simulation.name(entity) for entity in entities))
