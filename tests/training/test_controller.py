"""Training a controller: prompts, tables, the world made of one, and its test beside the baselines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from erecap.errors import ConfigError, RunError
from erecap.language_models.opened import ModelSettings, open_model
from erecap.layers import Base, LayerPlan, save_plan
from erecap.models import fingerprint
from erecap.scheduling.actions import make_actions
from erecap.scheduling.checkpoint import load_controller
from erecap.scheduling.controllers import FixedController, LearnerSettings
from erecap.scheduling.reward import RewardWeights
from erecap.training.controller.loads import LoadGenerator
from erecap.training.controller.outputs import make_world
from erecap.training.controller.prompts import load_prompts
from erecap.training.controller.report import busy_words
from erecap.training.controller.run import train_controller
from erecap.training.controller.settings import MeasureSettings, TrainSettings
from erecap.training.controller.table import HEAD, ROWS, TableFolder, read_table
from erecap.training.controller.testing import judge_controller
from erecap.training.controller.train import best_fixed, by_prompt, mean_reward, paired, play, play_oracle
from erecap.training.controller.world import Call, TableWorld
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model
from tests.tokens.models import LAYERS
from tests.training import controller_tables as tables
from tests.training.chatworld import row

QUICK = TrainSettings(
    steps=600, passes=6, slo_ms=(125.0,), learner=LearnerSettings(hidden=32, batch=16, sync=50, seed=1)
)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def chats(conversations: int = 4, calls: int = 2) -> list[dict[str, Any]]:
    """Prompts of growing chats, as a JSONL file has them."""
    rows = []
    for number in range(conversations):
        chat = [
            {"role": "system", "content": "You plan for a robot."},
            {"role": "user", "content": f"Goal: cool the apple {number}.\nYou see a fridge 1 and a shelf 2."},
        ]
        for call in range(calls):
            plan = f"go to shelf {call}"
            rows.append({"messages": list(chat), "plan": plan, "conversation": f"c{number}"})
            seen = f"> {plan}\nOn the shelf {call} you see a mug {call * 7} and a plate 5."
            chat += [{"role": "assistant", "content": plan}, {"role": "user", "content": seen}]
    return rows


# Prompts --------------------------------------------------------------------------------------------------


def test_prompts_are_split_by_conversation_and_by_seed(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "p.jsonl", chats(10, 2))
    first = load_prompts([source], seed=1)
    assert (len(first.train), len(first.held_out)) == (16, 4)
    assert not {one.conversation for one in first.train} & {one.conversation for one in first.held_out}
    assert load_prompts([source], seed=1) == first
    others = [load_prompts([source], seed=seed) for seed in range(2, 6)]
    assert any(one.held_out != first.held_out for one in others) and all(one.digest != first.digest for one in others)
    assert first.all[0].history == list(first.all[0].messages[:-1])
    few = load_prompts([source], seed=1, limit=6, each=1)
    assert len(few.all) == 6 and all(one.messages[-1]["content"].startswith(">") for one in few.all)  # the last calls


def test_prompts_of_csv_files(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('prompt,plan,system\n"Where,\nnow?",look,Plan.\nAnd now?,go to shelf 1,\n')
    found = load_prompts([path], held_out=0.5)
    by_plan = {one.plan: one for one in found.all}
    assert [m["role"] for m in by_plan["look"].messages] == ["system", "user"]
    assert by_plan["look"].messages[1]["content"] == "Where,\nnow?" and len(by_plan["go to shelf 1"].messages) == 1


def test_prompts_of_recorded_calls_protect_what_a_run_protects(tmp_path: Path) -> None:
    folder = tmp_path / "calls"
    folder.mkdir()
    (folder / "meta.json").write_text(json.dumps({"format": "erecap-trajectories-1"}))
    write_jsonl(folder / "episodes.jsonl", [row(number) for number in range(3)])
    found = load_prompts([folder], held_out=0.3)
    assert len(found.all) == 6 and {len(one.messages) for one in found.all} == {2, 4}
    later = next(one for one in found.all if len(one.messages) == 4)
    goal = later.messages[1]["content"]
    protect = [m["protect"] for m in later.messages]
    assert protect == [[(0, 5)], [(0, len(goal))], [(0, len(later.messages[2]["content"]))], [(0, 19)]]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.txt", "x", "allowed: a file .csv or .jsonl, or a folder of `erecap collect`"),
        ("p.csv", "prompt\nx\n", "column plan is missing"),
        ("p.csv", "prompt,plan\n", "holds no prompt"),
        ("p.csv", "prompt,plan\nx,\n", "p.csv:2: has no plan; a reference plan is needed"),
        ("p.jsonl", "{", "p.jsonl:1: no JSON"),
        ("p.jsonl", "[]\n", "p.jsonl:1: got list"),
        ("p.jsonl", '{"plan": "a"}\n', "has neither prompt nor messages"),
        ("p.jsonl", '{"plan": "a", "messages": [{"role": "user"}]}\n', "messages: allowed: objects with role"),
        ("p.jsonl", '{"plan": "a", "messages": []}\n', "messages: allowed"),
        ("p.jsonl", '{"plan": "a", "prompt": "b"}\n', "got 1 conversations; allowed: 2 or more"),
    ],
)
def test_prompts_that_cannot_be_used(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=said) as refused:
        load_prompts([tmp_path / name])
    assert "\n" not in str(refused.value)


# The world of a table ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TableWorld:
    return make_world(tables.write_table(tmp_path_factory.mktemp("table")), QUICK)


def test_a_switch_costs_what_was_measured_for_it(tmp_path: Path) -> None:
    table = tables.write_table(tmp_path, conversations=2, calls=1, tested=1)
    world = TableWorld(table, make_actions(tables.ACTIONS, "t"), (125.0,), RewardWeights())
    dense, small, thin = range(3)
    call = Call("c0:0", "idle", 125.0)
    cells = table.times["c0:0", "idle"].cells
    assert world.outcome(call, None, small).latency_ms == cells["small"].call_ms  # opens the session
    assert world.outcome(call, small, small).switch_ms == 0
    assert world.outcome(call, dense, small).switch_ms == 5.0  # an open session is changed
    assert world.outcome(call, dense, thin).switch_ms == 405.0  # another model's keys: all is read again
    assert world.outcome(call, small, dense).switch_ms == 405.0  # what was evicted does not come back by itself
    assert world.outcome(call, dense, thin).reward < world.outcome(call, thin, thin).reward
    # 64 tokens are stored of the 160 that were read; of 60, all were.
    opening = world.state(call, None)
    assert (opening.new_tokens, opening.stored_tokens, opening.plan_loss) == (opening.prompt_tokens, 0, None)
    assert world.state(call, small).stored_tokens == 64 and world.state(call, small).evicted_tokens == 96
    short = TableFolder(tmp_path, dict(table.head) | {"format": table.head["format"]})
    short.add(tables.prompt_row("c0:0", "c0", False, tokens=100))
    again = TableWorld(read_table(tmp_path), world.actions, (125.0,), RewardWeights())
    assert again.outcome(call, small, dense).switch_ms == 5.0


def test_the_oracle_is_no_worse_than_any_sequence_of_actions(world: TableWorld) -> None:
    from itertools import product

    calls = world.schedules(True, 0.5, 1, 3)[0]

    def total(actions: tuple[int, ...] | list[int]) -> float:
        before = [None, *actions[:-1]]
        return sum(world.outcome(*one).reward for one in zip(calls, before, actions, strict=True))

    assert total(world.best(calls)) == pytest.approx(max(map(total, product(range(3), repeat=len(calls)))))


def test_schedules_change_loads_and_repeat_with_a_seed(world: TableWorld) -> None:
    schedules = world.schedules(False, 0.5, 4, 1)
    assert schedules == world.schedules(False, 0.5, 4, 1) != world.schedules(False, 0.5, 4, 2)
    assert any(len({call.load for call in calls}) == 2 for calls in schedules)
    assert all(len({call.load for call in calls}) == 1 for calls in world.schedules(False, 1.0, 4, 1))
    names = {call.prompt for calls in schedules for call in calls}
    assert names == {name for name, one in world.table.prompts.items() if not one.held_out}


def test_the_paired_difference_is_by_prompt(world: TableWorld) -> None:
    schedules = world.schedules(True, 0.5, 3, 1)
    dense, small = (play(world, schedules, FixedController(action)) for action in (0, 1))
    found = paired(small, dense, 0)
    ours, theirs = by_prompt(small), by_prompt(dense)
    assert found.value == pytest.approx(sum(ours[p] - theirs[p] for p in ours) / len(ours))
    assert found.low <= found.value <= found.high and paired(dense, dense, 0).high == 0.0
    assert mean_reward(play_oracle(world, schedules)) >= max(mean_reward(dense), mean_reward(small))


def test_a_planted_rule_is_learned_and_beats_the_best_fixed_action(tmp_path: Path) -> None:
    tables.write_table(tmp_path / "table")
    done = train_controller(None, QUICK, tmp_path / "out", table=tmp_path / "table")
    assert done.test["beats_best_fixed"] and done.test["minus"]["best fixed"]["low"] > 0
    gains, most = done.test["minus"]["best fixed"]["value"], done.test["bound"]["value"]
    assert gains <= most == pytest.approx(gains - done.test["minus"]["oracle"]["value"], abs=2e-4)
    assert done.test["minus"]["without hardware"]["value"] > 0 >= done.test["minus"]["oracle"]["value"]
    result = json.loads((done.folder / "result.json").read_text())
    assert result["test"]["outside"] < 0.2
    use = result["figures"]["controller"]["use"]
    assert use["idle"]["dense"] > 0.5 > use["busy"]["dense"] and use["busy"]["small"] > 0.5
    assert {"dqn", "linucb", "random", "oracle", "fixed thin"} <= result["figures"].keys()
    estimate = result["test"]["off_policy"]
    assert estimate["doubly_robust"] == pytest.approx(result["test"]["off_policy_truth"], abs=0.5)
    for name in ("reward", "actions", "latency"):
        assert (done.folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    report = (done.folder / "report.md").read_text()
    assert "**The controller beats the best fixed action.**" in report and "fewer than 100: a smoke test" in report
    assert "of the processor." in report and "This machine was busy" not in report
    episodes = [json.loads(line) for line in (done.folder / "episodes.jsonl").read_text().splitlines()]
    assert {one["policy"] for one in episodes} == result["figures"].keys()
    ours = [one for one in episodes if one["policy"] == "controller"]
    assert len(ours) == done.test["episodes"] == 18 and all(len(one["steps"]) == 4 for one in ours)
    # The same again, in the next folder, and the test alone.
    again = train_controller(None, QUICK, tmp_path / "out", table=tmp_path / "table")
    assert (done.folder.name, again.folder.name) == ("001", "002")
    assert (again.folder / "policy.safetensors").read_bytes() == (done.folder / "policy.safetensors").read_bytes()
    trained = load_controller(done.folder)
    judged = judge_controller(trained, tmp_path / "table", tmp_path / "judged", passes=6, seed=1)
    assert judged.test["minus"]["best fixed"] == done.test["minus"]["best fixed"]
    with pytest.raises(ConfigError, match="holds a result already"):
        judge_controller(trained, tmp_path / "table", tmp_path / "judged")


def test_a_test_on_another_table_is_refused(tmp_path: Path) -> None:
    tables.write_table(tmp_path / "table")
    small = TrainSettings(method="linucb", steps=20, passes=1, slo_ms=(125.0,), learner=LearnerSettings(hidden=4))
    done = train_controller(None, small, tmp_path / "out", table=tmp_path / "table")
    trained, head = load_controller(done.folder), tmp_path / "table" / HEAD
    stated = json.loads(head.read_text())
    head.write_text(json.dumps({**stated, "base": {**tables.BASE, "adapter": "sha256:1"}}))
    with pytest.raises(RunError, match="measured on another model"):
        judge_controller(trained, tmp_path / "table", tmp_path / "judged")
    head.write_text(json.dumps({**stated, "actions": {"dense": {}}}))
    with pytest.raises(RunError, match=r"has other actions than table\.json"):
        judge_controller(trained, tmp_path / "table", tmp_path / "judged")


def test_the_usual_slo_is_that_of_quiet_calls_without_a_lever(tmp_path: Path) -> None:
    table = tables.write_table(tmp_path)
    world = make_world(table, TrainSettings(slo_factor=2.0))
    quiet = sorted(
        one.cells["dense"].call_ms for (name, load), one in table.times.items()
        if load == "idle" and not table.prompts[name].held_out
    )  # fmt: skip
    assert world.slo_ms[0] == pytest.approx(quiet[len(quiet) // 2] + quiet[(len(quiet) - 1) // 2], abs=0.1)
    assert best_fixed(world, world.schedules(False, 0.7, 2, 0)) in range(3)


# Files of a table -------------------------------------------------------------------------------------------


def test_damaged_tables_are_refused_in_one_line(tmp_path: Path) -> None:
    table = tables.write_table(tmp_path, 2, 1, 1)
    path, whole = tmp_path / ROWS, (tmp_path / ROWS).read_text()
    with pytest.raises(RunError, match="measured with another loads"):
        TableFolder(tmp_path, {**table.head, "loads": ["idle"]})
    path.write_text(whole.rsplit("\n", 2)[0] + "\n")
    with pytest.raises(RunError, match="not measured to its end; the same command goes on"):
        read_table(tmp_path)
    path.write_text(whole.replace('"call_ms":', '"call":', 1).replace('"call_ms": ', '"call": ', 1))
    with pytest.raises(RunError, match=rf"{ROWS}:\d+: cells.dense.call"):
        read_table(tmp_path)
    (tmp_path / HEAD).write_text("{}")
    with pytest.raises(RunError, match="not the head of a controller's table"):
        read_table(tmp_path)


def test_a_busy_machine_is_said(tmp_path: Path) -> None:
    table = tables.write_table(tmp_path, 2, 1, 1)
    quiet = busy_words(table)
    assert quiet.startswith("Other programs took 1") and quiet.endswith("(busy) of the processor.")
    loud = {
        key: one.model_copy(update={"hardware": {**one.hardware, "cpu_others": 0.9}})
        for key, one in table.times.items()
    }
    assert "90% (idle), 90% (busy)" in busy_words(replace(table, times=loud))
    assert "This machine was busy beside it" in busy_words(replace(table, times=loud))
    mute = {
        key: one.model_copy(update={"hardware": {**one.hardware, "cpu_others": None}})
        for key, one in table.times.items()
    }
    assert "does not tell" in busy_words(replace(table, times=mute))


def test_a_row_that_was_cut_short_is_measured_again(tmp_path: Path) -> None:
    table = tables.write_table(tmp_path, 2, 1, 1)
    path = tmp_path / ROWS
    path.write_bytes(path.read_bytes()[:-30])
    found = TableFolder(tmp_path, dict(table.head))
    assert len(found.times) == 3 and len(found.prompts) == 2
    assert path.read_bytes().endswith(b"\n")


def test_loads_take_the_processor_and_memory_and_end_with_the_block() -> None:
    with LoadGenerator(threads=1, memory_mb=64) as loads:
        with loads.under("idle"), loads.under("memory"):
            pass
        with pytest.raises(ConfigError, match="got 'storm'; allowed: idle, busy, memory"), loads.under("storm"):
            pass


# With a model -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a layer plan for it, prompts and actions."""
    folder = tmp_path_factory.mktemp("tiny")
    model("llama", 2048).save_pretrained(folder / "model")
    byte_level().save_pretrained(folder / "model")
    save_plan(folder / "thin", LayerPlan(LAYERS, blocks=(2, 5), base=Base("tiny", fingerprint(folder / "model"))))
    write_jsonl(folder / "p.jsonl", chats(2, 2))
    (folder / "actions.yaml").write_text(
        f"dense: {{}}\nsmall: {{kv_tokens: 96}}\nplain: {{draft: false}}\nthin: {{layers: {folder / 'thin'}}}\n"
    )
    return folder


