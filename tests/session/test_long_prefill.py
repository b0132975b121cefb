"""Long texts: chunks of a prefill, with pruning and eviction between them, keep memory flat."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from erecap.budget import Budget
from erecap.errors import BudgetError
from erecap.session import ReplanSession
from erecap.tokens import PruneConfig
from tests.context.small_tokenizers import byte_level
from tests.session.live_bytes import LiveBytes

BUDGET, CHUNK, WINDOW = 256, 160, 1024
PRUNE = PruneConfig("recency", 0.7, (1, 3))


def small(window: int = WINDOW) -> Any:
    """A model of four layers whose window is `window`."""
    tokenizer = byte_level()
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2,
        max_position_embeddings=window, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    made = LlamaForCausalLM(config).eval()
    made.generation_config.eos_token_id = tokenizer.eos_token_id
    return made


def chat(tokens: int) -> list[dict]:
    """One chat of at least that many tokens, in few messages."""
    line = "> go to shelf 17\nOn the shelf 17 you see a mug 3, a knife and an apple 42.\n"
    goal = {"role": "user", "content": "Goal: cool the apple 1."}
    each = len(byte_level()(line, add_special_tokens=False)["input_ids"])
    count = tokens // each + 1
    history = [{"role": "user", "content": line * (count // 4 + 1)} for _ in range(4)]
    return [{"role": "system", "content": "You plan."}, goal, *history]


def read(tokens: int, window: int, **options: Any) -> tuple[ReplanSession, int, int]:
    """A session that has read so many tokens in one call; the most tokens that a layer stored, and bytes alive."""
    session = ReplanSession(small(window), byte_level(), prefill_chunk=CHUNK, **options)
    session.generate([{"role": "user", "content": "hi"}], max_new_tokens=1)
    session.reset()
    most, forward = 0, session.engine.forward  # type: ignore[attr-defined]

    def noted(*given: Any, **more: Any) -> torch.Tensor:
        nonlocal most
        rows: torch.Tensor = forward(*given, **more)
        most = max(most, *session.cache.kept_lengths())
        return rows

    session.engine.forward = noted  # type: ignore[attr-defined]
    with LiveBytes() as live:
        answer = session.generate(chat(tokens), max_new_tokens=4)
    assert answer.usage.prompt_tokens >= tokens and answer.usage.dropped_messages == 0
    return session, most, live.peak


@pytest.mark.parametrize(
    ("prune", "window"),
    [(None, WINDOW), (PRUNE, WINDOW), *(pytest.param(prune, 4096, marks=pytest.mark.slow) for prune in (None, PRUNE))],
)
def test_a_text_of_eight_windows_takes_the_memory_of_one(prune: PruneConfig | None, window: int) -> None:
    options = {"budget": Budget(kv_tokens=BUDGET), "prune": prune}
    short, long = (read(tokens, window, **options) for tokens in (window, 8 * window))
    for session, most, _ in (short, long):
        assert most <= BUDGET + CHUNK and session.engine.stored().most <= BUDGET
        assert session.engine.next_position <= window  # repositioned where it would have passed the window
    assert long[0].engine.tokens > 8 * window and long[1] == short[1]
    assert long[2] <= 1.1 * short[2]  # 1.0 up to lists of token ids that are tensors for a moment


def test_without_a_budget_memory_grows_with_the_text() -> None:
    (_, few, small_bytes), (_, many, large_bytes) = (read(tokens, 16384) for tokens in (1024, 4096))
    assert many > 4096 > few and large_bytes > 2 * small_bytes  # the count above does see what is stored


def test_a_window_that_is_too_short_is_refused_where_nothing_may_be_evicted() -> None:
    session = ReplanSession(small(), byte_level(), prefill_chunk=CHUNK)
    with pytest.raises(BudgetError, match="exceed the model's window of 1024; shorten them"):
        session.read(chat(2 * WINDOW))
    assert session.engine.tokens <= WINDOW  # messages that were read to their end stay
    cut = session.generate(chat(2 * WINDOW), max_new_tokens=4)
    assert cut.usage.overflow_messages + cut.usage.truncated_tokens and cut.usage.prompt_tokens <= WINDOW
    assert "text was left out" in (cut.dropped_because or "")


def test_an_automatic_budget_fills_the_window_and_goes_past_it() -> None:
    session, most, _ = read(3 * WINDOW, WINDOW, budget="auto")
    assert BUDGET < most <= WINDOW and session.engine.tokens > 3 * WINDOW
