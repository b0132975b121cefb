"""A language model behind an OpenAI-compatible server: one process holds the model, many ask it."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from erecap.config.server_url import ServerUrl
from erecap.errors import BudgetError, ConfigError, ModelError
from erecap.generation import AllowedTokens, FinishReason, Generation, Message, Timing, Usage

KEY = "OPENAI_API_KEY"  # environment variable whose value goes to the server, where it is set
BUSY = (429, 502, 503)  # statuses of a server that takes no more requests now, and of a proxy that finds none behind it
PATIENCE_S = 120.0  # for which a busy or restarting server is asked again
_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


class ServedLanguageModel:
    """Asks a server for every answer, with the whole chat; what of it is kept and read anew is the server's business.

    Each episode is a conversation of its own, named in the header `X-Session-Id`, so that replicas behind a proxy keep
    it together. The server chooses tokens: a constraint goes to it as a regular expression (`pattern`), in the field
    `structured_outputs` that vLLM and `erecap serve` take.

    Args:
        url: of the server, with its `/v1`, and with `#NAME` where it offers several models.
        timeout_s: that one request may take.
        patience_s: for which a busy server, or one that cannot be reached, is asked again.

    Raises:
        ConfigError: a URL that is none.
    """

    trace = False
    tokenizer = None
    takes_old_plan = False
    takes_pattern = True

    def __init__(self, url: str, timeout_s: float = 600.0, patience_s: float = PATIENCE_S) -> None:
        try:
            server = ServerUrl.of(url)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        kind = http.client.HTTPSConnection if server.secure else http.client.HTTPConnection
        self._connect = lambda: kind(server.host, server.port, timeout=timeout_s)
        self._path, self._where = server.path, str(server)
        self._patience_s = patience_s
        self._wanted = server.model
        self._name: str | None = None
        self.reset()

    @property
    def where(self) -> str:
        """The server, for messages."""
        return self._where

    @property
    def name(self) -> str:
        """The model of the URL, or the only one that the server offers.

        Raises:
            ModelError: the server cannot be reached, does not offer it, or offers several and the URL names none.
        """
        if self._name is None:
            self._name = self._offered()
        return self._name

    def _offered(self) -> str:
        said = self._ask("GET", "/models", None)
        try:
            names = [model["id"] for model in said["data"]]
        except (KeyError, TypeError):
            names = []
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ModelError(f"{self._where}: offers no model")
        wanted: str | None = names[0] if self._wanted is None and len(names) == 1 else self._wanted
        if wanted is None or wanted not in names:
            lacks = "offers several models" if self._wanted is None else f"does not offer {self._wanted!a}"
            shown = ", ".join(ascii(name) for name in names[:8]) + (", ..." if len(names) > 8 else "")
            raise ModelError(f"{self._where}: {lacks}; allowed behind # in the URL: {shown}")
        return wanted

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
            BudgetError: the chat does not fit the server's window.
            ConfigError: a key that no header can carry.
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
            text, why, usage = _read(answer)
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"{self._where}: the answer cannot be read: {json.dumps(answer):.200}") from error
        return Generation(text, why, usage, Timing(total_ms=took))

    def _ask(self, method: str, path: str, body: Any) -> Any:
        """The JSON of one answer; a busy server, or one that cannot be reached, is asked again for a while."""
        content = None if body is None else json.dumps(body).encode("ascii")
        headers = {"Content-Type": "application/json", "X-Session-Id": self._session}
        key = os.environ.get(KEY, "")
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(f"{KEY}: has characters that no header can carry; allowed: printable ASCII, in one line")
        if key:
            headers["Authorization"] = f"Bearer {key}"
        until, wait = time.monotonic() + self._patience_s, 0.25
        while True:
            status, said = self._once(method, self._path + path, content, headers)
            if status not in (0, *BUSY) or time.monotonic() + wait > until:
                break
            time.sleep(wait)
            wait = min(2 * wait, 8.0)
        if status != 200:
            if status == 400 and _too_long(said):
                raise BudgetError(f"{self._where}: the chat does not fit: {_shown(said)}")
            problem = f"answers with the status {status}: {_shown(said)}" if status else f"cannot be reached: {said}"
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


def _read(answer: Any) -> tuple[str, FinishReason, Usage]:
    """Text, finish reason and counts of an answer; any of several errors where it is none."""
    choice, said = answer["choices"][0], answer["usage"]
    text = choice["message"]["content"] or ""
    if not isinstance(text, str):
        raise TypeError("the content is no text")
    details = said.get("prompt_tokens_details") if isinstance(said, dict) else None
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    prompt, cached, completion = int(said["prompt_tokens"]), int(cached or 0), int(said["completion_tokens"])
    if not 0 <= cached <= prompt or completion < 0:
        raise ValueError("counts that cannot be")
    usage = Usage(prompt_tokens=prompt, new_tokens=prompt - cached, reused_tokens=cached, completion_tokens=completion)
    return text, _FINISH[choice["finish_reason"]], usage


def _too_long(said: str) -> bool:
    """True for the refusal of a chat that exceeds the model's window, as the OpenAI API and as vLLM word it."""
    return "context_length_exceeded" in said or "maximum context length" in said


def _shown(said: str) -> str:
    """A body in one line."""
    return ascii(" ".join(said.split())[:300])[1:-1]
