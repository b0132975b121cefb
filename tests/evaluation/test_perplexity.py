"""Strided perplexity on a tiny model, by hand; and going on after a kill."""

from __future__ import annotations

import json
import math
from copy import deepcopy

import pytest
import torch
from tokenizers import processors

from erecap.config.modes import parse_mode
from erecap.errors import ConfigError, RunError
from erecap.evaluation.comparison import Measured, compare
from erecap.evaluation.items import Items
from erecap.evaluation.perplexity import KEYS, KIND, MEASURES, check_window, perplexity, pieces_of
from erecap.evaluation.subjects import Change, Subject, build_subjects
from erecap.evaluation.texts import Text, read_texts
from tests.context.small_tokenizers import byte_level

TEXT = "\n".join(f"On the shelf {n} you see a müg {7 * n}." for n in range(9))


def quiet(_: str) -> None:
    pass


def measured(opened, tmp_path, window, stride, texts=(TEXT,), changes=(), fresh: bool = True):
    """Rows of each subject, what was read, and the figures."""
    subjects = build_subjects(opened(), changes)
    items = Items(tmp_path / "rows.jsonl", KIND, KEYS, fresh=fresh)
    rows, read = perplexity(subjects, [Text("t", text) for text in texts], items, window, stride, quiet)
    figures = compare(MEASURES, [Measured(s.name, {}, own) for s, own in zip(subjects, rows, strict=True)])
    return rows, read, figures


def whole_nats(model, ids) -> float:
    with torch.no_grad():
        rows = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return -float(sum(rows[n - 1, ids[n]] for n in range(1, len(ids))))


def test_pieces_hold_every_token_once_behind_its_context() -> None:
    ids = byte_level()(TEXT)["input_ids"]
    pieces = pieces_of(TEXT, byte_level(), 50, 20)
    assert [token for piece in pieces for token in piece.scored] == ids[1:]
    read = 1
    for piece in pieces:
        assert list(piece.context) == ids[max(0, read - 30) : read] and len(piece.scored) <= 20
        read += len(piece.scored)
    first = byte_level().decode(ids[:1])
    assert sum(piece.bytes for piece in pieces) == len(TEXT.encode()) - len(first.encode())
    assert pieces_of("a", byte_level(), 50, 20) == []


def test_a_tokenizer_that_begins_texts_gives_the_first_token_its_context() -> None:
    tokenizer = deepcopy(byte_level())
    tokens = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<|im_start|>", "<|im_end|>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=tokens
    )
    ids = byte_level()(TEXT)["input_ids"]
    assert tokenizer(TEXT)["input_ids"] == [tokens[0][1], *ids, tokens[1][1]]
    pieces = pieces_of(TEXT, tokenizer, 50, 20)
    assert [token for piece in pieces for token in piece.scored] == ids and pieces[0].context == (tokens[0][1],)
    assert sum(piece.bytes for piece in pieces) == len(TEXT.encode())


def test_strided_equals_whole_where_it_fits(opened, tmp_path) -> None:
    ids = byte_level()(TEXT)["input_ids"]
    nats = whole_nats(opened().model, ids)
    rows, read, [dense] = measured(opened, tmp_path, len(ids) + 64, 64)
    assert len(rows[0]) == read["pieces"] > 2 and read["tokens"] == len(ids) - 1
    assert sum(row["nats"] for row in rows[0]) == pytest.approx(nats, rel=1e-4)
    assert dense["figures"]["perplexity"]["value"] == pytest.approx(math.exp(nats / (len(ids) - 1)), rel=1e-3)
    assert dense["figures"]["bits a byte"]["value"] == pytest.approx(nats / math.log(2) / read["bytes"], rel=1e-4)
    assert measured(opened, tmp_path, 40, 20)[2][0]["figures"]["perplexity"]["value"] != pytest.approx(
        dense["figures"]["perplexity"]["value"], rel=1e-3
    )


