"""Views: the history of an episode as each planner of a team reads it, from a beginning that all share."""

from __future__ import annotations

from erecap.context import Context
from erecap.context.prompt import NOTHING_DONE
from erecap.context.render import Rendered, render
from erecap.generation import Message
from erecap.planners.cooperative.agents import AgentSettings
from erecap.planners.cooperative.inbox import Contribution, Inbox


def team_system_text(templates: tuple[str, ...], max_steps: int) -> str:
    """The system message of a team: the task, the form of an answer, and the shapes of the commands.

    As short as it can be, since every planner reads it, and stable, since models are fine-tuned on it.
    """
    count = "next command" if max_steps == 1 else f"next 1 to {max_steps} commands"
    lines = [
        "You plan for one robot of a team. Reply in JSON: observations (what you saw that you tell the others), "
        f"conflicts (things that you leave to others), plan_patches (your {count})."
    ]
    if templates:
        lines += ["Commands, with names in place of the braces:", *templates]
    return "\n".join(lines)


def beginning(context: Context, max_steps: int) -> list[Message]:
    """The messages that all planners of an episode begin with: task, goal, rules, and what is seen at first."""
    return _rendered(_begun(context), max_steps).messages


class View:
    """The history of an episode as one planner knows it.

    Args:
        agent: whose it is.
        context: of the episode, at its first planning call.
        buffer: most contributions of others that wait to be read, and most observations that wait to be told.
        max_steps: most commands of one answer.
    """

    def __init__(self, agent: AgentSettings, context: Context, buffer: int, max_steps: int) -> None:
        self.agent, self.inbox, self._buffer, self._max_steps = agent, Inbox(buffer), buffer, max_steps
        self.untold: dict[str, Contribution] = {}  # by subject, what was seen of it last; oldest first
        self._seen: dict[str, int] = {}  # subject -> step at which its robot saw it last
        self.context = _begun(context)
        self.context.add("constraint", _identity(agent), step=0)

    def saw(self, seen: Contribution) -> None:
        """Note an observation of its robot, which it may tell the others."""
        self._seen[seen.subject] = seen.step
        self.untold.pop(seen.subject, None)
        self.untold[seen.subject] = seen
        while len(self.untold) > self._buffer:
            del self.untold[next(iter(self.untold))]

    def messages(self) -> list[Message]:
        """The chat up to now, with what others have told since the last call."""
        for told in self.inbox.take():
            if told.step < self._seen.get(told.subject, 0):
                continue  # its robot has seen it since
            self.context.add("observation", told.text, told.subject)
            self.untold.pop(told.subject, None)
        messages = self.rendered().messages
        if messages[-1]["role"] == "assistant":
            messages.append({"role": "user", "content": NOTHING_DONE})
        return messages

    def rendered(self) -> Rendered:
        """The chat up to now."""
        return _rendered(self.context, self._max_steps)


def _begun(context: Context) -> Context:
    """A context with the goal, the rules and the first observation of an episode."""
    begun = Context(context.goal, context.templates)
    for record in context.records[1:]:
        if record.kind == "constraint" or (record.kind == "observation" and record.step == 0):
            begun.add(record.kind, record.text, record.subject, step=0)
    return begun


def _identity(agent: AgentSettings) -> str:
    robot = f"you plan for {agent.robot}" if agent.robot == agent.name else f"you are {agent.name}"
    if agent.robot and agent.robot != agent.name:
        robot += f" and plan for {agent.robot}"
    role = f" ({agent.role})" if agent.role else ""
    only = f"; you may only: {', '.join(agent.may)}" if agent.may is not None else ""
    return f"{robot}{role}{only}"


def _rendered(context: Context, max_steps: int) -> Rendered:
    return render(context, max_steps=max_steps, system=team_system_text(context.templates, max_steps))