def measure(tiny: Path, **changes: Any) -> MeasureSettings:
    values: dict[str, Any] = {"data": (tiny / "p.jsonl",), "actions": tiny / "actions.yaml", "loads": ("idle",)}
    return MeasureSettings(**{**values, "held_out": 0.5, **changes})


def test_a_table_is_measured_by_the_sessions_of_a_run(tiny: Path, tmp_path: Path) -> None:
    settings = ModelSettings(str(tiny / "model"), dtype="float32", device="cpu")
    small = TrainSettings(method="linucb", steps=40, passes=1, learner=LearnerSettings(hidden=4))
    done = train_controller(measure(tiny), small, tmp_path / "out", model=settings)
    table = read_table(done.folder)
    assert len(table.prompts) == 4 and len(table.times) == 4
    for one in table.prompts.values():
        assert one.agreement["dense"] == one.agreement["plain"] and one.agreement["dense"].whole  # drafts are lossless
        assert (one.plan_loss is None) == (one.prompt.endswith(":1") or one.prompt.endswith(":3"))
    assert any(not one.agreement["thin"].whole for one in table.prompts.values())
    # Measured in a drawn order, and read in that of the sources.
    written = [json.loads(line)["number"] for line in (done.folder / ROWS).read_text().splitlines() if "number" in line]
    assert sorted(written) == [0, 1, 2, 3] != written
    assert [one.number for one in table.prompts.values()] == [0, 1, 2, 3]
    trained = load_controller(done.folder)
    assert trained.base["hash"] == fingerprint(tiny / "model") and set(trained.folders) == {"thin/layers"}
    # Left half-way it goes on in the same folder; rows that are there are not measured again.
    rows = (done.folder / ROWS).read_text().splitlines(keepends=True)
    (done.folder / ROWS).write_text("".join(rows[:5]) + rows[5][:20])
    (done.folder / "result.json").unlink()
    again = train_controller(measure(tiny), small, tmp_path / "out", model=settings)
    after = (again.folder / ROWS).read_text().splitlines(keepends=True)
    assert again.folder == done.folder and after[:5] == rows[:5] and len(after) == len(rows) == 8
    # Finished, or with other settings, it is another run.
    assert train_controller(measure(tiny, each=1), small, tmp_path / "out", model=settings).folder.name == "002"


