"""Engine of one ALFWorld game: textworld's PDDL state and grammar, alfworld's names.

`textworld.envs.PddlEnv` does the same in about two seconds a game and a tenth of a second a command: it translates the
problem four times, parses the grammar for each game, and derives every admissible command through the grammar at
every step. Here the problem is translated once, a grammar is parsed once per process, and commands are filled into
their templates. Feedback sentences still come from the grammar, and the tests hold both against each other.
Not for use from several threads at once: the translator keeps its options in globals.

This module imports the simulator; `open_engine` imports it with a clear error where the simulator is missing.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fast_downward
from alfworld.agents.utils.misc import Demangler
from tatsu.exceptions import ParseException
from textworld.envs.pddl.textgen import CSGUnknownSymbolError
from textworld.generator.game import EntityInfo

from erecap.envs.household.data.gamefile import GameData
from erecap.envs.household.engine.fast_grammar import quick_grammar
from erecap.envs.household.engine.state import ParseError, TranslatedState, parse_logic, translate
from erecap.envs.household.engine.world import World, read_world
from erecap.errors import GameError

NOTHING = "Nothing happens."
_WELCOME = "-= Welcome to TextWorld, ALFRED! =-"
_TASK = re.compile(r'"Your task is to: ((?:[^"\\]|\\.)*)"')
# "go to [{r.name | receptacleatlocation(r:receptacle, lend:location)}]" is "go to {r}" for every ground action,
# because the action binds r.
_NAME_OF = re.compile(r"\[\{(\w+)\.name \|[^\]]*\}\]")
# The parsers of textworld and fast_downward check their input by running into it. These are their ways.
_CORRUPT = (
    ParseException,
    ParseError,
    CSGUnknownSymbolError,
    SystemExit,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    StopIteration,
    SyntaxError,
    TypeError,
    ValueError,
)
# Each engine needs its own copy of the library, which holds one state. Unloading a copy (fast_downward.close_lib)
# crashes the process at its end, for the library has left exit handlers behind; so copies are used again.
_idle_libraries: list[Any] = []


@dataclass(frozen=True)
class Turn:
    """The engine's answer to one command."""

    feedback: str
    commands: tuple[str, ...]  # admissible now, sorted
    won: bool
    world: World


class Engine:
    """One engine with one game at a time."""

    def __init__(self) -> None:
        self._library = _idle_libraries.pop() if _idle_libraries else fast_downward.load_lib()
        self._where = "no game"

    def load(self, game: GameData) -> str:
        """Load a game and return its goal sentence. Call `reset` before the first `step`.

        Raises:
            GameError: the domain, the grammar or the problem cannot be parsed, or something is missing in it.
        """
        self._where = str(game.path)
        domain, grammar = game.logic["pddl_domain"], game.logic["grammar"]
        match = _TASK.search(grammar)
        if match is None:
            raise GameError(f"game file {self._where} has no sentence 'Your task is to: ...' in its grammar")
        with self._corruption_reported():
            goal = json.loads(f'"{match.group(1)}"', strict=False).strip().rstrip(".")
            # Without the task sentence all games share one grammar, which would take long to parse each time.
            self._logic = parse_logic(domain, _TASK.sub('"Your task is to: win."', grammar))
            self._problem = translate(domain, game.logic["pddl_problem"])
            self._state = TranslatedState(self._library, self._logic, self._problem)
            self._infos = self._entities()
            self.names = {name: info.name.strip() for name, info in self._infos.items()}
            read_world(self._state.facts, self.names)
        return goal

    @property
    def verbs(self) -> dict[str, str]:
        """Action -> command with placeholders, such as `pickupobject` -> `take {o} from {r}`."""
        return {name: _NAME_OF.sub(r"{\1}", action.template) for name, action in self._logic.actions.items()}

    def reset(self) -> Turn:
        """Begin the loaded game. The feedback is the description of the room, without greeting and task."""
        with self._corruption_reported():
            self._state = TranslatedState(self._library, self._logic, self._problem)
            text = self._derive("#intro#", {})
            return self._turn(text.replace(_WELCOME, "").split("Your task is to:")[0].strip())

    def step(self, command: str) -> Turn:
        """Play one command. One that is not admissible changes nothing and answers `Nothing happens.`

        Raises:
            GameError: the grammar cannot say what happened.
        """
        action = self._actions.get(command.strip())
        if action is None:
            return self._turn(NOTHING)
        with self._corruption_reported():
            self._state.apply(action)
            return self._turn(self._derive(action.feedback_rule, action.mapping))

    def close(self) -> None:
        """Hand the engine's library on to the next engine. This one is of no use afterwards."""
        if self._library is not None:
            _idle_libraries.append(self._library)
            self._library = None

    def _entities(self) -> dict[str, EntityInfo]:
        types = {argument.name: argument.type for fact in self._state.facts for argument in fact.arguments}
        infos = {name: EntityInfo(name, kind) for name, kind in sorted(types.items())}
        names = Demangler(game_infos=infos)
        for name, info in infos.items():
            info.name, info.definite, info.indefinite = names.demangle_alfred_name(name), "the", "a"
        return infos

    def _turn(self, feedback: str) -> Turn:
        self._actions: dict[str, Any] = {}
        for action in self._state.all_applicable_actions():
            # Several actions with one command do the same; the first is played, as textworld does.
            self._actions.setdefault(self._command(action), action)
        world = read_world(self._state.facts, self.names)
        return Turn(feedback, tuple(sorted(self._actions)), bool(self._state.check_goal()), world)

    def _command(self, action: Any) -> str:
        template = _NAME_OF.sub(r"{\1}", action.command_template)
        if "[" in template or "#" in template:  # a template of a grammar that is not alfworld's
            template = self._derive(template, action.mapping)
        return template.format(**{slot.name: self.names[thing.name] for slot, thing in action.mapping.items()})

    def _derive(self, rule: str, mapping: dict[Any, Any]) -> str:
        context = {
            "state": self._state,
            "facts": list(self._state.facts),
            "variables": {slot.name: self._infos[thing.name] for slot, thing in mapping.items()},
            "mapping": mapping,
            "entity_infos": self._infos,
        }
        with quick_grammar():
            return self._logic.grammar.derive(rule, context)

    @contextlib.contextmanager
    def _corruption_reported(self) -> Iterator[None]:
        try:
            yield
        except _CORRUPT as error:
            reason = " ".join(str(error).split())[:160]
            reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
            raise GameError(f"game file {self._where} cannot be loaded by the engine ({reason})") from error
