"""The tokenizer and chat template of a GGUF file, as sessions ask for them. Without transformers."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from erecap.engines.llamacpp.library import library
from erecap.errors import ModelError

if TYPE_CHECKING:
    from erecap.engines.llamacpp.model import LlamaCppModel


def ids_of(vocab: Any, text: str, name: str, add_special: bool = False) -> list[int]:
    """Ids of a text by the tokenizer of a file; marks in the text are read as such.

    Args:
        vocab: llama.cpp's pointer to it.
        name: of the file, for messages.
    """
    raw = text.encode("utf-8")
    most = len(raw) + 8
    found = (ctypes.c_int32 * most)()
    count = library().llama_tokenize(vocab, raw, len(raw), found, most, add_special, True)
    if count < 0:
        raise ModelError(f"{name}: a text of {len(raw)} bytes has {-count} tokens, more than bytes")
    return list(found[:count])


class GgufTokenizer:
    """llama.cpp's tokenizer of a file, with the part of a fast Hugging Face tokenizer's interface that sessions need.

    Attributes:
        chat_template: of the file.

    Raises:
        ModelError: the file holds no text of its tokens, or no chat template, or its tokenizer changes text, so that
            the characters of a token cannot be told.
    """

    is_fast = True

    def __init__(self, model: LlamaCppModel) -> None:
        api, self._model, self._vocab = library(), model, model.vocab
        name = model.path.name
        if not api.llama_vocab_type(self._vocab):
            raise ModelError(f"{name}: holds no tokenizer; give one of transformers")
        template = api.llama_model_chat_template(model.handle, None)
        if not template:
            raise ModelError(f"{name}: holds no chat template; take an instruct model, or give a tokenizer")
        self.chat_template: str | None = template.decode("utf-8", "replace")
        self.name_or_path = name
        self.bos_token_id, self.eos_token_id = (
            number if number >= 0 else None
            for number in (int(api.llama_vocab_bos(self._vocab)), int(api.llama_vocab_eos(self._vocab)))
        )
        self._pieces = [self._piece(number) for number in range(model.vocabulary)]
        self._leads = False  # a space is put before a text that does not begin with a mark
        probe = "a b\n\nÄ 冷"
        joined = b"".join(self._pieces[token] for token in self._ids(probe))
        if joined == b" " + probe.encode():
            self._leads = True
        elif joined != probe.encode():
            raise ModelError(f"{name}: its tokenizer changes the text that it reads; give one of transformers")

    def __len__(self) -> int:
        return self._model.vocabulary

    @property
    def bos_token(self) -> str | None:
        """The text of the token that begins a text."""
        return None if self.bos_token_id is None else self._pieces[self.bos_token_id].decode("utf-8", "replace")

    @property
    def eos_token(self) -> str | None:
        """The text of the token that ends a text."""
        return None if self.eos_token_id is None else self._pieces[self.eos_token_id].decode("utf-8", "replace")

    @cached_property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """The tokens that are marks, by id, as transformers describes them."""
        api, found = library(), {}
        for number, piece in enumerate(self._pieces):
            control = bool(api.llama_vocab_is_control(self._vocab, number))
            if control or api.llama_vocab_get_attr(self._vocab, number) & 16:  # 16: put in by the user, as one piece
                found[number] = SimpleNamespace(
                    content=piece.decode("utf-8", "replace"), normalized=False, special=control
                )
        return found

    def get_added_vocab(self) -> dict[str, int]:
        """The tokens that are marks: ids by text."""
        return {token.content: number for number, token in self.added_tokens_decoder.items()}

    # Text to tokens ---------------------------------------------------------------------------------------

    def __call__(
        self,
        text: str | Sequence[str],
        add_special_tokens: bool = True,
        return_offsets_mapping: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """Ids `input_ids` of a text, or of each of several, and the characters `offset_mapping` of each token.

        Marks in the text are read as such. Options that a batch would need (padding, tensors) are not there.
        """
        unknown = set(options) - {"return_attention_mask", "verbose"}
        if unknown:
            raise TypeError(f"GgufTokenizer takes no {', '.join(sorted(unknown))}")
        if not isinstance(text, str):
            rows = [self(each, add_special_tokens, return_offsets_mapping) for each in text]
            return {name: [row[name] for row in rows] for name in (rows[0] if rows else {"input_ids": []})}
        ids = self._ids(text, add_special_tokens)
        return {"input_ids": ids} | ({"offset_mapping": self._offsets(text, ids)} if return_offsets_mapping else {})

    def _ids(self, text: str, add_special: bool = False) -> list[int]:
        return ids_of(self._vocab, text, self.name_or_path, add_special)

    def _offsets(self, text: str, ids: Sequence[int]) -> list[tuple[int, int]]:
        raw = np.frombuffer(text.encode("utf-8"), np.uint8)
        begins = (raw & 0xC0) != 0x80  # the first byte of a character
        # Characters that begin before a byte, and those that begin at or before it.
        before = np.concatenate([[0], np.cumsum(begins)])
        place, spans, last = 0, [], len(raw)
        for number, token in enumerate(ids):
            piece = self._pieces[token]
            if not number and token == self.bos_token_id and not text.startswith(piece.decode("utf-8", "replace")):
                spans.append((0, 0))
                continue
            end = place + len(piece)
            if self._leads and not place and piece[:1] == b" " and not raw[:1].tobytes() == b" ":
                end -= 1
            end = min(end, last)
            low = int(before[min(place + 1, last)]) - 1 if last else 0
            spans.append((max(0, low) if end > place else int(before[place]), int(before[end])))
            place = end
        return spans

    # Tokens to text ---------------------------------------------------------------------------------------

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of tokens."""
        marks = self.added_tokens_decoder
        kept = [int(token) for token in ids]
        if skip_special_tokens:
            kept = [token for token in kept if not (token in marks and marks[token].special)]
        raw = b"".join(self._pieces[token] for token in kept)
        return (raw[1:] if self._leads and raw[:1] == b" " else raw).decode("utf-8", "replace")

    def batch_decode(self, rows: Iterable[Iterable[int]], skip_special_tokens: bool = False) -> list[str]:
        """The text of each row of tokens."""
        return [self.decode(row, skip_special_tokens) for row in rows]

    def _piece(self, number: int) -> bytes:
        api = library()
        for size in (64, 4096):
            buffer = ctypes.create_string_buffer(size)
            count = api.llama_token_to_piece(self._vocab, number, buffer, size, 0, True)
            if count >= 0:
                return buffer.raw[:count]
        raise ModelError(f"{self.name_or_path}: token {number} has a text of more than 4,096 bytes")

    # Chats ------------------------------------------------------------------------------------------------

    def apply_chat_template(
        self, messages: Sequence[Any], tokenize: bool = False, add_generation_prompt: bool = False, **more: Any
    ) -> str:
        """The chat as the file's template writes it; never tokens."""
        if tokenize:
            raise TypeError("GgufTokenizer writes a chat as text: tokenize=False")
        values = {"bos_token": self.bos_token or "", "eos_token": self.eos_token or "", **more}
        written = self._compiled(self.chat_template or "").render(
            messages=messages, add_generation_prompt=add_generation_prompt, **values
        )
        return str(written)

    def _compiled(self, template: str) -> Any:
        known = self.__dict__.setdefault("_templates", {})
        if template not in known:
            from jinja2 import TemplateError
            from jinja2.ext import loopcontrols
            from jinja2.sandbox import ImmutableSandboxedEnvironment

            def refused(message: str) -> None:
                raise TemplateError(message)

            place = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
            place.globals |= {"raise_exception": refused, "strftime_now": datetime.now().strftime}
            place.filters["tojson"] = lambda value, **more: json.dumps(value, ensure_ascii=False, **more)
            known[template] = place.from_string(template)
        return known[template]
