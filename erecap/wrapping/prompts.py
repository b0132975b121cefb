"""A prompt that is one growing string, as messages, and back.

Each call's prompt begins with the prompt of the call before. So the string itself says where its parts are: the first
prompt is instructions, examples and task; after it come the planner's answer and what the host wrote below it, call
after call. Joining the contents of the messages gives the string, character by character: nothing is cut inside a chat
tag or inside the words that ask for the next answer, and what is not touched stays as the host wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from erecap.context.lines import LinePatterns, pieces
from erecap.generation import Message

# Tags of Llama 3, ChatML and Zephyr, which some hosts write into their strings themselves.
_TAG = re.compile(
    r"<\|start_header_id\|>[^<|]*<\|end_header_id\|>|<\|im_start\|>\w*|<\|(?:user|assistant|system)\|>"
    r"|<\|(?:eot_id|eom_id|im_end|begin_of_text|end)\|>|</?s>"
)
_NEAR = 40  # characters before an answer that a host may have put there: a blank, a tag


@dataclass
class PromptTalk:
    """One conversation that is kept as a string.

    Args:
        head: the first prompt. All of it stays.
        patterns: what in the host's text was seen; None: all whole lines of it, tags aside.
    """

    head: str
    patterns: LinePatterns | None = None
    given: str = ""  # the newest prompt
    answer: str = ""  # and what came back
    _parts: list[tuple[str, str]] = field(default_factory=list)  # per exchange: the answer, and what stands below it

    def __post_init__(self) -> None:
        self.given = self.head

    def continues(self, prompt: str) -> bool:
        """Return True if `prompt` is the newest one with something appended."""
        return prompt.startswith(self.given)

    def read(self, prompt: str) -> list[Message]:
        """The messages of `prompt`, which `continues`; their contents, joined, are it."""
        added, self.given = prompt[len(self.given) :], prompt
        if added:
            end = _answer_end(added, self.answer.strip())
            self._parts.append((added[:end], added[end:]))
            self.answer = ""
        messages: list[Message] = [{"role": "system", "content": self.head}]
        for said, seen in self._parts:
            messages.append({"role": "assistant", "content": said, "protect": [], "observations": []})
            messages.append({"role": "user", "content": seen, "protect": [], "observations": self._seen(seen)})
        if self._parts:
            messages[-1]["protect"] = [(0, len(messages[-1]["content"]))]
        return messages

    def _seen(self, text: str) -> list[tuple[int, int]]:
        """Spans of what was seen. The last line is not whole: it asks for the next answer."""
        whole = text.rfind("\n") + 1
        if self.patterns is not None:
            return [
                (piece.start, piece.end)
                for piece in pieces(text[:whole], self.patterns)
                if piece.kind == "observation" and text[piece.start : piece.end].strip()
            ]
        borders = [0, *(place for tag in _TAG.finditer(text, 0, whole) for place in tag.span()), whole]
        spans = []
        for start, end in zip(borders[::2], borders[1::2], strict=True):
            inner = text[start:end]
            start += len(inner) - len(inner.lstrip())
            end -= len(inner) - len(inner.rstrip())
            if start < end:
                spans.append((start, end))
        return spans


def join_prompt(messages: Sequence[Message]) -> str:
    """The string whose messages these are."""
    return "".join(message["content"] for message in messages)


def _answer_end(added: str, answer: str) -> int:
    """Where the planner's answer ends in what was appended; without a trace of it, the end of the first line."""
    place = added.find(answer, 0, _NEAR + len(answer)) if answer else -1
    if place >= 0:
        return place + len(answer)
    line = added.find("\n")
    return len(added) if line < 0 else line
