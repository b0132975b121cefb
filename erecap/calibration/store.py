"""Write a calibration to the file in which `erecap.cost.store` looks for it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch

from erecap.calibration.calibrate import Calibration
from erecap.cost.machine import CostKey
from erecap.cost.store import FORMAT, cost_path
from erecap.files import write_json


def save_cost_model(key: CostKey, calibration: Calibration, path: Path | None = None) -> Path:
    """Write a calibration's cost model and the key that it holds for; return the file.

    Args:
        path: None: `cost_path(key)`, which an earlier calibration of the same key gives way to.
    """
    target = path or cost_path(key)
    write_json(
        target,
        {
            "what": "a cost model of replanning calls, in ms; made by `erecap calibrate`",
            "format": FORMAT,
            "date": datetime.now(UTC).date().isoformat(),
            "torch": torch.__version__,
            "key": asdict(key),
            "model": asdict(calibration.cost),
            "errors": {kind: asdict(error) for kind, error in calibration.errors.items()},
            "noise": calibration.noise,
            "rounds": calibration.rounds,
            "points": [asdict(point) for point in calibration.points],
        },
    )
    return target
