"""habitat-sim behind JSON: one scene, one robot. A script for the interpreter that has habitat-sim.

One file for any interpreter: it uses the standard library, habitat-sim and its numpy only, and Python 3.9. One request
a line, `{"do": NAME, ...}`, one answer a line; `{"error": "..."}` where a request failed. Points are [x, y, z] in
metres, y is up. A yaw is in degrees, counter-clockwise from -z; so are bearings, relative to the robot: positive is to
its left.
"""

import base64
import hashlib
import json
import math
import os
import sys

if __name__ == "__main__":
    del sys.path[0]  # this folder: its modules are no business of habitat-sim's imports

for _name, _value in (("HABITAT_SIM_LOG", "quiet"), ("MAGNUM_LOG", "quiet"), ("GLOG_minloglevel", "2")):
    os.environ.setdefault(_name, _value)

import habitat_sim  # noqa: E402
import magnum as mn  # noqa: E402
import numpy as np  # noqa: E402

STEP, TURN = 0.25, 10.0  # metres and degrees of one action: habitat-sim's own defaults
ARRIVED = 0.18  # metres from its end at which the follower is there
GLIMPSE_EVERY = 1.0  # metres between two looks on the way
MOST_ACTIONS = 2000  # of one walk
TOLERANCE = 0.05  # metres between a ray's hit and the box that it hit
LEAST_PIXELS = 12  # of a thing that the semantic sensor sees
NAVMESH = {"agent_radius": 0.2, "agent_height": 1.5, "agent_max_climb": 0.2, "cell_size": 0.05, "cell_height": 0.05}


class RequestError(Exception):
    """The request cannot be served; the message says why."""


