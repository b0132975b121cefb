"""A GPU and a model on it: bytes that they have, and seconds that a step of a server takes, by a roofline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from erecap.cost.flops import ModelShape


@dataclass(frozen=True)
class Gpu:
    """A device, by its data sheet and the shares of it that programs reach."""

    name: str
    memory_bytes: float
    bytes_per_s: float  # of its memory
    flops_per_s: float  # dense products in 16 bits
    memory_share: float = 0.9  # that weights, keys and values may fill
    bandwidth_share: float = 0.7  # of `bytes_per_s` that decoding reaches
    flops_share: float = 0.5  # of `flops_per_s` that prefill reaches
    step_s: float = 0.002  # of every step, whatever it reads: scheduling, launches, sampling

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "bytes_per_s", "flops_per_s", "memory_share", "bandwidth_share", "flops_share"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Gpu.{name} must be above 0, got {getattr(self, name)}")
        if self.step_s < 0:
            raise ValueError(f"Gpu.step_s must not be negative, got {self.step_s}")


# Data sheets: bytes and bytes/s of memory, dense bfloat16 FLOP/s without sparsity.
GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("l4", 24e9, 0.30e12, 121e12),
        Gpu("a100-80", 80e9, 2.0e12, 312e12),
        Gpu("h100", 80e9, 3.35e12, 989e12),
        Gpu("h200", 141e9, 4.8e12, 989e12),
    )
}
# Shapes of published models. Numbers are stored in two bytes, weights as well as keys and values.
SHAPES: dict[str, ModelShape] = {
    "8b": ModelShape(32, 4096, 14336, 32, 8, 128, 128256),  # Llama 3.1 8B
    "1b": ModelShape(16, 2048, 8192, 32, 8, 64, 128256),  # Llama 3.2 1B
}


@dataclass(frozen=True)
class Served:
    """A model as a GPU holds it."""

    shape: ModelShape
    weight_bytes_each: float = 2.0
    kv_bytes_each: float = 2.0
    tied: bool = False  # embeddings are also the head

    @property
    def parameters(self) -> int:
        """Weights of all matrices; norms are left out."""
        embeddings = self.shape.vocab_size * self.shape.hidden_size * (1 if self.tied else 2)
        return self.shape.layers * (self.shape.linear_flops_per_token // 2) + embeddings

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights."""
        return self.parameters * self.weight_bytes_each

    @property
    def bytes_per_token(self) -> float:
        """Bytes of the keys and values of one token in all layers."""
        return 2 * self.shape.layers * self.shape.kv_heads * self.shape.head_dim * self.kv_bytes_each

    def flops(self, new: int, kv: int) -> float:
        """FLOPs of reading `new` tokens behind `kv` stored ones, with the head for the last of them."""
        s = self.shape
        meeting = new * kv + new * (new + 1) / 2
        layers = s.layers * (s.linear_flops_per_token * new + 4 * s.heads * s.head_dim * meeting)
        return layers + 2 * s.hidden_size * s.vocab_size


# The published models as a GPU holds them.
MODELS: dict[str, Served] = {"8b": Served(SHAPES["8b"]), "1b": Served(SHAPES["1b"], tied=True)}


def tokens_held(gpu: Gpu, model: Served) -> int:
    """Tokens whose keys and values fit beside the weights.

    Raises:
        ValueError: not even the weights fit.
    """
    left = gpu.memory_bytes * gpu.memory_share - model.weight_bytes
    if left <= 0:
        raise ValueError(
            f"the weights need {model.weight_bytes / 1e9:.0f} GB, and {gpu.name} has "
            f"{gpu.memory_bytes * gpu.memory_share / 1e9:.0f} GB for them"
        )
    return int(left / model.bytes_per_token)


def step_seconds(gpu: Gpu, model: Served, reads: Sequence[tuple[int, int]]) -> float:
    """Seconds of one step of a server, which reads `new` tokens behind `kv` stored ones for each call in it.

    The weights are read once for all of them, every call's keys and values once; arithmetic and memory overlap.
    """
    flops = sum(model.flops(new, kv) for new, kv in reads)
    moved = model.weight_bytes + model.bytes_per_token * sum(kv + new for new, kv in reads)
    busy = max(flops / (gpu.flops_per_s * gpu.flops_share), moved / (gpu.bytes_per_s * gpu.bandwidth_share))
    return gpu.step_s + busy


def fitted(gpu: Gpu, model: Served, measured: Mapping[str, Any]) -> Gpu:
    """The GPU with the shares that were measured on it.

    Args:
        measured: `read_tokens` and `read_s` of one long prefill on an empty cache; `decode`, two or more passes of one
            token each for `agents` conversations of `kv` tokens in `s` seconds.

    Raises:
        ValueError: fewer than two kinds of passes, or times that no roofline explains.
    """
    tokens, read_s = int(measured["read_tokens"]), float(measured["read_s"])
    if tokens < 1 or not read_s > 0:
        raise ValueError(f"the prefill has {tokens} tokens in {read_s} s; allowed: above 0")
    passes = [(_moved(model, entry), float(entry["s"])) for entry in measured["decode"]]
    (least, fast), (most, slow) = min(passes), max(passes)
    if most <= least or slow <= fast:
        raise ValueError("two passes are needed, of which the one that moves more bytes takes longer")
    rate = (most - least) / (slow - fast)
    return replace(
        gpu,
        bandwidth_share=rate / gpu.bytes_per_s,
        flops_share=model.flops(tokens, 0) / read_s / gpu.flops_per_s,
        step_s=max(0.0, fast - least / rate),
    )


def fit_of(content: Any, model: Served) -> Mapping[str, Any]:
    """Return the measured speeds in the content of a file of `erecap bench fleet`, as `fitted` takes them.

    Raises:
        ValueError: no such file, one that has measured too little, or one of another model.
    """
    told = content.get("model") if isinstance(content, Mapping) and content.get("part") == "fleet" else None
    if not isinstance(told, Mapping):
        raise ValueError("no file of erecap bench fleet")
    shape = asdict(model.shape)
    del shape["vocab_size"]  # is larger where the tokenizer's is
    other = next((name for name, value in shape.items() if told.get(name) != value), None)
    if other is not None:
        raise ValueError(
            f"measured with {other} {told.get(other)}, and the model has {shape[other]}; measure its shape"
        )
    if told.get("dtype") != "bfloat16":
        raise ValueError(f"measured in {told.get('dtype')}; allowed: bfloat16, on a GPU")
    found = content.get("fit")
    if not isinstance(found, Mapping):
        raise ValueError("too little was measured; allowed: `full` with one agent, and two numbers of agents")
    return found


def _moved(model: Served, entry: Mapping[str, Any]) -> float:
    return model.weight_bytes + model.bytes_per_token * float(entry["agents"]) * (float(entry["kv"]) + 1)
