"""Files of a house: the same bytes for a seed, meshes that load again, whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

from erecap.envs.habitat.houses.building import CEILING, GROUND, boxes_of, facing, walls
from erecap.envs.habitat.houses.floor_map import floor_map
from erecap.envs.habitat.houses.house import read_house
from erecap.envs.habitat.houses.meshes import glb
from erecap.envs.habitat.houses.write import write_house
from erecap.errors import GameError
from erecap.report.rows import SampleMap
from tests.envs.habitat.houses.houses import COUNT, footprint, furniture, houses


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("houses") / "0"
    write_house(houses()[0], written)
    return written


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def load(path: Path | bytes) -> trimesh.Trimesh:
    source = path.open("rb") if isinstance(path, Path) else trimesh.util.wrap_as_stream(path)
    loaded = trimesh.load(source, file_type="glb", force="mesh", process=False)
    assert isinstance(loaded, trimesh.Trimesh)
    return loaded


def test_bytes_reproduce_and_differ(tmp_path: Path) -> None:
    seen = set()
    for number, house in enumerate(houses()):
        write_house(house, tmp_path / f"first{number}")
        write_house(house, tmp_path / f"second{number}")
        first = contents(tmp_path / f"first{number}")
        assert first == contents(tmp_path / f"second{number}")
        assert len(first) == 4 + 1 + 2 * len(house.things)
        seen.add(first["stages/house.glb"])
    assert len(seen) == COUNT


def test_the_sidecar_reads_back(folder: Path) -> None:
    assert read_house(folder) == houses()[0]


def test_files_name_each_other(folder: Path) -> None:
    house = houses()[0]
    dataset = json.loads((folder / "house.scene_dataset_config.json").read_text())
    for part in ("stages", "objects", "scene_instances"):
        (place,) = dataset[part]["paths"][".json"]
        assert (folder / place).is_dir()
    scene = json.loads((folder / "scenes/house.scene_instance.json").read_text())
    assert (folder / f"stages/{scene['stage_instance']['template_name']}.stage_config.json").is_file()
    placed = {one["template_name"]: one for one in scene["object_instances"]}
    assert set(placed) == {thing.id for thing in house.things}
    for thing in house.things:
        assert placed[thing.id]["translation"] == list(thing.centre)
        assert placed[thing.id]["motion_type"] == ("KINEMATIC" if thing.movable else "STATIC")
        config = json.loads((folder / f"objects/{thing.id}.object_config.json").read_text())
        assert config["semantic_id"] == thing.semantic_id
        assert (folder / "objects" / config["render_asset"]).is_file()


def test_axes_are_those_of_the_files(folder: Path) -> None:
    for path in [folder / "stages/house.stage_config.json", *folder.glob("objects/*.object_config.json")]:
        config = json.loads(path.read_text())
        assert config["up"] == [0, 1, 0] and config["front"] == [0, 0, -1]


def test_meshes_of_things_are_as_large_as_the_things(folder: Path) -> None:
    for thing in houses()[0].things:
        low, high = load(folder / f"objects/{thing.id}.glb").bounds
        assert high == pytest.approx(np.array(thing.size) / 2, abs=2e-3)
        assert low == pytest.approx(-high, abs=2e-3)


def test_the_stage_reaches_from_the_ground_to_the_walls_ends(folder: Path) -> None:
    low, high = load(folder / "stages/house.glb").bounds
    boxes = [room.box for room in houses()[0].rooms]
    assert (low[1], high[1]) == pytest.approx((-GROUND, CEILING))
    assert low[0] < min(box[0] for box in boxes) and high[2] > max(box[3] for box in boxes)


def test_walls_leave_doorways_open() -> None:
    for house in houses():
        pieces, lintels = walls(house)
        assert len(lintels) == len(house.doors)
        for door in house.doors:
            x, _, z = door.centre
            half = door.width / 2 - 0.001
            for x0, z0, x1, z1 in pieces:
                assert not (x0 < x < x1 and z0 < z < z1)
                along_x = any(b - a > d - c for a, c, b, d in lintels if a <= x <= b and c <= z <= d)
                ends = ((x - half, z), (x + half, z)) if along_x else ((x, z - half), (x, z + half))
                assert not any(x0 < a < x1 and z0 < b < z1 for a, b in ends)


def test_walls_close_the_house_all_around() -> None:
    for house in houses()[:10]:
        for room in house.rooms:
            x0, z0, x1, z1 = room.box
            length = 2 * (x1 - x0 + z1 - z0)
            pieces, lintels = walls(house)
            touching = 0.0
            for a, b, c, d in [*pieces, *lintels]:
                along_x = max(0.0, min(c, x1) - max(a, x0)) if abs(d - z0) < 1e-6 or abs(b - z1) < 1e-6 else 0.0
                along_z = max(0.0, min(d, z1) - max(b, z0)) if abs(c - x0) < 1e-6 or abs(a - x1) < 1e-6 else 0.0
                touching += along_x + along_z
            assert touching == pytest.approx(length, abs=0.01)


def test_backs_are_at_the_wall_and_seats_before_them() -> None:
    seen = set()
    for house in houses():
        boxes = {room.name: room.box for room in house.rooms}
        for thing in furniture(house):
            if thing.category != "chair":
                continue
            side = facing(thing, house)
            seen.add(side)
            top = max(boxes_of(thing, house), key=lambda box: box[1][1])
            back = [thing.centre[axis] + (top[0][axis] + top[1][axis]) / 2 for axis in (0, 2)]
            room = boxes[thing.room]
            distances = {"west": back[0] - room[0], "north": back[1] - room[1]}
            distances |= {"east": room[2] - back[0], "south": room[3] - back[1]}
            assert distances[side] < 0.06 and min(distances, key=distances.__getitem__) == side
    assert seen == {"north", "east", "south", "west"}


def test_faces_look_outwards_and_keep_their_colours() -> None:
    data = glb([((-1.0, 0.0, 2.0), (1.0, 3.0, 4.0), (200, 100, 40))])
    mesh = load(data)
    assert mesh.volume == pytest.approx(2 * 3 * 2)  # negative where faces look inwards
    for normal, centre in zip(mesh.face_normals, mesh.triangles_center, strict=True):
        assert np.dot(normal, centre - mesh.bounds.mean(axis=0)) > 0
    length = int.from_bytes(data[12:16], "little")
    tree, rest = json.loads(data[20 : 20 + length]), data[28 + length :]
    (primitive,) = tree["meshes"][0]["primitives"]
    accessor = tree["accessors"][primitive["attributes"]["COLOR_0"]]
    start = tree["bufferViews"][accessor["bufferView"]]["byteOffset"] + accessor.get("byteOffset", 0)
    colours = {tuple(rest[start + 4 * n : start + 4 * n + 3]) for n in range(accessor["count"])}
    assert (200, 100, 40) in colours and len(colours) == 6  # each face has its share of the light
    assert tree["materials"][primitive["material"]]["extensions"] == {"KHR_materials_unlit": {}}


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "house").mkdir()
    write_house(houses()[0], tmp_path / "house")
    assert list((tmp_path / "house").iterdir()) == []


def test_nothing_is_left_of_a_house_that_cannot_be_written(tmp_path: Path) -> None:
    house = houses()[0]
    odd = replace(house, things=(*house.things, replace(house.things[0], id="x", category="throne")))
    with pytest.raises(GameError, match=r"a house has no \w+ throne"):
        write_house(odd, tmp_path / "houses" / "odd")
    lost = replace(house, things=(replace(house.things[0], room="attic"),))
    with pytest.raises(GameError, match="'attic', which is no room of the house"):
        write_house(lost, tmp_path / "houses" / "lost")
    assert not (tmp_path / "houses").exists()


def test_several_writers_leave_one_whole_house(tmp_path: Path) -> None:
    house = houses()[1]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: write_house(house, tmp_path / "one"), range(8)))
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    write_house(house, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_without_trimesh_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['trimesh'] = None\n"
        "from erecap.envs.habitat.houses.meshes import glb\n"
        "from erecap.errors import EnvironmentUnavailable\n"
        "try: glb([((0, 0, 0), (1, 1, 1), (0, 0, 0))])\n"
        "except EnvironmentUnavailable as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found == "houses are written with trimesh, which is not installed: pip install 'erecap[habitat]'\n"


def test_generating_needs_no_trimesh() -> None:
    code = (
        "import sys, erecap.envs.habitat.houses.generate as g; g.generate_house('a', split='train')\n"
        "print([name for name in ('trimesh', 'habitat_sim', 'torch') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_map_shows_rooms_doors_and_things() -> None:
    for house in houses()[:10]:
        found = SampleMap.model_validate(floor_map(house))
        assert [room.name for room in found.rooms] == [room.name for room in house.rooms]
        assert [piece.name for piece in found.furniture] == [thing.name for thing in furniture(house)]
        for piece, thing in zip(found.furniture, furniture(house), strict=True):
            x0, z0, x1, z1 = footprint(thing)
            assert (piece.outline[0], piece.outline[2]) == (pytest.approx((x0, z0)), pytest.approx((x1, z1)))
            assert piece.colour.startswith("#")
        lintels = walls(house)[1]
        for door in found.doors:
            (ax, az), (bx, bz) = door.ends
            assert any(
                x0 <= (ax + bx) / 2 <= x1 and z0 <= (az + bz) / 2 <= z1 and (bx - ax > 1) == (x1 - x0 > z1 - z0)
                for x0, z0, x1, z1 in lintels
            )
