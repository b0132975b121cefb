"""The parts of the benchmark on a tiny model: published results, and refused settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from erecap.bench.decode import decode_bench
from erecap.bench.decode_settings import DecodeBench
from erecap.bench.drafted_replans import repeats
from erecap.bench.episode import EpisodeBench, episode_bench, fresh_agreement
from erecap.bench.prefill import MODES, PrefillBench, prefill_bench, prefill_call
from erecap.bench.replan.ceilings import attention_share, bounded, ratio, ratio_apart
from erecap.bench.replan.settings import ReplanBench
from erecap.bench.replan.summary import below_floor, ceilings, replan_rows
from erecap.bench.results import Figure
from erecap.bench.suite import PUBLISHED, play, play_all, publish
from erecap.bench.tables import tables_of
from erecap.errors import ConfigError, RunError
from erecap.language_models.opened import shape_of
from tests.bench.test_replan import byte_level, model, shown

ABOUT: dict[str, Any] = {
    "command": "erecap bench all",
    "date": "2026-01-31",
    "machine": {"cpu": "a processor", "threads": 1},
    "versions": {"torch": "2"},
    "model": {"name": "tiny", "dtype": "float32"},
}


def test_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erecap.bench.drafted_replans.PART", 0.0)  # a random model repeats nothing
    bench = DecodeBench((0, 200), 4, ("same", "int8"), True, "int8", points=2, history=50, kv_tokens=350, repetitions=2)
    pytest.importorskip("alfworld")
    made = play(bench, model(), byte_level(), ABOUT, lambda text: None, source="tiny")
    raw = made["raw"]["raw"]
    assert [(row["kv"], row["weights"]) for row in raw] == [
        (kv, w) for kv in (0, 200) for _ in "ab" for w in ("same", "int8")
    ]
    assert {row["kv"]: row["stored"] > 200 for row in raw} == {0: False, 200: True}
    assert all(row["ms_per_token"] > 0 for row in raw)
    repeated = made["raw"]["repeated"]
    assert len(repeated) == 2 * 2 * 2 * 2 and all(
        row["drafted_tokens"] == 0 for row in repeated if row["way"] == "plain"
    )
    assert all(row["same_text"] for row in repeated if row["weights"] == "same")  # drafts change nothing in float32
    assert [(row["id"], row["row"]) for row in made["rows"]] == [("R7", "algorithm"), ("R7", "product")]
    assert "2 of 2 replans" in made["rows"][0]["note"]
    for table in tables_of(made):
        assert shown(table)


def test_what_counts_as_repeating() -> None:
    tokenizer = byte_level()
    plan = "go to fridge 1\ntake apple 1 from countertop 12"
    assert repeats(tokenizer, plan, plan) == 1.0
    assert repeats(tokenizer, "", plan) == 0.0 == repeats(tokenizer, plan, "")
    assert 0.2 < repeats(tokenizer, plan, "open cabinet 3\ntake apple 1 from countertop 12") < 0.9


def test_episode_past_the_window() -> None:
    settings = EpisodeBench(
        tokens=1100,
        new_tokens=30,
        plan_tokens=4,
        kv_tokens=300,
        early=120,
        early_points=2,
        before_points=2,
        beyond_points=3,
    )
    pytest.importorskip("alfworld")
    made = play(
        replace(settings, tokens=3000, kv_tokens=800, early=850),
        model(window=1536),
        byte_level(),
        ABOUT,
        lambda text: None,
        source="tiny",
    )
    raw = made["raw"]
    assert [row["stretch"] for row in raw] == 2 * (["early"] * 2 + ["before"] * 2 + ["beyond"] * 3 + ["late"] * 3)
    assert [row["episode"] for row in raw] == [0] * 10 + [1] * 10
    own = {stretch: [row for row in raw if row["stretch"] == stretch] for stretch in ("beyond", "late")}
    assert [row["place"] for row in own["late"]] == [row["place"] for row in own["beyond"]]
    # The same turns, read by sessions that have not passed the window.
    assert [row["new_tokens"] for row in own["late"]] == [row["new_tokens"] for row in own["beyond"]]
    assert all(row["read"] + row["new_tokens"] + 4 <= 1536 for row in own["late"])
    assert all(row["stored"] <= 800 and row["compared"] == 4 for row in raw)
    assert all(row["read"] + row["new_tokens"] + 4 <= 1536 for row in raw if row["stretch"] == "before")
    assert min(row["read"] for row in raw if row["stretch"] == "beyond") >= 1536
    [row] = made["rows"]
    assert row["id"] == "R5" and row["low"] <= row["measured"] <= row["high"] and row["n"] == 10
    assert f"{made['summary']['paired']['value']:+.1f}" in row["note"]
    for table in tables_of(made):
        assert "…" not in shown(table)


def test_agreement_with_a_fresh_read_is_that_of_greedy_decoding() -> None:
    import torch

    tiny = model()
    kept = list(range(5, 45))
    plan: list[int] = []
    for _ in range(6):
        with torch.no_grad():
            plan.append(int(tiny(input_ids=torch.tensor([kept + plan])).logits[0, -1].argmax()))
    assert fresh_agreement(tiny, kept, plan) == 1.0
    plan[-1] += 1
    assert fresh_agreement(tiny, kept, plan) == pytest.approx(5 / 6)


def test_prefill() -> None:
    found = prefill_bench(PrefillBench(tokens=400, repetitions=2), *(model(), byte_level()))
    assert [row["mode"] for row in found["raw"]] == list(MODES) * 2
    kept = found["kept"]
    assert kept["full"] == kept["keep 1.0"] == [400] * 8 and kept["prune"] == [400] * 4 + [280] * 4
    assert 0 < found["attention_share"] < 1
    assert prefill_call("prune", model(), list(range(5, 105)), 0.5, "recency")() == [100] * 4 + [50] * 4


def test_a_figure_above_its_ceiling_is_a_fault_and_fails(tmp_path: Path) -> None:
    shape = shape_of(model())
    kept, full = [400.0] * 4 + [280.0] * 4, [400.0] * 8
    fair = bounded(Figure(1.2, 1.1, 1.3, 5), shape, kept, full, 0.2, "recency")
    assert fair.flops > 1.1 and not fair.fault and fair.timed is not None and 0.9 < fair.share < 1.1
    above = bounded(Figure(3.0, 2.8, 3.1, 5), shape, kept, full, 0.2, "recency")
    noisy = bounded(Figure(3.0, 1.1, 3.1, 5), shape, kept, full, 0.2, "recency")
    assert above.fault and not noisy.fault  # its repetitions scatter across the ceiling
    assert bounded(Figure(3, 2.8, 3.1, 5), shape, kept, full, None, "recency").fault
    assert not bounded(Figure(3, 2.8, 3.1, 1), shape, kept, full, None, "recency").fault  # scatter unknown
    paid = bounded(Figure(1.2, 1.1, 1.3, 5), shape, kept, full, 0.2, "attention")
    assert paid.flops < fair.flops and paid.timed < fair.timed  # type: ignore[operator]
    times = {"full": 300.0, "prune[recency]": 100.0}
    raw = [
        {
            "row": "algorithm",
            "length": 400,
            "mode": mode,
            "repetition": number,
            "prefill_ms": times[mode] + number,
            "kept_per_layer": full if mode == "full" else kept,
        }
        for mode in times
        for number in range(3)
    ]
    [entry] = ceilings(raw, vars(shape), {"400": 0.2})
    assert entry["fault"] and entry["mode"] == "prune[recency]"

    from erecap.cli.benching import end

    end([{"faults": []}])
    from erecap.bench.suite import fault_line

    with pytest.raises(
        RunError, match=r"prune\[recency\] at 400 tokens is 2.98 times faster than full .* above its ceiling"
    ):
        end([{"faults": [fault_line(entry)]}])


def test_ratios_keep_their_range() -> None:
    figure = ratio([10, 20, 30], [5, 10, 10])
    assert (figure.value, figure.low, figure.high, figure.n) == (2.0, 2.0, 3.0, 3)
    apart = ratio_apart([10, 20, 30], [5, 10, 10])
    assert (apart.value, apart.low, apart.high) == (2.0, 1.0, 6.0)


def rows_of(row: str, length: int, mode: str, total: float) -> list[dict[str, Any]]:
    accepted = 20 if row == "product" and mode != "floor" else 0
    return [
        {
            "row": row,
            "length": length,
            "mode": mode,
            "repetition": number,
            "total_ms": total + number,
            "prefill_ms": 100.0,
            "decode_ms": total - 100,
            "passes": 31 - accepted,
            "drafted_tokens": 30,
            "accepted_tokens": accepted,
            "kv_bytes": 135 if mode == "erecap" else 1000,
        }
        for number in range(5)
    ]


def test_the_figures_with_targets() -> None:
    raw = []
    for length in (1000, 2000, 4000, 7500):
        for row in ("algorithm", "product"):
            raw += rows_of(row, length, "full", 3.0 * length)
            raw += rows_of(row, length, "reuse", 2000 + length / 4)
            raw += rows_of(row, length, "erecap", 2200 + length / 100)
            raw += rows_of(row, length, "floor", 2000)
    raw += rows_of("hf", 7500, "hf", 44_000)
    quality = {"weights": "int4", "agreement": 0.99, "difference": 0.01, "n": 400}
    rows = {(row["id"], row["row"]): row for row in replan_rows(raw, ABOUT, quality)}
    assert [name for name, _ in rows] == ["R1a", "R1b", "R2", "R3", "R4", "R1a", "R1b", "R2"]
    assert rows["R1b", "algorithm"]["measured"] == pytest.approx(22502 / 2277, rel=1e-3)
    assert not rows["R1b", "algorithm"]["holds"] and "at the floor it would be 11.2" in rows["R1b", "algorithm"]["note"]
    assert (
        rows["R2", "algorithm"]["measured"] == pytest.approx(2277 / 2002, rel=1e-3) and rows["R2", "algorithm"]["holds"]
    )
    assert rows["R2", "algorithm"]["note"] == "at 7,500 tokens"
    assert rows["R3", "algorithm"]["measured"] == pytest.approx(2277 / 2212, rel=1e-3)
    assert rows["R4", "algorithm"]["measured"] == 0.135
    note = rows["R1b", "product"]["note"]
    assert (
        "accepted 20 of 30" in note
        and "99.0 % of 400 plan tokens" in note
        and "stock `generate` over `erecap`: 19.3" in note
    )
    # 11 passes against the floor's 31: of its 2,002 ms only the prefill and 11 / 31 of the decoding count.
    assert rows["R2", "product"]["measured"] == pytest.approx(2277 / (102 + 1900 * 11 / 31), rel=1e-2)
    assert replan_rows([row for row in raw if row["length"] == 2000], ABOUT) == []
    assert below_floor(raw) == []
    fast = [*rows_of("algorithm", 1000, "erecap", 1900), *rows_of("algorithm", 1000, "floor", 2000)]
    assert below_floor(fast) == ["erecap after 1,000 tokens takes 0.95 times its floor, which cannot be"]


def test_parts_go_on_where_they_were_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[str] = []

    def fake(settings: Any, loaded: Any, tokenizer: Any, about: Any, say: Any, *, source: str) -> dict[str, Any]:
        name = type(settings).__name__.removesuffix("Bench").lower()
        if name == "decode" and len(played) < 3:
            played.append("stopped")
            raise KeyboardInterrupt
        played.append(name)
        from dataclasses import asdict

        return {"part": name, "settings": asdict(settings), **about, "summary": {}, "raw": [], "rows": [], "faults": []}

    monkeypatch.setattr("erecap.bench.suite.play", fake)
    some = {name: PUBLISHED[name] for name in ("replan", "prefill", "decode")}

    def run(parts: Any = some, about: Any = ABOUT, fresh: bool = False) -> dict[str, Any]:
        return play_all(
            parts, lambda: (None, None), tmp_path / "bench", about, source="", fresh=fresh, say=lambda text: None
        )

    with pytest.raises(KeyboardInterrupt):
        run()
    done = run()
    assert played == ["replan", "prefill", "stopped", "decode"] and list(done) == list(some)
    assert done["decode"]["command"] == "erecap bench all --parts decode"
    run()
    run({"replan": ReplanBench()})  # other settings
    run(about={**ABOUT, "model": {"name": "another", "dtype": "float32"}}, parts={"prefill": PUBLISHED["prefill"]})
    run({"prefill": PUBLISHED["prefill"]}, fresh=True)
    assert played[4:] == ["replan", "prefill", "prefill"]
    publish(tmp_path / "replan.json", done, ABOUT)
    publish(tmp_path / "replan.json", {"episode": {**done["decode"], "part": "episode"}}, ABOUT)
    assert list(json.loads((tmp_path / "replan.json").read_text())["parts"]) == [
        "replan",
        "prefill",
        "decode",
        "episode",
    ]
    (tmp_path / "bench" / "decode.json").write_text("{")
    with pytest.raises(RunError, match=r"decode\.json: not JSON"):
        run()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (PrefillBench(tokens=5000), "from 16 to the model's window of 512, got 5000"),
        (PrefillBench(tokens=100, scorer="best"), "unknown scorer 'best'; allowed: "),
        (PrefillBench(tokens=100, keep=1.5), "keep must be above 0 and at most 1, got 1.5"),
        (DecodeBench(weights=("int2",)), "unknown weights int2; allowed: same, int8, int4"),
        (DecodeBench(kv=(-1,)), "kv must be 0 or more"),
        (DecodeBench(kv=(600,)), "do not fit the window of 512"),
        (EpisodeBench(tokens=400, early=50), "tokens must exceed the model's window of 512 by two turns"),
    ],
)
def test_bad_settings_give_one_line(settings: Any, message: str) -> None:
    bench = {PrefillBench: prefill_bench, DecodeBench: decode_bench, EpisodeBench: episode_bench}[type(settings)]
    with pytest.raises(ConfigError, match=message):
        bench(settings, model(window=512), byte_level())  # type: ignore[operator]


def test_attention_without_a_kernel_of_its_own_has_no_share() -> None:
    from tests.tokens.models import tiny

    assert attention_share(tiny("llama", "eager"), list(range(5, 60))) is None
    assert attention_share(model(), list(range(5, 60))) is not None
