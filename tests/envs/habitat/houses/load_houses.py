"""Loads house folders in habitat-sim and says what of each can be reached. Run by an interpreter that has habitat-sim;
uses the standard library, numpy and habitat-sim only. One JSON object a line for each folder that is named."""

import json
import math
import sys

import habitat_sim
import numpy as np

RADIUS = 0.2


def load(folder):
    config = habitat_sim.SimulatorConfiguration()
    config.scene_dataset_config_file = folder + "/house.scene_dataset_config.json"
    config.scene_id = "house"
    config.create_renderer = False
    config.gpu_device_id = -1
    agent = habitat_sim.agent.AgentConfiguration()
    agent.sensor_specifications = []
    return habitat_sim.Simulator(habitat_sim.Configuration(config, [agent]))


def recompute(sim):
    settings = habitat_sim.NavMeshSettings()
    settings.set_defaults()
    settings.agent_radius, settings.agent_height, settings.cell_size = RADIUS, 1.5, 0.05
    if hasattr(settings, "include_static_objects"):
        settings.include_static_objects = True
        return sim.recompute_navmesh(sim.pathfinder, settings)
    return sim.recompute_navmesh(sim.pathfinder, settings, True)


def gap(thing, x, z):
    """Metres between a point and the outline of a thing."""
    (cx, _, cz), (wide, _, deep) = thing["centre"], thing["size"]
    return math.hypot(max(abs(x - cx) - wide / 2, 0.0), max(abs(z - cz) - deep / 2, 0.0))


def survey(folder):
    sim = load(folder)
    with open(folder + "/house.json") as file:
        house = json.load(file)
    handles = sim.get_rigid_object_manager().get_object_handles()
    made = recompute(sim)
    finder = sim.pathfinder
    largest = max(range(finder.num_islands), key=finder.island_area)

    def stand(x, z):
        """Where on the largest island one would stand for a point of the floor; None: it is on another level."""
        point = np.array(finder.snap_point(np.array([x, 0.0, z], dtype=np.float32), island_index=largest))
        return None if math.isnan(point[0]) or abs(point[1]) > 0.3 else point

    fixed = [thing for thing in house["things"] if not thing["movable"]]
    rooms = {}
    for room in house["rooms"]:
        x0, z0, x1, z1 = room["box"]
        free = [
            (x, z)
            for x in np.arange(x0 + 0.3, x1 - 0.3, 0.2)
            for z in np.arange(z0 + 0.3, z1 - 0.3, 0.2)
            if all(gap(thing, x, z) > RADIUS + 0.1 for thing in fixed)
        ]
        near = [stand(x, z) for x, z in free]
        on = [p is not None and math.hypot(p[0] - x, p[2] - z) < 0.1 for p, (x, z) in zip(near, free)]  # noqa: B905
        rooms[room["name"]] = sum(on) / len(free)
    boxes = {room["name"]: room["box"] for room in house["rooms"]}
    gaps = {}
    for thing in house["things"]:
        (cx, _, cz), (wide, _, deep) = thing["centre"], thing["size"]
        x0, z0, x1, z1 = boxes[thing["room"]]
        spots = [
            stand(cx + dx, cz + dz)
            for dx in np.linspace(-wide / 2 - 0.35, wide / 2 + 0.35, 15)
            for dz in np.linspace(-deep / 2 - 0.35, deep / 2 + 0.35, 15)
        ]
        inside = [p for p in spots if p is not None and x0 <= p[0] <= x1 and z0 <= p[2] <= z1]
        gaps[thing["id"]] = min([gap(thing, p[0], p[2]) for p in inside] or [99.0])
    sim.close()
    return {
        "navmesh": bool(made),
        "ids": sorted(handle.split("_:")[0] for handle in handles),
        "rooms": rooms,
        "gaps": gaps,
    }


if __name__ == "__main__":
    for name in sys.argv[1:]:
        # habitat-sim writes to standard output as well, so that lines need a mark.
        print("house " + json.dumps(survey(name)), flush=True)
