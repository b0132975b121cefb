"""Reasons why a model cannot be read through the pruning hooks, found by reading a few tokens with it.

Architectures are let in by what they do, not by a list of names: a few tokens are read by the bare model and through
the hooks, which must give the same logits and store every token; then they are pruned, which must store fewer. Both
are done once for each model, before it serves anybody. What fails is refused in one sentence.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from erecap.layers.applied import plan_number
from erecap.models.cache_argument import CACHE
from erecap.parallel.placement import has_values, input_device
from erecap.tokens.cache.masks import implementation_problem
from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.hooks import find_decoder
from erecap.tokens.pruning import attach
from erecap.tokens.scoring import probe
from erecap.tokens.scoring.schedule import PruneConfig

TOKENS = 12  # of a probe
LAYER_KINDS = frozenset({"attention", "full_attention", "sliding_attention"})
INSTEAD = (
    "call the model itself, or shorten the text: erecap.wrap(f, keep_tokens=N) of a function f(messages) that calls it"
)
NOT_FINITE = "computes logits that are not finite: its weights or its configuration are damaged, or pass its precision"
_FAILURES = (ValueError, TypeError, AttributeError, LookupError, RuntimeError, AssertionError)
_found: weakref.WeakKeyDictionary[nn.Module, dict[str, str | None]] = weakref.WeakKeyDictionary()


def read_problem(model: Any) -> str | None:
    """Reason why stored keys and values do not serve `model`; None where they do."""
    return _once(model, "read", _read_problem)


def prune_problem(model: Any, attention: bool = False) -> str | None:
    """Reason why tokens cannot be dropped inside `model`; None where they can. `attention`: by attention weights."""
    problem = read_problem(model) or _once(model, "prune", _prune_problem)
    return problem if problem is not None or not attention else attention_problem(model)


def attention_problem(model: Any) -> str | None:
    """Reason why the attention weights of `model` cannot be ranked by; None where they can."""
    return read_problem(model) or _once(model, "attention", _attention_problem)


def can_probe(model: nn.Module) -> bool:
    """Return True if `model` has its weights, and answers the same twice."""
    return not model.training and has_values(model)


def tolerance_of(dtype: torch.dtype) -> float:
    """The largest difference, as a share, that rounding explains where tokens are read in other pieces."""
    return 1e-3 if dtype in (torch.float32, torch.float64) else 0.1


@contextmanager
def outside_inference() -> Iterator[None]:
    """No gradients, and no inference tensors either: what is stored outlives the caller's `torch.inference_mode`."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def probe_read(model: Any, start: int = 0, pieces: int = 1, config: PruneConfig | None = None) -> PrunedCache:
    """Read the probe's tokens at positions from `start` on, through the hooks; returns the cache that stores them."""
    return _read(model, start, pieces, config)[0]


def _once(model: Any, question: str, answer: Any) -> str | None:
    implementation = str(getattr(getattr(model, "config", None), "_attn_implementation", None))
    question = f"{question} {probe.base_name(implementation)} {plan_number(model)}"
    known = _found.setdefault(model, {})
    if question not in known:
        problem = answer(model)
        if problem is None and not can_probe(model):
            return None
        known[question] = problem
    return known[question]


def _read_problem(model: Any) -> str | None:
    name = type(model).__name__
    problem = _structure_problem(model)
    if problem is None and can_probe(model):
        problem = _difference(model)
    if problem is None or problem is NOT_FINITE:
        return problem and f"{name} {problem}"
    return f"{name} {problem}; {INSTEAD}"


def _structure_problem(model: Any) -> str | None:
    """Reason that the configuration or the modules of `model` tell, without its name."""
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        return "has an encoder, whose keys and values are not those of one growing text"
    try:
        decoder = find_decoder(model)
    except ValueError as error:
        return str(error).removeprefix(f"{type(model).__name__} ")
    text = decoder.config
    problem = implementation_problem(probe.base_name(getattr(text, "_attn_implementation", None) or "eager"))
    if problem is not None:
        return f"cannot read in pieces through the pruning hooks: {problem}"
    if getattr(text, "num_kv_shared_layers", None):
        return "lets layers share the keys and values of others, so that no layer's tokens can be dropped alone"
    kinds = {
        kind
        for field in ("layer_types", "layers_block_type", "block_types")
        for kind in getattr(text, field, None) or ()
    }
    if kinds - LAYER_KINDS:
        return f"has layers of the kind {', '.join(sorted(kinds - LAYER_KINDS))}, which cannot be rolled back or pruned"
    if getattr(type(model), "_is_stateful", False):
        return "keeps a recurrent state, which cannot be rolled back or pruned"
    # A forward of its own may hand all arguments on to that of the class below.
    forwards = [decoder.forward, *(kind.forward for kind in type(decoder).__mro__ if hasattr(kind, "forward"))]
    if not any("position_ids" in inspect.signature(forward).parameters for forward in forwards):
        return "takes no positions, so that tokens behind dropped ones would stand at wrong ones"
    return None


