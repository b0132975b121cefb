"""Models with a merged LoRA adapter, as folders that vLLM can open."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from erecap.files import cache_dir

LAYOUT = 2  # of what is written; another number is written anew


def merged_folder(name: str, adapter: str) -> Path:
    """The folder of a model with an adapter merged into its weights, in the cache; written unless it is there.

    It has the number format of the model's folder, so that `dtype="auto"` means the same with an adapter as without.

    Raises:
        ModelError: as `erecap.models.load`.
    """
    from erecap.models import describe_adapter, fingerprint, locate
    from erecap.models.adapters import locate_adapter
    from erecap.models.finiteness import check_finite
    from erecap.models.loading import checked_folder, load_tokenizer, merged

    key = f"{LAYOUT} {fingerprint(locate(name))} {describe_adapter(adapter)['hash']}"
    target = cache_dir() / "merged" / hashlib.sha256(key.encode()).hexdigest()[:24]
    if not (target / "config.json").is_file():
        base = checked_folder(name)
        tokenizer = load_tokenizer(base)
        model = merged(base, locate_adapter(adapter), "cpu")
        check_finite(model, base)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, ignore_cleanup_errors=True) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            if not target.exists():
                os.rename(folder, target)
    return target
