"""The sessions of a server, found by the conversations that they have read.

A conversation that goes on belongs to the session that has read the most of it. A conversation that branches off (a
second agent with the same instructions, a repeated request) gets a fork of the common beginning, unless some of that
was evicted. Forks share the keys and values of their common beginning; memory holds them once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from erecap.generation import Message
from erecap.session.session import ReplanSession
from erecap.tokens.cache.shared_storage import stored_bytes

Key = bytes  # of a conversation up to some message: a digest of all messages to there


def keys(messages: Sequence[Message]) -> list[Key]:
    """The key of each beginning of a conversation, from one message to all."""
    digest, found = hashlib.sha256(), []
    for message in messages:
        said = json.dumps([message["role"], message["content"]], ensure_ascii=False)
        digest.update(f"{len(said)}:{said}".encode("utf-8", "surrogatepass"))
        found.append(digest.copy().digest())
    return found


@dataclass(eq=False)
class Held:
    """A session, and the messages that it has read."""

    session: ReplanSession
    read: list[Key] = field(default_factory=list)
    busy: bool = False

    @property
    def whole(self) -> bool:
        """True if it still stores all that it has read."""
        return self.session.evicted_tokens == 0


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

    def kv_bytes(self) -> int:
        """Bytes of keys and values of all sessions; a beginning that some share counts once."""
        return stored_bytes(layer for held in list(self.held) for layer in list(held.session.cache.layers))

    def take(self, messages: Sequence[Message]) -> Held:
        """A session for this conversation, marked busy until it is put back."""
        wanted = keys(messages)
        idle = [held for held in self.held if not held.busy]
        own = [held for held in idle if held.read and held.read == wanted[: len(held.read)]]
        if own:
            found = max(own, key=lambda held: len(held.read))
            self.held.remove(found)
        else:
            whole = [held for held in idle if held.whole]
            # Of several that have as much in common, the one that has read the least: a fork of it shares more.
            shared = max(whole, key=lambda held: (_common(held.read, wanted), -len(held.read)), default=None)
            common = _common(shared.read, wanted) if shared is not None else 0
            if shared is not None and common > 0:
                # Only what both have in common: what else the other has read is not kept for this one.
                found = Held(shared.session.fork(messages), wanted[:common])
            else:
                found = Held(self._make())
        found.busy = True
        self.held.append(found)
        self._shrink()
        return found

    def put_back(self, held: Held, messages: Sequence[Message]) -> None:
        """The session has read `messages`, its answer among them."""
        held.busy, held.read = False, keys(messages)
        self._shrink()

    def release(self, held: Held) -> None:
        """The session was not used after all."""
        held.busy = False
        if not held.read:
            self.drop(held)

    def drop(self, held: Held) -> None:
        """Forget a session that failed."""
        self.held = [other for other in self.held if other is not held]
        held.session.close()

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


def _common(one: Sequence[Key], other: Sequence[Key]) -> int:
    number = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        number += 1
    return number
