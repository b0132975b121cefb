"""Loading of a model whose weights are split over the processes that `torchrun` started (tensor parallelism)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from erecap.errors import ModelError
from erecap.models.finiteness import check_finite
from erecap.models.hashing import fingerprint
from erecap.models.loading import empty_model, load_weights
from erecap.models.loading import merged as with_adapter
from erecap.models.origins import remember_origin
from erecap.parallel.ranks import Ranks

KEYS = ("k_proj", "qkv_proj", "query_key_value")  # projections that make keys


def load_split(folder: Path, dtype: Any, attn: str, adapter: str | None, ranks: Ranks) -> Any:
    """This rank's part of a model, split by transformers' plan for its architecture.

    An adapter is merged on rank 0, and all ranks read the merged weights from a temporary folder.

    Raises:
        ModelError: the ranks have different models or settings; the architecture has no plan, or its heads cannot be
            split over so many ranks; or as `erecap.models.load`.
    """
    from erecap.models.adapters import check_adapter, describe_adapter, locate_adapter

    ranks.agree(
        {
            "model": fingerprint(folder),
            "configuration": (folder / "config.json").read_bytes(),
            "adapter": None if adapter is None else describe_adapter(adapter)["hash"],
            "number format": str(dtype),
            "attention": attn,
        }
    )
    check_heads(empty_model(folder), ranks.size)
    if adapter is None:
        model = _load(folder, dtype, attn, ranks)
        remember_origin(model, folder, None)
        return model
    found = locate_adapter(adapter)
    check_adapter(found, folder)
    with tempfile.TemporaryDirectory(prefix="erecap-merged-", ignore_cleanup_errors=True) as made:
        merged = Path(made)
        if ranks.rank == 0:
            with_adapter(folder, found, "cpu", attn).save_pretrained(merged)
            ranks.tell({"merged": str(merged)})
        else:
            merged = Path(ranks.hear()["merged"])
        model = _load(merged, dtype, attn, ranks)
        ranks.agree({"end of loading": True})  # the folder stays until all have read it
    remember_origin(model, folder, found)
    return model


def check_heads(model: Any, size: int) -> None:
    """Refuse a number of ranks over which the attention heads cannot be split evenly.

    Raises:
        ModelError: says which numbers are allowed; or that the architecture has no plan.
    """
    plan: dict[str, str] = getattr(model, "tp_plan", None) or {}
    if not plan:
        raise ModelError(f"{type(model).__name__} has no plan by which transformers splits it (tp_plan)")
    config = model.config.get_text_config(decoder=True)
    heads = config.num_attention_heads
    keys = getattr(config, "num_key_value_heads", None) or heads
    split = any(name.rsplit(".", 1)[-1] in KEYS and style == "colwise" for name, style in plan.items())
    if split and (heads % size or keys % size):
        allowed = [number for number in range(1, keys + 1) if not heads % number and not keys % number]
        raise ModelError(
            f"{heads} attention heads and {keys} key heads cannot be split over {size} processes; "
            f"allowed: {', '.join(map(str, allowed))}"
        )


def _load(folder: Path, dtype: Any, attn: str, ranks: Ranks) -> Any:
    from transformers.distributed import DistributedConfig

    plan = DistributedConfig(tp_size=ranks.size, tp_plan="auto")
    model = load_weights(folder, dtype, None, attn, distributed_config=plan)
    with ranks.together():
        check_finite(model, folder)
    return model
