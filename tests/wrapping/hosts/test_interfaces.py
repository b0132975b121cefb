"""Planner interfaces of embodied agents, as small classes of the same shape: what to wrap, and that it works."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import erecap
from tests.wrapping.chats import rows

SEEN = "On the shelf {0}, you see a plate {0}, a cup {0}, and nothing else worth a look."


@dataclass
class Message:
    """As BALROG's: attributes, and a place for a picture."""

    role: str
    content: str
    attachment: Any = None


@dataclass(frozen=True)
class Response:
    model_id: str
    completion: str
    stop_reason: str
    input_tokens: int
    output_tokens: int
    reasoning: str | None = None


class BalrogClient:
    """As BALROG's `LLMClientWrapper`."""

    def __init__(self) -> None:
        self.shown: list[list[Message]] = []

    def generate(self, messages: list[Message]) -> Response:
        self.shown.append(messages)
        return Response("m", f"go to shelf {len(self.shown)}", "stop", 9, 4)


class BalrogPrompts:
    """As BALROG's `HistoryPromptBuilder`: a window of observations and actions behind the system prompt."""

    def __init__(self, most: int) -> None:
        self.events: deque[Message] = deque(maxlen=2 * most)

    def get_prompt(self, seen: str, image: Any = None) -> list[Message]:
        self.events.append(Message("user", f"Obs:\n{seen}", image))
        return [Message("user", "You play a text game. Your goal: find the mug."), *self.events]


@pytest.mark.parametrize(("most", "budget"), [(64, 150), (4, 400)])
def test_balrog(most: int, budget: int, tmp_path: Path) -> None:
    client, prompts = BalrogClient(), BalrogPrompts(most)
    wrapped = erecap.wrap(client, keep_tokens=budget, log=tmp_path)
    for step in range(30):
        answer = wrapped.generate(prompts.get_prompt(SEEN.format(step), object() if (step, most) == (9, 64) else None))
        assert isinstance(answer, Response)
        prompts.events.append(Message("assistant", answer.completion))
    noted = rows(tmp_path)
    assert len(noted) == 30 and all(row["plan_tokens"] > 0 for row in noted)
    largest = max(sum(len(message.content) for message in shown) for shown in client.shown)
    assert largest <= 4 * budget and {type(message) for shown in client.shown for message in shown} == {Message}
    assert {row["decision"] for row in noted} == ({"pruned", "passed"} if most == 64 else {"passed"})


class PartnrModel:
    """As PARTNR's `OpenAIChat`: a prompt that grows, in the tags of a chat template, to a client that it holds."""

    def __init__(self, conf: Any) -> None:
        self.conf, self.shown = conf, []
        completions = SimpleNamespace(create=self._create)
        self.client = SimpleNamespace(chat=SimpleNamespace(completions=completions))

    def _create(self, *, model: str, messages: list) -> Any:
        self.shown.append(messages[0]["content"])
        return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content="Explore[kitchen]"))])

    def generate(self, prompt: Any, stop: str | None = None, max_length: int | None = None,
                 generation_args: Any = None, request_timeout: int = 40) -> str:  # fmt: skip
        text = prompt if isinstance(prompt, str) else prompt[0][1]
        answer = self.client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
        return answer.choices[0].message.content


@pytest.mark.parametrize("listed", [False, True], ids=["string", "parts"])
def test_partnr(listed: bool) -> None:
    model = PartnrModel(SimpleNamespace(max_tokens=250))
    planner = erecap.wrap(model, keep_tokens=300)
    assert isinstance(planner, PartnrModel) and planner.conf.max_tokens == 250
    tags = {role: f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("user", "assistant")}
    prompt = f"{tags['user']}You plan. Find the mug.<|eot_id|>{tags['assistant']}"
    head = prompt
    for replan in range(25):
        given: Any = [("text", prompt)] if listed else prompt
        answer = planner.generate(given, stop="Assigned!", max_length=250)
        result = f"Result: done\nObjects: {SEEN.format(replan)}"
        prompt += f"{answer}\nAssigned!<|eot_id|>{tags['user']}{result}<|eot_id|>{tags['assistant']}"
    assert max(map(len, model.shown)) <= 1200 < len(prompt) / 2
    assert all(shown.startswith(head) and shown.count("<|") == shown.count("|>") for shown in model.shown)


