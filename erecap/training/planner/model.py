"""Trained weights: a LoRA adapter beside a frozen base, or all weights; and the form in which they ship."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from erecap.errors import ConfigError
from erecap.files import write_atomic, write_json
from erecap.models import adapters
from erecap.models.loading import native_bfloat16
from erecap.training.planner.settings import RANK, PlannerTraining

ALPHA = 2  # LoRA's scale, as a multiple of the rank


class Trainee:
    """A model with some trainable tensors, all in float32.

    Args:
        model: a causal language model in float32, as loaded.
        settings: of the training.
        init: folder of a checked adapter to go on from. For a full training it has been merged into `model` already.

    Raises:
        ConfigError: a rank other than that of `init`.
        ModelError: `init` does not fit the model.
    """

    def __init__(self, model: Any, settings: PlannerTraining, init: Path | None = None) -> None:
        self.full = settings.full
        device = model.device
        self.bf16 = settings.amp == "bf16" or (settings.amp == "auto" and native_bfloat16(device))
        if settings.full:
            self.model = model.requires_grad_(True)
        else:
            self.model = _with_adapter(model, settings, init)
            if self.bf16:
                _store_frozen_products_in_bf16(self.model)
        if settings.checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
            if not settings.full:
                self.model.enable_input_require_grads()
        self.trainable = {name: tensor for name, tensor in self.model.named_parameters() if tensor.requires_grad}

    @property
    def rank(self) -> int | None:
        """Rank of the adapter; None for a full training."""
        return None if self.full else self.model.peft_config["default"].r

    def precision(self) -> AbstractContextManager[Any]:
        """The context in which forward passes run."""
        if not self.bf16:
            return nullcontext()
        return torch.autocast(self.model.device.type, torch.bfloat16)

    def state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Copies of the trainable tensors on the CPU, by name."""
        for name, tensor in self.trainable.items():
            yield name, tensor.detach().cpu().clone()

    def set_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Write tensors of the same names and shapes into the trainable ones."""
        with torch.no_grad():
            for name, tensor in self.trainable.items():
                tensor.copy_(tensors[name])

    def round_to_shipped(self) -> None:
        """Give the trainable tensors the values that they will have in the file: those of bfloat16."""
        with torch.no_grad():
            for tensor in self.trainable.values():
                tensor.copy_(tensor.bfloat16())

    def ship(self, folder: Path, base: str, tokenizer: Any) -> list[str]:
        """Write the weights in bfloat16; returns the names of the files that decide what the model computes."""
        if self.full:
            return _ship_model(self.model, folder, tokenizer)
        from peft import get_peft_model_state_dict
        from safetensors.torch import save

        tensors = {
            name: tensor.detach().cpu().bfloat16().contiguous()
            for name, tensor in get_peft_model_state_dict(self.model).items()
        }
        config = self.model.peft_config["default"].to_dict()
        config["base_model_name_or_path"] = base
        config["inference_mode"] = True
        plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
        write_json(folder / adapters.CONFIG, dict(sorted(plain.items())))
        write_atomic(folder / adapters.WEIGHTS, save(dict(sorted(tensors.items())), {"format": "pt"}))
        return [adapters.WEIGHTS, adapters.CONFIG]


def _with_adapter(model: Any, settings: PlannerTraining, init: Path | None) -> Any:
    if init is not None:
        wrapped = adapters.attach_adapter(model, init, trainable=True)
        rank = wrapped.peft_config["default"].r
        if settings.rank not in (None, rank):
            raise ConfigError(f"--rank is {settings.rank}, but {init.name} has rank {rank}; leave --rank out")
        return wrapped
    from peft import LoraConfig, get_peft_model

    rank = settings.rank or RANK
    torch.manual_seed(settings.seed)
    config = LoraConfig(r=rank, lora_alpha=ALPHA * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def _store_frozen_products_in_bf16(model: Any) -> None:
    """Autocast converts frozen weights anew at every product; stored in bfloat16 they give the same numbers sooner."""
    for module in model.modules():
        base = getattr(module, "base_layer", None)
        if isinstance(base, torch.nn.Linear):
            base.to(torch.bfloat16)


def _ship_model(model: Any, folder: Path, tokenizer: Any) -> list[str]:
    import shutil
    import tempfile

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".model.") as aside:
        tensors = {name: tensor.detach().cpu().bfloat16() for name, tensor in model.state_dict().items()}
        for name in model.all_tied_weights_keys:
            tensors.pop(name, None)
        config = type(model.config).from_dict({**model.config.to_dict(), "dtype": "bfloat16"})
        config.save_pretrained(aside)
        model.generation_config.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, Path(aside) / "model.safetensors")
        # The weights last: a folder without them is not taken for a model.
        for file in sorted(Path(aside).iterdir(), key=lambda path: path.suffix == ".safetensors"):
            shutil.move(file, folder / file.name)
    return ["model.safetensors"]
