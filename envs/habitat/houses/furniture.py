"""Furniture as coloured boxes: a chair is a seat, a back and four legs."""

from __future__ import annotations

from erecap.envs.habitat.houses.shapes import COLOURS, DARK, LEAF, LIGHT, METAL, WOOD, Box, Colour, Shape, box


def _legs(wide: float, high: float, deep: float, thick: float, colour: Colour | None) -> tuple[Box, ...]:
    return tuple(box(x, x + thick, 0, high, z, z + thick, colour) for x in (0, wide - thick) for z in (0, deep - thick))


def _table(wide: float, deep: float) -> Shape:
    top = box(0, wide, 0.68, 0.74, 0, deep)
    return Shape((wide, 0.74, deep), (top, *_legs(wide, 0.68, deep, 0.07, WOOD)), surface=0.74)


def _chest_of(drawers: int, wide: float, high: float, deep: float) -> Shape:
    step = (high - 0.08) / drawers
    fronts = tuple(
        box(0.05, wide - 0.05, 0.06 + n * step, 0.02 + (n + 1) * step, deep - 0.03, deep) for n in range(drawers)
    )
    knobs = tuple(
        box(wide / 2 - 0.06, wide / 2 + 0.06, y, y + 0.03, deep, deep + 0.02, DARK)
        for y in (0.02 + (n + 0.5) * step for n in range(drawers))
    )
    body = box(0, wide, 0, high, 0, deep - 0.03, WOOD)
    return Shape((wide, high, deep + 0.02), (body, *fronts, *knobs), surface=high)


def _shelf() -> Shape:
    sides = (box(0, 0.04, 0, 1.5, 0, 0.36), box(0.96, 1.0, 0, 1.5, 0, 0.36), box(0.04, 0.96, 0, 1.5, 0, 0.03))
    boards = tuple(box(0.04, 0.96, y, y + 0.04, 0.03, 0.36) for y in (0.06, 0.40, 0.80, 1.14, 1.46))
    books = tuple(
        box(x, x + 0.05, y, y + high, 0.08, 0.28, colour)
        for y, row in ((0.44, "red green blue grey"), (1.18, "yellow blue brown"))
        for x, high, colour in (
            (0.1 + 0.07 * n, 0.2 + 0.02 * (n % 3), COLOURS[name]) for n, name in enumerate(row.split())
        )
    )
    return Shape((1.0, 1.5, 0.36), (*sides, *boards, *books), surface=0.84, sides=0.05)


