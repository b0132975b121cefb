"""Games from folders: downloaded ones play the same way; damaged ones give one line that names the file."""

import json
import shutil

import pytest

from erecap.envs.household.env import HouseholdEnv
from erecap.envs.household.options import HouseholdOptions
from erecap.errors import ConfigError, EnvironmentUnavailable, GameError
from tests.envs.household.conftest import SEED, edit_json

pytestmark = pytest.mark.integration


def cut(text: str) -> str:
    return text[: len(text) // 2]


DAMAGES = {
    "truncated": lambda folder: (folder / "game.tw-pddl").write_text(cut((folder / "game.tw-pddl").read_text())),
    "no json object": lambda folder: (folder / "game.tw-pddl").write_text("[1]"),
    "not utf-8": lambda folder: (folder / "game.tw-pddl").write_bytes(b"\xff\xfe{"),
    "no problem": lambda folder: edit_json(folder / "game.tw-pddl", lambda game: game.pop("pddl_problem")),
    "no grammar": lambda folder: edit_json(folder / "game.tw-pddl", lambda game: game.pop("grammar")),
    "no task file": lambda folder: (folder / "traj_data.json").unlink(),
    "no task type": lambda folder: edit_json(folder / "traj_data.json", lambda task: task.pop("task_type")),
    "no scene": lambda folder: edit_json(folder / "traj_data.json", lambda task: task.pop("scene")),
    "odd parameters": lambda folder: edit_json(folder / "traj_data.json", lambda task: task.update(pddl_params=3)),
    "cut problem": lambda folder: edit_json(
        folder / "game.tw-pddl", lambda game: game.update(pddl_problem=cut(game["pddl_problem"]))
    ),
    "empty problem": lambda folder: edit_json(folder / "game.tw-pddl", lambda game: game.update(pddl_problem="")),
    "unknown object": lambda folder: edit_json(
        folder / "game.tw-pddl",
        lambda game: game.update(pddl_problem=game["pddl_problem"].replace("(:init", "(:init (opened nothing)")),
    ),
    "cut domain": lambda folder: edit_json(
        folder / "game.tw-pddl", lambda game: game.update(pddl_domain=cut(game["pddl_domain"]))
    ),
    "cut grammar": lambda folder: edit_json(
        folder / "game.tw-pddl", lambda game: game.update(grammar=cut(game["grammar"]))
    ),
    "no sentence": lambda folder: edit_json(
        folder / "game.tw-pddl", lambda game: game.update(grammar=game["grammar"].replace("Your task is to", ""))
    ),
    "unknown symbol": lambda folder: edit_json(
        folder / "game.tw-pddl", lambda game: game.update(grammar=game["grammar"].replace('"intro"', '"outro"'))
    ),
    "no agent": lambda folder: edit_json(
        folder / "game.tw-pddl",
        lambda game: game.update(pddl_problem=game["pddl_problem"].replace("(atLocation agent1", "(examined")),
    ),
    "another goal": lambda folder: edit_json(
        folder / "traj_data.json", lambda task: task["pddl_params"].update(object_target="Moon")
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_game_is_one_line_that_names_the_file(one_game, damage):
    DAMAGES[damage](one_game)
    with pytest.raises(GameError) as caught:
        env = HouseholdEnv(HouseholdOptions(games_dir=one_game.parents[1]), seed=0, episodes=1)
        env.reset()
    message = str(caught.value)
    assert str(one_game) in message and "\n" not in message and len(message) < 500


@pytest.mark.parametrize("damage", ["truncated", "no json object", "no task file", "no scene"])
def test_a_damaged_game_costs_its_own_episode(made, play, tmp_path, damage):
    folders = [tmp_path / "json_2.1.1" / path.parent.name for path in made["train"].paths[:3]]
    for path, folder in zip(made["train"].paths, folders, strict=False):
        shutil.copytree(path.parent, folder)
    whole = play(games_dir=tmp_path, episodes=3)
    before = [whole.reset(options={"episode": number})[0] for number in range(3)]
    DAMAGES[damage](folders[1])
    env, after = play(games_dir=tmp_path, episodes=3), []
    for number in range(3):
        try:
            after.append(env.reset(options={"episode": number})[0])
        except GameError as error:
            assert str(folders[1]) in str(error) and "\n" not in str(error)
            after.append(None)
    assert after.count(None) == 1 and [b for a, b in zip(after, before, strict=True) if a] == [a for a in after if a]


def test_an_unknown_floor_plan_is_an_error(one_game):
    edit_json(one_game / "traj_data.json", lambda task: task["scene"].update(scene_num=77))
    env = HouseholdEnv(HouseholdOptions(games_dir=one_game.parents[1]), seed=0, episodes=1)
    with pytest.raises(GameError, match="no floor plan 77"):
        env.reset()


def test_a_folder_of_games_plays_like_the_generated_ones(made, play, tmp_path):
    for path in made["train"].paths:
        # As published games have it: the old spelling of the cost, distances, and types that stand for themselves.
        folder = tmp_path / "json_2.1.1" / "train" / f"game-{path.parent.name}"
        shutil.copytree(path.parent, folder)
        edit_json(folder / "game.tw-pddl", lambda game: game.update(pddl_problem=_as_published(game["pddl_problem"])))
        edit_json(folder / "traj_data.json", lambda task: task.pop("erecap"))
    left_out = tmp_path / "json_2.1.1" / "train" / "pick_two_obj_and_place-AppleSliced"
    shutil.copytree(made["train"].paths[0].parent, left_out)
    unsolvable = tmp_path / "json_2.1.1" / "train" / "unsolvable"
    shutil.copytree(made["train"].paths[0].parent, unsolvable)
    edit_json(unsolvable / "game.tw-pddl", lambda game: game.update(solvable=False))

    generated, found = play(split="train"), play(games_dir=tmp_path)
    endings = {}
    for env in (generated, found):
        for episode in range(5):
            observation, info = env.reset(options={"episode": episode})
            story = [observation, info["expert_path_length"]]
            for command in info["expert_actions"]:
                story.append(env.step(command)[0])
            *_, last = env.step("look")
            endings.setdefault(json.dumps([last["goal"], story]), []).append(last["path_length"])
    assert len(endings) == 5 and all(len(lengths) == 2 for lengths in endings.values())

    with pytest.raises(ConfigError, match=r"has 5 playable games .* but 6 episodes"):
        play(games_dir=tmp_path, episodes=6)
    with pytest.raises(ConfigError, match="has 1 playable"):
        play(games_dir=tmp_path, task_types=["look_at_obj_in_light"])


def _as_published(problem: str) -> str:
    places = [line.split()[0] for line in problem.splitlines() if line.endswith("- location")]
    extra = f"(= (totalCost) 0)\n (= (distance {places[0]} {places[1]}) 12)"
    return problem.replace("(= (total-cost) 0)", extra).replace("(:objects", "(:objects\n  Candle - object")


def test_folders_without_games_are_told(tmp_path):
    with pytest.raises(GameError, match=r"no game\.tw-pddl below"):
        HouseholdEnv(HouseholdOptions(games_dir=tmp_path), seed=0, episodes=1)
    with pytest.raises(ConfigError, match="is not a folder"):
        HouseholdEnv(HouseholdOptions(games_dir=tmp_path / "none"), seed=0, episodes=1)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "textworld.envs.pddl", None)
    with pytest.raises(EnvironmentUnavailable, match=r"pip install 'erecap\[household\]'"):
        HouseholdEnv(HouseholdOptions(), seed=SEED, episodes=1)
