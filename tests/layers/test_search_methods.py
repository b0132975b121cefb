"""Every method finds the sublayers that were planted to be useless first, and leaves the model as it was."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch

from erecap.errors import ConfigError, ModelError, RunError
from erecap.layers import LayerPlan, apply
from erecap.layers.search import LAYER_SEARCHES, Search, Step, Sublayer, register
from erecap.layers.search.losses import losses
from erecap.layers.search.ranked import block_influence, weight_size
from erecap.layers.search.steps import plan_of_steps, removed_by
from tests.layers.plans import identities, logits, own, weights
from tests.layers.search_models import LATENCIES, own_words, planted, search_of, sequences
from tests.tokens.models import ARCHITECTURES, LAYERS, prompt

RANDOM = "random"
METHODS = sorted(set(LAYER_SEARCHES) - {RANDOM})
IDS = prompt(40)["input_ids"]


def steps_of(search: Search, method: str, count: int) -> list[Step]:
    made = LAYER_SEARCHES[method](search)
    for step in islice(made, count):
        search.add(step)
    return search.steps


def options_for(method: str, name: str) -> dict[str, Any]:
    # Gemma 3 normalises what its MLPs give, so that least squares tune nothing there.
    return {"tune": ()} if (method, name) == ("sprint", "gemma3") else {}


@pytest.mark.parametrize(
    ("method", "name"),
    [(method, "llama") for method in METHODS]
    + [(method, name) for name in ARCHITECTURES[1:] for method in ("blockpruner", "sprint")],
)
def test_the_planted_block_goes_first_and_the_model_stays(method: str, name: str) -> None:
    model = planted(name)
    before, dense = weights(model), logits(model, IDS)
    search = search_of(model, ids=own_words(model), batch_tokens=80, **options_for(method, name))
    steps = steps_of(search, method, 1 if method in ("sleb", "shortgpt") else 2)
    assert set(removed_by(steps)) == {Sublayer(5, "attention"), Sublayer(5, "mlp")}
    assert all(0 <= step.score < 1e-6 for step in steps) or method in ("sleb", "blockpruner")
    after = weights(model)
    assert all(torch.equal(after[key], before[key]) for key in before) and torch.equal(logits(model, IDS), dense)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    # What the search works on computes what the plan says.
    plan = search.plan()
    assert plan.blocks == (5,)
    with apply(model, plan):
        planned = logits(model, IDS, use_cache=False)
    assert torch.allclose(logits(search.thin, IDS, use_cache=False), planned, atol=1e-4)
    assert torch.allclose(planned, dense, atol=1e-4)


def test_chance_follows_the_seed() -> None:
    orders = [removed_by(steps_of(search_of(own(), seed=seed), RANDOM, 9)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2] and len(set(orders[0])) == 9


@pytest.mark.parametrize("method", [*METHODS, RANDOM])
def test_one_attention_is_left_at_the_end(method: str) -> None:
    model = own()
    search = search_of(model, ids=sequences(1, 6), candidates=1)
    steps = steps_of(search, method, 100)
    blocks = method in ("sleb", "shortgpt")
    assert search.plan().sublayers == len(removed_by(steps)) == 2 * LAYERS - (2 if blocks else 1)
    assert len(steps) == (LAYERS - 1 if blocks else 2 * LAYERS - 1) and not search.blocks()


def test_losses_are_those_of_the_masked_model() -> None:
    model, ids = own(), sequences(3, 16)
    search = search_of(model, ids=ids)
    search.add(Step((Sublayer(2, "mlp"),), 0.0))
    parts = [(Sublayer(0, "attention"),), (Sublayer(4, "attention"), Sublayer(4, "mlp")), (Sublayer(7, "mlp"),)]
    plans = [
        LayerPlan(LAYERS, attention=(0,), mlp=(2,)),
        LayerPlan(LAYERS, mlp=(2,), blocks=(4,)),
        LayerPlan(LAYERS, mlp=(2, 7)),
    ]
    for found, plan in zip(losses(search, parts), plans, strict=True):
        with identities(model, plan):
            rows = torch.tensor(ids)
            wanted = torch.nn.functional.cross_entropy(logits(model, rows)[:, :-1].flatten(0, 1), rows[:, 1:].flatten())
        assert found == pytest.approx(float(wanted), rel=1e-5)
    assert search.evaluations == 3 and 1 < search.passes < 3


def test_block_influence_by_hand() -> None:
    model, ids = own(), sequences(3, 10)
    hidden: list[torch.Tensor] = []
    rows = torch.tensor(ids)
    with torch.no_grad():
        handles = [
            layer.register_forward_hook(lambda m, args, out: hidden.append(torch.stack([args[0], out])))
            for layer in model.model.layers
        ]
        model(rows)
        for handle in handles:
            handle.remove()
    expected = [float((1 - torch.cosine_similarity(pair[0], pair[1], dim=-1)).mean()) for pair in hidden]
    assert block_influence(search_of(model, ids=ids)) == pytest.approx(expected, abs=1e-5)


def test_size_of_weights_by_hand() -> None:
    part = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 1, bias=False)})
    with torch.no_grad():
        part["a"].weight.copy_(torch.tensor([[2.0, 2.0], [2.0, 2.0]]))
        part["b"].weight.copy_(torch.tensor([[8.0, 8.0]]))
    assert weight_size(part) == pytest.approx(4.0)


def test_steps_become_a_plan() -> None:
    steps = [
        Step((Sublayer(3, "mlp"),), 0.0, {"layers.4.mlp.down_proj.weight": torch.ones(2, 2)}),
        Step((Sublayer(2, "attention"),), 0.0, {"layers.2.mlp.down_proj.weight": torch.ones(2, 2)}),
        Step((Sublayer(3, "attention"),), 0.0, {"layers.4.mlp.down_proj.weight": torch.zeros(2, 2)}),
        Step((Sublayer(2, "mlp"),), 0.0),
    ]
    plan = plan_of_steps(6, steps[:2])
    assert (plan.attention, plan.mlp, plan.blocks) == ((2,), (3,), ()) and len(plan.tuned) == 2
    plan = plan_of_steps(6, steps)
    assert plan.blocks == (2, 3) and list(plan.tuned) == ["layers.4.mlp.down_proj.weight"]
    assert not plan.tuned["layers.4.mlp.down_proj.weight"].any()
    for name in ("3", "3.both", "03.mlp", "3.mlp "):
        with pytest.raises(ValueError, match=r"is no sublayer; allowed: such as 12.attention"):
            Sublayer.parse(name)
    assert Sublayer.parse("12.mlp") == (12, "mlp") and Sublayer(1, "mlp") < Sublayer(2, "attention")


def test_a_method_of_another_package() -> None:
    def last(search: Search):  # type: ignore[no-untyped-def]
        while search.removable():
            yield Step((search.removable()[-1],), 0.0)

    register("last", last)
    try:
        assert [str(one) for one in removed_by(steps_of(search_of(own()), "last", 3))] == [
            "7.mlp", "7.attention", "6.mlp",
        ]  # fmt: skip
    finally:
        del LAYER_SEARCHES["last"]
    with pytest.raises(ConfigError, match="'best' is not a search method; allowed: blockpruner, magnitude, random"):
        LAYER_SEARCHES.get_or_refuse("best", "METHOD")


def test_models_and_texts_that_cannot_be_searched() -> None:
    model = own()
    with apply(model, LayerPlan(LAYERS, mlp=(1,))), pytest.raises(ModelError, match="has a layer plan already"):
        search_of(model)
    with pytest.raises(ModelError, match="is in training mode"):
        search_of(own().train())
    for ids in ([], [[1, 2], [1, 2, 3]], [[1]], [[1] * 513]):
        with pytest.raises(ConfigError, match=r"calibration: got sequences of .* tokens; allowed: one length"):
            Search(model, ids, LATENCIES)
    with pytest.raises(ConfigError, match="needs latencies of decode, and none were measured"):
        next(LAYER_SEARCHES["sprint"](Search(model, sequences(), {})))
    search = search_of(model)
    search.add(Step((Sublayer(1, "mlp"),), 0.0))
    for gone in ((), (Sublayer(1, "mlp"),), (Sublayer(8, "mlp"),)):
        with pytest.raises(ValueError, match=r"a step removes .*, which is not there"):
            search.add(Step(gone, 0.0))
    with torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight.fill_(float("nan"))
    for method in ("sprint", "sleb", "blockpruner"):
        with pytest.raises((RunError, ModelError), match=r"not finite|other logits"):
            next(LAYER_SEARCHES[method](search_of(model)))


def test_half_precision_and_two_layers() -> None:
    model = own().bfloat16()
    assert len(steps_of(search_of(model), "sprint", 2)) == 2
    kind, config = type(model), model.config.__class__(**{**model.config.to_dict(), "num_hidden_layers": 2})
    small = kind(config).eval()
    for method in (*METHODS, RANDOM):
        assert steps_of(search_of(small, ids=sequences(1, 6)), method, 5)


def test_losses_on_the_first_sequences_alone() -> None:
    model, ids = own("llama"), sequences(4)
    few, first, whole = (
        search_of(model, ids=ids[:count], loss_sequences=limit) for count, limit in ((4, 1), (1, 0), (4, 0))
    )
    assert [step.score for step in steps_of(few, "sleb", 2)] == [step.score for step in steps_of(first, "sleb", 2)]
    assert few.steps[0].score != steps_of(whole, "sleb", 1)[0].score
    # Passes are counted over all of the text, so those of one sequence of four are a quarter.
    assert few.passes == pytest.approx(first.passes / 4) and few.evaluations == first.evaluations
    with pytest.raises(ConfigError, match="--loss-sequences: got -1; allowed: 0 or more"):
        search_of(model, loss_sequences=-1)
