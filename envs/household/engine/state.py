"""textworld's PDDL state, built from a problem that is translated once instead of twice for each start."""

from __future__ import annotations

import contextlib
import io
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import fast_downward
from textworld.envs.pddl.logic import Atom, GameLogic, PddlState
from textworld.logic import Proposition, Type, Variable


@contextlib.contextmanager
def _translator_isolated() -> Iterator[None]:
    """The translator reads and overwrites `sys.argv` and prints warnings; neither is for the user."""
    arguments = sys.argv
    sys.argv = ["translate", "domain", "task"]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        sys.argv = arguments


with _translator_isolated():  # its options are parsed from the command line when it is imported
    from fast_downward.translate.pddl_parser.lisp_parser import ParseError

__all__ = ["ParseError", "Problem", "TranslatedState", "parse_logic", "translate"]


@dataclass(frozen=True)
class Problem:
    """A translated PDDL problem."""

    task: Any  # fast_downward's task: actions, types, objects, initial facts
    sas: bytes  # what the engine's library loads
    types: dict[str, str]  # object -> type


@lru_cache(maxsize=4)
def translate(domain: str, problem: str) -> Problem:
    """Translate a PDDL problem. Broken text raises what the translator's parser runs into.

    The last few are kept, because modes that are compared play the same episode one after the other.
    """
    with _translator_isolated():
        task, sas = fast_downward.pddl2sas(domain, problem)
    return Problem(task, sas.encode("utf-8"), {thing.name: thing.type_name for thing in task.objects})


@lru_cache(maxsize=8)
def parse_logic(domain: str, grammar: str) -> GameLogic:
    """Parse domain and grammar; games with the same two share the result."""
    return GameLogic(domain=domain, grammar=grammar)


class TranslatedState(PddlState):
    """The state of a game at its start. It cannot replan: the expert of this environment is our own."""

    def __init__(self, library: Any, logic: GameLogic, problem: Problem) -> None:
        """`library` is the loaded fast_downward library; the problem is loaded into it afresh."""
        # The parent's constructor would translate the problem twice more, so its fields are set here.
        self._logic, self.downward_lib, self.task, self.name2type = logic, library, problem.task, problem.types
        self._facts: Any = defaultdict(set)
        self._vars_by_name: dict[str, Variable] = {}
        self._vars_by_type: Any = defaultdict(set)
        self._var_counts: Counter[str] = Counter()
        self._actions = {action.name: action for action in problem.task.actions}
        known = {kind.name for kind in logic.types}
        for kind in problem.task.types:
            if kind.name not in known:
                logic.types.add(Type(kind.name, kind.supertype_names))
                known.add(kind.name)  # PDDL has a type `object` of its own; the first one counts
        for atom in problem.task.init:
            if getattr(atom, "predicate", "=") != "=":  # costs and distances have no predicate
                arguments = [Variable(name, problem.types[name]) for name in atom.args]
                self.add_fact(Proposition(atom.predicate, arguments))
        library.load_sas(problem.sas)
        atoms = (Atom * library.get_state_size())()
        library.get_state(atoms)
        self.add_facts(fact for fact in (atom.get_fact(problem.types) for atom in atoms) if not fact.is_negation)
