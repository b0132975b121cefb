"""The ROS 2 node without ROS: it is refused in one line, and its glue works on classes of rclpy's shape."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from tests.context.small_tokenizers import byte_level
from tests.session.chats import model

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DEFINITION = (EXAMPLES / "ros2" / "action" / "Plan.action").read_text()
PARTS = [
    [line.split()[1] for line in part.splitlines() if line and not line.startswith("#")]
    for part in DEFINITION.split("---\n")
]
# From the state machine of actions: which end a goal may take in which state.
ENDS = {
    "executing": {"succeed": "succeeded", "abort": "aborted"},
    "canceling": {"succeed": "succeeded", "abort": "aborted", "canceled": "canceled"},
}


def shaped(fields: list[str]) -> type:
    """A message class as rosidl makes them: these fields and no others."""
    return type("Message", (), {"__slots__": fields})


class Plan:
    """The action, as it is built from `Plan.action`."""

    Goal, Result, Feedback = (shaped(fields) for fields in PARTS)


class Handle:
    """As rclpy's `ServerGoalHandle`."""

    def __init__(self, task: str = "", observation: str = "", on_feedback: Callable[..., None] | None = None) -> None:
        self.request = Plan.Goal()
        self.request.task, self.request.observation = task, observation
        self.state, self.told, self.on_feedback = "executing", [], on_feedback  # type: ignore[var-annotated]

    @property
    def is_cancel_requested(self) -> bool:
        return self.state == "canceling"

    def publish_feedback(self, feedback: Any) -> None:
        assert isinstance(feedback, Plan.Feedback)
        self.told.append(list(feedback.steps))
        if self.on_feedback is not None:
            self.on_feedback()

    def _end(self, way: str) -> None:
        self.state = ENDS[self.state][way]  # a KeyError is an end that the state machine does not allow

    def succeed(self) -> None:
        self._end("succeed")

    def canceled(self) -> None:
        self._end("canceled")

    def abort(self) -> None:
        self._end("abort")


class Executor:
    """As `MultiThreadedExecutor`; what it does while it spins is the test's."""

    threads: ClassVar[list[int]] = []
    on_spin: ClassVar[Callable[[], None]]

    def __init__(self, num_threads: int) -> None:
        Executor.threads.append(num_threads)
        self.nodes: list[Any] = []

    def add_node(self, node: Any) -> None:
        self.nodes.append(node)

    def spin(self) -> None:
        assert len(self.nodes) == 1
        Executor.on_spin()

    def shutdown(self) -> None:
        self.nodes.clear()


class Ros:
    """As much of rclpy and std_msgs as the node asks for."""

    def __init__(self) -> None:
        self.actions: dict[str, tuple[Any, Any]] = {}
        self.topics: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.given: list[str] = []
        self.ended = False
        shutdown = type("ExternalShutdownException", (Exception,), {})
        node = SimpleNamespace(
            get_logger=lambda: SimpleNamespace(warning=self.warnings.append),
            create_subscription=lambda kind, name, callback, depth, *, callback_group: self.topics.update(
                {name: callback}
            ),
            destroy_node=lambda: None,
        )

        def action_server(
            node: Any, kind: Any, name: str, execute: Any, *, callback_group: Any, cancel_callback: Any
        ) -> None:
            assert kind is Plan
            self.actions[name] = (execute, cancel_callback)

        self.modules = {
            "rclpy": SimpleNamespace(
                init=lambda *, args: self.given.extend(args),
                create_node=lambda name: node,
                try_shutdown=lambda: setattr(self, "ended", True),
            ),
            "rclpy.action": SimpleNamespace(
                ActionServer=action_server, CancelResponse=SimpleNamespace(ACCEPT="accept")
            ),
            "rclpy.callback_groups": SimpleNamespace(ReentrantCallbackGroup=object),
            "rclpy.executors": SimpleNamespace(MultiThreadedExecutor=Executor, ExternalShutdownException=shutdown),
            "std_msgs.msg": SimpleNamespace(String=object),
            "erecap_interfaces.action": SimpleNamespace(Plan=Plan),
        }
        for name in ("action", "callback_groups", "executors"):
            setattr(self.modules["rclpy"], name, self.modules[f"rclpy.{name}"])


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module `ros2_node`, on a Python that has no ROS."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import ros2_node

    yield ros2_node
    for name in ("ros2_node", "robot_planner"):
        sys.modules.pop(name, None)


@pytest.fixture
def planner(example: ModuleType) -> Iterator[Any]:
    made = example.RobotPlanner(model(), byte_level(), ["red", "blue"], commands=["look", "go to fridge 1"])
    yield made
    made.close()


def run(example: ModuleType, planner: Any, handle: Handle, complain: Callable[[str], None] = print) -> Any:
    return example.execute(planner, "red", Plan, complain, handle)


def test_the_definition_is_what_the_node_fills() -> None:
    assert PARTS == [
        ["task", "observation"],
        ["steps", "message", "prompt_tokens", "new_tokens", "seconds"],
        ["steps"],
    ]
    kinds = {"string", "string[]", "uint32", "float64"}
    lines = [line for line in DEFINITION.splitlines() if line and line[0] not in "#-"]
    assert all(line.split()[0] in kinds for line in lines)
    package = (EXAMPLES / "ros2" / "package.xml").read_text()
    built = (EXAMPLES / "ros2" / "CMakeLists.txt").read_text()
    assert "<name>erecap_interfaces</name>" in package and "project(erecap_interfaces)" in built
    assert '"action/Plan.action"' in built and "rosidl_interface_packages" in package


