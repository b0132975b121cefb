"""Sessions on an accelerator read, store and answer as on a CPU. Skipped where there is none."""

from __future__ import annotations

import copy

import pytest
import torch

from erecap.session import ReplanPool, ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, turn
from tests.session.pooling import AGENTS, assert_same_state, chats, close, options, recorded
from tests.tokens.models import ARCHITECTURES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_pool_there_is_as_sessions_here(name: str) -> None:
    there = copy.deepcopy(model(name)).to("cuda")
    pool = ReplanPool(there, byte_level())
    alone = [ReplanSession(model(name), byte_level(), **agent["session"]) for agent in AGENTS]
    together = [pool.session(**agent["session"]) for agent in AGENTS]
    rows = [(recorded(one), recorded(two)) for one, two in zip(together, alone, strict=True)]
    talks = chats()
    for number in range(2):
        wanted = [s.generate(m, **options(a)) for s, m, a in zip(alone, talks, AGENTS, strict=True)]
        got = pool.generate([(s, m, options(a)) for s, m, a in zip(together, talks, AGENTS, strict=True)])
        assert [g.text for g in got] == [w.text for w in wanted]
        for one, two in zip(together, alone, strict=True):
            assert_same_state(one, two)
        talks = [[*m, *turn(g.text, number)] for m, g in zip(talks, got, strict=True)]
    assert pool.counts.retries == 0
    for one, two in rows:
        assert all(close(a, b) for a, b in zip(one, two, strict=True))
