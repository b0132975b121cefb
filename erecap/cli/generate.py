"""`erecap generate`: one answer of a model under a budget or with pruning, and what it cost."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from erecap.cli.model_options import (
    AdapterOption,
    DeviceMapOption,
    DeviceOption,
    DtypeOption,
    ExitOption,
    LayersOption,
    ModelArgument,
    ThreadsOption,
)
from erecap.cli.talking import (
    EvictByOption,
    KeepOption,
    KvTokensOption,
    MaxNewTokensOption,
    ModeOption,
    SeedOption,
    SystemOption,
    TemperatureOption,
    exits_of,
    note,
    open_talker,
    system_message,
)

if TYPE_CHECKING:
    from erecap.generation import Generation, Message


def generate(
    model: ModelArgument,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The user message; -: read it from stdin.")],
    adapter: AdapterOption = None,
    layers: LayersOption = None,
    mode: ModeOption = "erecap",
    evict_by: EvictByOption = None,
    kv_tokens: KvTokensOption = None,
    keep: KeepOption = None,
    max_new_tokens: MaxNewTokensOption = 256,
    temperature: TemperatureOption = 0.0,
    seed: SeedOption = 0,
    system: SystemOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    device_map: DeviceMapOption = None,
    threads: ThreadsOption = None,
    exit: ExitOption = None,
) -> None:
    """Answer a prompt on stdout as it is decoded; then tokens, times and bytes on stderr.

    Of a prompt of several lines, a budget or pruning never drops the last one, such as a question about a text.
    """
    from erecap.errors import ConfigError

    text = _from_stdin() if prompt == "-" else prompt
    if not text.strip():
        raise ConfigError("generate: the prompt is empty")
    talker = open_talker(
        model, adapter=adapter, layers=layers, mode=mode, evict_by=evict_by, kv_tokens=kv_tokens, keep=keep,
        dtype=dtype, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, device=device,
        device_map=device_map, threads=threads, exit=exit,
    )  # fmt: skip
    for line in figures(talker.answer([*system_message(system), prompt_message(text)])):
        note(line)


def prompt_message(text: str) -> Message:
    """The prompt as a user message of which only the last line is protected; nothing where there is only one."""
    # By default a chat's first user message is its goal and protected whole: nothing would ever be dropped here.
    told = text.rstrip()
    last = told.rfind("\n") + 1
    return {"role": "user", "content": text, "protect": [(last, len(told))] if last else []}


def figures(generation: Generation) -> list[str]:
    """Tokens, milliseconds and bytes of an answer, in words."""
    usage, timing = generation.usage, generation.timing
    prefill = f"{timing.prefill_ms:,.0f} ms{_rate(usage.new_tokens, timing.prefill_ms)}"
    if timing.prune_ms:
        prefill += f", {timing.prune_ms:,.0f} ms of them for dropping tokens"
    lines = [
        f"prompt   {usage.prompt_tokens:,} tokens: {usage.new_tokens:,} new, {usage.reused_tokens:,} reused; "
        f"{usage.kept_tokens:,.0f} kept for the answer (mean over layers)",
        f"answer   {usage.completion_tokens:,} tokens ({generation.finish_reason})",
        f"prefill  {prefill}",
        # The first token of an answer comes with the prefill.
        f"decode   {timing.decode_ms:,.0f} ms{_rate(usage.completion_tokens - 1, timing.decode_ms)}",
        f"KV       {usage.kv_bytes:,} bytes",
    ]
    if usage.exit_bytes:
        lines.append(f"exits    {exits_of(usage)}; {usage.exit_bytes:,} bytes")
    if generation.dropped_because:
        lines.append(f"dropped  {generation.dropped_because}")
    if usage.overflow_messages or usage.truncated_tokens:
        left_out = f"{usage.overflow_messages:,} messages left out, {usage.truncated_tokens:,} tokens cut"
        lines.append(f"overflow {left_out}, to fit the window")
    return lines


def _rate(tokens: int, ms: float) -> str:
    return f", {1e3 * tokens / ms:,.1f} tokens/s" if tokens > 0 and ms > 0 else ""


def _from_stdin() -> str:
    from erecap.errors import ConfigError

    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise ConfigError(f"stdin: not text in {error.encoding}") from error
