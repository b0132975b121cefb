"""Habitat as a text environment: a robot that finds and brings things in scenes of habitat-sim."""

from __future__ import annotations

import base64
import math
import random
import string
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded

from erecap.envs.episodes import Episodes, command_of
from erecap.envs.habitat.client import SimulatorEnded, connect
from erecap.envs.habitat.episode_files import EpisodeFile
from erecap.envs.habitat.expert import next_commands
from erecap.envs.habitat.goals import Course, Goal, draw_goals, point_goal
from erecap.envs.habitat.houses.house import House
from erecap.envs.habitat.maps import map_of
from erecap.envs.habitat.metrics import Measures, measure
from erecap.envs.habitat.options import POINT_WITHIN, THING_WITHIN, HabitatOptions, TaskKind
from erecap.envs.habitat.robot import EYE, Outcome, Robot
from erecap.envs.habitat.scenes import GeneratedHouses, GivenScene, Scenes, Setting, annotated_house
from erecap.envs.words import plain
from erecap.errors import ConfigError, GameError
from erecap.protocols import StepInfo

EXPERT_LIMIT = 200  # commands that the expert may use for one episode
MOST_DRAWS = 20  # starts and goals drawn for one episode before giving up
POINTS = 24  # random points of the floor of which start and goal are chosen
CAMERA = (320, 240)  # width and height of a frame


@dataclass(frozen=True)
class Measured:
    """The first draw of an episode that the expert wins, and how."""

    draw: int
    steps: int
    metres: float


