"""Regular expressions of adapters: those that people save are matched, those that never end are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erecap.errors import ModelError
from erecap.models.adapter_settings import check_settings
from erecap.models.regexes import regex_problem

SAVED = [
    r"^(?!.*vision).*(q|k|v)_proj$",
    r"model\.layers\.(\d+)\.self_attn\.(q_proj|v_proj)",
    r".*decoder.*(SelfAttention|EncDecAttention).*(q|v)$",
    r"(.*\.)?layers\.(1[0-9]|2[0-7])\.mlp\.(gate|up|down)_proj",
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|ffn|dense).*?(?:q_proj|k_proj|v_proj).*?)"
    r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|k_proj)))",
    "q_proj",
]
ENDLESS = [
    "(a+)+b", "(a*)*$", "(a|a)*b", "(?:a|ab)+$", "([a-z_.0-9]+)*!", "(x{1,50}){1,50}y", "((a?){30}){2}",
    "(a?a?a?a?){9}b", r"(?:(a)\1)+b", "(?=(a+)+b)", "(?>(a+)+)b", "(?i:(a+)+)b",
    "a?" * 40 + "a" * 40, ".*" * 12 + "b", "x|(a+)+b",
]  # fmt: skip


@pytest.mark.parametrize("text", SAVED)
def test_what_people_save(text: str) -> None:
    assert regex_problem(text) is None


@pytest.mark.parametrize("text", ENDLESS)
def test_what_never_ends_is_refused_at_once(text: str) -> None:
    assert "may match for years" in str(regex_problem(text))


@pytest.mark.parametrize("text", ["(", "a{99999999999999999999}", "[z-a]", "(" * 3000 + ")" * 3000, "ab" * 4000])
def test_what_is_no_expression(text: str) -> None:
    assert regex_problem(text) is not None


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": "(a+)+b"},
        {"exclude_modules": "(.*a)*"},
        {"layers_pattern": "(a|a)*"},
        {"layers_pattern": ["layers", "(a|a)*"]},
        {"modules_to_save": ["lm_head", "(a|a)*"]},
        {"rank_pattern": {"(a+)+b": 4}},
        {"alpha_pattern": {"q_proj": 4, "(a+)+b": 4}},
    ],
    ids=json.dumps,
)
def test_adapters_are_refused_with_the_field(config: dict) -> None:
    with pytest.raises(ModelError, match=f"adapter_config.json: {next(iter(config))}: .* cannot be matched"):
        check_settings(config, Path("adapter_config.json"))
    check_settings({"target_modules": ["(a+)+b"]}, Path("adapter_config.json"))  # names, which nothing is matched by
