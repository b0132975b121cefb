"""A tiny chat model in a folder, and a few trajectories whose plans can be learned by heart."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tests.context.small_tokenizers import byte_level

THINGS = ("apple", "mug", "knife", "shelf")


@cache
def _model() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_level()
    torch.manual_seed(3)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=True,
        )
    )  # fmt: skip
    with torch.no_grad():
        # Small random values make attention nearly uniform and logits nearly flat, and no adapter could change that
        # in a few steps.
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(20 if "embed" in name else 8)
    return model


def save_model(folder: Path) -> Path:
    """A model folder that `erecap.models.load` takes."""
    _model().save_pretrained(folder)
    byte_level().save_pretrained(folder)
    return folder


def row(episode: int, *, branch: bool = False, suite: str = "tiny") -> dict[str, Any]:
    """An episode of two planning calls; with `branch`, a detour was played in the second one."""
    thing = THINGS[episode % len(THINGS)]
    plans = [f"go to fridge {episode}", f"take {thing} {episode} from fridge {episode}\nlook"]
    messages = [
        {"role": "system", "content": "Plan."},
        {"role": "user", "content": f"Goal: get the {thing} {episode}."},
        {"role": "assistant", "content": plans[0]},
        {"role": "user", "content": "The fridge is open."},
        {"role": "assistant", "content": "go to shelf 9" if branch else plans[1]},
        {"role": "user", "content": "Done."},
    ]
    return {
        "suite": suite, "episode": episode, "seed": episode, "source": "perturbed" if branch else "expert",
        "goal": f"get the {thing}", "success": True, "steps": 3, "max_steps": 5, "messages": messages,
        "targets": [{"message": 2, "plan": plans[0]}, {"message": 4, "plan": plans[1]}],
    }  # fmt: skip


def save_rows(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A trajectory folder."""
    folder.mkdir(parents=True, exist_ok=True)
    suites = {name: {"name": name} for name in sorted({r["suite"] for r in rows})}
    (folder / "meta.json").write_text(
        json.dumps({"format": "erecap-trajectories-1", "suites": suites, "seed": 0, "counts": {"episodes": len(rows)}})
    )
    (folder / "episodes.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder
