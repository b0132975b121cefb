"""Engines beside the one on transformers, of the same weights: they store and compute the same."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from erecap.engines.protocol import SessionEngine

Pair = Sequence[SessionEngine]  # the engine on transformers, and another one


def same(pair: Pair, ids: list[int], within: float) -> None:
    """Both store the same tokens, at the same places, and say the same behind `ids`, which are rolled back.

    Args:
        within: most that a logit may differ, as a share of the largest one.
    """
    rows, before = [], pair[0].tokens
    for one in pair:
        with one.attached():
            rows.append(one.verify(ids))
        one.rollback(before)
    assert np.abs(rows[0] - rows[1]).max() <= within * np.abs(rows[0]).max()
    mine, other = pair
    assert (mine.tokens, mine.next_position) == (other.tokens, other.next_position)
    assert mine.stored().indices.tolist() == other.stored().indices.tolist()
    assert mine.stored().most == other.stored().most and mine.kv_bytes() == other.kv_bytes()


def any_sequence(seed: int, pair: Pair, steps: int, within: float) -> None:
    """Read, evict, roll back, skip, move and fork at random, on both; they are the same after each step."""
    draw, forks = random.Random(seed), list[Pair]()
    for _ in range(steps):
        tokens, stored = pair[0].tokens, pair[0].stored().indices
        step = draw.choice(("read", "read", "verify", "evict", "evict newest", "roll back", "skip", "move", "fork"))
        if step in ("read", "verify") or not tokens:
            ids = [draw.randrange(90) for _ in range(draw.randint(1, 40))]
            for one in pair:
                with one.attached():
                    one.read(ids) if step == "read" else one.verify(ids)
        elif step in ("evict", "evict newest") and len(stored):
            count = draw.randint(1, max(1, len(stored) // 2))
            gone = sorted(draw.sample(stored.tolist(), count)) if step == "evict" else stored[-count:].tolist()
            assert [one.evict([np.array(gone) for _ in one.stored().groups]) for one in pair] == [count, count]
        elif step == "roll back":
            to = draw.randint(max(0, tokens - 30), tokens)
            for one in pair:
                one.rollback(to)
        elif step == "skip":
            by, gap = draw.randint(1, 9), pair[0].tokens == pair[0].next_position
            for one in pair:
                one.skip(by, gap)
        elif step == "move":
            for one in pair:
                one.reposition()
        elif step == "fork":
            forks.append([one.fork() for one in pair])
        if pair[0].tokens:
            same(pair, [draw.randrange(90) for _ in range(draw.randint(1, 5))], within)
        if forks and draw.random() < 0.4:  # go on with another one, and leave this one as it is
            forks[draw.randrange(len(forks))], pair = pair, draw.choice(forks)
    for other in forks:
        if other[0].tokens:
            same(other, [1, 2, 3], within)