def test_changed_models_stand_beside_the_dense_one(opened, plan, tmp_path) -> None:
    changes = [
        Change(parse_mode("reuse")),
        Change(parse_mode("recency"), kv_tokens=32),
        Change(layers=plan("whole")),
        Change(layers=plan("thin", blocks=(2, 5))),
    ]
    _, _, figures = measured(opened, tmp_path, 200, 40, changes=changes)
    dense, reuse, recency, whole, thin = (row["figures"]["perplexity"] for row in figures)
    assert "against_dense" not in dense and whole["against_dense"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert reuse["against_dense"]["value"] == pytest.approx(1, abs=1e-3)
    for other in (recency, thin):
        assert other["against_dense"]["value"] == pytest.approx(other["value"] / dense["value"], rel=1e-3)
        assert abs(other["against_dense"]["value"] - 1) > 1e-3
    assert [row["kept"] is None for row in figures] == [True, False, False, True, True]
    assert figures[1]["kept"] == 1 and 0.1 < figures[2]["kept"] < 0.9


class Killed(Exception):
    """Stands for the end of a process."""


def test_a_killed_evaluation_goes_on(opened, tmp_path, monkeypatch) -> None:
    changes = [Change(parse_mode("recency"), kv_tokens=32)]
    straight = measured(opened, tmp_path, 80, 40, changes=changes)
    asked, scores = [], Subject.scores

    def counted(self, context, continuation, protect=()):
        if len(asked) == 3:
            raise Killed
        asked.append((self.name, context))
        return scores(self, context, continuation, protect)

    path = tmp_path / "rows.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(Subject, "scores", counted)
        with pytest.raises(Killed):
            measured(opened, tmp_path, 80, 40, changes=changes)
    with path.open("ab") as file:
        file.write(b'{"subject": "half a r')  # the kill came while a row was written
    kept = path.read_bytes().split(b"\n")[:4]
    again = []

    def noted(self, context, continuation, protect=()):
        again.append((self.name, context))
        return scores(self, context, continuation, protect)

    monkeypatch.setattr(Subject, "scores", noted)
    assert measured(opened, tmp_path, 80, 40, changes=changes, fresh=False) == straight
    assert path.read_bytes().split(b"\n")[:4] == kept and len(kept) == 4
    assert not set(asked) & set(again) and len(asked) + len(again) == 2 * straight[1]["pieces"]
    again.clear()
    measured(opened, tmp_path, 80, 40, changes=changes, fresh=False)
    assert again == []


def test_rows_that_are_none_are_refused(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    Items(path, KIND, KEYS).add("s", "i", {"nats": 1.0, "tokens": 1, "bytes": 2})
    assert len(Items(path, KIND, KEYS)) == 1
    whole = path.read_text()
    for damage, message in (
        (whole + '{"subject": "s"}\n', r"rows\.jsonl:3: the row is damaged \(it lacks nats, tokens, bytes\)"),
        (whole + "[1]\n", r"rows\.jsonl:3: the row is damaged"),
        (whole + "\xff\n", r"rows\.jsonl:3: the row is damaged"),
        (whole.replace(KIND, "qa"), "holds no rows of `erecap evaluate perplexity`; --fresh"),
        ("{}\n", "holds no rows of"),
    ):
        path.write_bytes(damage.encode("latin-1"))
        with pytest.raises(RunError, match=message):
            Items(path, KIND, KEYS)
    assert len(Items(path, KIND, KEYS, fresh=True)) == 0


def test_windows_without_context_are_refused(opened, tmp_path) -> None:
    for window, stride, message in (
        (1, 1, "--window: got 1"),
        (20, 20, "got 20; allowed: 1 to 19"),
        (9, 0, "--stride"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_window(window, stride)
    with pytest.raises(ConfigError, match="--window: got 2000; allowed: at most 1024, the model's window"):
        measured(opened, tmp_path, 2000, 40)
    assert measured(opened, tmp_path, None, None)[1]["stride"] == 512
    with pytest.raises(ConfigError, match="a text of one token has nothing to score"):
        measured(opened, tmp_path, 40, 20, texts=("a",))


def test_texts_of_files(tmp_path) -> None:
    plain, rows = tmp_path / "a.md", tmp_path / "b.jsonl"
    plain.write_text("\ufeffOne text.\nTwo lines.")
    lines = [
        {"text": "t"},
        "bare",
        {"messages": [{"role": "user", "content": "m"}, {"role": "assistant", "content": "n"}]},
        {"instruction": "i", "instances": [{"input": "", "output": "o"}]},
        {"text": " "},
    ]
    rows.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert [(text.name, text.content) for text in read_texts([plain, rows])] == [
        ("a.md", "One text.\nTwo lines."), ("b.jsonl:1", "t"), ("b.jsonl:2", "bare"), ("b.jsonl:3", "m\nn"),
        ("b.jsonl:4", "i\no"),
    ]  # fmt: skip
    rows.write_text(json.dumps({"turns": ["a", "b"]}))
    assert read_texts([rows], "turns")[0].content == "a\nb"
    for content, message in (
        (b"", "holds no text"),
        (b"caf\xe9", r"not UTF-8 \(byte 3\)"),
        (b"{oops\n", r"b\.jsonl:1: no text in the row"),
        (b'{"other": 1}\n', "no key 'instruction'"),
        (b'{"text": 1}\n', "a part of it is no text"),
        (b"[3]\n", "no text in the row"),
        (b"3\n", r"no text in the row \(it or a part of it has another form\); --field names its key"),
    ):
        rows.write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            read_texts([rows])
    with pytest.raises(ConfigError, match="No such file"):
        read_texts([tmp_path / "nowhere.txt"])
