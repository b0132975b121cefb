"""The decode loop: forced tokens, drafts, and floors of length, against a model that follows a table."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st

from erecap.decoding.draft import LookupDraft
from erecap.decoding.loop import decode

VOCABULARY = 12
END = 11


class TableModel:
    """Greedy next token = a hash of the last two; counts what it is asked to read."""

    def __init__(self, salt: int) -> None:
        self.salt = salt
        self.read_ids: list[int] = []
        self.passes = 0

    def row(self, ids: Sequence[int]) -> torch.Tensor:
        a, b = [0, 0, *ids][-2:]
        row = torch.arange(VOCABULARY, dtype=torch.float32) * 0.01
        row[(a * 7 + b * 3 + self.salt) % VOCABULARY] += 1
        return row

    @property
    def tokens(self) -> int:
        return len(self.read_ids)

    def verify(self, ids: Sequence[int]) -> torch.Tensor:
        self.passes += 1
        rows = []
        for token in ids:
            self.read_ids.append(token)
            rows.append(self.row(self.read_ids))
        return torch.stack(rows)

    def rollback(self, to: int) -> None:
        del self.read_ids[to:]


def plain(salt: int, length: int, allowed=None, not_before=(0, ())) -> list[int]:  # type: ignore[no-untyped-def]
    """One token at a time, written out."""
    model, ids = TableModel(salt), []
    while len(ids) < length and (not ids or ids[-1] != END):
        row = model.row(ids)
        if allowed is not None:
            hidden = torch.full_like(row, float("-inf"))
            keep = torch.tensor(list(allowed(ids)))
            hidden[keep] = row[keep]
            row = hidden
        elif len(ids) < not_before[0]:
            row[list(not_before[1])] = float("-inf")
        ids.append(int(row.argmax()))
    return ids


@given(st.integers(0, 200), st.integers(1, 30), st.lists(st.integers(0, 11), max_size=20), st.booleans(), st.data())
def test_drafts_and_forced_tokens_change_nothing_but_the_passes(salt, length, source, constrained, data) -> None:  # type: ignore[no-untyped-def]
    allowed = None
    if constrained:
        # After some tokens there is one choice, after others a few.
        table = [data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=3, unique=True)) for _ in range(5)]

        def allowed(ids):  # type: ignore[no-untyped-def]
            return table[(sum(ids) + len(ids)) % 5]

    expected = plain(salt, length, allowed)
    for draft in (None, LookupDraft([source, expected], length=4)):
        model = TableModel(salt)
        out = decode(
            model, model.row([]), max_new_tokens=length, ended=lambda ids: ids[-1] == END, allowed=allowed, draft=draft
        )
        assert out.ids == expected
        # What is stored is what was generated, less what is said to be unread.
        assert model.read_ids == expected[: len(expected) - out.unread]
        assert model.passes == out.passes <= max(0, len(expected) - 1) and out.accepted <= out.drafted


def test_a_good_draft_saves_passes() -> None:
    expected = plain(5, 30)
    model = TableModel(5)
    out = decode(
        model, model.row([]), max_new_tokens=30, ended=lambda ids: ids[-1] == END, draft=LookupDraft([expected])
    )
    assert out.ids == expected and out.passes <= len(expected) / 3


@given(st.integers(0, 200), st.integers(0, 200), st.lists(st.integers(0, 11), max_size=20), st.booleans())
def test_a_forced_answer_takes_the_passes_that_it_takes_a_model_that_chooses_it(
    salt: int, other: int, source: list[int], constrained: bool
) -> None:
    answer = plain(salt, 20)

    def table(ids: Sequence[int]) -> list[int]:
        after = answer[len(ids)] if len(ids) < len(answer) else END
        return [after] if sum(ids) % 3 == 0 else sorted({after, (after + 1) % VOCABULARY})

    allowed = table if constrained else None
    counts = []
    for model, force in ((TableModel(salt), None), (TableModel(other), answer)):
        out = decode(
            model, model.row([]), max_new_tokens=len(answer), ended=lambda ids: ids[-1] == END, allowed=allowed,
            draft=LookupDraft([source, answer[:7]], length=4), force=force,
        )  # fmt: skip
        assert out.ids == answer and model.read_ids == answer[: len(answer) - out.unread]
        counts.append((out.passes, out.drafted, out.accepted, out.unread))
    assert counts[0] == counts[1]


@given(st.integers(0, 200), st.integers(1, 12))
def test_no_end_before_its_time(salt: int, least: int) -> None:
    model = TableModel(salt)
    out = decode(
        model, model.row([]), max_new_tokens=15, ended=lambda ids: ids[-1] == END, not_before=(least, (END,)),
        draft=LookupDraft([[1, 2, END, 3]]),
    )  # fmt: skip
    assert out.ids == plain(salt, 15, not_before=(least, (END,))) and END not in out.ids[:least]


def test_lookup_searches_the_answer_itself_and_what_was_read_before() -> None:
    draft = LookupDraft([[1, 2, 3]], length=4, past=[9, 5, 6, 9, 5, 7, 8])
    assert draft.propose([5]) == [7, 8]  # the newest match
    assert draft.propose([9, 5, 6]) == [9, 5, 7, 8]
    assert draft.propose([4, 4]) == [4, 4, 4, 4]
    assert draft.propose([2, 6, 4, 2, 6]) == [4, 2, 6, 4]  # a line of the answer that repeats
    assert draft.propose([2, 7, 2]) == [7, 2, 7, 2]  # no longer run anywhere else, so the answer itself
    assert draft.propose([2, 7, 1, 2]) == [3]
    assert draft.propose([8, 1, 2, 7, 2, 1, 2]) == [7, 2, 1, 2]
    assert draft.propose([8]) == []  # nothing follows it anywhere


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_what_is_proposed_followed_the_longest_run_somewhere(past: list[int], answer: list[int]) -> None:
    proposal = LookupDraft([], length=3, past=past).propose(answer)

    def runs(text: list[int], size: int) -> list[int]:
        return [end for end in range(size, len(text)) if text[end - size : end] == answer[-size:]]

    sizes = [size for size in range(1, 1 + min(4, len(answer))) if runs(past, size) or runs(answer, size)]
    if not sizes:
        assert proposal == []
        return
    nexts = {tuple(past[end : end + 3]) for end in runs(past, sizes[-1])}
    followers = {past[end] for end in runs(past, sizes[-1])} | {answer[end] for end in runs(answer, sizes[-1])}
    assert proposal and proposal[0] in followers
    if not runs(answer, sizes[-1]):
        assert tuple(proposal) in nexts


def test_lookup_prefers_longer_matches_and_earlier_sources() -> None:
    draft = LookupDraft([[1, 2, 3, 4, 5], [9, 3, 7, 7]], length=2)
    assert draft.propose([]) == [1, 2]
    assert draft.propose([8, 2, 3]) == [4, 5]
    assert draft.propose([9, 3]) == [7, 7]
    assert draft.propose([6]) == []
    assert LookupDraft([[], []]).propose([1]) == []