class LlmPlanner:
    """As LLM-Planner's `AlfredEvaluator`: the prompt is built anew from examples, done plans and visible objects."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def llm(self, prompt: str, engine: str, images: Any = None, stop: tuple[str, ...] = ("\n",)) -> str:
        self.shown.append(prompt)
        return "Navigation shelf, PickupObject mug"

    def evaluate_task(self, task: str) -> list[str]:
        plans: list[str] = []
        for step in range(8):
            examples = "\n".join(f"Task: put a thing {number} away. Plan: go, pick, put." for number in range(9))
            prompt = f"{examples}\nTask: {task}\nCompleted plans: {', '.join(plans)}\nVisible: mug {step}\nNext plans:"
            plans.append(self.llm(prompt, engine="m", images=None))
        return plans


def test_llm_planner(tmp_path: Path) -> None:
    evaluator, bare = LlmPlanner(), LlmPlanner()
    planner = erecap.wrap(evaluator, keep_tokens=3000, log=tmp_path)
    assert planner.evaluate_task("find the mug") == bare.evaluate_task("find the mug")
    assert evaluator.shown == bare.shown and [row["decision"] for row in rows(tmp_path)] == ["passed"] * 8


def test_llm_planner_beyond_its_budget_says_that_nothing_is_saved() -> None:
    planner = erecap.wrap(LlmPlanner(), keep_tokens=60)
    with pytest.warns(UserWarning, match=r"has shortened none of 3 calls that were over their budget .*docs/hosts\.md"):
        planner.evaluate_task("find the mug")


def test_react() -> None:
    shown: list[str] = []

    def llm(prompt: str, stop: list[str] | None = None) -> str:
        shown.append(prompt)
        return f" go to shelf {len(shown) - 1}"

    llm_of_react = erecap.wrap(llm, keep_tokens=260, patterns="alfworld")
    prompt = "Here is an example.\n> go to shelf 9\nThe shelf 9 is empty.\n\nYour task: find the mug.\n>"
    head = prompt
    for step in range(30):
        action = llm_of_react(prompt, stop=["\n"]).strip()
        prompt += f" {action}\n{SEEN.format(step)}\n>"
    assert max(map(len, shown)) <= 1040 < len(prompt) / 2 and all(one.startswith(head) for one in shown)


class EmbodiedModel:
    """As EmbodiedBench's `RemoteModel`."""

    def __init__(self) -> None:
        self.shown: list[list] = []

    def respond(self, message_history: list) -> str:
        self.shown.append(list(message_history))
        return '{"executable_plan": []}'


def test_embodiedbench_and_pictures_in_its_history(tmp_path: Path) -> None:
    model = EmbodiedModel()
    planner = erecap.wrap(model, keep_tokens=200, log=tmp_path)
    history: list[dict[str, Any]] = []
    for step in range(20):
        parts: list[dict[str, Any]] = [{"type": "text", "text": SEEN.format(step)}]
        if step in (5, 19):
            parts.insert(0, {"type": "image_url", "image_url": {"url": "data:,"}})
        history.append({"role": "user", "content": parts})
        answer = {"type": "text", "text": planner.respond(history)}
        history.append({"role": "assistant", "content": [answer]})
    pictures = [m for m in model.shown[-1] if m["content"][0]["type"] == "image_url"]
    # The newest is there as it is; older ones too, or they went with their exchange.
    assert pictures[-1] is history[38] and all(picture in (history[10], history[38]) for picture in pictures)
    assert len(model.shown[-1]) < 30 and rows(tmp_path)[-1]["whole_messages"] == 2


def test_agentgym() -> None:
    """`APIAgent.generate(conversation) -> (text, reasoning)`, with its own names of roles."""
    shown: list = []
    agent = SimpleNamespace(generate=lambda conversation: (shown.append(list(conversation)), ("look", "because"))[1])
    planner = erecap.wrap(agent, keep_tokens=100)
    conversation = [{"from": "human", "value": "Find the mug.", "loss": None}]
    for step in range(20):
        text, reasoning = planner.generate(conversation)
        assert (text, reasoning) == ("look", "because")
        conversation += [{"from": "gpt", "value": text, "loss": True}]
        conversation += [{"from": "human", "value": SEEN.format(step), "loss": None}]
    assert max(sum(len(message["value"]) for message in one) for one in shown) <= 400