FURNITURE: dict[str, Shape] = {
    "armchair": Shape(
        (0.85, 0.85, 0.8),
        (
            box(0.15, 0.7, 0.1, 0.42, 0.18, 0.8),
            box(0, 0.85, 0.1, 0.85, 0, 0.18),
            box(0, 0.15, 0.1, 0.6, 0.18, 0.8),
            box(0.7, 0.85, 0.1, 0.6, 0.18, 0.8),
            *_legs(0.85, 0.1, 0.8, 0.06, DARK),
        ),
        surface=0.42,
        sides=0.16,
    ),
    "bathtub": Shape(
        (1.6, 0.55, 0.75),
        (
            box(0, 1.6, 0, 0.15, 0, 0.75),
            box(0, 1.6, 0.15, 0.55, 0, 0.08),
            box(0, 1.6, 0.15, 0.55, 0.67, 0.75),
            box(0, 0.08, 0.15, 0.55, 0.08, 0.67),
            box(1.52, 1.6, 0.15, 0.55, 0.08, 0.67),
            box(0.08, 1.52, 0.15, 0.38, 0.08, 0.67, (170, 204, 220)),
        ),
    ),
    "bed": Shape(
        (1.4, 0.95, 2.0),
        (
            box(0, 1.4, 0, 0.95, 0, 0.08, WOOD),
            box(0, 1.4, 0.1, 0.3, 0.08, 2.0, WOOD),
            box(0.03, 1.37, 0.3, 0.5, 0.08, 1.97),
            box(0.12, 0.64, 0.5, 0.6, 0.14, 0.5, LIGHT),
            box(0.76, 1.28, 0.5, 0.6, 0.14, 0.5, LIGHT),
            *_legs(1.4, 0.1, 2.0, 0.08, WOOD),
        ),
        surface=0.5,
    ),
    "cabinet": Shape(
        (0.9, 0.9, 0.47),
        (
            box(0, 0.9, 0, 0.9, 0, 0.42),
            box(0.03, 0.44, 0.05, 0.85, 0.42, 0.45),
            box(0.46, 0.87, 0.05, 0.85, 0.42, 0.45),
            box(0.38, 0.41, 0.5, 0.62, 0.45, 0.47, DARK),
            box(0.49, 0.52, 0.5, 0.62, 0.45, 0.47, DARK),
        ),
        surface=0.9,
    ),
    "chair": Shape(
        (0.46, 0.92, 0.48),
        (
            box(0, 0.46, 0.42, 0.47, 0, 0.48),
            box(0, 0.46, 0.47, 0.92, 0, 0.05),
            *_legs(0.46, 0.42, 0.48, 0.05, None),
        ),
        surface=0.47,
    ),
    "counter": Shape(
        (1.6, 0.92, 0.62),
        (
            box(0, 1.6, 0.1, 0.86, 0, 0.57),
            box(0, 1.6, 0.86, 0.92, 0, 0.62, (196, 190, 180)),
            box(0, 1.6, 0, 0.1, 0, 0.5, DARK),
            *(box(x, x + 0.48, 0.16, 0.8, 0.57, 0.59) for x in (0.04, 0.56, 1.08)),
            *(box(x, x + 0.12, 0.7, 0.73, 0.59, 0.61, DARK) for x in (0.22, 0.74, 1.26)),
        ),
        surface=0.92,
    ),
    "desk": Shape(
        (1.3, 0.74, 0.65),
        (
            box(0, 1.3, 0.69, 0.74, 0, 0.65),
            box(0.9, 1.28, 0.1, 0.69, 0.03, 0.62, WOOD),
            box(0.02, 0.08, 0, 0.69, 0.03, 0.62, WOOD),
            box(0.9, 1.28, 0, 0.1, 0.05, 0.58, DARK),
        ),
        surface=0.74,
    ),
    "dresser": _chest_of(3, 1.1, 0.84, 0.48),
    "floor lamp": Shape(
        (0.4, 1.55, 0.4),
        (
            box(0.05, 0.35, 0, 0.04, 0.05, 0.35, METAL),
            box(0.18, 0.22, 0.04, 1.2, 0.18, 0.22, METAL),
            box(0, 0.4, 1.2, 1.55, 0, 0.4),
        ),
    ),
    "fridge": Shape(
        (0.7, 1.75, 0.68),
        (
            box(0, 0.7, 0, 1.75, 0, 0.6),
            box(0.01, 0.69, 0.03, 1.08, 0.6, 0.65),
            box(0.01, 0.69, 1.12, 1.73, 0.6, 0.65),
            box(0.08, 0.11, 0.6, 1.0, 0.65, 0.68, METAL),
            box(0.08, 0.11, 1.2, 1.6, 0.65, 0.68, METAL),
        ),
    ),
    "nightstand": _chest_of(2, 0.46, 0.52, 0.4),
    "plant": Shape(
        (0.46, 1.15, 0.46),
        (
            box(0.08, 0.38, 0, 0.36, 0.08, 0.38),
            box(0.2, 0.26, 0.36, 0.6, 0.2, 0.26, WOOD),
            box(0.04, 0.42, 0.55, 0.85, 0, 0.42, LEAF),
            box(0, 0.24, 0.68, 0.95, 0.1, 0.36, LEAF),
            box(0.14, 0.46, 0.78, 1.15, 0.1, 0.46, LEAF),
        ),
    ),
    "shelf": _shelf(),
    "sink": Shape(
        (0.8, 1.05, 0.5),
        (
            box(0.05, 0.75, 0, 0.75, 0, 0.45),
            box(0, 0.8, 0.75, 0.85, 0, 0.5, LIGHT),
            box(0.15, 0.65, 0.85, 0.86, 0.1, 0.42, (150, 180, 196)),
            box(0.37, 0.43, 0.85, 1.05, 0.02, 0.06, METAL),
            box(0.37, 0.43, 1.0, 1.05, 0.06, 0.22, METAL),
        ),
    ),
    "sofa": Shape(
        (1.9, 0.82, 0.88),
        (
            box(0, 1.9, 0.08, 0.3, 0, 0.88),
            box(0, 1.9, 0.3, 0.82, 0, 0.22),
            box(0, 0.18, 0.3, 0.6, 0.22, 0.88),
            box(1.72, 1.9, 0.3, 0.6, 0.22, 0.88),
            box(0.2, 0.94, 0.3, 0.44, 0.22, 0.86),
            box(0.96, 1.7, 0.3, 0.44, 0.22, 0.86),
            *_legs(1.9, 0.08, 0.88, 0.08, DARK),
        ),
        surface=0.44,
        sides=0.2,
    ),
    "stove": Shape(
        (0.62, 0.98, 0.64),
        (
            box(0, 0.62, 0, 0.9, 0, 0.6),
            box(0.07, 0.55, 0.2, 0.62, 0.6, 0.62, DARK),
            box(0.07, 0.55, 0.66, 0.69, 0.6, 0.64, METAL),
            box(0, 0.62, 0.9, 0.98, 0, 0.06),
            *(box(x, x + 0.18, 0.9, 0.92, z, z + 0.18, DARK) for x in (0.08, 0.36) for z in (0.1, 0.36)),
        ),
    ),
    "table": _table(1.3, 0.8),
    "television": Shape(
        (1.3, 1.2, 0.42),
        (
            box(0, 1.3, 0.06, 0.45, 0, 0.4),
            box(0.1, 1.2, 0, 0.06, 0.05, 0.35, DARK),
            box(0.6, 0.7, 0.45, 0.55, 0.15, 0.22, DARK),
            box(0.1, 1.2, 0.55, 1.2, 0.14, 0.2, DARK),
            box(0.13, 1.17, 0.58, 1.17, 0.2, 0.21, (34, 46, 70)),
            *(box(x, x + 0.56, 0.12, 0.4, 0.4, 0.42, WOOD) for x in (0.06, 0.68)),
        ),
    ),
    "toilet": Shape(
        (0.42, 0.85, 0.66),
        (
            box(0.1, 0.32, 0, 0.36, 0.12, 0.5),
            box(0, 0.42, 0.36, 0.44, 0.18, 0.66),
            box(0, 0.42, 0.4, 0.85, 0, 0.18),
            box(0.08, 0.34, 0.44, 0.45, 0.26, 0.6, (170, 204, 220)),
        ),
    ),
    "washing machine": Shape(
        (0.62, 0.88, 0.62),
        (
            box(0, 0.62, 0, 0.88, 0, 0.6),
            box(0.13, 0.49, 0.2, 0.56, 0.6, 0.62, DARK),
            box(0.06, 0.56, 0.72, 0.82, 0.6, 0.61, METAL),
        ),
        surface=0.88,
    ),
}
