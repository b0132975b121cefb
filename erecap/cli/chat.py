"""`erecap chat`: a conversation in the terminal, with the cost of each turn."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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
    Talker,
    TemperatureOption,
    exits_of,
    note,
    open_talker,
    system_message,
)

if TYPE_CHECKING:
    from erecap.generation import Generation, Message

COMMANDS = "/quit, /reset, /stats"


def chat(
    model: ModelArgument,
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
    """Talk with a model: a line in, an answer out, then what the turn cost.

    /reset begins a new conversation, /stats sums up this one, /quit, Ctrl-D or Ctrl-C ends it.
    """
    talker = open_talker(
        model, adapter=adapter, layers=layers, mode=mode, evict_by=evict_by, kv_tokens=kv_tokens, keep=keep,
        dtype=dtype, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, device=device,
        device_map=device_map, threads=threads, exit=exit,
    )  # fmt: skip
    terminal = sys.stdin.isatty()
    if terminal:
        import readline  # noqa: F401  # gives `input` its line editing

        note(f"{model}, mode {mode}; {COMMANDS}")
    talk = Conversation(talker, system)
    try:
        while (line := _next_line("> " if terminal else "")) is not None and talk.takes(line.strip()):
            pass
    except KeyboardInterrupt:
        typer.echo()  # leave the line of the prompt, or of half an answer


@dataclass
class Conversation:
    """The messages of a conversation, and the sum of what its turns cost."""

    talker: Talker
    system: str | None
    messages: list[Message] = field(default_factory=list)
    turns: list[Generation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew: nothing that was said is remembered."""
        self.talker.model.reset()
        self.messages, self.turns = system_message(self.system), []

    def takes(self, line: str) -> bool:
        """Do what a line says: a command, or a message to answer.

        Returns:
            False once the conversation has ended.
        """
        if line == "/quit":
            return False
        if line == "/reset":
            self.reset()
            note("a new conversation")
        elif line == "/stats":
            note(self.stats())
        elif re.fullmatch(r"/\w*", line):
            note(f"error: {line}: no such command; allowed: {COMMANDS}", "red")
        elif line:
            self._turn(line)
        return True

    def _turn(self, line: str) -> None:
        self.messages.append({"role": "user", "content": line})
        answer = self.talker.answer(self.messages)
        self.messages.append({"role": "assistant", "content": answer.text})
        self.turns.append(answer)
        note(cost_line(answer, self.talker.stored_tokens))

    def stats(self) -> str:
        """The conversation so far, in one line."""
        usages = [turn.usage for turn in self.turns]
        new, reused = sum(usage.new_tokens for usage in usages), sum(usage.reused_tokens for usage in usages)
        answered = sum(usage.completion_tokens for usage in usages)
        seconds = sum(turn.timing.total_ms for turn in self.turns) / 1e3
        stored = usages[-1].kv_bytes if usages else 0
        return (
            f"{len(self.turns)} turns: {new:,} new, {reused:,} reused and {answered:,} answered tokens; "
            f"{seconds:.2f} s; {stored:,} bytes of KV"
        )


def cost_line(answer: Generation, stored: int) -> str:
    """The cost of a turn: prompt tokens read and found again, tokens stored for the next turn, and seconds."""
    usage, seconds = answer.usage, answer.timing.total_ms / 1e3
    line = f"{usage.new_tokens:,} new, {usage.reused_tokens:,} reused, {stored:,} stored tokens; {seconds:.2f} s"
    line += f"; {exits_of(usage)}" if usage.exit_bytes else ""
    return line + (f"; dropped: {answer.dropped_because}" if answer.dropped_because else "")


def _next_line(prompt: str) -> str | None:
    """The next line of stdin; None at its end."""
    from erecap.errors import ConfigError

    try:
        return input(prompt)
    except EOFError:
        if prompt:
            typer.echo()
        return None
    except UnicodeDecodeError as error:
        raise ConfigError(f"stdin: not text in {error.encoding}") from error
