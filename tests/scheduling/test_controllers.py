"""Controllers learn a planted rule, repeat themselves with a seed, and do not explore when they are tested."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from erecap.errors import ConfigError, ModelError
from erecap.scheduling.actions import Action, make_actions, read_actions
from erecap.scheduling.checkpoint import CARD, POLICY, TrainedController, load_controller, save_controller
from erecap.scheduling.controllers import (
    METHODS,
    FixedController,
    Learner,
    LearnerSettings,
    RandomController,
    make_controller,
)
from erecap.scheduling.features import ControllerState, Normaliser, feature_names, features
from erecap.scheduling.hardware import Hardware
from erecap.scheduling.off_policy import Logged, off_policy
from erecap.scheduling.reward import RewardWeights, reward

STATES, ACTIONS = 3, 3
BASE = {"name": "tiny", "hash": "sha256:" + "0" * 64, "adapter": None}


def planted(state: np.ndarray, action: int) -> float:
    """Busy: the cheap action 2 is right. Quiet: the dense action 0 is."""
    busy = state[0] > 0
    return {0: -0.5 if busy else 1.0, 1: 0.2, 2: 0.8 if busy else 0.1}[action]


def states(count: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(count, STATES)).astype(np.float32)
    rows[:, 0] = draw.choice([-1.0, 1.0], size=count)
    return rows


def trained(method: str, seed: int = 0, steps: int = 700) -> Learner:
    learner = make_controller(method, STATES, ACTIONS, LearnerSettings(seed=seed, hidden=32, sync=50))
    learner.begin()
    for number, state in enumerate(states(steps, seed)):
        learner.progress(number / steps)
        learner.observe(state)
        learner.learn(planted(state, learner.decide(explore=True).action))
        if number % 5 == 4:
            learner.end()
            learner.begin()
    return learner


def value(learner: Learner) -> float:
    found = []
    for state in states(200, 99):
        learner.observe(state)
        found.append(planted(state, learner.decide().action))
    return statistics.fmean(found)


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_rule_is_learned_better_than_the_best_fixed_action(method: str) -> None:
    best = max(statistics.fmean(planted(state, action) for state in states(200, 99)) for action in range(ACTIONS))
    assert best < 0.6 < 0.85 < value(trained(method))


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_policy(method: str) -> None:
    first, second = (trained(method, seed=4, steps=120).tensors() for _ in range(2))
    assert all(bool((first[name] == second[name]).all()) for name in first)
    other = trained(method, seed=5, steps=120).tensors()
    assert any(bool((first[name] != other[name]).any()) for name in first)


@pytest.mark.parametrize("method", METHODS)
def test_exploration_is_off_in_a_test(method: str) -> None:
    learner = make_controller(method, STATES, ACTIONS, LearnerSettings())  # explores in every step, if it may
    state = states(1, 0)[0]
    learner.begin()
    learner.observe(state)
    found = {learner.decide().action for _ in range(40)}
    assert len(found) == 1 and learner.decide().probability == 1.0
    if method != "linucb":
        assert len({learner.decide(explore=True).action for _ in range(40)}) > 1
        assert learner.decide(explore=True).probability < 1.0


def test_deciding_and_testing_changes_nothing_that_was_learned() -> None:
    learner = trained("dqn", steps=60)
    before = learner.tensors()
    value(learner)
    assert all(bool((before[name] == tensor).all()) for name, tensor in learner.tensors().items())


def test_bootstrapping_counts_what_follows_and_a_bandit_does_not() -> None:
    """A reward of 1 in every step of an endless episode is worth 1 to a bandit, more to the other."""
    worth = {}
    for method in ("dqn", "bandit"):
        learner = make_controller(method, 1, 2, LearnerSettings(hidden=16, sync=20, gamma=0.5, lr=5e-3))
        learner.begin()
        for number in range(600):
            learner.progress(number / 600)
            learner.observe(np.ones(1))
            learner.decide(explore=True)
            learner.learn(1.0)
        worth[method] = max(learner.decide().values)
    assert worth["bandit"] == pytest.approx(1.0, abs=0.1) and worth["dqn"] == pytest.approx(2.0, abs=0.3)


def test_fixed_and_random() -> None:
    assert {FixedController(2).decide(explore=True).action for _ in range(5)} == {2}
    drawn = [RandomController(3, seed).decide().action for seed in range(30)]
    assert set(drawn) == {0, 1, 2} and RandomController(3).decide().probability == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"batch": 0}, "batch"), ({"gamma": 1.0}, "gamma"), ({"least_epsilon": 2.0}, "epsilon"), ({"lr": 0.0}, "lr")],
)
def test_settings_out_of_range_are_refused(change: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=f"learner: {said} is out of range"):
        LearnerSettings(**change)  # type: ignore[arg-type]


# Reward and off-policy estimates --------------------------------------------------------------------------


def test_the_reward_of_hand_cases() -> None:
    weights = RewardWeights(agreement=1.0, whole_plan=0.5, late=2.0, time=0.2, latest=1.5)
    assert reward(500, 1000, 1.0, True, weights) == pytest.approx(1.5 - 0.1)
    assert reward(1500, 1000, 0.9, False, weights) == pytest.approx(0.9 - 1.0 - 0.2)
    assert reward(9000, 1000, 1.0, True, weights) == pytest.approx(1.5 - 3.0 - 0.2)  # later counts no further
    with pytest.raises(ValueError, match="times must be finite and above 0"):
        reward(float("nan"), 1000, 1.0, True, weights)


def test_off_policy_estimates_of_a_hand_case() -> None:
    logged = [Logged(0, 1.0, 0.5), Logged(1, 0.0, 0.5), Logged(1, 2.0, 0.25), Logged(0, 3.0, 1.0)]
    predicted = np.array([[0.5, 0.1], [0.5, 0.1], [0.5, 1.5], [0.5, 0.1]])
    found = off_policy(logged, [0, 0, 1, 1], predicted)
    # The first and the third match, with weights 2 and 4.
    assert (found.n, found.matched) == (4, 2)
    assert found.ips == pytest.approx((2 * 1.0 + 4 * 2.0) / 4)
    assert found.snips == pytest.approx((2 * 1.0 + 4 * 2.0) / 6)
    assert found.direct == pytest.approx((0.5 + 0.5 + 1.5 + 0.1) / 4)
    assert found.doubly_robust == pytest.approx(found.direct + (2 * (1.0 - 0.5) + 4 * (2.0 - 1.5)) / 4)
    nothing = off_policy(logged[:1], [1], predicted[:1])
    assert nothing.snips is None and nothing.ips == 0
    with pytest.raises(ValueError, match="above 0 and at most 1, got 0"):
        off_policy([Logged(0, 1.0, 0.0)], [0], predicted[:1])


def test_a_true_reward_model_makes_the_doubly_robust_estimate_exact() -> None:
    draw = np.random.default_rng(1)
    truth = draw.normal(size=(50, 2))
    actions = draw.integers(2, size=50)
    logged = [Logged(int(a), float(row[a]), 0.5) for a, row in zip(actions, truth, strict=True)]
    found = off_policy(logged, [0] * 50, truth)
    assert found.doubly_robust == pytest.approx(truth[:, 0].mean())


# Actions and checkpoints ----------------------------------------------------------------------------------


def saved(folder: Path, method: str = "bandit") -> TrainedController:
    actions = make_actions({"dense": {}, "small": {"kv_tokens": 64}, "plain": {"draft": False}}, "here")
    names = [action.name for action in actions]
    settings = LearnerSettings(seed=3, hidden=16)
    learner = make_controller(method, len(feature_names(names)), 3, settings)
    rows = np.stack([features(ControllerState(n, 5, n, 0, 100.0), names) for n in range(10, 20)])
    made = TrainedController(
        learner, actions, Normaliser.of(rows), settings, (100.0,), BASE, fallback=2, reward={"late": 1.0}
    )
    save_controller(folder, made)
    return made


def test_the_same_controller_is_the_same_file(tmp_path: Path) -> None:
    found = set()
    for _ in range(8):
        saved(tmp_path)
        found.add((tmp_path / POLICY).read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_loaded_controller_decides_as_the_saved_one(method: str, tmp_path: Path) -> None:
    made, found = saved(tmp_path, method), load_controller(tmp_path)
    assert found.learner.method == method and found.actions == made.actions and found.settings == made.settings
    for tokens in (11, 15, 19):
        state = ControllerState(tokens, 5, tokens, 0, 100.0)
        assert found.decide(state) == made.decide(state) and found.decide(state).outside is None
    # Nothing was learned of such states, so the best fixed action is taken.
    busy = ControllerState(15, 5, 15, 0, 100.0, hardware=Hardware(cpu_others=0.4))
    assert found.decide(busy) == made.decide(busy) and found.decide(busy).outside == "cpu_others"
    assert found.decide(busy).action == 2


def rewritten(folder: Path, change: Callable[[dict], None]) -> None:
    """Change what a policy's file states, with the right SHA-256 beside it."""
    import hashlib

    from safetensors import safe_open
    from safetensors.torch import save

    with safe_open(folder / POLICY, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        stated = json.loads(file.metadata()["controller"])
    stated["tensors"] = tensors
    change(stated)
    tensors = stated.pop("tensors")
    content = save(tensors, {"controller": json.dumps(stated)})
    (folder / POLICY).write_bytes(content)
    card = json.loads((folder / CARD).read_text())
    card["files"][POLICY] = hashlib.sha256(content).hexdigest()
    (folder / CARD).write_text(json.dumps(card))


def narrow(stated: dict) -> None:
    stated["tensors"]["0.weight"] = stated["tensors"]["0.weight"][:, :4].contiguous()


def not_finite(stated: dict) -> None:
    stated["tensors"]["0.bias"][0] = float("nan")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (narrow, r"tensor 0.weight is \[16, 4\] torch.float32, the controller's is \[16, "),
        (not_finite, "tensor 0.bias holds values that are not finite"),
        (lambda s: s["tensors"].pop("2.bias"), "tensor 2.bias is missing"),
        (lambda s: s["features"].__setitem__(0, "mood"), "trained on other features: 'mood' where 'prompt_tokens'"),
        (lambda s: s["features"].pop(), "trained on other features: .*train it again"),
        (lambda s: s["mean"].pop(), "mean and deviation must have"),
        (lambda s: s.update(method="oracle"), "method: got 'oracle'; allowed: dqn, bandit, linucb"),
        (lambda s: s["learner"].update(hidden=10**9), "learner: hidden is out of range"),
        (lambda s: s["learner"].update(moods=1), "moods"),
        (lambda s: s.update(slo_ms=[0.0]), "slo_ms above 0"),
        (lambda s: s.update(fallback="fast"), "fallback: got 'fast'; allowed: dense, small, plain"),
        (lambda s: s.update(more=1), "more"),
        (lambda s: s.update(format="erecap-controller-0"), "format"),
    ],
)
def test_other_checkpoints_are_refused_in_one_line(change: Callable[[dict], None], said: str, tmp_path: Path) -> None:
    saved(tmp_path)
    rewritten(tmp_path, change)
    with pytest.raises(ModelError, match=said) as refused:
        load_controller(tmp_path)
    assert "\n" not in str(refused.value)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        load_controller(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"policy\.safetensors is missing"):
        load_controller(tmp_path)
    saved(tmp_path)
    whole = (tmp_path / POLICY).read_bytes()
    (tmp_path / POLICY).write_bytes(whole[:100])
    with pytest.raises(ModelError, match="is damaged"):
        load_controller(tmp_path)
    (tmp_path / POLICY).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"its SHA-256 is not the one in card\.json"):
        load_controller(tmp_path)
    (tmp_path / POLICY).write_bytes(whole)
    (tmp_path / CARD).write_text("[]")
    with pytest.raises(ModelError, match="not a controller"):
        load_controller(tmp_path)
    saved(tmp_path)
    rewritten(tmp_path, lambda stated: stated["actions"]["small"].update(mood=1))
    with pytest.raises(ConfigError, match="action small: unknown lever 'mood'; allowed: decode_weights, draft"):
        load_controller(tmp_path)


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ([], "allowed: 1 to 64 actions"),
        ({"a b": {}}, "action 'a b': allowed: letters"),
        ({"a": 3}, "action a: got 3; allowed: a mapping"),
        ({"a": {"kv_tokens": 3}}, "action a: kv_tokens: got 3; allowed: a whole number of tokens, at least 16"),
        ({"a": {"kv_tokens": True}}, "kv_tokens: got True"),
        ({"a": {"prefill_keep": 0}}, "prefill_keep: got 0; allowed: a share above 0"),
        ({"a": {"draft": 1}}, "draft: got 1; allowed: true or false"),
        ({"a": {"layers": ""}}, "layers: got ''"),
        ({"a": {"decode_weights": "int2"}}, "decode_weights: got 'int2'; allowed: same, int8, int4"),
        ({"a": {"layers": "x", "slices": "y"}}, "action a names layers and slices; allowed: one plan"),
        ({"a": {"draft": True}, "b": {"draft": True}}, "actions a and b have the same levers"),
    ],
)
def test_actions_that_cannot_be_meant(stated: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_actions(stated, "here")


def test_actions_of_files(tmp_path: Path) -> None:
    assert next(action.name for action in read_actions(None)) == "dense"
    path = tmp_path / "actions.yaml"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_actions(path)
    for text, said in (
        ("a: [", "not valid YAML"),
        ("a: {}\nb: {}\na: {kv_tokens: 64}\n", "line 3, column 1 not valid YAML: the key 'a' is written twice"),
        ("a: {kv_tokens: 2026-13-45}", "'2026-13-45' cannot be read as timestamp"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            read_actions(path)
    path.write_text("a: {}\nb: {kv_tokens: 64, draft: false}\n")
    assert read_actions(path) == (Action("a"), Action("b", {"kv_tokens": 64, "draft": False}))
