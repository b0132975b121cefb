"""A chat tokenizer of bytes, as small as the vocabulary of the small models."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

_FIRST = 20  # below stand the ids that configurations give a meaning
_CHAT = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@cache
def chat_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, and a plain chat template."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {f"<unused{n}>": n for n in range(_FIRST)} | {letter: _FIRST + n for n, letter in enumerate(letters)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<unused2>", pad_token="<unused0>")
    tokenizer.chat_template = _CHAT
    return tokenizer
