"""Random sequences of a session's calls, against an oracle written without its code.

    python -m tests.fuzz.session_sequences --count 10000 --seed 0

Beside each session stands a log of what was read, evicted, forgotten and corrected (`StorageOracle`). From it alone
follow the tokens that must be stored, and what each token could see when it was read. One plain forward pass of the
model over all tokens read, under that mask, then says which answer is right. After each step the ledger has to balance:
all memory of keys and values in the process is live in a session, or room to spare in one of its buffers.
"""

from __future__ import annotations

import argparse
import copy
import gc
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from erecap.budget import Budget
from erecap.registries import DRAFTS
from erecap.session import ReplanSession
from tests.session.characters import CHUNK, LETTERS, Characters, StorageOracle
from tests.tokens.models import tiny_config

NEW, LAYERS = 6, 4
CHARACTERS = Characters()
STEPS = (
    "grow", "append", "own words", "read", "again", "rewrite", "plan", "fail", "correct", "close", "fork", "save",
    "evict", "forget",
)  # fmt: skip
CLAIMS: tuple[dict, ...] = (
    {}, {}, {"protect": [(0, 9)]}, {"protect": []}, {"stale": [(2, 20)]}, {"protect": [(0, 4)], "stale": [(2, 12)]},
)  # fmt: skip
CLOSE = 1e-3  # of the logits' spread, by which rounding may decide between two letters


@cache
def characters_model(name: str = "llama") -> Any:
    """A tiny model whose tokens are characters."""
    kind, config = tiny_config(name)
    config.num_hidden_layers = LAYERS
    config.vocab_size, config.max_position_embeddings = 128, 4096
    config.eos_token_id = CHARACTERS.eos_token_id
    torch.manual_seed(40)
    made = kind(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0)
    made.generation_config.eos_token_id = CHARACTERS.eos_token_id
    return made


@dataclass
class SeeingOracle(StorageOracle):
    """Also notes what each token could see when it was read."""

    seen: dict[int, frozenset[int]] = field(default_factory=dict)

    def _add(self, entries: list[tuple[str, int, int]]) -> None:
        first = len(self.read)
        super()._add(entries)
        self._look(first)

    def forget(self, low: int, high: int) -> None:
        """The tokens behind the span are read again, and see it no more."""
        super().forget(low, high)
        self._look(high)

    def _look(self, first: int) -> None:
        for index in range(first, len(self.read)):
            self.seen[index] = frozenset(other for other in self.stored if other <= index)

    def logits(self, model: Any) -> torch.Tensor:
        """Logits `(tokens read, vocabulary)` of one forward pass under the mask of what each token could see."""
        total = len(self.read)
        mask = torch.eye(total, dtype=torch.bool)
        for index in range(total):
            mask[index, list(self.seen[index])] = True
        ids = torch.tensor([[ord(letter) for letter, _, _ in self.read]])
        with torch.no_grad():
            return model(
                ids, position_ids=torch.arange(total).unsqueeze(0), attention_mask=mask[None, None], use_cache=False
            ).logits[0]


class Ledger:
    """Memory of keys and values in this process, as the garbage collector finds it and as the sessions tell it."""

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()  # what is there already is no session's

    def close(self) -> None:
        """Give back what was set aside."""
        gc.unfreeze()

    @staticmethod
    def check(sessions: Sequence[ReplanSession], where: str) -> int:
        """Bytes allocated. Raises AssertionError where they are not live and free together."""
        own: dict[int, int] = {}  # bytes by the address of each buffer
        live: dict[int, int] = {}  # of these, bytes that a session sees
        for layer in (layer for session in sessions for layer in session.cache.layers):
            for buffer, tokens in layer.held():
                place, size = buffer.untyped_storage().data_ptr(), buffer.untyped_storage().nbytes()
                own[place] = size
                seen = tokens * buffer.numel() // max(1, buffer.shape[2]) * buffer.element_size()
                live[place] = max(seen, live.get(place, 0))
        found: dict[int, int] = {}
        for thing in gc.get_objects():
            if (
                type(thing) is torch.Tensor
                and thing.ndim == 4
                and thing.dtype == torch.float32
                and thing.shape[-1] == 8
            ):
                storage = thing.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
        allocated, free = sum(found.values()), sum(own[place] - live[place] for place in own)
        assert allocated == sum(live.values()) + free, (
            f"{where}: {allocated} bytes are allocated, {sum(live.values())} live and {free} free"
        )
        return allocated


