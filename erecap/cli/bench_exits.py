"""`erecap bench exits`: where tokens are named before the last layer, and what early exit could save at most."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.cli.bench import MODEL, Dtype, Out, Threads
from erecap.cli.model_options import AdapterOption, LayersOption
from erecap.cli.numbers import finite


def exits(
    data: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DATA...", help="Folders of `erecap collect`, JSONL files; else household games."),
    ] = None,
    model: Annotated[str, typer.Option(help="Catalog name, folder or hub name.")] = MODEL,
    adapter: AdapterOption = None,
    layers: LayersOption = None,
    tokens: Annotated[int, typer.Option(min=1, help="Decoded tokens that are looked at, at most.")] = 1000,
    texts: Annotated[int, typer.Option(min=1, help="Texts of each source, at most.")] = 40,
    games: Annotated[int, typer.Option(min=1, help="Household games, where no source is named.")] = 8,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer to a prompt without one.")] = 64,
    max_tokens: Annotated[int, typer.Option(min=16, help="Tokens of a text; the rest is cut.")] = 4096,
    small: Annotated[int, typer.Option(min=1, help="Tokens of the small vocabulary.")] = 512,
    kv: Annotated[int, typer.Option(min=1, help="Stored tokens while layers and head are timed.")] = 1000,
    drafts: Annotated[int, typer.Option(min=1, help="Tokens drafted before one pass verifies them.")] = 3,
    repetitions: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 15,
    predictor: Annotated[
        str | None, typer.Option("--exit", help="Also decode with early exit: a predictor's folder or name.")
    ] = None,
    exit_layer: Annotated[int | None, typer.Option(min=1, help="Also decode with drafts of so many layers.")] = None,
    threshold: Annotated[float | None, typer.Option(callback=finite, help="Least probability of these exits.")] = None,
    lossless: Annotated[bool, typer.Option(help="Verify these exits; else differing tokens are counted.")] = True,
    timed: Annotated[int, typer.Option(min=1, help="Texts whose last answer is decoded so.")] = 8,
    dtype: Dtype = "auto",
    threads: Threads = None,
    out: Out = None,
) -> None:
    """Measure the first layer that names the final token, and the bound of early exit with the head's cost counted.

    DATA are transcripts, chats, texts, or prompts with `turns`, which the model answers first.
    """
    from erecap.bench.exits.bounds import exits_bench
    from erecap.bench.exits.household import household_texts
    from erecap.bench.exits.settings import ExitsBench
    from erecap.bench.exits.speed import speed_rows, speed_summary
    from erecap.bench.exits.table import exit_line, exits_tables, times_line
    from erecap.bench.exits.texts import texts_of
    from erecap.bench.suite import write_part
    from erecap.cli.benching import setting
    from erecap.config.exits import Exit
    from erecap.decoding.answer import answer_ends
    from erecap.errors import ConfigError
    from erecap.generation import Message
    from erecap.language_models.build import ModelSettings, open_model
    from erecap.session.session import ReplanSession

    bench = ExitsBench(
        texts, tokens, max_tokens, new_tokens, games, small, kv=kv, drafts=drafts, timed=timed, repetitions=repetitions
    )
    settings: Exit | None = None
    if predictor is not None or exit_layer is not None:
        try:
            settings = Exit(predictor, exit_layer, threshold, lossless=lossless)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    about, _, say = setting(model, dtype, threads, "erecap bench exits")
    opened = open_model(ModelSettings(model, adapter, dtype, layers=layers))
    about["model"] |= {"adapter": opened.facts["adapter"], "plan": opened.facts.get("plan")}
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
        found = household_texts(bench, opened.model, opened.tokenizer, ends, say)
    result = exits_bench(bench, opened.model, found, say)
    if settings is not None:
        try:
            timed_rows = speed_rows(bench, opened.model, found, settings, ends, say)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        stated = settings.parts()
        if predictor is not None:
            stated["predictor"] = Path(predictor).name  # the path of a folder is private
        result["summary"]["exit"] = {**stated, **speed_summary(timed_rows)}
        result = {"summary": result["summary"], "raw": {"named": result["raw"], "timed": timed_rows}}
    from rich.console import Console

    console = Console(markup=False, emoji=False)
    for table in exits_tables(result["summary"]):
        console.print(table)
    typer.echo(times_line(result["summary"]))
    if result["summary"]["slice_alone"] is not None:
        typer.echo(
            f"the grammar's rows in place of the head, without early exit: {result['summary']['slice_alone']:.2f}x"
        )
    if settings is not None:
        typer.echo(exit_line(result["summary"]["exit"]))
    if result["summary"]["verdict"]:
        typer.echo(f"verdict: {result['summary']['verdict']} (a bound below 1.15)")
    if out is not None:
        sources = [path.name for path in data or ()]
        chosen = {**vars(bench), "sources": sources}
        write_part(out, {"part": "exits", "settings": chosen, **about, **result, "rows": [], "faults": []})
        typer.echo(f"results: {out}")
