"""The fused decoder: the layers of known architectures written out, for reads of few tokens.

A decode step of a small model on a CPU spends more time between the matrix products than in them: module calls, three
products where one would do, keys copied for grouped heads. `FusedDecoder` does the same arithmetic with
fewer operations, on a `PrunedCache`, without hooks. Layers it does not know are read by the model itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from erecap.decoding.attention import fold_mask, grouped_attention, split_attention
from erecap.decoding.linear import Head, Product, Weights, make_product
from erecap.decoding.padded import PaddedAttention, fits
from erecap.decoding.stock import changed_attention, changed_module, unplain_weight
from erecap.layers.removed import REMOVED, RemovedMLP, attends
from erecap.tokens.cache.masks import layer_windows
from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.cache.ropes import CHANGING, angles, layer_type, rope_kinds
from erecap.tokens.ragged import Part, kept_rows
from erecap.tokens.scoring.probe import current, last_query_mass

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma3", "Phi3")
LAYERS = frozenset(f"{name}DecoderLayer" for name in FAMILIES)
# The classes that do no more than run the decoder and the head, where they are given text.
MODELS = frozenset({*(f"{name}ForCausalLM" for name in FAMILIES), "Gemma3ForConditionalGeneration"})


def fused_problem(model: nn.Module) -> str | None:
    """Reason why `FusedDecoder` cannot read for `model`; None if it can."""
    if any(hasattr(module, "_hf_hook") for module in model.modules()):
        return "its weights are placed by accelerate"
    if not hasattr(model, "get_decoder") or type(getattr(model, "lm_head", None)) is not nn.Linear:
        return "it is no causal language model with a linear head"
    if type(model).__name__ not in MODELS:
        return f"it is {type(model).__name__}, whose forward may do more than its layers"
    config = model.config.get_text_config(decoder=True)
    decoder = model.get_decoder()
    if not getattr(decoder, "layers", None):
        return "it has no list of decoder layers"
    if len(decoder.layers) != config.num_hidden_layers:
        return f"it has {len(decoder.layers)} layers and runs {config.num_hidden_layers}"
    for layer in decoder.layers:
        if type(layer).__name__ not in LAYERS:
            return f"its layers are {type(layer).__name__}"
        family = type(layer).__name__.removesuffix("DecoderLayer")
        for part, wanted in (("self_attn", "Attention"), ("mlp", "MLP")):
            if isinstance(getattr(layer, part, None), REMOVED):
                continue
            found = type(getattr(layer, part, None)).__name__
            if found != family + wanted:
                return f"the {wanted} of one of its layers is {found}".replace("the A", "the a")
        for name, module in layer.named_modules():
            last = name.rsplit(".", 1)[-1]
            if "proj" in last and type(module) is not nn.Linear:
                return f"{name} is {type(module).__name__}, not a plain linear layer"
            if "norm" in last and type(module).__name__ != f"{family}RMSNorm":
                return f"{name} is {type(module).__name__}, not a plain norm"
    if type(decoder.norm).__name__ != type(decoder.layers[0].input_layernorm).__name__:
        return f"its last norm is {type(decoder.norm).__name__}"
    if rope_kinds(config) & CHANGING:
        return "its rotary embedding changes with the length of the sequence"
    if getattr(config, "attn_logit_softcapping", None) or getattr(config, "final_logit_softcapping", None):
        return "it caps attention scores or logits"
    if getattr(config, "use_bidirectional_attention", None):
        return "its tokens attend to later ones"
    changed = (
        changed_module(name, module)
        for name, module in (("", model), *decoder.named_modules())
        if not isinstance(module, REMOVED)
    )
    return (
        unplain_weight(model)
        or changed_attention(next(layer.self_attn for layer in decoder.layers if attends(layer)), config)
        or next((problem for problem in changed if problem is not None), None)
    )


class FusedDecoder:
    """Reads a few tokens for `model`, unpruned.

    Args:
        model: a causal language model of one of the known architectures, in eval mode.
        weights: precision of the matrix products; other than `same` only on a CPU.

    Raises:
        ValueError: a model it cannot read for, or packed weights on another device.
    """

    def __init__(self, model: Any, weights: Weights = "same") -> None:
        problem = fused_problem(model)
        if problem is not None:
            raise ValueError(f"{type(model).__name__} cannot be read with weights={weights!r}: {problem}")
        if weights != "same" and model.device.type != "cpu":
            raise ValueError(f"decode weights {weights!r} need the model on a CPU, it is on {model.device.type}")
        self.weights = weights
        self.pads = model.device.type != "cpu"  # several short reads share one call of attention
        self._decoder = model.get_decoder()
        self.device = model.device
        config = model.config.get_text_config(decoder=True)
        windows = layer_windows(config)
        with torch.no_grad():
            self.blocks = [
                _Block(layer, n, windows[n], layer_type(config, n), weights)
                for n, layer in enumerate(self._decoder.layers)
            ]
            self._norm = _norm(self._decoder.norm)
            self.head = Head(model.lm_head.weight, model.lm_head.bias, weights)  # logits on the model's device
        shapes = {(block.heads, block.kv_heads) for block in self.blocks}
        self._whole = all(window is None for window in windows) and len(shapes) == 1

    def read(self, cache: PrunedCache, ids: Sequence[int], start: int, keep: int = 0) -> torch.Tensor:
        """Read `ids` at positions from `start` on, storing their keys and values in `cache`.

        Args:
            keep: logits of this many newest tokens; 0: of all.

        Returns:
            Logits `(keep or len(ids), vocab)`.
        """
        return self.read_together([Part(cache, ids, start, keep, current.collect)])[0]

    def read_together(self, parts: Sequence[Part]) -> list[torch.Tensor]:
        """As `read`, for several caches in one pass (see `erecap.tokens.ragged`): logits of each, on the CPU.

        There tokens are chosen from them: one copy is better than a question to the device for each token. An exception
        leaves every cache as it was before.
        """
        with torch.no_grad():
            try:
                each = [part.positions(self.device) for part in parts]
                for part, positions in zip(parts, each, strict=True):
                    part.cache.begin(positions, None, 1)
                ids = [token for part in parts for token in part.ids]
                hidden = self.embedded(ids)
                ropes = self.ropes(hidden.unsqueeze(0), torch.cat(each, 1))
                masks: dict[int, torch.Tensor] = {}
                rated = [part.cache.read_scores is not None for part in parts]
                padded = self._padded(parts, hidden)
                for block in self.blocks:
                    if any(rated):
                        _rate(block.number, hidden, parts)
                    hidden = block(hidden, ropes[block.rope], parts, masks, padded)
                if padded is not None:
                    padded.store()
                rows = kept_rows(parts)
                if len(rows) < len(ids):
                    hidden = hidden[-len(rows) :] if len(parts) == 1 else hidden[rows]
                logits: torch.Tensor = self.head(self.normed(hidden)).cpu()
            except BaseException:  # also an interrupt: what layers have stored so far must not stay
                for part in parts:
                    part.cache.rollback()
                raise
            for part in parts:
                part.cache.finish()
            return list(logits.split([part.kept for part in parts]))

    def _padded(self, parts: Sequence[Part], hidden: torch.Tensor) -> PaddedAttention | None:
        """Shared attention for the short parts, where it is faster."""
        if not self.pads or not self._whole:
            return None
        shared = [number for number, part in enumerate(parts) if fits(part)]
        if len(shared) < 2:
            return None
        block = self.blocks[0]
        like = hidden.new_empty(block.kv_heads, 0, block.dim)
        return PaddedAttention(parts, shared, (block.heads, block.kv_heads), block.scale, like)

    def embedded(self, ids: Sequence[int]) -> torch.Tensor:
        """The input `(len(ids), hidden_size)` of the first layer."""
        hidden: torch.Tensor = self._decoder.embed_tokens(
            torch.tensor([list(ids)], dtype=torch.long, device=self.device)
        )
        return hidden[0]

    def normed(self, hidden: torch.Tensor) -> torch.Tensor:
        """The last norm of `hidden` `(tokens, hidden_size)`."""
        normed: torch.Tensor = self._norm(hidden)
        return normed

    def ropes(self, hidden: torch.Tensor, positions: torch.Tensor) -> dict[str | None, tuple]:
        """By kind of rotary embedding, what turns queries and keys at `positions` `(1, tokens)`."""
        kinds = {block.rope for block in self.blocks}
        ropes: dict[str | None, tuple] = {}
        for kind in kinds:
            cos, sin = angles(self._decoder.rotary_emb, hidden, positions, kind)
            half = sin.shape[-1] // 2
            # The minus sign of the rotated half goes into the sine, so that turning is a roll.
            sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)
            ropes[kind] = (cos[0].unsqueeze(1), sin[0].unsqueeze(1), half)
        return ropes


class _Block:
    """One decoder layer; hidden states are `(tokens, hidden_size)`."""

    def __init__(self, layer: Any, number: int, window: int | None, rope: str | None, weights: Weights) -> None:
        self.number, self.window, self.rope = number, window, rope
        self.dim = self.heads = self.kv_heads = 0  # of a layer without attention
        self.attends, self.transforms = attends(layer), not isinstance(layer.mlp, RemovedMLP)
        if self.attends:
            self._take_attention(layer.self_attn, weights)
        if self.transforms:
            self._take_mlp(layer.mlp, weights)
        self._before, self._after = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
        # Gemma3 norms what comes out of attention and MLP; the others only what goes in.
        self._mlp_before = _norm(getattr(layer, "pre_feedforward_layernorm", None))
        self._mlp_after = _norm(getattr(layer, "post_feedforward_layernorm", None))

    def _take_attention(self, attention: Any, weights: Weights) -> None:
        self.dim, self.scale = attention.head_dim, attention.scaling
        self._groups = attention.num_key_value_groups
        self._norms = (_norm(getattr(attention, "q_norm", None)), _norm(getattr(attention, "k_norm", None)))
        self._qkv = _product(attention, ("qkv_proj",), ("q_proj", "k_proj", "v_proj"), weights)
        self._out = _product(attention, ("o_proj",), (), weights)
        values = attention.o_proj.in_features // self.dim
        self.heads, self.kv_heads = values, values // self._groups

    def _take_mlp(self, mlp: Any, weights: Weights) -> None:
        self._up = _product(mlp, ("gate_up_proj",), ("gate_proj", "up_proj"), weights)
        self._down = _product(mlp, ("down_proj",), (), weights)
        self._act = mlp.act_fn if hasattr(mlp, "act_fn") else mlp.activation_fn

    def __call__(
        self,
        hidden: torch.Tensor,
        rope: tuple,
        parts: Sequence[Part],
        masks: dict[int, torch.Tensor],
        padded: PaddedAttention | None,
    ) -> torch.Tensor:
        around = self._mlp_before is not None and self._mlp_after is not None  # norms behind both sublayers too
        if self.attends:
            mixed = self._mix(self._before(hidden), rope, parts, masks, padded)
            hidden = hidden + (self._after(mixed) if around else mixed)
        if not self.transforms:
            return hidden
        if around:
            return hidden + self._mlp_after(self._transform(self._mlp_before(hidden)))
        return hidden + self._transform(self._after(hidden))

    def _mix(
        self,
        x: torch.Tensor,
        rope: tuple,
        parts: Sequence[Part],
        masks: dict[int, torch.Tensor],
        padded: PaddedAttention | None,
    ) -> torch.Tensor:
        heads, kv_heads = self.heads, self.kv_heads
        mixed = self._qkv(x).view(x.shape[0], heads + 2 * kv_heads, self.dim)
        turned, values = mixed.split((heads + kv_heads, kv_heads), 1)
        q_norm, k_norm = self._norms
        if q_norm is not None and k_norm is not None:
            query, keys = turned.split((heads, kv_heads), 1)
            turned = torch.cat([q_norm(query), k_norm(keys)], 1)
        query, keys = _turn(turned, *rope).split((heads, kv_heads), 1)
        key, value = keys.transpose(0, 1).unsqueeze(0), values.transpose(0, 1).unsqueeze(0)
        if len(parts) == 1:
            return self._out(self._attend(parts[0], query, key, value, masks))
        sizes = [len(part.ids) for part in parts]
        if padded is None:
            answers: Iterator[torch.Tensor] = iter(())
        else:
            together = padded(self.number, query, key[0], value[0])
            if len(padded.shared) == len(parts):
                return self._out(together)
            answers = iter(together.split([sizes[number] for number in sorted(padded.shared)]))
        outputs, begin = [], 0
        for number, (part, size) in enumerate(zip(parts, sizes, strict=True)):
            if padded is not None and number in padded.shared:
                outputs.append(next(answers))
            else:
                own = (query.narrow(0, begin, size), key.narrow(2, begin, size), value.narrow(2, begin, size))
                outputs.append(self._attend(part, *own, masks))
            begin += size
        return self._out(torch.cat(outputs))

    def _attend(
        self,
        part: Part,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        masks: dict[int, torch.Tensor],
    ) -> torch.Tensor:
        cache = part.cache
        assert cache.reading is not None, "read_together begins a reading for every cache"
        mask = seen = cache.reading.mask(self.number, self.window, "sdpa", query.dtype)
        if mask is not None:
            # The same mask object serves many layers; so does what is made of it.
            if id(mask) not in masks:
                masks[id(mask)] = fold_mask(mask, self._groups, query.dtype)
            mask = masks[id(mask)]
        if cache.shared(self.number):
            pieces = cache.append(key, value, self.number)
        else:
            pieces = (cache.update(key, value, self.number),)
        if part.collect is not None:
            keys = pieces[0][0] if len(pieces) == 1 else torch.cat([piece[0] for piece in pieces], 2)
            part.collect[self.number] = last_query_mass(query.transpose(0, 1)[None], keys, seen, self.scale, None)
        if len(pieces) > 1:
            return split_attention(query, pieces, mask, self.scale)
        return grouped_attention(query, *pieces[0], mask, self.scale)

    def _transform(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self._up(x).chunk(2, -1)
        return self._down(self._act(gate) * up)


def _rate(layer: int, hidden: torch.Tensor, parts: Sequence[Part]) -> None:
    """Let the caches that score what they read see the input of `layer`, `(tokens, hidden_size)`."""
    begin = 0
    for part in parts:
        own = hidden[begin : begin + len(part.ids)]
        begin += len(part.ids)
        scores, reading = part.cache.read_scores, part.cache.reading
        if scores is not None and reading is not None and scores.layer == layer:
            scores.take(reading.live, own.unsqueeze(0))


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, half: int) -> torch.Tensor:
    """Rotary embedding of `x` `(tokens, heads, head_dim)`; the first `2 * half` dimensions turn, the rest pass."""
    width = 2 * half
    if width == x.shape[-1]:
        return torch.addcmul(x * cos, x.roll(half, -1), sin)
    part = x[..., :width]
    return torch.cat([torch.addcmul(part * cos, part.roll(half, -1), sin), x[..., width:]], -1)


def _norm(module: Any) -> Any:
    """The module's root mean square norm in fewer operations; the module itself where it may round differently."""
    if module is None or module.weight.dtype != torch.float32:
        return module
    make = norm_of_few if module.weight.device.type == "cpu" else norm_in_one
    epsilon = module.eps if hasattr(module, "eps") else module.variance_epsilon
    # Gemma3 stores how much its weights differ from one.
    return make(module.weight, epsilon, beyond_one=type(module).__name__ == "Gemma3RMSNorm")


