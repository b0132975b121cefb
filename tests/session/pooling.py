"""Agents of different kinds for tests of pools, and how two sessions are compared."""

from __future__ import annotations

import torch

from erecap.budget import Budget
from erecap.session import ReplanSession
from erecap.tokens import PruneConfig
from tests.context.small_tokenizers import byte_level
from tests.session.chats import start

# Different lengths, ends, budgets, rankings, drafts, constraints, weights; one that prunes while it reads.
AGENTS = [
    {"session": {}, "new": 6},
    {"session": {"budget": Budget(kv_tokens=90)}, "new": 4, "words": 30},
    {"session": {"budget": Budget(kv_tokens=120), "evict_by": "attention"}, "new": 8},
    {"session": {"draft": False, "evict_by": "random", "budget": Budget(kv_tokens=100)}, "new": 5},
    {"session": {"prune": PruneConfig("recency", 0.6, (2, 5)), "budget": Budget(kv_tokens=110)}, "new": 6},
    {"session": {}, "new": 7, "draft": "go to shelf 1\ngo to shelf 2"},
    {"session": {}, "new": 7, "allowed": "go to shelf 12\n"},
    {"session": {}, "new": 5, "temperature": 0.7},
]


def options(agent: dict) -> dict:
    given = {"max_new_tokens": agent["new"], "draft": agent.get("draft")}
    if "allowed" in agent:
        line = byte_level()(agent["allowed"], add_special_tokens=False)["input_ids"]
        others = list(range(40, 60))
        # Free choice at every third token, a single choice between.
        given["allowed_tokens"] = lambda ids: others if len(ids) % 3 == 0 else [line[len(ids) % len(line)]]
    if "temperature" in agent:
        given |= {"temperature": agent["temperature"], "seed": 11}
    return given


def recorded(session: ReplanSession) -> list[torch.Tensor]:
    """All logits that the session will be given; all tokens' at each choice, since a pool computes them all."""
    rows, forward = [], session.engine.forward

    def record(*args, **kwargs):  # type: ignore[no-untyped-def]
        rows.append(forward(*args, **kwargs))
        return rows[-1]

    session.engine.forward = record
    session.engine.choose = lambda ids, among: None
    return rows


def chats() -> list[list[dict]]:
    found = []
    for number, agent in enumerate(AGENTS):
        messages = start()
        goal = len(messages[1]["content"])
        messages[1]["content"] += f"\nYou are agent {number}." + " Look." * agent.get("words", number)
        if "words" in agent:  # more than its budget: only the goal must stay
            messages[1]["protect"] = [(0, goal)]
        found.append(messages)
    return found


def close(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((got.cpu() - wanted).abs().max() <= 1e-4 * wanted.abs().max())


def assert_same_state(got: ReplanSession, wanted: ReplanSession) -> None:
    assert got.token_ids == wanted.token_ids
    assert got.cache.kept_lengths() == wanted.cache.kept_lengths()
    for layer in range(len(wanted.cache.layers)):
        one, two = got.cache.layout(layer), wanted.cache.layout(layer)
        assert torch.equal(one.index.cpu(), two.index) and torch.equal(one.positions.cpu(), two.positions)
        assert close(got.cache.layers[layer].keys, wanted.cache.layers[layer].keys)
        assert close(got.cache.layers[layer].values, wanted.cache.layers[layer].values)


def hooks_of(model) -> tuple:  # type: ignore[no-untyped-def]
    return [
        len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()
    ], model.config._attn_implementation
