"""`erecap layers`, and `--layers` of the commands that open a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

PLACE = ("--dtype", "float32", "--device", "cpu", "--threads", "1")


@pytest.fixture
def made(erecap, tiny_model, tmp_path: Path) -> Path:  # type: ignore[no-untyped-def]
    code, out, err = erecap("layers", "make", tiny_model, "--out", tmp_path / "thin", "--blocks", "6, 2")
    assert code == 0, err
    assert out.startswith("blocks 2, 6 of 8 layers; in ")
    return tmp_path / "thin"


def test_a_plan_is_shown(erecap, made: Path, tiny_model) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = erecap("layers", "show", made)
    assert code == 0 and "out       blocks 2, 6 (of 8 layers)" in out and "weights sha256:" in out
    assert f"found by  method by hand, command erecap layers make {tiny_model.name} --blocks 6, 2" in out
    assert "test      none: nobody has measured" in out
    assert json.loads((made / "card.json").read_text())["found"]["method"] == "by hand"


def test_the_command_of_a_plan_names_its_adapter(erecap, tiny_model, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from tests.models.test_adapters import make_adapter

    adapter = make_adapter(tmp_path / "tuned", tiny_model)
    code, _, err = erecap("layers", "make", tiny_model, "--out", tmp_path / "thin", "--mlp", "1", "--adapter", adapter)
    assert code == 0, err
    card = json.loads((tmp_path / "thin" / "card.json").read_text())
    assert card["found"]["command"] == f"erecap layers make {tiny_model.name} --mlp 1 --adapter tuned"


def test_a_plan_is_compared_with_the_whole_model(erecap, made: Path, tiny_model, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "text").write_text("You see a mug 1 on the shelf 2. " * 30)
    options = ("--tokens", "64", "--decoded", "4", "--repetitions", "2", "--text", tmp_path / "text")
    code, out, err = erecap("layers", "check", made, tiny_model, *options, *PLACE)
    assert code == 0, err
    shown = out.splitlines()
    assert [line.split("  ")[0] for line in shown] == [
        "same next token", "KL divergence", "prefill of 64", "decode, a token", "weights", "KV, a token",
    ]  # fmt: skip
    assert "of 64 tokens" in shown[0] and not shown[0].startswith("same next token   100.0")
    assert shown[5].endswith("768 bytes, whole model 1,024")  # 6 of 8 layers


def test_an_empty_plan_changes_no_token(erecap, tiny_model, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from erecap.layers import Base, LayerPlan, save_plan
    from erecap.models import fingerprint

    save_plan(tmp_path / "whole", LayerPlan(8, base=Base("tiny", fingerprint(tiny_model))))
    (tmp_path / "text").write_text("You see a mug 1 on the shelf 2. " * 30)
    options = ("--tokens", "40", "--decoded", "2", "--repetitions", "1", "--text", tmp_path / "text")
    code, out, err = erecap("layers", "check", tmp_path / "whole", tiny_model, *options, *PLACE)
    assert code == 0, err
    assert "same next token   100.0 % of 40 tokens" in out
    assert "KL divergence     0.0000 nats a token; largest difference of a logit 0" in out


def test_a_plan_is_exported(erecap, made: Path, tiny_model, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "exported"
    code, out, err = erecap("layers", "export", made, tiny_model, "--out", folder)
    assert code == 0, err
    assert out.startswith("6 layers, ") and json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 6
    answers = [
        erecap("generate", model, "Goal: find a mug.", "--max-new-tokens", "8", *PLACE, *options)[1]
        for model, options in ((folder, ()), (tiny_model, ("--layers", made)), (tiny_model, ()))
    ]
    assert answers[0] == answers[1] != answers[2]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("make", "MODEL", "--out", "x"), "name what is out with --blocks, --attention or --mlp"),
        (("make", "MODEL", "--out", "x", "--mlp", "1,a"), "--mlp: got 'a'; allowed: numbers of layers"),
        (("make", "MODEL", "--out", "x", "--mlp", "8"), "mlp: got 8; allowed: 0 to 7, the base has 8 layers"),
        (("make", "MODEL", "--out", "x", "--mlp", "9" * 5000), "allowed: numbers of layers, such as 6,10,24"),
        (("make", "MODEL", "--out", "FILE", "--mlp", "1"), "file: File exists"),
        (("make", "MODEL", "--out", "HOLED", "--mlp", "1"), "holed holds a layer plan already; choose another folder"),
        (("show", "nowhere"), "layer plan nowhere: no such folder, and no checkpoint of that name"),
        (("check", "nowhere", "MODEL"), "layer plan nowhere: no such folder"),
        (("check", "THIN", "MODEL", "--text", "nowhere.txt"), "nowhere.txt: No such file"),
        (("check", "THIN", "MODEL", "--text", "x.txt", "--seed", "1"), "--text goes without --seed"),
        (("export", "HOLED", "MODEL", "--out", "x"), "the plan cannot be exported: layer 3 is without its attention"),
    ],
)
def test_mistakes_are_told_in_one_line(erecap, made, tiny_model, tmp_path, arguments, message) -> None:  # type: ignore[no-untyped-def]
    erecap("layers", "make", tiny_model, "--out", tmp_path / "holed", "--attention", "3")
    (tmp_path / "file").touch()
    places = {"MODEL": tiny_model, "THIN": made, "HOLED": tmp_path / "holed", "FILE": tmp_path / "file"}
    code, _, err = erecap("layers", *(places.get(part, part) for part in arguments))
    assert code in (1, 2) and message in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_serving_refuses_a_plan_behind_a_proxy(erecap) -> None:  # type: ignore[no-untyped-def]
    code, _, err = erecap("serve", "--upstream", "http://127.0.0.1:9/v1", "--keep-tokens", "100", "--layers", "x")
    assert code == 2 and "--layers: the server behind a proxy has the model; leave it out" in err


def test_a_number_of_threads_has_its_limits(erecap, made, tiny_model) -> None:  # type: ignore[no-untyped-def]
    code, _, err = erecap("layers", "check", made, tiny_model, "--threads", "100000")
    assert code == 2 and "--threads" in err
