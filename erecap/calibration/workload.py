"""A session to be timed: filled with an agent's chat, set back to several lengths, read on from there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from erecap.budget import Budget
from erecap.generation import Message
from erecap.session.session import ReplanSession

_THINGS = ("mug", "plate", "apple", "knife", "kettle", "towel", "book", "lamp", "bowl", "spoon", "bottle", "pan")
_PLACES = ("cabinet", "shelf", "drawer", "counter", "table", "fridge", "sink", "stove")


def chat_of(tokens: int, tokenizer: Any, turn_tokens: int = 100) -> list[Message]:
    """System, goal and turns of about `turn_tokens`, together at least `tokens` long. The same for the same sizes."""
    messages: list[Message] = [
        {"role": "system", "content": "You plan for a robot."},
        {"role": "user", "content": "Goal: put a clean mug on the shelf 1.\nYou are in the kitchen."},
    ]
    total, number = 0, 0
    while total < tokens:
        number += 1
        place = f"{_PLACES[number % len(_PLACES)]} {number % 9 + 1}"
        seen: list[str] = []
        text = ""
        while len(tokenizer(text, add_special_tokens=False)["input_ids"]) < turn_tokens:
            seen.append(f"a {_THINGS[(number + 5 * len(seen)) % len(_THINGS)]} {(number * 7 + len(seen)) % 23}")
            text = f"> go to {place}\nOn the {place} you see {', '.join(seen)}."
        messages += [{"role": "assistant", "content": f"go to {place}"}, {"role": "user", "content": text}]
        total += turn_tokens
    return messages


class Workload:
    """Steps of a session, each timed alone, in milliseconds.

    Args:
        model, tokenizer: as for `ReplanSession`.
        most: tokens to fill the session with; reading that is the first thing done.
        now: the clock, in seconds.
        options: further arguments of `ReplanSession`.
    """

    def __init__(
        self, model: Any, tokenizer: Any, most: int, now: Callable[[], float] = time.perf_counter, **options: Any
    ) -> None:
        self._device, self._now = model.device, now
        self._messages = chat_of(most, tokenizer)
        text = "\n".join(message["content"] for message in self._messages)
        self._ids: list[int] = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        self._full = ReplanSession(model, tokenizer, budget=None, **options)
        self._ends: list[int] = []  # tokens stored at the end of each message
        for count in range(2, len(self._messages) + 1, 2):
            self._full.read(self._messages[:count])
            self._ends.append(self._full.cache.get_seq_length())
            if self._ends[-1] >= most:
                break
        self.session = self._full
        self._chat: Sequence[Message] = ()
        self.kv = 0  # tokens stored at the moment

    def restart(self) -> None:
        """Go back to the filled session; its keys and values are copied, and the copy is touched once."""
        self.session = self._full.fork()
        self.kv = self._ends[-1]
        self.read(1)

    def go_to(self, kv: int) -> None:
        """Store about `kv` tokens, no more than now: the nearest end of a message, or nothing for 0."""
        if kv <= 0:
            self.session.close()
            self.kv, self._chat = 0, ()
            return
        nearest = min(range(len(self._ends)), key=lambda n: abs(self._ends[n] - kv))
        self._chat = self._messages[: 2 * (nearest + 1)]
        self.session.read(self._chat)
        self.kv = self._ends[nearest]

    def prefill(self, new: int) -> float:
        """Time the prefill of `new` tokens; they are rolled back."""
        engine, ids = self.session.engine, self._take(new)
        elapsed = self._timed(lambda: engine.read(ids))
        engine.rollback(engine.tokens - new)
        return elapsed

    def read(self, tokens: int) -> float:
        """Time one pass of decoding over `tokens` tokens; they are rolled back."""
        engine, ids = self.session.engine, self._take(tokens)
        with engine.attached():
            elapsed = self._timed(lambda: engine.verify(ids))
        engine.rollback(engine.tokens - tokens)
        return elapsed

    def evict(self) -> float:
        """Time the eviction of a quarter of what is stored, on a copy."""
        twin = self.session.fork()
        twin.policy.budget = Budget(kv_tokens=max(16, self.kv * 3 // 4))
        before = twin.policy.seconds
        twin.read(self._chat)
        return 1e3 * (twin.policy.seconds - before)

    def splice(self) -> float:
        """Time repositioning all stored tokens, on a copy.

        Raises:
            ValueError: a model whose keys cannot be moved.
        """
        twin = self.session.fork()
        return self._timed(lambda: twin.splice((0, 0)))

    def _take(self, count: int) -> list[int]:
        # Other ids each time would touch other embeddings; of no weight, and the same ids are easier to repeat.
        return [self._ids[n % len(self._ids)] for n in range(count)]

    def _timed(self, step: Callable[[], object]) -> float:
        _wait(self._device)
        started = self._now()
        step()
        _wait(self._device)
        return 1e3 * (self._now() - started)


def _wait(device: Any) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
