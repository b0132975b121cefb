"""Bounds of early exit: where tokens are named, against brute force; the bounds by hand; the texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from erecap.bench.exits.bounds import bounds, summarise
from erecap.bench.exits.named import named_rows
from erecap.bench.exits.settings import ExitsBench
from erecap.bench.exits.table import chosen_line, exits_tables, times_line
from erecap.bench.exits.texts import chat_text, texts_hash, texts_of
from erecap.decoding.exits.states import ExitText
from erecap.errors import ConfigError, ErecapError
from tests.context.small_tokenizers import byte_level
from tests.session.chats import start, turn
from tests.tokens.models import tiny

TIMES = {"layers": 8.0, "layers_chunk": 12.0, "head": 2.0, "head_chunk": 2.5, "small": 0.2, "slice": 0.1,
         "token": 10.5, "chosen": 8.4}  # fmt: skip


def test_layers_that_name_the_final_token_against_brute_force() -> None:
    model = tiny("gemma3")
    ids = torch.randint(2, 97, (24,), generator=torch.Generator().manual_seed(6)).tolist()
    few = (5, 9, 40, 70)
    text = ExitText("text", tuple(ids), (8, 15, 16, 23), (None, few, (3,), few))
    rows, small = named_rows(ExitsBench(small=3), model, [text])
    assert len(rows) == 3 and small == 3 and [row["allowed"] for row in rows] == [None, 4, 4]  # one had no choice
    with torch.no_grad():
        output = model(torch.tensor([ids]), output_hidden_states=True)
        # The last of the states has been normed by the model.
        tables = [model.lm_head(model.model.norm(state[0])) for state in output.hidden_states[1:-1]]
        tables.append(output.logits[0])
    for row, place, allowed in zip(rows, (8, 15, 23), (None, few, few), strict=True):
        among = list(range(97)) if allowed is None else list(allowed)
        named = [among[int(table[place][among].argmax())] for table in tables]
        final = named[-1]
        first = next(n for n, token in enumerate(named, 1) if token == final)
        stable = next(n for n in range(1, 9) if all(token == final for token in named[n - 1 :]))
        assert row["full"] == {"first": first, "stable": stable}
        assert row["grammar"] == ({"first": first, "stable": stable} if allowed else {"first": None, "stable": None})


def test_bounds_by_hand() -> None:
    found = bounds("full", [4, 8], [4, 8], TIMES, 8, 3)
    assert found["layers_only"] == pytest.approx(8 / 6) and found["one_head"] == pytest.approx(10 / 8)
    # From layer 4 on: one and five looks of 2 ms; from layer 8 on nothing is gained and nothing lost.
    assert found["checked"] == pytest.approx(10 / 10) and found["checked_from"] == 8
    sliced = bounds("draft", [4, 4], [6, 6], TIMES, 8, 3)
    # The whole head names it two layers later, and confirms it there.
    assert sliced["checked"] == pytest.approx(10 / (6 + 0.1 + 2)) and sliced["checked_from"] == 6
    draft, finish = 3 * (4 + 0.1), 4 + 4 * 1.5 + 2.5
    assert sliced["verified"] == pytest.approx(40 / (draft + finish)) and sliced["verified_from"] == 4


def test_the_verdict_and_the_tables() -> None:
    never = {"first": 8, "stable": 8}
    rows = [{"text": "a", "allowed": None, "full": never, "small": never, "draft": never, "grammar": never}]
    summary = summarise(rows, TIMES, 8, 5, 3)
    assert summary["verdict"] == "does not pay" and "grammar" not in summary["heads"]
    early = {"first": 2, "stable": 2}
    rows.append({"text": "a", "allowed": 3, "full": early, "small": early, "draft": early, "grammar": early})
    summary = summarise(rows, TIMES, 8, 5, 3)
    assert summary["verdict"] is None and summary["heads"]["full"]["share_by_layer"] == [0, *[0.5] * 6, 1.0]
    assert summary["slice_alone"] == pytest.approx(10 / 8.1)
    assert chosen_line(summary).endswith("in place of the head: 1.25x (bound: 1.23x)")
    assert [table.row_count for table in exits_tables(summary)] == [4, 4] and "head 2.00 ms" in times_line(summary)


def test_a_chat_decodes_its_answers() -> None:
    tokenizer = byte_level()
    messages = [*start(), *turn("go to shelf 1", 1), {"role": "assistant", "content": "look"}]
    text = chat_text("chat", messages, tokenizer, [tokenizer.eos_token_id], 4096)
    assert text is not None
    whole = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False)["input_ids"]
    assert list(text.ids) == whole[: len(text.ids)]
    written = [whole[row + 1] for row in text.rows]
    assert tokenizer.decode([token for token in written if token != tokenizer.eos_token_id]).startswith("go to shelf 1")
    assert chat_text("chat", messages, tokenizer, [tokenizer.eos_token_id], 20) is None


def test_texts_of_all_kinds(tmp_path: Path) -> None:
    tokenizer = byte_level()
    rows = [
        {"messages": [*start(), {"role": "assistant", "content": "look"}]},
        {"text": "take apple 1 from countertop 12, then move it to shelf 4"},
        {"instruction": "Say it.", "input": "now", "output": "it"},
        {"turns": ["Where?", "And then?"], "reference": []},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    asked: list[int] = []

    def answer(chat: list) -> str:  # type: ignore[type-arg]
        asked.append(len(chat))
        return "on the shelf 2"

    ends = [tokenizer.eos_token_id]
    found = texts_of(path, tokenizer, ends, max_tokens=500, limit=9, answer=answer)
    assert len(found) == 4 and asked == [1, 3]
    assert len(texts_of(path, tokenizer, ends, max_tokens=500, limit=2)) == 2
    with pytest.raises(ConfigError, match=r"rows.jsonl:4: has turns and no answers"):
        texts_of(path, tokenizer, ends, max_tokens=500, limit=9)
    path.write_text('{"title": 1}\n')
    with pytest.raises(ConfigError, match=r"rows.jsonl:1: fields title; allowed: messages, turns, text"):
        texts_of(path, tokenizer, ends, max_tokens=500, limit=9)
    with pytest.raises(ConfigError, match="cannot be read"):
        texts_of(tmp_path / "nowhere", tokenizer, ends, max_tokens=500, limit=9)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"turns": []}', "turns must be a list of texts, one or more"),
        (b'{"turns": ["Where?", 3]}', "turns must be a list of texts, one or more"),
        (b'{"messages": []}', "messages is empty; allowed: one or more"),
        (b'{"messages": [{"role": "robot", "content": "go"}]}', "a message has the role 'robot'; allowed: system"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', r"message 0 \(user\) is not valid Unicode"),
        (b'{"text": 5}', "text is of type int; allowed: a text"),
        (b'{"turns": "Where?"}', "turns is of type str; allowed: a list"),
        (b'{"instruction": "Say it.", "output": 5}', "output is of type int; allowed: a text"),
        (b'{"text": "caf\xe9"}', r"not UTF-8 \(byte 13 of the line\)"),
    ],
)
def test_what_is_wrong_with_a_text_is_told_with_file_and_line(tmp_path: Path, line: bytes, said: str) -> None:
    tokenizer, path = byte_level(), tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "take apple 1 from countertop 12"}\n' + line + b"\n")
    with pytest.raises(ErecapError, match=f"^rows.jsonl:2: {said}") as refused:
        texts_of(path, tokenizer, [tokenizer.eos_token_id], max_tokens=500, limit=9, answer=lambda chat: "here")
    assert "\n" not in str(refused.value)


def test_a_folder_of_something_else_says_so(tmp_path: Path) -> None:
    for read in (lambda: texts_hash([tmp_path]), lambda: texts_of(tmp_path, byte_level(), [0], max_tokens=9, limit=9)):
        with pytest.raises(ConfigError, match=r"holds no episodes\.jsonl; allowed: folders that `erecap"):
            read()