def test_what_no_action_can_have_is_said_before_anything_is_measured(tiny: Path, tmp_path: Path) -> None:
    settings = ModelSettings(str(tiny / "model"), dtype="float32", device="cpu")
    for text, said in (
        ("dense: {}\n", "got 1; allowed: two or more"),
        ("dense: {}\nthin: {layers: nowhere}\n", "layer plan nowhere: no such folder"),
        ("dense: {}\nsmall: {kv_tokens: 16}\n", "action small: prompt .* cannot have it: system, goal and format take"),
    ):
        (tmp_path / "actions.yaml").write_text(text)
        with pytest.raises(ConfigError, match=said):
            train_controller(
                measure(tiny, actions=tmp_path / "actions.yaml"), QUICK, tmp_path / "out", model=settings,
            )  # fmt: skip
    with pytest.raises(ConfigError, match="got neither prompts nor a table"):
        train_controller(None, QUICK, tmp_path / "out")


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("early: {exit: {layer: 8}}", "action early: exit: layer is 8; allowed: 1 to 7 of this model"),
        ("early: {exit: /nope}", "action early: exit predictor /nope: no such folder"),
        ("thin: {layers: /nope}", "action thin: layer plan /nope: no such folder"),
    ],
)
def test_an_action_that_the_model_cannot_have_is_named_before_a_folder_is_made(
    tiny: Path, tmp_path: Path, action: str, said: str
) -> None:
    settings = ModelSettings(str(tiny / "model"), dtype="float32", device="cpu")
    path = tmp_path / "act.yaml"
    path.write_text(f"dense: {{}}\n{action}\n")
    with pytest.raises(ConfigError) as refused:
        train_controller(measure(tiny, actions=path), QUICK, tmp_path / "out", model=settings)
    assert str(refused.value).startswith(f"{path}: {said}") and "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


