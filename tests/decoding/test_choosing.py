"""Choices among a grammar's tokens by their own rows of the head are those by the whole head."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from erecap.config.exits import Exit
from erecap.decoding.best import best_of, pays
from erecap.decoding.choosing import Chooser
from erecap.decoding.linear import Head, Weights
from erecap.decoding.loop import Decoded, decode
from erecap.session import ReplanPool, ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.decoding.exiting import drafting_always_pays as drafting_always_pays
from tests.session.chats import model, start, turn
from tests.tokens.models import ARCHITECTURES

TOKENS, WIDTH = 320, 64
LIMIT = 20  # tokens of an answer in the loop below


def head(kind: Weights, dtype: torch.dtype, biased: bool) -> tuple[Head, torch.Tensor]:
    """A head with equal rows and rows that differ in the last digits only, and inputs for it."""
    torch.manual_seed(4)
    weight, x = torch.randn(TOKENS, WIDTH), torch.randn(5, WIDTH)
    weight[1::2] = weight[::2]
    weight[3::8] *= 1 + 1e-7
    bias = torch.randn(TOKENS).repeat_interleave(2)[:TOKENS].to(dtype) if biased else None
    return Head(weight.to(dtype), bias, kind), x.to(dtype)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("same", torch.float32), ("same", torch.bfloat16), ("int8", torch.float32), ("int4", torch.bfloat16)],
)
def test_the_best_of_some_is_their_best_among_all(kind: Weights, dtype: torch.dtype, biased: bool) -> None:
    made, x = head(kind, dtype, biased)
    whole = made(x).float().numpy()
    some, most = made.some(x, torch.arange(TOKENS))
    apart = (some - torch.from_numpy(whole)).abs()
    assert bool((apart <= most).all())
    assert float(apart.max()) <= (1e-4 if dtype is torch.float32 or made.packed else 2 * 2**-7) * np.abs(whole).max()
    choose = random.Random(8)
    for _ in range(60):
        sets = [choose.sample(range(TOKENS), choose.choice((1, 2, 3, 9))) for _ in range(choose.randint(1, 5))]
        wanted = []
        for row, ids in zip(whole[-len(sets) :], sets, strict=True):
            index = np.sort(ids)
            wanted.append(int(index[row[index].argmax()]))
        assert best_of(made, x, sets) == wanted
    assert pays([[1, 2]], made) and not pays([range(TOKENS // 16), [3]], made)


@pytest.mark.parametrize("kind", ["same", "int8"])
def test_where_large_products_cancel_the_whole_head_decides(kind: Weights) -> None:
    torch.manual_seed(7)
    half, signed = torch.randn(256), torch.randint(-127, 128, (4096, 256)) / 8
    signed[:, 0] = 127 / 8  # so that 8 bits hold each weight as it is
    order = torch.randperm(512)
    x = 100 * torch.cat([half, half])[order].expand(5, -1)  # several rows are summed in another order than one
    made = Head(torch.cat([signed, -signed], 1)[:, order].contiguous(), None, kind)
    whole = made(x)[-1].numpy()  # what rounding leaves of sums of thousands, which without it are 0
    for number in range(0, 4096, 8):
        ids = list(range(number, number + 8))
        assert best_of(made, x, [ids]) == [number + int(whole[ids].argmax())]


def test_logits_that_are_not_finite_choose_as_all_logits_do() -> None:
    weight, x = torch.randn(TOKENS, WIDTH), torch.randn(1, WIDTH)
    weight[7], weight[8] = torch.nan, torch.inf
    made = Head(weight, None, "same")
    assert best_of(made, x, [[6, 7, 8]]) == [7] and best_of(made, x, [[6, 9]])[0] in (6, 9)


class Scores:
    """A reader whose logits are a function of the last two ids; it can be told to answer whole rows only."""

    def __init__(self, some: bool) -> None:
        self.ids: list[int] = [0, 0]
        self.some, self.chose = some, 0

    @property
    def tokens(self) -> int:
        return len(self.ids)

    def row(self, place: int) -> np.ndarray:
        seed = 31 * self.ids[place - 1] + self.ids[place]
        return np.random.default_rng(seed).standard_normal(12).astype(np.float32)

    def verify(self, ids: Sequence[int]) -> np.ndarray:
        self.ids += ids
        return np.stack([self.row(place) for place in range(len(self.ids) - len(ids), len(self.ids))])

    def rollback(self, to: int) -> None:
        del self.ids[to:]

    def chooses(self, tokens: int) -> bool:
        return self.some

    def choose(self, ids: Sequence[int], among: Sequence[Sequence[int]]) -> list[int] | None:
        assert self.some, "it is asked first"
        self.chose += 1
        rows = self.verify(ids)[-len(among) :]
        return [max(sorted(few), key=lambda token, row=row: row[token]) for row, few in zip(rows, among, strict=True)]


class Guesses:
    """Drafts at random: right ones, wrong ones, and such as no grammar allows."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def propose(self, generated: Sequence[int], pending: int = 1) -> list[int]:
        return [self._random.randrange(12) for _ in range(self._random.randrange(5))]

    def learn(self, proposed: int, accepted: int) -> None:
        pass


