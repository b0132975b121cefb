"""`erecap bench remote`: cost and savings of shortening a remote planner's chat, over recorded conversations."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from erecap.cli.bench import MODEL
from erecap.cli.benching import names_in
from erecap.cli.outputs import result_file


def remote(
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Folders that `erecap collect` wrote.")],
    budget: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = 1024,
    views: Annotated[
        str, typer.Option(help="Ways to shorten, with commas; litellm, where that is installed, is another.")
    ] = "none,recency,mask,compact,compact-priced",
    prices: Annotated[str, typer.Option(help="Whose prices are paid.")] = "gpt-4.1-mini",
    price_list: Annotated[Path | None, typer.Option(help="A YAML file of prices, instead of the packaged one.")] = None,
    cache_block: Annotated[int, typer.Option(min=1, help="A cached prefix is a multiple of so many tokens.")] = 128,
    cache_least: Annotated[int, typer.Option(min=0, help="A cached prefix has at least so many tokens.")] = 1024,
    model: Annotated[str, typer.Option(help="Whose tokenizer counts: catalog name, folder or hub name.")] = MODEL,
    out: Annotated[Path | None, typer.Option(callback=result_file, help="JSON file for settings and rows.")] = None,
) -> None:
    """Count tokens, dollars, cached prompts and lost facts for each way of shortening recorded conversations.

    No model is asked: each planning call of DATA is rendered as it would have been sent.
    """
    from rich.console import Console
    from rich.table import Table

    from erecap.bench.remote.bench import RemoteBench, Talk
    from erecap.cost.prices import PRICES, prices_of
    from erecap.files import write_json
    from erecap.models import locate
    from erecap.models.loading import load_tokenizer
    from erecap.training.collect.trajectories import read_trajectories, source_facts
    from erecap.training.planner.data import chat_of

    bench = RemoteBench(names_in(views), budget, cache_block, cache_least)
    paid = prices_of(prices, price_list or PRICES)
    tokenizer = load_tokenizer(locate(model))
    talks = (
        Talk(chat_of(one), [(target.message, target.plan) for target in one.targets])
        for folder in data
        for one in read_trajectories(folder)
    )
    result = bench.measure(talks, tokenizer, paid)
    result |= {"model": prices, "tokenizer": Path(model).name, "sources": [source_facts(folder) for folder in data]}
    table = Table("view", "prompt tokens", "longest", "cached", "$", "$ uncached", "facts lost", "calls short of one",
                  box=None, padding=(0, 2, 0, 0))  # fmt: skip
    for row in result["rows"]:
        table.add_row(
            row["view"],
            f"{row['prompt_tokens']:,}",
            f"{row['longest']:,}",
            f"{row['cached_share']:.0%}",
            f"{row['dollars']:.4f}",
            f"{row['dollars_without_cache']:.4f}",
            f"{row['facts_lost']:.1%}",
            f"{row['calls_without_a_fact']:.1%}",
        )
    # Wide enough for the table where nobody says how wide the output is.
    Console(markup=False, emoji=False, width=None if sys.stdout.isatty() else 120).print(table)
    typer.echo(
        f"{result['conversations']} conversations, {result['calls']} calls, at most {budget:,} tokens; "
        f"prices of {prices}, for all calls together"
    )
    if out is not None:
        write_json(out, result)
        typer.echo(f"results: {out}")
