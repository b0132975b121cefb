"""Saliency labels follow their definitions."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from erecap.decoding.stopping import answer_ends
from erecap.errors import ConfigError, RunError
from erecap.training.saliency.attention import plan_attention
from erecap.training.saliency.labels import gradient_saliency, label, later_maximum
from erecap.training.saliency.samples import Sample, load_samples, sources_hash
from erecap.training.sequences import PlanSequence
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model
from tests.tokens.models import ARCHITECTURES
from tests.training.saliency_data import STAGES, samples, write_trajectories


class Toy(nn.Module):
    """One layer that adds the mean of what came before, and a head: small enough to differentiate by hand."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(7, 4).requires_grad_(False)
        self.layers = nn.ModuleList([nn.Identity(), nn.Identity()])
        self.head = nn.Linear(4, 7, bias=False).requires_grad_(False)
        self.config = SimpleNamespace(num_hidden_layers=2, sliding_window=None)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def get_decoder(self) -> nn.Module:
        return self

    def forward(self, input_ids, logits_to_keep, **_):  # type: ignore[no-untyped-def]
        hidden = self.layers[1](self.layers[0](self.embed(input_ids)))
        count = torch.arange(1, input_ids.shape[1] + 1).view(1, -1, 1)
        return SimpleNamespace(logits=self.head(hidden.cumsum(1) / count)[:, logits_to_keep])


def test_gradient_saliency_equals_the_derivative_by_hand() -> None:
    toy, ids = Toy(), torch.tensor([1, 5, 2, 6, 3])
    sample = Sample(PlanSequence("t", ids, torch.tensor([3]), ids[4:], torch.tensor([0]), (), 0), 0, (0,))
    scores, hidden = gradient_saliency(toy, sample, [1], plans_only=True)
    # L = -log softmax(W m)[3], m the mean of the first four; dL/dh_i = W' (p - e_3) / 4 for each of them.
    states, weight = toy.embed.weight[ids], toy.head.weight
    residual = (weight @ states[:4].mean(0)).softmax(0) - nn.functional.one_hot(ids[4], 7)
    gradient = weight.T @ residual / 4
    expected = torch.cat([(states[:4] @ gradient).abs(), torch.zeros(1)])
    assert torch.allclose(scores[0], expected, atol=1e-6)
    assert torch.equal(hidden[0], states)


@pytest.mark.parametrize("kind", ["language-model", "plan-loss"])
def test_gradient_saliency_is_not_negative_and_changes_nothing_in_the_model(tmp_path: Path, kind: str) -> None:
    before = [p.clone() for p in model().parameters()]
    model().requires_grad_(False)
    sample = samples(tmp_path)[0]
    found = label(model(), sample, STAGES, kind)  # type: ignore[arg-type]
    assert found.scores.shape == (3, sample.sequence.transcript) and bool((found.scores >= 0).all())
    assert not bool(found.valid[:4].any()) and bool(found.valid[5])
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, model().parameters(), strict=True))
    if kind == "plan-loss":  # what no plan comes after has no influence on one
        assert not bool(found.valid[-1])
        assert not torch.equal(found.scores, label(model(), sample, STAGES, "language-model").scores)


