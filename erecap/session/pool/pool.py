"""`ReplanPool`: the replanning calls of several agents on one model, in shared forward calls."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from erecap.decoding.short import PACKED_TOKENS
from erecap.generation import Generation, Message
from erecap.session.pool.turns import Request, rendezvous, taking_turns
from erecap.session.session import ReplanSession
from erecap.tokens import hooks
from erecap.tokens.ragged import Part, joins_calls, read_together
from erecap.tokens.scoring import probe
from erecap.tokens.servable import outside_inference

Result = TypeVar("Result")
Call = tuple[ReplanSession, Sequence[Message], Mapping[str, Any]]

log = logging.getLogger(__name__)


@dataclass
class PoolCounts:
    """Counts of a pool's work so far."""

    requests: int = 0  # forward calls that sessions asked for
    forwards: int = 0  # forward calls made
    retries: int = 0  # shared forward calls that failed and were made again one by one


class ReplanPool:
    """Lets sessions on one model decode together: simultaneous requests to the model become one forward call.

    Decoding one token reads every weight once; so does decoding one token for each of several agents. Each session
    reads, evicts, drafts and decodes as it would alone, and gets the logits that it would get alone, up to
    the rounding of larger matrix products.

    Reads that prune tokens on their way, and long last chunks of a prompt where `evict_by="attention"` looks at their
    attention, are made alone, in turn; the decoding of these sessions is shared. So are prompts of sessions with packed
    `decode_weights`: those round activations to bfloat16, which would make the rounding of a larger product in the
    prompt a visible one. Their shared decoding is the same to the bit. Requests are also kept apart where
    sessions alone would take different ways: other `decode_weights`, or long chunks and short ones. All requests of a
    model whose rotary embeddings follow the length of the sequence (longrope, dynamic NTK) are made alone, in turn.

    Example:
        pool = erecap.ReplanPool(model, tokenizer)
        agents = [pool.session(budget=erecap.Budget(kv_tokens=1024)) for _ in range(4)]
        plans = pool.generate([(agent, chat, {"max_new_tokens": 64}) for agent, chat in zip(agents, chats)])

    Models of other engines are served as well: their sessions take turns, pass by pass, and share none.

    Args:
        model: a causal language model of transformers, in eval mode, or one of another engine.
        tokenizer: its fast tokenizer, with a chat template.
        max_tokens: tokens of one shared forward call; more are split over several. A single read may be longer.

    Raises:
        ValueError: a model whose attention cannot be split, or `max_tokens` below 1.
    """

    def __init__(self, model: Any, tokenizer: Any, *, max_tokens: int = 2048) -> None:
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
        # Each call has a length of its own, which the angles of some rotary embeddings follow.
        self._hooked = hasattr(model, "modules")
        self._apart = self._hooked and not joins_calls(model)
        self.model = model
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.counts = PoolCounts()
        with self._attention_split():
            pass  # an attention implementation that cannot be split is refused here, not in the middle of a call

    def session(self, **options: Any) -> ReplanSession:
        """A new `ReplanSession` with these options. Any other session on the same model may join as well."""
        return ReplanSession(self.model, self.tokenizer, **options)

    def generate(self, calls: Sequence[Call], *, return_exceptions: bool = False) -> list[Generation]:
        """`session.generate(messages, **options)` for each `(session, messages, options)` of `calls`, together.

        Times in the generations include waiting for the others, and so do deadlines.

        Args:
            return_exceptions: put exceptions into the list, instead of raising the first when all calls have ended.

        Raises:
            ValueError: a session twice, or one on another model.
        """
        sessions = [session for session, _, _ in calls]
        for number, session in enumerate(sessions):
            if session.model is not self.model:
                raise ValueError(f"the session of call {number} is on another model than the pool")
            if any(session is other for other in sessions[:number]):
                raise ValueError(f"call {number} is for a session that has a call already; sessions answer in turn")
        jobs = [partial(session.generate, messages, **options) for session, messages, options in calls]
        return self.run(jobs, return_exceptions=return_exceptions)

    def run(self, jobs: Sequence[Callable[[], Result]], *, return_exceptions: bool = False) -> list[Result]:
        """Run functions that use sessions on the pool's model; the forward calls of all are shared.

        For planners that call a session somewhere inside, and for `read` and `still_valid`. The functions run in
        threads, one at a time: one goes on until it needs the model. So they must not wait for each other, and no two
        may use the same session. An error ends the function that it occurs in, and no other; an interrupt ends all.

        Args:
            return_exceptions: put exceptions into the list, instead of raising the first when all have ended.

        Returns:
            What the functions return, in their order.
        """
        with self._attention_split():
            seats = rendezvous(jobs, self._serve)
        if not return_exceptions:
            for number, seat in enumerate(seats):
                if seat.error is not None:
                    seat.error.add_note(f"in call {number} of {len(seats)} of a ReplanPool")
                    raise seat.error
        return [seat.result if seat.error is None else seat.error for seat in seats]

    def stream(self, jobs: Iterable[Callable[[], Result] | None], at_once: int) -> Generator[Result, None, None]:
        """As `run`, with never more than `at_once` functions begun and not ended.

        Args:
            jobs: the functions; None where there is none now, but may be one later (see `taking_turns`).
            at_once: as said.

        Yields:
            What each function returns, as soon as it does.

        Raises:
            Exception: the first error of a function. It ends all others, and so does closing the iterator.
        """
        with self._attention_split(), closing(taking_turns(jobs, at_once, self._serve)) as seats:
            for seat in seats:
                if seat.error is not None:
                    raise seat.error
                yield seat.result

    # Serving requests -------------------------------------------------------------------------------------

    def _serve(self, requests: list[Request]) -> None:
        self.counts.requests += len(requests)
        for batch in self._batches(requests):
            if len(batch) == 1 or not self._serve_together(batch):
                for request in batch:
                    self._serve_alone(request)

    def _batches(self, requests: list[Request]) -> Iterator[list[Request]]:
        """Requests that may be served together, or one alone; those that cannot be served get their error."""
        groups: dict[Any, list[Request]] = {}
        users = Counter(id(request.engine.cache) for request in requests)
        for request in requests:
            engine = request.engine
            if users[id(engine.cache)] > 1:
                # Neither would get right answers from keys that the other has stored.
                request.error = RuntimeError("two functions of a ReplanPool use the same session at the same time")
                continue
            alone = (
                engine.model is not self.model
                or self._apart
                or (request.collect is not None and request.fused is None)
                or engine.cache.prunes_next(len(request.ids))
                or (engine.cache.read_scores is not None and request.fused is None)
                or (engine.decode_weights != "same" and not _packed(request))
            )
            groups.setdefault(id(request) if alone else id(request.fused), []).append(request)
        for group in groups.values():
            limit = min(self.max_tokens, PACKED_TOKENS) if _packed(group[0]) else self.max_tokens
            batch: list[Request] = []
            for request in group:
                if batch and sum(len(r.ids) for r in batch) + len(request.ids) > limit:
                    yield batch
                    batch = []
                batch.append(request)
            yield batch

    def _serve_together(self, batch: list[Request]) -> bool:
        """Read together, and return True if it went well. If not, nothing has changed."""
        parts = [Part(r.engine.cache, r.ids, r.engine.next_position, r.keep, r.collect) for r in batch]
        fused = batch[0].fused
        try:
            self.counts.forwards += 1
            with outside_inference():  # what is stored outlives the caller's mode
                logits = read_together(self.model, parts) if fused is None else fused.read_together(parts)
        except Exception as error:  # noqa: BLE001 (its cause shows again when the requests are served alone)
            log.warning("a shared forward call of %d failed (%s); they are made one by one", len(batch), error)
            self.counts.retries += 1
            return False
        for request, rows in zip(batch, logits, strict=True):
            request.logits = rows
        return True

    def _serve_alone(self, request: Request) -> None:
        self.counts.forwards += 1
        probe.current.collect = request.collect
        try:
            request.logits = request.engine.forward_alone(request.ids, request.keep, request.decode)
        except Exception as error:  # noqa: BLE001 (raised again in the session that asked)
            request.error = error
        finally:
            probe.current.collect = None

    @contextmanager
    def _attention_split(self) -> Iterator[None]:
        """The model's attention can be taken over within, where it is one of transformers."""
        if not self._hooked:
            yield
            return
        user = hooks.User(attention=True)
        try:
            hooks.acquire(self.model, user)
            yield
        finally:
            hooks.release(self.model, user)


def _packed(request: Request) -> bool:
    """Return True if the request is read with packed weights."""
    return request.fused is not None and request.fused.weights != "same"
