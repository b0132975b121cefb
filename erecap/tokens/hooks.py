"""The hooks that prune inside a model, installed once per model and shared by all who use it.

The model's code stays as it is. A pre-hook on the decoder announces each read to its cache. A pre-hook on every layer
drops tokens, and passes on masks and rotary embeddings for the rest. That saves the MLP's work as well as attention's,
and needs no code per architecture. All state lives on the `PrunedCache` in the call's arguments. A call with another
cache passes through untouched, so threads, sessions and nested contexts do not meet.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from erecap.layers.decoder import find_decoder as find_decoder
from erecap.layers.removed import attends
from erecap.models.cache_argument import CACHE, NAMES, given_cache
from erecap.parallel.placement import placing_hooks, running_device, waiting_bytes
from erecap.protocols import ScoreContext
from erecap.tokens.cache.masks import layer_windows
from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.cache.read_scores import late
from erecap.tokens.cache.read_transaction import take_tokens
from erecap.tokens.rope_hooks import changing_modules, lengthen, shorten
from erecap.tokens.scoring import probe
from erecap.tokens.scoring.select import choose, protected_bound, protected_mask

# Inputs of multimodal classes besides text. They are read by masks and positions that are not plain text's.
OTHER_INPUTS = (
    "pixel_values", "pixel_values_videos", "pixel_values_images", "input_features", "input_values",
    "mm_encoder_outputs", "cross_attention_states",
)  # fmt: skip
_PER_TOKEN = ("per_layer_input",)  # other inputs of a layer that have one row per token

_lock = threading.Lock()
_installed: weakref.WeakKeyDictionary[nn.Module, _HookSet] = weakref.WeakKeyDictionary()


def cache_argument(layer: nn.Module) -> str:
    """The name under which a decoder layer takes the cache."""
    names = inspect.signature(layer.forward).parameters
    return next((name for name in NAMES if name in names), CACHE)


def attention_layers(decoder: Any, stages: Sequence[int]) -> list[int]:
    """The layer before each stage whose attention weights rank the tokens there: the nearest that has attention.

    Raises:
        ValueError: none has, back to the stage before.
    """
    found = []
    for before, stage in zip((0, *stages), stages, strict=False):
        with_attention = [number for number in range(before, stage) if attends(decoder.layers[number])]
        if not with_attention:
            raise ValueError(
                f"no layer from {before} to {stage - 1} has its attention, so that its weights cannot rank tokens "
                f"at stage {stage}; choose other stages, or rank by 'recency' or 'random'"
            )
        found.append(with_attention[-1])
    return found


def outer_modules(model: nn.Module, decoder: nn.Module) -> list[nn.Module]:
    """The modules of `model` that hold `decoder`: multimodal classes make masks and positions in them."""
    return [m for m in model.modules() if m is not decoder and any(part is decoder for part in m.modules())]


class User:
    """One user of a model's hooks. An object that nobody holds any more counts no longer."""

    def __init__(self, attention: bool) -> None:
        self.attention = attention  # also collect attention weights for the scorer


def acquire(model: nn.Module, user: User) -> None:
    """Put the hooks on `model` for `user`. What an interrupt leaves half done, `release` takes off."""
    decoder = find_decoder(model)
    with _lock:
        hooks = _installed.get(decoder)
        if hooks is None:
            hooks = _installed[decoder] = _HookSet(decoder, outer_modules(model, decoder))
        hooks.users.add(user)
        try:
            hooks.install()
        except Exception:  # the attention implementation was refused
            hooks.users.discard(user)
            hooks.settle()
            raise


def release(model: nn.Module, user: User) -> None:
    """Take `user` off, if it is on; the last one takes the hooks with it."""
    decoder = find_decoder(model)
    with _lock:
        hooks = _installed.get(decoder)
        if hooks is not None:
            hooks.users.discard(user)
            hooks.settle()


