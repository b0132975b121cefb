"""`erecap layers slice` and `erecap layers profiles`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

PLACE = ("--dtype", "float32", "--device", "cpu", "--threads", "1")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    place = tmp_path / "text.txt"
    place.write_text("".join(f"You see a mug {number} on the shelf {number % 7}. " for number in range(200)))
    return place


def few(text: Path) -> tuple[object, ...]:
    return ("--text", text, "--count", 4, "--length", 32, *PLACE)


def test_a_slice_is_made_once_and_used(erecap, tiny_model, text, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    options = ("--heads", "0.25", "--channels", "0.25", "--multiple", "4", "--reconstruct", "least-squares")
    code, out, err = erecap("layers", "slice", tiny_model, "--out", tmp_path / "thin", *options, *few(text))
    assert code == 0, err
    assert out.startswith("heads 8 of 32 (0.25), channels 96 of 384 (0.25), sublayers miss ")
    assert "layer 0, channels: " in err
    found = json.loads((tmp_path / "thin" / "card.json").read_text())["found"]
    assert found["command"] == (
        f"erecap layers slice {tiny_model.name} --heads 0.25 --channels 0.25 --multiple 4 --reconstruct least-squares"
    )
    assert found["calibration"]["sources"][0]["name"] == "text.txt" and str(tmp_path) not in json.dumps(found)
    code, again, err = erecap("layers", "slice", tiny_model, "--out", tmp_path / "thin", *options, *few(text))
    assert code == 0 and "made already with the same inputs, kept" in again and "layer 0" not in err
    code, _, err = erecap(
        "layers", "slice", tiny_model, "--out", tmp_path / "thin", *options, "--spread", "global", *few(text)
    )
    assert code == 2 and "thin holds a slice that was made from other inputs; choose another folder" in err
    whole = (tmp_path / "thin" / "plan.safetensors").read_bytes()
    (tmp_path / "thin" / "plan.safetensors").write_bytes(whole + b"x")
    code, _, err = erecap("layers", "slice", tiny_model, "--out", tmp_path / "thin", *options, *few(text))
    assert code == 1 and "plan.safetensors is damaged" in err and "other inputs" not in err
    (tmp_path / "thin" / "plan.safetensors").write_bytes(whole)
    check = ("--tokens", "64", "--decoded", "2", "--repetitions", "1", "--text", text)
    code, out, err = erecap("layers", "check", tmp_path / "thin", tiny_model, *check, *PLACE)
    assert code == 0, err
    assert ", by FLOPs 1." in out.splitlines()[2] and ", by FLOPs 1." in out.splitlines()[3]


def test_profiles_are_made_in_one_go_and_only_what_changed_again(erecap, tiny_model, text, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    options = ("--multiple", "4", "--reconstruct", "gain", "--ratios", "0.25,0.5")
    folder = tmp_path / "profiles"
    code, out, err = erecap("layers", "profiles", tiny_model, "--out", folder, *options, *few(text))
    assert code == 0, err
    names = ["heads-0.25", "heads-0.5", "channels-0.25", "channels-0.5"]
    assert (
        [line.split()[0] for line in out.splitlines()]
        == names
        == sorted((place.name for place in folder.iterdir()), key=names.index)
    )
    (folder / "heads-0.5" / "plan.safetensors").write_bytes(b"")
    code, out, _ = erecap("layers", "profiles", tiny_model, "--out", folder, *options, *few(text))
    assert code == 0 and [line.endswith("; kept") for line in out.splitlines()] == [True, False, True, True]
    code, out, _ = erecap("layers", "profiles", tiny_model, "--out", folder, *options, *few(text), "--length", "24")
    assert code == 0 and "kept" not in out  # other text


def test_two_four_says_that_nothing_gets_faster_here(erecap, tiny_model, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, err = erecap(
        "layers", "slice", tiny_model, "--out", tmp_path / "sparse", "--two-four", "magnitude", *PLACE
    )
    assert code == 0, err
    assert out.splitlines()[0] == f"two of four weights in 56 projections; in {tmp_path / 'sparse'}"
    assert "2:4: nothing gets faster here: cpu has no 2:4 kernels" in out
    code, _, err = erecap(
        "bench", "slices", "--plan", tmp_path / "sparse", "--pack", "--model", tiny_model, "--dtype", "float32"
    )
    assert code == 1 and "2:4 weights get nothing faster here: cpu has no 2:4 kernels" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("slice",), "slice: nothing goes; give heads, channels or two-four"),
        (("slice", "--heads", "1.5"), "heads: got 1.5; allowed: a share from 0 to below 1"),
        (("slice", "--channels", "nan"), "allowed: a finite number"),
        (("slice", "--heads", "0.01", "--importance", "weights"), "heads 0.01: none of 16 KV groups would go"),
        (("slice", "--heads", "0.6", "--importance", "weights"), "at most 8 of 16 KV groups can go; allowed: to 0.5"),
        (
            ("slice", "--channels", "0.5", "--importance", "weights", "--seed", "3"),
            "--seed: changes nothing where no text",
        ),
        (
            ("slice", "--heads", "0.5", "--multiple", "8"),
            "--multiple: changes nothing without --channels; leave it out",
        ),
        (("slice", "--two-four", "magnitude", "--spread", "global"), "--spread: changes nothing without --heads or"),
        (
            ("slice", "--heads", "0.5", "--damping", "1"),
            "--damping: changes nothing without --reconstruct least-squares",
        ),
        (("slice", "--heads", "0.5", "--text", "nowhere"), "calibration texts: got 'nowhere'; allowed: planner"),
        (("slice", "--heads", "0.5", "--out", "FILE"), "file is a file; name a folder"),
        (("profiles", "--ratios", "0.1,x"), "--ratios: got '0.1,x'; allowed: shares between 0 and 1"),
        (("profiles", "--ratios", "1"), "--ratios: got '1'; allowed: shares between 0 and 1"),
    ],
)
def test_mistakes_are_told_in_one_line(erecap, tiny_model, tmp_path: Path, arguments, message) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "file").touch()
    given = [tmp_path / "file" if part == "FILE" else part for part in arguments[1:]]
    code, _, err = erecap("layers", arguments[0], tiny_model, "--out", tmp_path / "x", *given)
    assert code in (1, 2) and message in " ".join(err.split()) and not (tmp_path / "x").exists()
