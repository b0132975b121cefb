"""A ROS 2 node that serves plans as an action, one server a robot, all of them on one model.

Robot `red` sends goals to the action /red/plan, and what it sees to the topic /red/observations (std_msgs/String).
Observations are read while the robot moves. A newer goal of a robot aborts its older one; errors abort a goal with one
line in `message`. The action is `ros2/action/Plan.action`; README.md says how to build it.

    colcon build --base-paths examples/ros2 && source install/setup.bash
    python examples/ros2_node.py --robots red blue --commands commands.txt
    ros2 action send_goal --feedback /red/plan erecap_interfaces/action/Plan "{task: put a mug in desk 1}"
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from functools import partial
from pathlib import Path
from typing import Any

from robot_planner import RobotPlanner

from erecap.budget import Budget
from erecap.errors import ErecapError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # of a namespace
POLL_S = 0.02  # how often it is asked whether a client has canceled its goal


def ros_modules() -> tuple[Any, Any]:
    """`rclpy` with what the node needs of it, and the action `Plan`. Leaves with one line where one is missing."""
    try:
        rclpy = importlib.import_module("rclpy")
        for part in ("action", "callback_groups", "executors"):
            importlib.import_module(f"rclpy.{part}")
        importlib.import_module("std_msgs.msg")
    except ImportError as error:
        raise SystemExit(
            f"error: this Python has no ROS 2 ({error}); source one first: source /opt/ros/jazzy/setup.bash"
        ) from error
    try:
        return rclpy, importlib.import_module("erecap_interfaces.action").Plan
    except ImportError as error:
        raise SystemExit(
            f"error: the action is not built ({error}); "
            "run: colcon build --base-paths examples/ros2 && source install/setup.bash"
        ) from error


def execute(planner: RobotPlanner, robot: str, plan: Any, complain: Callable[[str], None], handle: Any) -> Any:
    """Answer one goal of a robot; called in a thread of the executor.

    Args:
        plan: the class of the action.
        complain: takes one line on a goal that was aborted.
        handle: the goal, a `ServerGoalHandle` of rclpy.

    Returns:
        The action's result.
    """

    def on_steps(steps: Sequence[str]) -> None:
        feedback = plan.Feedback()
        feedback.steps = list(steps)
        handle.publish_feedback(feedback)

    goal = planner.submit(robot, handle.request.task, handle.request.observation, on_steps)
    while wait([goal.outcome], POLL_S).not_done:
        if handle.is_cancel_requested:
            goal.stop()
    outcome, result = goal.outcome.result(), plan.Result()
    result.steps, result.message = list(outcome.steps), outcome.message
    result.prompt_tokens, result.new_tokens, result.seconds = outcome.prompt_tokens, outcome.new_tokens, outcome.seconds
    if outcome.state == "succeeded":
        handle.succeed()
    elif outcome.state == "canceled":
        handle.canceled()
    else:
        complain(f"{robot}: goal aborted: {outcome.message}")
        handle.abort()
    return result


def serve(planner: RobotPlanner, robots: Sequence[str], rclpy: Any, plan: Any, ros_args: Sequence[str]) -> None:
    """Offer an action and a topic for each robot, until the node is interrupted."""
    text = importlib.import_module("std_msgs.msg").String
    rclpy.init(args=list(ros_args))
    node = rclpy.create_node("erecap_planner")
    # A goal occupies a thread until it ends. A newer goal, a cancellation and an observation must get in beside it.
    together = rclpy.callback_groups.ReentrantCallbackGroup()
    for robot in robots:
        rclpy.action.ActionServer(
            node,
            plan,
            f"{robot}/plan",
            partial(execute, planner, robot, plan, node.get_logger().warning),
            callback_group=together,
            cancel_callback=lambda handle: rclpy.action.CancelResponse.ACCEPT,
        )
        node.create_subscription(
            text,
            f"{robot}/observations",
            lambda message, robot=robot: planner.observe(robot, message.data),
            10,
            callback_group=together,
        )
    executor = rclpy.executors.MultiThreadedExecutor(num_threads=3 * len(robots) + 1)
    executor.add_node(node)
    try:
        executor.spin()
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        pass
    finally:
        planner.close()  # aborts the goals, so that their threads end
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robots", nargs="+", required=True, help="their names, which are their namespaces")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--adapter", default="smollm2-135m-planner", help="'' for none")
    parser.add_argument("--commands", type=Path, help="file of the robots' commands, one a line; steps are among them")
    parser.add_argument("--kv-tokens", default="auto", help="tokens stored for each robot: auto, or a number")
    parser.add_argument("--no-read-ahead", action="store_true", help="for chat templates whose turns must alternate")
    parser.add_argument("--max-steps", type=int, default=5)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    given = sys.argv[1:]
    cut = given.index("--ros-args") if "--ros-args" in given else len(given)
    args = parser.parse_args(given[:cut])
    wrong = next((name for name in args.robots if not NAME.fullmatch(name)), None)
    if wrong is not None:
        raise SystemExit(
            f"error: --robots: got {wrong!r}; allowed: letters, digits and underscores, and no digit at the beginning"
        )
    if len(set(args.robots)) < len(args.robots):
        raise SystemExit("error: --robots: a name is given twice; each robot has its own")
    rclpy, plan = ros_modules()
    try:
        from erecap.models import load

        lines = args.commands.read_text("utf-8").splitlines() if args.commands else []
        model, tokenizer = load(args.model, adapter=args.adapter or None)
        planner = RobotPlanner(
            model,
            tokenizer,
            args.robots,
            commands=[line.strip() for line in lines if line.strip()],
            budget=Budget.of(int(args.kv_tokens) if args.kv_tokens.isdecimal() else args.kv_tokens),
            read_ahead=not args.no_read_ahead,
            max_steps=args.max_steps,
            max_new_tokens=args.max_new_tokens,
        )
    except (ErecapError, OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    serve(planner, args.robots, rclpy, plan, given[cut:])


if __name__ == "__main__":
    main()