class Simulation:
    """The simulator of one scene at a time; `handle` serves a request."""

    def __init__(self):
        self.sim = None
        self._opened = None
        self.things = {}

    def handle(self, request):
        """The answer to a request, as JSON values."""
        name = request.get("do")
        serve = getattr(self, f"do_{name}", None)
        if serve is None:
            raise RequestError(f"no such request: {name!r}")
        if self.sim is None and name not in ("hello", "open"):
            raise RequestError("no scene is open")
        return serve(**{key: value for key, value in request.items() if key != "do"})

    # ---- opening

    def do_hello(self):
        return {
            "habitat_sim": str(getattr(habitat_sim, "__version__", "")),
            "python": ".".join(map(str, sys.version_info[:3])),
            "bullet": bool(getattr(habitat_sim, "built_with_bullet", False)),
        }

    def do_open(
        self,
        scene,
        dataset=None,
        navmesh=None,
        sight="rays",
        fov=90.0,
        view=6.0,
        eye=1.25,
        camera=None,
        gpu=-1,
    ):
        """Load a scene, or put everything in it back to where it was.

        scene: a file, or a name in the dataset; navmesh: where the floor is kept that was computed for a scene without
        any, with the settings of `NAVMESH` in its name;
        camera: [width, height] or None.
        """
        asked = (scene, dataset, navmesh, sight, fov, view, eye, camera, gpu)
        if sight != "navmesh" and not getattr(habitat_sim, "built_with_bullet", False):
            built = "this habitat-sim is built without Bullet and casts no rays"
            raise RequestError(f"{built}, which sight: {sight} needs; choose sight: navmesh")
        if asked != self._opened:
            self._opened = None
            self.sight, self.fov, self.view, self.eye = sight, float(fov), float(view), float(eye)
            self._load(scene, dataset, camera, sight == "semantic", gpu)
            self._prepare_navmesh(navmesh)
            self.things, self._told = {}, None
            self._opened = asked
        self.held = None
        for thing in self.things.values():
            self._move(thing, thing["home"])
        return {
            "area": float(self.finder.island_area(self.main)),
            "things": self._annotated(),
            "regions": self._regions(),
        }

    def _load(self, scene, dataset, camera, semantic, gpu):
        if dataset is None and not os.path.isfile(scene):
            raise RequestError(f"there is no scene file {scene}")
        if dataset is not None and not os.path.isfile(dataset):
            raise RequestError(f"there is no scene dataset {dataset}")
        config = habitat_sim.SimulatorConfiguration()
        config.scene_id = scene
        if dataset is not None:
            config.scene_dataset_config_file = dataset
        config.enable_physics = bool(getattr(habitat_sim, "built_with_bullet", False))
        config.gpu_device_id = gpu
        agent = habitat_sim.agent.AgentConfiguration()
        agent.radius, agent.height = NAVMESH["agent_radius"], NAVMESH["agent_height"]
        agent.sensor_specifications = [self._sensor("rgb", habitat_sim.SensorType.COLOR, camera)] if camera else []
        if semantic:
            agent.sensor_specifications = [
                *agent.sensor_specifications,
                self._sensor("semantic", habitat_sim.SensorType.SEMANTIC, [256, 192]),
            ]
        self.draws = bool(agent.sensor_specifications)
        made = habitat_sim.Configuration(config, [agent])
        if self.sim is not None and not self.draws:
            self.sim.close()
            self.sim = None
        try:
            if self.sim is None:
                self.sim = habitat_sim.Simulator(made)
            else:
                self.sim.reconfigure(made)  # keeps the renderer, which takes long to start
        except (RuntimeError, AssertionError, ValueError, FileNotFoundError) as error:
            raise RequestError(f"habitat-sim does not load {scene}: {_one_line(error)}") from error
        self.agent = self.sim.get_agent(0)
        self.finder = self.sim.pathfinder

    def _sensor(self, uuid, kind, size):
        spec = habitat_sim.CameraSensorSpec()
        spec.uuid, spec.sensor_type, spec.resolution = uuid, kind, [int(size[1]), int(size[0])]
        spec.position = mn.Vector3(0.0, self.eye, 0.0)
        spec.hfov = mn.Deg(self.fov)
        return spec

    def _prepare_navmesh(self, path):
        path = None if path is None else navmesh_file(path)
        if not self.finder.is_loaded and path is not None and os.path.isfile(path):
            self.finder.load_nav_mesh(path)
        if not self.finder.is_loaded:
            settings = habitat_sim.NavMeshSettings()
            settings.set_defaults()
            for name, value in NAVMESH.items():
                setattr(settings, name, value)
            if hasattr(settings, "include_static_objects"):
                settings.include_static_objects = True
                made = self.sim.recompute_navmesh(self.finder, settings)
            else:  # habitat-sim up to 0.2.4
                made = self.sim.recompute_navmesh(self.finder, settings, True)
            if made and path is not None:
                aside = f"{path}.{os.getpid()}.part"
                self.finder.save_nav_mesh(aside)
                os.replace(aside, path)
        if not self.finder.is_loaded or not self.finder.navigable_area > 0:
            raise RequestError("the scene has no navigable floor")
        self.main = max(range(self.finder.num_islands), key=self.finder.island_area)
        self.island = self.main

    def do_things(self, things, placed):
        """Say what is in the scene: {id, centre, size, semantic_id}; `placed`: as objects with these ids."""
        if things != self._told:
            self.things = self._found(things, placed)
            self._told = things
        return {}

    def _found(self, things, placed):
        found = {}
        manager = self.sim.get_rigid_object_manager() if placed else None
        handles = {handle.rsplit("_:", 1)[0]: handle for handle in manager.get_object_handles()} if placed else {}
        for thing in things:
            body = None
            if placed:
                if thing["id"] not in handles:
                    raise RequestError(f"the scene has no object {thing['id']}")
                body = manager.get_object_by_handle(handles[thing["id"]])
                body.semantic_id = int(thing["semantic_id"])
            centre = np.array(thing["centre"], dtype=np.float64)
            offset = np.array(body.translation, dtype=np.float64) - centre if body is not None else None
            found[thing["id"]] = {
                "id": thing["id"],
                "centre": centre,
                "home": centre,
                "size": np.array(thing["size"], dtype=np.float64),
                "semantic_id": int(thing["semantic_id"]),
                "body": body,
                "offset": offset,
            }
        return found

    def _annotated(self):
        """The objects of the scene's own semantic annotation, if it has one."""
        scene = self.sim.semantic_scene
        found = []
        for item in getattr(scene, "objects", None) or []:
            if item is None or item.category is None:
                continue
            box = item.aabb
            centre = [float(x) for x in np.array(box.center() if callable(box.center) else box.center)]
            size = np.array(box.size() if callable(getattr(box, "size", None)) else box.sizes)
            if not np.isfinite(size).all() or not (np.abs(size) > 0).any():
                continue
            found.append({"id": str(item.id), "category": item.category.name(), "centre": centre,
                          "size": [abs(float(x)) for x in size], "semantic_id": int(item.semantic_id)})  # fmt: skip
        return found

    def _regions(self):
        found = []
        for region in getattr(self.sim.semantic_scene, "regions", None) or []:
            if region is None or region.category is None:
                continue
            box = region.aabb
            low, high = (np.array(getattr(box, end)) for end in ("min", "max"))
            found.append(
                {"name": region.category.name(), "low": [float(x) for x in low], "high": [float(x) for x in high]}
            )
        return found

    # ---- the floor

    def do_begin(self, position, yaw=None, rotation=None):
        """Put the robot at a point; `rotation` [x, y, z, w] instead of a yaw."""
        if not self.finder.is_navigable(_point(position)):
            raise RequestError(f"the start {_rounded(position)} is not on navigable floor")
        if rotation is not None:
            _, y, _, w = rotation
            yaw = math.degrees(2.0 * math.atan2(y, w))
        self._stand(self.finder.snap_point(_point(position)), float(yaw or 0.0))
        self.island = self.finder.get_island(_point(position)) if hasattr(self.finder, "get_island") else self.main
        return self._pose()

    def do_points(self, count, seed):
        """Random points of the largest piece of floor."""
        self.finder.seed(int(seed))
        points = [
            np.array(self.finder.get_random_navigable_point(max_tries=100, island_index=self.main))
            for _ in range(count)
        ]
        return {"points": [_listed(point) for point in points if np.isfinite(point).all()]}

    def do_distances(self, groups, start=None):
        """Geodesic metres from a point, by default the robot's, to each group's nearest point, and that; or null."""
        start = self._position() if start is None else _point(start)
        found = [self._nearest(start, group) for group in groups]
        return {
            "metres": [metres for metres, _ in found],
            "ends": [None if end is None else _listed(end) for _, end in found],
        }

    def do_approach(self, boxes, radius=0.3, reach=None):
        """Navigable points beside each box's `base`, in sight of its `centre`, the nearest to that first."""
        return {"points": [self._approach(box, radius, reach) for box in boxes]}

    def do_map(self, metres=0.1):
        """Navigable cells of the robot's floor, row by row: x grows along a row, z from row to row."""
        height = float(self._position()[1])
        low = np.array(self.finder.get_bounds()[0], dtype=np.float64)
        if hasattr(self.finder, "get_topdown_island_view"):
            cells = np.array(self.finder.get_topdown_island_view(metres, height)) == self.island
        else:
            cells = np.array(self.finder.get_topdown_view(metres, height))
        packed = base64.b64encode(np.packbits(cells.astype(np.uint8))).decode()
        return {"shape": list(cells.shape), "cells": packed, "corner": [float(low[0]), float(low[2])], "metres": metres}

    def _nearest(self, start, group):
        path = habitat_sim.MultiGoalShortestPath()
        path.requested_start = start
        path.requested_ends = [_point(point) for point in group]
        if not group or not self.finder.find_path(path) or not math.isfinite(path.geodesic_distance):
            return None, None
        return float(path.geodesic_distance), np.array(path.points[-1], dtype=np.float32)

    def _approach(self, box, radius, reach):
        centre = np.array(box["centre"], dtype=np.float64)
        middle, size = (
            np.array(box["base"]["centre"], dtype=np.float64),
            np.array(box["base"]["size"], dtype=np.float64),
        )
        floor = middle[1] - size[1] / 2
        spread, found = size / 2 + radius, []
        for dx, dz in _perimeter(spread[0], spread[2]):
            wanted = np.array([middle[0] + dx, floor, middle[2] + dz], dtype=np.float32)
            point = np.array(self.finder.snap_point(wanted, island_index=self.island), dtype=np.float64)
            if not np.isfinite(point).all() or abs(point[1] - floor) > 0.6:
                continue
            apart = math.hypot(point[0] - centre[0], point[2] - centre[2])
            near = math.hypot(point[0] - wanted[0], point[2] - wanted[2]) < 0.35
            if near and (reach is None or apart < reach) and self._in_sight(point, centre, box["size"], None):
                found.append((round(apart, 3), _listed(point)))
        return [point for _, point in sorted(found)]

    # ---- moving

    def do_go(self, to, radius=ARRIVED, actions=MOST_ACTIONS):
        """Walk to the nearest of several points by habitat-sim's greedy geodesic follower, looking on the way."""
        _, goal = self._nearest(self._position(), to)
        answer = {"reached": False, "why": "", "metres": 0.0, "actions": 0, "glimpses": [], "trace": []}
        if goal is None:
            return dict(answer, why="there is no way", **self._pose())
        follower = self.sim.make_greedy_follower(
            0, radius, forward_key="move_forward", left_key="turn_left", right_key="turn_right"
        )
        looked = last = self._position()
        while answer["actions"] < actions:
            try:
                action = follower.next_action_along(goal)
            except habitat_sim.errors.GreedyFollowerError:
                answer["why"] = "the robot is stuck"
                break
            if action is None:
                answer["reached"] = True
                break
            self.agent.act(action)
            answer["actions"] += 1
            here = self._position()
            answer["metres"] += float(np.linalg.norm(here - last))
            if np.linalg.norm(here - looked) >= GLIMPSE_EVERY:
                answer["glimpses"].append(self._glimpse())
                answer["trace"].append(_listed(here))
                looked = here
            last = here
        else:
            answer["why"] = f"the robot gave up after {actions} moves"
        self._carry()
        answer["glimpses"].append(self._glimpse())
        answer["trace"].append(_listed(last))
        return dict(answer, **self._pose())

    def do_look(self, around=False):
        """Glimpses from where the robot stands; `around`: it turns once and sees all round."""
        glimpses, actions = [self._glimpse()], 0
        if around:
            each, turned = max(1, int(self.fov // TURN)), 0.0
            while turned + TURN < 360.0:
                self.agent.act("turn_left")
                actions, turned = actions + 1, turned + TURN
                if actions % each == 0:
                    glimpses.append(self._glimpse())
            self.agent.act("turn_left")
        self._carry()
        return dict(self._pose(), glimpses=glimpses, actions=actions + int(around))

    def do_face(self, point):
        """Turn towards a point by whole turns."""
        actions = 0
        for _ in range(int(360 / TURN)):
            bearing = self._bearing(np.array(point, dtype=np.float64))
            if abs(bearing) <= TURN / 2:
                break
            self.agent.act("turn_left" if bearing > 0 else "turn_right")
            actions += 1
        self._carry()
        return dict(self._pose(), glimpses=[self._glimpse()], actions=actions)

    # ---- things

    def do_hold(self, id):
        """Attach a thing to the robot: the abstract grasp of Habitat's rearrangement."""
        if self.held is not None:
            raise RequestError("something is held already")
        if self._thing(id)["body"] is None:
            raise RequestError(f"{id} cannot be moved")
        self.held = id
        self._carry()
        return {"held": id}

    def do_put(self, id, on, near=None):
        """Lay a thing on another, nearest to a point, by default the robot's; `centre` null: there is no room."""
        thing, base = self._thing(id), self._thing(on)
        spot = self._free_spot(thing, base, self._position() if near is None else _point(near))
        if spot is None:
            return {"centre": None}
        if self.held == id:
            self.held = None
        self._move(thing, spot)
        return {"centre": _listed(spot)}

    def _free_spot(self, thing, base, near):
        half, top = thing["size"] / 2, base["centre"][1] + base["size"][1] / 2
        space = base["size"] / 2 - half
        if space[0] < 0 or space[2] < 0:
            return None
        others = [
            other
            for other in self.things.values()
            if other is not thing and other is not base and other["id"] != self.held
        ]
        spots = []
        for dx in np.linspace(-space[0], space[0], 7):
            for dz in np.linspace(-space[2], space[2], 7):
                spot = np.array([base["centre"][0] + dx, top + half[1], base["centre"][2] + dz])
                gaps = (np.abs(other["centre"] - spot) - other["size"] / 2 - half for other in others)
                if all((gap > -1e-6).any() for gap in gaps):
                    spots.append((round(float(np.hypot(spot[0] - near[0], spot[2] - near[2])), 4), tuple(spot)))
        return np.array(min(spots)[1]) if spots else None

    def _thing(self, id):
        if id not in self.things:
            raise RequestError(f"no such thing: {id!r}")
        return self.things[id]

    def _move(self, thing, centre):
        if np.array_equal(thing["centre"], centre):
            return
        thing["centre"] = np.array(centre, dtype=np.float64)
        thing["body"].translation = mn.Vector3(*map(float, thing["centre"] + thing["offset"]))

    def _carry(self):
        if self.held is not None:
            ahead = math.radians(self._yaw())
            here = self._position()
            self._move(self.things[self.held], here + np.array([-0.3 * math.sin(ahead), 0.9, -0.3 * math.cos(ahead)]))

    # ---- seeing

    def _glimpse(self):
        """Distances to what blocks the view, and the things that are seen, from where the robot stands."""
        yaw, here = self._yaw(), self._position()
        first = -self.fov / 2
        scan = [self._clear(here, yaw + first + degree) for degree in range(int(self.fov) + 1)]
        ids = self._rendered() if self.sight == "semantic" else None
        seen = []
        for thing in self.things.values():
            if thing["id"] == self.held:
                continue
            if ids is not None:
                visible = thing["semantic_id"] in ids and self._apart(here, thing) <= self.view
            else:
                visible = self._in_sight(here, thing["centre"], thing["size"], yaw)
            if visible:
                seen.append(thing["id"])
        return {
            "position": _listed(here),
            "yaw": yaw,
            "first": first,
            "scan": [round(far, 3) for far in scan],
            "seen": seen,
        }

    def _rendered(self):
        pixels = self.sim.get_sensor_observations()["semantic"]
        ids, counts = np.unique(np.asarray(pixels), return_counts=True)
        return set(ids[counts >= LEAST_PIXELS].tolist())

    def _clear(self, here, yaw):
        """Metres until something blocks the view in a direction, at most the view's range."""
        angle = math.radians(yaw)
        way = np.array([-math.sin(angle), 0.0, -math.cos(angle)])
        if self.sight == "navmesh":
            end = np.array(self.finder.try_step_no_sliding(_vector(here), _vector(here + way * self.view)))
            return float(np.hypot(end[0] - here[0], end[2] - here[2]))
        return min(self.view, self._hit(here + np.array([0.0, self.eye, 0.0]), way, self.view))

    def _in_sight(self, here, centre, size, yaw):
        """True if a part of a box is in sight from a point; within the field of view if there is a yaw."""
        half = np.array(size, dtype=np.float64) / 2
        centre = np.array(centre, dtype=np.float64)
        here = np.array(here, dtype=np.float64)
        if (
            yaw is not None
            and math.hypot(centre[0] - here[0], centre[2] - here[2]) - math.hypot(half[0], half[2]) > self.view
        ):
            return False
        eye = here + np.array([0.0, self.eye, 0.0])
        for dx, dy, dz in (
            (0, 0, 0),
            (0, 0.8, 0),
            (0.8, 0.8, 0.8),
            (-0.8, 0.8, 0.8),
            (0.8, 0.8, -0.8),
            (-0.8, 0.8, -0.8),
        ):
            part = centre + half * np.array([dx, dy, dz])
            way = part - eye
            far = float(np.linalg.norm(way))
            flat = math.hypot(way[0], way[2])
            if yaw is not None:
                turn = _turned(math.degrees(math.atan2(-way[0], -way[2])) - yaw)
                if flat > self.view or (flat > 0.05 and abs(turn) > self.fov / 2):
                    continue
            if far < 1e-6:
                return True
            if self.sight == "navmesh":
                end = np.array(self.finder.try_step_no_sliding(_vector(here), _vector([part[0], here[1], part[2]])))
                if (np.abs(end - centre)[[0, 2]] <= half[[0, 2]] + 0.4).all():
                    return True
                continue
            reached = eye + way / far * self._hit(eye, way / far, far)
            if (np.abs(reached - centre) <= half + TOLERANCE).all():
                return True
        return False

    def _hit(self, start, way, far):
        """Metres to the first thing that a ray hits, at most `far`."""
        found = self.sim.cast_ray(habitat_sim.geo.Ray(_vector(start), _vector(way)), max_distance=far)
        held = self.things[self.held]["body"].object_id if self.held is not None else None
        hits = [hit.ray_distance for hit in found.hits if held is None or hit.object_id != held]
        return float(min(hits)) if hits else far

    def _apart(self, here, thing):
        return math.hypot(thing["centre"][0] - here[0], thing["centre"][2] - here[2])

    # ---- pictures

    def do_picture(self):
        """The camera's view, RGB, row by row."""
        if not self.draws:
            raise RequestError("the scene was opened without a camera")
        pixels = np.ascontiguousarray(self.sim.get_sensor_observations()["rgb"][:, :, :3])
        return {"shape": list(pixels.shape), "rgb": base64.b64encode(pixels.tobytes()).decode()}

    # ---- the robot

    def _stand(self, position, yaw):
        state = self.agent.get_state()
        state.position = np.array(position, dtype=np.float32)
        half = math.radians(yaw) / 2
        state.rotation = [0.0, math.sin(half), 0.0, math.cos(half)]
        self.agent.set_state(state)

    def _position(self):
        return np.array(self.agent.get_state().position, dtype=np.float32)

    def _yaw(self):
        turned = self.agent.get_state().rotation
        return round(_turned(math.degrees(2.0 * math.atan2(float(turned.y), float(turned.w)))), 3)

    def _bearing(self, point):
        way = point - self._position()
        return _turned(math.degrees(math.atan2(-way[0], -way[2])) - self._yaw())

    def _pose(self):
        return {"position": _listed(self._position()), "yaw": self._yaw()}


def navmesh_file(path):
    """The file of a navmesh that was computed with the settings of now; others are other files."""
    settings = hashlib.sha256(repr(sorted(NAVMESH.items())).encode()).hexdigest()[:8]
    stem, ending = os.path.splitext(path)
    return f"{stem}-{settings}{ending}"


def _perimeter(x, z, apart=0.3):
    """Points around a rectangle of half extents x and z."""
    across, along = (np.linspace(-side, side, max(2, math.ceil(2 * side / apart) + 1)) for side in (x, z))
    return [(dx, dz) for dx in across for dz in (-z, z)] + [(dx, dz) for dz in along[1:-1] for dx in (-x, x)]


def _turned(degrees):
    return (degrees + 180.0) % 360.0 - 180.0


def _point(values):
    return np.array([float(value) for value in values], dtype=np.float32)


def _vector(values):
    return mn.Vector3(*(float(value) for value in values))


def _listed(point):
    return [round(float(value), 4) for value in point]


def _rounded(point):
    return [round(float(value), 2) for value in point]


def _one_line(error):
    return " ".join(str(error).split())[:200] or type(error).__name__


def main():
    """Serve requests from standard input until it ends. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    simulation = Simulation()
    for line in sys.stdin:
        try:
            answer = simulation.handle(json.loads(line))
        except RequestError as error:
            answer = {"error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
