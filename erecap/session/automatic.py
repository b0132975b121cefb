"""Sessions under `Budget.auto`: room is made before something is read, and only where it does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from erecap.budget import LEFT_TO_SAVE, Limit
from erecap.cost.model import CostModel
from erecap.engines.rotate_keys import KeyRotator
from erecap.errors import BudgetError
from erecap.session.conversation.transcript import Mark, Transcript
from erecap.session.eviction import HEAD, OPEN, Claims
from erecap.tokens.cache.pruned_cache import PrunedCache

if TYPE_CHECKING:
    from erecap.engines.transformers import TransformersEngine

Spans = Sequence[tuple[int, int, int]]
FEWEST = 16  # tokens that the memory given has to hold, as for `kv_tokens`


def bytes_per_token(model: Any, cache: PrunedCache | None = None) -> int:
    """Bytes of keys and values of a token that all layers store: as the cache has them, else as the model says."""
    layers = [layer for layer in cache.layers if layer.is_initialized] if cache is not None else []
    config = model.config.get_text_config(decoder=True)
    if len(layers) == config.num_hidden_layers:
        stored = [tensor for layer in layers for tensor in (layer.keys, layer.values) if tensor is not None]
        return sum(tensor.shape[1] * tensor.shape[3] * tensor.element_size() for tensor in stored)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * model.dtype.itemsize)


def why_fixed(model: Any) -> str | None:
    """Why positions of the model's stored keys cannot be closed up; None: they can be."""
    try:
        KeyRotator(model)
    except ValueError as error:
        return str(error)
    return None


def check_memory(model: Any, memory_bytes: int | None) -> None:
    """Refuse a memory that holds next to nothing of this model.

    Raises:
        ValueError: fewer than 16 tokens fit.
    """
    each = bytes_per_token(model)
    if memory_bytes is not None and memory_bytes < FEWEST * each:
        raise ValueError(
            f"memory_bytes={memory_bytes} holds {memory_bytes // each} tokens of this model, {each} bytes each; "
            f"allowed: {FEWEST * each} or more"
        )


def make_room(
    reader: TransformersEngine,
    coming: int,
    transcript: Transcript,
    messages: Claims,
    spans: Spans,
    marks: Sequence[Mark],
) -> int:
    """Evict if the next chunk of `coming` tokens does not fit beside what is stored and the answer.

    Returns:
        Tokens of that chunk: as many as the reader would read at once, fewer where only those fit.

    Raises:
        BudgetError: system and goal leave no room.
    """
    chunk = min(reader.chunk, coming)
    while True:
        index = reader.cache.stored_index().cpu()
        limit, stored = _limit(reader, transcript.tokens, len(index)), len(index)
        if limit is None or stored + chunk <= limit.most:
            return chunk
        tier = reader.tiers(index, transcript, messages, spans, marks)
        head = int((tier == HEAD).sum())
        target = min(limit.most - min(1, coming), max(limit.down_to, head))
        if head > target:
            raise BudgetError(
                f"system, goal and format take {head:,} tokens, and {limit.most:,} fit {limit.reason}; shorten them"
            )
        if stored <= target:
            return min(chunk, limit.most - stored)
        new = f" and {chunk:,} new" if chunk else ""
        reader.drop_together(index, tier, target)
        reader.dropped_because = (
            f"{stored:,} stored{new} tokens pass the {limit.most:,} that fit {limit.reason}: evicted down to {target:,}"
        )


def drop_what_pays(
    reader: TransformersEngine,
    transcript: Transcript,
    messages: Claims,
    spans: Spans,
    marks: Sequence[Mark],
    *,
    new: int,
    plan_tokens: int,
    passes: int | None,
) -> None:
    """Evict half of what is stored where that is predicted to save the share of a call that the budget names."""
    cost, share = reader.cost, reader.budget.pays
    index = reader.cache.stored_index().cpu()
    if cost is None or share is None or not len(index):
        return
    tier = reader.tiers(index, transcript, messages, spans, marks)
    stored, protected = len(index), int((tier > OPEN).sum())
    target = max(int(LEFT_TO_SAVE * stored), protected)
    saved, now, then = saving(cost, stored, target, new=new, plan_tokens=plan_tokens, passes=passes)
    if target < stored and saved >= share:
        reader.drop_together(index, tier, target)
        reader.dropped_because = (
            f"with {target:,} instead of {stored:,} stored tokens the call is predicted to take {then:,.1f} instead of "
            f"{now:,.1f} ms, which saves {saved:.0%}, and {share:.0%} were asked for"
        )


def saving(
    cost: CostModel, stored: int, target: int, *, new: int, plan_tokens: int, passes: int | None = None
) -> tuple[float, float, float]:
    """Share of a call's time that evicting down to `target` first would save, and the milliseconds now and then."""
    now = cost.predict_replan(new, stored, plan_tokens, passes=passes)
    then = cost.predict_replan(new, target, plan_tokens, passes=passes) + cost.predict_evict(stored)
    return (1 - then / now if now > 0 else 0.0), now, then


def _limit(reader: TransformersEngine, read: int, stored: int) -> Limit | None:
    return reader.budget.limit(
        read=read,
        # Where positions cannot be closed up they bound what is read, whatever is stored.
        window=reader.window if reader.why_fixed is None else None,
        room=reader.room,
        bytes_per_token=bytes_per_token(reader.model, reader.cache),
        stored=stored,
        stored_bytes=reader.cache.kv_bytes(),
    )