@pytest.mark.parametrize("branches", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_plan_attention_is_the_maximum_of_the_eager_maps(tmp_path: Path, name: str, branches: bool) -> None:
    sample = samples(tmp_path, name, branches=branches)[1]
    seen = plan_attention(model(name), sample, STAGES)
    eager = type(model(name))(model(name).config.__class__.from_dict(model(name).config.to_dict())).eval()
    eager.load_state_dict(model(name).state_dict())
    eager.set_attn_implementation("eager")
    sequence = sample.sequence
    assert bool(sequence.branches) == branches
    for call in range(sample.calls):
        prompt, rows = sample.prompt(call), sample.rows(call)
        # Read by itself: the prompt, and the plan behind it.
        ids = torch.cat([sequence.ids[:prompt], sequence.ids[rows[1:]]])
        with torch.no_grad():
            maps = torch.cat(eager(ids.unsqueeze(0), output_attentions=True, use_cache=False).attentions)
        paid = maps[:, :, prompt - 1 :, :prompt].amax((0, 1, 2))
        assert torch.allclose(seen.paid[call, :prompt], paid, atol=1e-5)
        assert not bool(seen.paid[call, prompt:].any())
        assert torch.allclose(seen.asked[call, :prompt], maps[:, :, prompt - 1, :prompt].mean((0, 1)), atol=1e-5)
    assert model(name).config._attn_implementation == "sdpa"


def test_a_label_is_the_most_that_any_later_plan_pays() -> None:
    paid = torch.tensor([[0.5, 0.2, 0.0], [0.1, 0.8, 0.4]])
    assert later_maximum(paid, [2, 3], 1.0).tolist() == [pytest.approx([0.5, 0.8, 0.4])]
    # The second plan is one away from the first two tokens, and next to the third.
    assert later_maximum(paid, [2, 3], 0.5).tolist() == [pytest.approx([0.5, 0.4, 0.4])]


def test_only_float32_is_labelled(tmp_path: Path) -> None:
    sample = samples(tmp_path)[0]
    half = SimpleNamespace(dtype=torch.bfloat16)
    with pytest.raises(ConfigError, match="float32, it is in bfloat16"):
        label(half, sample, STAGES, "plan-loss")


@pytest.mark.parametrize("kind", ["language-model", "plan-loss", "plan-attention"])
def test_what_is_not_finite_stops_with_sample_and_layer(tmp_path: Path, kind: str) -> None:
    sample = samples(tmp_path)[0]
    layer = model().get_decoder().layers[3]
    hook = layer.register_forward_hook(lambda module, args, output: output * torch.nan)
    try:
        with pytest.raises(RunError, match=r"\S+/made-up/0: a \S+( state)? before layer \d is not finite"):
            label(model(), sample, STAGES, kind)  # type: ignore[arg-type]
    finally:
        hook.remove()


# Texts ----------------------------------------------------------------------------------------------------


def load(path: Path, **options: int) -> list[Sample]:
    ends = answer_ends(model(), byte_level())
    return load_samples([path], byte_level(), ends, **({"max_tokens": 400} | options))


def test_plain_rows_of_every_kind_are_read(tmp_path: Path) -> None:
    rows = [
        {"text": "You see a mug and a shelf. " * 9},
        {"instruction": "Name a fruit.", "context": "It is red.", "response": "apple"},
        {"instruction": "Cool it.", "instances": [{"input": "", "output": "open fridge 1"}]},
        {"messages": [{"role": "user", "content": "Go?"}, {"role": "assistant", "content": "go to shelf 1"}]},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = load(tmp_path)
    assert len(found) == 4 and [sample.calls for sample in found] == [1, 1, 1, 1]
    text = found[0].sequence
    assert found[0].prompt(0) == len(text.ids) * 3 // 4 and text.labels.tolist() == text.ids[text.rows + 1].tolist()
    answer = byte_level().decode(found[1].sequence.labels)
    assert answer.startswith("apple")
    assert len(load(tmp_path / "a.jsonl", limit=2)) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no sample"),
        ("{", "a.jsonl:1: not JSON"),
        ('{"question": "?"}', "fields question; allowed: messages"),
        ('{"instruction": "x"}', "without output or response"),
        ('{"messages": [{"role": "user"}]}', "without role and content"),
        ("[1]", "no object with fields"),
    ],
)
def test_unusable_rows_are_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=words):
        load(tmp_path / "a.jsonl")
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "b.jsonl")


def test_the_hash_of_the_data_follows_its_bytes(tmp_path: Path) -> None:
    data = write_trajectories(tmp_path / "data")
    before = sources_hash([data])
    assert before == sources_hash([data])
    write_trajectories(tmp_path / "data", seed=1)
    assert before != sources_hash([data])
    (data / "episodes.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"episodes.jsonl: cannot be read"):
        sources_hash([data])


def test_system_goal_and_newest_message_are_where_they_stand(tmp_path: Path) -> None:
    sample = samples(tmp_path)[0]
    tokenizer, ids = byte_level(), sample.sequence.ids
    assert tokenizer.decode(ids[: sample.head]).endswith("Goal: cool the mug 0.")
    for call in range(1, sample.calls):
        assert tokenizer.decode(ids[sample.newest[call] : sample.prompt(call)]).startswith("> go to")
