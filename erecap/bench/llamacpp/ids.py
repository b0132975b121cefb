"""Token ids for both sides of the comparison with llama.cpp, and the check that both sides are one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from erecap.bench.llamacpp.client import LlamaCpp
from erecap.context.tokenize import render_chat
from erecap.errors import RunError
from erecap.generation import JsonRow, Message


def token_ids(history: Sequence[Message], new: Message, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids that a session reads for `history`, and those that it reads for `new` and the header of the answer."""
    before = render_chat(history, tokenizer, add_generation_prompt=False)
    end = before.spans[-1][1]
    whole = render_chat([*history, new], tokenizer)
    if not whole.text.startswith(before.text[:end]):
        raise RunError("the chat template rewrites earlier messages, so there is no prefix to keep")
    first, rest = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (whole.text[:end], whole.text[end:])
    )
    return list(first), list(rest)


def compare(
    llama: LlamaCpp,
    model: Any,
    tokenizer: Any,
    history: Sequence[Message],
    prompt: list[int],
    ours: str,
    theirs: list[int],
    never: list[int],
) -> JsonRow:
    """Compare the choices of both sides along a plan, to show that they are one model.

    Args:
        prompt: ids that both read.
        ours: the answer of `erecap`.
        theirs: ids of llama.cpp's plain answer.
        never: ids that no answer holds.

    Returns:
        `same_tokenizer`: llama.cpp makes the same ids of the history's text; `agreeing` of `plan_tokens`: tokens of
        llama.cpp's plain answer that are the first choice of our unpruned model, teacher-forced; `same_start`:
        tokens that `erecap`'s answer, which saw only what it stores, has in common with it from the start.
    """
    text = render_chat(history, tokenizer).text
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    choices = first_choices(model, prompt, theirs, never)
    mine = tokenizer(ours, add_special_tokens=False)["input_ids"]
    same = [a == b for a, b in zip(mine, theirs, strict=False)]
    return {
        "same_tokenizer": llama.ask("tokenize", text=text)["ids"] == ids,
        "agreeing": sum(a == b for a, b in zip(choices, theirs, strict=True)),
        "plan_tokens": len(theirs),
        "same_start": same.index(False) if False in same else len(same),
    }


@torch.no_grad()
def first_choices(model: Any, prompt: list[int], plan: list[int], never: list[int]) -> list[int]:
    """The unpruned model's first choice at every token of `plan`."""
    ids = torch.tensor([[*prompt, *plan[:-1]]], device=model.device)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(plan)).logits[0].float()
    logits[:, never] = -torch.inf
    return logits.argmax(-1).tolist()
