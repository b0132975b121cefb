"""Small tokenizers of the common kinds, trained in code in a moment, each with a chat template of its family."""

from __future__ import annotations

import json
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Strips, merges the system text into the first user turn, demands that roles alternate.
INST = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set s = messages[0]['content'] + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + (s if loop.first else '') + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + eos_token }}{% endif %}{% endfor %}"
)
# The system text moves to just before the last user turn, as in some Mistral templates; reasoning is cut away.
MOVING = (
    "{% set s = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST]' + (s + '\n' if loop.last else '') + m['content'] }}"
    "{{ '[/INST]' }}{% elif m['role'] == 'assistant' %}"
    "{% if '</think>' in m['content'] %}{{ m['content'].split('</think>')[1] }}{% else %}{{ m['content'] }}{% endif %}"
    "{{ eos_token }}{% endif %}{% endfor %}"
)

_CORPUS = [
    "go to fridge 1",
    "take apple 1 from countertop 12",
    "open cabinet 3",
    "move the mug 2 to shelf 4, then look",
    "You see a drawer 10 and a knife 1.",
    "user assistant system\nGoal: put a clean apple in fridge 1",
] * 3


def _wrap(core: Tokenizer, template: str, **special: str) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **special)
    tokenizer.chat_template = template
    return tokenizer


@cache
def byte_level() -> PreTrainedTokenizerFast:
    """As in GPT-2, SmolLM2 and Qwen."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    core.train_from_iterator(
        _CORPUS,
        trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return _wrap(core, CHATML, eos_token="<|im_end|>", pad_token="<|endoftext|>")


@cache
def llama_like(template: str = INST) -> PreTrainedTokenizerFast:
    """SentencePiece BPE with byte fallback, as in Llama 2 and Mistral: a space mark before the first word."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "\u2581")
    trained.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    trained.train_from_iterator(
        [" " + line for line in _CORPUS], trainers.BpeTrainer(vocab_size=300, show_progress=False)
    )
    state = json.loads(trained.to_str())["model"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    learned = [token for token in sorted(state["vocab"], key=state["vocab"].get) if token != "\n"]
    vocab = {token: index for index, token in enumerate([*names, *learned])}
    merges = [tuple(pair) for pair in state["merges"]]
    core = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=[pair for pair in merges if all(part in vocab for part in (*pair, "".join(pair)))],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    core.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.add_special_tokens([AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>")])
    return _wrap(core, template, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def metaspace() -> PreTrainedTokenizerFast:
    """Space marks by a pre-tokenizer, and the turn ended by a token that is not the end of text, as in Gemma."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<eos>", "<|im_start|>", "<|im_end|>"]
    alphabet = [chr(code) for code in range(32, 127)] + ["\n"]
    core.train_from_iterator(
        _CORPUS,
        trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return _wrap(core, CHATML, eos_token="<eos>", unk_token="<unk>")


@cache
def word_piece() -> PreTrainedTokenizerFast:
    """As in BERT: knows no line break, so it cannot write plans."""
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.train_from_iterator(
        _CORPUS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    )
    return _wrap(core, CHATML, eos_token="[SEP]", unk_token="[UNK]")


WRITERS = {"byte_level": byte_level, "llama_like": llama_like, "metaspace": metaspace}
