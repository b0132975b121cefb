"""Writes a house as a Habitat scene dataset: a folder that any habitat-sim loads, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from erecap.envs.habitat.houses.building import boxes_of, stage
from erecap.envs.habitat.houses.house import SIDECAR, House, house_text
from erecap.envs.habitat.houses.meshes import glb

WRITER = 1
"""Counts up when equal houses are written as other files than before; belongs to the key of a cache."""
DATASET = "house.scene_dataset_config.json"
# A bare .glb of a stage is read with z up. Flat: the shades are in the colours.
LOOK = {"up": [0.0, 1.0, 0.0], "front": [0.0, 0.0, -1.0], "force_flat_shading": True}


def write_house(house: House, folder: Path) -> None:
    """Write a house; nothing to do if the folder is there, since it is renamed into place when it is whole.

    Raises:
        EnvironmentUnavailable: trimesh is not installed.
        GameError: the house has a thing of an unknown category or colour.
        OSError: the folder cannot be written.
    """
    if folder.is_dir():
        return
    written = _files(house)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        aside.chmod(0o755)
        for name, data in written.items():
            path = aside / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        os.rename(aside, folder)
    except OSError:
        # Another process was faster; it wrote the same bytes.
        if not (folder / SIDECAR).is_file():
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _files(house: House) -> dict[str, bytes]:
    """The files of a house by their path in its folder; the sidecar last."""
    files: dict[str, bytes] = {
        DATASET: _json(
            {
                "stages": {"paths": {".json": ["stages"]}},
                "objects": {"paths": {".json": ["objects"]}},
                "scene_instances": {"paths": {".json": ["scenes"]}},
            }
        ),
        "stages/house.glb": glb(stage(house)),
        "stages/house.stage_config.json": _json(
            {"render_asset": "house.glb", "collision_asset": "house.glb", "is_collidable": True, **LOOK}
        ),
        "scenes/house.scene_instance.json": _json(
            {
                "translation_origin": "asset_local",
                "stage_instance": {"template_name": "house"},
                "object_instances": [
                    {
                        "template_name": thing.id,
                        "translation": list(thing.centre),
                        "motion_type": "KINEMATIC" if thing.movable else "STATIC",
                    }
                    for thing in house.things
                ],
            }
        ),
    }
    for thing in house.things:
        files[f"objects/{thing.id}.glb"] = glb(boxes_of(thing, house))
        files[f"objects/{thing.id}.object_config.json"] = _json(
            {
                "render_asset": f"{thing.id}.glb",
                "collision_asset": f"{thing.id}.glb",
                "use_bounding_box_for_collision": thing.movable,
                "join_collision_meshes": True,
                "is_collidable": True,
                "mass": 0.5,
                "semantic_id": thing.semantic_id,
                **LOOK,
            }
        )
    files[SIDECAR] = house_text(house).encode()
    return files


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
