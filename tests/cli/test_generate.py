"""`erecap generate` as a person calls it: the answer on stdout, its figures on stderr."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

from erecap.budget import Budget
from erecap.cli.generate import figures, prompt_message
from erecap.cli.talking import chosen_mode, exits_of
from erecap.config.modes import Evict
from erecap.generation import Generation, Timing, Usage
from erecap.language_models.opened import ModelSettings, open_model
from erecap.models import fingerprint
from erecap.session import ReplanSession
from erecap.tokens.scoring.learned import Pruner
from erecap.tokens.scoring.pruner_files import save_pruner

PROMPT = "Goal: cool the apple 1. " + "You see a fridge 1 and a shelf 2. " * 8
PLACE = ("--device", "cpu", "--dtype", "float32", "--max-new-tokens", "12")


def session(folder: Path, budget: Budget | None = None) -> ReplanSession:
    opened = open_model(ModelSettings(str(folder), dtype="float32", device="cpu"))
    return ReplanSession(opened.model, opened.tokenizer, budget=budget)


def kept(err: str) -> tuple[int, int, int, int]:
    """Prompt, new, reused and kept tokens that the figures state."""
    found = re.search(r"prompt +([\d,]+) tokens: ([\d,]+) new, ([\d,]+) reused; ([\d,]+) kept", err)
    assert found is not None, err
    prompt, new, reused, stored = (int(number.replace(",", "")) for number in found.groups())
    return prompt, new, reused, stored


def test_the_answer_is_the_models_and_the_figures_are_the_calls(erecap, tiny_model) -> None:  # type: ignore[no-untyped-def]
    chat = [{"role": "system", "content": "Plan."}, prompt_message(PROMPT)]
    expected = session(tiny_model, Budget.auto()).generate(chat, max_new_tokens=12)  # type: ignore[arg-type]
    code, out, err = erecap("generate", tiny_model, PROMPT, "--system", "Plan.", *PLACE)
    assert (code, out) == (0, expected.text + "\n")
    count = expected.usage.prompt_tokens
    assert kept(err) == (count, count, 0, count)
    assert f"answer   {expected.usage.completion_tokens} tokens ({expected.finish_reason})" in err
    assert f"KV       {expected.usage.kv_bytes:,} bytes" in err
    for phase in ("prefill", "decode "):
        assert re.search(rf"{phase}  [\d,]+ ms, [\d,.]+ tokens/s\n", err)
    assert "dropped" not in err and "overflow" not in err


def test_layers_on_several_devices_give_the_same_answer(erecap, tiny_model) -> None:  # type: ignore[no-untyped-def]
    place, whole = ("--dtype", "float32", "--max-new-tokens", "12"), erecap("generate", tiny_model, PROMPT, *PLACE)
    code, out, err = erecap("generate", tiny_model, PROMPT, *place, "--device-map", "cpu=0-4,disk=5-7")
    assert (code, out, kept(err)) == (0, whole[1], kept(whole[2]))
    code, out, err = erecap("generate", tiny_model, PROMPT, *place, "--device-map", "cpu=0-4")
    assert code != 0 and not out and "layer 5 is on no device" in err


def test_modes_answer_alike_where_nothing_is_dropped_and_drop_what_was_asked(erecap, tiny_model) -> None:  # type: ignore[no-untyped-def]
    def called(*options: object) -> tuple[str, str]:
        code, out, err = erecap("generate", tiny_model, PROMPT, *PLACE, *options)
        assert code == 0, err
        return out, err

    full = called("--mode", "full")
    assert {called("--mode", mode)[0] for mode in ("erecap", "reuse", "recency", "mask")} == {full[0]}
    assert called("--kv-tokens", "all")[0] == called("--mode", "prune[recency]", "--keep", "1")[0] == full[0]
    prompt, *_, stored = kept(full[1])
    assert stored == prompt
    half, most = (kept(called("--mode", "prune[attention]", "--keep", share)[1])[3] for share in ("0.5", "0.9"))
    assert half < most < prompt
    assert "for dropping tokens" in called("--mode", "prune[attention]")[1]


def test_a_budget_says_what_it_drops(erecap, tiny_model) -> None:  # type: ignore[no-untyped-def]
    code, _, err = erecap("generate", tiny_model, PROMPT * 12, "--max-new-tokens", "200", "--mode", "full")
    assert code == 0 and re.search(r"overflow \d+ messages left out, [1-9][\d,]* tokens cut, to fit the window", err)
    code, _, err = erecap("generate", tiny_model, PROMPT * 6, *PLACE, "--kv-tokens", "64")
    assert code == 0 and "dropped  more tokens were stored than the budget (kv_tokens=64) allows" in err
    text = figures(Generation("go", "length", Usage(), Timing(), dropped_because="the budget (kv_tokens=64)"))
    assert text[-1] == "dropped  the budget (kv_tokens=64)"


def test_figures_of_known_counts() -> None:
    usage = Usage(2000, 1500, 500, 11, (1000, 1001), 4_000_000)
    assert figures(Generation("go", "stop", usage, Timing(1.0, 3000.0, 20.0, 500.0, 3501.0))) == [
        "prompt   2,000 tokens: 1,500 new, 500 reused; 1,000 kept for the answer (mean over layers)",
        "answer   11 tokens (stop)",
        "prefill  3,000 ms, 500.0 tokens/s, 20 ms of them for dropping tokens",
        "decode   500 ms, 20.0 tokens/s",
        "KV       4,000,000 bytes",
    ]
    single = figures(Generation("go", "stop", Usage(5, 5, 0, 1), Timing(prefill_ms=10.0)))
    assert single[3] == "decode   0 ms", "the first token comes with the prefill, so there is no rate"


class Written(io.StringIO):
    """Standard output that remembers how often it was written to."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def write(self, text: str) -> int:
        self.parts.append(text)
        return super().write(text)


