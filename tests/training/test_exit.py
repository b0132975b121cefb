"""Training of an exit predictor: one command on a tiny model, a card, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from erecap.cli.main import app
from erecap.config.exits import Exit
from erecap.decoding.exits.candidates import FEATURES, Followers
from erecap.decoding.exits.predictor import ExitPredictor
from erecap.decoding.exits.states import ExitText, layer_states
from erecap.errors import ConfigError, ModelError
from erecap.models import load
from erecap.session import ReplanSession
from erecap.training.exit.collect import Looks, collect_looks
from erecap.training.exit.score import LOOK, best_constant, constant_score, score
from erecap.training.exit.settings import ExitTraining
from erecap.training.exit.train import fit_predictor, probabilities, static_layers
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn
from tests.tokens.models import tiny


def run(*arguments: object) -> str:
    """The output of a command; its error is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_looks_are_those_of_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features and labels, written out for one token."""
    used = tiny("llama")
    ids = torch.randint(2, 40, (30,), generator=torch.Generator().manual_seed(1)).tolist()
    text = ExitText("text", tuple(ids), (10, 29))
    small = [4, 5, 6, 7, 8, 9, 50]
    monkeypatch.setattr("erecap.training.exit.collect.WIDEST_GAP", 1)  # the look before is at the layer before
    looks = collect_looks(used, [text], range(2, 8), small, tokens=100, seed=0)
    assert looks.features.shape == (2, 6, FEATURES) and looks.texts.tolist() == [0, 0]
    states = layer_states(used, ids, [29])
    with torch.no_grad():
        logits = used.lm_head(used.model.norm(states[:, 0]))
        assert torch.allclose(logits[-1], used(torch.tensor([ids])).logits[0, -1], atol=1e-4)
    first = Followers(ids).after([])
    for column, layer in enumerate(range(2, 8)):
        row = logits[layer - 1]
        rest = sorted((token for token in small if token not in first), key=lambda token: -float(row[token]))
        four = sorted([*first, *rest][:4], key=lambda token: -float(row[token]))
        found = looks.features[1, column]
        assert torch.allclose(found[:4], row[four], atol=1e-4)
        assert torch.allclose(found[4:8], row[four].softmax(0), atol=1e-5)
        before = logits[layer - 2][four].softmax(0) if column else found[4:8]
        assert torch.allclose(found[8:], found[4:8] - before, atol=1e-5)
        assert bool(looks.right[1, column]) == (four[0] == int(logits[-1].argmax()))


def made_looks(tokens: int = 400) -> Looks:
    """Layers 2, 4 and 6, of which the first knows nothing; whether a candidate is final shows in one feature."""
    generator = torch.Generator().manual_seed(2)
    right = torch.rand(tokens, 3, generator=generator) < torch.tensor([0.3, 0.6, 0.9])
    features = 30 + torch.randn(tokens, 3, FEATURES, generator=generator)
    features[:, 1:, 4] += 4 * right[:, 1:]
    return Looks((2, 4, 6), features, right, torch.zeros(tokens, dtype=torch.long))


def test_the_networks_learn_where_a_feature_tells() -> None:
    looks = made_looks()
    predictor = fit_predictor(looks, ExitTraining(epochs=20, lr=3e-3))
    found = probabilities(predictor, looks)
    right = ((found > 0.5) == looks.right).float().mean(0)
    assert right[1] > 0.95 and right[2] > 0.95
    assert predictor.nbytes() == 3 * 4 * (13 * 512 + 513)
    again = fit_predictor(looks, ExitTraining(epochs=20, lr=3e-3))
    assert all(torch.equal(a, b) for a, b in zip(predictor.parameters(), again.parameters(), strict=True))
    assert static_layers(looks, looks.right)[-1] == 6 and 4 in static_layers(looks, found > 0.5)


def test_scores_by_hand() -> None:
    right = torch.tensor([[True, True], [False, True], [False, False]])
    looks = Looks((2, 4), torch.zeros(3, 2, FEATURES), right, torch.zeros(3, dtype=torch.long))
    found = torch.tensor([[0.9, 0.9], [0.1, 0.9], [0.1, 0.9]])
    result = score(found, looks, (2, 4), 0.5, 8)
    assert (result.exits, result.layer) == (1.0, 10 / 3) and result.right == pytest.approx(2 / 3)
    assert result.saved == pytest.approx((6 + 4 - 4 - LOOK * 5) / 24)
    assert constant_score(looks, 2, 8).saved == pytest.approx((6 - 2 - 2 - LOOK * 3) / 24)
    assert best_constant(looks, 8) == 4
    none = score(torch.zeros(3, 2), looks, (4,), 0.5, 8)
    assert none.exits == 0 and none.right is None and none.saved == pytest.approx(-LOOK * 3 / 24)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model's folder, and chats that it answered itself."""
    place = tmp_path_factory.mktemp("exit")
    model("llama").save_pretrained(place / "model")
    byte_level().save_pretrained(place / "model")
    rows = []
    for number in range(3):
        messages = start()
        for step in range(2):
            answer = ReplanSession(model("llama"), byte_level()).generate(messages, max_new_tokens=10).text
            messages = messages + turn(answer, 10 * number + step)
        rows.append({"messages": messages[:-1]})
    (place / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "prompts.jsonl").write_text(json.dumps({"turns": ["Where is the mug 1?", "And the shelf 2?"]}) + "\n")
    return {"model": place / "model", "chats": place / "chats.jsonl", "prompts": place / "prompts.jsonl"}