@given(st.integers(0, 10**6), st.sampled_from([(), (11,)]))
def test_the_loop_gives_the_same_answer_and_asks_the_grammar_nothing_else(seed: int, ends: tuple[int, ...]) -> None:
    def allowed(generated: Sequence[int]) -> list[int]:
        for place, token in enumerate(generated):
            assert token in few(generated[:place]) and token not in ends  # never behind an end, or a wrong token
        return few(generated)

    def few(generated: Sequence[int]) -> list[int]:
        choose = random.Random(f"{seed} {list(generated)}")
        return choose.sample(range(12), choose.choice((1, 2, 3, 6)))

    found: list[Decoded] = []
    for some in (False, True):
        reader = Scores(some)
        found.append(
            decode(
                reader, reader.row(1), max_new_tokens=LIMIT, ended=lambda out: out[-1] in ends, allowed=allowed,
                draft=Guesses(seed), chooser=Chooser(reader, ends),
            )
        )  # fmt: skip
        assert reader.chose == (found[-1].passes if some else 0)
        assert reader.ids[2:] == found[-1].ids[: len(found[-1].ids) - found[-1].unread]
    assert found[0] == found[1]


class Same:
    """Drafts the same tokens each time."""

    def __init__(self, *tokens: int) -> None:
        self._tokens = list(tokens)

    def propose(self, generated: Sequence[int], pending: int = 1) -> list[int]:
        return self._tokens

    def learn(self, proposed: int, accepted: int) -> None:
        pass


def test_a_reader_that_cannot_choose_costs_the_grammar_nothing() -> None:
    asked: list[list[tuple[int, ...]]] = []
    for chooses in (False, True):
        reader, heard = Scores(some=False), list[tuple[int, ...]]()

        def allowed(generated: Sequence[int], heard: list[tuple[int, ...]] = heard) -> list[int]:
            heard.append(tuple(generated))
            return list(range(12))

        chooser = Chooser(reader, ()) if chooses else None
        decode(
            reader, reader.row(1), max_new_tokens=LIMIT, ended=lambda out: False, allowed=allowed,
            draft=Same(3, 4, 5), chooser=chooser,
        )  # fmt: skip
        asked.append(heard)
    assert asked[0] == asked[1]


def test_a_grammar_may_allow_nothing_behind_a_text_that_stops_the_answer() -> None:
    found = []
    for some in (False, True):
        reader = Scores(some)
        found.append(
            decode(
                reader, reader.row(1), max_new_tokens=LIMIT, ended=lambda out: out[-2:] == [3, 4],
                allowed=lambda out: ([3, 3], [4, 4], [])[len(out)],
                draft=Same(4, 5), chooser=Chooser(reader, ()),
            )
        )  # fmt: skip
    assert found[0] == found[1] and found[0].ids == [3, 4]


