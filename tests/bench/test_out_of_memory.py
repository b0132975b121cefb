"""Lengths that need more memory than there is are left out; the others are measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from erecap.bench.out_of_memory import MemoryGuard, ran_out
from erecap.bench.replan.settings import ReplanBench
from erecap.bench.suite import play
from erecap.bench.tables import peak_table, tables_of
from tests.bench.test_parts import ABOUT
from tests.bench.test_replan import byte_level, model, shown

FULL, REUSE = ("algorithm", "full"), ("algorithm", "reuse")
ROOT = Path(__file__).parents[2]
# Attention with a matrix of weights: 4 heads * 3,900 * 3,900 * 4 bytes at once. Sessions read in chunks of 512 tokens.
LIMITED = """
import json, re, resource
from pathlib import Path
from erecap.bench.replan.replan import replan_bench
from erecap.bench.replan.settings import ReplanBench
from tests.bench.test_replan import byte_level, model

made = model(window=8192)
made.set_attn_implementation("eager")
bench = ReplanBench(lengths=(300, 3900), modes=("full", "reuse"), new_tokens=60, plan_tokens=2, repetitions=1)
said = []

def say(text):
    said.append(text)
    if text == "history of 3900 tokens: warming up":  # the simulator, which needs more, is done
        used = 1024 * int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
        resource.setrlimit(resource.RLIMIT_AS, (used + (230 << 20), resource.RLIM_INFINITY))

found = replan_bench(bench, made, byte_level(), say)
rows = sorted({(row["length"], row["mode"]) for row in found["raw"]})
print(json.dumps({"skipped": found["skipped"], "rows": rows, "said": [line for line in said if "ran out" in line]}))
"""


def test_what_counts_as_no_memory() -> None:
    with pytest.raises(RuntimeError) as far_too_much:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert ran_out(far_too_much.value) and ran_out(MemoryError()) and ran_out(torch.OutOfMemoryError("CUDA"))
    assert not ran_out(RuntimeError("size mismatch")) and not ran_out(ValueError("can't allocate memory"))


def test_what_ran_out_is_not_tried_again_at_longer_lengths() -> None:
    said: list[str] = []
    tried: list[int] = []
    guard = MemoryGuard(said.append)

    def call(length: int) -> str:
        tried.append(length)
        if length >= 200:
            torch.empty(1 << 60, dtype=torch.uint8)
        return "read"

    answers = [guard.tried(FULL, length, "full", lambda length=length: call(length)) for length in (100, 200, 300)]
    assert answers == ["read", None, None] and tried == [100, 200]
    assert guard.skipped == {FULL: 200}
    assert said == ["full ran out of memory at 200 tokens; left out there and beyond"]
    assert guard.tried(REUSE, 300, "reuse", lambda: "read") == "read"
    assert guard.tried(FULL, 100, "full", lambda: "read") == "read"  # shorter ones fit
    with pytest.raises(RuntimeError, match="shapes"):
        guard.tried(REUSE, 100, "reuse", lambda: torch.zeros(2, 3) @ torch.zeros(2, 3))


@pytest.mark.slow  # half a minute alone on a core, minutes beside others
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of an address space is Linux's")
def test_a_real_limit_of_memory_leaves_out_the_mode_that_needs_more() -> None:
    pytest.importorskip("alfworld")
    # An arena for each thread would reserve addresses that nobody uses.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LIMITED]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["skipped"] == [{"row": "algorithm", "mode": "full", "length": 3900}]
    assert found["said"] == ["full ran out of memory at 3,900 tokens; left out there and beyond"]
    shorter = [[300, "floor"], [300, "full"], [300, "reuse"]]
    assert found["rows"] == [*shorter, [3900, "floor"], [3900, "reuse"]]


@pytest.mark.integration
def test_peak_memory_of_each_mode_and_length(tmp_path: Path) -> None:
    pytest.importorskip("alfworld")
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak is read from /proc")
    folder = tmp_path / "tiny"
    made = model()
    made.save_pretrained(folder)
    byte_level().save_pretrained(folder)
    bench = ReplanBench((300, 1500), ("full", "reuse"), plan_tokens=3, repetitions=1, new_tokens=60, memory=True)
    part = play(bench, made, byte_level(), ABOUT, lambda text: None, source=str(folder))
    peaks = {(row["length"], row["mode"]): row["peak_bytes"] for row in part["summary"]["calls"]}
    assert peaks[300, "floor"] is None and peaks[1500, "full"] > 0 and peaks[1500, "reuse"] > 0
    assert peaks[1500, "full"] > peaks[300, "full"]
    stored = {row["mode"]: row["kv_bytes"] for row in part["summary"]["calls"] if row["length"] == 1500}
    assert peaks[1500, "reuse"] >= stored["reuse"] and part["summary"]["skipped"] == []
    assert "1,500" in shown(peak_table(part["summary"]["calls"]))
    part["summary"]["skipped"] = [{"row": "algorithm", "mode": "prune[recency]", "length": 1500}]
    text = "".join(shown(table) for table in tables_of(part))
    assert "no memory" in text and "Peak memory" in text and "…" not in text
