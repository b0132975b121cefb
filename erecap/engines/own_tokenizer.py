"""Comparison of a session's tokenizer with the one that the engine's model has of its own."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from erecap.engines.uniform import UniformEngine

# Plain words: two libraries may cut rare characters in different ways, and have the same tokenizer all the same.
PROBE = "Go to fridge 12, then take the red mug."
_fit: WeakKeyDictionary[Any, WeakSet[Any]] = WeakKeyDictionary()  # by model, the tokenizers whose ids are its own


def refuse_other_tokenizer(engine: UniformEngine[Any], tokenizer: Any) -> None:
    """Refuse a tokenizer whose ids stand for other tokens in the model. Each pair of both is compared once.

    Raises:
        ValueError: its ids of a short text are not those of the model's own tokenizer.
    """
    known = _fit.setdefault(engine.model, WeakSet())
    if tokenizer in known:
        return
    own = engine.own_ids(PROBE)
    if own is not None:
        given = list(tokenizer(PROBE, add_special_tokens=False)["input_ids"])
        pairs = zip_longest(given, own)
        first = next(((place, pair) for place, pair in enumerate(pairs) if pair[0] != pair[1]), None)
        if first is not None:
            place, (theirs, ours) = first
            name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
            raise ValueError(
                f"the tokenizer {name} is of another model: in {PROBE!r} its token {place} has the id {theirs}, and "
                f"the id {ours} by the tokenizer of the model itself; give model.tokenizer"
            )
    known.add(tokenizer)
