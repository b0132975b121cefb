"""Our end of the pipe to `llamacpp_worker.py`, which runs in another interpreter."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from erecap.errors import ConfigError, RunError
from erecap.threading_policy import environment_of_others

WORKER = Path(__file__).with_name("llamacpp_worker.py")
BUILT = Path(".venv-llamacpp/bin/python")  # what `make bench-llamacpp` makes


def require(python: Path) -> None:
    """Raises ConfigError if there is no interpreter at `python`."""
    if not python.is_file():
        raise ConfigError(f"no llama.cpp at {python}: `make bench-llamacpp` builds it (about 10 minutes)")


class LlamaCpp:
    """A worker process; use it in a `with` statement.

    Args:
        python: an interpreter that has `llama-cpp-python`.
        worker: the script that it runs.

    Raises:
        ConfigError: there is no such interpreter.
    """

    def __init__(self, python: Path = BUILT, worker: Path = WORKER) -> None:
        require(python)
        self._log = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                [str(python), str(worker)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                env=environment_of_others(),  # it waits as it would without us
            )
        except OSError as error:
            self._log.close()
            raise ConfigError(f"{python} does not run: {error.strerror}") from error

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()  # it may be in the middle of a long read
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it is gone, which was said already
        self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """The worker's answer to one request, see `llamacpp_worker.py`.

        Raises:
            RunError: the worker failed, ended, or answered what is no answer.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # then there is no answer either
        line = self._process.stdout.readline()
        if not line:
            raise RunError(f"llama.cpp's process ended at '{what}': {self._last_words()}")
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise RunError(f"llama.cpp's process answered '{what}' with {line[:80]!r}, which is not JSON") from error
        if not isinstance(answer, dict) or "error" in answer:
            why = answer.get("error") if isinstance(answer, dict) else f"unexpected answer {line[:80]!r}"
            raise RunError(f"llama.cpp failed at '{what}': {why}")
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1][:200] if lines else f"exit code {code}"
