"""`erecap bench decoders`: transformers, the fused decoder and llama.cpp on the same weights and token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erecap.cli.bench import MODEL, Dtype, Threads
from erecap.cli.benching import setting
from erecap.cli.outputs import ResultFile


def decoders(
    stored: Annotated[int, typer.Option(min=1, help="Tokens that are stored before each pass.")] = 1024,
    steps: Annotated[int, typer.Option(min=1, help="Tokens by which exactness is told.")] = 64,
    repetitions: Annotated[int, typer.Option(min=1, help="Measured passes of each kind.")] = 15,
    llamacpp: Annotated[
        bool, typer.Option("--llamacpp/--no-llamacpp", help="Measure llama.cpp as well; it must be installed.")
    ] = True,
    model: Annotated[str, typer.Option(help="A model of the catalog that comes as a GGUF file.")] = MODEL,
    dtype: Dtype = "float32",
    threads: Threads = None,
    results: Annotated[Path | None, typer.Option(help="A results file that gets the part `decoders`.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what the output file has.")] = False,
    out: ResultFile = Path("runs/bench/decoders.json"),
) -> None:
    """Compare ways to run the model: milliseconds of a pass, and the error of its logits against float64.

    Goes on from the output file where that has the same settings. `make bench-decoders` builds what it needs.
    """
    import tempfile
    from dataclasses import asdict

    from erecap.bench.decoders import DecoderBench, exactness, own_sides, summary_of, times
    from erecap.bench.fleet import talk
    from erecap.bench.results import merge_part
    from erecap.context.tokenize import render_prompt
    from erecap.files import write_json
    from erecap.untrusted import read_json

    bench = DecoderBench(stored=stored, steps=steps, repetitions=repetitions)
    about, load, say = setting(model, dtype, threads, "erecap bench decoders")
    settings = {**asdict(bench), "passes": list(bench.passes), "llamacpp": llamacpp, "model": model, "dtype": dtype}
    found = {"part": "decoders", "settings": settings, **about}
    before = read_json(out) if out.exists() and not fresh else {}
    if before.get("settings") == settings and before.get("machine") == about["machine"]:
        found = before
    if "exactness" not in found or "raw" not in found:
        loaded, tokenizer = load()

        def count(messages: object) -> int:
            return len(render_prompt(messages, tokenizer).input_ids)  # type: ignore[arg-type]

        needed = stored + max(steps, bench.new_tokens)
        ids = list(render_prompt(talk(needed, count, 0, bench.new_tokens), tokenizer).input_ids)
        sides = own_sides(loaded)
        with tempfile.TemporaryDirectory(prefix="erecap-gguf-") as work:
            if llamacpp:
                from erecap.bench.llamacpp.sides import llamacpp_sides

                sides |= llamacpp_sides(model, Path(work), about["machine"]["threads"], say)
            for part, measure in (("exactness", lambda: exactness(bench, sides, loaded, ids, say)),
                                  ("raw", lambda: times(bench, sides, ids, say))):  # fmt: skip
                if part not in found:
                    found[part] = measure()
                    write_json(out, found)
    found["summary"] = summary_of(found["exactness"], found["raw"])
    write_json(out, found)
    typer.echo(f"{'side':<20} {'ms a token':>10} {'ms of 8':>9} {'ms of 100':>10} {'error':>10} {'agreeing':>9}")
    for row in found["summary"]:
        one, eight, new = (row["ms"][what]["median"] for what in ("1", "8", "prefill"))
        agreeing = f"{row['agreeing']}/{row['tokens']}"
        typer.echo(f"{row['side']:<20} {one:>10.2f} {eight:>9.2f} {new:>10.2f} {row['error']:>10.2e} {agreeing:>9}")
    typer.echo(f"results: {out}")
    if results is not None:
        kept = ("date", "command", "machine", "settings", "model", "summary")
        merge_part(results, "decoders", found, [], file="engines", kept=kept)
        typer.echo(f"results: {results}")
