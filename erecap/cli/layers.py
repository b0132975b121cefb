"""`erecap layers`: layer plans made, shown, compared with the whole model, and exported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from erecap.cli.model_options import AdapterOption, DeviceOption, DtypeOption, ModelArgument, ThreadsOption

if TYPE_CHECKING:
    from erecap.language_models.opened import OpenedModel

app = typer.Typer(help="Leave layers of a model out: find, make, show, check and export plans.", no_args_is_help=True)

PlanArgument = Annotated[str, typer.Argument(metavar="PLAN", help="Folder or name of a layer plan.")]
NumbersOption = Annotated[str | None, typer.Option(metavar="N,N", help="Layers, counted from 0.")]


@app.command("make")
def make(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the plan goes.")],
    blocks: NumbersOption = None,
    attention: NumbersOption = None,
    mlp: NumbersOption = None,
    adapter: AdapterOption = None,
) -> None:
    """Write a plan by hand: whole layers, attentions and MLPs that are out. Its card has no test."""
    from erecap.errors import ConfigError
    from erecap.language_models.build import ModelSettings, open_model
    from erecap.layers.applying import apply
    from erecap.layers.files import PLAN, save_plan
    from erecap.layers.plan import LayerPlan

    if (out / PLAN).exists():
        raise ConfigError(f"--out: {out} holds a layer plan already; choose another folder")
    parts = {"blocks": blocks, "attention": attention, "mlp": mlp}
    numbers = {name: _numbers(f"--{name}", text) for name, text in parts.items()}
    if not any(numbers.values()):
        raise ConfigError("layers make: name what is out with --blocks, --attention or --mlp")
    opened = open_model(ModelSettings(model, adapter))
    options = parts if adapter is None else {**parts, "adapter": opened.facts["adapter"]["name"]}
    command = " ".join(f"--{name} {text}" for name, text in options.items() if text is not None)
    found = {"method": "by hand", "command": f"erecap layers make {opened.facts['name']} {command}"}
    try:
        plan = LayerPlan(
            opened.facts["layers"],
            numbers["blocks"],
            numbers["attention"],
            numbers["mlp"],
            base=opened.base,
            found=found,
        )
    except ValueError as error:
        raise ConfigError(f"layers make: {error}") from error
    apply(opened.model, plan, base=opened.base)
    save_plan(out, plan)
    typer.echo(f"{plan.words()} of {plan.layers} layers; in {out}")


@app.command("show")
def show(plan: PlanArgument) -> None:
    """Print what a plan leaves out, what it is for, and the figures of its test."""
    import json

    from erecap.layers.files import load_plan

    found = load_plan(plan)
    assert found.base is not None, "a saved plan has its base"
    adapter = "no adapter" if found.base.adapter is None else f"adapter {found.base.adapter[:23]}"
    lines = {
        "out": f"{found.words()} (of {found.layers} layers)",
        "base": f"{found.base.name}, weights {found.base.hash[:23]}, {adapter}",
        "found by": _words(dict(found.found)),
        "test": _words(dict(found.test)) if found.test else "none: nobody has measured what it costs in quality",
    }
    for name, text in lines.items():
        typer.echo(f"{name:9s} {text}")
    if found.heads or found.channels:
        typer.echo(json.dumps({"heads": found.structure()["heads"], "channels": found.structure()["channels"]}))


@app.command("check")
def check(
    context: typer.Context,
    plan: PlanArgument,
    model: ModelArgument,
    adapter: AdapterOption = None,
    tokens: Annotated[int, typer.Option(min=16, help="Tokens that are read.")] = 1024,
    decoded: Annotated[int, typer.Option(min=1, help="Tokens that are decoded after them.")] = 32,
    repetitions: Annotated[int, typer.Option(min=1, help="Timed rounds of both models in turn.")] = 5,
    text: Annotated[Path | None, typer.Option(metavar="FILE", help="Text to read; else a household game.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the household game.")] = 0,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Compare a model with a plan and without: next tokens on a text, milliseconds, memory."""
    from erecap.bench.layers import LayersBench, household_ids, layers_bench
    from erecap.cli.benching import refuse_given
    from erecap.errors import ConfigError
    from erecap.language_models.build import ModelSettings, open_model
    from erecap.layers.files import load_plan

    if text is not None:
        refuse_given(context, ("seed",), "--text")
    bench = LayersBench(tokens, decoded, repetitions, seed)
    opened = open_model(ModelSettings(model, adapter, dtype, device, threads))
    planned = opened.with_layers(plan)
    if text is None:
        ids = household_ids(bench, opened.tokenizer)
    else:
        ids = opened.tokenizer(_read(text), add_special_tokens=False)["input_ids"][:tokens]
        if len(ids) < 2:
            raise ConfigError(f"--text: {text} has {len(ids)} tokens; allowed: 2 or more")
    found = layers_bench(bench, opened.model, planned.model, ids)
    predicted = load_plan(plan).found.get("predicted", {})
    typer.echo(f"same next token   {100 * found.agreement:.1f} % of {found.tokens} tokens")
    typer.echo(
        f"KL divergence     {found.divergence:.4f} nats a token; largest difference of a logit {found.largest:.3g}"
    )
    for name, phase, (whole, thin), ratio, flops in (
        (f"prefill of {found.tokens}", "prefill", found.prefill_ms, found.prefill_speed_up, found.prefill_flop_ratio),
        ("decode, a token", "decode", found.decode_ms, found.decode_speed_up, found.decode_flop_ratio),
    ):
        beside = f", predicted {predicted[phase]:.3f}x" if phase in predicted else ""
        typer.echo(
            f"{name:17s} {thin:,.1f} ms, whole model {whole:,.1f} ms: {ratio:.3f}x, by FLOPs {flops:.3f}x{beside}"
        )
    for name, (before, after) in (("weights", found.weight_bytes), ("KV, a token", found.kv_bytes_per_token)):
        typer.echo(f"{name:17s} {after:,} bytes, whole model {before:,}")


@app.command("export")
def export(
    plan: PlanArgument,
    model: ModelArgument,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder that is made.")],
    adapter: AdapterOption = None,
    dtype: DtypeOption = "auto",
) -> None:
    """Write a model without whole layers, or with equal slices of all, as an ordinary Hugging Face folder."""
    from erecap.errors import ModelError
    from erecap.language_models.build import ModelSettings, open_model
    from erecap.layers.exporting import export as write
    from erecap.layers.exporting import export_problem
    from erecap.layers.files import load_plan

    problem = export_problem(load_plan(plan))  # before anything is loaded
    if problem is not None:
        raise ModelError(f"the plan cannot be exported: {problem}")
    opened: OpenedModel = open_model(ModelSettings(model, adapter, dtype, "cpu", layers=plan))
    write(opened.model, out, opened.tokenizer)
    typer.echo(f"{opened.facts['layers']} layers, {opened.facts['parameters']:,} parameters; in {out}")


def _numbers(option: str, text: str | None) -> tuple[int, ...]:
    from erecap.errors import ConfigError

    parts = [] if text is None else [part.strip() for part in text.split(",")]
    wrong = next((part for part in parts if not part.isdecimal() or len(part) > 9), None)
    if wrong is not None:
        raise ConfigError(f"{option}: got {wrong!r:.60}; allowed: numbers of layers, such as 6,10,24")
    return tuple(map(int, parts))


def _read(path: Path) -> str:
    from erecap.errors import ConfigError

    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--text: {path} is not UTF-8") from error


def _words(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_word(value)}" for name, value in facts.items()) or "not said"


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return f"({_words(value)})"
    if isinstance(value, (list, tuple)):
        return " and ".join(map(_word, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