def norm_of_few(weight: torch.Tensor, epsilon: float, beyond_one: bool = False) -> Product:
    share, eps = 1 / weight.shape[0], torch.tensor(epsilon, device=weight.device)

    def norm(x: torch.Tensor) -> torch.Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        plain = x * torch.addcmul(eps, length, length, value=share).rsqrt_()
        # The weight itself, never a copy: it may be changed in place.
        return torch.addcmul(plain, plain, weight) if beyond_one else plain * weight

    return norm


def norm_in_one(weight: torch.Tensor, epsilon: float, beyond_one: bool = False) -> Product:
    """One operation on an accelerator; on a CPU it is made of more than those above."""
    if not beyond_one:
        return lambda x: F.rms_norm(x, weight.shape, weight, epsilon)

    def norm(x: torch.Tensor) -> torch.Tensor:
        plain = F.rms_norm(x, weight.shape, None, epsilon)
        return torch.addcmul(plain, plain, weight)

    return norm


def _product(module: nn.Module, joined: tuple[str, ...], apart: tuple[str, ...], weights: Weights) -> Product:
    names = joined if hasattr(module, joined[0]) else apart
    layers = [getattr(module, name) for name in names]
    return make_product([layer.weight for layer in layers], [layer.bias for layer in layers], weights)
