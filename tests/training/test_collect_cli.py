"""`erecap collect` as a person calls it: the final table, going on, and one-line errors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "rollout"))
from tinyworld import ENTRY

from erecap.envs import ENVIRONMENTS
from erecap.errors import ConfigError, ModelError
from erecap.training.collect.acting_model import describe_planner, planner_config
from erecap.training.collect.trajectories import read_meta, read_trajectories

SUITE = {"name": "corridor", "env": "tiny", "episodes": 2, "seed": 5, "horizon": 9}


@pytest.fixture(scope="module", autouse=True)
def tiny_environment():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENTS, "tiny", ENTRY)
        yield


@pytest.fixture
def collect(erecap, tmp_path):
    """Calls `erecap collect` in a folder with a suite; returns exit code, stdout, stderr."""
    (tmp_path / "corridor.yaml").write_text(yaml.safe_dump(SUITE))
    return lambda *arguments: erecap("collect", *arguments)


def test_collect_and_collect_again(collect):
    arguments = ("./corridor.yaml", "--out", "data", "--episodes", 6, "--perturb", 0.5, "--seed", 4)
    code, out, err = collect(*arguments)
    assert code == 0 and "data: 6 episodes" in out and "6/6 episodes | done | won" in err
    words = out.split("\n")[0].split()
    assert words[:3] == ["suite", "acted", "episodes"] and "…" not in out
    assert {line.split()[1] for line in out.split("\n") if line.startswith("corridor")} == {"expert", "perturbed"}
    assert len(list(read_trajectories(Path("data")))) == 6
    assert read_meta(Path("data"))["options"]["perturb"] == 0.5
    again = collect(*arguments)
    assert again[:2] == (code, out) and "finished already, all 6 episodes are there" in again[2]


def test_bad_input_is_one_line(collect):
    def complaint(*arguments):
        code, out, err = collect(*arguments)
        assert code in (1, 2) and out == "" and err.count("\n") == 1 and err.startswith("error: ")
        return err

    rest = ("--out", "data", "--episodes", 2)
    assert "nowhere" in complaint("nowhere", *rest)
    assert "two suites have the same name" in complaint("./corridor.yaml", "./corridor.yaml", *rest)
    assert "batch: got 2 with no planner" in complaint("./corridor.yaml", *rest, "--batch", 2)
    assert "batch: got 2 with 3 workers" in complaint("./corridor.yaml", *rest, "--batch", 2, "--workers", 3)
    assert "beta: says how often" in complaint("./corridor.yaml", *rest, "--beta", 0.5)
    assert "max_tokens: tokens are counted" in complaint("./corridor.yaml", *rest, "--max-tokens", 5)
    assert "no model 'no/such'" in complaint("./corridor.yaml", *rest, "--planner", "./no/such").replace("./", "")
    assert not Path("data").exists()
    Path("data").mkdir()
    Path("data/notes.txt").write_text("mine")
    assert "holds 'notes.txt' but no meta.json" in complaint("./corridor.yaml", *rest)


def test_out_and_episodes_must_be_said(collect):
    assert collect("./corridor.yaml", "--episodes", 2)[0] == 2
    assert collect("./corridor.yaml", "--out", "data")[0] == 2
    assert collect("./corridor.yaml", "--out", "data", "--episodes", 0)[0] == 2


def test_a_planner_is_a_run_an_adapter_or_a_model(tmp_path):
    assert planner_config("smoke").model == "smollm2-135m-instruct"
    run = {"name": "r", "suites": ["babyai-demo"], "modes": ["full"], "dtype": "float32", "planner": {"period": 3}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(run))
    described = describe_planner(planner_config(str(tmp_path / "r.yaml")))
    assert described["dtype"] == "float32" and described["period"] == 3 and "name" not in described
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**run, "layers": "half"}))
    assert describe_planner(planner_config(str(tmp_path / "r.yaml")))["layers"] == "half" and "layers" not in described
    model = tmp_path / "model"
    model.mkdir()
    assert planner_config(str(model)).model == str(model)
    with pytest.raises(ModelError, match="no model 'nothing-of-this-name'"):
        planner_config("nothing-of-this-name")


def test_an_adapter_names_its_base(tmp_path):
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    card = {"base": {"name": "smollm2-135m-instruct"}, "files": {"adapter_model.safetensors": "abc"}}
    (folder / "card.json").write_text(json.dumps(card))
    config = planner_config(str(folder))
    assert (config.model, config.adapter) == ("smollm2-135m-instruct", str(folder))
    assert describe_planner(config)["adapter_sha256"] == "abc"
    (folder / "card.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"card\.json: base\.name: missing"):
        planner_config(str(folder))


def test_with_the_expert_no_model_library_is_loaded(tmp_path):
    (tmp_path / "corridor.yaml").write_text(yaml.safe_dump(SUITE))
    rollout = Path(__file__).parents[1] / "rollout"
    code = (
        f"import sys; sys.path.insert(0, {str(rollout)!r}); from tinyworld import ENTRY\n"
        "from erecap.envs import ENVIRONMENTS; ENVIRONMENTS['tiny'] = ENTRY\n"
        "from erecap.cli import main; sys.argv = 'erecap collect ./corridor.yaml --out data --episodes 2'.split()\n"
        "try: main.main()\n"
        "finally: print('loaded', sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "data: 2 episodes" in done.stdout and "loaded []" in done.stdout, done.stderr