def grammar(seed: int) -> Any:
    """A grammar of a few tokens at each place, sometimes of one, which lets an answer end after a while."""

    def allowed(generated: Sequence[int]) -> list[int]:
        choose = random.Random(f"{seed} {list(generated)[-3:]}")
        few = choose.sample(range(20, 200), choose.choice((1, 2, 4, 7)))
        return [*few, byte_level().eos_token_id] if len(generated) > 8 else few

    return allowed


def talk(session: ReplanSession, **options: Any) -> list[str]:
    messages, answers = start(), []
    for number in range(3):
        answers.append(session.generate(messages, max_new_tokens=14, allowed_tokens=grammar(number), **options).text)
        messages = messages + turn(answers[-1], number)
    return answers


def counting(session: ReplanSession) -> list[bool]:
    """Note of each choice of the session's engine whether it was made by a few rows."""
    noted: list[bool] = []
    engine: Any = session.engine
    chooses, choose = engine.chooses, engine.choose

    def asked(tokens: int) -> bool:
        if not chooses(tokens):
            noted.append(False)
            return False
        return True

    def noting(*args: Any) -> Any:
        found = choose(*args)
        noted.append(found is not None)
        return found

    engine.chooses, engine.choose = asked, noting
    return noted


def whole(session: ReplanSession) -> ReplanSession:
    """The session, its engine without the ability."""
    engine: Any = session.engine
    engine.supports = engine.supports - {"some logits"}
    return session


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sessions_answer_the_same(name: str) -> None:
    used, options = model(name), {"draft": True, "budget": 90}
    few = ReplanSession(used, byte_level(), **options)
    noted = counting(few)
    plain = whole(ReplanSession(used, byte_level(), **options))
    assert talk(few) == talk(plain) and few.token_ids == plain.token_ids
    assert noted and all(noted)


@pytest.mark.parametrize(
    "options",
    [{"decode_weights": "int8"}, {"exit": Exit(layer=5, threshold=0.0)}, {"evict_by": "attention", "budget": 90}],
)
def test_with_packed_weights_early_exit_and_attention_scores_too(options: dict[str, Any]) -> None:
    few = ReplanSession(model("qwen3"), byte_level(), draft=False, **options)
    noted = counting(few)
    plain = whole(ReplanSession(model("qwen3"), byte_level(), draft=False, **options))
    assert talk(few) == talk(plain) and few.token_ids == plain.token_ids and any(noted)


def test_it_steps_aside_where_logits_are_needed() -> None:
    session = ReplanSession(model(), byte_level(), draft=False)
    noted = counting(session)
    talk(session, temperature=1.0, seed=3)
    session.measures_loss = True
    talk(session)
    session.generate(start(), max_new_tokens=4)
    assert session.plan_loss is not None and not noted
    session.measures_loss = False
    session.generate(start(), max_new_tokens=4, allowed_tokens=lambda ids: range(200))  # too many to gain anything
    assert noted and not any(noted)
    noted.clear()
    hook = session.model.model.layers[2].register_forward_hook(lambda *args: None)  # somebody looks: the model reads
    try:
        session.generate(start(), max_new_tokens=4, allowed_tokens=grammar(3))
    finally:
        hook.remove()
    assert noted and not any(noted)


def test_in_a_pool_answers_are_those_of_single_sessions() -> None:
    def sessions() -> list[ReplanSession]:
        return [ReplanSession(model("qwen3"), byte_level(), draft=False) for _ in range(2)]

    asked = [{"max_new_tokens": 9, "allowed_tokens": grammar(number)} for number in range(2)]
    alone = [one.generate(start(), **options).text for one, options in zip(sessions(), asked, strict=True)]
    pool = ReplanPool(model("qwen3"), byte_level())
    together = pool.generate([(one, start(), options) for one, options in zip(sessions(), asked, strict=True)])
    assert [answer.text for answer in together] == alone
