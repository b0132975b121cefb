"""A program that keeps cores busy: it multiplies matrices until it is ended.

It is run by its path and imports nothing of ours, so that it waits as any other program with torch does. The first
argument is the number of threads, the second the process to work for: it ends when that one has ended.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

SIZE = 1024  # rows and columns: some 20 ms a product on two threads
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Print `ready` after the first product, and go on."""
    threads, parent = int(sys.argv[1]), int(sys.argv[2])
    if sys.platform == "linux":
        # A stopped process cannot notice that its parent has ended; the kernel ends it even then.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    import torch

    torch.set_num_threads(threads)
    left, right = torch.rand(SIZE, SIZE), torch.rand(SIZE, SIZE)
    product = left @ right
    print("ready", flush=True)
    while os.getppid() == parent:
        torch.mm(left, right, out=product)


if __name__ == "__main__":
    main()
