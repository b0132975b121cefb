"""Question answering with context: scores by hand, prompts, cutting, and answers of a tiny model."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace

import pytest

from erecap.config.modes import parse_mode
from erecap.errors import ConfigError
from erecap.evaluation.comparison import Measured, compare
from erecap.evaluation.items import Items
from erecap.evaluation.qa import KEYS, KIND, MEASURES, answer_questions
from erecap.evaluation.qa_scores import best_f1, exact, f1, first_line, normalised
from erecap.evaluation.questions import cut_middle, read_questions, spans
from erecap.evaluation.subjects import Change, build_subjects
from tests.context.small_tokenizers import byte_level

PASSAGE = "\n".join(f"On the shelf {n} you see a mug {7 * n}." for n in range(30))
ROWS = [
    {"input": "What is on shelf 2?", "context": PASSAGE, "answers": ["mug 14"]},
    {"input": f"Passage:\n{PASSAGE}\nQuestion:\nWhere is mug 21?\nAnswer:\n", "answers": ["shelf 3", "on shelf 3"]},
    {"question": "Where is mug 7?", "context": "Question: a\nAnswer: b", "answers": "shelf 1", "dataset": "triviaqa"},
]


@pytest.mark.parametrize(
    "answer, wanted, score",
    [
        ("The Grand Coulee Dam!", "grand coulee dam", 1.0),
        ("a mug", "mug", 1.0),
        ("the United States of America", "United States", 2 * (2 / 4) * 1 / (2 / 4 + 1)),
        ("mug mug shelf", "mug", 2 * (1 / 3) * 1 / (1 / 3 + 1)),
        ("U.S.A.", "usa", 1.0),
        ("", "mug", 0.0),
        ("fridge", "mug", 0.0),
        ("the", "a", 0.0),  # articles alone leave nothing to share
    ],
)
def test_f1_as_longbench_has_it(answer: str, wanted: str, score: float) -> None:
    assert f1(answer, wanted) == pytest.approx(score)


def test_the_best_of_several_answers_counts() -> None:
    assert best_f1("shelf 3", ["drawer", "on shelf 3"]) == pytest.approx(0.8)
    assert exact("The Shelf, 3.", ["drawer", "shelf 3"]) and not exact("shelf 33", ["shelf 3"])
    assert normalised("An  apple,\tthe pear; a-b") == "apple pear ab"
    assert first_line("\n\nmug 3\nQuestion: next") == "mug 3" and first_line("") == ""


def test_prompts_have_their_context_between_instruction_and_question(tmp_path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    found = read_questions(path)
    (tmp_path / "q.json").write_text(json.dumps(ROWS))
    assert [question.prompt for question in read_questions(tmp_path / "q.json")] == [q.prompt for q in found]
    assert len(read_questions(path, 2)) == 2
    first, second, third = found
    assert first.context == PASSAGE and first.prompt.endswith("Question: What is on shelf 2?\nAnswer:")
    assert second.context == f"Passage:\n{PASSAGE}\n" and second.tail == "Question:\nWhere is mug 21?\nAnswer:\n"
    assert third.head.endswith("The following are some examples.\n\n") and third.tail == "\n\nWhere is mug 7?"
    assert third.answers == ("shelf 1",)
    assert spans(second, second.prompt) == [
        (0, len(second.head)),
        (len(second.prompt) - len(second.tail), len(second.prompt)),
    ]


@pytest.mark.parametrize(
    "content, message",
    [
        ('[{"input": "Where?", "answers": ["x"]}]', r"q\.json:1: the question has no context"),
        ('[{"input": "Question: Where?", "answers": ["x"]}]', "has no context"),
        ('[{"input": "", "context": "c", "answers": ["x"]}]', "input must not be empty"),
        ('[{"input": "a", "context": "c", "answers": []}]', "answers: allowed is a list of at least one text"),
        ('[{"input": "a", "context": "c", "answers": [1]}]', "answers: allowed"),
        ('[{"input": "a", "context": 3, "answers": ["x"]}]', "allowed are texts"),
        ("[3]", "got int"),
        ("[]", "holds no questions"),
        ("", "holds no questions"),
        ("[{", r"q\.json:1: not JSON"),
    ],
)
def test_bad_questions_are_told_in_one_line(tmp_path, content: str, message: str) -> None:
    (tmp_path / "q.json").write_text(content)
    with pytest.raises(ConfigError, match=message) as told:
        read_questions(tmp_path / "q.json")
    assert "\n" not in str(told.value)


def test_long_prompts_lose_their_middle() -> None:
    ids = byte_level()(PASSAGE, add_special_tokens=False)["input_ids"]
    assert cut_middle(PASSAGE, byte_level(), len(ids)) == (PASSAGE, 0)
    short, cut = cut_middle(PASSAGE, byte_level(), 61)
    kept = byte_level()(short, add_special_tokens=False)["input_ids"]
    assert 50 <= len(kept) <= 61 and cut == len(ids) - len(kept)
    assert short.startswith(PASSAGE[:40]) and short.endswith(PASSAGE[-40:])


def run(subjects, questions, path, **options):
    items = Items(path, KIND, KEYS)
    rows, read = answer_questions(
        subjects, questions, items, window=options.pop("window", 1024), max_new_tokens=6,
        raw=options.pop("raw", False), whole_answer=False, say=lambda _: None,
    )  # fmt: skip
    return rows, read, compare(MEASURES, [Measured(s.name, {}, own) for s, own in zip(subjects, rows, strict=True)])


@pytest.mark.parametrize("raw", [False, True])
def test_answers_of_all_subjects_to_the_same_prompts(opened, tmp_path, raw: bool) -> None:
    (tmp_path / "q.json").write_text(json.dumps(ROWS[:2]))
    questions = read_questions(tmp_path / "q.json")
    changes = [Change(parse_mode("reuse")), *(Change(parse_mode(by), kv_tokens=200) for by in ("recency", "random"))]
    subjects = build_subjects(opened(), changes)
    rows, read, figures = run(subjects, questions, tmp_path / "rows.jsonl", raw=raw)
    dense, reuse, recency, _ = rows
    assert [row["answer"] for row in dense] == [row["answer"] for row in reuse]
    assert read["questions"] == 2 and read["cut_prompts"] == 0
    assert [row["kept"] for row in dense + reuse] == [None] * 4
    # Head of the answer and, in a text, its last piece are read behind what the budget left.
    assert all(200 <= row["kept"] * row["prompt_tokens"] <= 230 for row in recency)
    wanted = [best_f1(first_line(row["answer"]), q.answers) for row, q in zip(dense, questions, strict=True)]
    assert figures[0]["figures"]["F1"]["value"] == pytest.approx(50 * sum(wanted), abs=1e-3)


def test_a_window_of_its_own_cuts_the_same_prompts_for_all(opened, tmp_path) -> None:
    (tmp_path / "q.json").write_text(json.dumps(ROWS))
    questions = read_questions(tmp_path / "q.json")
    subjects = build_subjects(opened(), [Change(parse_mode("reuse"))])
    rows, read, _ = run(subjects, questions, tmp_path / "rows.jsonl", window=300)
    assert read["cut_prompts"] == 2 and read["cut_tokens"] > 100
    assert all(row["prompt_tokens"] <= 300 - 6 for row in rows[0]) and rows[0][2]["cut"] == 0
    for window, message in ((6, "allowed: 7 to 1024"), (2000, "the model's window"), (30, "leaves .* for a prompt")):
        with pytest.raises(ConfigError, match=message):
            run(subjects, questions, tmp_path / "rows.jsonl", window=window)


def test_a_model_without_a_chat_template_is_asked_raw(opened, tmp_path) -> None:
    (tmp_path / "q.json").write_text(json.dumps(ROWS[:1]))
    bare = opened()
    bare = replace(bare, tokenizer=deepcopy(bare.tokenizer))
    bare.tokenizer.chat_template = None
    subjects = build_subjects(bare, [Change(parse_mode("recency"), kv_tokens=200)])
    questions = read_questions(tmp_path / "q.json")
    with pytest.raises(ConfigError, match="no chat template; --raw asks without one"):
        run(subjects, questions, tmp_path / "rows.jsonl")
    assert run(subjects, questions, tmp_path / "rows.jsonl", raw=True)[1]["questions"] == 1
