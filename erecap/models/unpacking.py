"""Turn a GGUF file into an ordinary Hugging Face folder."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from erecap.errors import ModelError
from erecap.models.inspection import first_line


def unpack_gguf(gguf: Path, folder: Path, *, window: int) -> None:
    """Write config, float32 safetensors weights, tokenizer and chat template into `folder`.

    float32 because the weights of a 4-bit block are `scale * q + minimum`: neither float16 nor bfloat16 holds
    that exactly, and the arithmetic is elementwise, so every machine gets the same bits.

    Args:
        window: tokens that the model was trained to read at once; stated in the tokenizer.

    Raises:
        ModelError: the file cannot be read, or what comes out would not chat: no template, a turn's end that
            is not one token, or that generation would not stop at.
        OSError: the folder cannot be written.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        # The converter's own progress bar cannot be switched off, hence the redirection.
        with quiet(), redirect_stderr(io.StringIO()):
            # transformers reads the tokenizer's tables from the same file as the weights.
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float32,
            )
            _split_text_as_trained(tokenizer, gguf)
            tokenizer.model_max_length = window
            end = tokenizer.eos_token_id
            if tokenizer.chat_template is None:
                raise ModelError(f"{gguf.name} holds no chat template")
            if end is None or tokenizer.encode(tokenizer.eos_token, add_special_tokens=False) != [end]:
                raise ModelError(f"{gguf.name}: the end of a turn ({tokenizer.eos_token}) is not one token")
            if end != model.generation_config.eos_token_id:
                raise ModelError(
                    f"{gguf.name}: generation would stop at token {model.generation_config.eos_token_id}, "
                    f"a turn ends with {end}"
                )
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except (ModelError, OSError):
        raise
    # The file is the pinned one, so what fails here is a reader of another release; it may raise anything.
    except Exception as error:
        raise ModelError(f"cannot unpack {gguf.name}: {first_line(error)}") from error


def _split_text_as_trained(tokenizer: Any, gguf: Path) -> None:
    """Restore the rule that cuts text before the merges, which transformers does not read from a GGUF file.

    SmolLM was trained with every digit on its own. Without that, "\\n\\n2." loses its double-newline token,
    and numbered lists cost 15-34 % more nats (docs/dev/log/speed.md).
    """
    from gguf import GGUFReader
    from tokenizers.pre_tokenizers import ByteLevel, Digits
    from tokenizers.pre_tokenizers import Sequence as Both

    field = GGUFReader(gguf).fields.get("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = Both(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and warnings; what matters is checked and raised by ourselves."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
