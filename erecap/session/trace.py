"""The trace of a call: for each piece of the chat, the share of the layers that stored it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from erecap.engines.protocol import Stored
from erecap.generation import PromptPiece
from erecap.session.conversation.chat import ChatPart
from erecap.session.conversation.transcript import Mark


def trace_pieces(
    chat: ChatPart, contents: Sequence[str], marks: Sequence[Mark], stored: Stored, total: int
) -> tuple[PromptPiece, ...]:
    """The chat's text in runs of equal message and share of layers that store it.

    Template text between two messages has no token of its own per character; it gets the mean over its tokens.

    Args:
        chat: the whole chat as rendered for this call.
        contents: the content of each of its messages.
        marks: ends of all messages read.
        stored: the tokens that the engine stores.
        total: tokens read.
    """
    kept = np.zeros(total, np.float32)
    for layer in stored.layers:
        kept[stored.groups[layer]] += 1
    kept /= max(1, sum(count > 0 for count in stored.per_layer))

    def share(start: int, end: int) -> float:
        return float(kept[start:end].mean()) if start < end else 0.0

    pieces: list[PromptPiece] = []

    def add(message: int, text: str, value: float) -> None:
        if not text:
            return
        if pieces and pieces[-1].message == message and abs(pieces[-1].kept - value) < 1e-6:
            pieces[-1] = PromptPiece(message, pieces[-1].text + text, value)
        else:
            pieces.append(PromptPiece(message, text, value))

    characters = begin = 0
    for mark in sorted((mark for mark in marks if mark.message < len(contents)), key=lambda mark: mark.characters):
        low, high = chat.spans[mark.message]
        first = mark.first if mark.starts or mark.first else begin
        add(-1, chat.text[characters:low], share(begin, first))
        if mark.starts:
            skipped = chat.skipped[mark.message]
            bounds = [max(0, start - skipped) for start in mark.starts] + [high - low]
            bounds[0] = 0
            for number in range(len(mark.starts)):
                text = chat.text[low + bounds[number] : low + bounds[number + 1]]
                add(mark.message, text, share(mark.first + number, mark.first + number + 1))
        else:
            add(mark.message, chat.text[low:high], share(first, mark.tokens))
        characters, begin = high, mark.tokens
    add(-1, chat.text[characters:], share(begin, total))
    return tuple(pieces)
