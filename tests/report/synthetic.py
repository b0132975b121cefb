"""A made-up run folder, for tests of the reader and the page only. Nothing of it is a measurement."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MODES = ("expert", "full", "prune[attention]", "prune[recency]", "prune[random]")
LAYERS = 30
MODEL = {
    "name": "smollm2-135m-instruct",
    "hash": "0" * 64,
    "dtype": "bfloat16",
    "layers": LAYERS,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "heads": 9,
    "kv_heads": 3,
    "head_dim": 64,
    "vocab_size": 49152,
    "parameters": 134_515_008,
}
WORDS = "you see a countertop 1 with an apple 2 and a mug 1 on it the fridge 1 is closed go to cabinet 4".split()


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def kept_per_layer(mode: str, tokens: int) -> list[int]:
    counts, left = [], tokens
    for layer in range(LAYERS):
        if mode.startswith("prune") and layer in range(4, LAYERS - 2, 3):
            left = int(left * 0.7)
        counts.append(left)
    return counts


def episode_row(suite: str, mode: str, episode: int, **changes: Any) -> dict[str, Any]:
    row = {
        "suite": suite,
        "env": suite.split("-")[0],
        "mode": mode,
        "episode": episode,
        "seed": 7,
        "goal": "put a clean mug in the coffee machine",
        "success": False,
        "progress": 0.25,
        "spl": 0.0,
        "steps": 20,
        "path_length": 12.5,
        "path_unit": "m",
        "expert_path_length": 8.0,
        "expert_steps": 9,
        "replans": 2,
        "triggers": {"start": 1, "failed": 1},
        "invalid_plans": 0,
        "end": "horizon",
        "error": None,
        "overflow": 0,
        "contended": False,
        "planner_ms": 1500.0,
        "wall_s": 2.0,
    }
    return row | changes


def replan_row(suite: str, mode: str, episode: int, replan: int, **changes: Any) -> dict[str, Any]:
    tokens = changes.get("prompt_tokens", 600 + 200 * replan)
    kept = kept_per_layer(mode, tokens)
    prefill = sum(kept) / LAYERS * 0.8 + 20
    row = {
        "suite": suite,
        "mode": mode,
        "episode": episode,
        "replan": replan,
        "step": 3 * replan,
        "trigger": "start" if replan == 0 else "failed",
        "prompt_tokens": tokens,
        "new_tokens": tokens,
        "reused_tokens": 0,
        "kept_tokens": sum(kept) / LAYERS,
        "kept_per_layer": kept,
        "plan_tokens": 24,
        "kv_bytes": sum(kept) * 768,
        "overflow_messages": 0,
        "truncated_tokens": 0,
        "tokenize_ms": 4.0,
        "prefill_ms": prefill,
        "prune_ms": 12.0 if mode.startswith("prune") else 0.0,
        "decode_ms": 700.0,
        "total_ms": prefill + 710.0,
        "plan": ["go to countertop 1", "take mug 1 from countertop 1"],
        "problem": None,
        "decision": None,
        "reason": None,
        "contended": False,
    }
    return row | changes


def expert_replan(suite: str, episode: int, replan: int) -> dict[str, Any]:
    none = dict.fromkeys(("prompt_tokens", "new_tokens", "plan_tokens", "kv_bytes", "kept_tokens", "tokenize_ms"), 0)
    none |= dict.fromkeys(("prefill_ms", "prune_ms", "decode_ms"), 0)
    return replan_row(suite, "expert", episode, replan, **none) | {"kept_per_layer": [], "total_ms": 0.1}


def picture(shade: int) -> str:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (112, 112), (40, 40, 40))
    draw = ImageDraw.Draw(image)
    for line in range(0, 112, 14):
        draw.line((0, line, 111, line), fill=(90, 90, 90))
        draw.line((line, 0, line, 111), fill=(90, 90, 90))
    draw.polygon([(14 * (shade % 7) + 16, 40), (14 * (shade % 7) + 16, 54), (14 * (shade % 7) + 27, 47)], fill="red")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def sample(suite: str, mode: str, episode: int, *, replans: int = 3, frames: bool = False) -> dict[str, Any]:
    rng = random.Random(f"{suite}{mode}{episode}")
    steps = [
        {
            "step": step,
            "action": f"go to cabinet {step}" if step else None,
            "observation": "Nothing happens." if step % 4 == 3 else "You arrive at cabinet 1. On it, you see a mug 1.",
            "failed": step % 4 == 3,
            "events": ["slip"] if step == 3 else [],
            "frame": picture(step) if frames else None,
        }
        for step in range(9)
    ]
    calls = []
    for replan in range(replans):
        roles = ["system", "user"] + ["assistant", "user"] * replan
        pieces: list[tuple[int, str, float]] = []
        for index, role in enumerate(roles):
            pieces.append((-1, f"<|im_start|>{role}\n", 1.0))
            length = 40 if role == "system" else 14 if role == "assistant" else 60
            for _ in range(length // 3):
                shares = (1.0,) if role == "system" or mode == "full" else (1.0, 0.767, 0.467, 0.233, 0.133)
                pieces.append((index, " ".join(rng.choices(WORDS, k=3)) + " ", rng.choice(shares)))
            pieces.append((-1, "<|im_end|>\n", 1.0))
        calls.append(
            {
                "replan": replan,
                "step": 3 * replan,
                "trigger": "start" if replan == 0 else "failed",
                "plan": ["go to countertop 1", "take mug 1 from countertop 1"],
                "problem": None,
                "pieces": [] if mode == "expert" else pieces,
                "messages": [{"role": role} for role in roles],
            }
        )
    return {
        "suite": suite,
        "mode": mode,
        "episode": episode,
        "goal": "put a clean mug in the coffee machine",
        "success": False,
        "frames_unit": "px",
        "steps": steps,
        "replans": calls,
    }


def make_head(**changes: Any) -> dict[str, Any]:
    head = {
        "format": 1,
        "name": "made-up",
        "status": "finished",
        "created": "2026-01-02T03:04:05+00:00",
        "config": {"name": "made-up", "modes": list(MODES), "executor": "serial"},
        "suites": {"household-unseen": {"env": "household"}, "babyai-goto": {"env": "babyai"}},
        "versions": {"erecap": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "machine": {"cpu": "Some CPU @ 2.0 GHz", "cores": 2, "threads": 2, "memory_gb": 16.0, "gpu": None},
        "model": MODEL,
        "git": "abc1234",
        "seed": 7,
    }
    return head | changes


def write_run(
    folder: Path,
    episodes: Sequence[dict[str, Any]],
    replans: Sequence[dict[str, Any]] = (),
    samples: Sequence[dict[str, Any]] = (),
    **head: Any,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(make_head(**head)), encoding="utf-8")
    write_rows(folder / "episodes.jsonl", episodes)
    write_rows(folder / "replans.jsonl", replans)
    for entry in samples:
        path = folder / "samples" / f"{entry['suite']}--{entry['mode']}--{entry['episode']}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(entry), encoding="utf-8")
    return folder


def make_run(
    folder: Path, *, episodes: int = 6, calls: int = 8, modes: Sequence[str] = MODES, samples: bool = True
) -> Path:
    """A whole run with two suites: some successes, one error, one overflow, one contended episode."""
    rng = random.Random(3)
    chance = {"expert": 1.0, "full": 0.3}
    rows, replans, recorded = [], [], []
    for suite in ("household-unseen", "babyai-goto"):
        unit = "m" if suite.startswith("household") else "cells"
        for mode in modes:
            for episode in range(episodes):
                won = rng.random() < chance.get(mode, 0.2)
                broken = mode == "prune[random]" and suite == "babyai-goto" and episode == 2
                over = 3 if mode == "full" and suite == "household-unseen" and episode == 1 else 0
                contended = mode == "full" and suite == "babyai-goto" and episode == 3
                planned = 1 if broken else rng.randint(max(1, calls // 2), calls)
                rows.append(
                    episode_row(
                        suite,
                        mode,
                        episode,
                        success=won and not broken,
                        progress=1.0 if won else 0.25,
                        spl=round(rng.uniform(0.5, 1), 3) if won and not broken else 0.0,
                        replans=planned,
                        triggers={"start": 1, "failed": planned - 1},
                        path_unit=unit,
                        overflow=over,
                        contended=contended,
                        end="error" if broken else "success" if won else "horizon",
                        error="RuntimeError: the game engine stopped answering" if broken else None,
                    )
                )
                for replan in range(planned):
                    if mode == "expert":
                        replans.append(expert_replan(suite, episode, replan))
                        continue
                    row = replan_row(suite, mode, episode, replan, contended=contended)
                    noise = rng.lognormvariate(0, 0.12)
                    for phase in ("prefill_ms", "prune_ms", "decode_ms"):
                        row[phase] *= noise
                    row["total_ms"] = row["tokenize_ms"] + row["prefill_ms"] + row["decode_ms"] + 3.0
                    replans.append(row)
            if samples:
                recorded.append(sample(suite, mode, 0, frames=suite.startswith("babyai")))
    config = {"name": "made-up", "modes": list(modes), "executor": "serial"}
    return write_run(folder, rows, replans, recorded, config=config)


def scene() -> dict[str, Any]:
    """Two rooms side by side, as a sample's `map`."""
    return {
        "rooms": [
            {"name": "kitchen", "outline": [[0, 0], [4, 0], [4, 4], [0, 4]]},
            {"name": "hall", "outline": [[4.1, 0], [8, 0], [8, 4], [4.1, 4]]},
        ],
        "doors": [{"ends": [[4.05, 1.5], [4.05, 2.5]], "open": True}],
        "furniture": [{"name": "red chair", "outline": [[0, 0], [0.5, 0], [0.5, 0.5], [0, 0.5]], "colour": "#c63a34"}],
        "things": [{"name": "blue cup", "at": [0.25, 0.25], "colour": "blue"}],
    }


def with_way(entry: dict[str, Any], who: Sequence[str] = ("agent",)) -> dict[str, Any]:
    """A sample with a map, in which everyone walks half a metre a step, each along a line of their own."""
    for step in entry["steps"]:
        number = step["step"]
        step["trail"] = {
            name: [[0.5 + 0.5 * max(0, number - 1), 1 + row], [0.5 + 0.5 * number, 1 + row]]
            for row, name in enumerate(who)
        }
    return entry | {"map": scene()}
