"""Write `docs/architectures.md`: try every causal architecture, each in a process of its own.

python -m tools.architectures.write                    # all of them, some minutes
python -m tools.architectures.write llama gpt_neox     # these only; the other rows stay
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection, wait

import torch
import transformers

import erecap.engines.transformers  # loaded before the processes are made, which would each do it
import erecap.wrapping.model
import erecap.wrapping.session_model  # noqa: F401
from tools.architectures.small import architectures
from tools.architectures.table import PAGE, read_rows, render
from tools.architectures.tried import RESULTS, Trial, tried

SECONDS = 300  # for one architecture; one that hangs must not stop the others
TOGETHER = 4  # processes at a time


def main() -> None:
    """Try the architectures named, or all, and write the page; the exit code says whether there was a fault."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rows = {row.kind: row for row in read_rows(PAGE)} if sys.argv[1:] else {}
    for row in each_in_a_process(sys.argv[1:] or architectures()):
        rows[row.kind] = row
        print(row.kind, "|", row.result, "|", row.sentence, flush=True)
    found = [rows[kind] for kind in sorted(rows)]
    PAGE.write_text(render(found), encoding="utf-8")
    faults = [row.kind for row in found if row.result not in RESULTS]
    if faults:
        sys.exit(f"faults: {', '.join(faults)}")


def each_in_a_process(kinds: list[str]) -> Iterator[Trial]:
    """The trials of `kinds`, as they end; a child process that takes too long is ended."""
    context = multiprocessing.get_context("fork")  # what is imported already need not be imported 189 times
    left, running = list(kinds), {}
    while left or running:
        while left and len(running) < TOGETHER:
            kind = left.pop(0)
            here, there = context.Pipe(duplex=False)
            child = context.Process(target=_child, args=(kind, there))
            child.start()
            there.close()
            running[here] = (kind, child, time.monotonic())
        ready = wait(list(running), timeout=1.0)
        for pipe, (kind, child, started) in list(running.items()):
            if pipe in ready:
                yield _received(kind, pipe)
            elif time.monotonic() - started > SECONDS:
                yield Trial(kind, "", "FAULT: it hangs", "", "")
            else:
                continue
            del running[pipe]
            child.kill()
            child.join()


def _received(kind: str, pipe: Connection) -> Trial:
    try:
        return Trial(**json.loads(pipe.recv_bytes()))
    except EOFError:
        return Trial(kind, "", "FAULT: its process ended", "", "")


def _child(kind: str, pipe: Connection) -> None:
    pipe.send_bytes(json.dumps(asdict(tried(kind))).encode())


if __name__ == "__main__":
    main()
