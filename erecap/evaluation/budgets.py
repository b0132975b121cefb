"""Verification that budgets are exact: what each layer stores, counted after every call, against what it should be.

Comparisons at equal budgets mean something only if the budgets are equal. So the counts are taken from the caches
themselves, for every ranking at the same budget, and for every scorer at the same keep ratio.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from erecap.budget import Budget
from erecap.generation import Message
from erecap.models.cache_argument import CACHE
from erecap.models.checking import Check
from erecap.session.session import ReplanSession
from erecap.tokens import SCORER_NAMES, PruneConfig, prune
from erecap.tuning.counts import Counts
from erecap.tuning.samples import Sample

RANKINGS = ("recency", "random", "attention")
BUDGETS = (128, 256)
KEEPS = (0.9, 0.7, 0.5)
TURNS = 6
PROMPT = 400  # tokens of a pruned prefill


def check_budgets(model: Any, tokenizer: Any) -> Iterator[Check]:
    """A check for each budget and ranking, and for each keep ratio and scorer that needs no training."""
    for budget in BUDGETS:
        for ranking in RANKINGS:
            yield _session_check(model, tokenizer, budget, ranking)
    ids = _prompt(tokenizer)
    for keep in KEEPS:
        for scorer in SCORER_NAMES:
            yield _prefill_check(model, ids, keep, scorer)


def stored_after_calls(model: Any, tokenizer: Any, budget: int, ranking: str) -> list[tuple[int, tuple[int, ...]]]:
    """After each call of a growing chat: tokens read so far, and tokens that each layer stores."""
    session = ReplanSession(model, tokenizer, budget=Budget(kv_tokens=budget), evict_by=ranking, draft=False)
    chat: list[Message] = [{"role": "user", "content": "Goal: put a mug in desk 1."}]
    found = []
    for turn in range(TURNS):
        chat.append({"role": "assistant", "content": session.generate(chat, max_new_tokens=4).text})
        found.append((len(session.token_ids), tuple(int(count) for count in session.cache.kept_lengths())))
        chat.append({"role": "user", "content": f"On the shelf {turn}, you see a book {turn}, and nothing else. " * 4})
    return found


def kept_by_layer(model: Any, ids: Sequence[int], keep: float, scorer: str) -> tuple[int, ...]:
    """Tokens of `ids` whose keys each layer stores after a pruned prefill."""
    config = PruneConfig(scorer=scorer, keep=keep)
    inputs = torch.tensor([list(ids)], device=model.device)
    with torch.no_grad(), prune(model, config) as cache:
        model(input_ids=inputs, **{CACHE: cache}, use_cache=True, logits_to_keep=1)
    return tuple(int(count) for count in cache.prompt_kept)


def _session_check(model: Any, tokenizer: Any, budget: int, ranking: str) -> Check:
    found = stored_after_calls(model, tokenizer, budget, ranking)
    wrong = [(read, kept) for read, kept in found if set(kept) != {min(read, budget)}]
    name, (read, kept) = f"budget {budget} by {ranking}", (wrong or found)[-1]
    if wrong:
        return Check(name, False, f"{min(kept)} to {max(kept)} stored of {read:,} read, {min(read, budget)} wanted")
    return Check(name, True, f"{kept[0]:,} of {read:,} read, in each of {len(kept)} layers; {len(found)} calls")


def _prefill_check(model: Any, ids: Sequence[int], keep: float, scorer: str) -> Check:
    kept = kept_by_layer(model, ids, keep, scorer)
    config = PruneConfig(scorer=scorer, keep=keep)
    count = Counts([Sample(tuple(ids), (), ())], len(kept), config)
    [wanted] = count(config.resolve_stages(len(kept)))
    name = f"keep {keep:g} by {scorer}"
    if kept != wanted:
        layer = next(number for number, (one, other) in enumerate(zip(kept, wanted, strict=True)) if one != other)
        return Check(name, False, f"layer {layer} stores {kept[layer]} of {len(ids)} tokens, {wanted[layer]} wanted")
    return Check(name, True, f"{kept[0]:,} to {kept[-1]:,} of {len(ids):,} tokens by layer, as counted beforehand")


def _prompt(tokenizer: Any) -> list[int]:
    text = " ".join(f"On the shelf {number}, you see a book {number}." for number in range(PROMPT))
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids[:PROMPT]