def test_a_goal_that_succeeds(example: ModuleType, planner: Any) -> None:
    handle = Handle("cool the apple 1", "You see a fridge 1.")
    result = run(example, planner, handle)
    assert handle.state == "succeeded" and handle.told[0] == [] and result.message == ""
    assert result.steps and set(result.steps) <= {"look", "go to fridge 1"}
    assert result.new_tokens == result.prompt_tokens > 0 and result.seconds > 0


def test_a_goal_that_is_canceled(example: ModuleType, planner: Any) -> None:
    done = threading.Event()

    def cancel() -> None:
        handle.state = "canceling"
        assert done.wait(60)  # until the node has seen it

    handle = Handle("cool the apple 1", on_feedback=cancel)
    stop = example.RobotPlanner.submit

    def watched(*args: Any) -> Any:
        goal = stop(planner, *args)
        end = goal.stop
        goal.stop = lambda: (end(), done.set())
        return goal

    planner.submit = watched
    result = run(example, planner, handle)
    assert (handle.state, result.steps, result.message) == ("canceled", [], "canceled")


def test_goals_that_are_aborted(example: ModuleType, planner: Any) -> None:
    said: list[str] = []
    handle = Handle()
    result = run(example, planner, handle, said.append)
    assert handle.state == "aborted" and result.steps == []
    assert said == [f"red: goal aborted: {result.message}"] and result.message.startswith("the goal has no task")
    with ThreadPoolExecutor(1) as pool:
        newer: list[Future[Any]] = []
        second = Handle("take the apple 1")

        def overtaken() -> None:
            if not newer:
                newer.append(pool.submit(run, example, planner, second))
                while planner._robots["red"].waiting is None:
                    time.sleep(0.001)

        older = Handle("cool the apple 1", on_feedback=overtaken)
        assert run(example, planner, older, said.append).message == "a newer goal came"
        newer[0].result(120)
    assert (older.state, second.state) == ("aborted", "succeeded") and len(said) == 2


def test_the_node_serves_each_robot_under_its_name(
    example: ModuleType, planner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ros = Ros()
    for name, module in ros.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    rclpy, plan = example.ros_modules()
    assert plan is Plan
    results: dict[str, Any] = {}

    def spin() -> None:
        assert sorted(ros.actions) == ["blue/plan", "red/plan"]
        assert sorted(ros.topics) == ["blue/observations", "red/observations"]
        for robot in ("red", "blue"):
            ros.topics[f"{robot}/observations"](SimpleNamespace(data=f"The {robot} door is open."))
            execute, cancel = ros.actions[f"{robot}/plan"]
            assert cancel(None) == "accept"
            results[robot] = execute(Handle(f"find the {robot} apple"))
        raise KeyboardInterrupt

    monkeypatch.setattr(Executor, "on_spin", spin, raising=False)
    example.serve(planner, ["red", "blue"], rclpy, plan, ["--ros-args", "-r", "__ns:=/lab"])
    assert ros.given == ["--ros-args", "-r", "__ns:=/lab"] and ros.ended and not ros.warnings
    assert Executor.threads[-1] >= 3 * 2  # goals that end, newer ones, and observations beside them
    assert all(results[robot].steps for robot in ("red", "blue"))
    for robot, other in (("red", "blue"), ("blue", "red")):
        told = str(planner._robots[robot].chat)
        assert f"The {robot} door is open." in told and f"find the {robot} apple" in told and other not in told
    late = Handle("look")
    assert run(example, planner, late).message == "the planner has ended" and late.state == "aborted"


def command(*arguments: str, folder: Path, **stand_ins: str) -> subprocess.CompletedProcess[str]:
    """Run the example in a process of its own; `stand_ins` are packages that it finds beside it."""
    for name, code in stand_ins.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "__init__.py").write_text(code)
    line = [sys.executable, str(EXAMPLES / "ros2_node.py"), *arguments]
    return subprocess.run(
        line, capture_output=True, text=True, timeout=120, env={"PYTHONPATH": f"{folder}:{ROOT}", "PATH": "/usr/bin"}
    )


def test_without_ros_it_says_so_in_one_line(tmp_path: Path) -> None:
    for arguments in (("--robots", "red"), ("--robots", "red", "--ros-args", "-r", "__ns:=/lab")):
        done = command(*arguments, folder=tmp_path)
        assert done.returncode == 1 and done.stdout == ""
        assert re.fullmatch(
            r"error: this Python has no ROS 2 \(.*rclpy.*\); source one first: source \S+\n", done.stderr
        )
    assert command("--help", folder=tmp_path).returncode == 0
    assert "unrecognized arguments: --robot-names" in command("--robots", "a", "--robot-names", folder=tmp_path).stderr


@pytest.mark.parametrize("names", [("red", "blue 2"), ("2red",), ("red", "red"), ("",)])
def test_names_of_robots_that_are_no_namespaces_are_one_line(names: tuple[str, ...], tmp_path: Path) -> None:
    done = command("--robots", *names, folder=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("error: --robots: ") and done.stderr.count("\n") == 1


def test_without_the_action_it_says_how_to_build_it(tmp_path: Path) -> None:
    (tmp_path / "rclpy").mkdir()
    for part in ("action", "callback_groups", "executors"):
        (tmp_path / "rclpy" / f"{part}.py").write_text("")
    (tmp_path / "std_msgs").mkdir()
    (tmp_path / "std_msgs" / "msg.py").write_text("")
    done = command("--robots", "red", folder=tmp_path, rclpy="", std_msgs="")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: the action is not built (") and "colcon build --base-paths" in done.stderr


def test_importing_it_imports_no_ros() -> None:
    code = "import sys, ros2_node; assert not [n for n in sys.modules if n.split('.')[0] in ('rclpy', 'std_msgs')]"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": f"{EXAMPLES}:{ROOT}"}, timeout=120)
