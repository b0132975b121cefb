"""A replanning call of ours against llama.cpp with its prompt cache, on the same token ids and threads, in turn."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erecap.bench.llamacpp.client import BUILT, WORKER, LlamaCpp
from erecap.bench.llamacpp.ids import compare, token_ids
from erecap.bench.replan.calls import Call, algorithm_call, floor_call, floor_message, product_call, steady
from erecap.bench.replan.history import check_lengths, cut, next_turn, wander
from erecap.bench.replan.packed_weights import QUALITY_TOKENS, weight_loss
from erecap.bench.replan.settings import ReplanBench
from erecap.bench.results import ROWS
from erecap.config.modes import parse_mode
from erecap.context.tokenize import render_prompt
from erecap.decoding.linear import WEIGHTS
from erecap.decoding.stopping import answer_ends
from erecap.errors import ConfigError, RunError
from erecap.generation import JsonRow, Message
from erecap.models.gguf_files import gguf_file

OURS, OUR_FLOOR, THEIR_FLOOR = "erecap", "erecap floor", "llama.cpp floor"
VARIANTS = ("plain", "lookup-2", "lookup-10", "generate", "generate-lookup-10")
THEIRS = "llama.cpp "

Say = Callable[[str], None]


@dataclass(frozen=True)
class LlamaBench:
    """Settings of `erecap bench llamacpp`."""

    lengths: tuple[int, ...] = (7500,)  # tokens of history
    rows: tuple[str, ...] = ROWS
    variants: tuple[str, ...] = VARIANTS  # of llama.cpp in the product row; the algorithm row is `plain`
    new_tokens: int = 100  # of the turn that is new
    plan_tokens: int = 32  # generated in every call, no more and no fewer
    repetitions: int = 5
    kv_tokens: int = 1024
    decode_weights: str = "int4"  # of ours in the product row
    batch: int = 512  # tokens that llama.cpp reads at once
    flash: bool = False  # its flash attention
    seed: int = 0


@dataclass(frozen=True)
class Place:
    """The other side: an interpreter with llama.cpp, and the worker that it runs."""

    python: Path = BUILT
    worker: Path = WORKER
    threads: int = 2


def llama_bench(
    bench: LlamaBench, model: Any, tokenizer: Any, name: str, place: Place, say: Say = lambda text: None
) -> JsonRow:
    """Time every side of the comparison, in turn.

    Args:
        name: of the model in the catalog; llama.cpp reads the GGUF file that it was unpacked from.

    Returns:
        `raw` (one row a timed call), `loaded` (what llama.cpp said about the model, by row), `checks` (by row and
        length, see `compare`), `quality` (see `weight_loss`; None without a product row).

    Raises:
        ConfigError: settings that cannot be measured; llama.cpp is not built.
        RunError: llama.cpp failed, or both sides did not read the same.
    """
    _check_settings(bench, model)
    found: JsonRow = {"raw": [], "loaded": {}, "checks": [], "quality": None}
    with tempfile.TemporaryDirectory(prefix="erecap-gguf-") as work:
        for row in bench.rows:
            with LlamaCpp(place.python, place.worker) as llama:
                say(f"{row}: llama.cpp loads the model")
                found["loaded"][row] = _load(llama, row, bench, model, gguf_file(name, say), Path(work), place.threads)
                _measure_row(llama, row, bench, model, tokenizer, found, say)
    if "product" in bench.rows:
        say("what our decode weights cost in accuracy")
        tokens = min(QUALITY_TOKENS, max(bench.lengths))
        found["quality"] = weight_loss(model, tokenizer, bench.decode_weights, tokens=tokens, seed=bench.seed)
    return found


def _load(llama: LlamaCpp, row: str, bench: LlamaBench, model: Any, gguf: Path, work: Path, threads: int) -> JsonRow:
    """In the algorithm row weights, keys and values have the precision of ours; else the file is taken as it is."""
    precision, path = "float16", gguf
    if row == "algorithm":
        precision, path = str(model.dtype).removeprefix("torch."), work / "unpacked.gguf"
        llama.ask("convert", source=str(gguf), target=str(path), type=precision)
    window = model.config.get_text_config(decoder=True).max_position_embeddings
    whole = any(variant.startswith("generate-") for variant in _variants(bench, row))
    loaded = llama.ask(
        "load",
        model=str(path),
        window=window,
        threads=threads,
        batch=bench.batch,
        flash=bench.flash,
        kv=precision,
        whole=whole,
    )
    return {**loaded, "kv": precision, "threads": threads}


def _measure_row(
    llama: LlamaCpp, row: str, bench: LlamaBench, model: Any, tokenizer: Any, found: JsonRow, say: Say
) -> None:
    def count(messages: Sequence[Message]) -> int:
        return len(render_prompt(messages, tokenizer).input_ids)

    longest = wander(max(bench.lengths), count, turn_tokens=bench.new_tokens, seed=bench.seed)
    new = next_turn(bench.new_tokens, count, seed=bench.seed)
    for length in bench.lengths:
        history = cut(longest, length, count)
        say(f"{row}, history of {length} tokens: both sides read it")
        read, fresh = token_ids(history, new, tokenizer)
        llama.ask("read", ids=read)
        alone = floor_message(tokenizer, history, new, count)
        ours = _our_calls(row, bench, model, tokenizer, history, new, alone)
        never = answer_ends(model, tokenizer)
        rest = {"count": bench.plan_tokens, "never": never}
        requests: dict[str, tuple[str, JsonRow]] = {
            THEIRS + variant: ("call", {"variant": variant, "ids": fresh, **rest}) for variant in _variants(bench, row)
        }
        floor_ids = render_prompt([alone], tokenizer).input_ids
        requests[THEIR_FLOOR] = ("floor", {"variant": "plain", "ids": floor_ids, **rest})
        first = {name: _ours(call) for name, call in ours.items()}  # the warm-up of both sides
        first |= {name: _theirs(llama, *request) for name, request in requests.items()}
        if first[OURS]["new_tokens"] != len(fresh):
            raise RunError(f"the session read {first[OURS]['new_tokens']} new tokens, llama.cpp {len(fresh)}")
        with steady() as collect:
            for repetition in range(bench.repetitions):
                head = {"row": row, "length": length, "repetition": repetition}
                for name, call in ours.items():
                    collect()
                    found["raw"].append({**head, "mode": name, **_timed(_ours(call))})
                for name, request in requests.items():
                    found["raw"].append({**head, "mode": name, **_timed(_theirs(llama, *request))})
                say(f"{row}, history of {length} tokens: {repetition + 1} of {bench.repetitions} repetitions")
        say(f"{row}, history of {length} tokens: do both sides say the same?")
        check = compare(
            llama, model, tokenizer, history, read + fresh, first[OURS]["text"], first[THEIRS + "plain"]["ids"], never
        )
        found["checks"].append({"row": row, "length": length, "history_tokens": len(read), **check})


def _our_calls(
    row: str, bench: LlamaBench, model: Any, tokenizer: Any, history: list[Message], new: Message, alone: Message
) -> dict[str, Call]:
    settings = ReplanBench(
        plan_tokens=bench.plan_tokens, kv_tokens=bench.kv_tokens, decode_weights=bench.decode_weights, seed=bench.seed
    )
    product, plan = row == "product", history[-1]["content"]
    make = product_call if product else algorithm_call
    return {
        OURS: make(parse_mode(OURS), settings, model, tokenizer, history, new),
        OUR_FLOOR: floor_call(settings, model, tokenizer, alone, product, plan),
    }


def _ours(call: Call) -> JsonRow:
    generation = call()
    usage, timing = generation.usage, generation.timing
    return {
        "total_ms": timing.total_ms,
        "prefill_ms": timing.prefill_ms,
        "decode_ms": timing.decode_ms,
        "drafted_tokens": usage.drafted_tokens,
        "accepted_tokens": usage.accepted_tokens,
        "plan_tokens": usage.completion_tokens,
        "new_tokens": usage.new_tokens,
        "text": generation.text,
    }


def _theirs(llama: LlamaCpp, what: str, arguments: JsonRow) -> JsonRow:
    answer = llama.ask(what, **arguments)
    return {
        "total_ms": answer["prefill_ms"] + answer["decode_ms"],
        "prefill_ms": answer["prefill_ms"],
        "decode_ms": answer["decode_ms"],
        "drafted_tokens": answer["drafted"],
        "accepted_tokens": answer["accepted"],
        "plan_tokens": len(answer["ids"]),
        "new_tokens": len(arguments["ids"]),
        "ids": answer["ids"],
    }


def _timed(row: JsonRow) -> JsonRow:
    """A row without what it said."""
    return {key: value for key, value in row.items() if key not in ("text", "ids")}


def _variants(bench: LlamaBench, row: str) -> tuple[str, ...]:
    return bench.variants if row == "product" else ("plain",)


def _check_settings(bench: LlamaBench, model: Any) -> None:
    for what, given, allowed in (("row", bench.rows, ROWS), ("variant", bench.variants, VARIANTS)):
        unknown = [name for name in given if name not in allowed]
        if unknown or not given:
            raise ConfigError(f"unknown {what} {', '.join(unknown) or 'none'}; allowed: {', '.join(allowed)}")
    if "plain" not in bench.variants:
        raise ConfigError("variant 'plain' is what answers are compared with; it cannot be left out")
    if bench.decode_weights not in WEIGHTS:
        raise ConfigError(f"unknown decode weights {bench.decode_weights!r}; allowed: {', '.join(WEIGHTS)}")
    check_lengths(bench.lengths, bench.new_tokens, bench.plan_tokens, model)
