"""Goals of several robots on one model: plans, pre-emption, cancellation, errors, and observations read ahead."""

from __future__ import annotations

import copy
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from erecap.budget import Budget
from erecap.errors import ConfigError, ModelError
from tests.context.small_tokenizers import INST, byte_level
from tests.session.chats import model

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMANDS = ["go to fridge 1", "open fridge 1", "take apple 1", "look"]
SEEN = "You see a fridge 1, a shelf 2 and an apple 1. " * 6


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module `robot_planner`."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import robot_planner

    yield robot_planner
    sys.modules.pop("robot_planner", None)


@pytest.fixture
def made(example: ModuleType) -> Iterator[Callable[..., Any]]:
    """Makes planners on the tiny model, and closes them."""
    planners = []

    def make(*robots: str, tokenizer: Any = None, **options: Any) -> Any:
        options = {"commands": COMMANDS, "max_new_tokens": 40, "max_steps": 2, **options}
        planners.append(example.RobotPlanner(model(), tokenizer or byte_level(), robots, **options))
        return planners[-1]

    yield make
    for planner in planners:
        planner.close()


def outcome(goal: Any) -> Any:
    """The outcome of a goal, waited for."""
    return goal.outcome.result(timeout=120)


def waited_for(event: threading.Event) -> None:
    """Let the model's thread wait until the test has asked for all that it asks for."""
    assert event.wait(60)


def read_up_to(planner: Any, robot: str, text: str) -> None:
    """Wait until the robot's session has read `text`."""
    session = planner._robots[robot].session
    for _ in range(12_000):
        if text in byte_level().decode(session.token_ids):
            return
        time.sleep(0.01)
    raise AssertionError(f"{text!r} was not read")


def test_a_goal_gets_steps_and_the_next_one_reads_what_is_new(made) -> None:  # type: ignore[no-untyped-def]
    planner = made("red")
    told: list[tuple[str, ...]] = []
    first = outcome(planner.submit("red", "cool the apple 1", SEEN, told.append))
    assert first.state == "succeeded" and first.message == "" and first.seconds > 0
    assert 1 <= len(first.steps) <= 2 and set(first.steps) <= set(COMMANDS)
    assert told[0] == () and all(steps == first.steps[: len(steps)] for steps in told)
    assert first.new_tokens == first.prompt_tokens > 60
    second = outcome(planner.submit("red", observation="The fridge 1 is closed."))
    assert second.state == "succeeded" and 0 < second.new_tokens < 40 < first.prompt_tokens < second.prompt_tokens
    chat = planner._robots["red"].chat
    assert [message["role"] for message in chat] == ["system", "user", "assistant", "user", "assistant"]
    assert chat[1]["content"] == f"Goal: cool the apple 1\n{SEEN.strip()}" and chat[1]["protect"] == [(0, 22)]
    assert chat[2]["content"] == "\n".join(first.steps)
    # The task that holds is not told again, and a goal with nothing new says so.
    assert chat[3]["content"] == "The fridge 1 is closed."
    outcome(planner.submit("red", "cool the apple 1"))
    assert chat[5]["content"] == "No step was taken."


@pytest.mark.parametrize("read_ahead", [True, False])
def test_observations_are_read_while_the_robot_moves(made, read_ahead: bool) -> None:  # type: ignore[no-untyped-def]
    planner = made("red", read_ahead=read_ahead)
    outcome(planner.submit("red", "cool the apple 1"))
    planner.observe("red", SEEN)
    planner.observe("red", "  ")
    planner.observe("red", "The fridge 1 is open.")
    if read_ahead:
        read_up_to(planner, "red", "The fridge 1 is open.")
    plan = outcome(planner.submit("red", observation="You hold nothing."))
    told = [message["content"] for message in planner._robots["red"].chat if message["role"] == "user"]
    assert plan.state == "succeeded"
    if read_ahead:
        assert told[1:] == [SEEN.strip(), "The fridge 1 is open.", "You hold nothing."] and plan.new_tokens < 30
    else:
        assert told[1:] == [f"{SEEN.strip()}\nThe fridge 1 is open.\nYou hold nothing."] and plan.new_tokens > 60


def test_what_was_seen_before_a_goal_alone_lets_it_be_answered(made) -> None:  # type: ignore[no-untyped-def]
    planner = made("red")
    outcome(planner.submit("red", "cool the apple 1"))
    planner.observe("red", "The fridge 1 is open.")
    read_up_to(planner, "red", "The fridge 1 is open.")
    assert outcome(planner.submit("red")).state == "succeeded"
    roles = [message["role"] for message in planner._robots["red"].chat]
    assert roles == ["system", "user", "assistant", "user", "assistant"]


