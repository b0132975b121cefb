"""The policy of sessions on the tiny engine, without torch: random sequences of calls against an oracle of storage."""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.budget import Budget
from erecap.engines.protocol import EngineSettings
from erecap.engines.tiny import TinyEngine, TinyModel
from erecap.errors import BudgetError, ConfigError, RunError
from erecap.session import ReplanSession
from erecap.session.eviction import random_scores
from tests.session.characters import LETTERS, Characters, StorageOracle

CHARACTERS, MODEL = Characters(), TinyModel()
NEW = 6
SPAN = st.tuples(st.floats(0, 1), st.floats(0, 1))
CLAIMS = st.sampled_from([{}, {"protect": [(0, 9)]}, {"protect": []}, {"stale": [(2, 20)]},
                          {"protect": [(0, 4)], "stale": [(2, 12)]}])  # fmt: skip
STEPS = st.lists(
    st.one_of(
        CLAIMS.map(lambda claims: ("grow", claims)),
        CLAIMS.map(lambda claims: ("append", claims)),
        CLAIMS.map(lambda claims: ("own words", claims)),
        CLAIMS.map(lambda claims: ("read", claims)),
        st.sampled_from(["again", "rewrite", "fork", "save", "fail", "correct", "plan", "close"]).map(lambda s: (s,)),
        st.tuples(st.sampled_from(["evict", "splice", "forget"]), SPAN),
    ),
    min_size=2,
    max_size=12,
)


def chat() -> list[dict]:
    return [
        {"role": "system", "content": "you plan"},
        {"role": "user", "content": "cool the apple. you see a fridge.", "protect": [(0, 15)]},
    ]


def turn(answer: str, number: int, claims: dict) -> list[dict]:
    seen = " ".join(f"mug {number + n}" for n in range(3 + number % 9))
    return [{"role": "assistant", "content": answer}, {"role": "user", "content": f"shelf {number}: {seen}", **claims}]


def made(budget: int | None, **options) -> ReplanSession:  # type: ignore[no-untyped-def]
    return ReplanSession(MODEL, CHARACTERS, engine="tiny", budget=Budget(kv_tokens=budget), **options)


class Play:
    """A session and the oracle beside it."""

    def __init__(self, budget: int | None, evict_by: str, draft: bool) -> None:
        self.options = {"evict_by": evict_by, "draft": draft}
        self.session, self.oracle = made(budget, **self.options), StorageOracle(budget, evict_by)
        self.budget, self.messages, self.text = budget, chat(), ""
        self.taken: set[int] = set()  # of the head, by an edit of the test

    def generate(self, own: bool = False) -> None:
        before = self.session.engine.forwards
        ran = self.oracle.ran
        generation = self.session.generate(
            None if own else self.messages, max_new_tokens=NEW, allowed_tokens=lambda _: LETTERS
        )
        new = self.oracle.prompt(self.messages, header=True)
        assert generation.usage.new_tokens == new, "what was read before is not read again"
        self.text = generation.text
        self.oracle.answer(len(self.messages), self.text, len(self.session.conversation.pending))
        self.oracle.evict(self.messages)
        if not self.options["draft"]:
            assert self.session.engine.forwards - before == self.oracle.ran - ran

    def check(self, within: bool = True) -> None:
        session, oracle = self.session, self.oracle
        assert session.token_ids == [ord(letter) for letter, _, _ in oracle.read]
        stored = session.engine.stored()
        assert set(stored.indices.tolist()) == oracle.stored and stored.most == len(oracle.stored)
        assert session.engine.tokens == session.conversation.transcript.tokens == len(oracle.read)
        positions = session.engine.positions.tolist()
        assert positions == sorted(set(positions)) and (not positions or positions[-1] < session.engine.next_position)
        if within and self.budget is not None:
            assert stored.most <= self.budget
            head = {index for index in range(len(oracle.read)) if oracle.priority(index, self.messages) == 4}
            assert head & oracle.stored == head - self.taken

    def edit(self, step: str, span: tuple[float, float]) -> None:
        total = len(self.oracle.read)
        low, high = sorted(int(share * total) for share in span)
        getattr(self.session, step)((low, high))
        if step == "forget":
            self.oracle.forget(low, high)
            self.taken = {index for index in self.taken if index < low}
        else:
            self.oracle.stored -= set(range(low, high))
        self.taken = self.taken | (set(range(low, high)) - self.oracle.stored)