@pytest.mark.parametrize("mode", ["erecap", "full", "prune[recency]", "mask"])
def test_the_answer_appears_as_it_is_decoded(mode: str, tiny_model, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    from erecap.cli.talking import open_talker

    talker = open_talker(
        str(tiny_model), adapter=None, mode=mode, evict_by=None, kv_tokens=None, keep=None, max_new_tokens=12,
        temperature=0.0, seed=0, dtype="float32", device="cpu", threads=None,
    )  # fmt: skip
    out = Written()
    monkeypatch.setattr(sys, "stdout", out)
    answer = talker.answer([prompt_message(PROMPT)])
    assert out.getvalue() == answer.text + "\n"
    assert len([part for part in out.parts if part.strip()]) > 3


def test_sampling_follows_its_seed(erecap, tiny_model) -> None:  # type: ignore[no-untyped-def]
    def called(*options: object) -> str:
        code, out, err = erecap("generate", tiny_model, PROMPT, *PLACE, *options)
        assert code == 0, err
        return str(out)

    hot = ("--temperature", "5", "--seed")
    assert called(*hot, "1") == called(*hot, "1") != called(*hot, "2")
    assert called("--seed", "1") == called("--seed", "2")


def test_the_prompt_from_stdin(erecap, tiny_model, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    expected = erecap("generate", tiny_model, PROMPT, *PLACE)[1]
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPT))
    assert erecap("generate", tiny_model, "-", *PLACE)[1] == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8"))
    assert erecap("generate", tiny_model, "-") == (2, "", "error: stdin: not text in utf-8\n")


def test_a_trained_pruner_ranks(erecap, tiny_model, tmp_path) -> None:  # type: ignore[no-untyped-def]
    card = {"test": {"rankers": {"learned": {"kl": 0.1}, "random": {"kl": 0.2}}}}
    hidden = open_model(ModelSettings(str(tiny_model), dtype="float32", device="cpu")).facts["hidden_size"]
    save_pruner(tmp_path / "mine", Pruner(hidden, (4, 7)), {**card, "base": {"hash": fingerprint(tiny_model)}})
    save_pruner(tmp_path / "other", Pruner(hidden, (4, 7)), {**card, "base": {"hash": "sha256:other"}})
    ranked = ("--kv-tokens", "300", "--pruner", tmp_path / "mine")
    assert erecap("generate", tiny_model, PROMPT, *PLACE, *ranked)[0] == 0
    pruned = ("--mode", "prune[learned]", "--pruner", tmp_path / "mine")
    code, _, err = erecap("generate", tiny_model, PROMPT, *PLACE, *pruned)
    assert code == 0 and kept(err)[3] < kept(err)[0]
    code, out, err = erecap("generate", tiny_model, PROMPT, "--evict-by", tmp_path / "other")
    assert (code, out) == (1, "") and "trained for weights sha256:other" in err.splitlines()[-1]


def test_the_ranking_becomes_part_of_the_mode() -> None:
    mode, pruner = chosen_mode("erecap", "attention")
    assert mode.kv == Evict(by="attention", stale_first=True) and pruner is None
    assert chosen_mode("prune[learned]", "mine")[1] == "mine"


def test_of_several_lines_the_last_is_protected() -> None:
    assert prompt_message("Goal: cool it.")["protect"] == []
    text = "A shelf.\nA fridge.\n\nWhere is the mug?\n"
    ((start, end),) = prompt_message(text)["protect"]
    assert text[start:end] == "Where is the mug?"


