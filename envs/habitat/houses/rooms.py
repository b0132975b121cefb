"""Rooms: what may stand in each kind, and the colour of its floor."""

from __future__ import annotations

from erecap.envs.habitat.houses.shapes import Colour

ROOMS: dict[str, tuple[str, ...]] = {
    "bathroom": ("bathtub", "toilet", "sink", "cabinet", "plant", "washing machine"),
    "bedroom": ("bed", "nightstand", "dresser", "chair", "floor lamp", "plant"),
    "dining room": ("table", "chair", "cabinet", "plant", "floor lamp"),
    "hall": ("dresser", "chair", "plant", "shelf"),
    "kitchen": ("counter", "fridge", "stove", "table", "chair", "cabinet"),
    "laundry": ("washing machine", "counter", "sink", "shelf"),
    "library": ("shelf", "desk", "armchair", "floor lamp", "table"),
    "living room": ("sofa", "armchair", "television", "table", "shelf", "plant", "floor lamp"),
    "nursery": ("bed", "dresser", "shelf", "chair", "plant"),
    "office": ("desk", "chair", "shelf", "cabinet", "plant"),
}
FLOORS: dict[str, Colour] = {
    "bathroom": (190, 212, 216),
    "bedroom": (206, 188, 168),
    "dining room": (190, 160, 124),
    "hall": (200, 196, 188),
    "kitchen": (214, 208, 192),
    "laundry": (196, 204, 200),
    "library": (170, 138, 108),
    "living room": (196, 170, 138),
    "nursery": (214, 200, 206),
    "office": (176, 180, 184),
}
