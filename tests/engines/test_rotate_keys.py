"""Keys that are rotated to other positions equal keys that are read there, on every kind of rotary embedding."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config

import erecap
from erecap.engines.rotate_keys import KeyRotator, why_fixed
from erecap.tokens.cache.ropes import reuse_window, window_of
from erecap.tokens.servable import probe_read
from tests.engines.changing_ropes import SIZES, SWITCH, changing
from tests.tokens.families import family, ids_of, whole
from tools.architectures.tokenizer import chat_tokenizer

# Whole heads; shares of them; neighbours as pairs; turned backwards; layers without; own frequencies for each kind.
ROTATED = (
    "qwen2", "stablelm", "phi", "gpt_neox", "persimmon", "nemotron", "cohere", "glm", "glm4", "ernie4_5", "nanochat",
    "cohere2", "exaone4", "smollm3", "cohere2_moe", "exaone_moe", "gemma3_text", "olmo3", "gpt_oss", "mimo_v2_flash",
)  # fmt: skip
FIXED = {"opt": "no rotary embeddings", "biogpt": "no rotary embeddings", "deepseek_v3": "values", "axk1": "values"}


@pytest.mark.parametrize("kind", ROTATED)
def test_rotated_keys_are_those_read_at_the_new_positions(kind: str) -> None:
    model = family(kind)
    before, after = (probe_read(model, start) for start in (3, 90))
    rotate = KeyRotator(model)
    shift = torch.full((12,), 87)
    for number, (old, new) in enumerate(zip(before.layers, after.layers, strict=True)):
        turned = rotate(number, old.keys, shift)
        assert (turned - new.keys).abs().max() <= 2e-3 * new.keys.abs().max(), number
        back = rotate(number, turned, -shift)
        assert (back - old.keys).abs().max() <= 1e-4 * old.keys.abs().max(), number


@pytest.mark.parametrize("kind", ["cohere2", "exaone4", "smollm3", "cohere2_moe", "exaone_moe"])
def test_layers_without_positions_are_left_alone(kind: str) -> None:
    session = erecap.ReplanSession(family(kind), chat_tokenizer())
    session.read([{"role": "user", "content": "Bring me the red mug from the table."}])
    before = session.cache.layers[3].keys[:, :, 20:].clone()
    other = session.cache.layers[0].keys[:, :, 20:].clone()
    session.splice((5, 20))
    assert torch.equal(session.cache.layers[3].keys[:, :, 5:], before)
    assert not torch.equal(session.cache.layers[0].keys[:, :, 5:], other)


@pytest.mark.parametrize(("kind", "reason"), FIXED.items())
def test_a_budget_is_refused_before_the_first_token_where_keys_cannot_move(kind: str, reason: str) -> None:
    model = family(kind)
    assert reason in (why_fixed(model) or "")
    with pytest.raises(ValueError, match=f"repositioned: {type(model).__name__} .*{reason}"):
        erecap.ReplanSession(model, chat_tokenizer(), budget=64)
    with pytest.raises(erecap.errors.ConfigError, match=reason):
        erecap.wrap(model, budget=64)
    assert erecap.ReplanSession(model, chat_tokenizer(), budget="auto").budget.automatic


@pytest.mark.parametrize("kind", ["apertus", "phi", "gpt_neox_japanese", "granite_swa"])
def test_a_session_outlives_the_window_many_times(kind: str) -> None:
    session = erecap.ReplanSession(family(kind), chat_tokenizer(), budget=64, retokenize=True)
    chat = [{"role": "system", "content": "Plan."}]
    for turn in range(40):
        chat.append({"role": "user", "content": f"You see mug {turn}."})
        answer = session.generate(chat, max_new_tokens=3)
        chat.append({"role": "assistant", "content": answer.text})
        assert answer.usage.overflow_messages == 0 and session.engine.stored().most <= 64
    assert session.engine.tokens > 2 * session.engine.window


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
WINDOWS = {
    "as Qwen's instructions have it": (96, YARN | {"original_max_position_embeddings": 96}, 384),
    "without the original": (100, YARN, 400),
    "already stretched": (512, YARN | {"original_max_position_embeddings": 128}, 512),
    "a factor that is no whole number": (64, YARN | {"factor": 2.5}, 160),
    "llama3 says the stretched one": (
        512,
        {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 64}, 512,
    ),
    "default": (200, {"rope_type": "default", "rope_theta": 1e4}, 200),
}  # fmt: skip


@pytest.mark.parametrize(("stated", "rope", "window"), WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config])
def test_windows(kind: type, stated: int, rope: dict, window: int) -> None:
    config = kind(**SIZES, head_dim=16, max_position_embeddings=stated, rope_parameters=dict(rope))
    assert window_of(config) == reuse_window(config) == window


def test_a_yarn_model_is_read_to_the_end_of_its_window() -> None:
    rope = YARN | {"original_max_position_embeddings": 96}
    model = LlamaForCausalLM(LlamaConfig(**SIZES, max_position_embeddings=96, rope_parameters=rope)).eval()
    session, chat = erecap.ReplanSession(model, chat_tokenizer()), []
    for turn in range(6):
        chat.append({"role": "user", "content": f"You see a mug and a drawer {turn}."})
        answer = session.generate(chat, max_new_tokens=4)
        chat.append({"role": "assistant", "content": "take it"})
        assert answer.usage.overflow_messages == 0
    assert 300 < session.engine.tokens < session.engine.window == 384


@pytest.mark.filterwarnings("ignore:.*changes its rotary embeddings")
@pytest.mark.parametrize("name", ["dynamic", "phi3"])
def test_under_a_budget_ropes_that_change_with_the_length_stay_within_their_switch(name: str) -> None:
    session, chat = erecap.ReplanSession(changing(name), chat_tokenizer(), budget=64, retokenize=True), []
    for turn in range(9):
        chat.append({"role": "user", "content": f"Mug {turn}, drawer {turn + 3}."})
        answer = session.generate(chat, max_new_tokens=4)
        chat.append({"role": "assistant", "content": "go"})
        positions = [int(layout.positions.max()) for layout in session.cache.layouts()]
        assert max(positions) < SWITCH == session.engine.window  # nothing was read under other angles
        assert answer.usage.overflow_messages == 0
    assert session.engine.tokens > SWITCH


def test_the_shorter_window_is_said_when_the_session_is_made() -> None:
    with pytest.warns(UserWarning, match="Phi3ForCausalLM changes its rotary embeddings beyond 128 tokens"):
        erecap.ReplanSession(changing("phi3"), chat_tokenizer(), budget=64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        erecap.ReplanSession(changing("phi3"), chat_tokenizer())
    with pytest.raises(erecap.errors.ConfigError, match="longrope"):
        erecap.wrap(changing("phi3"), budget=64)


@pytest.mark.parametrize("name", ["dynamic", "phi3"])
def test_a_rotation_within_the_switch_is_exact(name: str) -> None:
    model = changing(name)
    model(ids_of(200))  # leaves the module with the angles of a long call
    before, after = (probe_read(model, start) for start in (0, 100))
    for number, (old, new) in enumerate(zip(before.layers, after.layers, strict=True)):
        turned = KeyRotator(model)(number, old.keys, torch.full((12,), 100))
        assert (turned - new.keys).abs().max() <= 2e-3 * new.keys.abs().max()


def test_wrapped_calls_that_would_cross_the_switch_are_the_bare_models(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = changing("phi3")
    wrapped = erecap.wrap(model, prune=erecap.PruneConfig(keep=0.5, stages=(2,)), log=tmp_path)
    for tokens, passed in ((100, False), (120, True), (150, False)):
        ids = ids_of(tokens)
        got = wrapped.generate(**whole(ids), max_new_tokens=12, do_sample=False)
        if passed:
            assert torch.equal(got, model.generate(**whole(ids), max_new_tokens=12, do_sample=False))
    rows = (tmp_path / "replans.jsonl").read_text().splitlines()
    assert ["beyond 128 tokens" in row for row in rows] == [False, True, False]


def test_a_model_in_training_mode_is_refused_until_it_is_in_eval_mode() -> None:
    model = copy.deepcopy(family("qwen2")).train()
    with pytest.raises(ValueError, match=r"is in training mode, .* call its eval\(\)"):
        erecap.ReplanSession(model, chat_tokenizer(), budget=erecap.Budget(kv_tokens=90))
    erecap.ReplanSession(model.eval(), chat_tokenizer(), budget=erecap.Budget(kv_tokens=90))
