"""`erecap doctor`: check that this machine has what the package needs, or where a model would lie on it."""

from __future__ import annotations

from typing import Annotated

import typer

from erecap.cli.model_options import DeviceMapOption, DtypeOption


def doctor(
    model: Annotated[
        str | None, typer.Option(help="Instead: where this model would lie, and how many tokens of KV fit.")
    ] = None,
    device_map: DeviceMapOption = None,
    dtype: DtypeOption = "auto",
) -> None:
    """Check Python, packages, extras, simulators, plug-ins, processor and model, and say what to do for each gap.

    With --model: where a device map (auto, if left out) puts its layers, and the tokens whose keys and values fit.
    """
    from erecap.cli.checks import show_checks
    from erecap.errors import ConfigError

    if model is None:
        if device_map is not None:
            raise ConfigError("--device-map: it places a model; give --model")
        from erecap.doctor import run_checks

        show_checks(run_checks())
        return
    from erecap.engines.places import places_of
    from erecap.models.checking import Check

    advice = "put fewer layers there, or choose a smaller dtype"
    found = places_of(model, device_map or "auto", dtype).lines()
    show_checks([Check(name, fits, line, "" if fits else advice) for fits, name, line in found])
