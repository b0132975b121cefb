"""The environment's contract, played on the engine."""

import random
import warnings

import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from erecap.envs.household.commands import names_in
from erecap.errors import ConfigError
from erecap.protocols import ExtraInfo, StepInfo

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("made")]


def walk(env, episode: int, steps: int, seed: int = 0) -> list[tuple]:
    """Play random admissible commands; returns all that was observed."""
    rng = random.Random(seed)
    turns = [env.reset(options={"episode": episode})]
    for _ in range(steps):
        observation, reward, terminated, _, info = env.step(rng.choice(turns[-1][-1]["skills"]))
        turns.append((observation, reward, terminated, info))
        if terminated:
            break
    return turns


def test_gymnasium_finds_nothing_to_complain_about(play):
    env = play(expert=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True)


def test_info_has_all_keys_at_reset_and_step(play):
    env = play()
    _, at_reset = env.reset(options={"episode": 2})
    *_, at_step = env.step("look")
    for info in (at_reset, at_step):
        assert set(info) == set(StepInfo.__annotations__) - set(ExtraInfo.__annotations__)
        assert info["path_unit"] == "m" and "help" not in info["skills"] and info["skills"] == sorted(info["skills"])
    assert "expert_actions" not in play(expert=False).reset()[1]


def test_the_goal_is_in_the_info_and_not_in_the_observation(play):
    observation, info = play().reset(options={"episode": 0})
    assert observation.startswith("You are in the middle of a room.") and "task" not in observation
    assert info["goal"].startswith("put ") and not info["goal"].endswith(".")


def test_the_same_commands_give_the_same_episode_whatever_was_played_before(play):
    first = walk(play(), 3, 25)
    other = play()
    walk(other, 1, 5, seed=9)
    assert walk(other, 3, 25) == first


@pytest.mark.parametrize(
    "command", ["", "jump", "go to moon 1", "take  mug", "öffne Kühlschrank 🧊", "look\nlook", "x" * 999]
)
def test_what_is_not_admissible_fails_and_changes_nothing(play, command):
    env = play()
    _, before = env.reset(options={"episode": 2})
    observation, reward, terminated, truncated, info = env.step(command)
    assert (observation, reward, terminated, truncated) == ("Nothing happens.", 0.0, False, False)
    assert info["failed"] and repr(command.strip()) in info["failure"]
    same = set(info) - {"failed", "failure"}
    assert {key: info[key] for key in same} == {key: before[key] for key in same}
    assert not env.step("look")[-1]["failed"]


def test_observe_again_changes_nothing(play):
    env, other = play(), play()
    env.reset(options={"episode": 3})
    target = other.reset(options={"episode": 3})[1]["expert_actions"][0]
    moved = env.step(target)
    other.step(target)
    again = env.observe_again()
    assert again == (moved[0], moved[-1]) and not again[1]["failed"] and again[1]["events"] == []
    assert env.step("look") == other.step("look")
    env.step("nonsense")
    assert not env.observe_again()[1]["failed"]


def test_entities_are_only_what_was_seen(play):
    env = play()
    text = ""
    for turn in walk(env, 4, 40, seed=4):
        observation, info = turn[0], turn[-1]
        text += " " + observation
        known = {name for names in info["entities"].values() for name in names}
        assert known == names_in(text)
        assert set(info["entities"]["container"]) <= set(info["entities"]["receptacle"])
    _, info = env.reset(options={"episode": 4})
    assert info["entities"]["object"] == [] and info["entities"]["receptacle"]


def test_every_skill_is_a_template_with_names_filled_in(play):
    env = play()
    for turn in walk(env, 2, 30, seed=1):
        info = turn[-1]
        filled = set(info["templates"])
        while any("{" in shape for shape in filled):
            filled = {
                shape.replace("{" + slot + "}", name, 1)
                for shape in filled
                for slot in [shape.partition("{")[2].partition("}")[0]] * ("{" in shape) or [""]
                for name in (info["entities"][slot] if slot else [""])
            }
        assert set(info["skills"]) <= filled


def test_the_subject_is_what_the_observation_shows(play):
    env = play()
    _, info = env.reset(options={"episode": 2})
    assert info["subject"] == ""
    shut = next(name for name in info["entities"]["container"] if name.startswith("cabinet"))
    assert env.step(f"go to {shut}")[-1]["subject"] == shut  # closed, and never seen open
    assert env.step("inventory")[-1]["subject"] == ""
    assert env.step(f"open {shut}")[-1]["subject"] == shut
    assert env.step(f"close {shut}")[-1]["subject"] == ""
    assert env.step(f"examine {shut}")[-1]["subject"] == ""  # what was seen inside is still the last word on it
    table = next(name for name in info["entities"]["receptacle"] if name not in info["entities"]["container"])
    assert env.step(f"go to {table}")[-1]["subject"] == table


def test_travel_adds_up_and_standing_still_is_free(play):
    env = play()
    _, info = env.reset(options={"episode": 0})
    assert info["path_length"] == 0
    first, second = info["entities"]["receptacle"][:2]
    there = env.step(f"go to {first}")[-1]["path_length"]
    assert env.step("look")[-1]["path_length"] == there
    farther = env.step(f"go to {second}")[-1]["path_length"]
    back = env.step(f"go to {first}")[-1]["path_length"]
    assert back - farther == pytest.approx(farther - there)


def test_misuse_is_told_clearly(play):
    env = play()
    with pytest.raises(ResetNeeded):
        env.step("look")
    with pytest.raises(ConfigError, match="episode: got 5; allowed: a whole number from 0 to 4"):
        env.reset(options={"episode": 5})
    with pytest.raises(ConfigError, match="episodes: got 0"):
        play(episodes=0)


def test_nothing_is_printed(play, capfd):
    walk(play(), 1, 5)
    assert capfd.readouterr() == ("", "")
