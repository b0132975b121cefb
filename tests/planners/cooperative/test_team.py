"""A team in an episode: who reads what, whose turn it is, and what becomes of the answers."""

from __future__ import annotations

from typing import Any

import pytest

from erecap.context import Context, Situation
from erecap.errors import ConfigError
from erecap.generation import Message
from erecap.language_models.scripted import ScriptedModel
from erecap.planners.cooperative.agents import Roster, TeamSettings
from erecap.planners.cooperative.answer import Answer
from erecap.planners.cooperative.planner import CooperativePlanner
from erecap.planners.cooperative.team import Turn
from erecap.protocols import Plan
from tests.context.small_tokenizers import byte_level

TEMPLATES = ("go to {place}", "pick up {item}", "put {item} on {surface}", "wait")
ENTITIES = {"place": ("table 1", "table 2"), "item": ("cup 1", "book 1"), "surface": ("table 2",)}
SKILLS = ("go to table 1", "go to table 2", "pick up cup 1", "put book 1 on table 2", "wait")
ROBOTS = ("robot 1", "robot 2")


class Episode:
    """The loop's side of an episode: records, plans, and whose turn it is."""

    def __init__(self, *rules: str, robots: tuple[str, ...] = ROBOTS, **settings: Any) -> None:
        self.robots = robots
        self.context = Context("Put a cup on table 2.", TEMPLATES, situation=self._situation(robots[0]))
        for rule in rules:
            self.context.add("constraint", rule)
        self.context.add("observation", "There are table 1 and table 2.")
        self.planner = CooperativePlanner(None, Roster("team.yaml", TeamSettings.model_validate(settings)))
        self.plans: dict[str, tuple[str, ...]] = {}

    def _situation(self, robot: str, skills: tuple[str, ...] = SKILLS) -> Situation:
        return Situation(skills, ENTITIES, TEMPLATES, robot=robot, robots=self.robots if robot else ())

    def turn(self, robot: str, trigger: str = "finished", skills: tuple[str, ...] = SKILLS) -> Turn | Plan:
        self._begin(robot, trigger, skills)
        return self.planner.begin_turn(self.context)

    def _begin(self, robot: str, trigger: str, skills: tuple[str, ...]) -> None:
        self.context.situation = self._situation(robot, skills)
        self.context.trigger, self.context.plans = trigger, dict(self.plans)

    def patient(self, robot: str) -> Turn | Plan:
        """The turn of a robot whose planner is not asked while it waits."""
        self._begin(robot, "finished", SKILLS)
        return self.planner.begin_turn(self.context, patient=True)

    def answered(self, robot: str, *patches: str, told: tuple[str, ...] = (), left: tuple[str, ...] = ()) -> Plan:
        turn = self.turn(robot)
        assert isinstance(turn, Turn)
        plan = self.planner.concluded(turn, Answer(told, left, patches))
        self.plans |= plan.others
        self.plans[robot] = plan.steps
        self.context.add("plan", plan.text, agent=plan.agent)
        return plan

    def did(self, robot: str, command: str, seen: str, subject: str = "") -> None:
        agent = next(a.name for a in self.planner.team.agents if a.robot == robot)  # type: ignore[union-attr]
        self.plans[robot] = self.plans[robot][1:]
        step = self.context.records[-1].step + 1
        self.context.add("action", command, step=step, agent=agent)
        self.context.add("observation", seen, subject, step=step, agent=agent)

    def read_by(self, robot: str) -> list[Message]:
        turn = self.turn(robot)
        assert isinstance(turn, Turn)
        return turn.messages


def test_all_begin_with_the_same_and_know_who_they_are() -> None:
    episode = Episode("put cup before put book")
    one, two = (episode.read_by(robot) for robot in ROBOTS)
    shared = episode.planner.team.shared  # type: ignore[union-attr]
    assert one[0]["content"] == two[0]["content"] == shared[0]["content"]
    assert one[1]["content"] == shared[1]["content"] + "\nRule: you plan for robot 1"
    assert two[1]["content"] == shared[1]["content"] + "\nRule: you plan for robot 2"
    assert "Rule: put cup before put book" in shared[1]["content"]


