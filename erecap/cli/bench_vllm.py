"""`erecap bench vllm`: several agents at once on vLLM, with its prefix cache and with the connector of sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.cli.bench import MODEL, KvTokens, Model, NewTokens, PlanTokens, Repetitions, Threads
from erecap.cli.benching import finish_sides, setting
from erecap.cli.outputs import ResultFile


def vllm(
    agents: Annotated[int, typer.Option(min=1, help="Agents that replan at once.")] = 8,
    length: Annotated[int, typer.Option(min=1, help="Tokens of each one's history.")] = 7500,
    new_tokens: NewTokens = 100,
    plan_tokens: PlanTokens = 32,
    repetitions: Repetitions = 5,
    kv_tokens: KvTokens = 1024,
    model: Model = MODEL,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32, as vLLM takes it.")] = "auto",
    kv_gb: Annotated[int, typer.Option(min=1, help="GiB of vLLM's paged cache, on a CPU.")] = 4,
    threads: Threads = None,
    results: Annotated[Path | None, typer.Option(help="A results file that R9-speed and R9-blocks go into.")] = None,
    out: ResultFile = Path("runs/bench/vllm.json"),
) -> None:
    """Time one replanning call of several agents on vLLM, with its prefix cache and with the sessions' connector.

    Needs an interpreter that has vLLM: `make bench-vllm` makes one and calls this with it. Goes on from its file where
    that has repetitions with the same settings, on the same machine.
    """
    from dataclasses import asdict

    from erecap.bench.suite import measured_part, write_part
    from erecap.bench.vllm.agents import AGENTS, LENGTH, AgentsBench, agents_bench, agents_rows, summary_of
    from erecap.engines.vllm.model import VllmModel, VllmOptions
    from erecap.engines.vllm.opening import set_threads

    if threads is not None:
        set_threads(threads)
    bench = AgentsBench(agents, length, new_tokens, plan_tokens, repetitions, kv_tokens)
    about, _, say = setting(model, "auto", threads, "erecap bench vllm")
    opened = VllmModel.open(model, VllmOptions(dtype=dtype, kv_gb=kv_gb, together=max(16, agents)))
    about["model"]["dtype"] = opened.dtype
    settings = {
        **asdict(bench), "model": about["model"]["name"], "weights": opened.digest, "dtype": dtype, "kv_gb": kv_gb
    }  # fmt: skip
    before = measured_part(out, settings, about) or {}

    def kept(found: dict) -> dict:
        return {"part": "vllm", "settings": settings, **about, "faults": [], "rows": [], "summary": {}, **found}

    found = agents_bench(
        bench, opened, say, done=before.get("raw", []), read_s=before.get("summary", {}).get("read_s"),
        save=lambda raw, read_s: write_part(out, kept({"raw": raw, "summary": {"read_s": read_s}})),
    )  # fmt: skip
    part = kept(
        {
            "rows": agents_rows(found, about, bench),
            "summary": {
                "calls": summary_of(found["raw"]),
                **{key: value for key, value in found.items() if key != "raw"},
            },
            "raw": found["raw"],
        }
    )
    finish_sides(
        f"{agents} agents replan at once on vLLM (seconds, medians): {length:,} tokens of history each",
        part,
        {
            "blocks": lambda entry: f"{entry['blocks']:.1f}",
            "not read": lambda entry: f"{entry['cached']:,.0f}",
        },
        out,
        results,
        f"{AGENTS} agents of {LENGTH:,} tokens",
    )
