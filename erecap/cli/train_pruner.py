"""`erecap train saliency` and `erecap train pruner`: label the tokens that plans need, and train a pruner on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.cli.numbers import finite

Model = Annotated[str, typer.Option(help="Catalog name, folder or hub name.")]
Adapter = Annotated[str | None, typer.Option(help="Adapter of a trained planner, merged into the model.")]
Device = Annotated[str, typer.Option(help="auto, cpu, or cuda[:N].")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="Threads; torch's choice if left out.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin anew instead of going on.")]


def saliency(
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Trajectory folders, JSONL files, data sets.")],
    out: Annotated[Path, typer.Option(help="Folder for the labels.")],
    model: Model = "smollm2-135m-instruct",
    adapter: Adapter = None,
    kind: Annotated[str, typer.Option(help="plan-attention, plan-loss or language-model.")] = "plan-attention",
    stages: Annotated[str | None, typer.Option(help="Pruning layers, such as 4,7,10; every third if left out.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest sample, in tokens.")] = 4096,
    limit: Annotated[int | None, typer.Option(help="Samples of each source.")] = None,
    cache_tokens: Annotated[int, typer.Option(help="Hidden states kept of each sample, for `train pruner`.")] = 256,
    discount: Annotated[
        float, typer.Option(callback=finite, help="Plan attention: factor for every plan in between.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Draws the tokens whose hidden states are kept.")] = 0,
    device: Device = "auto",
    threads: Threads = None,
    fresh: Fresh = False,
) -> None:
    """Stage 1: label every token with how much what follows needs it."""
    from rich.console import Console
    from rich.table import Table

    from erecap.training.pruner.base_model import load_base
    from erecap.training.saliency.run import SaliencySettings, run_saliency
    from erecap.training.saliency.samples import sources_hash

    settings = SaliencySettings(kind, _layers(stages), max_tokens, limit, cache_tokens, discount, seed)
    sources_hash(data)  # what is missing is told before anything slow begins
    _threads(threads)
    if fresh:
        _clear(out, "labels-*.safetensors", "meta.json")
    progress = Console(markup=False, emoji=False, stderr=True, highlight=False)
    loaded, tokenizer, base = load_base(model, device, adapter)
    meta = run_saliency(loaded, tokenizer, base, data, out, settings, say=progress.print)
    table = Table(title=f"{meta['samples']} samples, {meta['tokens']:,} tokens")
    for name in ("stage", "mean", "median", "p90", "rank correlation with recency"):
        table.add_column(name, justify="right")
    for row in meta["statistics"]:
        values = [f"{row[name]:.3g}" for name in ("mean", "median", "p90")]
        table.add_row(str(row["stage"]), *values, f"{row['recency']:+.2f}")
    Console(markup=False, emoji=False).print(table)


def _layers(text: str | None) -> tuple[int, ...] | None:
    from erecap.errors import ConfigError

    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--stages: got {text!r}; allowed: layers with commas between them, such as 4,7,10") from None


def _threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _clear(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()


def pruner(
    labels: Annotated[Path, typer.Argument(metavar="LABELS", help="Folder that `erecap train saliency` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the pruner.")],
    model: Model = "smollm2-135m-instruct",
    adapter: Adapter = None,
    task: Annotated[bool, typer.Option(help="KL to the unpruned model under simulated pruning (slow).")] = True,
    mse: Annotated[bool, typer.Option(help="Regression on the labels.")] = True,
    rank: Annotated[bool, typer.Option(help="Order of pairs of tokens.")] = True,
    epochs: Annotated[int, typer.Option(help="Passes over the samples at most.")] = 10,
    lr: Annotated[float, typer.Option(callback=finite, help="Learning rate of Adam.")] = 1e-3,
    keep: Annotated[float, typer.Option(callback=finite, help="Task: share of its tokens that a stage keeps.")] = 0.7,
    temperature: Annotated[float, typer.Option(callback=finite, help="Task: of the Gumbel-softmax.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(help="Task: longer samples are left out of this term.")] = 1024,
    held_out: Annotated[float, typer.Option(callback=finite, help="Share of the samples to test on.")] = 0.1,
    patience: Annotated[int, typer.Option(help="Epochs without progress that end the training.")] = 3,
    budget: Annotated[float, typer.Option(callback=finite, help="Test: share of the history that stays.")] = 0.35,
    test_samples: Annotated[int, typer.Option(help="Test: held-out samples at most.")] = 12,
    kv_tokens: Annotated[int, typer.Option(help="Test: tokens that a session stores.")] = 1024,
    seed: Annotated[int, typer.Option(help="Of initial weights, order, noise and held-out samples.")] = 0,
    device: Device = "auto",
    threads: Threads = None,
    fresh: Fresh = False,
) -> None:
    """Stage 2: train a pruner on the labels, test it beside random, recency and attention, and write its card."""
    from rich.console import Console

    from erecap.training.pruner.base_model import load_base
    from erecap.training.pruner.run import run_pruner
    from erecap.training.pruner.settings import PrunerSettings
    from erecap.training.saliency.files import read_labels

    settings = PrunerSettings(
        task,
        mse,
        rank,
        epochs,
        lr,
        keep,
        temperature,
        max_tokens,
        held_out,
        patience,
        budget,
        test_samples,
        seed,
        kv_tokens,
    )
    meta, rows = read_labels(labels)
    _threads(threads)
    if fresh:
        _clear(out, "state.safetensors", "log.jsonl")
    progress = Console(markup=False, emoji=False, stderr=True, highlight=False)
    loaded, _, base = load_base(model, device, adapter)
    card = run_pruner(loaded, base, meta, rows, out, settings, say=progress.print)
    typer.echo((out / "card.md").read_text(encoding="utf-8"))
    if not card["passed"]:
        progress.print("warning: it does not beat random at this budget, and is refused by default", style="yellow")