KILLED = """
import sys
from pathlib import Path
from erecap.language_models.opened import ModelSettings
from erecap.training.controller.run import train_controller
from erecap.training.controller.settings import MeasureSettings, TrainSettings
tiny, out = map(Path, sys.argv[1:])
settings = MeasureSettings((tiny / "p.jsonl",), actions=tiny / "actions.yaml", loads=("idle",), held_out=0.5)
train_controller(settings, TrainSettings(), out, model=ModelSettings(str(tiny / "model"), dtype="float32"), say=print)
"""


def test_a_killed_measurement_goes_on_with_whole_rows(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tiny), str(out)], cwd=Path(__file__).parents[2]) as child:
        rows = out / "001" / ROWS
        deadline = time.monotonic() + 120
        while not (rows.exists() and rows.read_bytes().count(b"\n") >= 2):
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
    before = rows.read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    settings = ModelSettings(str(tiny / "model"), dtype="float32", device="cpu")
    small = TrainSettings(method="linucb", steps=20, passes=1, learner=LearnerSettings(hidden=4))
    done = train_controller(measure(tiny), small, out, model=settings)
    assert done.folder.name == "001" and rows.read_bytes().startswith(before)
    assert len(read_table(done.folder).times) == 4
    assert open_model(settings).fingerprint == load_controller(done.folder).base["hash"]
