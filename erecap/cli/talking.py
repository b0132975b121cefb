"""Shared parts of `erecap generate` and `erecap chat`: options, the model behind them, and a streamed answer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from erecap.budget import AUTO
from erecap.cli.numbers import finite, kv_tokens

if TYPE_CHECKING:
    from erecap.config.modes import Mode
    from erecap.generation import Generation, Message, Usage
    from erecap.protocols import LanguageModel

ModeOption = Annotated[str, typer.Option(help="A mode's name: erecap, full, reuse, recency, prune\\[attention], ...")]
EvictByOption = Annotated[
    str | None,
    typer.Option(
        "--evict-by",
        "--pruner",
        help="Ranks what erecap evicts: recency, random, attention, or a trained pruner; "
        "the pruner of prune\\[learned].",
    ),
]
KvTokensOption = Annotated[
    str | None, typer.Option(metavar="N", help="Tokens stored: auto (all that fit; if left out), a number, or all.")
]
KeepOption = Annotated[
    float | None,
    typer.Option(callback=finite, help="With prune[...]: share of its tokens that a stage keeps; 0.7 if left out."),
]
MaxNewTokensOption = Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")]
TemperatureOption = Annotated[float, typer.Option(callback=finite, min=0, help="0: the likeliest token each time.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of sampling and of random rankings.")]
SystemOption = Annotated[str | None, typer.Option(metavar="TEXT", help="System message in front of the chat.")]


@dataclass(frozen=True)
class Talker:
    """A language model, and the settings of every answer that it gives."""

    model: LanguageModel
    max_new_tokens: int
    temperature: float
    seed: int

    @property
    def stored_tokens(self) -> int:
        """Tokens stored for the next call, in the layer that stores most; 0 in modes that read everything again."""
        from erecap.language_models.per_episode import EpisodeSessions
        from erecap.language_models.shown import ShownSessions

        return self.model.stored_tokens if isinstance(self.model, (EpisodeSessions, ShownSessions)) else 0

    def answer(self, messages: Sequence[Message]) -> Generation:
        """Answer a chat; the text appears on stdout as it is decoded, and ends with a newline.

        Raises:
            ConfigError: no room for an answer of `max_new_tokens`, or a pruner of other layers.
            BudgetError: the chat cannot be made to fit the budget or the window.
            ModelError: the chat template refuses the messages.
        """
        from erecap.errors import ConfigError

        shown = 0

        def show(text: str) -> None:
            nonlocal shown
            typer.echo(text[shown:], nl=False)
            shown = max(shown, len(text))

        try:
            generation = self.model.generate(
                messages,
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                seed=self.seed,
                on_text=show,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error
        show(generation.text + "\n")
        return generation


def open_talker(
    model: str,
    *,
    adapter: str | None,
    mode: str,
    evict_by: str | None,
    kv_tokens: str | None,
    keep: float | None,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    dtype: str,
    device: str,
    device_map: str | None = None,
    threads: int | None,
    layers: str | None = None,
    exit: str | None = None,
) -> Talker:
    """Open the model that a command names. Options are checked before it is loaded.

    Raises:
        ConfigError: an option out of range, or one that the mode does not take.
        ModelError: model, adapter, pruner or layer plan cannot be loaded.
    """
    from erecap.config.run import BudgetSettings, PruneSettings

    chosen, pruner = chosen_mode(mode, evict_by)
    chosen = _with_exit(chosen, exit)
    budget = BudgetSettings(kv_tokens=_tokens(kv_tokens, chosen))
    prune = PruneSettings() if keep is None else PruneSettings(keep=_share(keep, chosen))

    from erecap.language_models.build import CallSettings, ModelSettings, build_language_model, open_model

    opened = open_model(ModelSettings(model, adapter, dtype, device, threads, layers, device_map))
    settings = CallSettings(budget, prune, pruner=pruner, seed=seed)
    return Talker(build_language_model(opened, chosen, settings), max_new_tokens, temperature, seed)


def chosen_mode(name: str, evict_by: str | None) -> tuple[Mode, str | None]:
    """The mode of that name, with what it ranks by; and the trained pruner that prunes at prefill.

    Raises:
        ConfigError: no such mode, one that asks no model, or a ranking that it does not take.
    """
    from erecap.config.modes import Evict, parse_mode
    from erecap.errors import ConfigError
    from erecap.registries import LEARNED

    try:
        mode = parse_mode(name)
    except ValueError as error:
        raise ConfigError(f"--mode: {error}") from error
    if not mode.needs_model:
        raise ConfigError(f"--mode: {mode} asks no model; choose another")
    if evict_by == LEARNED or (evict_by is None and mode.needs_run_pruner):
        raise ConfigError(f"--pruner: mode {mode} wants the trained pruner itself; give its name or folder")
    if evict_by is None:
        return mode, None
    if mode.prune == LEARNED:
        return mode, evict_by
    if not isinstance(mode.kv, Evict) or mode.kv.by is not None:
        raise ConfigError(f"--evict-by: mode {mode} leaves no choice of a ranking; allowed with erecap, prune[learned]")
    return replace(mode, kv=replace(mode.kv, by=evict_by)), None


def _with_exit(mode: Mode, text: str | None) -> Mode:
    """The mode with the early exit of `--exit`."""
    from erecap.cli.model_options import exit_settings
    from erecap.errors import ConfigError

    settings = exit_settings(text)
    if settings is None:
        return mode
    if not mode.session:
        raise ConfigError(f"--exit: mode {mode} reads each chat anew; allowed with erecap, reuse and modes that evict")
    return replace(mode, decode=replace(mode.decode, exit=settings))


def _tokens(text: str | None, mode: Mode) -> int | Literal["auto"] | None:
    from erecap.errors import ConfigError

    if text is None:
        return AUTO
    if not mode.budgeted:
        raise ConfigError(f"--kv-tokens: mode {mode} has no budget; leave it out")
    return kv_tokens(text, least=16)


def _share(keep: float, mode: Mode) -> float:
    from erecap.errors import ConfigError

    if mode.prune is None:
        raise ConfigError(f"--keep: mode {mode} does not prune at prefill; leave it out")
    if not 0 < keep <= 1:
        raise ConfigError(f"--keep: got {keep}; allowed: above 0, at most 1")
    return keep


def exits_of(usage: Usage) -> str:
    """The early exits of an answer, in words."""
    layers = usage.exit_layers
    if not layers:
        return "no token left early"
    between = f"layer {layers[0]}" if len(set(layers)) == 1 else f"layers {min(layers)} to {max(layers)}"
    differing = f", {usage.exit_differing:,} of them not what all layers choose" if usage.exit_differing else ""
    return f"{len(layers):,} of {usage.completion_tokens:,} tokens left after {between}{differing}"


def note(text: str, style: str = "dim") -> None:
    """Print a line about an answer on stderr, so that stdout holds the answers alone."""
    from rich.console import Console
    from rich.text import Text

    sys.stdout.flush()
    Console(markup=False, emoji=False, stderr=True, soft_wrap=True, highlight=False).print(Text(text, style=style))


def system_message(text: str | None) -> list[Message]:
    """The chat before anybody has said anything: the system message, if there is one."""
    return [] if text is None else [{"role": "system", "content": text}]
