"""Perplexity of texts, strided: each piece is scored behind the tokens before it, within a window."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from erecap.errors import ConfigError
from erecap.evaluation.comparison import Measure, measure_all
from erecap.evaluation.items import Items
from erecap.evaluation.subjects import Subject, digest
from erecap.evaluation.texts import Text
from erecap.generation import JsonRow

KIND = "perplexity"
WINDOW = 1024  # tokens
KEYS = ("nats", "tokens", "bytes")
MEASURES = (
    Measure("perplexity", "", "nats", "tokens", exponential=True),
    Measure("nats a token", "", "nats", "tokens", digits=3),
    Measure("bits a byte", "", "nats", "bytes", scale=1 / math.log(2), digits=3),
)


@dataclass(frozen=True)
class Piece:
    """Tokens that are scored, behind tokens that are not."""

    context: tuple[int, ...]
    scored: tuple[int, ...]
    bytes: int  # of the text of `scored`


def pieces_of(text: str, tokenizer: Any, window: int, stride: int) -> list[Piece]:
    """A text cut into pieces of `stride` tokens, each behind up to `window - stride` tokens.

    The first token of a text has no context and is not scored, unless the tokenizer begins every text with a token.
    Every other token is scored once.
    """
    encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
    ids, offsets = list(encoded["input_ids"]), list(encoded["offset_mapping"])
    starts = [int(start) for start, _ in offsets]
    if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and offsets[-1][0] == offsets[-1][1]:
        del ids[-1], starts[-1]  # written behind the text by the tokenizer
    found = []
    for begin in range(1, len(ids), stride):
        end = min(begin + stride, len(ids))
        characters = text[starts[begin] : starts[end] if end < len(ids) else len(text)]
        context = ids[max(0, begin - (window - stride)) : begin]
        found.append(Piece(tuple(context), tuple(ids[begin:end]), len(characters.encode("utf-8"))))
    return found


def check_window(window: int, stride: int | None) -> None:
    """Raise ConfigError unless every piece has context."""
    if window < 2:
        raise ConfigError(f"--window: got {window}; allowed: 2 or more")
    if stride is not None and not 1 <= stride < window:
        raise ConfigError(f"--stride: got {stride}; allowed: 1 to {window - 1}, so that every token has context")


def perplexity(
    subjects: Sequence[Subject],
    texts: Sequence[Text],
    items: Items,
    window: int | None,
    stride: int | None,
    say: Callable[[str], None],
) -> tuple[list[list[JsonRow | None]], JsonRow]:
    """Score all texts with all subjects.

    Args:
        window: tokens of a piece and its context; None: `WINDOW`, or the model's window if that is less.
        stride: tokens of a piece; None: half of the window.

    Returns:
        For each subject its pieces in order; and what was read.

    Raises:
        ConfigError: a window that does not fit, or texts of one token.
    """
    most = min(subject.window for subject in subjects)
    window = min(WINDOW, most) if window is None else window
    if window > most:
        raise ConfigError(f"--window: got {window}; allowed: at most {most}, the model's window")
    check_window(window, stride)
    stride = window // 2 if stride is None else stride
    tokenizer = subjects[0].opened.tokenizer
    pieces = [piece for text in texts for piece in pieces_of(text.content, tokenizer, window, stride)]
    if not pieces:
        raise ConfigError("--text: a text of one token has nothing to score behind it")

    def ask(subject: Subject, piece: Piece) -> JsonRow:
        key = digest([piece.context, piece.scored, piece.bytes])
        found = items.get(subject.key, key)
        if found is None:
            scores = subject.scores(piece.context, piece.scored)
            values = {"nats": scores.nats, "tokens": len(piece.scored), "bytes": piece.bytes, "kept": scores.kept}
            found = items.add(subject.key, key, values)
        return found

    read = {
        "window": window,
        "stride": stride,
        "texts": len(texts),
        "pieces": len(pieces),
        "tokens": sum(len(piece.scored) for piece in pieces),
        "bytes": sum(piece.bytes for piece in pieces),
        "digest": digest([[piece.context, piece.scored] for piece in pieces]),
    }
    return measure_all(subjects, pieces, ask, say), read
