"""Peak memory of one prefill: the most by which the resident set of a fresh process grows.

python -m erecap.bench.memory reads one JSON object from standard input and writes one to standard output.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from erecap.errors import RunError

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_growth(
    model: str, dtype: str, mode: str, ids: Sequence[int], keep: float, scorer: str, threads: int
) -> float | None:
    """Bytes by which the resident set of a fresh process grows at most while it reads `ids`.

    The model is loaded and warmed up with a short read before. The peak is the kernel's own (`VmHWM`, set back
    through `/proc/self/clear_refs`), so only Linux has it.

    Args:
        mode: one of `erecap.bench.prefill.MODES`.

    Returns:
        None where the system does not tell.

    Raises:
        RunError: the process failed; its last line is in the message.
    """
    if not _RESET.exists():
        return None
    request = {
        "model": model,
        "dtype": dtype,
        "mode": mode,
        "ids": list(ids),
        "keep": keep,
        "scorer": scorer,
        "threads": threads,
    }
    done = subprocess.run(
        [sys.executable, "-m", "erecap.bench.memory"], input=json.dumps(request), capture_output=True, text=True
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunError(f"measuring the memory of {mode} failed: {last}")
    return float(json.loads(done.stdout.splitlines()[-1])["bytes"])


def _status(field: str) -> int:
    """A size of this process from `/proc`, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise RunError(f"/proc/self/status does not name {field}")
    return 1024 * int(found[1])


def main() -> None:
    """The child process."""
    import torch

    from erecap.bench.prefill import prefill_call
    from erecap.models import load

    request = json.loads(sys.stdin.read())
    torch.set_num_threads(request["threads"])
    model, _ = load(request["model"], request["dtype"], "cpu")
    ids = request["ids"]
    prefill_call(request["mode"], model, ids[: max(8, len(ids) // 32)], request["keep"], request["scorer"])()
    before = _status("VmRSS")
    _RESET.write_text("5")  # sets the peak back to what is resident now
    prefill_call(request["mode"], model, ids, request["keep"], request["scorer"])()
    print(json.dumps({"bytes": _status("VmHWM") - before}))


if __name__ == "__main__":
    main()