def test_a_canceled_goal_leaves_no_plan_and_keeps_what_it_told(made) -> None:  # type: ignore[no-untyped-def]
    planner = made("red")
    goals: list[Any] = []
    begun = threading.Event()

    def cancel(steps: tuple[str, ...]) -> None:
        waited_for(begun)
        goals[0].stop()

    goals.append(planner.submit("red", "cool the apple 1", SEEN, cancel))
    begun.set()
    ended = outcome(goals[0])
    assert (ended.state, ended.steps, ended.message) == ("canceled", (), "canceled")
    assert [message["role"] for message in planner._robots["red"].chat] == ["system", "user"]
    again = outcome(planner.submit("red", observation="You hold nothing."))
    assert again.state == "succeeded"
    # What an undisturbed robot is told and answers is the same, but for the answer that nobody got.
    other = made("red")
    outcome(other.submit("red", "cool the apple 1", SEEN))
    assert planner._robots["red"].chat[1] == other._robots["red"].chat[1]


def test_a_cancellation_in_the_middle_of_decoding_ends_it_there(made) -> None:  # type: ignore[no-untyped-def]
    planner = made("red", commands=(), max_new_tokens=400)
    goals: list[Any] = []
    texts: list[str] = []
    session = planner._robots["red"].session
    generate = session.generate

    def watched(*args: Any, on_text: Callable[[str], None], **options: Any) -> Any:
        def told(text: str) -> None:
            texts.append(text)
            on_text(text)
            if len(texts) == 3:
                goals[0].stop()

        return generate(*args, on_text=told, **options)

    session.generate = watched
    begun = threading.Event()
    goals.append(planner.submit("red", "cool the apple 1", SEEN, lambda steps: waited_for(begun)))
    begun.set()
    assert outcome(goals[0]).state == "canceled" and len(texts) == 3
    session.generate = generate
    assert planner._robots["red"].chat[-1]["role"] == "user"
    assert outcome(planner.submit("red", "take the apple 1")).new_tokens < 40


def test_a_newer_goal_preempts_the_older_ones(made) -> None:  # type: ignore[no-untyped-def]
    planner = made("red", "blue")
    goals: dict[str, Any] = {}
    done = threading.Event()

    def overtaken(steps: tuple[str, ...]) -> None:
        if not goals:
            goals["waiting"] = planner.submit("red", "", "The shelf 2 is empty.")
            goals["blue"] = planner.submit("blue", "look around")
            goals["newest"] = planner.submit("red", "take the apple 1")
            done.set()

    goals_first = planner.submit("red", "cool the apple 1", SEEN, overtaken)
    assert done.wait(60)
    for ended in (outcome(goals_first), outcome(goals["waiting"])):
        assert (ended.state, ended.steps, ended.message) == ("aborted", (), "a newer goal came")
    assert outcome(goals["newest"]).state == "succeeded" == outcome(goals["blue"]).state
    told = [message["content"] for message in planner._robots["red"].chat[1:-1]]
    assert told[0].startswith("Goal: cool the apple 1\nYou see")
    # What the goal in between brought is told with the newest.
    assert told[1:] == ["The shelf 2 is empty.", "Goal: take the apple 1"]


def test_robots_share_forward_calls_and_no_history(made) -> None:  # type: ignore[no-untyped-def]
    names = ["red", "blue", "green"]
    alone = [outcome(made(name).submit(name, f"take the apple {n}", SEEN)).steps for n, name in enumerate(names)]
    planner = made(*names)
    asked = threading.Event()  # all three, before the first is answered
    goals = [
        planner.submit(name, f"take the apple {n}", SEEN, lambda steps: waited_for(asked))
        for n, name in enumerate(names)
    ]
    asked.set()
    assert [outcome(goal).steps for goal in goals] == alone
    counts = planner._pool.counts
    assert counts.forwards < counts.requests and counts.retries == 0
    for number, name in enumerate(names):
        chat = planner._robots[name].chat
        assert chat[1]["content"].startswith(f"Goal: take the apple {number}\n") and len(chat) == 3


