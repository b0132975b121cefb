"""FLOPs of sliced models by hand, and figure L4 from times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erecap.bench.compiled import compiled_bench
from erecap.bench.slices import SlicesBench, slices_bench, slices_rows, slices_summary
from erecap.cost.flops import prefill_flops
from erecap.errors import ConfigError
from erecap.language_models.opened import shape_of
from erecap.layers import LayerPlan, apply, with_plan
from erecap.layers.slices.flops import ModelFlops
from tests.layers.plans import own
from tests.tokens.models import ARCHITECTURES, LAYERS, prompt

IDS = prompt(40)["input_ids"][0].tolist()
ABOUT = {"command": "erecap bench slices", "machine": {"cpu": "a processor", "threads": 1}, "date": "2026-11-30"}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_flops_of_a_whole_model_are_those_of_its_shape(name: str) -> None:
    model = own(name)
    assert ModelFlops(model).prefill(40) == prefill_flops(shape_of(model), [40] * LAYERS).total


def test_flops_of_a_sliced_model_by_hand() -> None:
    model = own("llama")  # width 32, 4 heads of 8 in 2 groups, 48 channels, 97 words
    layer = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48)
    head = 2 * 32 * 97
    assert ModelFlops(model).prefill(10) == 8 * (10 * layer + 55 * 4 * 32) + head
    # The first decoded token meets 11 keys, itself among them, the second 12.
    assert ModelFlops(model).decode(10, 2) == 8 * (2 * layer + (11 + 12) * 4 * 32) + 2 * head
    plan = LayerPlan(LAYERS, heads={3: (2, 3)}, channels={1: tuple(range(12)), 3: tuple(range(24))}, attention=(5,))
    assert ModelFlops(model).prefill_attention(10) == 8 * 55 * 4 * 32
    assert ModelFlops(model).decode_bytes(10) == 4 * (8 * layer // 2 + 97 * 32 + 8 * 10 * 2 * 16)
    with apply(model, plan):
        # A group has 2 query heads and a key and a value head; layer 5 has no attention.
        gone = 2 * (32 * 16 * 2 + 32 * 8 * 2) + 2 * 3 * 32 * (12 + 24) + 2 * (32 * 32 * 2 + 32 * 16 * 2)
        pairs = 4 * (8 * 32 - 16 - 32)
        assert ModelFlops(model).prefill(10) == 10 * (8 * layer - gone) + 55 * pairs + head
        assert ModelFlops(model).decode_bytes(10) == 4 * ((8 * layer - gone) // 2 + 97 * 32 + 10 * 2 * (6 * 16 + 8))


def test_every_round_of_every_model_is_a_row() -> None:
    model = own("llama")
    models = {"whole": model, "thin": with_plan(model, LayerPlan(LAYERS, channels={0: tuple(range(24))}))}
    found = slices_bench(SlicesBench(decoded=2, repetitions=3), models, IDS)
    assert [(row["model"], row["repetition"]) for row in found["raw"]] == [
        (name, repetition) for name in models for repetition in range(3)
    ]
    assert all(row["prefill_ms"] > 0 and row["decode_ms"] > 0 for row in found["raw"])
    summary = slices_summary(found)
    assert [(row["model"], row["phase"]) for row in summary] == [("thin", "prefill"), ("thin", "decode")]
    whole, thin = ModelFlops(model), ModelFlops(models["thin"])
    assert summary[0]["flop_ratio"] == whole.prefill(40) / thin.prefill(40)
    assert summary[1]["flop_ratio"] == whole.decode(40, 2) / thin.decode(40, 2)
    with pytest.raises(ConfigError, match="bench slices: 40 tokens and 600 decoded ones pass the window of 512"):
        slices_bench(SlicesBench(decoded=600), models, IDS)


def test_the_row_is_the_worst_share_of_what_flops_promise() -> None:
    times = {"whole": (120.0, 12.0), "heads-0.2": (110.0, 11.5), "channels-0.2": (100.0, 10.0)}
    raw = [
        {"model": name, "repetition": repetition, "prefill_ms": prefill, "decode_ms": decode}
        for repetition in range(3)
        for name, (prefill, decode) in times.items()
    ]
    flops = {
        name: {"prefill": 1000 * f, "decode": 100 * f}
        for name, f in (("whole", 1.25), ("heads-0.2", 1.1), ("channels-0.2", 1.0))
    }
    for counted, attention in zip(flops.values(), (500, 400, 500), strict=True):
        counted |= {"attention": attention, "decode_bytes": 4 * attention}
    summary = slices_summary({"raw": raw, "flops": flops, "attention_share": 0.6})
    # Attention is 60 % of the time: 0.6 x 400 / 500 + 0.4 x 700 / 750 of it are left, or 0.6 + 0.4 x 500 / 750.
    bounds = [row["bound"] for row in summary]
    assert bounds[0] == pytest.approx(1 / (0.48 + 0.28 / 0.75)) and bounds[2] == pytest.approx(1 / (0.6 + 0.2 / 0.75))
    assert bounds[1] == 500 / 400 and bounds[3] == 1.0  # decoding by bytes
    shares = {(row["model"], row["phase"]): row["share"]["value"] for row in summary}
    assert shares["channels-0.2", "prefill"] == pytest.approx(0.2 / 0.25)
    worst = (12 / 11.5 - 1) / (1.25 / 1.1 - 1)
    assert shares["heads-0.2", "decode"] == pytest.approx(worst)
    row = slices_rows(SlicesBench(), summary, ABOUT)[0]
    assert row["id"] == "L4" and row["measured"] == pytest.approx(worst, abs=1e-3) and row["holds"] is False
    assert row["note"] == "decode with heads-0.2: 1.043 of 1.136" and row["n"] == 3
    assert slices_rows(SlicesBench(heads=(0.1,)), summary, ABOUT) == []  # not the published shares
    flops["heads-0.2"] = flops["whole"]  # masks of weights save no FLOPs that anybody counts
    assert slices_summary({"raw": raw, "flops": flops, "attention_share": None})[0]["share"] is None


def test_numbers_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="tokens 0, decoded 32, repetitions 15; allowed: from 1 on"):
        SlicesBench(tokens=0)
    with pytest.raises(ConfigError, match="bench slices: no heads and no channels"):
        SlicesBench(heads=(), channels=())


def test_compiled_code_beside_the_modules() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=97, **sizes)).eval()
    rows = compiled_bench({"whole": model}, IDS[:8], repetitions=2, backend="eager")
    assert rows[0]["model"] == "whole" and rows[0]["compile_s"] > 0 and rows[0]["speed_up"]["n"] == 2


@pytest.mark.integration  # for the household text
def test_the_command(erecap, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("alfworld")
    from tests.bench.test_replan import byte_level, model

    folder = tmp_path / "tiny"
    model().save_pretrained(folder)
    byte_level().save_pretrained(folder)
    out, results = tmp_path / "slices.json", tmp_path / "layers.json"
    code, said, err = erecap(
        "bench", "slices", "--model", folder, "--dtype", "float32", "--tokens", "64", "--decoded", "2",
        "--repetitions", "1", "--multiple", "4", "--out", out, "--results", results,
    )  # fmt: skip
    assert code == 0, err
    assert "channels-0.3, prefill" in said and "heads-0.2, decode" in said and "bound" in said and "…" not in said
    part = json.loads(out.read_text())
    assert len(part["raw"]) == 5 and len(part["summary"]) == 8 and part["settings"]["multiple"] == 4
    rows = json.loads(results.read_text())["rows"]
    assert [row["id"] for row in rows] == ["L4"] and str(tmp_path) not in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pack",), "--pack: packs the 2:4 weights of a plan; name one with --plan"),
        (("--plan", "x", "--heads", "0.1"), "--plan goes without --heads"),
        (("--compile", "--decoded", "4"), "--compile goes without --decoded"),
        (("--heads", "0.2,2"), "--heads: got '0.2,2'; allowed: shares between 0 and 1"),
        (("--decode-weights", "int3"), "--decode-weights: unknown decode weights 'int3'; allowed: same, int8, int4"),
        (("--heads", "0.1", "--results", "r.json"), "--results: figure L4 is of heads and channels at 0.2 and 0.3"),
        (("--plan", "a/x", "--plan", "b/x", "--model", "nowhere"), "no model 'nowhere'"),
    ],
)
def test_mistakes_are_told_in_one_line(erecap, arguments: tuple[str, ...], message: str) -> None:  # type: ignore[no-untyped-def]
    code, _, err = erecap("bench", "slices", *arguments)
    assert code in (1, 2) and message in " ".join(err.split())
