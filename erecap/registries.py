"""Registries of names in a configuration: environments, planners, scorers, engines.

A registry knows its built-in entries by strings, so that a name can be checked without importing what it stands for.
Other packages add entries in one of two ways:

- at run time: `erecap.tokens.register("norm", NormScorer)`, in every process that uses the name; `erecap.planners` and
  `erecap.envs` have a `register` of their own;
- by an entry point of their distribution, which every process finds:
  `[project.entry-points."erecap.scorers"]` with `norm = "mine:NormScorer"`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from erecap.errors import ConfigError


class Registry(MutableMapping[str, Any]):
    """Entries of one kind by name; a mapping whose values are imported when they are asked for.

    Args:
        kind: word for one entry, for messages.
        group: the entry-point group that other packages use.
        builtin: the entries of this package: objects, or strings `module:attribute` that are imported when asked for.
        problem: says what is wrong with an object as an entry, in words that follow "must be"; None: nothing.
        reserved: names that no entry may have.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        builtin: Mapping[str, Any],
        problem: Callable[[Any], str | None],
        reserved: tuple[str, ...] = (),
    ) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, Any] = dict(builtin)
        self._problem = problem
        self._reserved = reserved

    def register(self, name: str, entry: Any) -> None:
        """Add an entry: an object, or a string `module:attribute` that is imported when it is asked for.

        Raises:
            ConfigError: the name is taken or reserved, or cannot be written in a mode such as `prune[name]`; or an
                entry of another kind.
        """
        allowed = isinstance(name, str) and all(character.isalnum() or character in "-_." for character in name)
        if not name or not allowed:
            raise ConfigError(f"{self.kind} name {name!r}: allowed are letters, digits, '-', '_' and '.'")
        if name in self:
            raise ConfigError(f"{self.kind} {name!r} is registered already")
        if name in self._reserved:
            raise ConfigError(f"{self.kind} {name!r}: the name is reserved")
        if not isinstance(entry, str):
            self._checked(entry, f"{self.kind} {name!r}")
        elif not _is_path(entry):
            raise ConfigError(f"{self.kind} {name!r}: got {entry!r}; a string must have the form 'module:attribute'")
        self._entries[name] = entry

    def __getitem__(self, name: str) -> Any:
        """The entry, imported if need be.

        Raises:
            KeyError: no entry of that name (see `get_or_refuse` for a message to a user).
            ConfigError: it cannot be imported, or is of another kind.
        """
        if name in self._entries:
            entry = self._entries[name]
            return self._imported(entry, f"{self.kind} {name!r}") if isinstance(entry, str) else entry
        point = self._plugins()[name]
        origin = f"distribution {point.dist.name}" if point.dist is not None else "no distribution"
        path = f"{point.module}:{point.attr}"
        return self._imported(path, f"{self.kind} {name!r}: entry point {path} of {self.group} ({origin})")

    def _imported(self, path: str, what: str) -> Any:
        return self._checked(import_or_refuse(path, what), what)

    def _checked(self, entry: Any, what: str) -> Any:
        problem = self._problem(entry)
        if problem is not None:
            raise ConfigError(f"{what} must be {problem}")
        return entry

    def get_or_refuse(self, name: str, where: str) -> Any:
        """The entry, or ConfigError with the names that exist.

        Args:
            where: the setting that holds the name, for the message.
        """
        if name not in self:
            article = "an" if self.kind[0] in "aeiou" else "a"
            raise ConfigError(f"{where}: {name!r} is not {article} {self.kind}; allowed: {', '.join(self)}")
        return self[name]

    def __setitem__(self, name: str, entry: Any) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._plugins()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._entries, *self._plugins()}))

    def __len__(self) -> int:
        return len({*self._entries, *self._plugins()})

    def origin(self, name: str) -> str | None:
        """The package whose entry point brings the entry; None: this one, or `register` in this process."""
        point = None if name in self._entries else self._plugins().get(name)
        return None if point is None or point.dist is None else str(point.dist.name)

    def _plugins(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}


@dataclass(frozen=True)
class EnvEntry:
    """The module and class of an environment: strings `module:Name`, imported when asked for."""

    options: str  # pydantic model of the suite's `options`; its module imports no simulator
    factory: str  # gymnasium.Env, called as factory(options, seed=, episodes=, expert=, render_mode=)
    requires: str  # what to install, as in: pip install 'erecap[household]'


def _env_problem(entry: Any) -> str | None:
    return None if isinstance(entry, EnvEntry) else f"an EnvEntry, got {_named(entry)}"


def _factory_problem(entry: Any) -> str | None:
    return None if callable(entry) else f"callable, got {_named(entry)}"


def _scorer_problem(entry: Any) -> str | None:
    if not isinstance(entry, type):
        return f"a class, got {_named(entry)}"
    if not callable(getattr(entry, "score", None)):
        return f"a class with a method score; {entry.__name__} has none"
    if not hasattr(entry, "needs_attention"):
        return f"a class with the attribute needs_attention; {entry.__name__} has none"
    return None


def _named(entry: Any) -> str:
    return f"the class {entry.__name__}" if isinstance(entry, type) else f"an object of type {type(entry).__name__}"