def test_observations_are_private_until_they_are_told() -> None:
    episode = Episode()
    episode.answered("robot 1", "go to table 1")
    episode.did("robot 1", "go to table 1", "You see cup 1.", "table 1")
    before = episode.read_by("robot 2")[-1]["content"]
    assert "robot 1 plans: go to table 1" in before and "You see cup 1." not in before
    turn = episode.turn("robot 1")
    assert isinstance(turn, Turn) and turn.facts == ("table 1",)
    episode.answered("robot 1", "pick up cup 1", told=("table 1",))
    after = episode.read_by("robot 2")[-1]["content"]
    assert after.startswith(before) and after.endswith("robot 1: You see cup 1.\nrobot 1 plans: pick up cup 1")
    turn = episode.turn("robot 1")
    assert isinstance(turn, Turn) and turn.facts == ()  # it is told once


def test_observations_are_shared_at_once() -> None:
    episode = Episode(observations="shared")
    episode.answered("robot 1", "go to table 1")
    episode.did("robot 1", "go to table 1", "You see cup 1.", "table 1")
    assert episode.read_by("robot 2")[-1]["content"].endswith("robot 1: You see cup 1.")
    turn = episode.turn("robot 1")
    assert isinstance(turn, Turn) and turn.facts == ()


def test_what_was_seen_since_is_not_overwritten_by_older_news() -> None:
    episode = Episode()
    for robot, seen in (("robot 1", "old"), ("robot 2", "new")):
        episode.answered(robot, "go to table 1")
        episode.did(robot, "go to table 1", seen, "table 1")
    episode.answered("robot 1", "wait", told=("table 1",))
    text = episode.read_by("robot 2")[-1]["content"]
    assert "robot 1: old" not in text and "robot 1 plans: wait" in text


def test_a_chat_is_only_appended_to() -> None:
    episode, before = Episode(observations="shared"), None
    for number in range(6):
        robot = ROBOTS[number % 2]
        messages = episode.read_by("robot 1")
        if before is not None:
            assert [m["content"] for m in messages[: len(before) - 1]] == [m["content"] for m in before[:-1]]
            assert messages[len(before) - 1]["content"].startswith(before[-1]["content"])
        before = messages
        episode.answered(robot, "go to table 1")
        episode.did(robot, "go to table 1", f"You see {number}.", "table 1")


def test_a_plan_that_loses_its_thing_waits_and_both_are_told() -> None:
    episode = Episode()
    episode.answered("robot 1", "go to table 1", "pick up cup 1")
    turn = episode.turn("robot 2")
    assert isinstance(turn, Turn) and turn.contested == ("cup 1",)
    plan = episode.answered("robot 2", "pick up cup 1")
    assert plan.steps == ("wait",) and plan.conflicts == ("cup 1 stays with robot 1, robot 2 gives way",)
    for robot in ROBOTS:
        assert "Conflict: cup 1 stays with robot 1, robot 2 gives way." in episode.read_by(robot)[-1]["content"]


def test_where_nothing_can_wait_the_contradiction_is_the_problem() -> None:
    episode = Episode()
    episode.answered("robot 1", "pick up cup 1")
    turn = episode.turn("robot 2", skills=("pick up cup 1",))
    assert isinstance(turn, Turn)
    plan = episode.planner.concluded(turn, Answer((), (), ("pick up cup 1",)))
    assert plan.steps == () and plan.problem == "cup 1 stays with robot 1, robot 2 gives way"


def test_told_first_the_older_plan_is_withdrawn_and_its_planner_asked() -> None:
    episode = Episode(conflicts="tell")
    episode.answered("robot 1", "go to table 1", "pick up cup 1")
    episode.answered("robot 2", "pick up cup 1")
    assert episode.plans == {"robot 1": (), "robot 2": ("pick up cup 1",)}
    assert "Conflict: cup 1 is planned for by robot 1 and robot 2." in episode.read_by("robot 1")[-1]["content"]
    assert episode.answered("robot 1", "go to table 2", left=("cup 1",)).steps == ("go to table 2",)


