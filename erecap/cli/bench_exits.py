"""`erecap bench exits`: where tokens are named before the last layer, and what early exit could save at most."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from erecap.cli.bench import MODEL, Dtype, Out, Threads
from erecap.cli.model_options import AdapterOption, LayersOption
from erecap.cli.numbers import finite
from erecap.cli.outputs import result_file

if TYPE_CHECKING:
    from erecap.generation import JsonRow


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
    timed: Annotated[int, typer.Option(min=1, help="Texts of each source whose last answer is decoded so.")] = 8,
    dtype: Dtype = "auto",
    threads: Threads = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep what --out was measured with the same settings.")] = (
        False
    ),
    results: Annotated[
        Path | None, typer.Option(callback=result_file, help="Results file that the row X1 is merged into.")
    ] = None,
    row: Annotated[str, typer.Option(help="That row: algorithm, or product for an adapter trained for it.")] = (
        "algorithm"
    ),
) -> None:
    """Measure the first layer that names the final token, and the bound of early exit with the head's cost counted.

    DATA are transcripts, chats, texts, or prompts with `turns`, which the model answers first.
    """
    from erecap.bench.exits.household import household_texts
    from erecap.bench.exits.part import exits_part
    from erecap.bench.exits.results import publish_exits
    from erecap.bench.exits.settings import ExitsBench
    from erecap.bench.exits.texts import texts_hash, texts_of
    from erecap.bench.results import ROWS
    from erecap.bench.suite import measured_part, read_part, write_part
    from erecap.cli.benching import setting
    from erecap.config.exits import Exit
    from erecap.decoding.answer import answer_ends
    from erecap.decoding.exits.opening import open_exits
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
    if results is not None and (settings is None or out is None):
        raise ConfigError("--results: got it without --exit or --exit-layer, or without --out; allowed: with both")
    if row not in ROWS:
        raise ConfigError(f"--row: got {row!r}; allowed: {', '.join(ROWS)}")
    if resume and out is None:
        raise ConfigError("--resume: got it without --out; allowed: with the file that may hold the part")
    if settings is None and (threshold is not None or not lossless):
        raise ConfigError("--threshold, --no-lossless: they are of exits; give --exit or --exit-layer as well")
    sources = [path.name for path in data or ()]
    twice = next((name for number, name in enumerate(sources) if name in sources[:number]), None)
    if twice is not None:
        raise ConfigError(f"DATA: got two sources named {twice}; allowed: each name once, as tables name them by it")
    about, _, say = setting(model, dtype, threads, "erecap bench exits")
    stated = {} if settings is None else settings.parts()
    if predictor is not None:
        from erecap.decoding.exits.files import describe_exits

        stated["predictor"] = describe_exits(predictor)  # its name and hash: the path of a folder is private
    read = texts_hash(data) if data else None
    chosen = {**vars(bench), "sources": sources, "hash": read, "exit": stated, "row": row}
    opened = open_model(ModelSettings(model, adapter, dtype, layers=layers))
    about["model"] |= {"adapter": opened.facts["adapter"], "plan": opened.facts.get("plan")}
    part = measured_part(out, chosen, about) if resume and out is not None else None
    if part is not None:
        say(f"exits: measured on {part['date']} already, kept ({Path(str(out)).name}; without --resume it is anew)")
    else:
        ends = answer_ends(opened.model, opened.tokenizer)
        if settings is not None:
            try:
                open_exits(settings, opened.model)  # before minutes are spent on bounds
            except ValueError as error:
                raise ConfigError(str(error)) from error

        def answer(chat: list[Message]) -> str:
            return ReplanSession(opened.model, opened.tokenizer).generate(chat, max_new_tokens=new_tokens).text

        if data:
            found = {
                source.name: texts_of(source, opened.tokenizer, ends, max_tokens=max_tokens, limit=texts, answer=answer)
                for source in data
            }
        else:
            found = {"household games": household_texts(bench, opened.model, opened.tokenizer, ends, say)}
        try:
            part = exits_part(bench, opened.model, found, settings, ends, {**about, "settings": chosen}, say)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if out is not None:
            write_part(out, part)
            part = read_part(out) or part
    _show(part)
    if out is not None:
        typer.echo(f"file: {out}")
    if results is not None:
        if not part["rows"]:
            raise ConfigError("--results: every answer was a single token, so nothing was timed; allowed: longer texts")
        publish_exits(results, part)
        typer.echo(f"results: {results}")


def _show(part: JsonRow) -> None:
    """Print the tables and lines of a part."""
    from rich.console import Console

    from erecap.bench.exits.table import chosen_line, exit_line, exits_tables, sources_table, times_line
    from erecap.bench.tables import result_table

    console, summary = Console(markup=False, emoji=False), part["summary"]
    for table in exits_tables(summary):
        console.print(table)
    if "exit" in summary:
        console.print(sources_table(summary["exit"]))
    if part["rows"]:
        console.print(result_table(part["rows"]))
    typer.echo(times_line(summary))
    typer.echo(chosen_line(summary))
    if "exit" in summary:
        typer.echo(exit_line(summary["exit"]))
    if summary["verdict"]:
        typer.echo(f"verdict: {summary['verdict']} (a bound below 1.15)")
