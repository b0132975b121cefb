"""Jobs that share forward calls: each runs until it asks for one, then all requests are served together.

The jobs run in threads of their own, because a call of a session is ordinary code that stops in its middle. They take
turns, so that never two of them run at once: what they share (a tokenizer, a world) needs no locks, and the
order of events is the same in every run. Forward calls are made by the thread that called `run`.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from erecap.engines.forwarder import current
from erecap.tokens.scoring import probe

if TYPE_CHECKING:
    from erecap.decoding.fused import FusedDecoder
    from erecap.engines.transformers import TransformersEngine


@dataclass
class Request:
    """A forward call that a job waits for; `logits` or `error` is the answer."""

    engine: TransformersEngine
    ids: list[int]
    keep: int  # logits of this many newest tokens; 0: of all
    decode: bool  # generated or drafted tokens
    collect: dict[int, torch.Tensor] | None  # attention weights are wanted, by layer
    fused: FusedDecoder | None  # reads it, if it is read alone; None: the model
    logits: torch.Tensor | None = None
    error: Exception | None = None


class Dismissed(BaseException):
    """Raised inside a job whose forward call will not be made, because the others were ended."""


class Seat:
    """One job and its thread. Either the job or the thread that called `run` goes on, never both."""

    def __init__(self, job: Callable[[], Any], number: int) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False
        self.number = number
        self.request: Request | None = None
        self._job = job
        self._dismissed = False
        self._turn = threading.Condition()
        self._ours = False  # the job's turn
        self._grad, self._inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        # A daemon: where a job hangs in foreign code, a second interrupt must still end the process.
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._work,), name=f"erecap-pool-{number}", daemon=True
        )

    # Called by the thread of `run` --------------------------------------------------------------------------

    def step(self) -> None:
        """Let the job go on until it asks for a forward call or ends."""
        with self._turn:
            self._ours = True
            if self._thread.ident is None:
                self._thread.start()
            self._turn.notify()
        self.settle()

    def settle(self) -> None:
        """Wait until it is not the job's turn."""
        with self._turn:
            self._turn.wait_for(lambda: not self._ours)
        if self.done:
            self._thread.join()

    def dismiss(self) -> None:
        """End the job where it waits, by an exception that it can clean up after."""
        if self._thread.ident is None:
            self.done = True
            return
        self._dismissed = True
        self.settle()
        while not self.done:
            self.step()

    # Called by the job --------------------------------------------------------------------------------------

    def forward(self, engine: TransformersEngine, ids: Sequence[int], keep: int, decode: bool) -> torch.Tensor:
        """Logits of a forward call, made together with those of the other jobs."""
        fused = engine.fused(len(ids), decode)
        self.request = request = Request(engine, list(ids), keep, decode, probe.current.collect, fused)
        if not self._dismissed:
            self._hand_over()
        self.request = None
        if self._dismissed:
            raise Dismissed
        if request.error is not None:
            raise request.error
        assert request.logits is not None, "a request is answered before its job goes on"
        return request.logits

    def give_way(self) -> None:
        """Let the other jobs go on, up to their next request; for engines that make their passes themselves."""
        if not self._dismissed:
            self._hand_over()
        if self._dismissed:
            raise Dismissed

    def _hand_over(self) -> None:
        with self._turn:
            self._ours = False
            self._turn.notify()
            self._turn.wait_for(lambda: self._ours)

    def _work(self) -> None:
        current.seat = self
        try:
            with torch.inference_mode(self._inference), torch.set_grad_enabled(self._grad):
                self.result = self._job()
        except BaseException as error:  # noqa: BLE001 (handed to the thread that waits for this one)
            self.error = error
        with self._turn:
            self.done, self._ours = True, False
            self._turn.notify()


def rendezvous(jobs: Sequence[Callable[[], Any]], serve: Callable[[list[Request]], None]) -> list[Seat]:
    """Run all `jobs` at once to their ends; `serve` answers the requests of all jobs that wait.

    Returns:
        The seats, in the order of the jobs, each with `result` or `error`.

    Raises:
        BaseException: as `taking_turns`.
    """
    return sorted(taking_turns(jobs, max(1, len(jobs)), serve), key=lambda seat: seat.number)


def taking_turns(
    jobs: Iterable[Callable[[], Any] | None], at_once: int, serve: Callable[[list[Request]], None]
) -> Generator[Seat, None, None]:
    """Run `jobs`, never more than `at_once` of them at a time: when one has ended, the next begins.

    Args:
        jobs: may give None where there is no job now, but may be one later; it is asked again before each forward
            call, and over and over while nothing is going on, so it should then wait.
        at_once: jobs begun and not ended; at least 1.
        serve: answers the requests of all jobs that wait.

    Yields:
        The seat of each job when it has ended, with `result` or `error`; numbered in the order of the jobs.

    Raises:
        ValueError: `at_once` below 1: no job would ever begin.
        BaseException: what is no `Exception` (an interrupt), from `serve`, a job or the waiting itself; all jobs
            have been ended then, as they are when the iterator is closed.
    """
    if at_once < 1:
        raise ValueError(f"at_once must be at least 1, got {at_once}")
    coming, number, more = iter(jobs), 0, True
    going: list[Seat] = []  # their turn is now
    waiting: list[Seat] = []  # for an answer of the model
    try:
        while True:
            while more and len(going) + len(waiting) < at_once:
                try:
                    job = next(coming)
                except StopIteration:
                    more = False
                    break
                if job is None:
                    break
                going.append(Seat(job, number))
                number += 1
            if going:
                for seat in going:
                    seat.step()
                    if seat.error is not None and not isinstance(seat.error, Exception):
                        raise seat.error
                ended = [seat for seat in going if seat.done]
                waiting += [seat for seat in going if not seat.done]
                going = []
                yield from ended
                if ended:
                    continue  # others may begin, and ask in the same forward call
            if not waiting:
                if not more:
                    return
                continue
            serve([seat.request for seat in waiting if seat.request is not None])
            going, waiting = waiting, []
    except BaseException:
        for seat in (*going, *waiting):
            seat.dismiss()
        raise
