"""A kitchen to plan in."""

from __future__ import annotations

from erecap.context import Context, Situation

TEMPLATES = ("go to {receptacle}", "open {receptacle}", "take {object} from {receptacle}", "look")
KITCHEN = Situation(
    skills=("go to cabinet 1", "go to fridge 1", "open cabinet 12", "look"),
    # "cabinet 1" is a prefix of "cabinet 12": a step may end where a longer one goes on.
    entities={"receptacle": ("cabinet 1", "cabinet 12", "fridge 1"), "object": ("apple 1", "mug 2")},
    templates=TEMPLATES,
)


def kitchen(situation: Situation = KITCHEN) -> Context:
    context = Context("put a clean apple in fridge 1", TEMPLATES, situation=situation)
    context.add("observation", "You see a cabinet 1, a cabinet 12 and a fridge 1.")
    return context
