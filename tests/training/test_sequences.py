"""Transcripts as token sequences: every prompt is a prefix, and branches answer as if they were read alone."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from erecap.context.tokenize import render_prompt
from erecap.decoding.stopping import answer_ends
from erecap.errors import ModelError
from erecap.training import sequences
from erecap.training.sequences import PlanSequence, plan_logits, plan_sequence
from tests.context import small_tokenizers
from tests.session import chats
from tests.tokens import models


@dataclass(frozen=True)
class Target:
    message: int
    plan: str


PLANS = ["open cabinet 3\ntake apple 1 from cabinet 3", "go to shelf 4", "go to fridge 1\nopen fridge 1"]


def transcript(played: list[str] | None = None, last_user: bool = True) -> list[dict[str, Any]]:
    """A chat with one answer per plan; a message of the world after the last one if asked for."""
    messages = chats.start()
    for number, plan in enumerate(played or PLANS):
        messages += chats.turn(plan, number)
    return messages if last_user else messages[:-1]


def targets(plans: list[str] | None = None) -> list[Target]:
    return [Target(2 + 2 * n, plan) for n, plan in enumerate(plans or PLANS)]


def sequence(
    messages: list[dict[str, Any]], wanted: list[Target], tokenizer: Any = None, ends: Any = None, most: int = 4096
) -> PlanSequence:
    tokenizer = tokenizer or small_tokenizers.byte_level()
    made = plan_sequence("t", messages, wanted, tokenizer, ends or {tokenizer.eos_token_id}, most)  # type: ignore[arg-type]
    assert made is not None
    return made


@pytest.mark.parametrize("writer", small_tokenizers.WRITERS)
def test_every_prompt_is_a_prefix_and_labels_are_the_plan_with_its_end(writer: str) -> None:
    tokenizer = small_tokenizers.WRITERS[writer]()
    ends = {tokenizer.eos_token_id}
    if writer == "metaspace":
        ends.add(tokenizer.convert_tokens_to_ids("<|im_end|>"))
    messages = transcript()
    made = sequence(messages, targets(), tokenizer, ends)
    assert made.cut == 0 and not made.branches
    for call, target in enumerate(targets()):
        prompt = render_prompt(messages[: target.message], tokenizer).input_ids
        rows, labels = made.rows[made.calls == call], made.labels[made.calls == call]
        assert made.ids[: len(prompt)].tolist() == prompt
        assert rows.tolist() == list(range(len(prompt) - 1, len(prompt) - 1 + len(labels)))
        assert int(labels[-1]) in ends and tokenizer.decode(labels[:-1]).strip() == target.plan
        read = made.ids[rows[1:]]
        assert read.tolist() == labels[:-1].tolist()


def test_the_sequence_ends_with_the_last_label() -> None:
    made = sequence(transcript(), targets())
    assert made.rows[-1] == len(made.ids) - 1
    assert made.ids.tolist() == sequence(transcript(last_user=False), targets()).ids.tolist()


@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_branches_answer_as_if_read_alone(name: str) -> None:
    model, tokenizer = chats.model(name), small_tokenizers.byte_level()
    messages = transcript(["look", PLANS[1], "go to drawer 10"])
    mixed = sequence(messages, targets())
    assert [branch.prompt < branch.start for branch in mixed.branches] == [True, True]
    with torch.no_grad():
        together = plan_logits(model, mixed)
        for call, target in enumerate(targets()):
            prompt = render_prompt(messages[: target.message], tokenizer).input_ids
            labels = mixed.labels[mixed.calls == call]
            alone = model(torch.tensor([prompt + labels[:-1].tolist()])).logits[0, len(prompt) - 1 :]
            torch.testing.assert_close(together[mixed.calls == call], alone, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_in_two_parts_attention_is_the_same_forwards_and_backwards(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = deepcopy(chats.model(name)).requires_grad_(True)  # others may have frozen the shared one
    made = sequence(transcript(["look", PLANS[1], "go to drawer 10"]), targets())
    parts = []

    def read() -> tuple[torch.Tensor, list[torch.Tensor]]:
        logits = plan_logits(model, made)
        loss = torch.nn.functional.cross_entropy(logits, made.labels)
        return logits.detach(), list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))

    real = sequences.split_attention
    monkeypatch.setattr(sequences, "split_attention", lambda *given: parts.append(given) or real(*given))
    split = read()
    assert len(parts) == 1 and model.config._attn_implementation == "sdpa"
    monkeypatch.setattr(sequences, "split_attention", lambda *given: nullcontext())
    whole = read()
    torch.testing.assert_close(split[0], whole[0], atol=1e-5, rtol=1e-4)
    for one, other in zip(split[1], whole[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_branches_do_not_see_each_other_nor_what_was_played() -> None:
    made = sequence(transcript(["look", "look", PLANS[2]]), targets())
    first, second = made.branches
    sees = made.visible(None)[0, 0]
    assert sees[second.start, : second.prompt].all() and not sees[second.start, second.prompt : second.start].any()
    assert not sees[: made.transcript, made.transcript :].any()
    assert not sees[second.start : second.end, first.start : first.end].any()
    assert made.positions()[first.start] == first.prompt


def test_a_branch_at_the_end_needs_no_more_than_its_prompt() -> None:
    made = sequence(transcript([*PLANS[:2], "look"]), targets())
    assert made.transcript == made.branches[0].prompt


def test_long_transcripts_are_cut_at_the_end_of_a_plan() -> None:
    whole = sequence(transcript(), targets())
    last_of_second = int(whole.rows[whole.calls == 1][-1]) + 1
    for most, calls in ((len(whole.ids), 3), (len(whole.ids) - 1, 2), (last_of_second, 2), (last_of_second - 1, 1)):
        made = sequence(transcript(), targets(), most=most)
        assert len(made.ids) <= most and int(made.calls.max()) + 1 == calls and made.cut == 3 - calls
        assert made.ids.tolist() == whole.ids[: len(made.ids)].tolist()
    tokenizer = small_tokenizers.byte_level()
    assert plan_sequence("t", transcript(), targets(), tokenizer, {tokenizer.eos_token_id}, 20) is None  # type: ignore[arg-type]


def test_branch_tokens_count() -> None:
    messages = transcript(["look", "look", "look"])
    whole = sequence(messages, targets())
    made = sequence(messages, targets(), most=len(whole.ids) - 1)
    assert made.cut == 1 and len(made.ids) < len(whole.ids)


def test_a_template_that_rewrites_the_past_is_refused() -> None:
    tokenizer = small_tokenizers.llama_like(small_tokenizers.MOVING)
    with pytest.raises(ModelError, match="t: the chat template rewrites what stands before message 2"):
        sequence(transcript(), targets(), tokenizer)


def test_an_answer_that_nothing_ends_is_refused() -> None:
    tokenizer = small_tokenizers.metaspace()  # its turns end with another token than its text
    with pytest.raises(ModelError, match="closes an answer with no token that ends generation"):
        sequence(transcript(), targets(), tokenizer)


def test_eager_attention_cannot_express_branches() -> None:
    made = sequence(transcript(["look", PLANS[1], PLANS[2]]), targets())
    with pytest.raises(ValueError, match="sdpa"):
        plan_logits(models.tiny("llama", "eager"), made)


def test_answer_ends_of_the_tiny_model_close_its_turns() -> None:
    model = chats.model()
    ends = answer_ends(model, small_tokenizers.byte_level())
    assert int(sequence(transcript(), targets(), ends=ends).labels[-1]) in ends
