"""The two kinds of process of the neighbour benchmark: one that keeps cores busy, and one that replans when asked.

Both are ended when their `with` block is left, however that happens, and end by themselves when this process has ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erecap.errors import RunError
from erecap.generation import JsonRow
from erecap.threading_policy import VARIABLES

WORKER = Path(__file__).with_name("neighbour_worker.py")


class _Child:
    """A process that answers in lines; its errors are kept for the message if it fails."""

    def __init__(self, what: str, command: Sequence[str], waiting: Mapping[str, str]) -> None:
        self._what = what
        # What this process was told about waiting, by us or by the user, is not for the child.
        others = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        self._errors = tempfile.TemporaryFile("w+")
        try:
            # In a session of its own an interrupt from the keyboard reaches this process only, which then ends it.
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env={**others, **waiting},
                start_new_session=True,
            )
        except OSError:
            self._errors.close()
            raise

    def __exit__(self, *error: object) -> None:
        self.process.kill()  # ends a stopped process, too
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self._errors):
            pipe.close()  # type: ignore[union-attr]

    def _line(self) -> str:
        line: str = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise self._failed()
        return line

    def _failed(self) -> RunError:
        self.process.kill()
        self.process.wait()
        self._errors.seek(0)
        last = (self._errors.read().strip().splitlines() or ["no message"])[-1]
        return RunError(f"{self._what} ended: {last}")


class Neighbour(_Child):
    """A process that multiplies matrices on `threads` threads, and waits in OpenMP as its library does by default.

    It runs when the `with` block is entered.

    Args:
        worker: the script that it runs.

    Raises:
        RunError: it ended by itself, which is noticed when it is entered or paused.
    """

    def __init__(self, threads: int, worker: Path = WORKER) -> None:
        # -P: what `import` finds must not be our modules in the folder of the script.
        super().__init__("the busy neighbour", ["-P", str(worker), str(threads), str(os.getpid())], {})

    def __enter__(self) -> Neighbour:
        try:
            self._line()
        except BaseException:
            self.__exit__()
            raise
        return self

    def pause(self) -> None:
        """Stop it; returns when it stands still."""
        self.process.send_signal(signal.SIGSTOP)  # looks first whether it has ended
        if self.process.returncode is None:
            _, status = os.waitpid(self.process.pid, os.WUNTRACED)
            if os.WIFSTOPPED(status):
                return
            self.process.returncode = os.waitstatus_to_exitcode(status)
        raise self._failed()

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)


class Replanner(_Child):
    """A process with a warm session that has read a history, and times one replanning call whenever it is asked.

    Args:
        waiting: variables on waiting that it is started with; without any, ours come into force as for every user.
        request: `model`, `dtype`, `threads`, `kv_tokens`, `history`, `new`, `plan_tokens`, `seed`.
    """

    def __init__(self, waiting: Mapping[str, str], request: JsonRow) -> None:
        self._request = request
        self.waiting: dict[str, str] = {}  # the variables that are in force in it
        super().__init__("the process that replans", ["-m", "erecap.bench.replan_worker"], waiting)

    def __enter__(self) -> Replanner:
        try:
            self.waiting = self._ask(self._request)["waiting"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def call(self) -> float:
        """Milliseconds of one replanning call."""
        return float(self._ask({})["total_ms"])

    def _ask(self, request: JsonRow) -> Any:
        try:
            self.process.stdin.write(json.dumps(request) + "\n")  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]
        except BrokenPipeError as error:
            raise self._failed() from error
        return json.loads(self._line())