class HabitatEnv(gym.Env[str, str]):
    """Find points and things in a scene, or bring things, told in text.

    Description: a scene of habitat-sim: a generated house, or one of yours. The robot knows nothing of it but what it
        has seen: things in its field of view and range that nothing hides, and the floor. Where seen floor ends there
        are frontiers.
    Actions: one command, such as `explore frontier 2` or `go to red chair`; `info["skills"]` lists the admissible
        ones. They are carried out by habitat-sim's greedy geodesic follower.
    Observations: what the robot did, its room, what it sees with distance and direction, and the frontiers.
    Rewards: 1.0 at the step that fulfils the last goal, else 0.0.
    Termination: the robot said `stop` at every goal, or what is to be brought lies at its place. A `stop` elsewhere
        fails.
    Info: see `StepInfo`. `expert_path_length` and `expert_steps` are those of an expert that explores by the true place
        of what is wanted. `measures` are habitat-lab's.
    Episodes: house, start and goals are drawn from (seed, episode), or stand in an episode file. A draw that the expert
        does not win is replaced by the next one and counted in `rejected`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012 (gymnasium's own shape)

    def __init__(
        self,
        options: HabitatOptions,
        *,
        seed: int,
        episodes: int,
        expert: bool = False,
        render_mode: str | None = None,
    ) -> None:
        """Connect to habitat-sim; scenes are loaded when their episode begins.

        Raises:
            ConfigError: no such scene, dataset or episode file, too few episodes in it, or no such render mode.
            EnvironmentUnavailable: no interpreter with habitat-sim.
        """
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode: got {render_mode!r}; allowed: None, 'rgb_array'")
        self.action_space = gym.spaces.Text(200, charset=string.printable)
        self.observation_space = gym.spaces.Text(20_000, charset=string.printable)
        self.render_mode = render_mode
        self.options, self.expert = options, expert
        self._scenes: Scenes
        if options.episodes_file is not None:
            self._scenes = EpisodeFile(options, episodes)
        else:
            self._scenes = GeneratedHouses(options) if options.scene is None else GivenScene(options)
        self.connection = connect(options.python, options.time_limit)
        self._numbers, self._drawn_from = Episodes(episodes), seed
        self.episode = 0  # the number of the one that is played
        self._robot: Robot | None = None
        self._measured: dict[tuple[int, int], Measured] = {}  # by seed and episode
        self.rejected = 0  # draws dropped so far, because the expert did not win them
        self._said = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode: `options["episode"]`, or else the first of a new seed, or else the next one.

        Args:
            seed: of this and the following episodes; at first the constructor's.

        Raises:
            ConfigError: there is no such episode.
            GameError: the scene cannot be loaded, has no such task that the expert wins, or the simulator ended.
        """
        super().reset(seed=seed)
        self.episode = self._numbers.begin(seed, options)
        self._drawn_from = self._drawn_from if seed is None else seed
        self._robot = None
        key = (self._drawn_from, self.episode)
        if key not in self._measured:
            self._measured[key] = self._measure(*key)
        begun = self._begin(*key, self._measured[key].draw)
        if begun is None:
            raise GameError(f"habitat: episode {self.episode} was drawn before and cannot be drawn again")
        self._robot, self._course = begun
        self._shortest = self._shortest_way(*begun)
        self._stops = 0  # said elsewhere than at the goal
        outcome = self._robot.describe()
        self._said = outcome.text
        return self._said, self._info(outcome) | {"map": map_of(self._robot), "trail": self._trail()}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Carry out one command. Never truncates: the horizon is a wrapper's business.

        Raises gymnasium's ResetNeeded before the first `reset`, and InvalidAction for what is no text.
        """
        command, robot = command_of(action), self.robot
        outcome = self._judged(robot.perform(command), plain(command))
        self._said = outcome.text
        won = self.success
        return self._said, float(won), won, False, self._info(outcome) | {"trail": self._trail()}

    def observe_again(self) -> tuple[str, dict[str, Any]]:
        """The last observation and an info as after a command that went well; nothing changes, no time passes."""
        self._need_reset()
        return self._said, self._info(Outcome(self._said))

    def move_untouched(self, rng: np.random.Generator) -> str | None:
        """Move one thing that the robot has not held to other furniture; its name, or None.

        What lies where it is wanted stays. The robot sees it only if it looks.
        """
        robot = self.robot
        movable = sorted((thing for thing in robot.house.things if thing.movable), key=lambda thing: thing.id)
        surfaces = sorted((thing for thing in robot.house.things if thing.receptacle), key=lambda thing: thing.id)
        # Ranked over all, so that the same draw meets the same thing whatever was touched meanwhile.
        ranks, places = rng.permutation(len(movable)), rng.permutation(len(surfaces))
        goals = {goal.surface for goal in self._course.goals}
        for thing in (movable[index] for index in ranks):
            on = robot.where[thing.id].on
            if thing.id in robot.touched or on in goals:
                continue
            for surface in (surfaces[index] for index in places):
                if surface.id not in goals | {on} and robot.displace(thing, surface):
                    return thing.name
        return None

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The camera's view in render mode `rgb_array`: (height, width, 3) uint8; None with `frames: none`."""
        if not self._draws or self._robot is None:
            return None
        answer = self._robot.ask("picture")
        return np.frombuffer(base64.b64decode(answer["rgb"]), dtype=np.uint8).reshape(answer["shape"])

    def close(self) -> None:
        """End the simulator."""
        self.connection.close()

    # ---- what others may ask

    @property
    def robot(self) -> Robot:
        """The robot of the episode, and what it knows."""
        self._need_reset()
        assert self._robot is not None, "checked"
        return self._robot

    @property
    def success(self) -> bool:
        """True if every goal is fulfilled."""
        return self._course.current is None

    @property
    def measures(self) -> Measures:
        """habitat-lab's measures now. The first `stop` decides: after one elsewhere the episode counts as lost.

        Where there are several goals, distances are sums over the goals that are left.
        """
        last = self._course.goals[-1]
        left = 0.0 if last.surface else last.distance(self.robot)
        if not self.success:
            left = self._shortest_way(self.robot, self._course)
        stopped = self.success and not self._stops
        within = max(self._within, 1e-9)
        return measure(start=self._shortest, end=left, path=self.robot.metres, stopped=stopped, within=within)

    # ---- inside

    @property
    def _draws(self) -> bool:
        return self.render_mode == "rgb_array" and self.options.frames == "camera"

    @property
    def _within(self) -> float:
        given = self.options.success_distance
        return given if given is not None else POINT_WITHIN if self._course.kind == "pointnav" else THING_WITHIN

    def _judged(self, outcome: Outcome, command: str) -> Outcome:
        """The outcome with what it means for the goals."""
        robot, goal = self.robot, self._course.current
        if goal is None or outcome.failure:
            return outcome
        if outcome.stopped:
            if goal.distance(robot) >= self._within:
                self._stops += 1
                why = f"you have not reached {goal.words}"
                return Outcome(f"You stop, but {why}.", why)
            self._course.done += 1
        elif goal.surface and goal.brought(robot):
            self._course.done += 1
        else:
            return outcome
        left = self._course.current
        if left is None:
            told = "Done."
        elif self._course.kind == "tour":
            told = f"Done. Next is {left.words}."
        else:
            told = f"Done. Your next task is: {left.sentence}"
        return Outcome(f"{outcome.text} {told}", subject=outcome.subject)

    def _begin(self, seed: int, episode: int, draw: int) -> tuple[Robot, Course] | None:
        """Robot and goals of a draw; None: it has no goal of its kind."""
        options, rng = self.options, random.Random(f"habitat/{seed}/{episode}/{draw}")
        setting = self._scenes.setting(seed, episode, draw)
        house = self._open(setting)
        ask = self.connection.ask
        turned: dict[str, Any] = {"yaw": 10.0 * rng.randrange(36)}
        points = []
        if setting.start is None:
            points = [tuple(point) for point in ask("points", count=POINTS, seed=rng.getrandbits(31))["points"]]
            if not points:
                raise GameError("habitat: no random point was found on the scene's floor")
        start = points.pop() if setting.start is None else setting.start
        if setting.rotation is not None:
            turned = {"rotation": list(setting.rotation)}
        kind = self._kind(setting, episode)
        robot = Robot(self.connection, house, start, turned, fetching=kind == "fetch")
        goals = setting.goals or draw_goals(kind, robot, points, options.goals, rng)
        if not goals:
            return None
        goals = tuple(point_goal(robot.start, goal.point) if goal.point is not None else goal for goal in goals)
        robot.point = goals[0].point
        return robot, Course(kind, goals)

    def _open(self, setting: Setting) -> House:
        options, ask = self.options, self.connection.ask
        view = {"sight": options.sight, "fov": options.field_of_view, "view": options.view_range, "eye": EYE}
        camera = CAMERA if self._draws else None
        try:
            answer = ask("open", **setting.opening, **view, camera=camera, gpu=options.gpu)
        except SimulatorEnded as error:
            if camera is None:
                raise
            raise GameError(f"{error}; where there is no renderer, set frames: none") from error
        house = setting.house or annotated_house(answer, setting.extra)
        things = [
            {"id": thing.id, "centre": thing.centre, "size": thing.size, "semantic_id": thing.semantic_id}
            for thing in house.things
        ]
        ask("things", things=things, placed=setting.house is not None)
        return house

    def _kind(self, setting: Setting, episode: int) -> TaskKind:
        if setting.goals:
            return "pointnav" if setting.goals[0].point is not None else "objectnav"
        return self.options.tasks[episode % len(self.options.tasks)]

    def _measure(self, seed: int, episode: int) -> Measured:
        """Play the episode's draws with the expert that knows everything, until it wins."""
        given = self.options.episodes_file is not None
        said = "no goal of its kind"
        for draw in range(1 if given else MOST_DRAWS):
            begun = self._begin(seed, episode, draw)
            if begun is not None:
                robot, course = begun
                self._robot, self._course = robot, course
                steps = self._play(robot, course)
                if steps is not None:
                    return Measured(draw, steps, robot.metres)
                said = repr(course.sentence)
            self.rejected += 1
        self._robot = None
        raise GameError(f"habitat: the expert does not win episode {episode}: {said}")

    def _play(self, robot: Robot, course: Course) -> int | None:
        """Commands with which the expert wins; None if one of them fails or they are too many."""
        self._stops = 0
        for steps in range(EXPERT_LIMIT):
            goal = course.current
            if goal is None:
                return steps
            commands = next_commands(robot, goal, within=self._within, oracle=True)
            if not commands or self._judged(robot.perform(commands[0]), commands[0]).failure:
                return None
        return None

    def _shortest_way(self, robot: Robot, course: Course) -> float:
        """Geodesic metres from the robot to the goals that are left, one after the other."""
        metres, start = 0.0, None
        for goal in course.goals[course.done :]:
            for regions in self._stations(robot, goal):
                if not regions:
                    return math.inf
                where = {} if start is None else {"start": start}
                answer = robot.ask("distances", groups=[regions], **where)
                if answer["metres"][0] is None:
                    return math.inf
                metres, start = metres + answer["metres"][0], answer["ends"][0]
        return metres

    @staticmethod
    def _stations(robot: Robot, goal: Goal) -> list[list[list[float]]]:
        """Regions of the floor to which a goal leads, in order."""
        held = robot.held is not None and robot.things[robot.held].id in goal.targets
        regions = [] if held else [goal.regions(robot)]
        if goal.surface:
            surface = robot.ids[goal.surface]
            regions.append(robot.approach(surface, robot.where[surface.id]))
        return regions

    def _info(self, outcome: Outcome) -> dict[str, Any]:
        robot, course = self.robot, self._course
        measured = self._measured[self._drawn_from, self.episode]
        info = StepInfo(
            goal=course.sentence,
            skills=robot.skills(),
            templates=list(robot.templates),
            entities=robot.entities(),
            subject=outcome.subject,
            failed=bool(outcome.failure),
            failure=outcome.failure,
            events=[],
            success=self.success,
            progress=course.progress(robot),
            path_length=robot.metres,
            expert_path_length=measured.metres,
            expert_steps=measured.steps,
            path_unit="m",
        )
        info["trail"] = {}  # a step has one: to look again moves nobody
        info["measures"] = {name: value for name, value in asdict(self.measures).items() if math.isfinite(value)}
        if self.expert:
            info["expert_actions"] = self._expert_actions()
        return dict(info)

    def _trail(self) -> dict[str, list[tuple[float, float]]]:
        return {"robot": self.robot.take_trail()}

    def _expert_actions(self) -> list[str]:
        goal = self._course.current
        if goal is None:
            return []
        oracle = self.options.expert == "oracle"
        return list(next_commands(self.robot, goal, within=self._within, oracle=oracle))

    def _need_reset(self) -> None:
        if self._robot is None:
            raise ResetNeeded("call reset() before step, observe_again or move_untouched")