def _difference(model: Any) -> str | None:
    """Reason that reading in two pieces through the hooks tells; None where it is the bare model's reading."""
    decoder = find_decoder(model)
    half = TOKENS // 2
    with outside_inference():
        ids = _ids(model)
        try:
            whole = model(input_ids=ids, use_cache=False).logits[0, half:].float()
        except _FAILURES as error:
            return f"does not read plain text by itself ({_line(error)})"
        try:
            cache, found = _read(model, 0, 2, None)
        except _FAILURES as error:
            return f"cannot read in pieces through the pruning hooks ({_line(error)})"
    if not bool(whole.isfinite().all()) or not bool(found.isfinite().all()):
        return NOT_FINITE
    if found.shape != whole.shape:
        return "answers in another shape when it reads in pieces"
    stored = set(cache.kept_lengths()) - {0}  # a layer without attention stores nothing
    if stored != {TOKENS} or len(cache.layers) > len(decoder.layers):
        return "stores its keys and values in another way than one set for each decoder layer"
    apart = ((found - whole).abs().amax(-1) / whole.abs().amax(-1)).median()
    if not float(apart) <= tolerance_of(model.dtype):  # NaN is no agreement
        return f"computes other logits when it reads in pieces (they differ by {float(apart):.2g})"
    return None


def _prune_problem(model: Any) -> str | None:
    layers = len(find_decoder(model).layers)
    if layers < 2 or not can_probe(model):
        return None
    stage = layers // 2
    config = PruneConfig(keep=0.5, stages=(stage,), sinks=1)
    problem = None
    with outside_inference():
        try:
            cache, logits = _read(model, 0, 1, config)
        except _FAILURES as error:
            problem = f"cannot drop tokens between its layers ({_line(error)})"
        else:
            kept = [length for length in cache.kept_lengths()[stage:] if length]
            if not kept or max(kept) >= TOKENS:
                problem = "does not drop tokens between its layers"
            elif not bool(torch.isfinite(logits).all()):
                problem = "computes logits that are not finite where tokens are dropped"
    if problem is None:
        return None
    return f"{type(model).__name__} {problem}; erecap.wrap(model) without keep, scorer and prune serves it unpruned"


def _attention_problem(model: Any) -> str | None:
    if not can_probe(model):
        return None
    cache = PrunedCache(PruneConfig(keep=1.0, stages=()), len(find_decoder(model).layers))
    weights: dict[int, torch.Tensor] = {}
    with outside_inference(), attach(model, cache, attention=True):
        probe.current.collect = weights
        try:
            model(input_ids=_ids(model), **{CACHE: cache}, use_cache=True)
        finally:
            probe.current.collect = None
    if all(number in weights for number in range(cache.layer_count) if cache.stores(number)):
        return None
    return (
        f"{type(model).__name__} does not compute attention through transformers' attention interface, so its "
        "attention weights cannot be ranked by; rank by 'recency' or 'random'"
    )


def _read(model: Any, start: int, pieces: int, config: PruneConfig | None) -> tuple[PrunedCache, torch.Tensor]:
    """The cache, and the last piece's logits `(tokens, vocab)`."""
    cache = PrunedCache(config or PruneConfig(keep=1.0, stages=()), len(find_decoder(model).layers))
    output: Any = None
    with outside_inference(), attach(model, cache):
        for part in _ids(model).split(TOKENS // pieces, 1):
            begin = start + cache.get_seq_length()
            positions = torch.arange(begin, begin + part.shape[1], device=part.device).unsqueeze(0)
            output = model(input_ids=part, position_ids=positions, **{CACHE: cache}, use_cache=True)
    return cache, output.logits[0].float()


def _ids(model: Any) -> torch.Tensor:
    """Token ids `(1, TOKENS)` spread over the vocabulary, none of which the configuration gives a meaning."""
    config = model.config.get_text_config(decoder=True)
    special: set[int] = set()
    for source in (model.config, config):
        for name, value in source.to_dict().items():
            if name.endswith(("_token_id", "_token_index")):
                special.update(value if isinstance(value, list) else [value])
    size = int(config.vocab_size)
    plain = [token for token in range(3, size, max(1, size // (4 * TOKENS))) if token not in special]
    return torch.tensor([(plain * TOKENS)[:TOKENS]], device=input_device(model))


def _line(error: BaseException) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        raise error
    text = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {text}"
