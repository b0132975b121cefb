"""The model's thread: takes requests as they come, and lets those that wait share forward calls."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from erecap.context.tokenize import render_prompt
from erecap.decoding.drafts.texts import DraftMemory
from erecap.errors import BudgetError, MessagesError
from erecap.generation import Generation, Message
from erecap.registries import SHARED_DRAFTS
from erecap.serving.failures import ApiFailure, client_gone, overloaded, too_long, waited_too_long
from erecap.serving.keys import EVERYBODY
from erecap.serving.raw_text import raw_tokenizer
from erecap.serving.store import SessionStore
from erecap.session.chat_edits import ChatEdits
from erecap.session.config import draft_way
from erecap.session.conversation.chat import SessionChat
from erecap.session.pool.pool import ReplanPool
from erecap.session.session import ReplanSession

log = logging.getLogger(__name__)
_IDLE_S = 0.05  # how long the thread sleeps when there is nothing to do, before it looks whether it is to end


@dataclass(eq=False)
class Ask:
    """A request on its way to the model."""

    messages: list[Message]
    options: dict[str, Any]  # of `ReplanSession.generate`
    raw: bool = False  # the messages are pieces of one text, which no chat template is laid around
    tenant: str = EVERYBODY  # whose conversations it may go on from
    on_text: Callable[[str], None] | None = None
    came: float = field(default_factory=time.perf_counter)
    given_up: threading.Event = field(default_factory=threading.Event)  # the client has left
    answer: Future[Generation] = field(default_factory=Future)
    waited: float = 0.0  # seconds until the model turned to it
    begun: bool = False  # the model has turned to it
    evicted: int = 0  # tokens of the conversation that are no longer stored, when it was answered


class Engine:
    """Answers chats with sessions that remember what they have read.

    Args:
        model, tokenizer: as for `ReplanPool`.
        make_session: a new session on that model.
        at_once: conversations that are answered together; others wait.
        most_waiting: requests that may wait; more are refused.
        sessions: conversations that are remembered.
        session_bytes: about how much their keys and values may take together; None: no limit.
        request_s: how long a request may take, waiting included.
        tenants: who have conversations of their own, with equal shares of `sessions` and `session_bytes`. So what one
            is answered does not depend on what another has asked.

    Raises:
        ValueError: a model whose calls cannot be joined, or fewer `sessions` than conversations answered at once.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        make_session: Callable[[], ReplanSession],
        *,
        at_once: int = 8,
        most_waiting: int = 64,
        sessions: int = 32,
        session_bytes: int | None = None,
        request_s: float = 120.0,
        tenants: Sequence[str] = (EVERYBODY,),
    ) -> None:
        if sessions < at_once:
            raise ValueError(f"sessions: got {sessions} with {at_once} answered at once; allowed: at least as many")
        share = sessions // len(tenants)
        if share < at_once:
            raise ValueError(
                f"sessions: got {sessions} for {len(tenants)} keys, with {at_once} answered at once; allowed: at least "
                f"{at_once * len(tenants)}"
            )
        self.tokenizer = tokenizer
        first = make_session()
        self.window = first.engine.window
        self.request_s = request_s
        self._make_session, self._raw_tokenizer = make_session, raw_tokenizer(tokenizer)
        most_bytes = None if session_bytes is None else session_bytes // len(tenants)
        # What is drafted from shows in the time of an answer, so each tenant drafts from his own conversations alone.
        shares = draft_way(first.draft) in SHARED_DRAFTS
        self._memories = {tenant: DraftMemory() if shares else None for tenant in tenants}
        self.stores = {tenant: SessionStore(partial(self._session, tenant), share, most_bytes) for tenant in tenants}
        self.running = 0
        self.pool = ReplanPool(model, tokenizer)
        self._at_once, self._most_waiting = at_once, most_waiting
        self._asks: queue.Queue[Ask] = queue.Queue()
        self._door = threading.Lock()  # nothing is queued behind the one who turns away what waits
        self._closed = False
        self._ending = threading.Event()
        self.broken: str | None = None  # why the thread ended by itself
        self.thread = threading.Thread(target=self._run, name="erecap-engine", daemon=True)
        self.thread.start()

    @property
    def store(self) -> SessionStore:
        """The conversations of the first tenant, who is the only one where there are not several keys."""
        return next(iter(self.stores.values()))

    @property
    def waiting(self) -> int:
        """Requests that the model has not turned to yet, and whose clients are still there."""
        with self._asks.mutex:
            return sum(not ask.given_up.is_set() for ask in self._asks.queue)

    def submit(self, ask: Ask) -> None:
        """Queue a request; `ask.answer` gets its generation, or an `ApiFailure`.

        Raises:
            ApiFailure: the server is ending, broken, or has too many requests.
        """
        with self._door:
            if self._closed or self._ending.is_set():
                raise self._no_more()
            self._forget_gone()
            if self.waiting >= self._most_waiting:
                raise overloaded(f"{self.waiting} requests are waiting already; try again later")
            self._asks.put(ask)

    def _forget_gone(self) -> None:
        """Take those out of the queue whose clients have gone: otherwise nothing would bound it."""
        with self._asks.mutex:
            gone = [ask for ask in self._asks.queue if ask.given_up.is_set()]
            for ask in gone:
                self._asks.queue.remove(ask)
        for ask in gone:  # a future that is cancelled would cancel the request's own task, which nobody catches
            if ask.answer.set_running_or_notify_cancel():
                ask.answer.set_exception(client_gone())

    def end(self) -> None:
        """Refuse what waits and what comes; what is running goes on. Returns at once."""
        self._ending.set()
        self._refuse_waiting()

    def close(self) -> None:
        """Finish what is running, refuse what waits, end the thread, and free all keys and values."""
        self.end()
        self.thread.join()
        for store in self.stores.values():
            store.clear()

    def _no_more(self) -> ApiFailure:
        """Why nothing is answered any more."""
        if self.broken is None:
            return overloaded("the server is shutting down")
        return ApiFailure(500, f"the server cannot answer any more: {self.broken}", "server_error", "broken")

    # In the engine's thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            for _ in self.pool.stream(self._jobs(), self._at_once):
                pass
        except BaseException as error:  # the thread's end: whoever waits must learn of it
            self.broken = f"{type(error).__name__}: {error}"
            log.exception("the engine's thread ended")
        finally:
            self._refuse_waiting()

    def _jobs(self) -> Iterator[Callable[[], None] | None]:
        while not self._ending.is_set():
            try:
                ask = self._asks.get_nowait() if self.running else self._asks.get(timeout=_IDLE_S)
            except queue.Empty:
                yield None
                continue
            self.running += 1
            yield partial(self._work, ask)

    def _refuse_waiting(self) -> None:
        with self._door:
            self._closed = True
            while True:
                try:
                    ask = self._asks.get_nowait()
                except queue.Empty:
                    return
                if ask.answer.set_running_or_notify_cancel():
                    ask.answer.set_exception(self._no_more())

    def _work(self, ask: Ask) -> None:
        """Answer one request; every failure is its own."""
        if not ask.answer.set_running_or_notify_cancel():  # from now on nobody can cancel it from outside
            self.running -= 1
            return
        try:
            ask.begun, ask.waited = True, time.perf_counter() - ask.came
            left = self.request_s - ask.waited
            if ask.given_up.is_set():
                raise client_gone()
            if left <= 0:
                raise waited_too_long(ask.waited)
            ask.answer.set_result(self._answered(ask, left))
        except ApiFailure as failure:
            ask.answer.set_exception(failure)
        except BudgetError as error:
            ask.answer.set_exception(too_long(str(error)))
        except MessagesError as error:
            ask.answer.set_exception(ApiFailure(400, str(error), param="prompt" if ask.raw else "messages"))
        except Exception as error:  # the model's or ours, not the client's: a ValueError of torch is no bad request
            log.exception("a request failed")
            ask.answer.set_exception(ApiFailure(500, f"{type(error).__name__}: {error}", "server_error", "internal"))
        finally:
            if not ask.answer.done():  # the pool broke, and ended this call from outside
                ask.answer.set_exception(
                    ApiFailure(500, "the server broke while it answered", "server_error", "broken")
                )
            self.running -= 1

    def _answered(self, ask: Ask, left: float) -> Generation:
        # Without edits of its own a request has none: those of an earlier one are undone.
        options: dict[str, Any] = {"edits": ChatEdits(), **ask.options}
        store = self.stores[ask.tenant]
        events = options["edits"].events(ask.messages)
        held = store.take(ask.messages, ask.raw, partial(self._raw_session, ask.tenant) if ask.raw else None, events)
        try:
            options["max_new_tokens"] = self._room(held.session, ask)
            generation = held.session.generate(
                ask.messages,
                **options,
                deadline_ms=1e3 * left,
                cancel=ask.given_up.is_set,
                on_text=ask.on_text,
            )
        except (ApiFailure, BudgetError, MessagesError):  # nothing was read, or it was rolled back
            store.release(held)
            raise
        except BaseException:
            store.drop(held)
            raise
        ask.evicted = held.session.evicted_tokens
        said: Message = {"role": "user" if ask.raw else "assistant", "content": generation.text}
        store.put_back(held, [*ask.messages, said])
        if generation.finish_reason == "deadline":
            raise ApiFailure(504, f"the request took longer than {self.request_s:g} s", "server_error", "timeout")
        return generation

    def _session(self, tenant: str) -> ReplanSession:
        """A new session. It reads the tokens of the text that clients hand back, so that a conversation gets the
        answers which it would get if it were read anew."""
        session = self._make_session()
        session.conversation.retokenize = True
        session.drafts.memory = self._memories[tenant]
        return session

    def _raw_session(self, tenant: str) -> ReplanSession:
        """A new session for texts without a chat template."""
        session = self._session(tenant)
        session.tokenizer = session.conversation.tokenizer = self._raw_tokenizer
        session.conversation.chat = SessionChat(self._raw_tokenizer)
        return session

    def _room(self, session: ReplanSession, ask: Ask) -> int:
        """Tokens that the answer may have.

        Raises:
            ApiFailure: more are asked for than fit the window.
        """
        wanted: int | None = ask.options["max_new_tokens"]
        if session.outlives_window or ask.options.get("edits") is not None:
            # How long a chat is that a budget or edits keep small is not counted, so no rest of the window is known.
            if wanted is not None and wanted >= self.window:
                raise too_long(f"the answer may have {wanted} tokens; allowed: less than the window of {self.window}")
            return wanted or self.window // 4
        tokens = len(render_prompt(ask.messages, session.tokenizer).input_ids)
        room = self.window - tokens
        if room < (wanted or 1):
            raise too_long(
                f"the messages have {tokens} tokens and the answer may have {wanted or 1}; together at most "
                f"{self.window} fit"
            )
        return wanted or room