def test_one_command_trains_and_a_session_uses_it(world: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "exits"
    said = run(
        "train", "exit", world["chats"], world["prompts"], "--model", world["model"], "--out", out,
        "--epochs", 3, "--new-tokens", 8, "--threads", 1,
    )  # fmt: skip
    card = json.loads((out / "card.json").read_text())
    assert card["layers"] == 8 and card["base"]["hash"].startswith("sha256:") and card["base"]["adapter"] is None
    assert set(card["static"]) <= set(card["known"]) and card["known"] == list(range(2, 8))
    assert card["test"]["predictor"]["tokens"] == card["test"]["tokens"] > 0 and card["bytes"] > 0
    assert "# Exit predictor" in said and (f"always after layer {card['test']['constant']['at']}" in said)
    assert ("does not beat" in said) == (not card["passed"])
    used, tokenizer = load(str(world["model"]), "float32", "cpu")
    if not card["passed"]:
        with pytest.raises(ModelError, match="no test in which it beats a constant exit layer; train it on more text"):
            ReplanSession(used, tokenizer, exit=str(out))
    card["test"]["predictor"]["saved"] = 1.0
    (out / "card.json").write_text(json.dumps(card))
    wanted = ReplanSession(used, tokenizer, draft=False).generate(start(), max_new_tokens=12).text
    session = ReplanSession(used, tokenizer, draft=False, exit=Exit(predictor=str(out), threshold=0.0))
    answer = session.generate(start(), max_new_tokens=12)
    assert answer.text == wanted and answer.usage.drafted_tokens

    # Of other weights in a folder of the same shape, it is refused.
    for weight in used.parameters():
        weight.data.mul_(1.5)
    used.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    other, _ = load(str(tmp_path / "other"), "float32", "cpu")
    with pytest.raises(ModelError, match=r"the exit predictor was trained for weights sha256:.*; train one for it"):
        ReplanSession(other, tokenizer, exit=str(out))


def test_the_bounds_of_the_same_model_in_one_command(world: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "exits.json"
    said = run(
        "bench", "exits", world["chats"], "--model", world["model"], "--dtype", "float32", "--threads", 1,
        "--kv", 20, "--repetitions", 2, "--small", 20, "--out", out, "--exit-layer", 7, "--threshold", 0, "--timed", 1,
    )  # fmt: skip
    assert "whole head" in said and "draft's candidates" in said and "one token: layers" in said
    found = json.loads(out.read_text())
    summary = found["summary"]
    assert summary["layers"] == 8 and summary["tokens"] == len(found["raw"]["named"]) > 5
    assert summary["heads"]["full"]["named"] == 1.0 and summary["heads"]["full"]["share_by_layer"][-1] == 1.0
    assert summary["exit"]["same_texts"] == 1.0 and summary["exit"]["n"] == 5 and "decoded with early exit" in said
    assert found["settings"]["sources"] == ["chats.jsonl"] and "grammar" not in summary["heads"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("nowhere",), "nowhere: no such file or folder"),
        (("chats", "--first", 8), "--first is 8; allowed: 1 to 7 of this model"),
        (("chats", "--lr", 0), "--lr is 0.0; allowed"),
        (("chats", "--held-out", 0.99), "--held-out is 0.99; allowed: 0.05 to 0.9"),
        (("chats", "--tokens", 0), "--tokens is 0; allowed: 16 to 16777216$"),
        (("chats", "--texts", 0), "--texts is 0; allowed: 1 to 1048576$"),
        (("broken",), "broken.jsonl:1: not JSON"),
        (("empty",), "empty: holds no episodes.jsonl; allowed: folders that `erecap collect` wrote, JSONL files"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    world: dict[str, Path], tmp_path: Path, options: tuple[Any, ...], said: str
) -> None:
    (tmp_path / "broken.jsonl").write_text("{\n")
    (tmp_path / "empty").mkdir()
    made = {"chats": world["chats"], "broken": tmp_path / "broken.jsonl", "empty": tmp_path / "empty"}
    data = made.get(options[0], options[0])
    with pytest.raises(ConfigError, match=said):
        run("train", "exit", data, *options[1:], "--model", world["model"], "--out", tmp_path / "o", "--threads", 1)


def test_a_folder_that_holds_something_is_refused_before_the_model_is_loaded(
    world: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for options in ((), ("--fresh",)):
        with pytest.raises(ConfigError, match="out holds no exit predictor but is not empty; choose another folder"):
            run("train", "exit", world["chats"], "--model", "nowhere", "--out", out, *options)
    (out / "notes.txt").unlink()
    (out / "card.json").write_text("{}")
    with pytest.raises(ConfigError, match="out holds an exit predictor already; choose another folder, or give --fr"):
        run("train", "exit", world["chats"], "--model", "nowhere", "--out", out)
    assert (out / "card.json").read_text() == "{}"
    run("train", "exit", world["chats"], "--model", world["model"], "--out", out, "--fresh", "--epochs", 1)
    assert json.loads((out / "card.json").read_text())["layers"] == 8


def test_a_predictor_has_a_network_for_each_layer() -> None:
    assert ExitPredictor((3, 5))(5, torch.zeros(7, FEATURES)).shape == (7,)
