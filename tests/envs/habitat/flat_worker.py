"""A small simulator of generated houses that serves the requests of `worker.py`.

A grid, straight lines of sight, furniture that hides nothing, no physics. It runs as a script with the standard library
alone, so that the environment can be played where habitat-sim is not. FLAT_CRASH names a file: if it is there and holds
the name of a request, that request removes it and ends the process, as a simulator does that crashes.
"""

import base64
import heapq
import json
import math
import os
import sys
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

CELL, RADIUS = 0.2, 0.2


class Flat:
    """One house; `handle` serves a request."""

    def handle(self, request):
        name = request.pop("do")
        crash = Path(os.environ.get("FLAT_CRASH", ""))
        if crash.is_file() and crash.read_text() == name:
            crash.unlink()
            os._exit(139)
        if name != "hello" and name != "open" and not hasattr(self, "house"):
            raise ValueError("no scene is open")
        return getattr(self, "do_" + name)(**request)

    def do_hello(self):
        return {"habitat_sim": "flat", "python": "", "bullet": True}

    def do_open(self, scene, dataset, navmesh, sight, fov, view, eye, camera, gpu):
        self.half, self.view = int(fov / 2), view
        self.house = json.loads((Path(dataset).parent / "house.json").read_text("utf-8"))
        self.things = {thing["id"]: dict(thing) for thing in self.house["things"]}
        self.open = [room["box"] for room in self.house["rooms"]]
        for door in self.house["doors"]:
            (x, _, z), half = door["centre"], door["width"] / 2
            along_z = not any(box[0] <= x <= box[2] for box in self.open if box[1] <= z <= box[3])
            self.open.append(
                [x - 0.4, z - half, x + 0.4, z + half] if along_z else [x - half, z - 0.4, x + half, z + 0.4]
            )
        self.columns = int(max(box[2] for box in self.open) / CELL) + 2
        self.rows = int(max(box[3] for box in self.open) / CELL) + 2
        full = [self._footprint(thing, RADIUS) for thing in self.things.values() if not thing["movable"]]
        cells = [(row, column) for row in range(self.rows) for column in range(self.columns)]
        self.free = {cell for cell in cells if self._stands(cell, full)}
        pieces = [set(self._field(cell)) for cell in sorted(self.free)[:: max(1, len(self.free) // 40)]]
        self.free = max(pieces, key=len)
        self._field.cache_clear()
        self.held = None
        return {"area": len(self.free) * CELL**2, "things": [], "regions": []}

    def do_things(self, things, placed):
        assert placed and {thing["id"] for thing in things} == set(self.things)
        return {}

    def do_begin(self, position, yaw=0.0):
        self.here, self.yaw = self._cell(position), yaw
        return self._pose()

    def do_points(self, count, seed):
        cells = sorted(self.free)
        return {"points": [self._point(cells[(seed + 7919 * number) % len(cells)]) for number in range(count)]}

    def do_map(self):
        bits = [(row, column) in self.free for row in range(self.rows) for column in range(self.columns)]
        bits += [False] * (-len(bits) % 8)
        packed = bytes(
            sum(bit << (7 - place) for place, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8)
        )
        cells = base64.b64encode(packed).decode()
        return {"shape": [self.rows, self.columns], "cells": cells, "corner": [0.0, 0.0], "metres": CELL}

    def do_distances(self, groups, start=None):
        field = self._field(self.here if start is None else self._nearest_free(start))
        found = []
        for group in groups:
            ends = [(field[cell], point) for point in group if (cell := self._nearest_free(point)) in field]
            found.append(min(ends) if ends else (None, None))
        return {"metres": [metres for metres, _ in found], "ends": [end for _, end in found]}

    def do_approach(self, boxes, reach=None):
        found = []
        for box in boxes:
            near = []
            for cell in self.free:
                point = self._point(cell)
                gaps = [
                    abs(point[axis] - box["base"]["centre"][axis]) - box["base"]["size"][axis] / 2 for axis in (0, 2)
                ]
                apart = math.hypot(point[0] - box["centre"][0], point[2] - box["centre"][2])
                if max(gaps) <= 0.5 and (reach is None or apart < reach) and self._sees(point, box["centre"]):
                    near.append((round(apart, 3), point))
            found.append([point for _, point in sorted(near)])
        return {"points": found}

    def do_go(self, to):
        metres, goal = (answer[0] for answer in self.do_distances([to]).values())
        answer = {"reached": False, "why": "there is no way", "metres": 0.0, "actions": 0, "glimpses": [], "trace": []}
        if goal is None:
            return {**answer, **self._pose()}
        field, way = self._field(self._nearest_free(goal)), [self.here]
        while way[-1] != self._nearest_free(goal):
            way.append(min(self._beside(way[-1]), key=lambda cell: (field[cell], cell)))
        for before, cell in pairwise(way):
            self.here = cell
            self.yaw = math.degrees(math.atan2(before[1] - cell[1], before[0] - cell[0]))
            answer["trace"].append(self._point(cell))
            if len(answer["trace"]) % 5 == 0:
                answer["glimpses"].append(self._glimpse())
        answer["glimpses"].append(self._glimpse())
        return {**answer, "reached": True, "why": "", "metres": metres, "actions": len(way), **self._pose()}

    def do_look(self, around=False):
        glimpses = [self._glimpse()]
        for _ in range(3 if around else 0):
            self.yaw -= 90.0
            glimpses.append(self._glimpse())
        self.yaw -= 90.0 if around else 0.0
        return {**self._pose(), "glimpses": glimpses, "actions": 0}

    def do_face(self, point):
        here = self._point(self.here)
        self.yaw = math.degrees(math.atan2(here[0] - point[0], here[2] - point[2]))
        return {**self._pose(), "glimpses": [self._glimpse()], "actions": 0}

    def do_hold(self, id):
        self.held = id
        return {}

    def do_put(self, id, on, near=None):
        thing, base = self.things[id], self.things[on]
        self.held = None if self.held == id else self.held
        top = base["centre"][1] + base["size"][1] / 2 + thing["size"][1] / 2
        thing["centre"] = [base["centre"][0], top, base["centre"][2]]
        return {"centre": thing["centre"]}

    # ---- inside

    def _stands(self, cell, full):
        x, _, z = self._point(cell)
        sides = [(x + dx, z + dz) for dx in (-RADIUS, RADIUS) for dz in (-RADIUS, RADIUS)]
        return all(map(self._inside, sides)) and not any(x0 < x < x1 and z0 < z < z1 for x0, z0, x1, z1 in full)

    def _inside(self, point):
        return any(x0 <= point[0] <= x1 and z0 <= point[1] <= z1 for x0, z0, x1, z1 in self.open)

    @staticmethod
    def _footprint(thing, margin):
        (x, _, z), (wide, _, deep) = thing["centre"], thing["size"]
        return x - wide / 2 - margin, z - deep / 2 - margin, x + wide / 2 + margin, z + deep / 2 + margin

    def _beside(self, cell):
        steps = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column]
        return [found for row, column in steps if (found := (cell[0] + row, cell[1] + column)) in self.free]

    @lru_cache(maxsize=500)  # noqa: B019
    def _field(self, start):
        """Metres from a cell to every cell that can be reached."""
        field, waiting = {start: 0.0}, [(0.0, start)]
        while waiting:
            far, cell = heapq.heappop(waiting)
            for other in self._beside(cell):
                metres = far + CELL * math.dist(cell, other)
                if metres < field.get(other, math.inf) - 1e-9:
                    field[other] = metres
                    heapq.heappush(waiting, (metres, other))
        return field

    def _sees(self, start, end):
        steps = max(1, int(math.hypot(end[0] - start[0], end[2] - start[2]) / 0.1))
        shares = (number / steps for number in range(steps + 1))
        return all(
            self._inside([start[axis] + (end[axis] - start[axis]) * share for axis in (0, 2)]) for share in shares
        )

    def _glimpse(self):
        here, seen, scan = self._point(self.here), [], []
        for thing in self.things.values():
            x, z = thing["centre"][0] - here[0], thing["centre"][2] - here[2]
            turn = (math.degrees(math.atan2(-x, -z)) - self.yaw + 180.0) % 360.0 - 180.0
            if (
                thing["id"] != self.held
                and math.hypot(x, z) <= self.view
                and abs(turn) <= self.half
                and self._sees(here, thing["centre"])
            ):
                seen.append(thing["id"])
        for degree in range(-self.half, self.half + 1):
            angle, far = math.radians(self.yaw + degree), 0.0
            while far < self.view and self._inside([here[0] - far * math.sin(angle), here[2] - far * math.cos(angle)]):
                far += 0.1
            scan.append(round(far, 2))
        return {"position": here, "yaw": self.yaw, "first": -self.half, "scan": scan, "seen": seen}

    def _pose(self):
        return {"position": self._point(self.here), "yaw": self.yaw}

    def _nearest_free(self, point):
        cell = self._cell(point)
        return cell if cell in self.free else min(self.free, key=lambda other: (math.dist(cell, other), other))

    @staticmethod
    def _cell(point):
        return round(point[2] / CELL), round(point[0] / CELL)

    @staticmethod
    def _point(cell):
        return [round(cell[1] * CELL, 3), 0.0, round(cell[0] * CELL, 3)]


def main():
    flat = Flat()
    for line in sys.stdin:
        try:
            answer = flat.handle(json.loads(line))
        except ValueError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
