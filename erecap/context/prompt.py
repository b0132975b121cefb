"""The words around the records: the system text, and how each kind of record reads.

The wording is thrifty, since small models read it on every replan, and stable, since models are fine-tuned on
it: changing a word here makes trained planners worse.
"""

from __future__ import annotations

from collections.abc import Sequence

# Stands where a user message is due and nothing happened: two plans in a row.
NOTHING_DONE = "No step was taken."

_MARKS = {
    "goal": "Goal: ",
    "observation": "",
    "action": "> ",
    "failure": "Failed: ",
    "plan": "",
    "constraint": "Rule: ",
}


def system_text(templates: Sequence[str], max_steps: int) -> str:
    """The system message: the task, the reply format, and the shapes of the commands."""
    count = "the next command" if max_steps == 1 else f"the next 1 to {max_steps} commands"
    task = "You plan for a robot. Given its goal and what happened so far,"
    lines = [f"{task} reply with {count}, one per line."]
    if templates:
        lines.append("Commands, with names in place of the braces:")
        lines.extend(templates)
    return "\n".join(lines)


def record_text(kind: str, text: str) -> str:
    """A record as it reads in a message; "" for one without text."""
    return _MARKS[kind] + text if text else ""
