"""Counts of tokens for planners that are shown text: by a tokenizer that the user names, or by an estimate."""

from __future__ import annotations

import inspect
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from erecap.context.token_estimate import estimate_tokens
from erecap.errors import ConfigError, ErecapError
from erecap.generation import Message
from erecap.wrapping.option_types import is_whole
from erecap.wrapping.request_parts import MEDIA_TOKENS, MESSAGE_TOKENS, beside_content, beside_messages, tokens_around

BESIDE = "erecap_beside"  # key of a message: tokens of what it holds besides its content
_REMEMBERED = 65_536  # texts whose counts are kept
_PROBE = "Take the mug 1 from the shelf 2."
_ALLOWED = (
    "allowed: a tokenizer with encode, a function of a text that returns a number or tokens, a catalog or hub "
    "name, or a folder that has a tokenizer"
)


class TokenCounter:
    """Counts texts, messages and requests.

    Args:
        tokenizer: as for `erecap.wrap`; None: the estimate by scripts, `erecap.context.token_estimate`.

    Raises:
        ConfigError: it is none, or cannot be found.
    """

    def __init__(self, tokenizer: Any = None) -> None:
        self.estimated = tokenizer is None
        if isinstance(tokenizer, (str, os.PathLike)):
            tokenizer = _loaded(os.fspath(tokenizer))
        self.tokenizer = tokenizer
        self._count: Callable[[str], int] = estimate_tokens if tokenizer is None else _counting(tokenizer)
        self._known: OrderedDict[bytes, int] = OrderedDict()

    @classmethod
    def by(cls, count: Callable[[str], int]) -> TokenCounter:
        """A counter by a function that is not asked before it is needed."""
        counter = cls()
        counter.estimated, counter._count = False, count
        return counter

    def text(self, text: str) -> int:
        """Tokens of `text`. A text is counted once, however often it is asked about."""
        key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._count(text)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return known

    def chat(self, messages: Sequence[Message]) -> int:
        """Tokens of messages: content, what `beside` found in them, and the tags around each."""
        return sum(self.text(message["content"] or "") + _beside(message) + MESSAGE_TOKENS for message in messages)

    def beside(self, ours: Sequence[Message], given: Sequence[Any]) -> list[Message]:
        """`ours`, one for each of `given` in the host's shape, with the tokens of what else these hold."""
        result = []
        for message, original in zip(ours, given, strict=True):
            parts = beside_content(original, message["content"] or "")
            tokens = parts.media * MEDIA_TOKENS + (self.text(parts.text) if parts.text else 0)
            result.append({**message, BESIDE: tokens} if tokens else message)
        return result  # type: ignore[return-value]

    def request(self, fields: Mapping[str, Any]) -> int:
        """Tokens of a request besides its messages: tools, schemas, system text of its own."""
        text = beside_messages(fields)
        return self.text(text) + tokens_around(fields) if text else 0


def _beside(message: Any) -> int:
    return message.get(BESIDE, 0)


def _loaded(name: str) -> Any:
    """The tokenizer of a model: catalog name, folder, hub name, or the file `tokenizer.json`."""
    if not name:
        raise ConfigError(f"tokenizer: got ''; {_ALLOWED}")
    try:
        if Path(name).is_file():
            from tokenizers import Tokenizer

            return Tokenizer.from_file(name)
        from transformers import AutoTokenizer

        from erecap.models import CATALOG, locate

        # Of a model on the hub only the tokenizer's files are fetched.
        return AutoTokenizer.from_pretrained(locate(name) if name in CATALOG else name)
    except ErecapError as error:
        raise ConfigError(f"tokenizer: {error}") from error
    except Exception as error:  # the tokenizers library raises plain `Exception` for a file that it cannot read
        problem = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"tokenizer: {name} cannot be read: {problem:.200}") from error


def _counting(tokenizer: Any) -> Callable[[str], int]:
    """The function that counts by `tokenizer`, tried on a text.

    Raises:
        ConfigError: it is no tokenizer, or does not count.
    """
    encode = _encoder(tokenizer)
    if encode is None:
        raise ConfigError(f"tokenizer: got {tokenizer!r:.80}; {_ALLOWED}")

    def count(text: str) -> int:
        return _length(encode(text))

    try:
        count(_PROBE)
    except ConfigError:
        raise
    except Exception as error:  # whatever a foreign tokenizer raises, the user has to hear of it now
        problem = f"{type(error).__name__}: {error}"
        raise ConfigError(f"tokenizer: {type(tokenizer).__name__} does not count a text ({problem})") from error
    return count


def _encoder(tokenizer: Any) -> Callable[[str], Any] | None:
    ordinary = getattr(tokenizer, "encode_ordinary", None)  # tiktoken, whose `encode` refuses texts with special tokens
    if callable(ordinary):
        return ordinary
    encode = getattr(tokenizer, "encode", None)
    if callable(encode):
        if _takes(encode, "add_special_tokens"):  # transformers, tokenizers
            return lambda text: encode(text, add_special_tokens=False)
        if _takes(encode, "bos") and _takes(encode, "eos"):  # mistral-common
            return lambda text: encode(text, bos=False, eos=False)
        return encode
    return tokenizer if callable(tokenizer) else None


def _takes(function: Any, name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (ValueError, TypeError):  # written in C, without a signature
        return f"{name}=" in (getattr(function, "__text_signature__", None) or getattr(function, "__doc__", None) or "")


def _length(encoded: Any) -> int:
    """Number of tokens in whatever a tokenizer returned."""
    if is_whole(encoded) and encoded >= 0:
        return int(encoded)
    if isinstance(encoded, Mapping) or hasattr(encoded, "input_ids"):  # transformers' BatchEncoding
        encoded = encoded["input_ids"]
    if not isinstance(encoded, (str, bytes)) and hasattr(encoded, "__len__"):
        return len(encoded)
    raise ConfigError(f"tokenizer: it returned {encoded!r:.60} for a text; allowed: a number, or tokens")