MISTAKES = [
    (("",), "generate: the prompt is empty"),
    (("hi", "--mode", "fly"), "--mode: unknown mode 'fly'; allowed: full, expert"),
    (("hi", "--mode", "expert"), "--mode: expert asks no model"),
    (("hi", "--mode", "prune[learned]"), "--pruner: mode prune[learned] wants the trained pruner itself"),
    (("hi", "--pruner", "learned"), "--pruner: mode erecap wants the trained pruner itself"),
    (("hi", "--mode", "full", "--evict-by", "random"), "--evict-by: mode full leaves no choice of a ranking"),
    (("hi", "--mode", "recency", "--evict-by", "random"), "--evict-by: mode recency leaves no choice of a ranking"),
    (("hi", "--mode", "full", "--kv-tokens", "99"), "--kv-tokens: mode full has no budget"),
    (("hi", "--kv-tokens", "8"), "--kv-tokens: got '8'; allowed: auto, all, or a whole number, at least 16"),
    (("hi", "--kv-tokens", "some"), "--kv-tokens: got 'some'; allowed: auto"),
    (("hi", "--kv-tokens", "9" * 5000), "--kv-tokens: got '9999"),
    (("hi", "--kv-tokens", "²²"), "--kv-tokens: got '²²'; allowed: auto"),
    (("hi", "--dtype", "\x1b[31mred\x07"), r"\x1b[31mred\x07"),
    (("hi", "--keep", "0.5"), "--keep: mode erecap does not prune at prefill"),
    (("hi", "--mode", "prune[random]", "--keep", "0"), "--keep: got 0.0; allowed: above 0, at most 1"),
    (("hi", "--max-new-tokens", "5000"), "max_new_tokens must be from 1 to 1023, got 5000"),
    (("hi", "--dtype", "int3"), "int3"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[ascii(" ".join(m[0]))[:60] for m in MISTAKES])
def test_mistakes_are_one_line(erecap, tiny_model, arguments, words) -> None:  # type: ignore[no-untyped-def]
    code, out, err = erecap("generate", tiny_model, *arguments)
    complaints = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and out == "" and len(complaints) == 1 and words in complaints[0], err
    assert "Traceback" not in err and err.endswith(complaints[0] + "\n")


def test_a_model_that_is_not_there(erecap) -> None:  # type: ignore[no-untyped-def]
    code, _, err = erecap("generate", "./no-such-folder", "hi")
    assert code == 1 and err.startswith("error: ") and "no-such-folder" in err and err.count("\n") == 1


@pytest.mark.integration
def test_the_embedded_model_answers(erecap, embedded_model_folder: Path) -> None:  # type: ignore[no-untyped-def]
    arguments = ("Name three fruits.", "--max-new-tokens", "24", "--kv-tokens", "64")
    code, out, err = erecap("generate", embedded_model_folder, *arguments)
    assert code == 0 and re.search(r"[Aa]pple|[Bb]anana|[Oo]range|[Gg]rape", out)
    prompt, new, reused, stored = kept(err)
    assert prompt == new == stored > 10 and reused == 0


def test_early_exit_changes_no_answer_and_says_where_tokens_left(erecap, tiny_model) -> None:  # type: ignore[no-untyped-def]
    plain = erecap("generate", tiny_model, PROMPT, *PLACE)
    code, out, err = erecap("generate", tiny_model, PROMPT, *PLACE, "--exit", "layer=1,threshold=0")
    assert (code, out) == (0, plain[1])
    assert re.search(r"exits    (\d+ of 12 tokens left after layer 1|no token left early); [\d,]+ bytes", err), err
    assert "exits" not in plain[2]
    usage = Usage(completion_tokens=9, exit_layers=(3, 5), exit_differing=1, exit_bytes=8, kept_per_layer=(4,) * 6)
    assert exits_of(usage) == "2 of 9 tokens left after layers 3 to 5, 1 of them not what all layers choose"
    assert usage.exit_skipped_layers == 4 and exits_of(Usage()) == "no token left early"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--exit", "layer=9"), "layer is 9; allowed: 1 to 7 of this model"),
        (("--exit", "layer=1,depth=2"), "--exit: unknown setting 'depth'; allowed: predictor, layer, threshold,"),
        (("--exit", "layer=1,threshold"), "--exit: got 'threshold'; allowed: settings such as layer=20,threshold=0.9"),
        (("--exit", "layer=one"), "--exit: layer is 'one'; allowed: 1 or more"),
        (("--exit", "layer=1,threshold=high"), "--exit: threshold is high; allowed: 0 to 1"),
        (("--exit", "layer=1,lossless=1"), "--exit: lossless is 1; allowed: true or false"),
        (("--exit", "layer=1,layer=1"), "--exit: got 'layer=1,layer=1'; allowed: each setting once"),
        (("--exit", "nowhere"), "nowhere"),
        (("--exit", ""), "--exit: exit must be None, an Exit, a mapping such as {'layer': 20}, or the name"),
        (("--exit", "layer=1", "--mode", "full"), "--exit: mode full reads each chat anew; allowed with erecap, reuse"),
        (("--exit", "layer=1,lossless=false", "--temperature", "1"), "decodes greedily: use lossless, or temperature"),
    ],
)
def test_an_early_exit_that_cannot_be_had_is_one_line(erecap, tiny_model, options, said) -> None:  # type: ignore[no-untyped-def]
    code, _, err = erecap("generate", tiny_model, PROMPT, *PLACE, *options)
    assert code != 0 and said in err and "Traceback" not in err and err.count("\n") == 1
