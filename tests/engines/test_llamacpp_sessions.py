"""Sessions on llama.cpp: answers, drafts, budgets, files and pools are what they are on other engines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import erecap
from erecap.engines import ENGINES
from erecap.engines.protocol import EngineSettings
from erecap.errors import RunError
from tests.context.small_tokenizers import byte_level, metaspace
from tests.engines.llamacpp_models import NEEDS_LLAMACPP, gguf_of_small_llama, small_llama
from tests.session.chats import model, start, turn

pytestmark = NEEDS_LLAMACPP
ROOT = Path(__file__).parents[2]


def made(**options: Any) -> erecap.ReplanSession:
    return erecap.ReplanSession(small_llama(), byte_level(), engine="llamacpp", **options)


def played(session: Any, turns: int, **options: Any) -> list[str]:
    chat, answers = start(), []
    for number in range(turns):
        answers.append(session.generate(chat, max_new_tokens=6, **options).text)
        chat += turn(answers[-1], number)
    return answers


def test_unpruned_answers_equal_its_own_rereading_over_30_turns() -> None:
    session, chat = made(retokenize=True), start()
    for number in range(30):
        text = session.generate(chat, max_new_tokens=6).text
        again = made(draft=False)
        assert again.generate(chat, max_new_tokens=6).text == text, number
        assert again.token_ids == session.token_ids
        chat += turn(text, number)
    assert session.evicted_tokens == 0 and session.engine.tokens > 1000


@pytest.mark.parametrize("options", [{}, {"budget": 96}, {"budget": 96, "evict_by": "random"}, {"budget": "auto"}])
def test_answers_are_those_of_the_engine_on_transformers(options: dict) -> None:
    other = erecap.ReplanSession(model(), byte_level(), **options)
    mine = made(**options)
    assert played(mine, 8) == played(other, 8)
    assert mine.token_ids == other.token_ids and mine.evicted_tokens == other.evicted_tokens
    assert mine.engine.stored().indices.tolist() == other.engine.stored().indices.tolist()
    if options.get("budget") == 96:
        assert mine.evicted_tokens > 100 and mine.engine.stored().most <= 96
        mine.splice((40, 60)), other.splice((40, 60))
        mine.correct("The mug is gone."), other.correct("The mug is gone.")
        assert played(mine, 9)[-1] == played(other, 9)[-1]


def test_drafts_constraints_and_seeds() -> None:
    plain, drafted = made(draft=False, budget=128), made(draft="lookup", budget=128)
    assert played(plain, 6) == played(drafted, 6)
    some = list(range(30, 60))
    options = {"allowed_tokens": lambda ids: some, "temperature": 0.7, "seed": 3}
    assert played(plain, 8, **options)[-1] == played(drafted, 8, **options)[-1]


def test_by_default_nothing_is_drafted_where_passes_of_several_tokens_do_not_pay() -> None:
    repeated = [{"role": "user", "content": "abcabcabc" * 8}]
    drafted = [made(draft=way).generate(repeated, max_new_tokens=24).usage.drafted_tokens for way in (True, "lookup")]
    assert drafted[0] == 0 < drafted[1]


def test_a_session_goes_on_from_its_file(tmp_path: Path) -> None:
    session, other = made(budget=96), made(budget=96)
    played(session, 6)
    session.save(tmp_path / "a.safetensors")
    other.restore(tmp_path / "a.safetensors")
    assert other.evicted_tokens == session.evicted_tokens > 0
    assert played(other, 7)[-1] == played(session, 7)[-1]
    with pytest.raises(RunError, match="saved by another engine"):
        erecap.ReplanSession(model(), byte_level()).restore(tmp_path / "a.safetensors")


def test_episodes_longer_than_the_window_are_repositioned() -> None:
    mine = erecap.ReplanSession(small_llama(window=300), byte_level(), engine="llamacpp", budget=96)
    other = erecap.ReplanSession(model(window=300), byte_level(), budget=96)
    assert played(mine, 16) == played(other, 16)
    assert mine.engine.tokens > 600 and mine.engine.next_position == other.engine.next_position <= 300


def test_pools_let_sessions_take_turns() -> None:
    pool = erecap.ReplanPool(small_llama(), byte_level())
    agents = [pool.session(engine="llamacpp", budget=96) for _ in range(3)]
    alone = [made(budget=96) for _ in range(3)]
    for number in range(4):
        calls = [
            (agent, start() + turn("go", number + shift), {"max_new_tokens": 5}) for shift, agent in enumerate(agents)
        ]
        answers = [generation.text for generation in pool.generate(calls)]
        assert answers == [one.generate(call[1], max_new_tokens=5).text for one, call in zip(alone, calls, strict=True)]


def test_the_whole_way_needs_neither_torch_nor_transformers() -> None:
    code = f"""
