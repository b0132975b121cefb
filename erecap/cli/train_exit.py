"""`erecap train exit`: a predictor of early exits for a model, from any text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.cli.model_options import AdapterOption, DeviceOption, LayersOption, ThreadsOption
from erecap.cli.numbers import finite
from erecap.cli.outputs import result_folder


def exit_predictor(
    data: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DATA...", help="Folders of `erecap collect`, JSONL files; else household games."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", callback=result_folder, metavar="FOLDER", help="The result.")] = Path(
        "runs/exits"
    ),
    model: Annotated[str, typer.Option(help="Catalog name, folder or hub name.")] = "smollm2-135m-instruct",
    adapter: AdapterOption = None,
    layers: LayersOption = None,
    tokens: Annotated[int, typer.Option(help="Decoded tokens that are looked at, at most.")] = 4000,
    texts: Annotated[int, typer.Option(help="Texts of each source, at most.")] = 200,
    max_tokens: Annotated[int, typer.Option(help="Tokens of a text; the rest is cut.")] = 4096,
    new_tokens: Annotated[int, typer.Option(help="Tokens of an answer to a prompt without one.")] = 64,
    games: Annotated[int, typer.Option(help="Household games, where no source is named.")] = 12,
    first: Annotated[int | None, typer.Option(help="Layers before the first look; else a quarter.")] = None,
    small: Annotated[int, typer.Option(help="Tokens of the small vocabulary.")] = 512,
    held_out: Annotated[float, typer.Option(callback=finite, help="Share of the texts to test on.")] = 0.25,
    epochs: Annotated[int, typer.Option(help="Passes over the looks of a layer.")] = 20,
    lr: Annotated[float, typer.Option(callback=finite, help="Learning rate of Adam.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Of initial weights, order, games and held-out texts.")] = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace the predictor that FOLDER holds.")] = False,
) -> None:
    """Train a predictor that says between layers whether a candidate is the final token, test it, write its card.

    DATA are transcripts, chats, texts, or prompts with `turns`, which the model answers first.
    """
    from rich.console import Console

    from erecap.bench.exits.household import household_texts
    from erecap.bench.exits.settings import ExitsBench
    from erecap.bench.exits.texts import texts_hash, texts_of
    from erecap.decoding.answer import answer_ends
    from erecap.errors import ConfigError
    from erecap.generation import Message
    from erecap.language_models.build import ModelSettings, open_model
    from erecap.session.session import ReplanSession
    from erecap.training.exit.run import refuse_taken, train_exits
    from erecap.training.exit.settings import ExitTraining
    from erecap.training.saliency.samples import sources_facts, sources_hash

    settings = ExitTraining(tokens, texts, max_tokens, new_tokens, games, first, small, held_out, epochs, lr, seed)
    for source in data or ():
        if not source.exists():
            raise ConfigError(f"{source}: no such file or folder")
    texts_hash(data or ())  # what cannot be read is told before the model is loaded
    refuse_taken(out, fresh)
    progress = Console(markup=False, emoji=False, stderr=True, highlight=False)
    opened = open_model(ModelSettings(model, adapter, "float32", device, threads, layers))
    ends = answer_ends(opened.model, opened.tokenizer)

    def answer(chat: list[Message]) -> str:
        return ReplanSession(opened.model, opened.tokenizer).generate(chat, max_new_tokens=new_tokens).text

    if data:
        found = [
            text
            for source in data
            for text in texts_of(source, opened.tokenizer, ends, max_tokens=max_tokens, limit=texts, answer=answer)
        ]
    else:
        bench = ExitsBench(games=games, max_tokens=max_tokens, seed=seed)
        found = household_texts(bench, opened.model, opened.tokenizer, ends, progress.print)
    base = {"name": opened.facts["name"], "hash": opened.fingerprint, "adapter": opened.adapter_hash}
    facts = [*sources_facts(data), {"hash": sources_hash(data)}] if data else [{"household games": games}]
    card = train_exits(opened.model, base, found, out, settings, sources=facts, say=progress.print)
    typer.echo((out / "card.md").read_text(encoding="utf-8"))
    if not card["passed"]:
        progress.print(
            "warning: it does not beat a constant exit, and is refused where it is to be used", style="yellow"
        )
