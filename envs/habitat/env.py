"""Habitat as a text environment: a robot that finds and brings things in scenes of habitat-sim."""

from __future__ import annotations

import base64
import math
import random
from dataclasses import asdict
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded

from erecap.envs.draws import MOST_DRAWS, Draws, UselessDraw
from erecap.envs.episodes import Episodes, command_of, render_mode_of, text_spaces
from erecap.envs.habitat.client import SimulatorEnded, connect
from erecap.envs.habitat.episode_files import EpisodeFile
from erecap.envs.habitat.expert import next_commands
from erecap.envs.habitat.goals import Course, draw_goals, point_goal
from erecap.envs.habitat.houses.house import House
from erecap.envs.habitat.maps import map_of
from erecap.envs.habitat.metrics import Measures, measure
from erecap.envs.habitat.options import HabitatOptions, TaskKind
from erecap.envs.habitat.robot import EYE, Outcome, Robot
from erecap.envs.habitat.scenes import GeneratedHouses, GivenScene, Scenes, Setting, annotated_house
from erecap.errors import GameError
from erecap.protocols import StepInfo

EXPERT_LIMIT = 200  # commands that the expert may use for one episode
POINTS = 24  # random points of the floor of which start and goal are chosen
CAMERA = (320, 240)  # width and height of a frame


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
        self.action_space, self.observation_space = text_spaces()
        self.render_mode = render_mode_of(render_mode, "rgb_array")
        self.options, self.expert = options, expert
        self._scenes: Scenes
        if options.episodes_file is not None:
            self._scenes = EpisodeFile(options, episodes)
        else:
            self._scenes = GeneratedHouses(options) if options.scene is None else GivenScene(options)
        self.connection = connect(options.python, options.time_limit)
        self._numbers, self._drawn_from = Episodes(episodes), seed
        self.episode = 0  # the number of the one that is played
        self._course: Course | None = None
        self._draws = Draws(self._win, 1 if options.episodes_file is not None else MOST_DRAWS)
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
        self._course = None
        self._won = self._draws.find(self._drawn_from, self.episode)
        course = self._begin(self._drawn_from, self.episode, self._won.draw)
        self._shortest = course.way_left
        self._course = course
        outcome = course.robot.describe()
        self._said = outcome.text
        return self._said, self._info(outcome) | {"map": map_of(course.robot), "trail": self._trail()}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Carry out one command. Never truncates: the horizon is a wrapper's business.

        Raises gymnasium's ResetNeeded before the first `reset`, and InvalidAction for what is no text.
        """
        command, course = command_of(action), self.course
        outcome = course.perform(command)
        self._said = outcome.text
        won = self.success
        return self._said, float(won), won, False, self._info(outcome) | {"trail": self._trail()}

    def observe_again(self) -> tuple[str, dict[str, Any]]:
        """The last observation and an info as after a command that went well; nothing changes, no time passes."""
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
        goals = {goal.surface for goal in self.course.goals}
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
        if not self._drawing or self._course is None:
            return None
        answer = self.robot.ask("picture")
        return np.frombuffer(base64.b64decode(answer["rgb"]), dtype=np.uint8).reshape(answer["shape"])

    def close(self) -> None:
        """End the simulator."""
        self.connection.close()

    # ---- what others may ask

    @property
    def course(self) -> Course:
        """The goals of the episode, and how far the robot has come."""
        if self._course is None:
            raise ResetNeeded("call reset() before step, observe_again or move_untouched")
        return self._course

    @property
    def robot(self) -> Robot:
        """The robot of the episode, and what it knows."""
        return self.course.robot

    @property
    def rejected(self) -> int:
        """Draws dropped so far, because the expert did not win them."""
        return self._draws.rejected

    @property
    def success(self) -> bool:
        """True if every goal is fulfilled."""
        return self.course.current is None

    @property
    def measures(self) -> Measures:
        """habitat-lab's measures now. The first `stop` decides: after one elsewhere the episode counts as lost.

        Where there are several goals, distances are sums over the goals that are left.
        """
        course, last = self.course, self.course.goals[-1]
        left = 0.0 if last.surface else last.distance(course.robot)
        if not self.success:
            left = course.way_left
        stopped = self.success and not course.stops
        path = course.robot.metres
        return measure(start=self._shortest, end=left, path=path, stopped=stopped, within=course.within)

    # ---- inside

    @property
    def _drawing(self) -> bool:
        return self.render_mode == "rgb_array" and self.options.frames == "camera"

    def _begin(self, seed: int, episode: int, draw: int) -> Course:
        """The robot and goals of a draw. Raises UselessDraw: its scene has no goal of the kind."""
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
            raise UselessDraw(f"habitat: the scene of episode {episode} has no goal for {kind}")
        goals = tuple(point_goal(robot.start, goal.point) if goal.point is not None else goal for goal in goals)
        robot.point = goals[0].point
        return Course(kind, goals, robot, options.success_distance)

    def _open(self, setting: Setting) -> House:
        options, ask = self.options, self.connection.ask
        view = {"sight": options.sight, "fov": options.field_of_view, "view": options.view_range, "eye": EYE}
        camera = CAMERA if self._drawing else None
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

    def _win(self, seed: int, episode: int, draw: int) -> tuple[int, float]:
        """Commands and metres with which the expert that knows everything wins a draw.

        Raises:
            UselessDraw: there is no goal, one of its commands fails, or they are too many.
        """
        course = self._begin(seed, episode, draw)
        for steps in range(EXPERT_LIMIT):
            goal = course.current
            if goal is None:
                return steps, course.robot.metres
            commands = next_commands(course.robot, goal, within=course.within, oracle=True)
            if not commands or course.perform(commands[0]).failure:
                break
        raise UselessDraw(f"habitat: the expert does not win episode {episode}: {course.sentence!r}")

    def _info(self, outcome: Outcome) -> dict[str, Any]:
        robot, course = self.robot, self.course
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
            progress=course.progress,
            path_length=robot.metres,
            expert_path_length=self._won.metres,
            expert_steps=self._won.steps,
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
        goal = self.course.current
        if goal is None:
            return []
        oracle = self.options.expert == "oracle"
        return list(next_commands(self.robot, goal, within=self.course.within, oracle=oracle))
