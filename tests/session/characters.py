"""A tokenizer of one token per character, and an oracle of what a session stores, for tests without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

START, END = "\x01", "\x02"
LETTERS = [ord(letter) for letter in "abcdefghijklmnopqrstuvwxyz "]
CHUNK = 32


class Characters:
    """A chat is `\\x01role\\ncontent\\x02` for each message; the token of a character is its code."""

    is_fast = True
    eos_token_id = ord(END)
    name_or_path = "characters"
    chat_template = "{{ '\x01' }}{{ '\x02' }}"

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """The special tokens, as transformers describes them."""
        return {ord(mark): SimpleNamespace(content=mark, normalized=False) for mark in (START, END)}

    def apply_chat_template(self, messages: Any, tokenize: bool, add_generation_prompt: bool) -> str:
        text = "".join(f"{START}{message['role']}\n{message['content']}{END}" for message in messages)
        return text + (f"{START}assistant\n" if add_generation_prompt else "")

    def __call__(self, text: str, **options: Any) -> dict[str, Any]:
        return {"input_ids": [ord(c) for c in text], "offset_mapping": [(n, n + 1) for n in range(len(text))]}

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        text = "".join(map(chr, ids))
        return re.sub(f"[{START}{END}]", "", text) if skip_special_tokens else text


@dataclass
class StorageOracle:
    """Says from the log of calls alone which tokens a session stores; written without its code.

    With `Characters` every token is one character, so that each token read is a character of a known message, of the
    template, or of a correction.
    """

    budget: int | None
    evict_by: str
    sinks: int = 4
    read: list[tuple[str, int, int]] = field(default_factory=list)  # character, message (-1: none), place in it
    stored: set[int] = field(default_factory=set)
    ends: list[tuple[tuple[str, str], int]] = field(default_factory=list)  # per message: role and content, token index
    corrections: list[tuple[int, str]] = field(default_factory=list)
    ran: int = 0  # tokens that had to go through the model

    def prompt(self, messages: list[dict], header: bool) -> int:
        """The chat is read; returns the tokens that were new."""
        same = 0
        for (key, _), message in zip(self.ends, messages, strict=False):
            if key != (message["role"], message["content"]):
                break
            same += 1
        # Reading goes on behind the last message that is the same; what was read after it is forgotten.
        lost = self.cut(same)
        if lost:
            self._add([(letter, -1, 0) for letter in lost])
            self.corrections.append((len(self.read) - len(lost), lost))
            if same:
                self.ends[-1] = (self.ends[-1][0], len(self.read))
        rest: list[tuple[str, int, int]] = []
        if same:  # what of that message was not read, which is so for the end of an answer
            content = self.ends[-1][0][1]
            known = sum(message == same - 1 for _, message, _ in self.read)
            rest += [(letter, same - 1, at) for at, letter in enumerate(content)][known:]
            rest.append((END, -1, 0))
        ends = []
        for number in range(same, len(messages)):
            role, content = messages[number]["role"], messages[number]["content"]
            rest += [(letter, -1, 0) for letter in f"{START}{role}\n"]
            rest += [(letter, number, at) for at, letter in enumerate(content)]
            ends.append(((role, content), len(self.read) + len(rest)))
            rest.append((END, -1, 0))
        if header:
            rest += [(letter, -1, 0) for letter in f"{START}assistant\n"]
        else:
            rest.pop()  # up to the end of the content
        if same and rest:
            unread = len(self.ends[-1][0][1]) - sum(message == same - 1 for _, message, _ in self.read)
            self.ends[-1] = (self.ends[-1][0], self.ends[-1][1] + unread)
        self.ends += ends
        for begin in range(0, len(rest), CHUNK):
            if begin:
                self.evict(messages)
            self._add(rest[begin : begin + CHUNK])
        return len(rest)

    def answer(self, number: int, text: str, unread: int) -> None:
        """The answer became message `number`; its last `unread` tokens are not stored yet."""
        self._add([(letter, number, at) for at, letter in enumerate(text[: len(text) - unread])])
        self.ends.append((("assistant", text), len(self.read)))

    def correct(self, text: str, pending: str) -> None:
        """A correction is read behind the rest of the last answer."""
        said = f"\nCorrection: {text}\n"
        number = len(self.ends) - 1
        done = sum(message == number for _, message, _ in self.read)
        self._add([(letter, number, done + at) for at, letter in enumerate(pending)])
        self.corrections.append((len(self.read), said))
        self._add([(letter, -1, 0) for letter in said])
        self.ends[-1] = (self.ends[-1][0], len(self.read))

    def forget(self, low: int, high: int) -> None:
        """A span is forgotten and what follows read anew."""
        self.stored = {index for index in self.stored if index < low} | set(range(high, len(self.read)))
        self.ran += len(self.read) - high

    def cut(self, messages: int) -> str:
        """Go back to the end of the first messages; returns corrections that are lost."""
        del self.ends[messages:]
        left = self.ends[-1][1] if self.ends else 0
        if left == len(self.read):
            return ""
        lost = "".join(text for at, text in self.corrections if at >= left)
        self.corrections = [(at, text) for at, text in self.corrections if at < left]
        del self.read[left:]
        self.stored = {index for index in self.stored if index < left}
        return lost

    def evict(self, messages: list[dict]) -> None:
        """Tokens of the lowest priority go first, in it those of the lowest score, then the older, one by one."""
        if self.budget is None or len(self.stored) <= self.budget:
            return
        level = {index: self.priority(index, messages) for index in self.stored}
        newest = sorted(index for index in self.stored if level[index] == 2)
        middle = (len(newest) - 1) / 2
        score = {index: self.score(index) for index in self.stored}
        score |= {index: abs(rank - middle) for rank, index in enumerate(newest)}
        order = sorted(self.stored, key=lambda index: (level[index], score[index], index))
        self.stored -= set(order[: len(order) - self.budget])

    def priority(self, index: int, messages: list[dict]) -> int:
        """4 head, 3 protected, 2 newest, 1 open, 0 stale."""
        if index < self.sinks:
            return 4
        _, number, place = self.read[index]
        if not 0 <= number < len(messages):
            return 1
        message = messages[number]
        first_user = next(n for n, message in enumerate(messages) if message["role"] == "user")
        whole = message["role"] == "system" or number in (first_user, len(messages) - 1)
        spans = message.get("protect", [(0, len(message["content"]))] if whole else [])
        if any(low <= place < high for low, high in spans):
            if number == len(messages) - 1:
                return 2
            return 4 if number <= first_user or message["role"] == "system" else 3
        return 0 if any(low <= place < high for low, high in message.get("stale", [])) else 1

    def score(self, index: int) -> float:
        """Of its own, where nothing else decides."""
        if self.evict_by == "recency":
            return index
        x = (index + 1 + 1_000_003 + 7_368_787) & 0x7FFFFFFF
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & 0x7FFFFFFF
        x = ((x ^ (x >> 16)) * 0x119DE1F3) & 0x7FFFFFFF
        return x ^ (x >> 16)

    def _add(self, entries: list[tuple[str, int, int]]) -> None:
        self.stored |= set(range(len(self.read), len(self.read) + len(entries)))
        self.read += entries
        self.ran += len(entries)
