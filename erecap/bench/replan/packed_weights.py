"""Cost of packed decode weights: agreement and loss on plans of household text, teacher-forced."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from erecap.bench.replan.history import wander
from erecap.context.tokenize import render_prompt
from erecap.decoding.short import short_reads
from erecap.errors import ConfigError
from erecap.generation import JsonRow
from erecap.models.cache_argument import CACHE
from erecap.tokens import PruneConfig, attach
from erecap.tokens.cache.pruned_cache import PrunedCache

QUALITY_TOKENS = 3000  # of household text; about an eighth of them are plans
CHUNK = 8  # tokens read at once, as a verified draft would be


def weight_loss(model: Any, tokenizer: Any, weights: str, *, tokens: int, seed: int = 0) -> JsonRow:
    """Measure how `weights` in short reads change the model's predictions of plan tokens, against float32.

    The text is a chat of `tokens` tokens in which the agent's plans name the commands that it then executes. Everything
    between the plans is read with the model's own weights, as a session does; each plan is read in chunks
    of 8 with `weights`, and once more in float32.

    Returns:
        `agreement` (share of plan tokens with the same most probable token), `loss` and `reference_loss` (mean
        nats a token), `difference`, `n` (plan tokens), `weights`, `dtype` (of the model).

    Raises:
        ConfigError: the model's architecture is read only by the model itself, so that nothing can be compared.
    """

    def count(messages: Sequence[Any]) -> int:
        return len(render_prompt(messages, tokenizer).input_ids)

    messages = wander(tokens, count, seed=seed)
    prompt = render_prompt(messages, tokenizer, add_generation_prompt=False)
    plans = [
        prompt.token_span(number, 0, len(messages[number]["content"])) for number in range(2, len(messages), 2)
    ]  # system, first observation, plan, observation, plan, ...
    reference = model if model.dtype == torch.float32 else copy.deepcopy(model).float()
    same = total = 0
    losses = [0.0, 0.0]
    ours, theirs = _logits(model, weights, prompt.input_ids, plans), _logits(reference, "same", prompt.input_ids, plans)
    for (start, end), one, other in zip(plans, ours, theirs, strict=True):
        wanted = torch.tensor(prompt.input_ids[start:end], device=one.device)
        same += int((one.argmax(-1) == other.argmax(-1)).sum())
        for side, logits in enumerate((one, other)):
            losses[side] += float(torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="sum"))
        total += len(wanted)
    loss, reference_loss = losses[0] / total, losses[1] / total
    return {
        "weights": weights,
        "dtype": str(model.dtype).removeprefix("torch."),
        "agreement": same / total,
        "loss": loss,
        "reference_loss": reference_loss,
        "difference": loss - reference_loss,
        "n": total,
    }


def _logits(model: Any, weights: str, ids: Sequence[int], plans: Sequence[tuple[int, int]]) -> Iterator[torch.Tensor]:
    """For each plan `(start, end)`, logits `(end - start, vocab)` that predict its tokens."""
    config = model.config.get_text_config(decoder=True)
    cache = PrunedCache(PruneConfig(keep=1.0, stages=()), config.num_hidden_layers)
    short = short_reads(model, weights).decoder(CHUNK, decode=True)  # type: ignore[arg-type]
    if short is None:
        raise ConfigError(f"{type(model).__name__} decodes with its own weights only; use --decode-weights same")
    done = 0
    for start, end in plans:
        with attach(model, cache), torch.no_grad():
            read = model(
                input_ids=torch.tensor([list(ids[done:start])], device=model.device),
                **{CACHE: cache},
                use_cache=True,
                logits_to_keep=1,
            )
        rows = [read.logits[0]]
        for place in range(start, end, CHUNK):
            rows.append(short.read(cache, ids[place : min(place + CHUNK, end)], place))
        done = end
        yield torch.cat([row.float() for row in rows])[:-1]
