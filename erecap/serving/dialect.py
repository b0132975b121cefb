"""The question whether the server behind a proxy carries out edits of chats, asked before the first of them is sent."""

from __future__ import annotations

import json

from fastapi import Request

from erecap.serving.failures import ApiFailure
from erecap.serving.paths import PATH
from erecap.serving.replicas import Replicas

_REFUSALS = (400, 422)  # statuses by which servers refuse a field that they do not know
_COUNT = "drop_skipped_tokens"  # of the prompt's tokens, told by servers that carry out edits, zeros included


class Dialect:
    """Remembers of each model whether its server carries out `drop_message`.

    A server that ignores the field would answer to the whole chat, which only grows; so it is asked with a chat of one
    message, for one token, and must tell its count of dropped tokens.
    """

    def __init__(self, behind: Replicas) -> None:
        self._behind = behind
        self._speaks: dict[str, bool] = {}

    async def check(self, request: Request, body: bytes) -> None:
        """Ask once for the model of a request that is about to be sent with edits.

        Args:
            request: whose path and headers are those of the question.
            body: of the request, as it will be sent.

        Raises:
            ApiFailure: the server does not carry out edits.
        """
        model = json.loads(body).get("model")
        name = json.dumps(model)
        if name not in self._speaks:
            until = self._behind.until()
            asked = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
            question = json.dumps({**asked, "drop_message": {"0": []}}).encode("ascii")
            answer, content = await self._behind.ask_whole(request, request.scope[PATH], question, until)
            if answer.status_code < 400 or answer.status_code in _REFUSALS:
                self._speaks[name] = answer.status_code < 400 and _counts(content)
        if not self._speaks.get(name, True):  # other failures are those of the request itself, which will show them
            raise ApiFailure(
                502,
                "the server behind does not carry out drop_message: its usage has no "
                f"prompt_tokens_details.{_COUNT}; leave out --emit-edits",
                "server_error",
                "upstream",
            )


def _counts(content: bytes) -> bool:
    """True if an answer tells how many tokens were dropped."""
    try:
        usage = json.loads(content)["usage"]
        return _COUNT in usage["prompt_tokens_details"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
