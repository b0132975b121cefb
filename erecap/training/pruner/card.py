"""The card of a trained pruner: its origin, its settings, its test, and its curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from erecap.files import write_atomic
from erecap.generation import JsonRow
from erecap.tokens.scoring.pruner_files import beats_random


def write_words(folder: Path, card: JsonRow) -> None:
    """`card.md`: the card in words."""
    base, made, test = card["base"], card["labels"], card.get("test")
    lines = [
        "# Learned token pruner",
        "",
        f"For `{base['name']}` ({base['hash'][:23]}), "
        + (f"with the adapter {base['adapter'][:23]}." if base["adapter"] else "without an adapter."),
        f"Stages before layers {', '.join(map(str, card['stages']))}; sessions rank by the scores of layer "
        f"{card['session_stage']}, less {card['age_weight']:.2f} for each logarithm of a token's age.",
        "",
        "## Made from",
        f"Labels `{made['settings']['kind']}` of {made['samples']} samples ({made['tokens']:,} tokens) from "
        f"{', '.join(source['folder'] for source in made['data']['sources'])} ({made['data']['hash'][:23]}).",
        "",
        "Settings: " + ", ".join(f"{name} {value}" for name, value in card["settings"].items()) + ".",
        "",
        "## Test",
    ]
    if not test:
        lines += ["None was made. The pruner is refused where nobody asks for it all the same."]
    else:
        verdict = "beats" if beats_random(card) else "does not beat"
        lines += [
            f"{test['samples']} held-out samples, {test['calls']} plans, {test['tokens']} plan tokens; "
            f"{test['budget']:.0%} of each plan's history stays. At this budget it {verdict} random.",
            "",
            "| ranker | KL to the unpruned model, nats | same most probable token |",
            "|---|---|---|",
            *(f"| {name} | {row['kl']:.4f} | {row['agreement']:.1%} |" for name, row in test["rankers"].items()),
            "",
            "Spearman with the labels: "
            + ", ".join(f"layer {stage} {value:.3f}" for stage, value in test["spearman"].items())
            + f"; of what sessions use, over all tokens, {test['spearman_session']:.3f}. The mean label of a token's "
            f"id in training, which needs no hidden state, has {test['spearman_identity']:.3f}.",
        ]
        if sessions := test["sessions"]:
            lines += [
                "",
                f"As sessions evict, {sessions['kv_tokens']:,} tokens stored: {sessions['samples']} samples, "
                f"{sessions['plans']} plans with a longer history, {sessions['tokens']:,} tokens. `oracle` knows what "
                "later plans will attend to.",
                "",
                "| ranker | KL to the unpruned model, nats | same most probable token | all tokens of a plan |",
                "|---|---|---|---|",
                *(
                    f"| {name} | {r['kl']:.4f} | {r['agreement']:.1%} | {r['plans_agreement']:.1%} |"
                    for name, r in sessions["rankers"].items()
                ),
            ]
    write_atomic(folder / "card.md", "\n".join(lines) + "\n")


def draw_curves(folder: Path, log: Sequence[JsonRow]) -> None:
    """`curves.svg`: the terms of the loss, and the rank correlation on held-out samples, by epoch."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] + 1 for row in log]
    for name in ("task", "mse", "rank"):
        if all(name in row for row in log):
            left.plot(epochs, [row[name] for row in log], marker=".", label=name)
    left.set(xlabel="epoch", ylabel="loss")
    left.legend(frameon=False)
    for stage in log[0]["by_stage"]:
        right.plot(epochs, [row["by_stage"][stage] for row in log], marker=".", lw=1, label=f"layer {stage}")
    right.set(xlabel="epoch", ylabel="Spearman, held out")
    right.legend(frameon=False, fontsize=6)
    image = io.StringIO()
    # Without a date the same training draws the same file.
    figure.savefig(image, format="svg", metadata={"Date": None})
    write_atomic(folder / "curves.svg", image.getvalue())
