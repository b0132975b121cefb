"""Models with a merged LoRA adapter, as folders that vLLM can open."""

from __future__ import annotations

import hashlib
from pathlib import Path

from erecap.files import cache_dir


def merged_folder(name: str, adapter: str) -> Path:
    """The folder of a model with an adapter merged into its weights, in the cache; written unless it is there.

    Raises:
        ModelError, ConfigError: as `erecap.models.load`.
    """
    import os
    import tempfile

    from erecap.models import describe_adapter, fingerprint, load, locate
    from erecap.models.loading import load_tokenizer

    base = locate(name)
    key = hashlib.sha256(f"{fingerprint(base)} {describe_adapter(adapter)['hash']}".encode()).hexdigest()[:24]
    target = cache_dir() / "merged" / key
    if not (target / "config.json").is_file():
        model, _ = load(name, "auto", "cpu", adapter=adapter)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            model.save_pretrained(folder)
            load_tokenizer(base).save_pretrained(folder)
            if not target.exists():
                os.rename(folder, target)
                Path(folder).mkdir()
    return target