class _HookSet:
    def __init__(self, decoder: nn.Module, outer: list[nn.Module]) -> None:
        self.users: weakref.WeakSet[User] = weakref.WeakSet()
        self._decoder = weakref.ref(decoder)
        self._outer = [weakref.ref(module) for module in outer]
        self._config = decoder.config
        self._windows = layer_windows(decoder.config)
        self._whole = False  # all hooks are on
        self._brought = 0  # bytes of offloaded weights that a pass brings

    def install(self) -> None:
        """Put on what is missing."""
        if any(user.attention for user in self.users):
            # First, because it may refuse.
            if probe.base_name(self._config._attn_implementation) == self._config._attn_implementation:
                probe.install(self._config)
        decoder = self._decoder()
        if self._whole or decoder is None:
            return
        self._take_off(decoder)  # half of them may be on
        decoder.register_forward_pre_hook(self._begin, with_kwargs=True)
        decoder.register_forward_hook(self._end, with_kwargs=True, always_call=True)
        for module in self._outer_modules():
            module.register_forward_pre_hook(self._announce, with_kwargs=True)
        for module in changing_modules(decoder):
            module.register_forward_pre_hook(lengthen, with_kwargs=True)
            module.register_forward_hook(shorten, with_kwargs=True, always_call=True)
        for number, layer in enumerate(decoder.layers):
            layer.register_forward_pre_hook(self._layer_hook(number, layer), with_kwargs=True)
        self._brought = waiting_bytes((self._outer_modules() or [decoder])[0])
        self._whole = True

    def settle(self) -> None:
        """Take off what the users that are left do not need."""
        if not any(user.attention for user in self.users):
            probe.remove(self._config)
        decoder = self._decoder()
        if not self.users and decoder is not None:
            self._whole = False
            self._take_off(decoder)
            _installed.pop(decoder, None)

    def _outer_modules(self) -> list[nn.Module]:
        return [module for outer in self._outer if (module := outer()) is not None]

    def _take_off(self, decoder: nn.Module) -> None:
        """Remove all hooks of this kind, also those whose handle an interrupt has lost."""
        for module in (decoder, *decoder.layers, *changing_modules(decoder), *self._outer_modules()):
            _drop_own(module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs)
            _drop_own(module._forward_hooks, module._forward_hooks_with_kwargs, module._forward_hooks_always_called)

    def _announce(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Note the 2-D mask of a call before a multimodal class makes masks of its own from it."""
        cache = given_cache(kwargs)
        if not isinstance(cache, PrunedCache):
            return
        given = [name for name in OTHER_INPUTS if _is_given(kwargs.get(name))]
        if given:
            raise ValueError(f"{type(module).__name__}: a PrunedCache reads text only, and the call gives {given[0]}")
        mask = kwargs.get("attention_mask")
        if mask is None or (isinstance(mask, torch.Tensor) and mask.ndim == 2):
            probe.current.outer_mask = (cache, mask)

    def _mask(self, cache: PrunedCache, mask: Any) -> torch.Tensor | None:
        """The 2-D attention mask of this call, None where there is no padding.

        Raises:
            ValueError: the caller gives a mask of another shape, which is not one of the model's own making.
        """
        outer, probe.current.outer_mask = probe.current.outer_mask, None
        if mask is None or (isinstance(mask, torch.Tensor) and mask.ndim == 2):
            return mask
        if outer is not None and outer[0] is cache:
            return outer[1]
        raise ValueError("a PrunedCache builds its own masks; give a 2-D attention_mask (1 = real, 0 = padding)")

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
        cache = given_cache(kwargs)
        inputs = kwargs.get("inputs_embeds")
        if inputs is None:
            inputs = kwargs.get("input_ids", args[0] if args else None)
        probe.current.reading = None
        if not isinstance(cache, PrunedCache):
            probe.refuse_dropped_cache(self._config, inputs)
            return None
        attention_mask = self._mask(cache, kwargs.get("attention_mask"))
        batch, tokens = inputs.shape[:2]
        positions = kwargs.get("position_ids")
        if positions is None:
            start = cache.get_seq_length()
            positions = torch.arange(start, start + tokens, device=inputs.device).unsqueeze(0)
        reading = cache.begin(_of_text(positions), attention_mask, batch)
        if reading.armed and cache.scorer.needs_attention:
            probe.current.reading = reading
            probe.current.layers = frozenset(attention_layers(module, cache.stages))
        # A 4-D mask is passed through by the model as it is. The layer hooks replace this one; giving it here
        # keeps the model from building a mask sized for layer 0, and from reading gaps in positions as packing.
        placeholder = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=inputs.device)
        return args, kwargs | {"position_ids": positions, "attention_mask": placeholder}

    def _end(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        cache = given_cache(kwargs)
        probe.current.reading = None
        if isinstance(cache, PrunedCache):
            if output is None:  # how torch calls this hook after an exception
                cache.rollback()
            else:
                cache.crossings.weights += self._brought
                cache.finish()

    def _layer_hook(self, number: int, layer: nn.Module) -> Any:
        window = self._windows[number]

        names: list[str] = list(inspect.signature(layer.forward).parameters)
        cache_name = cache_argument(layer)

        def before_layer(layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
            cache = kwargs.get(cache_name)
            if not isinstance(cache, PrunedCache) or cache.reading is None:
                return None
            reading = cache.reading
            if len(args) > 1:
                kwargs = kwargs | dict(zip(names[1:], args[1:], strict=False))
                args = args[:1]
            hidden = args[0] if args else kwargs["hidden_states"]
            if placing_hooks(layer):  # accelerate moves a layer's inputs, but after this
                hidden = cache.crossings.move("hidden", hidden, running_device(layer))
            reading.to(hidden.device)
            if cache.read_scores is not None and number == cache.read_scores.layer:
                cache.read_scores.take(reading.live, hidden)
            if reading.armed and number in cache.stages:
                with cache.clock.running(hidden.device):
                    hidden = drop_tokens(cache, number, hidden)
            implementation = probe.base_name(self._config._attn_implementation)
            changed = kwargs | {
                # A layer without attention has no use for a mask.
                "attention_mask": reading.mask(number, window, implementation, hidden.dtype)
                if attends(layer)
                else None,
                # Kernels read gaps in position ids as sequence boundaries; RoPE has its angles already.
                "position_ids": None,
            }
            if kwargs.get("position_embeddings") is not None:  # models without rotary embeddings have none
                changed["position_embeddings"] = reading.rope(kwargs["position_embeddings"])
            for name in _PER_TOKEN:
                if kwargs.get(name) is not None:
                    changed[name] = reading.rows(kwargs[name])
            if args:
                return (hidden,), changed
            return args, changed | {"hidden_states": hidden}

        return before_layer


def _is_given(value: Any) -> bool:
    """Return True for an input that is there; of a text, some classes hand around a dictionary without content."""
    return any(part is not None for part in value.values()) if isinstance(value, dict) else value is not None


def _of_text(positions: torch.Tensor) -> torch.Tensor:
    """Positions `(1 or batch, tokens)` of text; models with pictures give one row for each axis of these.

    Raises:
        ValueError: the axes differ, so this is no text.
    """
    if positions.ndim == 2:
        return positions
    if positions.ndim != 3 or not bool((positions == positions[:1]).all()):
        raise ValueError("a PrunedCache reads text only, and these are positions of pictures or videos")
    return positions[0]


def _drop_own(found: dict[int, Any], *flags: dict[int, bool]) -> None:
    own = (__name__, lengthen.__module__)
    for number in [number for number, hook in found.items() if getattr(hook, "__module__", "") in own]:
        for kept in (found, *flags):
            kept.pop(number, None)


def drop_tokens(cache: PrunedCache, layer: int, hidden: torch.Tensor) -> torch.Tensor:
    """Run the stage before `layer`: score, choose, and gather `hidden` `(batch, live, hidden_size)`.

    Where no row has padding, and the protected tokens do not exceed the share to keep, nothing is read from the device
    on the way.
    """
    reading, config = cache.reading, cache.config
    assert reading is not None, "a stage is part of a read"
    live = reading.live
    context = ScoreContext(live.index, live.positions, live.valid, config.seed, reading.attention_mass)
    scores = cache.scorer.score(layer, hidden, context)
    if scores.shape != live.index.shape:
        raise ValueError(
            f"scorer {type(cache.scorer).__name__} returned shape {tuple(scores.shape)} at layer {layer}, "
            f"wanted (batch, tokens) = {tuple(live.index.shape)}"
        )
    scores = scores.to(torch.float32)
    problem = f"scorer {type(cache.scorer).__name__} gave a non-finite score at layer {layer}"
    reading.check(torch.isfinite(scores).logical_or(~live.valid).all(), problem, later=late(hidden))
    if cache.get_seq_length() == 0:
        # Pads stand on the left, so the first real token of a row stands at its number of pads.
        first = reading.tokens - reading.real_tokens
        sinks = config.sinks
    else:
        first, sinks = torch.zeros_like(live.index[:, :1]), 0
    protected = protected_mask(live.index, live.valid, first, sinks, config.local, reading.protect)
    most = protected_bound(live.width, sinks, config.local, reading.protected_most)
    ranked = scores.masked_fill(~live.valid, 0.0)
    select, valid, whole = choose(ranked, live.valid, protected, config.keep, whole=live.all_valid, most=most)
    if config.park_tokens:
        reading.park(layer, hidden, select, config.park_tokens)
    hidden = take_tokens(hidden, select)
    reading.drop(select, valid, whole)
    cache.stage_log.append((layer, reading.live.lengths()))
    return hidden
