"""A vLLM server with the connector, and the conversations that it keeps. Without torch and vLLM.

Over HTTP a server tells the tokens of its answers, and no logits of other tokens. So no session can be on it, whose
decoding chooses them: policies that only say what to keep can, and vLLM decodes.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from erecap.engines.vllm.kept import Answer, Ask, KeptTokens, all_of
from erecap.engines.vllm.wire import Told
from erecap.errors import RunError

MOST_BYTES = 16 << 20  # of an answer
FAILED = 500  # status of a request whose kept tokens could not be loaded


class _NotGiven(RunError):
    """A request has ended without the tokens that it goes on from."""


@dataclass
class VllmServer:
    """An address where `vllm serve` answers with `ErecapConnector`.

    Attributes:
        url: with its `/v1`.
        model: name under which the server offers it.
        vocabulary: token ids are below this.
        block: tokens of a block of its cache.
        unused: names of entries that no conversation needs any more; the next request tells them.
    """

    url: str
    model: str
    vocabulary: int = 1 << 30
    block: int = 16
    key: str | None = None
    timeout_s: float = 600.0
    unused: list[str] = field(default_factory=list)
    why_fixed: str | None = None  # the server refuses keys that it cannot turn
    _lost: set[str] = field(default_factory=set)

    def holds(self, name: str) -> bool:
        """False if vLLM has failed a request that went on from an entry: the tokens are then read again."""
        return name not in self._lost

    def conversation(self) -> ServedTokens:
        """A new conversation."""
        return ServedTokens(self)

    def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """Make requests at once, which vLLM runs together.

        Raises:
            RunError: nothing answers there, or the server has refused one of them: its kept tokens must be read again.
        """
        if len(asks) == 1:
            return [self._asked(asks[0])]
        with ThreadPoolExecutor(max(1, len(asks))) as threads:
            return list(threads.map(self._asked, asks))

    def _asked(self, ask: Ask) -> Answer:
        unused = all_of(self.unused)
        asked = ask.asked.dropping(unused)
        body = {
            "model": self.model, "prompt": list(ask.ids), "max_tokens": ask.most, "temperature": 0,
            "ignore_eos": True, "stop_token_ids": list(ask.ends), "cache_salt": ask.salt, "return_token_ids": True,
            "kv_transfer_params": asked.params(),
        }  # fmt: skip
        try:
            found = self._post("completions", body)
            choice, told = found["choices"][0], Told.of(found.get("kv_transfer_params"))
            if told is None or told.given < ask.asked.kept:
                why = told.refused if told else "no connector"
                raise _NotGiven(f"{self.url}: kept tokens were not given back: {why}")
        except RunError as error:
            self.unused.extend(unused)
            if isinstance(error, _NotGiven) and ask.asked.source is not None:
                self._lost.add(ask.asked.source)
            raise
        ids = tuple(choice["token_ids"])
        cached = ((found.get("usage") or {}).get("prompt_tokens_details") or {}).get("cached_tokens") or told.given
        return Answer(ids, told, cached, -(-(len(ask.ids) + len(ids)) // self.block))

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        try:
            request = urllib.request.Request(f"{self.url}/{path}", json.dumps(body).encode(), headers)
            with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:
                found = json.loads(answer.read(MOST_BYTES))
        except urllib.error.HTTPError as error:
            text = " ".join(error.read(2000).decode("utf-8", "replace").split())
            kind = _NotGiven if error.code == FAILED else RunError
            raise kind(f"{self.url}: status {error.code}: {text[:300]}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise RunError(f"{self.url}: no answer of a vLLM: {error}") from error
        if not isinstance(found, dict) or not found.get("choices"):
            raise RunError(f"{self.url}: an answer without choices")
        return found


class ServedTokens(KeptTokens):
    """A conversation on a server; what it reads and keeps is decided here, and vLLM decodes."""

    keeper: VllmServer

    def answer(self, ids: Sequence[int], most: int, ends: Sequence[int] = ()) -> tuple[int, ...]:
        """Read `ids`, and answer with at most `most` tokens, which are read as well, but for the last.

        Raises:
            RunError: as `VllmServer.ask`; the conversation is then as before.
        """
        ask = self.ask(ids, most, ends)
        [answer] = self.keeper.ask([ask])
        self.took(ask, answer)
        return answer.ids