def test_a_robot_waits_for_another_without_being_asked_but_not_for_ever() -> None:
    episode = Episode("put cup before put book")
    episode.answered("robot 1", "pick up cup 1", "put cup 1 on table 2")
    plan = episode.answered("robot 2", "put book 1 on table 2")
    assert plan.steps == ("wait", "put book 1 on table 2")  # the first command of a new plan is always tried
    episode.plans["robot 2"] = plan.steps[1:]
    free = tuple(skill for skill in SKILLS if "book" not in skill)
    for _ in range(8):
        held = episode.turn("robot 2", "contradicted", free)
        assert isinstance(held, Plan) and held.steps == ("wait", "put book 1 on table 2")
        assert held.generation is not None and held.generation.decision is not None
        reason = "put book 1 on table 2 waits for put cup, which another robot has planned"
        assert held.generation.decision.reason == reason
    assert isinstance(episode.turn("robot 2", "contradicted", free), Turn)
    episode.did("robot 1", "pick up cup 1", "You pick up cup 1.")
    episode.did("robot 1", "put cup 1 on table 2", "You put cup 1 on table 2.")
    assert isinstance(episode.turn("robot 2", "contradicted", free), Turn)  # it waits for nothing any more


def test_planners_of_one_robot_take_turns_and_keep_to_what_they_may() -> None:
    agents = [{"name": "scout", "may": ["go to {place}"]}, {"name": "hand", "role": "brings things"}]
    episode = Episode(robots=("",), agents=agents)
    first = episode.turn("")
    assert isinstance(first, Turn) and first.agent.name == "scout"
    assert first.situation.skills == ("go to table 1", "go to table 2")
    assert first.messages[-1]["content"].endswith("Rule: you are scout; you may only: go to {place}")
    second = episode.turn("")
    assert isinstance(second, Turn) and second.agent.name == "hand" and second.situation.skills == SKILLS
    assert second.messages[-1]["content"].endswith("Rule: you are hand (brings things)")
    only_hand = episode.turn("", skills=("wait",))
    assert isinstance(only_hand, Turn) and only_hand.agent.name == "hand"  # the scout may do nothing now


def test_an_unreadable_answer_is_a_problem_of_its_planner() -> None:
    episode = Episode()
    planner = CooperativePlanner(ScriptedModel(["fly away"]), episode.planner.roster, constrained=False)
    episode.planner = planner
    plan = planner.plan(episode.context)
    assert plan.steps == () and plan.agent == "robot 1" and "no JSON" in str(plan.problem)


def test_a_model_answers_under_the_grammar() -> None:
    episode = Episode()
    wanted = Answer((), (), ("go to table 1", "pick up cup 1"))
    model = ScriptedModel([wanted.text()], tokenizer=byte_level(), repeat=True)
    planner = CooperativePlanner(model, episode.planner.roster, max_new_tokens=400)
    plan = planner.plan(episode.context)
    assert plan.steps == wanted.patches and plan.problem is None and plan.generation is not None
    flying = ScriptedModel(["fly"], tokenizer=byte_level())
    astray = CooperativePlanner(flying, episode.planner.roster, max_new_tokens=400)
    assert astray.plan(episode.context).steps[0] in SKILLS
    short = CooperativePlanner(model, episode.planner.roster, max_new_tokens=10)
    assert short.plan(episode.context).problem == "no answer with an admissible command fits into 10 new tokens"


class OneConversation:
    tokenizer = None
    takes_old_plan = trace = False

    def reset(self) -> None: ...

    def generate(self, messages, **options):  # type: ignore[no-untyped-def]
        raise AssertionError("not asked")


def test_a_model_of_one_conversation_is_refused() -> None:
    with pytest.raises(ConfigError, match="a OneConversation holds one conversation; allowed: a model with `fork`"):
        CooperativePlanner(OneConversation(), Roster("t", TeamSettings()))  # type: ignore[arg-type]


