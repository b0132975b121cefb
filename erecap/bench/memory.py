"""Peak memory of one call: the most by which the resident set of a fresh process, or a GPU's memory, grows.

python -m erecap.bench.memory reads one JSON object from standard input and writes one to standard output.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erecap.errors import RunError
from erecap.generation import JsonRow, Message

if TYPE_CHECKING:
    from erecap.bench.replan.settings import ReplanBench

OUT = 9  # exit code of a child process that ran out of memory
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
    call = {"ids": list(ids), "mode": mode, "keep": keep, "scorer": scorer}
    return growth_elsewhere({"model": model, "dtype": dtype, "threads": threads, "prefill": call}, mode)


def replan_growth(
    model: str,
    dtype: str,
    mode: str,
    settings: ReplanBench,
    history: Sequence[Message],
    new: Message,
    threads: int,
) -> float | None:
    """Bytes that a replanning call takes at most beside the weights, in a fresh process.

    That is what a session stores of `history`, and what the call itself needs.

    Returns, Raises: as `peak_growth`.
    """
    call = {"mode": mode, "settings": asdict(settings), "history": list(history), "new": new}
    return growth_elsewhere({"model": model, "dtype": dtype, "threads": threads, "replan": call}, mode)


class OutOfMemory(RunError):
    """A process that was to be measured had no more memory to take."""


def device_growth(model: Any, make: Callable[[], Callable[[], object]]) -> dict[str, float]:
    """Bytes by which the memory allocated on each of the model's GPUs grows at most, while the call is made.

    Args:
        make: makes the call. It was made once before, so that what is allocated once does not count.
    """
    import torch

    devices = sorted({tensor.device for tensor in model.parameters() if tensor.device.type == "cuda"}, key=str)
    torch.cuda.empty_cache()
    before = {device: torch.cuda.memory_allocated(device) for device in devices}
    call = make()
    for device in devices:
        torch.cuda.reset_peak_memory_stats(device)
    call()
    for device in devices:
        torch.cuda.synchronize(device)
    return {str(device): float(torch.cuda.max_memory_allocated(device) - before[device]) for device in devices}


def gpu_growth(model: Any, make: Callable[[], Callable[[], object]]) -> float:
    """Bytes by which the memory allocated on the model's GPU grows at most, while the call that `make` makes is made.

    The call was warmed up before, so that what is allocated once does not count.
    """
    return device_growth(model, make)[str(model.device)]


def growth_elsewhere(request: JsonRow, what: str, module: str = "erecap.bench.memory") -> float | None:
    """Bytes that a child process reports.

    Args:
        request: what the child reads from its standard input.
        what: is measured, for messages.
        module: is run in the child, and ends with `report`.

    Returns:
        None where the system does not tell.

    Raises:
        OutOfMemory: the child had no more memory to take, or the system ended it.
        RunError: it failed otherwise; its last line is in the message.
    """
    if not _RESET.exists():
        return None
    done = subprocess.run([sys.executable, "-m", module], input=json.dumps(request), capture_output=True, text=True)
    if done.returncode == -signal.SIGKILL:
        raise OutOfMemory(f"measuring the memory of {what} failed: the system ended the process")
    if done.returncode == OUT:
        raise OutOfMemory(f"measuring the memory of {what} failed: it ran out of memory")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunError(f"measuring the memory of {what} failed: {last}")
    return float(json.loads(done.stdout.splitlines()[-1])["bytes"])


def _status(field: str) -> int:
    """A size of this process from `/proc`, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise RunError(f"/proc/self/status does not name {field}")
    return 1024 * int(found[1])


def _prefill(model: Any, ids: Sequence[int], mode: str, keep: float, scorer: str) -> Callable[[], Callable[[], object]]:
    from erecap.bench.prefill import prefill_call

    prefill_call(mode, model, ids[: max(8, len(ids) // 32)], keep, scorer)()
    return lambda: prefill_call(mode, model, ids, keep, scorer)


def _replan(
    model: Any, tokenizer: Any, mode: str, settings: JsonRow, history: Sequence[Message], new: Message
) -> Callable[[], Callable[[], object]]:
    from erecap.bench.replan.calls import algorithm_call
    from erecap.bench.replan.settings import ReplanBench
    from erecap.config.modes import parse_mode

    bench = ReplanBench(**settings)
    # The first answer allocates what every later one uses again.
    algorithm_call(parse_mode(mode), bench, model, tokenizer, history[:3], new)()
    return lambda: algorithm_call(parse_mode(mode), bench, model, tokenizer, history, new)


def report(make: Callable[[], Callable[[], object]]) -> None:
    """Print, in a child process, the bytes by which it grows at most while it makes the call that `make` makes."""
    before = _status("VmRSS")
    call = make()  # a session reads the history here; what it stores counts, what reading took does not
    _RESET.write_text("5")  # sets the peak back to what is resident now
    call()
    print(json.dumps({"bytes": _status("VmHWM") - before}))


def serve_request(measure: Callable[[JsonRow, Any, Any], None]) -> None:
    """Read the request of a child process, load its model on the CPU, and measure.

    Args:
        measure: given the request, the model and its tokenizer.
    """
    import torch

    from erecap.bench.out_of_memory import ran_out
    from erecap.models import load

    request = json.loads(sys.stdin.read())
    torch.set_num_threads(request["threads"])
    try:
        measure(request, *load(request["model"], request["dtype"], "cpu", adapter=request.get("adapter")))
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        sys.exit(OUT)


def _measure(request: JsonRow, model: Any, tokenizer: Any) -> None:
    if "prefill" in request:
        report(_prefill(model, **request["prefill"]))
    else:
        report(_replan(model, tokenizer, **request["replan"]))


if __name__ == "__main__":
    serve_request(_measure)
