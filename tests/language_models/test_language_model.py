"""`TransformersLanguageModel`: the modes `full` and `prune[scorer]` behind one protocol."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from erecap.context.tokenize import render_prompt
from erecap.errors import BudgetError
from erecap.language_models.scripted import ScriptedModel
from erecap.language_models.transformers import TransformersLanguageModel
from erecap.protocols import LanguageModel
from erecap.tokens import SCORER_NAMES, PruneConfig
from tests.context.small_tokenizers import byte_level
from tests.counting import CountedTokenizer

WINDOW = 512


@cache
def model() -> LlamaForCausalLM:
    tokenizer = byte_level()
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=WINDOW, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    made = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0)
    return made


def language_model(prune: PruneConfig | None = None, trace: bool = False) -> TransformersLanguageModel:
    return TransformersLanguageModel(model(), byte_level(), prune=prune, trace=trace)


def chat(turns: int = 3) -> list:
    messages = [{"role": "system", "content": "Plan."}, {"role": "user", "content": "Goal: cool the apple 1."}]
    for turn in range(turns):
        messages += [
            {"role": "assistant", "content": f"go to shelf {turn}"},
            {"role": "user", "content": f"On the shelf {turn} you see a mug {turn}."},
        ]
    return messages


def test_it_is_a_language_model() -> None:
    assert isinstance(language_model(), LanguageModel)


def test_full_is_the_unmodified_model() -> None:
    ids = torch.tensor([render_prompt(chat(), byte_level()).input_ids])
    expected = model().generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    generation = language_model().generate(chat(), max_new_tokens=12)
    assert generation.text == byte_level().decode(expected[0, ids.shape[1] :], skip_special_tokens=True)
    usage, timing = generation.usage, generation.timing
    assert usage.prompt_tokens == usage.new_tokens == ids.shape[1] and usage.kept_tokens == ids.shape[1]
    assert usage.kv_bytes == 8 * 2 * 2 * 8 * 4 * (ids.shape[1] + usage.completion_tokens - 1)
    assert timing.total_ms >= timing.prefill_ms + timing.decode_ms and timing.prune_ms == 0


@pytest.mark.parametrize("prune", [None, PruneConfig("recency", 0.5, (1, 3))], ids=["full", "pruned"])
def test_the_answer_is_told_as_it_grows(prune: PruneConfig | None) -> None:
    told: list[str] = []
    generation = language_model(prune).generate(chat(), max_new_tokens=12, on_text=told.append)
    assert len(told) == 12 and all(later.startswith(earlier) for earlier, later in pairwise(told))
    assert generation.text.startswith(told[-1]) and len(set(told)) > 3
    assert generation.text == language_model(prune).generate(chat(), max_new_tokens=12).text


def test_a_script_is_told_as_it_grows() -> None:
    told: list[str] = []
    ScriptedModel(["go to shelf 1\nlook"]).generate(chat(), max_new_tokens=9, stop=["\nl"], on_text=told.append)
    assert len(told) == 4 and told[0] == "go" and told[-1].strip() == "go to shelf 1"


@pytest.mark.parametrize("scorer", SCORER_NAMES)
def test_keep_one_answers_as_full_and_less_keeps_what_is_protected(scorer: str) -> None:
    full = language_model().generate(chat(), max_new_tokens=12)
    whole = language_model(PruneConfig(scorer, keep=1.0)).generate(chat(), max_new_tokens=12)
    assert whole.text == full.text and whole.usage.kept_per_layer == full.usage.kept_per_layer
    pruned = language_model(PruneConfig(scorer, 0.5, (1, 3, 5)), trace=True).generate(chat(8), max_new_tokens=4)
    lengths = pruned.usage.kept_per_layer
    assert lengths[0] == pruned.usage.prompt_tokens and lengths[0] > lengths[1] > lengths[3] > lengths[5] == lengths[7]
    assert pruned.timing.prune_ms > 0
    kept = {message: [] for message in range(-1, 18)}
    for piece in pruned.pieces:
        kept[piece.message].append(piece.kept)
    for protected in (0, 1, 17):  # system, first user message, newest message
        assert set(kept[protected]) == {1.0}, protected
    assert any(share < 1 for message in range(2, 17) for share in kept[message])
    prompt = render_prompt(chat(8), byte_level())
    assert "".join(piece.text for piece in pruned.pieces) == prompt.text


def test_protect_spans_of_a_message_decide() -> None:
    messages = chat(8)
    messages[1]["protect"] = []
    messages[4] = {**messages[4], "protect": [(0, len(messages[4]["content"]))]}
    pruned = language_model(PruneConfig("recency", 0.3, (1, 2, 3, 4, 5)), trace=True).generate(
        messages, max_new_tokens=1
    )
    shares = {index: [p.kept for p in pruned.pieces if p.message == index] for index in (1, 4)}
    assert set(shares[4]) == {1.0} and min(shares[1]) < 0.5


def test_stop_text_ends_the_answer_and_is_not_part_of_it() -> None:
    whole = language_model().generate(chat(), max_new_tokens=20)
    stop = whole.text[3:5]
    cut = language_model().generate(chat(), max_new_tokens=20, stop=[stop, "never"])
    assert cut.text == whole.text[: whole.text.find(stop)] and cut.finish_reason == "stop"
    assert cut.usage.completion_tokens < whole.usage.completion_tokens


def test_length_cancel_and_deadline() -> None:
    assert language_model().generate(chat(), max_new_tokens=3).finish_reason == "length"
    calls = []
    cancelled = language_model().generate(chat(), max_new_tokens=50, cancel=lambda: len(calls) > 2 or calls.append(1))
    assert cancelled.finish_reason == "cancelled" and cancelled.usage.completion_tokens == 4
    late = language_model().generate(chat(), max_new_tokens=50, deadline_ms=0.001)
    assert late.finish_reason == "deadline" and late.usage.completion_tokens == 1


def test_allowed_tokens_are_obeyed() -> None:
    tokenizer = byte_level()
    wanted = tokenizer("open cabinet 3", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    generation = language_model(PruneConfig("attention", 0.5, (2,))).generate(
        chat(), max_new_tokens=40, allowed_tokens=lambda ids: [wanted[len(ids)]]
    )
    assert generation.text == "open cabinet 3" and generation.finish_reason == "stop"


def test_sampling_is_reproducible_from_its_seed_and_leaves_torch_alone() -> None:
    def sample(seed: int) -> str:
        return language_model().generate(chat(), max_new_tokens=16, temperature=1.5, top_p=0.95, seed=seed).text

    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(6)}) > 1
    assert torch.equal(torch.rand(1), expected)


def test_a_long_history_loses_its_oldest_messages() -> None:
    generation = language_model(trace=True).generate(chat(60), max_new_tokens=8)
    usage = generation.usage
    # What is shown keeps its number in the chat as it was given.
    assert max(piece.message for piece in generation.pieces) == len(chat(60)) - 1
    assert {piece.message for piece in generation.pieces} >= {0, 1} and usage.overflow_messages % 2 == 0
    assert usage.overflow_messages > 0 and usage.truncated_tokens == 0
    assert WINDOW * 0.8 < usage.prompt_tokens <= WINDOW - 8


def test_an_observation_beyond_the_window_is_trimmed_in_the_middle() -> None:
    messages = [*chat(1), {"role": "assistant", "content": "look"}]
    messages.append({"role": "user", "content": "first " + "mug 1, " * 20_000 + " last"})
    tokenizer = CountedTokenizer(byte_level())
    pruning = PruneConfig("recency", 0.7, (3,))
    pruned = TransformersLanguageModel(model(), tokenizer, prune=pruning, trace=True)
    generation = pruned.generate(messages, max_new_tokens=4)
    assert generation.usage.truncated_tokens > 20_000 and generation.usage.prompt_tokens <= WINDOW - 4
    text = "".join(piece.text for piece in generation.pieces)
    assert "Goal: cool the apple 1." in text and "first mug" in text and " last" in text and "[...]" in text
    # The cut is found by halving, not token by token: the chat is tokenised a few times.
    assert tokenizer.characters < 20 * sum(len(message["content"]) for message in messages)


def test_a_goal_beyond_the_window_is_an_error() -> None:
    messages = [{"role": "system", "content": "rule " * 2000}, {"role": "user", "content": "Goal."}]
    with pytest.raises(BudgetError, match="system and goal alone"):
        language_model().generate(messages, max_new_tokens=4)


@pytest.mark.parametrize("tokens", [0, WINDOW, -3])
def test_room_for_the_answer(tokens: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to {WINDOW - 1}"):
        language_model().generate(chat(), max_new_tokens=tokens)


def test_unicode() -> None:
    messages = chat(1)
    messages[-1]["content"] = "Du siehst eine Tasse \u2615 \U0001f916 \u6f22\u5b57 e\u0301 \u200d\n\n\tEnde"
    generation = language_model(PruneConfig("attention", 0.7, (3,)), trace=True).generate(messages, max_new_tokens=4)
    assert messages[-1]["content"] in "".join(piece.text for piece in generation.pieces)


def test_pruning_that_does_not_fit_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="layers 0 to 7"):
        language_model(PruneConfig(stages=(30,)))
