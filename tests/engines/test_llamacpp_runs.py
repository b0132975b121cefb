"""Runs and servers open GGUF files by their settings."""

from __future__ import annotations

import pytest

from erecap.budget import Budget
from erecap.config.modes import Mode, parse_mode
from erecap.config.run import BudgetSettings
from erecap.errors import ConfigError
from erecap.language_models.build import CallSettings, build_language_model
from erecap.language_models.opened import ModelSettings, open_for, open_model
from tests.engines.llamacpp_models import NEEDS_LLAMACPP, gguf_of_small_llama, small_llama
from tests.session.chats import start, turn

pytestmark = NEEDS_LLAMACPP
SETTINGS = CallSettings(budget=BudgetSettings(kv_tokens=80))


def settings(**options: object) -> ModelSettings:
    return ModelSettings(str(gguf_of_small_llama()), dtype="float32", threads=1, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "mode", [parse_mode("erecap"), parse_mode("recency"), Mode("x", kv="reuse", engine="llamacpp")]
)
def test_modes_that_keep_keys_run_on_a_gguf_file(mode: Mode) -> None:
    opened = open_model(settings())
    assert opened.facts["layers"] == small_llama().layers and opened.facts["dtype"] == "float32"
    assert opened.facts["vocab_size"] == small_llama().vocabulary and opened.facts["parameters"] > 10_000
    language_model = build_language_model(opened, mode, SETTINGS)
    answer = language_model.generate(start(), max_new_tokens=4)
    again = language_model.generate([*start(), *turn(answer.text, 1)], max_new_tokens=4)
    assert again.usage.reused_tokens > 20 and again.usage.kv_bytes > 0
    twin = language_model.fork(start())  # type: ignore[attr-defined]
    assert twin.generate(start(), max_new_tokens=4).usage.completion_tokens == 4
    language_model.reset()
    assert language_model.generate(start(), max_new_tokens=4).text == answer.text


def test_what_a_gguf_file_cannot_serve_is_refused() -> None:
    opened = open_model(settings())
    for mode in ("full", "prune[recency]", "mask"):
        with pytest.raises(ConfigError, match="a GGUF file was opened; allowed with it: kv: reuse or evict"):
            build_language_model(opened, parse_mode(mode), SETTINGS)
    with pytest.raises(ConfigError, match="does not support: attention scores"):
        build_language_model(opened, parse_mode("attention"), SETTINGS)
    with pytest.raises(ConfigError, match="layers: got a plan with"):
        open_model(settings(layers="x"))
    with pytest.raises(ConfigError, match="dtype: got 'int8' with engine llamacpp; allowed: auto, float32"):
        open_for(ModelSettings(str(gguf_of_small_llama()), dtype="int8"), "llamacpp")
    with pytest.raises(ConfigError, match=r"device: got 'cuda', and llama.cpp was built for the CPU alone"):
        open_for(settings(device="cuda"), "llamacpp")
    with pytest.raises(ConfigError, match=r"allowed: smollm2-135m-instruct.*, or a path to a \.gguf file"):
        open_for(ModelSettings("smollm2-135m-instruct-hub"), "llamacpp")


def test_the_dtype_is_that_of_keys_and_values() -> None:
    sizes = {}
    for dtype in ("auto", "float16", "float32"):
        opened = open_model(ModelSettings(str(gguf_of_small_llama()), dtype=dtype, threads=1))
        sizes[dtype] = opened.model.bytes_per_token
    assert sizes["float32"] == 2 * sizes["float16"] == 2 * sizes["auto"]


def test_a_server_opens_one() -> None:
    from erecap.serving.engine import Ask
    from erecap.serving.opening import open_engine

    said: list[str] = []
    engine = open_engine(
        str(gguf_of_small_llama()), adapter=None, evict_by="recency", budget=Budget(80), dtype="float32", device="auto",
        decode_weights="same", threads=1, say=said.append,
    )  # fmt: skip
    try:
        ask = Ask(start(), {"max_new_tokens": 4})
        engine.submit(ask)
        assert ask.answer.result(60).usage.completion_tokens == 4 and engine.store.kv_bytes() > 0
    finally:
        engine.close()
    for other in ("transformers", "vllm"):
        with pytest.raises(ConfigError, match=rf"--engine: got {other} with .*gguf; a GGUF file runs on llamacpp"):
            open_engine(
                str(gguf_of_small_llama()), adapter=None, evict_by="recency", budget=Budget(80), dtype="auto",
                device="auto", decode_weights="same", threads=1, engine=other, say=said.append,
            )  # fmt: skip
    assert len(said) == 1, "refused before anything is loaded"
    with pytest.raises(ConfigError, match="serve: the engine 'llamacpp' does not support: packed weights"):
        open_engine(
            str(gguf_of_small_llama()), adapter=None, evict_by="recency", budget=Budget(80), dtype="auto",
            device="auto", decode_weights="int4", threads=1, say=said.append,
        )  # fmt: skip
