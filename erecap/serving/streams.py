"""An answer as it is written: from the engine's thread to the events of a response."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse

from erecap.generation import Generation
from erecap.serving.engine import Ask
from erecap.serving.failures import ApiFailure, waited_too_long
from erecap.serving.jobs import Job
from erecap.serving.metrics import Metrics

_LOOK_S = 0.25  # how often a request that waits looks whether its client is still there


class Stream:
    """Takes over a job's texts; made before it is submitted, in the event loop that will read them."""

    def __init__(self, job: Job) -> None:
        self._ask, self._answer = job.ask, job.answer
        self._loop = asyncio.get_running_loop()
        self._texts: asyncio.Queue[str | None] = asyncio.Queue()  # the answer so far; None: it is whole
        self._first: str | None = None
        if not job.answer.waits:
            job.ask.on_text = self._put
        job.ask.answer.add_done_callback(lambda _: self._put(None))

    async def begun(self, request: Request, most_s: float) -> None:
        """Wait for the beginning of the answer; a client that hangs up ends it.

        Raises:
            ApiFailure: there will be none.
        """
        try:
            self._first = await watched(self._texts.get(), self._ask, request, most_s)
            if self._first is None:
                self._ask.answer.result()
        except BaseException:
            self._ask.given_up.set()
            raise

    def response(self, metrics: Metrics) -> StreamingResponse:
        """The response. Left before the end, the request is given up."""
        return _Events(self._ask, self._events(metrics), media_type="text/event-stream")

    async def _events(self, metrics: Metrics) -> AsyncIterator[str]:
        sent, text = "", self._first
        try:
            for one in self._answer.first():
                yield one
            while text is not None:
                if len(text) > len(sent):
                    for one in self._answer.text(text[len(sent) :]):
                        yield one
                    sent = text
                text = await self._texts.get()
            generation = self._ask.answer.result()
            metrics.answered(generation, self._ask.waited)
            for one in self._answer.last(generation, sent, self._ask.evicted):
                yield one
        except ApiFailure as failure:
            for one in self._answer.failed(failure):
                yield one

    def _put(self, text: str | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._texts.put_nowait, text)
        except RuntimeError:  # the loop has ended, and nobody reads any more
            self._ask.given_up.set()


class _Events(StreamingResponse):
    """A stream that gives its request up however it ends, even before its first event."""

    def __init__(self, ask: Ask, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._ask = ask

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ask.given_up.set()


async def whole(ask: Ask, request: Request, most_s: float) -> Generation:
    """The generation; a client that hangs up ends it.

    Args:
        most_s: how long it may wait until the model turns to it.

    Raises:
        ApiFailure: there is none.
    """
    try:
        return await watched(asyncio.wrap_future(ask.answer), ask, request, most_s)
    except BaseException:
        ask.given_up.set()
        raise


async def watched(coming: Any, ask: Ask, request: Request, most_s: float) -> Any:
    """Wait for `coming`, and return its result. A client that hangs up gives `ask` up, which ends `coming`.

    Raises:
        ApiFailure: the model has not turned to `ask` in time.
    """
    task = asyncio.ensure_future(coming)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=_LOOK_S)
            if not task.done() and await request.is_disconnected():
                ask.given_up.set()
            waited = time.perf_counter() - ask.came
            if not task.done() and not ask.begun and waited > most_s:
                raise waited_too_long(waited)
        return task.result()
    finally:
        task.cancel()
