"""Processes that play ranks: forked from one that has imported everything, so that a test pays for that once.

`python -m tests.parallel.ranks FOLDER "SCENARIO NAME ..." ...` runs scenarios and prints one JSON object a line.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from erecap.budget import Budget
from erecap.engines.leading import follow
from erecap.errors import ErecapError
from erecap.models import load
from erecap.parallel.start import join, leading
from erecap.session import ReplanPool, ReplanSession
from erecap.tokens import PruneConfig
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn
from tests.session.pooling import AGENTS, chats, options
from tests.tokens.models import scorer_of

LEARNED = scorer_of("learned")
WAYS: dict[str, dict[str, Any]] = {
    "unlimited": {},
    "evicting": {"budget": Budget(kv_tokens=120)},
    "attention": {
        "budget": Budget(kv_tokens=120), "evict_by": "attention", "prune": PruneConfig("attention", 0.8, (3, 5)),
    },
    "learned": {"budget": Budget(kv_tokens=120), "evict_by": LEARNED, "prune": PruneConfig(LEARNED, 0.8, (3, 6))},
}  # fmt: skip


def talk(session: ReplanSession, turns: int) -> list[Any]:
    """Answers of a conversation that a fork goes on with in its last turn, ids read, and tokens stored."""
    messages, answers = start(), []
    for number in range(turns):
        asked = session.fork() if number == turns - 1 else session
        answers.append(asked.generate(messages, max_new_tokens=6).text)
        messages += turn(answers[-1], number)
    session.read(messages)
    stored = session.engine.stored()
    return [answers, session.token_ids, stored.layers, [group.tolist() for group in stored.groups]]


def together(folder: Path, name: str, turns: int, ways: list[str]) -> None:
    """Rank 0: the same conversations on the split model and on the whole one; what each rank stores is compared."""
    split, _ = load(str(folder / name), dtype="float32")
    if join().rank:  # type: ignore[union-attr]
        follow(split)
        return
    with leading():
        for way in ways:
            session = ReplanSession(split, byte_level(), **WAYS[way])
            found = talk(session, turns)
            say(name=name, way=way, same=found == talk(ReplanSession(model(name), byte_level(), **WAYS[way]), turns),
                evicted=session.evicted_tokens, engine=type(session.engine).__name__,
                )  # fmt: skip


def talks(folder: Path, *names: str) -> None:
    """A few turns of each architecture, `NAME:WAY,WAY`."""
    for asked in names:
        name, ways = asked.split(":")
        together(folder, name, 3, ways.split(","))


def thirty(folder: Path, *names: str) -> None:
    """Thirty turns of each architecture, `NAME:WAY,WAY`, in all ways if none is named."""
    for asked in names:
        name, _, ways = asked.partition(":")
        together(folder, name, 30, ways.split(",") if ways else list(WAYS))


def lost(folder: Path, name: str) -> None:
    """Rank 1 is killed in the middle of a conversation; rank 0 says so in one line, and gives no further answer."""
    split, _ = load(str(folder / name), dtype="float32")
    if join().rank:  # type: ignore[union-attr]
        say(pid=os.getpid())
        follow(split)
        return
    session = ReplanSession(split, byte_level())
    session.generate(start(), max_new_tokens=4)
    os.kill(int(os.environ["OTHER"]), signal.SIGKILL)
    answers = []
    try:
        for number in range(3):
            answers.append(session.generate(start() + turn("go", number), max_new_tokens=4).text)
    finally:
        say(answers=answers)


def lost_leader(folder: Path, name: str) -> None:
    """Rank 0 is killed while rank 1 waits for orders."""
    split, _ = load(str(folder / name), dtype="float32")
    if join().rank == 0:  # type: ignore[union-attr]
        os.kill(os.getpid(), signal.SIGKILL)
    follow(split)


def differ(folder: Path, first: str, second: str) -> None:
    """Each rank loads another model."""
    load(str(folder / (second if join().rank else first)), dtype="float32")  # type: ignore[union-attr]


def refusals(folder: Path, name: str) -> None:
    """Refusals on rank 0 of what a split model does not have; a pool, whose passes are not shared, answers."""
    split, _ = load(str(folder / name), dtype="float32")
    if join().rank:  # type: ignore[union-attr]
        follow(split)
        return
    with leading():
        session = ReplanSession(split, byte_level())
        session.read(start())
        asked: dict[str, Callable[[], Any]] = {
            "packed": lambda: ReplanSession(split, byte_level(), decode_weights="int8"),
            "save": lambda: session.save(folder / "saved.safetensors"),
            "device": lambda: load(str(folder / name), device="cpu"),
        }
        for what, ask in asked.items():
            try:
                ask()
            except (ValueError, ErecapError) as error:
                say(what=what, error=str(error))
        pool, alone = ReplanPool(split, byte_level()), ReplanPool(model(name), byte_level())
        texts = [
            [g.text for g in one.generate([(one.session(**a["session"]), m, options(a)) for m, a in asked_of()])]
            for one in (pool, alone)
        ]
        say(what="pool", same=texts[0] == texts[1])


def asked_of() -> list[tuple[list[dict], dict[str, Any]]]:
    """Chats and agents without packed weights, which a split model lacks."""
    return [(m, a) for m, a in zip(chats(), AGENTS, strict=True) if "decode_weights" not in a["session"]][:2]


def say(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def run(scenario: str, folder: str, names: list[str], size: int = 2) -> None:
    """Fork the ranks, each of which knows the process of the one forked before it, and say how each ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks: list[int] = []
    for number in reversed(range(size)):
        made = os.fork()
        if made:
            ranks.append(made)
            continue
        os.environ.update(shared, RANK=str(number), LOCAL_RANK=str(number), OTHER=str(ranks[-1] if ranks else 0))
        code = 1
        try:
            torch.set_num_threads(1)
            globals()[scenario](Path(folder), *names)
            code = 0
        except ErecapError as error:
            say(error=f"rank {number} ended: {error}")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    codes = [os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in reversed(ranks)]
    say(scenario=scenario, codes=codes)


if __name__ == "__main__":
    for asked in sys.argv[2:]:
        scenario, *names = asked.split(" ")
        run(scenario, sys.argv[1], names)
