"""The judge against answers that were generated, pruned and unpruned."""

from __future__ import annotations

import copy

import pytest
import torch

from erecap.context.tokenize import render_prompt
from erecap.errors import RunError
from erecap.language_models.transformers import TransformersLanguageModel
from erecap.tokens import SCORERS, PruneConfig, scheduled_counts
from erecap.tuning.agreement import Judge
from erecap.tuning.samples import Sample
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model
from tests.tuning.histories import episode

MESSAGES = episode(3, 4)["messages"]
PROMPT = render_prompt(MESSAGES, byte_level())


def sample_of(plan: list[int]) -> Sample:
    return Sample(tuple(PROMPT.input_ids), tuple(plan), ())


def generated(prune: PruneConfig | None, count: int = 12) -> list[int]:
    """The answer of the mode `full`, or `prune[...]`, token by token."""
    messages = [{**message, "protect": []} for message in MESSAGES]
    ids: list[int] = []

    def noted(so_far) -> list[int]:  # type: ignore[no-untyped-def]
        ids[:] = list(so_far)
        return list(range(len(byte_level())))

    TransformersLanguageModel(model(), byte_level(), prune=prune).generate(
        messages, max_new_tokens=count + 1, min_new_tokens=count + 1, allowed_tokens=noted
    )
    return ids[:count]


@pytest.mark.parametrize("scorer", sorted(SCORERS.keys() & {"attention", "random", "recency"}))
def test_the_modes_own_answers_are_what_the_judge_predicts(scorer: str) -> None:
    stages = (2, 5)
    plan = generated(PruneConfig(scorer=scorer, keep=0.4, stages=stages))
    judge = Judge(model(), [sample_of(plan)], 0.4, scorer)
    given, kept = judge.pruned(0, stages)
    assert given.tolist() == plan
    assert kept == scheduled_counts(len(PROMPT.input_ids), 8, stages, 0.4)
    dense = generated(None)
    assert Judge(model(), [sample_of(dense)], 0.4, scorer).unpruned(0).tolist() == dense != plan


def test_counts_of_plan_tokens() -> None:
    plan = generated(None)
    judge = Judge(model(), [sample_of(plan), sample_of(plan[:1])], 0.4, "random")
    answers = judge.compare((2, 5))
    assert answers.tokens == [len(plan), 1] and 0 <= sum(answers.same) < len(plan) + 1
    pruned = judge.pruned(0, (2, 5))[0].tolist()
    assert answers.same[0] == sum(a == b for a, b in zip(pruned, plan, strict=True))


@pytest.mark.parametrize("scorer", ["recency", "attention", "random"])
def test_keeping_all_changes_nothing(scorer: str) -> None:
    judge = Judge(model(), [sample_of(generated(None)), sample_of([5, 6, 7])], 1.0, scorer)
    answers = judge.compare((1, 2, 3, 6))
    assert answers.same == answers.tokens == [12, 3]
    assert answers.kept == [[len(PROMPT.input_ids)] * 8] * 2


def test_protected_tokens_stay() -> None:
    size = len(PROMPT.input_ids)
    whole = Sample(tuple(PROMPT.input_ids), (5, 6), ((0, size),))
    assert Judge(model(), [whole], 0.1, "random").compare((1, 4)).kept == [[size] * 8]


def test_a_number_that_is_none_stops_it() -> None:
    broken = copy.deepcopy(model())
    with torch.no_grad():
        broken.get_decoder().layers[3].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(RunError, match="sample 0, unpruned: logits that are not finite"):
        Judge(broken, [sample_of([5, 6])], 0.5, "recency").compare((5,))
