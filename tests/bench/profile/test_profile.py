"""Profiles on a tiny model: cells in turn, resuming, what does not fit, summaries, tables and plots."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from erecap.bench.profile.calls import MARGIN, Texts, counter, within
from erecap.bench.profile.journal import Journal
from erecap.bench.profile.plots import write_profile_plots
from erecap.bench.profile.room import free_bytes, least_bytes, left_over, short_of_memory
from erecap.bench.profile.run import play_profile, publish_profile
from erecap.bench.profile.settings import Cell, Profile
from erecap.bench.profile.summary import profile_rows, summarise
from erecap.bench.profile.table import cells_of, markdown
from erecap.bench.replan.history import wander
from erecap.errors import ConfigError, RunError
from erecap.language_models.opened import shape_of
from tests.bench.test_replan import byte_level, model

ABOUT: dict[str, Any] = {
    "command": "erecap profile prefill",
    "date": "2026-01-31",
    "machine": {"cpu": "a processor", "threads": 1},
    "versions": {"torch": "2"},
    "model": {"name": "tiny", "dtype": "float32", "window": 4096},
}
SMALL = Profile(
    "prefill", (800, 1600), ("keep09", "keep07"), repetitions=2, kv_tokens=600, new_tokens=60, plan_tokens=4
)


def played(profile: Profile, folder: Path, say: Any = lambda text: None, **more: Any) -> dict[str, Any]:
    return play_profile(profile, model(), byte_level(), ABOUT, folder, say, source="tiny", **more)


def test_prefills_by_length_mode_and_preset(tmp_path: Path) -> None:
    pytest.importorskip("alfworld")
    part = played(SMALL, tmp_path)
    cells = {(c["length"], c["mode"], c["preset"]): c for c in part["summary"]["cells"]}
    names = [("full", None), ("prune[recency]", "keep09"), ("prune[recency]", "keep07"), ("reuse", None)]
    assert list(cells) == [(length, *name) for length in (800, 1600) for name in (*names, ("erecap", None))]
    timed = [row for row in part["raw"] if "run" in row]
    assert [row["mode"] for row in timed[:5]] == ["full", "prune[recency]", "prune[recency]", "reuse", "erecap"]
    assert [row["repetition"] for row in timed] == [0] * 5 + [1] * 5 + [0] * 5 + [1] * 5  # in turn
    full, most, least = cells[1600, "full", None], *(cells[1600, *name] for name in names[1:3])
    assert 1400 < full["tokens"] <= 1600 and full["mean_kept"] == full["tokens"] and "speed_up" not in full
    # Eight layers, one stage before the fifth: half of the layers read everything.
    assert most["mean_kept"] == pytest.approx(0.95 * full["tokens"], abs=1)
    assert least["kv_share"] == pytest.approx(0.85, abs=0.01) and least["claim"] == 2.48
    assert 1 < most["flop_ceiling"] < least["flop_ceiling"] < 2 and least["time_ceiling"] is not None
    assert least["low"] <= least["speed_up"] <= least["high"]
    assert cells[1600, "reuse", None]["kv_share"] == 1.0 and cells[1600, "erecap", None]["mean_kept"] <= 600
    heads, rows = cells_of(part)
    assert all(len(row) == len(heads) for row in rows)
    assert "| 1,600 | `prune[recency]` | keep07 |" in markdown([part])
    paths = write_profile_plots(tmp_path / "plots", part, "profile-prefill")
    assert [path.name for path in paths] == ["profile-prefill.svg", "profile-prefill-heat.svg"]
    heat = paths[1].read_text()
    assert f"{least['speed_up']:.2f}" in heat and "prune[recency] 0.7" in heat and "var(--c0)" in heat


def test_a_stopped_profile_goes_on_and_its_ratios_are_of_one_process(tmp_path: Path) -> None:
    pytest.importorskip("alfworld")
    said: list[str] = []

    def stop(text: str) -> None:
        said.append(text)
        if text == "1,600 tokens: 1 of 2 repetitions":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        played(SMALL, tmp_path, stop)
    before = len(Journal(tmp_path / "prefill-tiny-4096.jsonl", {}).of(Cell(1600, None, "erecap")))
    assert before == 1
    path = tmp_path / "prefill-tiny-4096.jsonl"
    path.write_bytes(path.read_bytes() + b'{"length": 1600, "mo')  # the line that was being written
    part = played(SMALL, tmp_path, said.append)
    assert sum("800 tokens: warming up" in text for text in said) == 1  # finished before
    assert {cell["n"] for cell in part["summary"]["cells"]} == {2}
    said.clear()
    again = played(SMALL, tmp_path, said.append)
    assert said == [] and again["summary"] == part["summary"]
    wider = played(replace(SMALL, modes=("full", "erecap", "random")), tmp_path, said.append)
    assert [text for text in said if "warming" in text] == [
        "800 tokens: warming up full, random",
        "1,600 tokens: warming up full, random",
    ]
    cells = {(c["length"], c["mode"]): c for c in wider["summary"]["cells"]}
    # `full` was measured again beside the new mode, since ratios need both sides from one process.
    assert cells[800, "full"]["n"] == 4 and cells[800, "random"]["n"] == 2 and "speed_up" in cells[800, "random"]
    with pytest.raises(RunError, match=r"prefill-tiny-4096\.jsonl: measured with another kv_tokens; --fresh measures"):
        played(replace(SMALL, kv_tokens=400), tmp_path)
    path.write_bytes(path.read_bytes() + b"{\n")
    with pytest.raises(RunError, match=r"jsonl:\d+: the row is damaged"):
        played(SMALL, tmp_path)


def test_whole_calls_stand_beside_their_floor(tmp_path: Path) -> None:
    pytest.importorskip("alfworld")
    part = played(replace(SMALL, part="end2end", lengths=(1200,), presets=("keep07",)), tmp_path)
    cells = {c["mode"]: c for c in part["summary"]["cells"]}
    assert list(cells) == ["full", "prune[recency]", "reuse", "erecap", "floor"]
    total = {mode: statistics.median(row["total_ms"] for row in part["raw"] if row["mode"] == mode) for mode in cells}
    assert all(cell["over_floor"] == pytest.approx(total[mode] / total["floor"]) for mode, cell in cells.items())
    assert cells["full"]["tokens"] + 4 <= 1200 and cells["full"]["tokens"] == cells["reuse"]["tokens"]
    read = {row["mode"]: row["read"] for row in part["raw"]}
    assert read["full"] == cells["full"]["tokens"] and read["erecap"] == read["reuse"] < 150
    for row in part["raw"]:  # both phases lie within the call, whatever it took; times are cut to three decimals
        assert 0 < row["prefill_ms"] and 0 < row["decode_ms"]
        assert row["prefill_ms"] + row["decode_ms"] <= row["total_ms"] + 0.002
    for mode, cell in cells.items():
        for phase in ("prefill_ms", "decode_ms"):
            assert cell[phase] == statistics.median(row[phase] for row in part["raw"] if row["mode"] == mode)
    assert "flop_ceiling" in cells["prune[recency]"] and "claim" not in cells["prune[recency]"]
    publish_profile(tmp_path / "profile.json", part, "end2end-tiny-4096")
    stored = json.loads((tmp_path / "profile.json").read_text())
    assert list(stored["parts"]) == ["end2end-tiny-4096"] and list(stored["targets"]) == ["P1"]


def test_a_mode_that_is_added_is_timed_beside_the_floor(tmp_path: Path) -> None:
    pytest.importorskip("alfworld")
    some = replace(SMALL, part="end2end", lengths=(1200,), modes=("full", "erecap"))
    assert [row["mode"] for row in played(some, tmp_path)["raw"]] == ["full", "erecap", "floor"] * 2
    part = played(replace(some, modes=("full", "erecap", "reuse")), tmp_path)
    assert [row["mode"] for row in part["raw"][6:]] == ["full", "reuse", "floor"] * 2
    added = next(cell for cell in part["summary"]["cells"] if cell["mode"] == "reuse")
    assert added["over_floor"] > 0 and added["speed_up"] > 0


def test_another_model_of_the_same_name_is_refused(tmp_path: Path) -> None:
    shape = vars(shape_of(model()))
    shared = {name: ABOUT[name] for name in ("machine", "versions", "model")}
    other = {**SMALL.fixed(), **shared, "shape": {**shape, "layers": shape["layers"] + 1}}
    journal = Journal(tmp_path / "prefill-tiny-4096.jsonl", other)
    journal.add({"length": 300, "preset": None, "mode": "full", "skipped": "no room"})
    with pytest.raises(RunError, match="measured with another shape; --fresh measures anew"):
        played(SMALL, tmp_path)


def test_what_does_not_fit_is_left_out_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("alfworld")
    cells = [Cell(1600, None, "reuse"), Cell(1600, "keep07", "prune[recency]"), Cell(1600, None, "erecap")]
    needed = [least_bytes(SMALL, cell, model()) for cell in cells]
    per_token = 2 * 8 * shape_of(model()).kv_heads * shape_of(model()).head_dim * 4
    assert needed[0] > 1600 * per_token and needed[2] < 1200 * per_token + needed[0] - 1600 * per_token
    assert short_of_memory(SMALL, cells[0], model(), needed[0]) is None
    short = short_of_memory(SMALL, cells[0], model(), needed[0] - 1)
    assert short is not None and short.startswith("needs 0.0 GiB at least, ")
    # Room for 1,000 tokens: the longer `full` and `reuse` are left out, and the session that evicts is not.
    limit = least_bytes(SMALL, Cell(1000, None, "full"), model())
    monkeypatch.setattr("erecap.bench.profile.room.free_bytes", lambda device: limit)
    said: list[str] = []
    profile = replace(SMALL, lengths=(800, 1600, 2000), modes=("full", "erecap"), repetitions=1, kv_tokens=400)
    part = played(profile, tmp_path, said.append)
    assert [(c["length"], c["mode"]) for c in part["summary"]["cells"]] == [
        (800, "full"),
        (800, "erecap"),
        (1600, "erecap"),
        (2000, "erecap"),
    ]
    skipped = part["summary"]["skipped"]
    assert [(c["length"], c["from"]) for c in skipped] == [(1600, 1600), (2000, 1600)]
    assert "| 2,000 | `full` | – | left out: needs " in markdown([part])
    monkeypatch.setattr("erecap.bench.profile.room.free_bytes", lambda device: 1)
    with pytest.raises(RunError, match="none of the lengths fits into memory: needs "):
        played(profile, tmp_path, fresh=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_memory_that_torch_keeps_of_earlier_calls_is_free() -> None:
    device, size = torch.device("cuda:0"), 1 << 30
    before = free_bytes(device)
    taken = torch.empty(size, dtype=torch.uint8, device=device)
    during = free_bytes(device)
    del taken
    assert before is not None and during is not None and before - during >= size
    assert (free_bytes(device) or 0) - during >= size


def test_a_call_that_runs_out_of_memory_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("alfworld")
    tiny = model()
    whole = type(tiny).forward

    def limited(self: Any, input_ids: Any = None, **more: Any) -> Any:
        if input_ids is not None and input_ids.shape[1] > 1000:
            torch.empty(1 << 60, dtype=torch.uint8)
        return whole(self, input_ids=input_ids, **more)

    monkeypatch.setattr(type(tiny), "forward", limited)
    profile = replace(SMALL, modes=("full", "reuse"), repetitions=1)
    part = played(profile, tmp_path)
    assert [(c["length"], c["why"]) for c in part["summary"]["skipped"]] == [(1600, "ran out of memory")]
    assert [(c["length"], c["mode"]) for c in part["summary"]["cells"]] == [
        (800, "full"),
        (800, "reuse"),
        (1600, "reuse"),
    ]
    assert len(played(profile, tmp_path)["raw"]) == len(part["raw"])  # and not tried again


def test_what_memory_cannot_hold_is_left_out_before_its_text_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile, said = replace(SMALL, part="memory", lengths=(300, 900_000), modes=("full",)), list[str]()
    journal = Journal(tmp_path / "memory.jsonl", {"part": "memory"})
    monkeypatch.setattr("erecap.bench.profile.room.free_bytes", lambda device: 1 << 28)
    short, long = profile.cells()
    assert left_over(profile, [short, long], model(), journal, said.append) == [short]
    assert "full at 900,000 tokens: needs" in said[0] and journal.skipped(long) is not None
    assert left_over(profile, [long], model(), journal, said.append) == [] and len(said) == 1


def test_a_profile_that_measured_nothing_is_begun_again_with_other_settings(tmp_path: Path) -> None:
    path = tmp_path / "prefill.jsonl"
    Journal(path, {"model": "one"})
    journal = Journal(path, {"model": "another"})
    journal.add({"length": 300, "preset": None, "mode": "full", "skipped": "no room"})
    with pytest.raises(RunError, match="measured with another model"):
        Journal(path, {"model": "one"})


def test_texts_are_beginnings_that_fit() -> None:
    pytest.importorskip("alfworld")
    count = counter(byte_level())
    chat = wander(1200, count)
    part = within(chat, 900, count)
    assert part == chat[: len(part)] and count(part) <= 900 < count(chat[: len(part) + 2])
    assert within(chat, 50, count) == []
    profile = replace(SMALL, part="end2end", lengths=(1200,))
    text = Texts(profile, byte_level(), 1200).of(1200)
    assert count([*text.messages, text.new]) + profile.plan_tokens <= 1200
    least = count(chat[:3]) + profile.new_tokens + profile.plan_tokens + MARGIN
    refused = f"60 tokens are fewer than a household chat's first turn has; allowed here: {least} or more"
    with pytest.raises(ConfigError, match=refused):
        Texts(profile, byte_level(), 1200).of(60)
    assert Texts(profile, byte_level(), 1200).of(least).messages == tuple(chat[:3])


def test_the_evicting_sessions_peak_is_judged(tmp_path: Path) -> None:
    profile = Profile("memory", (4096, 32768), modes=("erecap", "full"), repetitions=1)
    journal = Journal(tmp_path / "memory.jsonl", {})
    for length, mode, size in ((4096, "erecap", 100e6), (32768, "erecap", 125e6), (4096, "full", 200e6)):
        head = {"length": length, "preset": None, "mode": mode, "run": "", "repetition": 0, "tokens": length}
        journal.add({**head, "peak_bytes": {"cuda:0": 0.4 * size, "cuda:1": 0.6 * size}})
    [row] = profile_rows(profile, journal, ABOUT)
    assert (row["id"], row["measured"], row["holds"]) == ("P1", 1.25, True)
    found = summarise(profile, journal, {})["cells"]
    assert [(c["length"], c["mode"], c.get("of_full")) for c in found] == [
        (4096, "full", None),
        (4096, "erecap", 0.5),
        (32768, "erecap", None),
    ]
    part = {"part": "memory", "summary": {"cells": found, "skipped": []}, "settings": {"of": "prefill"}, **ABOUT}
    assert "cuda:0 38, cuda:1 57" in markdown([part])
    assert profile_rows(replace(profile, of="end2end"), journal, ABOUT) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"lengths": (800, 8192)},
            "--lengths: 8,192 tokens exceed the model's window of 4,096; --window 8192 profiles",
        ),
        ({"lengths": (16,)}, "--lengths: got 16; allowed: 256 tokens or more"),
        ({"presets": ("keep05",)}, "--presets: unknown preset keep05; allowed: keep09, keep08, keep07"),
        ({"presets": ()}, r"--presets: the modes prune\[...\] need one"),
        ({"modes": ("fast",)}, "--modes: unknown mode 'fast'"),
        ({"modes": ("expert",)}, "--modes: expert cannot be profiled"),
        ({"modes": ("full", "served")}, "--modes: served cannot be profiled"),
        ({"modes": ("prune[learned]",)}, r"--modes: prune\[learned\] needs a trained pruner; name it with --pruner"),
        ({"of": "sleep"}, "--of: got sleep; allowed: prefill, end2end"),
    ],
)
def test_bad_settings_give_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        played(replace(SMALL, **changes), tmp_path)
