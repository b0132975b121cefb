"""Texts without a chat template, for `/v1/completions`: a chat of its lines, written one behind the other."""

from __future__ import annotations

import copy
from typing import Any

from erecap.generation import Message

PIECE = 32  # characters of one message
_TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def raw_tokenizer(tokenizer: Any) -> Any:
    """A copy whose chat template writes contents alone, behind the token that begins a text if there is one."""
    raw = copy.copy(tokenizer)
    begins = tokenizer("a").get("input_ids", [])[:1]
    is_bos = tokenizer.bos_token_id is not None and begins == [tokenizer.bos_token_id]
    raw.chat_template = ("{{ bos_token }}" if is_bos else "") + _TEMPLATE
    return raw


def as_lines(text: str) -> list[Message]:
    """A text as messages, one a line, so that texts which begin alike share what was read. None of it is protected.

    A long line is several: a text that goes on in its last line is then found by the pieces before.
    """
    *lines, rest = text.split("\n")
    whole = [f"{line}\n" for line in lines] + ([rest] if rest else [])
    pieces = [line[start : start + PIECE] for line in whole for start in range(0, len(line), PIECE)]
    return [{"role": "user", "content": piece, "protect": []} for piece in pieces]
