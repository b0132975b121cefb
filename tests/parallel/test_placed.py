"""Models whose layers lie on two devices answer, store and evict as undivided ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import erecap
from erecap.budget import Budget
from erecap.engines.transformers import TransformersEngine
from erecap.parallel.placement import has_values, input_device, running_devices, waiting_bytes
from erecap.session import ReplanPool, ReplanSession
from erecap.session.chat_edits import ChatEdits
from erecap.tokens import PruneConfig
from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.hooks import find_decoder
from erecap.tokens.pruning import attach
from tests.context.small_tokenizers import byte_level
from tests.parallel.placed import device_map, placed
from tests.session.chats import model, start, turn
from tests.session.pooling import AGENTS, assert_same_state, chats, options
from tests.tokens.models import ARCHITECTURES, prompt, scorer_of, tiny

GPUS = pytest.param(
    ("cuda:0", "cuda:1"), marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two accelerators")
)
OFFLOADED = ("cpu", "disk")
WAYS: dict[str, dict[str, Any]] = {
    "unlimited": {},
    "evicting": {"budget": Budget(kv_tokens=120)},
    "pruning": {
        "budget": Budget(kv_tokens=120),
        "evict_by": "attention",
        "prune": PruneConfig("attention", 0.8, (3, 5)),
    },
}
LISTED = [(name, list(WAYS)[number % 3]) for number, name in enumerate(ARCHITECTURES)]


def talk(session: ReplanSession, turns: int) -> list[str]:
    """The answers of a conversation whose drafts are accepted now and then."""
    messages, answers = start(), []
    for number in range(turns):
        answers.append(session.generate(messages, max_new_tokens=6).text)
        messages += turn(answers[-1], number)
    return answers


def assert_equal(one: ReplanSession, other: ReplanSession, turns: int) -> None:
    assert talk(one, turns) == talk(other, turns)
    assert one.token_ids == other.token_ids
    found, wanted = one.engine.stored(), other.engine.stored()
    assert found.per_layer == wanted.per_layer
    for number, group in enumerate(found.layers):
        assert (found.groups[group] == wanted.groups[wanted.layers[number]]).all()


@pytest.mark.parametrize("devices", [OFFLOADED, GPUS])
@pytest.mark.parametrize(("name", "way"), LISTED)
def test_answers_and_evictions_are_those_of_the_undivided_model(
    name: str, way: str, devices: tuple[str, str], tmp_path: Path
) -> None:
    split = placed(model(name), device_map(*devices), tmp_path)
    session = ReplanSession(split, byte_level(), **WAYS[way])
    assert_equal(session, ReplanSession(model(name), byte_level(), **WAYS[way]), turns=4)
    crossed = session.engine.crossed()  # type: ignore[attr-defined]
    assert (crossed.weights > 0) == ("disk" in devices) and (crossed.hidden > 0) == ("disk" not in devices)
    used = session.generate([{"role": "user", "content": "And the mug?"}], max_new_tokens=2).usage
    total = session.engine.crossed().total  # type: ignore[attr-defined]
    assert used.crossed_bytes == (total - crossed.total if total >= crossed.total else total) > 0
    for layer, device in zip(session.cache.layers, running_devices(find_decoder(split)), strict=True):
        assert layer.keys.device == layer.values.device == device


@pytest.mark.slow
@pytest.mark.parametrize("devices", [OFFLOADED, GPUS])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_thirty_turns(name: str, way: str, devices: tuple[str, str], tmp_path: Path) -> None:
    split = placed(model(name), device_map(*devices), tmp_path)
    own, other = ReplanSession(split, byte_level(), **WAYS[way]), ReplanSession(model(name), byte_level(), **WAYS[way])
    assert_equal(own, other, turns=30)


def test_offloaded_weights_count_once_a_pass_and_are_no_change_of_the_model(tmp_path: Path, caplog: Any) -> None:
    split = placed(model("llama"), device_map("cpu", "disk"), tmp_path)
    layers = find_decoder(split).layers
    waiting = sum(weight.numel() * 4 for layer in layers[4:] for weight in layer.parameters())
    assert waiting_bytes(split) == waiting > 0 and has_values(split) and input_device(split).type == "cpu"
    engine = TransformersEngine(split)
    revision = engine.revision
    engine.read(list(range(5, 30)))
    with engine.attached():
        engine.verify([5, 6])
        engine.verify([7])
    assert engine.crossed().weights == engine.crossed().total == 3 * waiting
    assert engine.revision == revision
    assert engine.fingerprint() == TransformersEngine(model("llama")).fingerprint()
    engine.reset()
    assert engine.crossed().total == 0


def test_a_changed_weight_that_waits_in_memory_is_noticed() -> None:
    from accelerate import cpu_offload

    split = cpu_offload(placed(model("llama"), {"": "cpu"}), execution_device=torch.device("cpu"))
    engine = TransformersEngine(split)
    before = engine.revision
    engine.read([5, 6, 7])
    assert engine.revision == before
    found = dict(split.model.layers[2].mlp.up_proj._hf_hook.weights_map.dataset)
    found["model.layers.2.mlp.up_proj.weight"].data.mul_(2.0)
    assert engine.revision != before


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_keys_scores_and_masks_stay_where_the_layer_is(name: str) -> None:
    # The device meta takes the place of a second one: it computes shapes, and refuses tensors of another device.
    devices = device_map("cpu", "meta", ends="meta")
    split = placed(tiny(name), devices)
    decoder = find_decoder(split)
    cache = PrunedCache(PruneConfig(scorer_of("attention"), 0.5, (1, 3)), 8)
    ids = prompt(40)["input_ids"]
    with torch.no_grad(), attach(split, cache, attention=True):
        decoder(input_ids=ids, past_key_values=cache, use_cache=True)
        decoder(input_ids=ids[:, :7], past_key_values=cache, use_cache=True)
    for number, layer in enumerate(cache.layers):
        where = "cpu" if number < 4 else "meta"
        assert {layer.keys.device.type, layer.values.device.type, cache.layout(number).index.device.type} == {where}
    assert cache.kept_lengths()[:4] == [47, 27, 27, 17] and cache.layout(7).width == 17
    live, width, head = 10 + 7, decoder.config.hidden_size, decoder.layers[0].self_attn.head_dim
    assert cache.crossings.hidden == live * width * 4  # once, at the border, of the tokens that are left
    assert cache.crossings.angles == 2 * live * head * 4
    assert cache.crossings.layouts == live * 17 + 10 * 8  # and the columns of the pruned read
    assert cache.crossings.weights == 0


def test_edits_forks_and_files(tmp_path: Path) -> None:
    split = placed(model("qwen2"), device_map("cpu", "disk"), tmp_path)
    made = [ReplanSession(one, byte_level(), budget=Budget(kv_tokens=200)) for one in (split, model("qwen2"))]
    answers = []
    for number, session in enumerate(made):
        messages = start() + turn("go to shelf 1", 1) + turn("go to shelf 2", 2)
        session.read(messages)
        edits = ChatEdits({3: [1]}, reposition=[3])
        first = session.generate(messages, max_new_tokens=5, edits=edits).text
        fork = session.fork()
        messages += turn(first, 3)
        path = tmp_path / f"{number}.safetensors"
        session.save(path)
        again = ReplanSession(made[1 - number].model, byte_level(), budget=Budget(kv_tokens=200))
        again.restore(path)  # on the model that is placed in the other way
        answers.append([first, *(one.generate(messages, max_new_tokens=5).text for one in (session, fork, again))])
    assert answers[0] == answers[1] and len(set(answers[0][1:])) == 1


def test_a_pool_serves_agents_on_it(tmp_path: Path) -> None:
    split = placed(model("llama"), device_map("cpu", "disk"), tmp_path)
    pool = ReplanPool(split, byte_level())
    together = [pool.session(**agent["session"]) for agent in AGENTS]
    alone = [ReplanSession(model("llama"), byte_level(), **agent["session"]) for agent in AGENTS]
    talks = chats()
    wanted = [s.generate(m, **options(a)) for s, m, a in zip(alone, talks, AGENTS, strict=True)]
    got = pool.generate([(s, m, options(a)) for s, m, a in zip(together, talks, AGENTS, strict=True)])
    assert [g.text for g in got] == [w.text for w in wanted]
    for one, two in zip(together, alone, strict=True):
        assert_same_state(one, two)


def test_wrapped(tmp_path: Path) -> None:
    split = placed(model("llama"), device_map("cpu", "disk"), tmp_path)
    ids = torch.tensor([byte_level().apply_chat_template(start(), tokenize=True, return_dict=False)])
    wanted = model("llama").generate(ids, max_new_tokens=8, do_sample=False)
    wrapped = erecap.wrap(split)
    assert torch.equal(wrapped.generate(ids, max_new_tokens=8, do_sample=False), wanted)
    longer = torch.cat([wanted, ids[:, :9]], 1)
    assert torch.equal(
        wrapped.generate(longer, max_new_tokens=8, do_sample=False),
        model("llama").generate(longer, max_new_tokens=8, do_sample=False),
    )


def test_what_no_placement_of_ours_serves_is_refused_in_one_line(tmp_path: Path) -> None:
    split = placed(model("llama"), device_map("cpu", "disk"), tmp_path)
    with pytest.raises(ValueError, match="weights='int8': its weights are placed by accelerate"):
        ReplanSession(split, byte_level(), decode_weights="int8")
    with torch.device("meta"):
        empty = type(model("llama"))(model("llama").config).eval()
    with pytest.raises(ValueError, match="on the device meta, which holds no values"):
        ReplanSession(empty, byte_level())
    flex = placed(model("llama"), {"": "cpu"})
    flex.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match=r"not 'flex_attention'; load the model with attn_implementation='sdpa'"):
        ReplanSession(flex, byte_level())
    with pytest.warns(UserWarning, match="passes every call on as it is: .* not 'flex_attention'"):
        erecap.wrap(flex)
