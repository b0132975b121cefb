"""The layers after which the final token is named already, text by text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from erecap.bench.exits.settings import ExitsBench
from erecap.decoding.exits.candidates import Followers
from erecap.decoding.exits.states import ExitText, HeadOf, layer_states
from erecap.errors import RunError
from erecap.generation import JsonRow

# By what a token is named between layers: the whole head, or the rows of a few tokens.
HEADS = ("full", "small", "draft", "grammar")


def named_rows(
    bench: ExitsBench, model: Any, texts: Sequence[ExitText], say: Callable[[str], None] = lambda line: None
) -> tuple[list[JsonRow], int]:
    """One row a decoded token, and the size of the small vocabulary.

    A row has `text`, `allowed` (choices that a grammar leaves, None without one), `grammar_tokens`, and by head
    `first` and `stable`: the number of layers after which it names the final token first, and for good. The final
    token is the model's own choice after all layers, among those allowed. Tokens without a choice are left out.

    The small vocabulary is counted on every second text, and measured on the others, if there are two or more.
    """
    head = HeadOf(model)
    counted = texts[::2] if len(texts) > 1 else texts
    small = small_vocabulary(counted, bench.small)
    measured = texts[1::2] if len(texts) > 1 else texts
    rows: list[JsonRow] = []
    for text in measured:
        places = [n for n in range(len(text.rows)) if len(text.allowed_at(n) or (0, 0)) > 1][: bench.tokens - len(rows)]
        if not places:
            continue
        states = layer_states(model, text.ids, [text.rows[n] for n in places])
        if not bool(torch.isfinite(states).all()):
            raise RunError(f"{text.name}: a hidden state is not finite")
        normed = [head.normed(layer) for layer in states]
        logits = [head.logits(layer) for layer in normed]
        for number, place in enumerate(places):
            allowed = text.allowed_at(place)
            tables = torch.stack([layer[number] for layer in logits])  # (layers, vocabulary)
            rows.append(_row(bench, text, place, tables, allowed, small))
        say(f"{text.name}: {len(rows)} tokens so far")
        if len(rows) >= bench.tokens:
            break
    if not rows:
        raise RunError("the texts hold no token that is decoded with a choice")
    return rows, len(small)


def small_vocabulary(texts: Iterable[ExitText], size: int) -> list[int]:
    """The tokens that the texts decode most, at most `size`, rising."""
    counts = Counter(token for text in texts for token in decoded(text))
    return sorted(token for token, _ in counts.most_common(size))


def decoded(text: ExitText) -> list[int]:
    """The tokens that a text decodes, as far as it holds them."""
    return [text.ids[row + 1] for row in text.rows if row + 1 < len(text.ids)]


def _row(
    bench: ExitsBench, text: ExitText, place: int, tables: torch.Tensor, allowed: Sequence[int] | None, small: list[int]
) -> JsonRow:
    everything = None if allowed is None else sorted(allowed)
    final = _best(tables[-1:], everything)[0]
    before = list(text.ids[: text.rows[place] + 1])
    followed = Followers(before).after([], bench.candidates)
    among = {
        "full": everything,
        "small": small if allowed is None else sorted({*small} & {*allowed}),
        "draft": followed if allowed is None else [token for token in followed if token in allowed],
        "grammar": everything or [],
    }
    row: JsonRow = {"text": text.name, "allowed": None if allowed is None else len(allowed)}
    for name in HEADS:
        ids = among[name]
        usable = ids is None or final in ids
        right = [usable and token == final for token in _best(tables, ids)] if usable else [False] * len(tables)
        row[name] = {"first": _first(right), "stable": _stable(right)}
    return row


def _best(tables: torch.Tensor, ids: Sequence[int] | None) -> list[int]:
    """The most probable of `ids` (None: of all) in each row of logits `(n, vocabulary)`."""
    if ids is None:
        return [int(n) for n in tables.argmax(-1)]
    index = torch.tensor(list(ids), dtype=torch.long)
    return [int(n) for n in index[tables.index_select(1, index).argmax(-1)]]


def _first(right: Sequence[bool]) -> int | None:
    """Layers run when the token is named first; None: never."""
    return next((n for n, yes in enumerate(right, 1) if yes), None)


def _stable(right: Sequence[bool]) -> int | None:
    """Layers run from which on it is always named; None: not even at the end."""
    if not right[-1]:
        return None
    wrong = [n for n, yes in enumerate(right, 1) if not yes]
    return (wrong[-1] if wrong else 0) + 1
