"""Drafted sampling: distributed as plain sampling, and with a seed the same answer in fewer passes."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch

from erecap.decoding.draft import LookupDraft
from erecap.decoding.loop import Decoded, decode
from erecap.decoding.stopping import sampler
from erecap.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn
from tests.session.test_decoding import END, VOCABULARY, TableModel
from tests.tokens.models import ARCHITECTURES

CPU = torch.device("cpu")
LENGTH = 4
DRAWS = 1500


class SmallModel(TableModel):
    """Next-token distributions over four tokens that depend on the last two."""

    def row(self, ids) -> torch.Tensor:  # type: ignore[no-untyped-def]
        a, b = [0, 0, *ids][-2:]
        return torch.tensor([((a * 5 + b * 3 + token * 7 + self.salt) % 8) / 3 for token in range(4)])


def odd_or_any(ids: list[int]) -> list[int]:
    """A constraint: after an even token only odd ones, after token 3 only token 2, else everything."""
    last = ids[-1] if ids else 1
    return [1, 3] if last % 2 == 0 else [2] if last == 3 else [0, 1, 2, 3]


def step(row: torch.Tensor, temperature: float, top_p: float, ids: list[int] | None) -> list[float]:
    """One token's distribution, written out: constraint, temperature, then the nucleus."""
    weights = [math.exp(float(value) / temperature) if ids is None or n in ids else 0.0 for n, value in enumerate(row)]
    share = [weight / sum(weights) for weight in weights]
    before, kept = 0.0, [0.0] * len(share)
    for n in sorted(range(len(share)), key=lambda n: (-share[n], n)):
        if before < top_p:
            kept[n] = share[n]
        before += share[n]
    return [share / sum(kept) for share in kept]


def drawn(seed: int, draft: LookupDraft | None, temperature: float, top_p: float, constrained: bool):  # type: ignore[no-untyped-def]
    pick = sampler(temperature, top_p, seed, CPU)
    for _ in range(DRAWS):
        small = SmallModel(1)
        yield decode(
            small, small.row([]), max_new_tokens=LENGTH, ended=lambda ids: False, pick=pick, draft=draft,
            allowed=odd_or_any if constrained else None,
        )  # fmt: skip


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.8)])
def test_drafted_answers_are_distributed_as_the_enumerated_ones(
    temperature: float, top_p: float, constrained: bool
) -> None:
    # The draft proposes the same continuation of whatever is there: likely at some tokens, impossible at others.
    draft = LookupDraft([[0, 1, 2, 3, 1, 1, 2, 0, 2, 2, 1, 3, 3, 0, 0, 3]], length=2)
    found = list(drawn(10, draft, temperature, top_p, constrained))
    counts = Counter(tuple(out.ids) for out in found)
    expected = {}
    for ids in itertools.product(range(4), repeat=LENGTH):
        share = 1.0
        for n in range(LENGTH):
            allowed = odd_or_any(list(ids[:n])) if constrained else None
            share *= step(SmallModel(1).row(ids[:n]), temperature, top_p, allowed)[ids[n]]
        expected[ids] = share
    assert math.isclose(sum(expected.values()), 1.0)
    assert all(expected[ids] > 0 for ids in counts)
    common = [ids for ids in expected if expected[ids] * DRAWS >= 5]
    rare = 1.0 - sum(expected[ids] for ids in common)
    chi = sum((counts[ids] - expected[ids] * DRAWS) ** 2 / (expected[ids] * DRAWS) for ids in common)
    if rare * DRAWS >= 1:
        seen = DRAWS - sum(counts[ids] for ids in common)
        chi += (seen - rare * DRAWS) ** 2 / (rare * DRAWS)
    # The 99.9 % point of chi-square, by Wilson and Hilferty's approximation.
    freedom = len(common) - 1 + (rare * DRAWS >= 1)
    assert freedom >= 5
    assert chi < freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3
    drafted, accepted = sum(out.drafted for out in found), sum(out.accepted for out in found)
    assert 0 < accepted < drafted  # both branches of the verification were taken


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_a_seed_gives_the_same_answer_with_and_without_a_draft(top_p: float) -> None:
    def answer(seed: int, draft: LookupDraft | None) -> Decoded:
        table = TableModel(5)
        return decode(
            table, table.row([]), max_new_tokens=30, ended=lambda ids: ids[-1] == END, draft=draft,
            pick=sampler(0.5, top_p, seed, CPU),
        )  # fmt: skip

    passes, answers = [0, 0], set()
    for seed in range(40):
        plain = answer(seed, None)
        drafted = answer(seed, LookupDraft([plain.ids, list(range(VOCABULARY))]))
        assert drafted.ids == plain.ids
        passes[0], passes[1] = passes[0] + plain.passes, passes[1] + drafted.passes
        answers.add(tuple(plain.ids))
    assert len(answers) > 20  # it does sample
    assert passes[1] < 0.6 * passes[0]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sessions_sample_with_drafts(name: str) -> None:
    messages, options = start(), {"max_new_tokens": 12, "temperature": 0.6, "top_p": 0.9}
    plain = ReplanSession(model(name), byte_level(), draft=False)
    first = plain.generate(messages, seed=4, **options)
    assert first.usage.drafted_tokens == 0
    session = ReplanSession(model(name), byte_level())
    again = session.generate(messages, seed=4, draft=first.text, **options)
    assert again.text == first.text and again.usage.accepted_tokens > 0
    messages += turn(first.text, 1)
    texts = set()
    for seed in range(3):
        text = plain.fork().generate(messages, seed=seed, **options).text
        assert session.fork().generate(messages, seed=seed, **options).text == text
        texts.add(text)
    assert len(texts) > 1
