"""Chat templates are programs of the model's authors: what goes wrong in one is one line."""

from __future__ import annotations

import pytest

import erecap.context.tokenize as tokenize
from erecap.context.tokenize import render_prompt
from erecap.errors import MessagesError, ModelError
from tests.context.small_tokenizers import byte_level
from tests.context.test_tokenize import chat

ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "{% macro m() %}{% for a in range(99) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endmacro %}"
    "{% for a in range(99999) %}{{ m() }}{% endfor %}",
]


def tokenizer(template: str):  # type: ignore[no-untyped-def]
    made = byte_level()
    made = type(made)(tokenizer_object=made.backend_tokenizer)
    made.chat_template = template
    return made


@pytest.mark.parametrize("template", ENDLESS)
def test_templates_without_end(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize, "TEMPLATE_S", 0.3)
    with pytest.raises(ModelError, match=r"takes longer than 0\.3 s; it may have no end"):
        render_prompt(chat("a", "b"), tokenizer(template))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{% for a in range(10**9) %}{% endfor %}", "OverflowError: Range too big"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{{ nothing.at_all }}", "refuses roles"),
        ("{% if %}", "refuses roles"),
        ("{{ messages | join(attribute=7) | int(base=1) }}", "fails|refuses|content"),
        ("{{ 'x' | format(1, 2) }}", "TypeError"),
    ],
)
def test_templates_that_fail(template: str, words: str) -> None:
    with pytest.raises(MessagesError, match=words) as caught:
        render_prompt(chat("a", "b"), tokenizer(template))
    assert "\n" not in str(caught.value)
