"""`erecap tune stages`: layers that drop tokens, found by trying."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.cli.model_options import DtypeOption, ThreadsOption
from erecap.cli.numbers import finite

app = typer.Typer(help="Find layers that drop tokens, or that can be left out, by trying them.", no_args_is_help=True)

WARN_BELOW = 0.9  # agreement of the chosen set


@app.callback()
def _tune() -> None:
    pass


@app.command("stages")
def stages(
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Catalog name, folder or hub name.")
    ] = "smollm2-135m-instruct",
    keep: Annotated[float, typer.Option(callback=finite, help="Share of its tokens that one stage keeps.")] = 0.7,
    scorer: Annotated[
        str | None, typer.Option(help="What ranks the tokens: attention (if left out), recency, random, learned.")
    ] = None,
    pruner: Annotated[str | None, typer.Option(metavar="FOLDER", help="Trained pruner, for --scorer learned.")] = None,
    allow_untested_pruner: Annotated[
        bool, typer.Option("--allow-untested-pruner", help="Take one whose card shows no test that it passed.")
    ] = False,
    adapter: Annotated[str | None, typer.Option(metavar="FOLDER", help="LoRA adapter to merge into the model.")] = None,
    candidates: Annotated[
        str | None,
        typer.Option(metavar="SETS", help="Try these and no others, for example 4,7,10;6:28:4 (start:stop:step)."),
    ] = None,
    budget_evals: Annotated[
        int | None, typer.Option(metavar="N", help="Stage sets that the search tries at most; 40 if left out.")
    ] = None,
    histories: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Trajectories of `erecap collect`; else walks through household games."),
    ] = None,
    length: Annotated[int, typer.Option(help="Tokens that a prompt has at least.")] = 2000,
    samples: Annotated[int, typer.Option(help="Planning calls, and as many others for the best few.")] = 8,
    least_agreement: Annotated[
        float, typer.Option(callback=finite, help="Share of plan tokens that the chosen set must keep.")
    ] = 0.0,
    confirm: Annotated[int, typer.Option(help="Best sets that are read on other calls and timed.")] = 3,
    repetitions: Annotated[int, typer.Option(help="Timed reads of each of them; 0 for none.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the histories, the search and the random scorer.")] = 0,
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where answers and results go.")] = Path("runs/tune"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what was tried before.")] = False,
) -> None:
    """Choose the layers that drop tokens: the best speed-up times agreement with the unpruned model.

    What was tried is kept in the folder; the same command goes on from there.
    """
    from erecap.errors import ConfigError, RunError
    from erecap.tuning.candidates import parse_sets, words

    if candidates is not None and budget_evals is not None:
        raise ConfigError("--candidates and --budget-evals exclude each other: given sets are tried, all of them")
    sets = () if candidates is None else tuple(parse_sets(candidates))
    from erecap.tuning.tune import Tune, tune

    settings = Tune(
        keep=keep,
        scorer=scorer or ("attention" if pruner is None else "learned"),
        length=length,
        samples=samples,
        budget=40 if budget_evals is None else budget_evals,
        candidates=sets,
        seed=seed,
        least_agreement=least_agreement,
        confirm=confirm,
        repetitions=repetitions,
    )
    if (settings.scorer == "learned") != (pruner is not None):
        raise ConfigError("--scorer learned and --pruner FOLDER go together: one is given without the other")
    from erecap.cli.benching import setting
    from erecap.language_models.build import ModelSettings, open_model
    from erecap.tuning.output import SOURCES, write_all, yaml_lines

    about, _, say = setting(model, dtype, threads, "erecap tune stages")
    opened = open_model(ModelSettings(model, adapter, dtype))
    ranking = None if pruner is None else opened.learned_scorer(pruner, allow_untested=allow_untested_pruner)
    result = tune(
        settings, opened.model, opened.tokenizer, out, base=opened.fingerprint, histories=histories, scorer=ranking,
        fresh=fresh, say=say,
    )  # fmt: skip
    chosen = result["chosen"]
    lines = None if chosen is None else yaml_lines(keep, settings.scorer, chosen["stages"], adapter, pruner)
    paths = write_all(out, result, about, lines)
    if chosen is None:
        nearest = max(result["candidates"], key=lambda row: row["agreement"])
        raise RunError(
            f"no stage set agrees on {100 * least_agreement:g} % of the plan tokens; the nearest has "
            f"{100 * nearest['agreement']:.1f} % ({words(tuple(nearest['stages']))}); use a greater --keep"
        )
    typer.echo(
        f"predicted speed-up {chosen['speed_up']:.2f}, agreement {100 * chosen['agreement']:.1f} % of "
        f"{chosen['tokens']} plan tokens"
    )
    typer.echo(f"(speed-up {SOURCES[result['speed_up_from']]})")
    for row in (result["timing"] or {"sets": []})["sets"]:
        if row["stages"] == chosen["stages"]:
            typer.echo(f"measured speed-up {row['speed_up']:.2f} ({row['low']:.2f} to {row['high']:.2f})")
    typer.echo(lines)
    if chosen["agreement"] < WARN_BELOW:
        say(
            f"warning: {100 - 100 * chosen['agreement']:.0f} % of the plan tokens are others than without pruning; "
            "--least-agreement 0.95 chooses among sets that change less"
        )
    typer.echo(f"results: {', '.join(path.name for path in paths)} in {out}")