@given(
    steps=STEPS,
    budget=st.sampled_from([None, 48, 70, 110]),
    evict_by=st.sampled_from(["recency", "random"]),
    draft=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_a_session_stores_what_the_log_of_its_calls_says(steps: list, budget: int | None, evict_by: str, draft) -> None:  # type: ignore[no-untyped-def]
    play = Play(budget, evict_by, draft)
    play.generate()
    for number, (step, *rest) in enumerate(steps):
        within = True
        if step in ("grow", "own words"):
            play.messages += turn(play.text if step == "grow" else f"go {number}", number, rest[0])
            play.generate()
        elif step == "append":
            if not play.oracle.ends or play.oracle.ends[-1][0] != ("assistant", play.text):
                play.generate()  # there must be an answer to go on from
            play.messages += turn(play.text, number, rest[0])
            read = play.session.append(play.messages[-1:])
            assert read == play.oracle.prompt(play.messages, header=False)
            play.oracle.evict(play.messages)
            play.check()
            play.generate(own=True)
        elif step == "read":
            play.messages += turn(play.text, number, rest[0])
            assert play.session.read(play.messages) == play.oracle.prompt(play.messages, header=False)
            play.oracle.evict(play.messages)
        elif step == "again":
            play.generate()
        elif step == "rewrite":
            at = max(2, len(play.messages) // 2)
            play.messages = [*play.messages[:at], {"role": "user", "content": f"new {number}"}]
            play.generate()
        elif step == "plan":
            play.messages += turn(play.text, number, {})
            play.session.still_valid("go on", play.messages)
            play.oracle.prompt(play.messages, header=False)
            play.oracle.evict(play.messages)
        elif step == "fail":
            given = [*play.messages, *turn(play.text, number, {})]
            with pytest.raises(MemoryError):
                play.session.generate(given, max_new_tokens=NEW, allowed_tokens=failing)
            play.oracle.prompt(given, header=True)
            play.oracle.cut(len(given))
            within = False
        elif step == "correct":
            pending = "".join(map(chr, play.session.conversation.pending))
            play.session.correct(f"no mug {number}")
            play.oracle.correct(f"no mug {number}", pending)
            within = False
        elif step == "close":
            play.session.close()
            play.oracle = StorageOracle(budget, evict_by, ran=play.oracle.ran)
            play.taken = set()
            play.generate()
        elif step == "fork":
            before = copy.deepcopy(play.oracle)
            twin, other = play.session.fork(), play.session.fork()
            given = [*play.messages, *turn("go", number, {})]
            texts = {one.generate(given, max_new_tokens=NEW, allowed_tokens=lambda _: LETTERS).text
                     for one in (twin, other)}  # fmt: skip
            assert len(texts) == 1 and play.oracle == before
            within = False
        elif step == "save":
            with tempfile.TemporaryDirectory() as folder:
                play.session.save(Path(folder) / "session.safetensors")
                play.session = made(budget, **play.options)
                play.session.restore(Path(folder) / "session.safetensors")
            within = False
        else:
            play.edit(step, rest[0])
            within = False
        play.check(within)


def failing(ids: object) -> list[int]:
    raise MemoryError("planted")


def test_attention_ranks_by_the_weights_that_the_newest_token_of_the_prompt_gave() -> None:
    session = made(80, evict_by="attention")
    messages = chat()
    for number in range(6):
        evicted = session.evicted_tokens
        text = session.generate(messages, max_new_tokens=NEW, allowed_tokens=lambda _: LETTERS).text
        messages += turn(text, number, {"protect": []})
    assert session.evicted_tokens > evicted
    # An engine beside it that reads the same under no budget says what should have stayed of the last prompt.
    stored = session.engine.stored().indices
    scores = session.engine.scores(stored)
    assert scores is not None and len(set(scores.tolist())) > 20 and (scores[-NEW + 1 :] == 1).all()


def test_a_repositioned_session_outlives_the_window_of_its_model() -> None:
    session = ReplanSession(TinyModel(window=160), CHARACTERS, engine="tiny", budget=Budget(kv_tokens=80))
    messages = chat()
    for number in range(12):
        text = session.generate(messages, max_new_tokens=NEW, allowed_tokens=lambda _: LETTERS).text
        assert session.engine.positions.max() < 160
        messages += turn(text, number, {"protect": []})
    assert session.engine.tokens > 400 and session.engine.stored().most == 80


def test_what_is_evicted_changes_the_answer() -> None:
    texts = set()
    for span in ((0, 0), (20, 30), (30, 40)):
        session = made(None)
        session.read(chat())
        session.evict(span)
        texts.add(session.generate(chat(), max_new_tokens=24, allowed_tokens=lambda _: LETTERS).text)
    assert len(texts) == 3


def test_random_scores_are_those_of_the_scorer() -> None:
    import torch

    from erecap.protocols import ScoreContext
    from erecap.tokens.scoring.scorers import RandomScorer

    indices = np.arange(0, 9000, 7)
    row = torch.from_numpy(indices).unsqueeze(0)
    context = ScoreContext(row, row, torch.ones_like(row, dtype=torch.bool), 5, None)
    assert np.array_equal(random_scores(indices, 5), RandomScorer().score(0, row.unsqueeze(-1), context)[0].numpy())


def test_the_whole_way_needs_no_torch() -> None:
    code = """
import sys
from erecap import Budget
from erecap.engines.tiny import TinyModel
from erecap.session import ReplanSession
from tests.session.characters import LETTERS, Characters
session = ReplanSession(TinyModel(), Characters(), engine="tiny", budget=Budget(kv_tokens=60), evict_by="attention")
session.append([{"role": "user", "content": "cool the apple"}])
for number in range(4):
    session.generate(max_new_tokens=5, allowed_tokens=lambda ids: LETTERS)
    session.append([{"role": "user", "content": f"shelf {number}: nothing to be seen", "protect": []}])
assert session.evicted_tokens > 0
print(*sorted({"torch", "transformers"} & set(sys.modules)))
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_what_an_engine_or_session_refuses(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="engine: 'none' is not an engine; allowed: llamacpp, tiny, transformers"):
        ReplanSession(MODEL, CHARACTERS, engine="none")
    with pytest.raises(ValueError, match="packed weights"):
        made(None, decode_weights="int8")
    with pytest.raises(ValueError, match="unknown evict_by 'taste'; allowed: recency, random, attention"):
        made(None, evict_by="taste")
    engine = TinyEngine(MODEL, EngineSettings())
    session = ReplanSession(MODEL, CHARACTERS, engine=engine)
    assert session.engine is engine and session.config.engine is engine
    session.read(chat())
    with pytest.raises(ValueError, match="revive; read the text again"):
        session.revive()
    with pytest.raises(AttributeError, match="'tiny' has no PrunedCache"):
        _ = session.cache
    with pytest.raises(ValueError, match="a session needs one of its own"):
        ReplanSession(MODEL, CHARACTERS, engine=engine)
    with pytest.raises(BudgetError, match="kv_tokens=16"):
        made(16).read([*chat(), *turn("look", 1, {})])
    session.save(tmp_path / "a.safetensors")
    with pytest.raises(RunError, match="saved from model tiny-128-0, this one is tiny-128-1"):
        ReplanSession(TinyModel(seed=1), CHARACTERS, engine="tiny").restore(tmp_path / "a.safetensors")