def test_errors_abort_one_goal_with_one_line(made) -> None:  # type: ignore[no-untyped-def]
    planner = made("red", "blue")
    ended = outcome(planner.submit("red", "", SEEN))
    assert (ended.state, ended.message) == ("aborted", "the goal has no task, and none came before it")
    assert outcome(planner.submit("red", "cool the apple 1")).state == "succeeded"  # what was seen is still known
    assert SEEN.strip() in [message["content"] for message in planner._robots["red"].chat]
    small = made("red", budget=Budget(kv_tokens=40))
    ended = outcome(small.submit("red", "cool the apple 1 " * 20))
    assert ended.state == "aborted" and "\n" not in ended.message and "budget" in ended.message, ended.message
    assert outcome(planner.submit("red", "look")).state == "succeeded"

    def broken(steps: tuple[str, ...]) -> None:
        raise RuntimeError("the\nhandle is gone")

    ended = outcome(planner.submit("red", "look again", on_steps=broken))
    assert (ended.state, ended.message) == ("aborted", "RuntimeError: the handle is gone")
    short = made("red", max_new_tokens=2)
    assert outcome(short.submit("red", "look")).message == "no command fits into 2 new tokens"
    free = made("red", commands=(), max_new_tokens=1)
    assert outcome(free.submit("red", "look")).message == "no whole step within 1 tokens"
    for robots, message in (((), "robots: got none"), (("red", "red"), "robots: got red, red; allowed: one or more")):
        with pytest.raises(ConfigError, match=message):
            made(*robots)
    for call in (lambda: planner.submit("pink", "look"), lambda: planner.observe("pink", "x")):
        with pytest.raises(ConfigError, match="robot 'pink' is not known; allowed: red, blue"):
            call()


def test_a_goal_after_the_end_is_aborted_at_once(made, example: ModuleType) -> None:  # type: ignore[no-untyped-def]
    planner = made("red")
    goals: list[Any] = []

    def closing(steps: tuple[str, ...]) -> None:
        goals.append(planner.submit("red", "later"))
        planner.stop()

    first = planner.submit("red", "cool the apple 1", SEEN, closing)
    assert outcome(first).state == "aborted" and outcome(goals[0]).message == "the planner has ended"
    planner.close()
    late = planner.submit("red", "look")
    assert late.outcome.done() and late.outcome.result().message == "the planner has ended"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_the_program_ends_all_goals_instead_of_leaving_them(made) -> None:  # type: ignore[no-untyped-def]
    planner = made("red", "blue")

    def broken(steps: tuple[str, ...]) -> None:
        raise KeyError("a bug")

    goal = planner.submit("red", "look", on_steps=broken)
    assert outcome(goal).message == "the planner has ended"
    for thread in threading.enumerate():
        if thread.name == "robot-planner":
            thread.join(60)
    assert outcome(planner.submit("blue", "look")).message == "the planner has ended"


def test_templates_whose_turns_alternate_are_refused_or_told_in_one_message(made) -> None:  # type: ignore[no-untyped-def]
    strict = copy.deepcopy(byte_level())
    strict.chat_template = INST
    with pytest.raises(ModelError, match="alternate"):
        made("red", tokenizer=strict, commands=())
    planner = made("red", tokenizer=strict, commands=(), read_ahead=False, max_new_tokens=30)
    planner.observe("red", "The fridge 1 is open.")
    plans = [outcome(planner.submit("red", task, "You hold nothing.")) for task in ("look", "look again")]
    assert {plan.state for plan in plans} <= {"succeeded", "aborted"}
    chat = planner._robots["red"].chat
    assert chat[1]["content"].startswith("The fridge 1 is open.\nGoal: look\nYou hold nothing.")
    start, end = chat[1]["protect"][0]
    assert chat[1]["content"][start:end] == "Goal: look"


def test_a_budget_holds_for_each_robot(made) -> None:  # type: ignore[no-untyped-def]
    planner = made("red", budget=Budget(kv_tokens=200))
    for number in range(6):
        assert outcome(planner.submit("red", "cool the apple 1", f"Shelf {number}: {SEEN}")).state == "succeeded"
    session = planner._robots["red"].session
    assert max(session.cache.kept_lengths()) <= 200 < len(session.token_ids)


@pytest.mark.integration
def test_the_shipped_planner_plans_for_two_robots(embedded_model_folder: Path, example: ModuleType) -> None:
    from erecap.models import load

    trained, tokenizer = load(str(embedded_model_folder), dtype="float32", adapter="smollm2-135m-planner")
    commands = ["go to shelf 1", "go to desk 1", "take mug 1 from shelf 1", "move mug 1 to desk 1"]
    planner = example.RobotPlanner(trained, tokenizer, ["red", "blue"], commands=commands, max_steps=2)
    try:
        seen = "You are in the middle of a room. You see a desk 1 and a shelf 1."
        goals = [planner.submit(robot, "put a mug in desk 1", seen) for robot in ("red", "blue")]
        assert not wait([goal.outcome for goal in goals], 240).not_done
        first, second = (goal.outcome.result() for goal in goals)
        assert first.steps == second.steps and set(first.steps) <= set(commands) and first.steps[0].startswith("go to")
        planner.observe("red", "You arrive at shelf 1. On the shelf 1, you see a mug 1.")
        plan = outcome(planner.submit("red"))
        assert plan.state == "succeeded" and plan.new_tokens < first.prompt_tokens
    finally:
        planner.close()
