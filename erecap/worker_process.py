"""A worker process in another Python interpreter, asked over JSON lines: no pickle, nothing of ours imported there.

The worker reads one JSON object a line from its standard input, `{"do": ..., ...}`, and writes one a line to its
standard output; `{"error": "..."}` where a request failed. What it prints to standard error is kept for messages.
"""

from __future__ import annotations

import json
import queue
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from erecap.errors import ConfigError, RunError
from erecap.untrusted import parse_json


class ProcessEnded(RunError):
    """A worker's process ended by itself; not the end that a request gets which takes too long."""


class WorkerProcess:
    """The process; use it in a `with` statement.

    Args:
        name: of what the worker runs, for messages.
        python: the interpreter.
        worker: the script that it runs.
        time_limit: seconds that one request may take; None: any time.
        environment: of the process; None: ours.

    Raises:
        ConfigError: there is no such interpreter, or it does not run.
    """

    def __init__(
        self,
        name: str,
        python: Path,
        worker: Path,
        *,
        time_limit: float | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if not python.is_file():
            raise ConfigError(f"no interpreter for {name} at {python}")
        self.name = name
        self.time_limit = time_limit
        self._errors = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                [str(python), str(worker)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                encoding="utf-8",
                env=environment,
            )
        except OSError as error:
            self._errors.close()
            raise ConfigError(f"{python} does not run: {error.strerror}") from error
        self._lines: queue.Queue[str] = queue.Queue()
        # Lines are read in a thread, so that waiting for one can be limited in time.
        self._reading = threading.Thread(target=self._read_lines, name=f"erecap-{name}-worker", daemon=True)
        self._reading.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(kill=kind is not None)  # after an error it may be in the middle of something long

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def close(self, *, kill: bool = False) -> None:
        """End the worker: by closing its input, or at once."""
        if kill:
            self._process.kill()
        try:
            self._stream(self._process.stdin).close()
        except BrokenPipeError:
            pass  # it has ended, which was said already
        self._process.wait()
        self._reading.join()
        self._stream(self._process.stdout).close()
        self._errors.close()

    def ask(self, what: str, *, time_limit: float | None = None, **arguments: Any) -> dict[str, Any]:
        """Return the worker's answer to one request.

        Args:
            what: the request's name, sent as `do`.
            time_limit: seconds, instead of the worker's own limit.
            arguments: JSON values.

        Raises:
            ProcessEnded: the worker ended.
            RunError: it failed, took too long (it is killed then), or its answer is no JSON object.
        """
        limit = self.time_limit if time_limit is None else time_limit
        try:
            stdin = self._stream(self._process.stdin)
            stdin.write(json.dumps({"do": what, **arguments}) + "\n")
            stdin.flush()
        except BrokenPipeError:
            pass  # then there is no answer either
        try:
            line = self._lines.get(timeout=limit)
        except queue.Empty as error:
            self._process.kill()
            raise RunError(f"{self.name} took longer than {limit:g} s at '{what}', and was ended") from error
        if not line:
            self._lines.put("")  # it stays ended: further requests need not wait
            raise ProcessEnded(f"{self.name}'s process ended at '{what}': {self._last_words()}")
        try:
            answer = parse_json(line)
        except ValueError as error:
            raise RunError(f"{self.name}'s process answered '{what}' with {line[:80]!r}, which is not JSON") from error
        if not isinstance(answer, dict) or "error" in answer:
            why = answer.get("error") if isinstance(answer, dict) else f"unexpected answer {line[:80]!r}"
            raise RunError(f"{self.name} failed at '{what}': {why}")
        return answer

    def _read_lines(self) -> None:
        for line in self._stream(self._process.stdout):
            self._lines.put(line)
        self._lines.put("")  # the end of the process

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1][:200] if lines else f"exit code {code}"

    @staticmethod
    def _stream(stream: IO[str] | None) -> IO[str]:
        assert stream is not None, "all three streams are pipes"
        return stream