ENVIRONMENTS = Registry(
    "environment",
    "erecap.environments",
    {
        "babyai": EnvEntry(
            options="erecap.envs.babyai.options:BabyAIOptions",
            factory="erecap.envs.babyai.env:BabyAIEnv",
            requires="erecap[babyai]",
        ),
        "habitat": EnvEntry(
            options="erecap.envs.habitat.options:HabitatOptions",
            factory="erecap.envs.habitat.env:HabitatEnv",
            requires="erecap[habitat]",
        ),
        "household": EnvEntry(
            options="erecap.envs.household.options:HouseholdOptions",
            factory="erecap.envs.household.env:HouseholdEnv",
            requires="erecap[household]",
        ),
        "pyrobosim": EnvEntry(
            options="erecap.envs.pyrobosim.options:PyRoboSimOptions",
            factory="erecap.envs.pyrobosim.env:PyRoboSimEnv",
            requires="erecap[pyrobosim]",
        ),
    },
    _env_problem,
)

# Called as factory(settings, model) for each mode: `PlannerSettings` of the run, and the mode's language model (None:
# the environment's expert plans). The planner is kept for all episodes of the mode.
PLANNERS = Registry(
    "planner",
    "erecap.planners",
    {
        "cooperative": "erecap.planners.cooperative.planner:make_cooperative_planner",
        "expert": "erecap.planners.expert:make_expert_planner",
        "llm": "erecap.planners.make_llm:make_llm_planner",
    },
    _factory_problem,
)

LEARNED = "learned"  # the scorer that comes from a trained checkpoint, and so cannot be made from its name alone
# Classes without arguments, see `erecap.protocols.TokenScorer`.
SCORERS = Registry(
    "scorer",
    "erecap.scorers",
    {
        "attention": "erecap.tokens.scoring.scorers:AttentionScorer",
        "random": "erecap.tokens.scoring.scorers:RandomScorer",
        "recency": "erecap.tokens.scoring.scorers:RecencyScorer",
    },
    _scorer_problem,
    reserved=(LEARNED,),
)
# Called as factory(model, settings): the model of the session, and `erecap.engines.protocol.EngineSettings`; gives a
# `SessionEngine` that has read nothing, or raises ValueError for settings that engine or model cannot serve.
ENGINES = Registry(
    "engine",
    "erecap.engines",
    {
        "llamacpp": "erecap.engines.llamacpp.engine:LlamaCppEngine",
        "tiny": "erecap.engines.tiny:TinyEngine",
        "transformers": "erecap.engines.transformers:TransformersEngine",
        "vllm": "erecap.engines.vllm.engine:VllmEngine",
    },
    _factory_problem,
)
# Called as factory(search), with an `erecap.layers.search.Search`: yields one `Step` after the other, each of which the
# caller carries out before it asks for the next. `erecap.layers.search.uses` names the options that it reads.
LAYER_SEARCHES = Registry(
    "search method",
    "erecap.layer_searches",
    {
        "blockpruner": "erecap.layers.search.losses:blockpruner",
        "magnitude": "erecap.layers.search.ranked:magnitude",
        "random": "erecap.layers.search.ranked:chance",
        "shortgpt": "erecap.layers.search.ranked:shortgpt",
        "sleb": "erecap.layers.search.losses:sleb",
        "sprint": "erecap.layers.search.sprint:sprint",
    },
    _factory_problem,
)
# What a session may rank by without a trained pruner; see `erecap.tokens.scoring.by_name`.
EVICT_BY = ("recency", "random", "attention")
# Ways to draft tokens while decoding; see `erecap.decoding.drafts`.
DRAFTS = ("automaton", "automaton-run", "lookup", "prompt-lookup", "suffix")
DEFAULT_DRAFT = "automaton"  # what `draft: true` is
SHARED_DRAFTS = ("automaton-run", "suffix")  # those that draft from other conversations as well
PRICED_DRAFTS = ("automaton", "automaton-run")  # those that weigh what verifying costs
SINKS = 4  # first tokens of a sequence that are always kept, unless a configuration says otherwise
PRESETS: dict[str, float] = {"keep09": 0.9, "keep08": 0.8, "keep07": 0.7}  # published keep ratios by name


def mode_scorers() -> list[str]:
    """Names that a mode `prune[...]` may have; `learned` needs `pruner: FOLDER` besides."""
    return [*SCORERS, LEARNED]


def env_entry(name: str) -> EnvEntry:
    """The registry's entry of environment `name`. Raises ConfigError with the names that exist."""
    return ENVIRONMENTS.get_or_refuse(name, "env")


def import_or_refuse(path: str, what: str) -> Any:
    """Import `module:attribute`.

    Args:
        what: who names it, for the message.

    Raises:
        ConfigError: it cannot be imported.
    """
    try:
        return load_attribute(path)
    except (ImportError, AttributeError, SyntaxError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(f"{what} cannot be imported: {reason}") from error


def load_attribute(path: str) -> Any:
    """Import `module:attribute`; the attribute may be dotted."""
    module, _, name = path.partition(":")
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _is_path(text: str) -> bool:
    module, colon, name = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *name.split(".")))
