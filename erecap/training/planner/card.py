"""The description of a trained planner: `card.json`, `card.md`, and its curves."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from erecap.files import write_atomic, write_json

CARD, CARD_TEXT, CURVES = "card.json", "card.md", "curves.svg"
_PACKAGES = ("torch", "transformers", "peft", "safetensors")


def versions() -> dict[str, str]:
    """Versions of the Python packages that results depend on."""
    from erecap import __version__

    return {"erecap": __version__, **{name: version(name) for name in _PACKAGES}}


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write the card as JSON, and as text for people."""
    write_json(folder / CARD, card)
    write_atomic(folder / CARD_TEXT, _text(card))


def _text(card: dict[str, Any]) -> str:
    base, data, training, scores = card["base"], card["data"], card["training"], card["scores"]
    kind = "All weights" if card["kind"] == "full" else f"LoRA adapter of rank {card['rank']} on all linear layers"
    lines = [
        f"# {card['name']}",
        "",
        f"{kind}, bfloat16, trained on `{base['name']}` (weights `{base['fingerprint']}`) "
        "to answer as an expert plans.",
        "",
        f"- **Data**: {data['transcripts']:,} transcripts with {data['plans']:,} plans ({data['plan_tokens']:,} tokens "
        f"with a label of {data['tokens']:,} read); {data['held_out_transcripts']:,} transcripts with "
        f"{data['held_out_plans']:,} plans held out.",
        *(f"  - {_source(source)}" for source in data["sources"]),
        f"- **Training**: {training['steps']:,} of {training['planned_steps']:,} steps ({training['end']}), "
        f"{training['seconds'] / 3600:.2f} h, {'bfloat16 autocast' if training['bf16'] else 'float32'} on "
        f"{training['device']}; the weights are those of step {training['chosen_step']:,}.",
    ]
    if card["init"] is not None:
        lines.append(f"- **Started from** adapter `{card['init']['name']}` (`{card['init']['hash']}`).")
    if (mean := card.get("average")) is not None:
        tuned = mean["of"]
        lines.append(
            f"- **Mean**: {mean['share']:.0%} of these weights, adapter `{tuned['name']}` (`{tuned['hash']}`), and "
            f"{1 - mean['share']:.0%} of those that it started from."
        )
    if scores is not None:
        lines.append(
            f"- **Held out**, teacher-forced, with the weights as they are in the file: loss {scores['loss']:.4f} nats "
            f"a token, tokens right {scores['token_accuracy']:.1%}, plans right {scores['plan_accuracy']:.1%} of "
            f"{scores['plans']:,}."
        )
    if (within := card["scores_within_budget"]) is not None:
        lines.append(
            f"- **Within {card['settings']['kv_tokens']:,} tokens**, what stays ranked by "
            f"{card['settings']['pruner'] or 'recency'}: loss {within['loss']:.4f}, plans right "
            f"{within['plan_accuracy']:.1%}. {card['settings']['pruned_share']:.0%} of the transcripts were read so."
        )
    names = ", ".join(f"{name} {number}" for name, number in card["versions"].items())
    files = "\n".join(f"    {digest}  {name}" for name, digest in card["files"].items())
    lines += [f"- **Versions**: {names}.", "", "Made by:", "", f"    {card['command']}", "", "SHA-256:", "", files, ""]
    if card["curve"]:
        lines += ["| step | held-out loss | tokens right | plans right |", "|---|---|---|---|"]
        lines += [
            f"| {row['step']:,} | {row['loss']:.4f} | {row['token_accuracy']:.1%} | {row['plan_accuracy']:.1%} |"
            for row in card["curve"]
        ]
        lines.append("")
    return "\n".join(lines)


def _source(source: dict[str, Any]) -> str:
    suites = source.get("suites") or ()
    names = ", ".join(suite if isinstance(suite, str) else str(suite.get("name", suite)) for suite in suites)
    return f"`{source['folder']}`: {names or 'suites not stated'}, seed {source.get('seed')}, `{source['sha256'][:16]}`"


def draw_curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Loss and held-out accuracy over the steps, as SVG.

    Args:
        rows: of `log.jsonl`.
        path: of the file.
    """
    import io

    from matplotlib.figure import Figure

    steps = [row for row in rows if "loss" in row]
    held = [(row["step"], row["held_out"]) for row in rows if "held_out" in row]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    loss.plot([row["step"] for row in steps], _smooth([row["loss"] for row in steps]), label="training, smoothed")
    loss.set(xlabel="step", ylabel="nats a plan token", title="Loss", yscale="log")
    if held:
        numbers = [step for step, _ in held]
        loss.plot(numbers, [scores["loss"] for _, scores in held], "o-", label="held out")
        for key, label in (("token_accuracy", "tokens"), ("plan_accuracy", "whole plans")):
            accuracy.plot(numbers, [scores[key] for _, scores in held], "o-", label=label)
        accuracy.legend(frameon=False)
    loss.legend(frameon=False)
    accuracy.set(xlabel="step", ylabel="share right", title="Held-out plans, teacher-forced", ylim=(0, 1.02))
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    write_atomic(path, buffer.getvalue())


def _smooth(values: Sequence[float], keep: float = 0.8) -> list[float]:
    """Running mean with exponential weights, corrected for its start."""
    smooth, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + 1 - keep
        smooth.append(mean / weight)
    return smooth
