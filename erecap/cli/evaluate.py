"""`erecap evaluate`: a model as it is beside changed ones, on texts, plans, questions and tasks of lm-eval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from erecap.cli.evaluating import (
    AllowUntestedOption,
    ChangedLayersOption,
    EvaluationOutOption,
    FreshOption,
    KeepOption,
    KvTokensOption,
    ModesOption,
    PrunerOption,
    SeedOption,
    StagesOption,
    changes_of,
    judging,
)
from erecap.cli.model_options import AdapterOption, DeviceOption, DtypeOption, ModelArgument, ThreadsOption

app = typer.Typer(
    help="Judge a model with layer plans, pruning and budgets beside the same model as it is.", no_args_is_help=True
)


@app.command("perplexity")
def perplexity(
    model: ModelArgument,
    text: Annotated[list[Path], typer.Option("--text", metavar="FILE", help="Text or JSON Lines; may be repeated.")],
    field: Annotated[str | None, typer.Option(metavar="KEY", help="Key of the text in a row of JSON Lines.")] = None,
    window: Annotated[
        int | None, typer.Option(help="Tokens of a piece and of what stands before it; 1024, or the model's window.")
    ] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens of a piece; half of the window if left out.")] = None,
    adapter: AdapterOption = None,
    layers: ChangedLayersOption = None,
    mode: ModesOption = None,
    pruner: PrunerOption = None,
    allow_untested_pruner: AllowUntestedOption = False,
    kv_tokens: KvTokensOption = None,
    keep: KeepOption = None,
    stages: StagesOption = None,
    seed: SeedOption = 0,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    out: EvaluationOutOption = Path("runs/evaluate"),
    fresh: FreshOption = False,
) -> None:
    """Perplexity and bits a byte of texts; every token is scored once, behind up to --window tokens less a piece."""
    from erecap.errors import ConfigError
    from erecap.evaluation import perplexity as part
    from erecap.evaluation.texts import JSON_LINES, read_texts

    if field is not None and not any(path.suffix in JSON_LINES for path in text):
        raise ConfigError(f"--field: no file of --text is JSON Lines ({', '.join(JSON_LINES)}); leave it out")
    changes = changes_of(layers, mode, pruner, allow_untested_pruner, kv_tokens, keep, stages, seed)
    texts = read_texts(text, field)
    part.check_window(window or part.WINDOW, stride)
    with judging(part.KIND, part.KEYS, model, adapter, changes, dtype, device, threads, out, fresh) as judge:
        rows, read = part.perplexity(judge.subjects, texts, judge.items, window, stride, judge.progress)
        settings = {"window": read.pop("window"), "stride": read.pop("stride"), "field": field, "seed": seed}
        judge.end(part.MEASURES, rows, {"files": [path.name for path in text], **read}, settings)


@app.command("agreement")
def agreement(
    model: ModelArgument,
    histories: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Transcripts of `erecap collect`; else the expert plays --suite."),
    ] = None,
    suite: Annotated[
        str | None, typer.Option(metavar="SUITE", help="Suite to play: household-chains-unseen if left out.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes compared.")] = 8,
    calls: Annotated[
        int | None, typer.Option(min=1, help="Most planning calls of an episode; all if left out.")
    ] = None,
    adapter: AdapterOption = None,
    layers: ChangedLayersOption = None,
    mode: ModesOption = None,
    pruner: PrunerOption = None,
    allow_untested_pruner: AllowUntestedOption = False,
    kv_tokens: KvTokensOption = None,
    keep: KeepOption = None,
    stages: StagesOption = None,
    seed: SeedOption = 0,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    out: EvaluationOutOption = Path("runs/evaluate"),
    fresh: FreshOption = False,
) -> None:
    """Plan tokens and whole plans that stay the dense planner's, and the loss of the expert's plans, teacher-forced."""
    from erecap.errors import ConfigError
    from erecap.evaluation import plans as part

    if histories is not None and suite is not None:
        raise ConfigError("--histories and --suite exclude each other: transcripts are read, or a suite is played")
    changes = changes_of(layers, mode, pruner, allow_untested_pruner, kv_tokens, keep, stages, seed)
    played = suite or "household-chains-unseen"
    if histories is None:
        transcripts = part.generated(played, episodes, out / "transcripts" / f"{Path(played).stem}-{episodes}")
        source: dict[str, Any] = {"suite": Path(played).stem}
    else:
        transcripts, source = part.collected(histories, seed), {"folder": histories.resolve().name}
    with judging(part.KIND, part.KEYS, model, adapter, changes, dtype, device, threads, out, fresh) as judge:
        dense = judge.subjects[0].opened
        found = part.episodes_of(transcripts, dense.model, dense.tokenizer, episodes, calls)
        rows, read = part.agreement(judge.subjects, found, judge.items, judge.progress)
        judge.end(part.MEASURES, rows, {**source, **read}, {"episodes": episodes, "calls": calls, "seed": seed})
        if read["past_the_window"]:
            judge.say(f"{read['past_the_window']} of {read['plans']} calls outgrew the window and were left out")


@app.command("qa")
def qa(
    model: ModelArgument,
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help="JSON or JSON Lines in LongBench's format.")],
    questions: Annotated[int | None, typer.Option(min=1, help="The first N questions; all if left out.")] = None,
    window: Annotated[int | None, typer.Option(help="Tokens of prompt and answer; the model's if left out.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 32,
    raw: Annotated[bool, typer.Option("--raw", help="Prompts as texts, without the chat template.")] = False,
    whole_answer: Annotated[
        bool, typer.Option("--whole-answer", help="Score all of an answer, not its first line.")
    ] = False,
    adapter: AdapterOption = None,
    layers: ChangedLayersOption = None,
    mode: ModesOption = None,
    pruner: PrunerOption = None,
    allow_untested_pruner: AllowUntestedOption = False,
    kv_tokens: KvTokensOption = None,
    keep: KeepOption = None,
    stages: StagesOption = None,
    seed: SeedOption = 0,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    out: EvaluationOutOption = Path("runs/evaluate"),
    fresh: FreshOption = False,
) -> None:
    """F1 and exact match of short answers to questions with their context, as LongBench scores them."""
    from erecap.evaluation import qa as part
    from erecap.evaluation.questions import read_questions

    changes = changes_of(layers, mode, pruner, allow_untested_pruner, kv_tokens, keep, stages, seed)
    asked = read_questions(data, questions)
    with judging(part.KIND, part.KEYS, model, adapter, changes, dtype, device, threads, out, fresh) as judge:
        rows, read = part.answer_questions(
            judge.subjects,
            asked,
            judge.items,
            window=min(subject.window for subject in judge.subjects) if window is None else window,
            max_new_tokens=max_new_tokens,
            raw=raw,
            whole_answer=whole_answer,
            say=judge.progress,
        )
        settings = {"window": window, "max_new_tokens": max_new_tokens, "raw": raw, "whole_answer": whole_answer}
        judge.end(part.MEASURES, rows, {"file": data.name, **read}, {**settings, "seed": seed})
        if read["cut_prompts"]:
            judge.say(
                f"{read['cut_prompts']} of {read['questions']} prompts were cut in the middle to fit the window "
                f"({read['cut_tokens']:,} tokens)"
            )


@app.command("lm-eval")
def lm_eval(
    model: ModelArgument,
    tasks: Annotated[str, typer.Option("--tasks", metavar="NAME,NAME", help="Tasks, groups or tags of lm-eval.")],
    include_path: Annotated[
        Path | None, typer.Option("--include-path", metavar="FOLDER", help="Task files of one's own, and their data.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first N documents of a task; all if left out.")] = None,
    shots: Annotated[
        int | None, typer.Option(min=0, help="Examples before a document; as the task says if left out.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put prompts into the chat template.")] = False,
    cut: Annotated[
        bool, typer.Option("--cut", help="Cut contexts beyond the window on the left, as lm-eval does.")
    ] = False,
    adapter: AdapterOption = None,
    layers: ChangedLayersOption = None,
    mode: ModesOption = None,
    pruner: PrunerOption = None,
    allow_untested_pruner: AllowUntestedOption = False,
    kv_tokens: KvTokensOption = None,
    keep: KeepOption = None,
    stages: StagesOption = None,
    seed: SeedOption = 0,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    out: EvaluationOutOption = Path("runs/evaluate"),
    fresh: FreshOption = False,
) -> None:
    """Tasks of the package lm-eval, with their context, through its own prompts and metrics."""
    from erecap.cli.benching import names_in
    from erecap.evaluation import harness as part

    part.require_lm_eval()
    changes = changes_of(layers, mode, pruner, allow_untested_pruner, kv_tokens, keep, stages, seed)
    loaded = part.Tasks(names_in(tasks), include_path)
    with judging(part.KIND, part.KEYS, model, adapter, changes, dtype, device, threads, out, fresh) as judge:
        found, counts = [], []
        for subject in judge.subjects:
            results, counted = loaded.run(
                subject, judge.items, limit=limit, shots=shots, chat=chat, cut=cut, say=judge.progress
            )
            found.append(results)
            counts.append(counted)
        measures, rows, left_out = part.measured(found)
        settings = {"limit": limit, "shots": shots, "chat": chat, "cut": cut, "seed": seed}
        judge.end(measures, rows, part.documents(found[0]), settings, counts)
        if left_out:
            judge.say(f"no figures of {', '.join(left_out)}: lm-eval makes them of all documents at once")
