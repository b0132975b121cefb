"""Parse a model's text into a plan. Strict, without exceptions: unreadable text gives a plan with a problem."""

from __future__ import annotations

from erecap.context import Situation
from erecap.planners.templates import matches
from erecap.protocols import Plan


def parse_plan(text: str, situation: Situation, max_steps: int = 5) -> Plan:
    """The plan that `text` states: 1 to `max_steps` lines, each a command.

    A command is one that is admissible now, or a template filled with names seen so far, letter by letter.
    White space around a line is ignored, and so are empty lines before the first and after the last command.

    Returns:
        A plan with steps, or one without steps whose `problem` says what is wrong with the text. It never
        raises for any text; a template that cannot be read is a ConfigError.
    """
    lines = [line.strip() for line in text.strip().split("\n")]
    if lines == [""]:
        return Plan((), text, "the text is empty")
    if len(lines) > max_steps:
        return Plan((), text, f"{len(lines)} lines; at most {max_steps} are allowed")
    for number, line in enumerate(lines, start=1):
        if not is_command(line, situation):
            return Plan((), text, f"line {number} is not a known command: {shown(line)}")
    return Plan(tuple(lines), text)


def is_command(line: str, situation: Situation) -> bool:
    """Return True if `line` is admissible now, or a template filled with names seen so far."""
    return line in situation.skills or any(
        matches(line, template, situation.entities) for template in situation.templates
    )


def shown(line: str, limit: int = 80) -> str:
    """A model's text as messages show it: in ASCII, shortened."""
    # `ascii` keeps control characters and odd scripts from upsetting a terminal or a log.
    return ascii(line if len(line) <= limit else line[: limit - 3] + "...")
