"""`erecap profile`, and models whose window was stretched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from erecap.bench.profile.calls import learned_by
from erecap.bench.profile.settings import Profile
from erecap.bench.profile.stretched import stretched_folder
from erecap.bench.replan.calls import kept_by
from erecap.cli.main import app
from erecap.config.modes import parse_mode
from erecap.errors import ConfigError, ModelError, RunError
from erecap.models import fingerprint, load
from erecap.tokens.scoring.pruner_files import save_pruner
from tests.bench.test_commands import folder  # noqa: F401 - the tiny model as a fixture
from tests.tokens.models import random_pruner

SMALL = ("--repetitions", "1", "--threads", "1")


def profile(*arguments: str) -> str:
    """The output of the command; its error is raised."""
    done = CliRunner().invoke(app, ["profile", *arguments], catch_exceptions=False, standalone_mode=False)
    return done.output


def test_a_stretched_window_divides_positions(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    longer = stretched_folder(str(folder), 16384, tmp_path)
    assert stretched_folder(str(folder), 16384, tmp_path) == longer  # made once
    whole, _ = load(str(folder), "float32", "cpu")
    stretched, _ = load(str(longer), "float32", "cpu")
    assert stretched.config.max_position_embeddings == 16384 == 4 * whole.config.max_position_embeddings
    ids = torch.randint(5, 200, (1, 12), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        # Every fourth position of the stretched model has the angles of one of the model's own.
        ours = stretched(input_ids=ids, position_ids=4 * torch.arange(12)[None]).logits
        theirs = whole(input_ids=ids).logits
        plain = stretched(input_ids=ids).logits
    assert torch.allclose(ours, theirs, atol=1e-4) and not torch.allclose(plain, theirs, atol=1e-2)
    elsewhere = tmp_path / "elsewhere" / folder.name
    shutil.copytree(folder, elsewhere)
    other = stretched_folder(str(elsewhere), 16384, tmp_path)  # of the same name: it has its own weights
    assert other != longer and (other / "model.safetensors").resolve().parent == elsewhere.resolve()
    with pytest.raises(ConfigError, match="--window: got 4096, the model's own is 4096; allowed: a longer one"):
        stretched_folder(str(folder), 4096, tmp_path)
    with pytest.raises(ConfigError, match="has rotary embeddings of its own kind"):
        stretched_folder(str(longer), 65536, tmp_path)


def test_the_command_writes_everything(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("alfworld")
    files = [str(tmp_path / name) for name in ("part.json", "table.md", "plots", "profile.json")]
    said = profile(
        "prefill", str(folder), "--lengths", "600,900", "--presets", "keep07", "--modes", "full,prune[random],erecap",
        "--kv-tokens", "400", "--window", "8192", "--folder", str(tmp_path / "rows"), *SMALL,
        "--out", files[0], "--markdown", files[1], "--plots", files[2], "--results", files[3],
    )  # fmt: skip
    assert "stretched from 4,096" in " ".join(said.split()) and "900" in said
    part = json.loads(Path(files[0]).read_text())
    assert part["model"] == {"name": "tiny", "dtype": part["model"]["dtype"], "window": 8192, "own_window": 4096}
    assert str(folder) not in Path(files[0]).read_text() + Path(files[3]).read_text()  # the path is private
    assert "| 900 | `prune[random]` | keep07 |" in Path(files[1]).read_text()
    key = "prefill-tiny-8192"
    assert sorted(path.name for path in Path(files[2]).iterdir()) == [f"profile-{key}-heat.svg", f"profile-{key}.svg"]
    assert list(json.loads(Path(files[3]).read_text())["parts"]) == [key]


def test_a_trained_pruner_ranks_prefills_and_sessions(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("alfworld")
    test = {"rankers": {"learned": {"kl": 0.1}, "random": {"kl": 0.2}}}
    save_pruner(tmp_path / "mine", random_pruner(), {"base": {"hash": fingerprint(folder)}, "test": test})
    out = tmp_path / "part.json"
    options = ("--lengths", "600", "--presets", "keep07", "--kv-tokens", "400", "--folder", str(tmp_path), *SMALL)
    modes = ("--modes", "full,prune[learned],prune[recency],erecap")
    profile("prefill", str(folder), *options, *modes, "--pruner", str(tmp_path / "mine"), "--out", str(out))
    cells = {cell["mode"]: cell for cell in json.loads(out.read_text())["summary"]["cells"]}
    assert cells["prune[learned]"]["mean_kept"] == cells["prune[recency]"]["mean_kept"] < cells["full"]["mean_kept"]
    assert (tmp_path / "prefill-tiny-mine-4096.jsonl").exists()
    tiny, _ = load(str(folder), "float32", "cpu")
    settings = Profile("prefill", pruner=str(tmp_path / "mine"))
    assert kept_by(parse_mode("erecap"), 400, 0, learned_by(settings, tiny))["evict_by"].layer == 6
    assert kept_by(parse_mode("recency"), 400, 0, learned_by(settings, tiny))["evict_by"] == "recency"
    save_pruner(tmp_path / "other", random_pruner(), {"base": {"hash": "sha256:other"}, "test": test})
    with pytest.raises(ModelError, match="the pruner was trained for"):
        learned_by(Profile("prefill", pruner=str(tmp_path / "other")), tiny)


def test_bad_options_give_one_line(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    rows = ("--folder", str(tmp_path))
    for arguments, message in (
        (("--lengths", "many"), "--lengths: got 'many'"),
        (("--lengths", "8192"), "8,192 tokens exceed the model's window of 4,096; --window 8192"),
        (("--window", "1024"), "--window: got 1024, the model's own is 4096"),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            profile("end2end", str(folder), *arguments, *rows)
        assert "\n" not in str(error.value)


@pytest.mark.integration  # for the seconds that a process takes to import torch
def test_memory_of_a_replanning_call(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("alfworld")
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak is read from /proc")
    out = tmp_path / "memory.json"
    profile(
        "memory", str(folder), "--of", "end2end", "--lengths", "800", "--modes", "erecap", "--kv-tokens", "400",
        "--folder", str(tmp_path), *SMALL, "--out", str(out),
    )  # fmt: skip
    part = json.loads(out.read_text())
    [cell] = part["summary"]["cells"]
    assert 0 < cell["peak_bytes"]["cpu"] < 1e9 and part["settings"]["of"] == "end2end"
    assert (tmp_path / "memory-end2end-tiny-4096.jsonl").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_peak_on_a_gpu_is_what_torch_allocated(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("alfworld")
    out = tmp_path / "memory.json"
    more = ("--modes", "full,erecap", "--kv-tokens", "400", "--folder", str(tmp_path), *SMALL, "--out", str(out))
    profile("memory", str(folder), "--lengths", "4000", *more)
    cells = json.loads(out.read_text())["summary"]["cells"]
    assert [list(cell["peak_bytes"]) for cell in cells] == [["cuda:0"], ["cuda:0"]]
    assert 0 < cells[1]["peak_bytes"]["cuda:0"] < cells[0]["peak_bytes"]["cuda:0"]


@pytest.mark.slow  # two processes, and the simulator walks 4,000 tokens
def test_the_peak_of_reading_is_lower_where_tokens_are_evicted(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("alfworld")
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak is read from /proc")
    out = tmp_path / "memory.json"
    more = ("--kv-tokens", "400", "--folder", str(tmp_path), "--dtype", "float32", *SMALL, "--out", str(out))
    profile("memory", str(folder), "--lengths", "4000", "--modes", "full,erecap", *more)
    cells = json.loads(out.read_text())["summary"]["cells"]
    assert [cell["mode"] for cell in cells] == ["full", "erecap"]
    assert all(0 < cell["peak_bytes"]["cpu"] < 1e9 for cell in cells)
    assert cells[1]["of_full"] < 1  # it stores a tenth, and reads in chunks


@pytest.mark.integration
def test_a_process_that_runs_out_of_memory_leaves_the_cell_out(
    folder: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("alfworld")
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak is read from /proc")
    for ends in ("kill -9 $$", "exit 9"):
        ended = tmp_path / "python"
        ended.write_text(f"#!/bin/sh\ncat > /dev/null\n{ends}\n")
        ended.chmod(0o755)
        with monkeypatch.context() as patched:
            patched.setattr("sys.executable", str(ended))
            with pytest.raises(RunError, match="none of the lengths fits into memory: ran out of memory"):
                profile(
                    "memory", str(folder), "--lengths", "600,800", "--modes", "full", "--fresh", "--folder",
                    str(tmp_path), *SMALL,
                )  # fmt: skip
