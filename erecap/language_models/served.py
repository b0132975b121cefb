"""A language model behind an OpenAI-compatible server: one process holds the model, many ask it."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from erecap.errors import ConfigError, ModelError
from erecap.generation import AllowedTokens, FinishReason, Generation, Message, Timing, Usage

KEY = "OPENAI_API_KEY"  # environment variable whose value goes to the server, where it is set
BUSY = (429, 503)  # statuses of a server that takes no more requests now
PATIENCE_S = 120.0  # for which a busy or restarting server is asked again
_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


class ServedLanguageModel:
    """Asks a server for every answer, with the whole chat; what of it is kept and read anew is the server's business.

    Each episode is a conversation of its own, named in the header `X-Session-Id`, so that replicas behind a proxy keep
    it together. The server chooses tokens: a constraint goes to it as a regular expression (`pattern`), in the field
    `structured_outputs` that vLLM and `erecap serve` take.

    Args:
        url: of the server, with its `/v1`.
        timeout_s: that one request may take.

    Raises:
        ConfigError: a URL that is none.
    """

    trace = False
    tokenizer = None
    takes_old_plan = False
    takes_pattern = True

    def __init__(self, url: str, timeout_s: float = 600.0, patience_s: float = PATIENCE_S) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or "@" in parts.netloc:
            raise ConfigError(f"model: got {url!r}; allowed: a server's URL such as http://127.0.0.1:8000/v1")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connect = lambda: kind(str(parts.hostname), port, timeout=timeout_s)
        self._path, self._where = parts.path.rstrip("/"), f"{parts.scheme}://{parts.netloc}"
        self._patience_s = patience_s
        self._name: str | None = None
        self.reset()

    @property
    def name(self) -> str:
        """The first model that the server offers.

        Raises:
            ModelError: it cannot be reached, or offers none.
        """
        if self._name is None:
            offered = self._ask("GET", "/models", None)
            try:
                self._name = str(offered["data"][0]["id"])
            except (KeyError, IndexError, TypeError) as error:
                raise ModelError(f"{self._where}: offers no model") from error
        return self._name

    def reset(self) -> None:
        """Begin an episode: a conversation that the server has not met."""
        self._session = secrets.token_hex(8)

    def generate(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int,
        stop: Sequence[str] | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        allowed_tokens: AllowedTokens | None = None,
        deadline_ms: float | None = None,
        cancel: Callable[[], bool] | None = None,
        on_text: Callable[[str], None] | None = None,
        pattern: str | None = None,
    ) -> Generation:
        """The server's answer.

        Args:
            pattern: a regular expression that the whole answer matches.

        Raises:
            ValueError: a constraint on token ids, a deadline, `cancel` or `on_text`, which no request can carry.
            ModelError: the server cannot be reached, refuses, or answers what is no answer.
        """
        unserved = {"allowed_tokens": allowed_tokens, "deadline_ms": deadline_ms, "cancel": cancel, "on_text": on_text}
        given = next((name for name, value in unserved.items() if value is not None), None)
        if given is not None:
            raise ValueError(f"{given}: a model behind a server cannot take it")
        body: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": message["role"], "content": message["content"]} for message in messages],
            "max_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
        }
        body |= {} if seed is None else {"seed": seed}
        body |= {"stop": list(stop)} if stop else {}
        body |= {} if pattern is None else {"structured_outputs": {"regex": pattern}}
        started = time.perf_counter()
        answer = self._ask("POST", "/chat/completions", body)
        took = 1e3 * (time.perf_counter() - started)
        try:
            choice = answer["choices"][0]
            text, why = choice["message"]["content"] or "", _FINISH[choice["finish_reason"]]
            usage = _usage(answer["usage"])
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ModelError(f"{self._where}: the answer cannot be read: {json.dumps(answer):.200}") from error
        return Generation(text, why, usage, Timing(total_ms=took))

    def _ask(self, method: str, path: str, body: Any) -> Any:
        """The JSON of one answer; a busy server, or one that cannot be reached, is asked again for a while."""
        content = None if body is None else json.dumps(body).encode("ascii")
        headers = {"Content-Type": "application/json", "X-Session-Id": self._session}
        if os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {os.environ[KEY]}"
        until, wait = time.monotonic() + self._patience_s, 0.25
        while True:
            status, said = self._once(method, self._path + path, content, headers)
            if status not in (0, *BUSY) or time.monotonic() + wait > until:
                break
            time.sleep(wait)
            wait = min(2 * wait, 8.0)
        if status != 200:
            problem = f"answers with the status {status}: {said:.300}" if status else f"cannot be reached: {said}"
            raise ModelError(f"{self._where}: {problem}")
        try:
            return json.loads(said)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{self._where}: answers no JSON") from error

    def _once(self, method: str, path: str, content: bytes | None, headers: dict[str, str]) -> tuple[int, str]:
        """Status and text of the answer; status 0 where there was none."""
        connection = self._connect()
        try:
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            return 0, f"{type(error).__name__}: {error}"
        finally:
            connection.close()


def _usage(said: dict[str, Any]) -> Usage:
    details = said.get("prompt_tokens_details") or {}
    prompt, cached = int(said["prompt_tokens"]), int(details.get("cached_tokens") or 0)
    return Usage(
        prompt_tokens=prompt,
        new_tokens=prompt - cached,
        reused_tokens=cached,
        completion_tokens=int(said["completion_tokens"]),
    )
