"""Ranks beside rank 0: they open the same model and follow, while rank 0 plays or serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from erecap.errors import ConfigError
from erecap.language_models.opened import ModelSettings, is_gguf, open_model

if TYPE_CHECKING:
    from erecap.config.modes import Mode


def follow_along(settings: ModelSettings) -> None:
    """Open the model that rank 0 opens, and do what it says until it ends.

    Raises:
        ConfigError, ModelError: as `open_model`.
        RankLost: another rank is gone.
    """
    from erecap.engines.leading import follow

    follow(open_model(settings).model)


def check_servable(settings: ModelSettings, engine: str = "transformers") -> None:
    """Refuse what a model that is split over processes does not have.

    Raises:
        ConfigError: names it.
    """
    if settings.layers is not None:
        raise ConfigError("layers: got a plan under torchrun; allowed: the whole model, which its ranks split")
    if engine != "transformers" or is_gguf(settings.name):
        raise ConfigError(f"engine: got {engine} under torchrun; allowed: transformers, with a model in safetensors")


def check_mode(mode: Mode) -> None:
    """Refuse a mode that a model split over processes cannot be asked in.

    Raises:
        ConfigError: names it.
    """
    if mode.needs_model and (not mode.session or mode.text is not None):
        raise ConfigError(f"mode {mode}: got it under torchrun; allowed: kv: reuse or evict, without text")