import sys
from erecap import Budget
from erecap.engines.llamacpp.model import LlamaCppModel
from erecap.session import ReplanSession
model = LlamaCppModel.open({str(gguf_of_small_llama())!r})
session = ReplanSession(model, model.tokenizer, engine="llamacpp", budget=Budget(kv_tokens=60))
session.append([{{"role": "user", "content": "cool the apple"}}])
for number in range(5):
    session.generate(max_new_tokens=5)
    session.append([{{"role": "user", "content": f"shelf {{number}}: nothing to be seen", "protect": []}}])
assert session.evicted_tokens > 0
session.fork().generate(max_new_tokens=4)
print(*sorted({{"torch", "transformers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_a_tokenizer_of_another_model_is_refused_when_the_session_is_made() -> None:
    pool, engine = erecap.ReplanPool(small_llama(), metaspace()), ENGINES["llamacpp"](small_llama(), EngineSettings())
    for make in (
        lambda: erecap.ReplanSession(small_llama(), metaspace(), engine="llamacpp"),
        lambda: erecap.ReplanSession(small_llama(), metaspace(), engine=engine),
        lambda: pool.session(engine="llamacpp"),
    ):
        with pytest.raises(ValueError, match=r"the tokenizer .*is of another model: in 'Go to fridge 12"):
            make()


TEXTS = [
    "Go to fridge 12.\n\n  don't; Straße, été, 冷蔵庫 🤖\t{\"a\": [1.5e-3]}", "", " ", "a",
    "<|im_start|>user\nx<|im_end|>\n<|endoftext|> <|im_start|>", "x\u0301y  \r\n\t", "👩‍👩‍👧 family",
]  # fmt: skip


def test_the_tokenizer_of_the_file_is_that_of_transformers() -> None:
    mine, other = small_llama().tokenizer, byte_level()
    for text in TEXTS:
        a = mine(text, add_special_tokens=False, return_offsets_mapping=True)
        b = other(text, add_special_tokens=False, return_offsets_mapping=True)
        assert a["input_ids"] == b["input_ids"] and a["offset_mapping"] == [tuple(span) for span in b["offset_mapping"]]
        for skip in (True, False):
            assert mine.decode(a["input_ids"], skip) == other.decode(a["input_ids"], skip_special_tokens=skip)
    assert mine(TEXTS, add_special_tokens=False)["input_ids"] == [
        mine(t, add_special_tokens=False)["input_ids"] for t in TEXTS
    ]
    for header in (True, False):
        written = mine.apply_chat_template(start(), add_generation_prompt=header)
        assert written == other.apply_chat_template(start(), tokenize=False, add_generation_prompt=header)
    assert (mine.eos_token, len(mine)) == (other.eos_token, len(other))
    assert {n: t.content for n, t in mine.added_tokens_decoder.items()} == {
        n: t.content for n, t in other.added_tokens_decoder.items()
    }
    chat = start()
    own = erecap.ReplanSession(small_llama(), mine, engine="llamacpp")
    assert own.generate(chat, max_new_tokens=5).text == made().generate(chat, max_new_tokens=5).text
    assert np.isfinite(own.engine.verify([5])).all()
