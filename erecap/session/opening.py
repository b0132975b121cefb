"""The engine and the ranking of a new session, made from what its configuration names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

from erecap.engines.own_tokenizer import refuse_other_tokenizer
from erecap.engines.protocol import SessionEngine
from erecap.engines.uniform import UniformEngine
from erecap.errors import ConfigError
from erecap.registries import ENGINES, EVICT_BY
from erecap.session.config import SessionConfig, is_engine

if TYPE_CHECKING:
    from erecap.tokens.cache.read_scores import ReadScorer


class EngineUser(Protocol):
    """A session, as far as its engine is concerned."""

    engine: SessionEngine


# By the id of an engine the session that uses it, as long as there is one.
_USERS: WeakValueDictionary[int, EngineUser] = WeakValueDictionary()


def own_engine(config: SessionConfig, model: Any, tokenizer: Any) -> SessionEngine:
    """The engine that the configuration names or gives.

    Raises:
        ConfigError: no engine of that name, or one that cannot be made.
        ValueError: a given engine has read something, or another session uses it; or the tokenizer is of another model.
    """
    engine = config.engine
    if isinstance(engine, str):
        name, engine = engine, ENGINES.get_or_refuse(engine, "engine")(model, config.engine_settings())
        if not is_engine(engine):
            raise ConfigError(f"engine {name!r}: its factory must return a SessionEngine, got {engine!r}")
    user = _USERS.get(id(engine))
    if user is not None and user.engine is engine:
        raise ValueError("the engine is in use by another session; a session needs one of its own")
    if engine.tokens:
        raise ValueError(f"the engine has read {engine.tokens} tokens already; a session needs one of its own")
    if isinstance(engine, UniformEngine):
        refuse_other_tokenizer(engine, tokenizer)
    return engine


def claim(engine: SessionEngine, user: EngineUser) -> None:
    """Note that `user` uses `engine`."""
    _USERS[id(engine)] = user


def ranking_of(evict_by: str | ReadScorer, model: Any) -> str | ReadScorer:
    """The session's ranking of tokens: a criterion by its name, or a scorer; a trained pruner is loaded by its name."""
    if not isinstance(evict_by, str) or evict_by in EVICT_BY:
        return evict_by
    from erecap.tokens.scoring.by_name import scorer_for

    return scorer_for(evict_by, model)