def test_the_expert_leaves_what_others_have_planned_for() -> None:
    episode = Episode()
    episode.answered("robot 1", "pick up cup 1")
    episode.did("robot 1", "pick up cup 1", "You pick up cup 1.", "cup 1")
    episode.plans["robot 1"] = ("put cup 1 on table 2",)
    situation = Situation(SKILLS, ENTITIES, TEMPLATES, ("go to table 1", "pick up cup 1"), "robot 2", ROBOTS)
    episode.context.situation, episode.context.plans = situation, episode.plans
    turn = episode.planner.begin_turn(episode.context)
    assert isinstance(turn, Turn)
    assert episode.planner.expert_answer(turn) == Answer((), ("cup 1",), ("go to table 1",))
    # It tells what it saw of things that the goal names.
    turn = episode.turn("robot 1")
    assert isinstance(turn, Turn) and "no actions" in str(episode.planner.expert_answer(turn))
    episode.context.situation = Situation(SKILLS, ENTITIES, TEMPLATES, ("wait",), "robot 1", ROBOTS)
    turn = episode.planner.begin_turn(episode.context)
    assert isinstance(turn, Turn)
    assert episode.planner.expert_answer(turn) == Answer(("cup 1",), (), ("wait",))


def test_where_all_others_only_wait_a_model_is_not_offered_to_wait() -> None:
    episode = Episode(robots=(*ROBOTS, "robot 3"))
    episode.answered("robot 1", "go to table 1")
    episode.answered("robot 2", "wait")
    turn = episode.turn("robot 3")
    assert isinstance(turn, Turn) and turn.offered == turn.situation  # robot 1 is on its way, and may have news
    episode.answered("robot 1", "wait")
    turn = episode.turn("robot 3")
    assert isinstance(turn, Turn) and turn.offered.skills == SKILLS[:-1] and turn.situation.skills == SKILLS
    only = episode.turn("robot 3", skills=("wait",))
    assert isinstance(only, Turn) and only.offered.skills == ("wait",)  # nothing else is admissible
    waiting = ScriptedModel([Answer((), (), ("wait",)).text()], tokenizer=byte_level(), repeat=True)
    asked = CooperativePlanner(waiting, episode.planner.roster, max_new_tokens=400)
    asked.team = episode.planner.team
    episode.turn("robot 3")
    assert asked.plan(episode.context).steps[0] in SKILLS[:-1]


def test_planners_of_one_robot_may_wait() -> None:
    episode = Episode(robots=("",), agents=[{"name": "scout"}, {"name": "hand"}])
    episode.answered("", "wait")
    turn = episode.turn("")
    assert isinstance(turn, Turn) and turn.agent.name == "hand" and turn.offered == turn.situation


def test_who_waits_is_asked_again_when_there_is_more_to_read_than_plans() -> None:
    episode = Episode()
    episode.answered("robot 1", "go to table 1", "go to table 2")
    episode.answered("robot 2", "wait")
    episode.did("robot 2", "wait", "You wait.")
    held = episode.patient("robot 2")
    assert isinstance(held, Plan) and held.steps == ("wait",) and held.generation is not None
    assert held.generation.finish_reason == "deferred"
    episode.did("robot 1", "go to table 1", "There you see cup 1.", "table 1")
    episode.answered("robot 1", "pick up cup 1")
    assert isinstance(episode.patient("robot 2"), Plan)  # a plan is no reason to ask
    episode.did("robot 1", "pick up cup 1", "You pick up cup 1.")
    episode.answered("robot 1", "go to table 2", told=("table 1",))
    assert isinstance(episode.patient("robot 2"), Turn)  # it was told what is on table 1


def test_patience_ends_and_nobody_is_patient_where_all_wait() -> None:
    episode = Episode()
    episode.answered("robot 1", "go to table 1")
    episode.answered("robot 2", "wait")
    for _ in range(8):
        assert isinstance(episode.patient("robot 2"), Plan)
    assert isinstance(episode.patient("robot 2"), Turn)
    episode.answered("robot 1", "wait")
    turn = episode.patient("robot 2")
    assert isinstance(turn, Turn) and "wait" not in turn.offered.skills


def test_a_model_is_asked_patiently_and_the_expert_at_every_turn() -> None:
    episode = Episode()
    episode.answered("robot 1", "go to table 1")
    episode.answered("robot 2", "wait")
    patient = CooperativePlanner(ScriptedModel(["never written"]), episode.planner.roster, constrained=False)
    patient.team = episode.planner.team
    assert isinstance(episode.turn("robot 2"), Turn)  # as the expert would be asked
    assert patient.plan(episode.context).steps == ("wait",)  # no answer was needed
