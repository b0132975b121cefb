"""Runs under `torchrun`: rank 0 plays the episodes, the others compute their part of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from erecap.errors import ConfigError
from erecap.parallel.start import rank, world

if TYPE_CHECKING:
    from erecap.config import RunConfig


def follow_run(config: RunConfig) -> bool:
    """Follow rank 0 until the run is over, on another rank; returns False on rank 0, and without `torchrun`.

    Raises:
        ConfigError: a run that cannot be played under `torchrun`, on every rank.
        ModelError, RankLost: as `follow_along`.
    """
    if world() == 1:
        return False
    from erecap.language_models.following import check_mode, check_servable, follow_along
    from erecap.language_models.opened import ModelSettings

    settings = ModelSettings(
        config.model, config.adapter, config.dtype, config.device, config.threads, config.layers, config.device_map
    )
    modes = [config.mode(name) for name in config.modes]
    for mode in modes:
        check_mode(mode)
        if config.plan_of(mode) is not None or config.controller_of(mode) is not None:
            raise ConfigError(f"mode {mode}: got a layer plan or a controller under torchrun; allowed: neither")
        check_servable(settings, mode.engine)
    if config.executor != "serial":
        raise ConfigError(f"executor: got {config.executor} under torchrun; allowed: serial")
    if rank() == 0:
        return False
    if any(mode.needs_model for mode in modes):
        follow_along(settings)
    return True