def turn(answer: str, number: int, claims: dict) -> list[dict]:
    """An answer, and what was seen after it."""
    seen = " ".join(f"mug {number + n}" for n in range(2 + number % 4))
    return [{"role": "assistant", "content": answer}, {"role": "user", "content": f"shelf {number}: {seen}", **claims}]


class Episode:
    """One session, its oracle, and the chat so far."""

    def __init__(self, chosen: random.Random, model: Any) -> None:
        self.chosen, self.model = chosen, model
        self.budget = chosen.choice([None, None, 70, 110])
        self.options = {"evict_by": chosen.choice(["recency", "random"]), "draft": chosen.choice([False, *DRAFTS])}
        self.session, self.oracle = self._made(), SeeingOracle(self.budget, str(self.options["evict_by"]))
        self.answers, self.text = 0, ""
        self.messages: list[dict] = [
            {"role": "system", "content": "you plan"},
            {"role": "user", "content": "cool the apple. you see a fridge.", "protect": [(0, 15)]},
        ]

    def _made(self) -> ReplanSession:
        budget = Budget(kv_tokens=self.budget)
        return ReplanSession(self.model, CHARACTERS, budget=budget, prefill_chunk=CHUNK, **self.options)  # type: ignore[arg-type]

    def generate(self, own: bool = False, given: list[dict] | None = None) -> None:
        """Answer, and compare the answer with the oracle's."""
        messages = given if given is not None else self.messages
        generation = self.session.generate(
            None if own else messages, max_new_tokens=NEW, allowed_tokens=lambda _: LETTERS
        )
        assert generation.usage.new_tokens == self.oracle.prompt(messages, header=True), "what was read is read again"
        asked = len(self.oracle.read) - 1
        self.text = generation.text
        unread = len(self.session.conversation.pending)
        self.oracle.answer(len(messages), self.text, unread)
        rows = self.oracle.logits(self.model)[asked : asked + len(self.text)][:, LETTERS]
        chosen = rows[range(len(self.text)), [LETTERS.index(ord(letter)) for letter in self.text]]
        short = (rows.amax(-1) - chosen) / (rows.amax(-1) - rows.amin(-1))
        assert float(short.max()) < CLOSE, f"the answer {self.text!r} is not the oracle's: {short.tolist()}"
        self.oracle.evict(messages)
        self.answers += 1

    def step(self, name: str, number: int) -> None:
        """Do one thing to the session and note it for the oracle."""
        claims, span = self.chosen.choice(CLAIMS), sorted(self.chosen.random() for _ in range(2))
        if name in ("grow", "own words"):
            self.messages += turn(self.text if name == "grow" else f"go {number}", number, claims)
            self.generate()
        elif name == "append":
            if not self.oracle.ends or self.oracle.ends[-1][0] != ("assistant", self.text):
                self.generate()  # there must be an answer to go on from
            self.messages += turn(self.text, number, claims)
            assert self.session.append(self.messages[-1:]) == self.oracle.prompt(self.messages, header=False)
            self.oracle.evict(self.messages)
            self.generate(own=True)
        elif name == "read":
            self.messages += turn(self.text, number, claims)
            assert self.session.read(self.messages) == self.oracle.prompt(self.messages, header=False)
            self.oracle.evict(self.messages)
        elif name == "again":
            self.generate()
        elif name == "rewrite":
            at = max(2, len(self.messages) // 2)
            self.messages = [*self.messages[:at], {"role": "user", "content": f"new {number}"}]
            self.generate()
        elif name == "plan":
            self.messages += turn(self.text, number, {})
            self.session.still_valid("go on", self.messages)
            self.oracle.prompt(self.messages, header=False)
            self.oracle.evict(self.messages)
        elif name == "fail":
            self._fail([*self.messages, *turn(self.text, number, {})], self.chosen.randrange(NEW))
        elif name == "correct":
            pending = "".join(map(chr, self.session.conversation.pending))
            self.session.correct(f"no mug {number}")
            self.oracle.correct(f"no mug {number}", pending)
        elif name == "close":
            self.session.close()
            self.oracle = SeeingOracle(self.budget, str(self.options["evict_by"]))
            self.generate()
        elif name == "fork":
            self._fork(number)
        elif name == "save":
            with tempfile.TemporaryDirectory() as folder:
                path, before = Path(folder) / "a.safetensors", self.session.evicted_tokens
                self.session.save(path)
                self.session = self._made()
                self.session.restore(path)
            assert self.session.evicted_tokens == before
        else:
            low, high = (int(share * len(self.oracle.read)) for share in span)
            getattr(self.session, name)((low, high))
            if name == "forget":
                self.oracle.forget(low, high)
            else:
                self.oracle.stored -= set(range(low, high))

    def _fail(self, given: list[dict], after: int) -> None:
        def failing(ids: list[int]) -> list[int]:
            if len(ids) >= after:
                raise MemoryError("planted")
            return LETTERS

        try:
            self.session.generate(given, max_new_tokens=NEW, allowed_tokens=failing)
        except MemoryError:
            self.oracle.prompt(given, header=True)
            self.oracle.cut(len(given))

    def _fork(self, number: int) -> None:
        """A fork goes on by itself, and leaves its origin as it was."""
        origin, oracle, text = self.session, copy.deepcopy(self.oracle), self.text
        self.session = origin.fork()
        self.generate(given=[*self.messages, *turn("go", number, {})])
        self.check()
        Ledger.check([origin, self.session], "with a fork")
        self.session, self.oracle, self.text = origin, oracle, text

    def check(self) -> None:
        """Compare what is stored with the oracle's log."""
        stored = self.session.engine.stored()
        assert self.session.token_ids == [ord(letter) for letter, _, _ in self.oracle.read]
        assert set(stored.indices.tolist()) == self.oracle.stored and stored.most == len(self.oracle.stored)
        assert self.session.evicted_tokens == len(self.oracle.read) - len(self.oracle.stored)


def play(seed: int, name: str = "llama") -> tuple[int, int, int]:
    """One sequence; steps, answers compared, and the most bytes allocated. Raises AssertionError with the sequence."""
    chosen = random.Random(seed)
    sequence = Episode(chosen, characters_model(name))
    steps = [chosen.choice(STEPS) for _ in range(chosen.randint(2, 9))]
    most = 0
    try:
        sequence.generate()
        for number, step in enumerate(steps):
            sequence.step(step, number)
            sequence.check()
            most = max(most, Ledger.check([sequence.session], f"after step {number}, {step}"))
    except Exception as error:
        error.add_note(f"seed {seed}, {sequence.budget=}, {sequence.options}: {steps}")
        raise
    return len(steps), sequence.answers, most


def run(count: int, seed: int, say: Callable[[str], None] = lambda line: None) -> str:
    """Play `count` sequences from `seed` on; returns one line of figures."""
    started, steps, answers, most = time.perf_counter(), 0, 0, 0
    characters_model()
    ledger = Ledger()
    try:
        for number in range(count):
            done, compared, bytes_ = play(seed + number)
            steps, answers, most = steps + done, answers + compared, max(most, bytes_)
            Ledger.check([], f"after sequence {seed + number}")
            if number % 500 == 499:
                say(f"{number + 1} sequences, {time.perf_counter() - started:.0f} s")
    finally:
        ledger.close()
    return (
        f"{count} session sequences, {steps} steps, {answers} answers equal to the oracle's, "
        f"at most {most:,} bytes allocated, all live or free, {time.perf_counter() - started:.0f} s"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Play sequences, and print one line of figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=200, help="sequences")
    parser.add_argument("--seed", type=int, default=0, help="of the first sequence")
    given = parser.parse_args(arguments)
    print(run(given.count, given.seed))


if __name__ == "__main__":
    main()
