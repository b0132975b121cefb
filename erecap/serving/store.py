"""The sessions of a server, found by what a request has in common with what they have read.

A conversation has one session. It goes on there even if the client hands back an answer in other words, tells the
newest message anew, or leaves out the oldest messages: the session rolls back to the longest common beginning. A
conversation that branches off (a second agent with the same instructions, another way from an earlier turn) gets a fork
of the common beginning, unless some of that was evicted. Forks share the keys and values of their common beginning;
memory holds them once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from erecap.generation import Message
from erecap.language_models.per_episode import kv_bytes_of
from erecap.session.conversation.edit_record import Event
from erecap.session.session import ReplanSession

Key = bytes  # digest of messages


class Request:
    """The keys of a request's messages."""

    def __init__(self, messages: Sequence[Message]) -> None:
        single = [_digest(message) for message in messages]
        self.beginnings = _beginnings(single)  # of each beginning, from one message to all
        # Of each two messages in a row; system messages are what different conversations share.
        talk = [key for key, message in zip(single, messages, strict=True) if message["role"] != "system"]
        self.pairs = [one + two for one, two in pairwise(talk)]

    @property
    def last_pair(self) -> Key | None:
        """The key of the newest two messages, if there are two of which none is a system message."""
        return self.pairs[-1] if self.pairs else None


@dataclass(eq=False)
class Held:
    """A session, and the last request that it answered."""

    session: ReplanSession
    group: Hashable = None
    read: list[Key] = field(default_factory=list)  # beginnings of that request; its answer is the last
    asked: int = 0  # messages of that request
    own: int = 0  # number of the first message of it that is the session's own answer; 0: of a text, which has none
    pair: Key | None = None  # the newest two messages of that request
    busy: bool = False

    @property
    def whole(self) -> bool:
        """True if it still stores all that it has read, but for what edits of its chat dropped, which can be undone."""
        return self.session.evicted_tokens == self.session.edited_tokens

    def agrees(self, events: Sequence[Event]) -> bool:
        """True if the edits that it made are those of `events`, behind the messages of the last request."""
        made = [made.event for made in self.session.conversation.transcript.edits]
        return made == [event for event in events if event.message < self.asked]

    def goes_on_in(self, request: Request) -> bool:
        """True if `request` belongs to the same conversation.

        It begins with the whole last request; or with all but its newest message, and an answer of the session's own is
        among that; or it contains the newest two messages of the last request somewhere.
        """
        common = _common(self.read, request.beginnings)
        if common >= self.asked:
            return True
        return (common >= self.asked - 1 and common > self.own) or self.pair in request.pairs


class SessionStore:
    """Sessions, at most `most` of them and about `most_bytes` of keys and values; the least recently used goes first.

    Not for several threads: the engine asks it in its turns.

    Args:
        make: a new session.
        most: sessions; those that are answering count, and never go.
        most_bytes: of keys and values; None: no limit.
    """

    def __init__(self, make: Callable[[], ReplanSession], most: int, most_bytes: int | None = None) -> None:
        self._make, self._most, self._most_bytes = make, most, most_bytes
        self.held: list[Held] = []  # the most recently used last
        self.evicted = 0  # sessions that had to go

    def __len__(self) -> int:
        return len(self.held)

    @property
    def busy(self) -> int:
        """Sessions that are answering."""
        return sum(held.busy for held in list(self.held))

    def kv_bytes(self) -> int:
        """Bytes of keys and values of all sessions; a beginning that some share counts once."""
        return kv_bytes_of([held.session for held in list(self.held)])

    def take(
        self,
        messages: Sequence[Message],
        group: Hashable = None,
        make: Callable[[], ReplanSession] | None = None,
        events: Sequence[Event] = (),
    ) -> Held:
        """A session for this conversation, marked busy until it is put back, released or dropped.

        Args:
            group: requests of different groups never share a session.
            make: a new session of this group; None: as for all.
            events: the edits of the chat. A session that has made others is forked, where it can be, and stays as it
                is: its own client may go on with them.

        Raises:
            MessagesError: the chat template refuses the messages; nothing is held then.
        """
        request = Request(messages)
        idle = [held for held in self.held if not held.busy and held.group == group]
        own = [held for held in idle if held.goes_on_in(request) and (held.agrees(events) or not held.whole)]
        if own:
            found = max(own, key=lambda held: _common(held.read, request.beginnings))
            self.held.remove(found)
        else:
            whole = [held for held in idle if held.whole]
            # Of several that have as much in common, the one that has read the least: a fork of it shares more.
            shared = max(
                whole, key=lambda held: (_common(held.read, request.beginnings), -len(held.read)), default=None
            )
            if shared is not None and _common(shared.read, request.beginnings) > 0:
                # Only what both have in common: what else the other has read is not kept for this one.
                found = Held(shared.session.fork(messages), group)
            else:
                found = Held((make or self._make)(), group)
        found.busy = True
        self.held.append(found)
        self._shrink()
        return found

    def put_back(self, held: Held, messages: Sequence[Message]) -> None:
        """The session has answered `messages`; the last of them is its answer, or its continuation of a text."""
        request, asked = Request(messages[:-1]), len(messages) - 1
        if messages[-1]["role"] != "assistant":
            held.own = 0
        elif not 0 < held.own < _common(held.read, request.beginnings):
            held.own = asked
        held.read, held.asked, held.pair = Request(messages).beginnings, asked, request.last_pair
        self._free(held)

    def release(self, held: Held) -> None:
        """The session was given a request that failed; one that was made for it goes."""
        if held.asked:
            self._free(held)
        else:
            self.drop(held)

    def _free(self, held: Held) -> None:
        held.busy = False
        if not held.session.conversation.transcript.tokens:  # the request ended before anything was read
            self.drop(held)
        self._shrink()

    def drop(self, held: Held) -> None:
        """Forget a session."""
        self.held = [other for other in self.held if other is not held]
        held.session.close()

    def clear(self) -> None:
        """Forget all sessions."""
        for held in list(self.held):
            self.drop(held)

    def _shrink(self) -> None:
        while self._over():
            oldest = next((held for held in self.held if not held.busy), None)
            if oldest is None or (oldest is self.held[-1] and len(self.held) <= self._most):
                return  # the newest conversation stays, however large it is
            self.drop(oldest)
            self.evicted += 1

    def _over(self) -> bool:
        if len(self.held) > self._most:
            return True
        return self._most_bytes is not None and self.kv_bytes() > self._most_bytes


def _digest(message: Message) -> Key:
    said = json.dumps([message["role"], message["content"]], ensure_ascii=True)
    return hashlib.blake2b(said.encode("ascii"), digest_size=16).digest()


def _beginnings(single: Sequence[Key]) -> list[Key]:
    digest, found = hashlib.blake2b(digest_size=16), []
    for one in single:
        digest.update(one)
        found.append(digest.copy().digest())
    return found


def _common(one: Sequence[Key], other: Sequence[Key]) -> int:
    # Beginnings: where one is equal, all before it are. So the longest equal one is searched by halves.
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[middle - 1] == other[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
