"""The replanning calls that are compared, each as a function without arguments that does the same work every time."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from erecap.bench.replan.history import Count, shortened
from erecap.budget import Budget
from erecap.config.modes import Mode
from erecap.context.tokenize import render_chat
from erecap.decoding.linear import known_weights
from erecap.generation import Generation, Message, Timing, Usage
from erecap.language_models.build import session_options
from erecap.models.cache_argument import CACHE
from erecap.registries import LEARNED
from erecap.session.session import ReplanSession
from erecap.tokens.scoring.schedule import PruneConfig

if TYPE_CHECKING:
    from erecap.bench.replan.settings import ReplanBench
    from erecap.tokens.scoring.learned import LearnedScorer

Call = Callable[[], Generation]
Key = TypeVar("Key")  # of a call
Made = TypeVar("Made")  # a call, in whatever form


def in_one_pass(model: Any) -> int:
    """A prefill chunk that no prompt exceeds, so that a chat is read in one causal pass: the model's window."""
    return int(model.config.get_text_config(decoder=True).max_position_embeddings)


def answer(session: ReplanSession, messages: Sequence[Message], tokens: int, draft: str | None = None) -> Generation:
    """Exactly `tokens` tokens, so that calls of different modes do the same work."""
    return session.generate(messages, max_new_tokens=tokens, min_new_tokens=tokens, draft=draft)


def algorithm_call(
    mode: Mode,
    bench: ReplanBench,
    model: Any,
    tokenizer: Any,
    history: Sequence[Message],
    new: Message,
    learned: LearnedScorer | None = None,
) -> Call:
    """The model's own precision and plain decoding, with the same decode steps on every side.

    `full` and `prune[...]` are sessions that are thrown away after each call: they read the whole chat in one pass, and
    decode as the others do, which is faster than the model's own modules do it (`hf` shows those).

    Args:
        learned: ranks where a mode names no criterion of its own, and in `prune[learned]`.
    """
    messages, count = [*history, new], bench.plan_tokens
    if mode.session:
        keeping = kept_by(mode, bench.kv_tokens, bench.seed, learned)
        session = ReplanSession(model, tokenizer, draft=False, **keeping)
        session.read(history)
        return lambda: answer(session.fork(), messages, count)
    scorer = learned if mode.prune == LEARNED else mode.prune
    prune = PruneConfig(scorer=scorer, keep=bench.keep) if scorer else None

    def call() -> Generation:
        fresh = ReplanSession(model, tokenizer, prune=prune, prefill_chunk=in_one_pass(model), draft=False)
        return answer(fresh, messages, count)

    return call


def product_call(
    mode: Mode, bench: ReplanBench, model: Any, tokenizer: Any, history: Sequence[Message], new: Message
) -> Call:
    """Drafts from the last plan and what is new, and `bench.decode_weights`, on every side.

    `full` and `prune[...]` are sessions that are thrown away after each call, so that they read the whole chat in one
    pass, and decode as the others do.
    """
    messages, count, plan = [*history, new], bench.plan_tokens, history[-1]["content"]
    if mode.session:
        session = ReplanSession(
            model, tokenizer, draft=True, decode_weights=known_weights(bench.decode_weights), **_keeping(mode, bench)
        )
        session.read(history)
        return lambda: answer(session.fork(), messages, count, plan)
    prune = PruneConfig(scorer=mode.prune, keep=bench.keep) if mode.prune else None

    def call() -> Generation:
        fresh = ReplanSession(
            model,
            tokenizer,
            prune=prune,
            prefill_chunk=in_one_pass(model),
            draft=True,
            decode_weights=known_weights(bench.decode_weights),
        )
        return answer(fresh, messages, count, plan)

    return call


def stock_call(bench: ReplanBench, model: Any, tokenizer: Any, history: Sequence[Message], new: Message) -> Call:
    """`model.generate` as its documentation shows it; its phases are not told apart."""
    messages, count = [*history, new], bench.plan_tokens

    def call() -> Generation:
        started = time.perf_counter()
        chat = [{"role": message["role"], "content": message["content"]} for message in messages]
        inputs = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(model.device)
        output = model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=count,
            min_new_tokens=count,
            pad_token_id=tokenizer.eos_token_id,
            return_dict_in_generate=True,
        )
        read = inputs["input_ids"].shape[1]
        ids = output.sequences[0, read:]
        text = tokenizer.decode(ids, skip_special_tokens=True)
        total = 1e3 * (time.perf_counter() - started)
        stored = (tensor for layer in output[CACHE].layers for tensor in (layer.keys, layer.values))
        usage = Usage(
            prompt_tokens=read,
            new_tokens=read,
            completion_tokens=len(ids),
            kv_bytes=sum(tensor.numel() * tensor.element_size() for tensor in stored),
        )
        return Generation(text, "length", usage, Timing(total_ms=total))

    return call


def floor_call(bench: ReplanBench, model: Any, tokenizer: Any, new: Message, product: bool, plan: str) -> Call:
    """`new` alone on an empty cache, with the precision and the decoding of the row that it stands in."""
    count = bench.plan_tokens

    def call() -> Generation:
        if not product:
            session = ReplanSession(model, tokenizer, draft=False)
            return answer(session, [new], count)
        session = ReplanSession(model, tokenizer, draft=True, decode_weights=known_weights(bench.decode_weights))
        return answer(session, [new], count, plan)

    return call


def floor_message(tokenizer: Any, history: Sequence[Message], new: Message, count: Count) -> Message:
    """`new`, shortened so that alone it has as many tokens as a session reads for it after `history`.

    A chat of one message brings the template's own text, such as a default system message, which is not new.
    """
    whole = render_chat([*history, new], tokenizer)
    rest = whole.text[whole.spans[len(history) - 1][1] :]
    tokens = len(tokenizer(rest, add_special_tokens=False)["input_ids"])
    return shortened(new, tokens, count)


@contextmanager
def steady() -> Iterator[Callable[[], object]]:
    """Collect garbage only when the yielded function is called, and only what has come up within.

    Otherwise a collection of everything that was ever imported would fall into some of the timed calls.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield gc.collect
    finally:
        gc.enable()
        gc.unfreeze()


def in_turn(calls: Mapping[Key, Made], repetitions: int) -> Iterator[tuple[int, Key, Made]]:
    """Every call of `calls` once, then all of them again: A B C A B C, with garbage collected before each.

    The one order of all benches that compare: a machine that becomes slower does so for all sides.
    """
    with steady() as collect:
        for repetition in range(repetitions):
            for key, call in calls.items():
                collect()
                yield repetition, key, call


def synchronise(model: Any) -> None:
    """Wait until the model's device has finished its work."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


def kept_by(mode: Mode, kv_tokens: int, seed: int, learned: LearnedScorer | None = None) -> dict[str, Any]:
    """The arguments of a mode's session that say what it keeps.

    Args:
        learned: ranks, unless the mode names a criterion of its own.
    """
    ranking = learned if mode.takes_run_pruner else None
    options = session_options(mode, budget=Budget(kv_tokens=kv_tokens), seed=seed, ranking=ranking)
    return {key: options[key] for key in ("budget", "evict_by", "stale_first", "seed")}


def _keeping(mode: Mode, bench: ReplanBench) -> dict[str, Any]:
    return kept_by(mode, bench.kv_tokens, bench.seed)
