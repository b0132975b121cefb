"""Drafts: automata against brute force, bounded texts, published ways by their descriptions, lossless decoding."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.decoding.drafts.acceptance import FIRST, LENGTHS, Acceptance, support
from erecap.decoding.drafts.automaton import SuffixAutomaton
from erecap.decoding.drafts.choices import RememberedChoices
from erecap.decoding.drafts.costs import TABLES, calibrated_cost, reference_cost
from erecap.decoding.drafts.published import DEPTH, LEAST_PROBABILITY, PromptLookupDraft, SuffixDraft
from erecap.decoding.drafts.suffix import LONGEST, AutomatonDraft
from erecap.decoding.drafts.texts import ConversationText, DraftMemory
from erecap.decoding.loop import decode
from erecap.session.schedule_call import PlanFirst
from tests.session.test_decoding import END, TableModel, plain

IDS = st.lists(st.integers(0, 2), max_size=14)
LONG_IDS = st.lists(st.integers(0, 3), min_size=2, max_size=40)


def occurrences(run: Sequence[int], texts: Sequence[Sequence[int]]) -> int:
    run = list(run)
    return sum(list(text[at : at + len(run)]) == run for text in texts for at in range(len(text) - len(run) + 1))


def longest_end(ids: Sequence[int], texts: Sequence[Sequence[int]], times: int = 1) -> int:
    return next(size for size in range(len(ids), -1, -1) if not size or occurrences(ids[-size:], texts) >= times)


@settings(max_examples=150)
@given(st.lists(IDS, min_size=1, max_size=4), IDS, st.booleans())
def test_the_automaton_counts_as_brute_force_does(texts: list[list[int]], asked: list[int], settled: bool) -> None:
    automaton = SuffixAutomaton()
    for text in texts:
        automaton.begin_text()
        for token in text:
            automaton.append(token)
            if settled:
                automaton.settle()
    automaton.settle()
    assert automaton.tokens == sum(map(len, texts)) and automaton.states <= max(2, 2 * automaton.tokens)
    for one in (automaton, automaton.copy()):
        state, size = one.match(asked)
        assert size == longest_end(asked, texts)
        state_of_last, repeated = one.repeated()
        assert repeated == longest_end(texts[-1], texts, times=2)
        for at, run in ((state, asked[len(asked) - size :]), (state_of_last, texts[-1][len(texts[-1]) - repeated :])):
            assert not run or one.count(at) == occurrences(run, texts)
            follows = {token: n for token in range(3) if (n := occurrences([*run, token], texts))}
            assert {token: times for token, times, _ in one.following(at)} == follows
            found = one.likeliest(at)
            assert (found is None) == (not follows)
            if found is not None:
                assert found[2] == max(follows.values()) == follows[found[0]] and found[3] == sum(follows.values())


def test_of_what_followed_equally_often_the_newest_is_likeliest() -> None:
    automaton = SuffixAutomaton()
    automaton.extend([1, 2, 9, 1, 3, 9, 1])
    automaton.settle()
    assert automaton.likeliest(automaton.match([1])[0])[0] == 3  # type: ignore[index]
    automaton.begin_text()
    automaton.extend([1, 2])
    automaton.settle()
    assert automaton.likeliest(automaton.match([9, 1])[0])[0] == 3  # type: ignore[index]
    assert automaton.likeliest(automaton.match([1])[0])[0] == 2  # type: ignore[index]


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 14), IDS, st.sampled_from(["follow", "answer", "fork"])), max_size=6))
def test_a_text_follows_its_conversation_and_its_forks_go_their_own_way(steps: list) -> None:
    text, ids = ConversationText(), list[int]()
    left: list[tuple[ConversationText, list[int]]] = []
    for keep, more, kind in steps:
        if kind == "fork":
            left.append((text, list(ids)))
            text = text.fork()
        if kind == "answer":
            text.add(more)
            ids = [*ids, *more]
        else:
            ids = [*ids[:keep], *more]
            text.follow(ids)
    for one, own in [*left, (text, ids)]:
        # What was rewritten stays a source, so runs are at least as long as in the conversation alone.
        assert one.automaton.repeated()[1] >= longest_end(own, [own], times=2)
        assert one.end == own[-32:] and one.automaton.match(own)[1] == len(own)


def test_a_text_that_is_only_appended_to_is_the_conversation_and_no_more() -> None:
    text, ids = ConversationText(), [1, 2, 3, 1, 2]
    text.follow(ids[:3])
    text.add(ids[3:])
    text.follow(ids)
    assert text.automaton.tokens == 5 and text.automaton.repeated()[1] == 2
    text.follow(ids[2:], first=2)  # the beginning was forgotten
    text.follow([*ids[4:], 3, 1], first=4)
    assert text.automaton.tokens == 7 and text.automaton.match([2, 3, 1])[1] == 3
    text.follow([7, 7], first=100)  # nothing in common
    assert text.automaton.repeated()[1] == 1


def test_texts_and_memories_are_bounded_and_the_oldest_goes() -> None:
    text, ids = ConversationText(most=40), list[int]()
    for number in range(300):
        ids += [number, number + 1000]
        text.follow(ids)
        assert text.automaton.tokens <= 40
    assert text.automaton.match([299, 1299])[1] == 2 and text.automaton.match([1, 1001])[1] == 0
    memory = DraftMemory(most=40)
    for number in range(100):
        memory.add([number, 500 + number, 7])
        assert memory.tokens <= 40
    memory.add([])
    twin = deepcopy(memory)
    twin.add(range(600, 700))  # longer than it may be: its end is kept
    assert twin.tokens <= 40 and memory.tokens <= 40
    with memory.searched() as own, twin.searched() as other:
        assert own.match([99, 599, 7])[1] == 3 and own.match([0, 500])[1] == 0 and own.match([699])[1] == 0
        assert other.match([698, 699])[1] == 2


def test_threads_may_share_a_memory() -> None:
    memory, wrong = DraftMemory(most=300), list[str]()

    def work(own: int) -> None:
        try:
            for number in range(120):
                ids = [own, number, own, number + 1]
                memory.add(ids)
                text = ConversationText()
                text.follow(ids)
                AutomatonDraft(text, 0, reference_cost(), memory=memory).propose([own])
        except Exception as error:  # noqa: BLE001 (shown below)
            wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(own,)) for own in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and 0 < memory.tokens <= 300


@settings(max_examples=60)
@given(LONG_IDS, LONG_IDS)
def test_prompt_lookup_is_that_of_transformers(prompt: list[int], answer: list[int]) -> None:
    from transformers.generation.candidate_generator import PromptLookupCandidateGenerator

    theirs = PromptLookupCandidateGenerator(num_output_tokens=10, max_matching_ngram_size=2, max_length=10_000)
    ours = PromptLookupDraft(prompt)
    for count in range(1, len(answer) + 1, 3):
        ids = torch.tensor([[*prompt, *answer[:count]]])
        candidates, _ = theirs.get_candidates(ids)
        assert ours.propose(answer[:count]) == candidates[0, ids.shape[1] :].tolist()


class Tie(Exception):
    """Two tokens followed equally often, and a description does not say which is taken."""


def published(text: list[int], tree: list[list[int]], own: bool) -> tuple[float, list[int]]:
    """Suffix decoding by its description, counting by brute force."""
    best: tuple[float, list[int]] = (0.0, [])
    for size in range(min(DEPTH, len(text)), 0, -1):
        run = text[-size:]
        if occurrences(run, tree) < (2 if own else 1):
            continue
        tokens: list[int] = []
        probability, score = 1.0, 0.0
        while len(tokens) < size:
            counts = {token: occurrences([*run, *tokens, token], tree) for token in range(4)}
            most = max(counts.values())
            probability *= most / occurrences([*run, *tokens], tree)
            if not most or probability < LEAST_PROBABILITY:
                break
            if list(counts.values()).count(most) > 1:
                raise Tie
            tokens.append(max(counts, key=counts.__getitem__))
            score += probability
        best = max(best, (score, tokens), key=lambda found: found[0])
    return best


@settings(max_examples=80)
@given(LONG_IDS, IDS, IDS)
def test_suffix_decoding_proposes_what_its_description_says(
    prompt: list[int], answer: list[int], other: list[int]
) -> None:
    text, memory = ConversationText(), DraftMemory()
    text.follow(prompt)
    memory.add(other)
    found = SuffixDraft(text, memory).propose(answer)
    whole = [*prompt, *answer]
    try:
        own, others = published(whole, [whole], True), published(whole, [other], False)
    except Tie:
        assert len(found) <= DEPTH
        return
    assert found == (own[1] if own[0] >= others[0] else others[1])


def test_suffix_decoding_proposes_no_more_than_matches() -> None:
    text = ConversationText()
    text.follow([*range(60), 70, 5, 6, 7])
    assert SuffixDraft(text).propose([8]) == [9, 10, 11, 12]
    text.follow([*range(80), 90, *range(5, 44)])
    assert SuffixDraft(text).propose([44]) == list(range(45, 45 + DEPTH))


def costs(first: float, further: float):  # type: ignore[no-untyped-def]
    return lambda tokens, stored: first + further * (tokens - 1)


@settings(max_examples=60)
@given(LONG_IDS, LONG_IDS, st.floats(0.0, 1.5), st.integers(1, 4))
def test_a_proposal_is_never_expected_to_take_longer_than_plain_decoding(
    prompt: list[int], answer: list[int], further: float, pending: int
) -> None:
    text, acceptance, cost = ConversationText(), Acceptance(), costs(1.0, further)
    text.follow(prompt)
    draft = AutomatonDraft(text, 0, cost, acceptance=acceptance)
    for count in range(1, len(answer) + 1):
        proposal = draft.propose(answer[:count], pending)
        assert len(proposal) + pending <= LONGEST
        if further >= 1.0:
            assert proposal == []  # a drafted token costs as much as one that is generated
        if proposal:
            # The least that must come true, if all shares were 1: k tokens for less than k passes of their own.
            assert cost(pending + len(proposal), 0) - cost(pending, 0) <= len(proposal)
            right = 0
            while right < len(proposal) and proposal[right : right + 1] == answer[count + right : count + right + 1]:
                right += 1
            draft.learn(len(proposal), right)
        assert 0 < acceptance.worth <= 1


def test_what_verifying_costs_decides_how_much_is_proposed() -> None:
    plan = list(range(10, 40))

    def proposed(cost, pending: int = 1, shown: int = 6) -> int:  # type: ignore[no-untyped-def]
        text = ConversationText()
        text.follow([*plan, 1, 2])
        return len(AutomatonDraft(text, 1000, cost).propose(plan[:shown], pending))

    lengths = [proposed(costs(1.0, further)) for further in (0.0, 0.1, 0.4, 0.9, 2.0)]
    assert lengths[0] == LONGEST - 1 and lengths == sorted(lengths, reverse=True) and lengths[-1] == 0
    assert proposed(reference_cost()) > proposed(reference_cost("packed")) > 0
    assert proposed(reference_cost("accelerator")) == LONGEST - 1
    assert proposed(reference_cost("llamacpp")) == 0  # two passes of one token are quicker than one of two
    # A step of the costs is not climbed for little.
    step = lambda tokens, stored: 1.0 if tokens <= 4 else 3.0  # noqa: E731
    assert proposed(step, 1, 2) == 3 and proposed(step, 3, 2) == 1 and proposed(step, 4, 2) == 0


def test_reference_costs_rise_and_calibrated_ones_are_the_models() -> None:
    from tests.session.test_scheduling import COST

    for cost in map(reference_cost, TABLES):
        assert cost(1, 0) == 1.0
        assert all(cost(n, 0) < cost(n + 1, 0) for n in range(1, 60))
    assert calibrated_cost(COST)(5, 700) == COST.predict_pass(5, 700)


def test_acceptance_follows_what_is_seen_and_forgets() -> None:
    acceptance = Acceptance()
    kind = support(6, 2, 2)
    assert acceptance.share(kind) == pytest.approx(FIRST[1][4])
    for _ in range(400):
        acceptance.learn(kind, False)
    assert acceptance.share(kind) < 0.02
    for _ in range(200):
        acceptance.learn(kind, True)
    assert acceptance.share(kind) > 0.6 and acceptance.copy().share(kind) == acceptance.share(kind)
    counts = [(times, total) for total in range(1, 9) for times in range(1, total + 1)]
    found = {support(size, *pair) for size in range(1, 40) for pair in counts}
    assert found == {(a, b) for a in range(len(LENGTHS) + 1) for b in range(len(FIRST))}
    for _ in range(500):
        acceptance.passed(1.2, 4)
    assert acceptance.worth == pytest.approx(0.3, abs=0.05)


@settings(max_examples=60)
@given(st.integers(0, 200), st.integers(2, 30), LONG_IDS, st.booleans(), st.booleans(), st.data())
def test_no_way_to_draft_changes_a_token(
    salt: int, length: int, source: list[int], constrained: bool, drawn: bool, data: st.DataObject
) -> None:
    allowed = None
    if constrained:
        table = [data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=3, unique=True)) for _ in range(5)]

        def allowed(ids):  # type: ignore[no-untyped-def]
            return table[(sum(ids) + len(ids)) % 5]

    def picker():  # type: ignore[no-untyped-def]
        if not drawn:
            return None
        noise = np.random.default_rng(salt)
        return lambda row: int((np.asarray(row) + noise.gumbel(size=12) * 0.3).argmax())

    def run(draft):  # type: ignore[no-untyped-def]
        model = TableModel(salt)
        out = decode(
            model, model.row([]), max_new_tokens=length, ended=lambda ids: ids[-1] == END, allowed=allowed, draft=draft,
            pick=picker(),
        )  # fmt: skip
        assert model.read_ids == out.ids[: len(out.ids) - out.unread] and model.passes == out.passes
        return out

    expected = run(None).ids
    if not drawn:
        assert expected == plain(salt, length, allowed)
    memory = DraftMemory()
    memory.add([*expected[2:], 5])
    for way in range(4):
        text = ConversationText()
        text.follow([*source, *expected[: length // 2], 3])
        given = [source, expected[1:]]
        draft = (
            PromptLookupDraft(source), SuffixDraft(text, memory),
            AutomatonDraft(text, 0, costs(1.0, 0.1), given=given, memory=memory, allowed=allowed),
            PlanFirst(expected[:7], AutomatonDraft(text, 0, costs(1.0, 0.1), allowed=allowed)),
        )[way]  # fmt: skip
        assert run(draft).ids == expected


def test_only_what_the_grammar_allows_is_proposed_and_what_it_forces_comes_along() -> None:
    text = ConversationText()
    text.follow([1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 5, 6, 7, 9])

    def proposed(allowed):  # type: ignore[no-untyped-def]
        return AutomatonDraft(text.fork(), 0, costs(1.0, 0.01), allowed=allowed).propose([1, 2])

    assert proposed(lambda ids: range(12))[:5] == [3, 4, 5, 6, 7]
    assert proposed(lambda ids: [3, 4, 8]) == [3, 4]
    forced = proposed(lambda ids: [8] if len(ids) == 3 else [10] if ids[-1] == 8 else [3, 11])
    assert forced == [3, 8, 10]  # and nothing after, since what followed 3 is no longer what follows


def test_a_grammar_is_asked_neither_behind_an_end_nor_beyond_the_last_token() -> None:
    text, asked = ConversationText(), list[int]()
    text.follow([1, 2, 3, 4, 5, END, 6, 7, 1, 2, 3, 4, 5, END, 6, 9])

    def allowed(ids: Sequence[int]) -> list[int]:
        asked.append(len(ids))
        assert END not in ids
        return [3, 4, 5, END, 6]

    def proposed(tokens: int) -> list[int]:
        return AutomatonDraft(
            text.fork(), 0, costs(1.0, 0.01), allowed=allowed, ends=[END], tokens=tokens
        ).propose([1, 2])  # fmt: skip

    assert proposed(40) == [3, 4, 5, END] and max(asked) == 5
    asked.clear()
    assert proposed(5) == [3, 4] and max(asked) == 3
    assert proposed(3) == proposed(2) == []


@given(st.lists(st.lists(st.integers(0, 1), max_size=6), max_size=12))
def test_remembered_choices_are_those_of_the_grammar(asked: list[list[int]]) -> None:
    calls: list[list[int]] = []

    def allowed(ids: Sequence[int]) -> list[int]:
        calls.append(list(ids))
        return [sum(ids), len(ids)]

    remembered = RememberedChoices(allowed)
    for ids in asked:
        assert remembered(ids) == [sum(ids), len(ids)]
        assert remembered(ids) == [sum(ids), len(ids)]
    assert all(one != other for one, other in pairwise(calls))
    # A path that was walked to its end is not asked for again.
    path = RememberedChoices(allowed)
    for _ in "ab":
        calls.clear()
        for count in range(9):
            path([3] * count)
    assert calls == []
