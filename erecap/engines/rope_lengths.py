"""Keys under rotary embeddings that depend on the length of the sequence (longrope, dynamic NTK).

The bare model reads a prompt in one call, so that all its keys have the angles of the prompt's length. Stored keys that
have other ones are read again, once: a prompt past the switch makes all keys long, and one that was rolled back to
before it makes them short. While it generates, the bare model rotates each token as the length is then, and leaves the
keys before as they are; classes such as Phi3 read everything again where an answer crosses the switch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache

from erecap.models.cache_argument import CACHE
from erecap.tokens.cache.ropes import CHANGING, angle_kind, rope_kinds, rope_switch, window_of
from erecap.tokens.hooks import find_decoder

Kind = tuple[int, ...]  # see `angle_kind`


class RopeLengths:
    """The ids that an engine has read, and the kinds of angles that their keys have.

    Args:
        model: a model for which `follows_length` holds.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._config = model, find_decoder(model).config
        self.ids: list[int] | None = []  # None: tokens were evicted or skipped, and cannot be read again
        self._runs: list[tuple[int, Kind]] = []  # token index from where on keys have this kind of angles

    def copy(self) -> RopeLengths:
        """An independent copy."""
        twin = RopeLengths(self._model)
        twin.ids, twin._runs = None if self.ids is None else list(self.ids), list(self._runs)
        return twin

    def cut(self, tokens: int) -> None:
        """Forget what was noted behind the first `tokens` tokens."""
        if self.ids is not None:
            del self.ids[tokens:]
        self._runs = [run for run in self._runs if run[0] < tokens]

    def fit(self, length: int) -> bool:
        """Return True if all stored keys have the angles of a sequence of `length` tokens."""
        return all(kind == angle_kind(self._config, length) for _, kind in self._runs)

    def note(self, ids: Sequence[int], length: int) -> None:
        """Note tokens that are about to be read with the angles of a sequence of `length` tokens."""
        if self.ids is None:
            return
        kind = angle_kind(self._config, length)
        if not self._runs or self._runs[-1][1] != kind:
            self._runs.append((len(self.ids), kind))
        self.ids.extend(ids)

    def restart(self) -> list[int]:
        """Forget all angles, and the ids; these are returned, to be read again."""
        assert self.ids is not None, "an engine that lacks ids stays within the switch"
        ids, self.ids, self._runs = self.ids, [], []
        return ids

    def steps(self, tokens: int, ids: Sequence[int]) -> Iterator[tuple[list[int], int]]:
        """Cut generated tokens into those of equal angles; yields each piece and a length that has them.

        Args:
            tokens: read before.
        """
        piece: list[int] = []
        for number, token in enumerate(ids, tokens + 1):
            if piece and angle_kind(self._config, number) != angle_kind(self._config, number - 1):
                yield piece, number - 1
                piece = []
            piece.append(token)
        yield piece, tokens + len(ids)

    @property
    def why_fixed(self) -> str:
        """Reason why tokens that can be read again are not moved."""
        switch = rope_switch(self._config)
        return f"{type(self._model).__name__} changes its rotary embeddings beyond {switch:,} tokens"

    def leave(self) -> None:
        """Give up reading again, for an edit of stored tokens.

        Raises:
            ValueError: keys have the angles of a longer sequence, which one without these tokens would not have.
        """
        if any(kind != angle_kind(self._config, 0) for _, kind in self._runs):
            raise ValueError(
                f"{self.why_fixed}, and more were read; "
                "stored tokens can be edited before that, or in a session with a budget, which stays below"
            )
        self.ids = None

    # Files ------------------------------------------------------------------------------------------------

    def to_json(self) -> list[list[Any]]:
        """The runs as plain values."""
        return [[start, list(kind)] for start, kind in self._runs]

    def restore(self, ids: np.ndarray, runs: Any, tokens: int, vocabulary: int) -> None:
        """Become what `ids` and `to_json` were.

        Args:
            tokens: read in all.

        Raises:
            ValueError: values that do not fit each other.
        """
        kinds = len(angle_kind(self._config, 0))
        whole = ids.dtype == np.int64 and ids.shape == (tokens,)
        if not whole or (tokens and not 0 <= ids.min() <= ids.max() < vocabulary):
            raise ValueError(f"read_ids are not {tokens} token ids below {vocabulary}")
        found: list[tuple[int, Kind]] = []
        for run in runs if isinstance(runs, list) else [()]:
            start, kind = run if isinstance(run, list) and len(run) == 2 else (None, None)
            if type(start) is not int or not isinstance(kind, list) or len(kind) != kinds:
                raise ValueError("angles are not runs of tokens with their kind")
            if any(type(part) is not int for part in kind):
                raise ValueError("kinds of angles are not whole numbers")
            found.append((start, tuple(kind)))
        starts = [start for start, _ in found]
        if starts != sorted(set(starts)) or starts[:1] != [0][: min(1, tokens)] or any(at >= tokens for at in starts):
            raise ValueError(f"angles do not begin at 0 and rise within the {tokens} tokens read")
        self.ids, self._runs = ids.tolist(), found


def follows_length(model: Any) -> bool:
    """Return True if rotary angles change with the length of the sequence within the model's window."""
    config = find_decoder(model).config
    window, switch = window_of(config), rope_switch(config)
    return bool(rope_kinds(config) & CHANGING) and switch is not None and window is not None and switch < window


def past_switch(model: Any, kv_tokens: int) -> str | None:
    """Reason why a session on such a model cannot keep a budget of `kv_tokens`; None: it can."""
    switch = rope_switch(find_decoder(model).config)
    if switch is None or kv_tokens < switch:
        return None
    return (
        f"{type(model).__name__} changes its rotary embeddings beyond {switch:,} tokens, where evicted tokens cannot "
        f"be read again; give a budget below that, or none, got kv_tokens={kv_tokens:,}"
    )


def tell_switch(model: Any) -> None:
    """Say that the window of a session is shorter than the model's, where rotary embeddings change on the way."""
    config = find_decoder(model).config
    window, switch = window_of(config), rope_switch(config)
    warnings.warn(
        f"{type(model).__name__} changes its rotary embeddings beyond {switch:,} tokens; evicted tokens cannot be read "
        f"again there; this session keeps to {switch:,} of its {window:,} tokens and leaves out or evicts what exceeds "
        "them; one without budget, prune and scheduler takes all",
        stacklevel=5,
    )


class _Stored(DynamicCache):
    """A cache that says how many tokens it stores, and stores none."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self._tokens = tokens

    def __len__(self) -> int:
        return 1  # layers, so that it does not count as empty

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._tokens


def drops_cache(model: Any) -> bool:
    """Return True if the model's own `generate` reads everything again where an answer crosses the switch, as Phi3's.

    Asked of what prepares a step of `generate`: it is given a cache of as many tokens as the switch, and one id more.
    """
    base: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model
    switch = rope_switch(find_decoder(model).config)
    prepare = getattr(base, "prepare_inputs_for_generation", None)
    if switch is None or prepare is None:
        return False
    ids = torch.ones(1, switch + 1, dtype=torch.long, device=base.device)
    cache = _Stored(switch)
    made = prepare(ids, **{CACHE: cache}, attention_mask=ids, use_cache=True, next_sequence_length=1)
    return made.get(CACHE) is not cache
