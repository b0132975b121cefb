"""Claims of the messages in a session's own chat: their protected characters, and their stale ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from erecap.context.thinking import thinking_spans
from erecap.errors import ConfigError
from erecap.generation import Message

Span = tuple[int, int, int]
# The messages of a chat; or by their numbers those that claim anything, the first user message and the newest included.
Claims = Sequence[Message] | Mapping[int, Message]


def numbered(messages: Claims) -> Mapping[int, Message]:
    """`messages` by their numbers in the chat."""
    return messages if isinstance(messages, Mapping) else dict(enumerate(messages))


def thoughts_of(messages: Claims) -> list[Span]:
    """Thinking in the answers of a chat, as `(message, start, end)` characters."""
    return [(number, *span) for number, message in numbered(messages).items() for span in thinking_spans(message)]


class ChatClaims:
    """Claims by the number of the message, without contents; for what may still be stored.

    The rule of `erecap.context.protection` holds: a message with a `protect` key says itself what to keep; of the
    others system messages, the first user message and the newest message are kept whole.
    """

    def __init__(self) -> None:
        self.count = 0
        self.first_user = -1
        self.messages: dict[int, Message] = {}
        self._sizes: dict[int, int] = {}  # characters of messages that claim or may claim something

    def add(self, message: Message) -> None:
        """The chat goes on with `message`.

        Raises:
            ConfigError: a `protect` or `stale` span does not lie inside its content.
        """
        number, size = self.count, len(message["content"])
        for key in ("protect", "stale"):
            for start, end in message.get(key, ()):  # type: ignore[attr-defined]
                if not 0 <= start <= end <= size:
                    raise ConfigError(
                        f"message {number}: {key} span ({start}, {end}) lies outside its {size} characters"
                    )
        if self.first_user < 0 and message["role"] == "user":
            self.first_user = number
        claim: Message = {"role": message["role"], "content": ""}
        if "protect" in message:
            claim["protect"] = [(start, end) for start, end in message["protect"] if start < end]
        elif message["role"] == "system":
            claim["protect"] = [(0, size)] if size else []
        if message.get("stale"):
            claim["stale"] = [(start, end) for start, end in message["stale"]]
        if thoughts := thinking_spans(message):
            claim["thoughts"] = thoughts
        self._forget_idle(self.count - 1)
        self.messages[number], self._sizes[number] = claim, size
        self.count += 1

    def spans(self) -> list[Span]:
        """Protected `(message, start, end)` characters."""
        found = []
        for number, claim in sorted(self.messages.items()):
            found += [(number, start, end) for start, end in claim.get("protect", self._default(number))]
        return found

    def _default(self, number: int) -> list[tuple[int, int]]:
        """Protected characters of a message that does not say itself what to keep."""
        size = self._sizes[number]
        return [(0, size)] if size and number in (self.first_user, self.count - 1) else []

    def mark_stale(self, spans: Sequence[Span]) -> None:
        """Mark characters of earlier messages as stale; they are no longer protected.

        Raises:
            ConfigError: no such message, or a span that does not rise from 0.
        """
        for number, start, end in spans:
            if not (0 <= number < self.count and 0 <= start <= end):
                raise ConfigError(
                    f"stale span ({number}, {start}, {end}): the chat has messages 0 to {self.count - 1}, "
                    "and spans rise from 0"
                )
            role = "user" if number == self.first_user else "assistant"
            idle: Message = {"role": role, "content": ""}  # type: ignore[typeddict-item]
            known = self.messages.get(number, idle)
            claim: Message = {**known, "stale": [*known.get("stale", ()), (start, end)]}
            if number == self.first_user:
                claim.setdefault("protect", self._default(number))
            if "protect" in claim:
                parts = [
                    part for low, high in claim["protect"] for part in ((low, min(high, start)), (max(low, end), high))
                ]
                claim["protect"] = [(low, high) for low, high in parts if low < high]
            self.messages[number] = claim
            self._sizes.setdefault(number, 0)

    def tidy(self, numbers: Collection[int]) -> None:
        """Forget the claims of messages other than `numbers`, those of which nothing is stored any more."""
        for number in [number for number in self.messages if number not in numbers]:
            if number not in (self.first_user, self.count - 1):
                del self.messages[number], self._sizes[number]

    def _forget_idle(self, number: int) -> None:
        """Drop the entry of a message that was the newest and claims nothing else."""
        claim = self.messages.get(number)
        claims = claim is not None and any(claim.get(key) for key in ("protect", "stale", "thoughts"))
        if claim is not None and number != self.first_user and not claims:
            del self.messages[number], self._sizes[number]

    def copy(self) -> ChatClaims:
        """An independent copy; single claims are never changed in place."""
        return self.from_json([self.count, self.first_user, list(self.messages.items()), list(self._sizes.items())])

    def to_json(self) -> list[Any]:
        """Plain values for a file."""
        return [self.count, self.first_user, list(self.messages.items()), list(self._sizes.items())]

    @classmethod
    def from_json(cls, values: list[Any]) -> ChatClaims:
        """The claims that `to_json` described."""
        claims = cls()
        claims.count, claims.first_user = values[0], values[1]
        claims.messages, claims._sizes = dict(values[2]), dict(values[3])
        return claims
