"""Coloured boxes as binary glTF, by trimesh. Shades are in the colours, the material is unlit: no light is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from erecap.envs.habitat.houses.shapes import Colour
from erecap.errors import EnvironmentUnavailable

Ends = tuple[float, float, float]
Coloured = tuple[Ends, Ends, Colour]  # low and high corner in metres, colour

# For each face of a box: its normal, and the share of the light that it gets.
_FACES = (
    ((0, 1, 0), 1.0),
    ((1, 0, 0), 0.84),
    ((-1, 0, 0), 0.8),
    ((0, 0, 1), 0.72),
    ((0, 0, -1), 0.68),
    ((0, -1, 0), 0.5),
)


def glb(boxes: Sequence[Coloured]) -> bytes:
    """One mesh of boxes, y up, as the bytes of a `.glb`; equal boxes give equal bytes.

    Raises:
        EnvironmentUnavailable: trimesh is not installed.
    """
    try:
        import trimesh
    except ImportError as error:
        wanted = "pip install 'erecap[habitat]'"
        raise EnvironmentUnavailable(f"houses are written with trimesh, which is not installed: {wanted}") from error
    corners, colours, faces = [], [], []
    for low, high, colour in boxes:
        for normal, light in _FACES:
            first = len(corners)
            corners += _face(low, high, normal)
            colours += [(*(int(value * light) for value in colour), 255)] * 4
            faces += [(first, first + 1, first + 2), (first, first + 2, first + 3)]
    mesh = trimesh.Trimesh(
        vertices=np.array(corners, dtype=np.float64),
        faces=np.array(faces, dtype=np.int64),
        vertex_colors=np.array(colours, dtype=np.uint8),
        process=False,  # corners of different faces stay apart: each face has its own shade
    )
    exported: bytes = trimesh.Scene({"boxes": mesh}).export(file_type="glb", tree_postprocessor=_unlit)
    return exported


def _unlit(tree: dict[str, Any]) -> None:
    """Give all meshes a material that shows the colours as they are; without one, Habitat computes light and gloss."""
    tree["materials"] = [{"name": "colours", "extensions": {"KHR_materials_unlit": {}}}]
    tree["extensionsUsed"] = ["KHR_materials_unlit"]
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive["material"] = 0


def _face(low: Ends, high: Ends, normal: tuple[int, int, int]) -> list[Ends]:
    """Corners of one face, counter-clockwise as seen from outside."""
    axis = next(number for number in range(3) if normal[number])
    across, along = (axis + 1) % 3, (axis + 2) % 3
    turns = [(0, 0), (1, 0), (1, 1), (0, 1)] if normal[axis] > 0 else [(0, 0), (0, 1), (1, 1), (1, 0)]
    ends = (low, high)
    corners = []
    for first, second in turns:
        corner = [0.0, 0.0, 0.0]
        corner[axis] = ends[normal[axis] > 0][axis]
        corner[across], corner[along] = ends[first][across], ends[second][along]
        corners.append((corner[0], corner[1], corner[2]))
    return corners
