"""The reader of trajectories: its results, and its complaints."""

import json

import pytest

from erecap.errors import ConfigError
from erecap.training.collect.trajectories import FORMAT, read_meta, read_trajectories

CHAT = [
    {"role": "system", "content": "You plan."},
    {"role": "user", "content": "Goal: go"},
    {"role": "assistant", "content": "go left"},
    {"role": "user", "content": "> go left\nA wall."},
    {"role": "assistant", "content": "go right"},
    {"role": "user", "content": "> go right\nDone."},
]
ROW = {
    "suite": "s",
    "episode": 0,
    "seed": 3,
    "source": "perturbed",
    "goal": "go",
    "success": True,
    "steps": 2,
    "max_steps": 5,
    "messages": CHAT,
    "targets": [{"message": 2, "plan": "go right"}, {"message": 4, "plan": "go right"}],
}


@pytest.fixture
def folder(tmp_path):
    def write(*rows, end="\n", meta=None):
        (tmp_path / "meta.json").write_text(json.dumps(meta or {"format": FORMAT}))
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / "episodes.jsonl").write_text("\n".join(lines) + end if lines else "")
        return tmp_path

    return write


def test_rows_come_in_order_and_know_their_branches(folder):
    first, second = read_trajectories(folder(ROW, {**ROW, "episode": 1, "later": "a key of a later version"}))
    assert (first.episode, second.episode) == (0, 1)
    assert [first.is_branch(target) for target in first.targets] == [True, False]
    assert [message.model_dump() for message in first.messages] == CHAT


def test_rows_without_a_target_are_passed_over(folder):
    dropped = {**ROW, "messages": [], "targets": [], "error": "dropped: 9 tokens"}
    assert [row.episode for row in read_trajectories(folder(dropped, {**ROW, "episode": 7}))] == [7]
    with pytest.raises(ConfigError, match=r"episodes\.jsonl: no episode with a plan to learn from"):
        list(read_trajectories(folder(dropped)))


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("{oops", "Invalid JSON"),
        ({**ROW, "targets": [{"message": 3, "plan": "x"}]}, "target of message 3, which is no assistant message"),
        ({**ROW, "targets": [{"message": 6, "plan": "x"}]}, "target of message 6"),
        ({**ROW, "targets": ROW["targets"][::-1]}, "targets of messages 4 and 2 are out of order"),
        ({**ROW, "targets": [{"message": 2, "plan": ""}]}, "targets.0.plan: "),
        ({**ROW, "source": "oracle"}, "source: Input should be 'expert', 'perturbed' or 'planner'"),
        ({key: value for key, value in ROW.items() if key != "messages"}, "messages: Field required"),
        ({**ROW, "messages": [{"role": "robot", "content": ""}]}, "messages.0.role"),
    ],
)
def test_a_damaged_row_is_one_line_with_its_place(folder, row, complaint):
    with pytest.raises(ConfigError) as error:
        list(read_trajectories(folder(ROW, row, ROW)))
    assert f"episodes.jsonl:2: the row is damaged: {complaint}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_row_that_is_cut_short_is_told(folder):
    with pytest.raises(ConfigError, match=r"episodes\.jsonl:2: the row is cut short; the same `erecap collect`"):
        list(read_trajectories(folder(ROW, ROW, end="")))


def test_folders_of_something_else(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"holds no meta\.json, so no trajectories"):
        list(read_trajectories(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"format: got 'x'; allowed: 'erecap-trajectories-1'"):
        read_meta(folder(ROW, meta={"format": "x"}))
    with pytest.raises(ConfigError, match="no episode with a plan"):
        list(read_trajectories(folder()))
    (tmp_path / "episodes.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"episodes\.jsonl: cannot be read"):
        list(read_trajectories(tmp_path))
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(ConfigError, match=r"meta\.json: cannot be read"):
        read_meta(tmp_path)
