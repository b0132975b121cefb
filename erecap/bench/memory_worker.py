"""A program that holds memory and moves it about until it is ended, so that the bandwidth is shared as well.

It is run by its path and imports nothing of ours. The first argument is the number of megabytes, the second the process
to work for: it ends when that one has ended.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from itertools import pairwise

PR_SET_PDEATHSIG = 1
BLOCK = 16 << 20  # bytes that are moved at a time; more than caches hold


def main() -> None:
    """Print `ready` once all of the memory is held, and go on."""
    megabytes, parent = int(sys.argv[1]), int(sys.argv[2])
    if sys.platform == "linux":
        # A stopped process cannot notice that its parent has ended; the kernel ends it even then.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    blocks = [bytearray(BLOCK) for _ in range(max(2, (megabytes << 20) // BLOCK))]
    for block in blocks:
        block[::4096] = b"\1" * len(block[::4096])  # so that the pages are there
    print("ready", flush=True)
    while os.getppid() == parent:
        for target, source in pairwise(blocks):
            target[:] = source


if __name__ == "__main__":
    main()
