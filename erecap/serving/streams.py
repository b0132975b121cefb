"""An answer as it is written: from the engine's thread to the events of a response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from erecap.serving.answers import Answer, event
from erecap.serving.engine import Ask
from erecap.serving.failures import ApiFailure
from erecap.serving.metrics import Metrics


class Stream:
    """Takes over `ask`'s texts; made before it is submitted, in the event loop that will read them.

    Args:
        ask: the request.
        answer: its answer. With tools the text is sent when it is whole, for only then it is known to be no call.
        with_usage: end with the token counts.
    """

    def __init__(self, ask: Ask, answer: Answer, with_usage: bool) -> None:
        self._ask, self._answer, self._with_usage = ask, answer, with_usage
        self._loop = asyncio.get_running_loop()
        self._texts: asyncio.Queue[str | None] = asyncio.Queue()  # the answer so far; None: it is whole
        self._first: str | None = None
        if not answer.tools:
            ask.on_text = self._put
        ask.answer.add_done_callback(lambda _: self._put(None))

    async def begun(self) -> None:
        """Wait for the beginning of the answer.

        Raises:
            ApiFailure: there will be none.
        """
        try:
            self._first = await self._texts.get()
            if self._first is None:
                self._ask.answer.result()
        except BaseException:
            self._ask.given_up.set()
            raise

    async def events(self, metrics: Metrics) -> AsyncIterator[str]:
        """The events of the response. Left before the end, the request is given up."""
        sent, text = "", self._first
        try:
            yield self._answer.first()
            while text is not None:
                if len(text) > len(sent):
                    yield self._answer.text(text[len(sent) :])
                    sent = text
                text = await self._texts.get()
            generation = self._ask.answer.result()
            metrics.answered(generation, self._ask.waited)
            for chunk in self._answer.last(generation, sent, self._with_usage):
                yield chunk
        except ApiFailure as failure:
            yield event(failure.body())
        finally:
            self._ask.given_up.set()

    def _put(self, text: str | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._texts.put_nowait, text)
        except RuntimeError:  # the loop has ended, and nobody reads any more
            self._ask.given_up.set()
