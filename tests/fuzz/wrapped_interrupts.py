"""Exceptions planted at any line of a wrapped model's `generate`; what follows is compared with the bare model.

    python -m tests.fuzz.wrapped_interrupts --count 500 --seed 0

A call runs under a trace that counts the lines of the package which it passes. Then it runs again, on a wrapped model
in the same state, with an exception at one of these lines. Afterwards the model is as it was, nobody but the wrapped
model holds a conversation, and all answers are those of one that was never interrupted: without a budget, the bare
model's.
"""

from __future__ import annotations

import argparse
import gc
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

import erecap
from erecap.tokens.hooks import find_decoder
from erecap.tokens.scoring import probe
from erecap.wrapping.session_model import SessionModel
from erecap.wrapping.token_conversations import TokenConversation
from tests.context.small_tokenizers import byte_level
from tests.fuzz.interrupts import Planted, Trace, leftovers
from tests.session.chats import model

GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "small": {"conversations": 2},
    "budget": {"budget": 40},
    "attention": {"budget": 40, "evict_by": "attention"},
}
HEAD = "You plan for a robot. The apple 1 has to be cooled. "


def ids(text: str) -> torch.Tensor:
    """Token ids `(1, n)` of a text."""
    return byte_level()(text, return_tensors="pt", add_special_tokens=False)["input_ids"]


def asked(target: Any, prompt: torch.Tensor, **options: Any) -> torch.Tensor:
    """Prompt and answer `(1, n)`."""
    return target.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **GREEDY, **options)


class Play:
    """A wrapped model that has been asked before, and the newest text."""

    def __init__(self, kind: str) -> None:
        self.wrapped: SessionModel = erecap.wrap(model(window=512), **KINDS[kind])
        self.first = ids(HEAD)
        self.text = asked(self.wrapped, self.first)
        self.text = asked(self.wrapped, torch.cat([self.text, ids(" You see a fridge 1, and a mug 2 on a shelf.")], 1))


CALLS: dict[str, Callable[[Play], object]] = {
    "goes on": lambda play: asked(play.wrapped, torch.cat([play.text, ids(" You see a shelf 3.")], 1)),
    "again": lambda play: asked(play.wrapped, play.text),
    "forks": lambda play: asked(play.wrapped, torch.cat([play.first, ids(" You see something else in a room.")], 1)),
    "another": lambda play: asked(play.wrapped, ids("The pan 7 is hot, and the sink 2 is full of water.")),
    "in full": lambda play: asked(play.wrapped, play.text, return_dict_in_generate=True),
    "reset": lambda play: play.wrapped.reset(),
}


def later(target: Any, play: Play) -> list[list[int]]:
    """Texts of the calls after the one that was broken off, `target` being the wrapped model or the bare one."""
    text, found = play.text, []
    for told in (" The mug is gone.", " The fridge 1 is open."):
        text = asked(target, torch.cat([text, ids(told)], 1))
        found.append(text[0].tolist())
    found.append(asked(target, torch.cat([play.first, ids(" Begin again.")], 1))[0].tolist())
    return found


def problem_of(play: Play) -> str | None:
    """Return what is not as it should be between two calls; None: nothing."""
    held = play.wrapped.held.idle()
    for conversation in held:
        cache = conversation.cache
        if cache.reading is not None:
            return "a read is in progress"
        if cache.get_seq_length() != conversation.read:
            return f"the cache has read {cache.get_seq_length()} tokens, the conversation {conversation.read}"
        for number, layer in enumerate(cache.layers):
            if cache.layout(number).width != layer.length:
                return f"layer {number} stores {layer.length} tokens, its layout says {cache.layout(number).width}"
    if leftovers():
        return f"{leftovers()} hooks are left on the model"
    attention = find_decoder(play.wrapped.wrapped).config._attn_implementation
    if attention != probe.base_name(attention):
        return f"the model's attention is {attention}"
    if probe.current.collect is not None or probe.current.caches or probe.current.reading is not None:
        return "a read is still announced"
    gc.collect()
    alive = sum(type(thing) is TokenConversation for thing in gc.get_objects())
    return f"{alive} conversations are alive, {len(held)} are held" if alive != len(held) else None


def broken_off(kind: str, name: str, count: int, seed: int, errors: Sequence[type[BaseException]] = (Planted,)) -> int:
    """Break one call off at `count` of its lines, chosen at random; all of them where it has no more.

    Returns:
        Lines that were tried.

    Raises:
        AssertionError: what followed was not right; names the line.
    """
    chosen = random.Random(f"{seed} {kind} {name}")
    gc.collect()
    gc.freeze()  # conversations of others
    try:
        play = Play(kind)
        bare = later(play.wrapped.wrapped, play)
        wanted = [later(play.wrapped, play)]
        done = Play(kind)
        with Trace() as trace:
            CALLS[name](done)
        wanted.append(later(done.wrapped, done))
        exact = "budget" not in KINDS[kind]
        assert not exact or wanted == [bare, bare], f"{kind}, {name}: not the bare model's answers"
        del play, done
        lines = range(1, trace.lines + 1)
        for line in lines if len(lines) <= count else sorted(chosen.sample(lines, count)):
            _once(kind, name, line, chosen.choice(errors), wanted)
    finally:
        gc.unfreeze()
    return min(count, len(lines))


def _once(kind: str, name: str, line: int, error: type[BaseException], wanted: list[list[list[int]]]) -> None:
    play = Play(kind)
    with Trace(line, error) as planted:
        try:
            CALLS[name](play)
        except error:
            pass
    where = f"{kind}, {name}, line {line} ({planted.where})"
    problem = problem_of(play)
    assert problem is None, f"{where}: {problem}"
    found = later(play.wrapped, play)
    # Under a budget, half of a call may have evicted what the whole one would not have, or what none would.
    assert found in wanted or "budget" in KINDS[kind], f"{where}: {found} is neither of {wanted}"
    problem = problem_of(play)
    assert problem is None, f"{where}: afterwards {problem}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Break all calls off, and print one line of figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="lines of each call and kind of wrapped model")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    errors = (Planted, MemoryError)
    tried = sum(broken_off(kind, name, given.count, given.seed, errors) for kind in KINDS for name in CALLS)
    print(f"{tried} interrupts in {len(KINDS) * len(CALLS)} calls of wrapped models: 0 wrong answers, 0 hooks left")


if __name__ == "__main__":
    main()
