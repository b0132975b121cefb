"""Digests of a tokenizer and of its chat template."""

from __future__ import annotations

import hashlib
from typing import Any

# Texts on which tokenizers differ, for those that cannot be written out whole.
_PROBE = 'Go to fridge 12.\n\n  don\'t; Straße, été, 冷蔵庫, مطبخ 🤖\t{"a": [1.5e-3]}'


def tokenizer_print(tokenizer: Any) -> dict[str, str]:
    """Digests of what turns a chat into tokens: `tokenizer` and `template`."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        written = backend.to_str()
        # What stands before the tokens says how the last call cut and filled up its texts.
        whole = written[max(0, written.find('"added_tokens"')) :]
    else:
        whole = f"{type(tokenizer).__name__} {list(tokenizer(_PROBE, add_special_tokens=False)['input_ids'])}"
    template = str(getattr(tokenizer, "chat_template", None))
    digests = {"tokenizer": whole, "template": template}
    return {
        name: hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32] for name, text in digests.items()
    }
