"""YAML of others: one line with its place for whatever is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erecap.config.overrides import parse_override
from erecap.config.run import BudgetSettings, PruneSettings, ScheduleSettings
from erecap.config.source import parse_yaml, read_named
from erecap.cost.prices import load_prices
from erecap.errors import ConfigError


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (laughs(9), "line 5, column 5 not valid YAML: more than 100,000 values, aliases written out"),
        ("a: &x {b: &y {c: *x}}", "an alias contains itself"),
        ("&x\n<<: *x", "an alias contains itself"),
        ("a: &x\n  - [*x]", "line 1, column 4 not valid YAML: an alias contains itself"),
        ("a: " + "9" * 5000, "cannot be read as int"),
        ("a: 2026-13-45", "line 1, column 4 not valid YAML: '2026-13-45' cannot be read as timestamp"),
        ("a: 2026-02-30 25:00:00", "cannot be read as timestamp"),
        ("a: !!int x", "'x' cannot be read as int"),
        ("a: !!bool x", "'x' cannot be read as bool"),
        ("a: !!float x", "'x' cannot be read as float"),
        ("a: !!timestamp x", "'x' cannot be read as timestamp"),
        ("[" * 3000, "nested too deeply"),
        ("a: " + "{a: " * 300 + "1" + "}" * 300, "nested too deeply"),
        ("<<: 5", "expected a mapping"),
        ("x: &x {b: 1}\n<<: *x\n<<: *x", "the key '<<' is written twice"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: b\n--- c", "but found another document"),
    ],
)
def test_refusals(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml("f.yaml", text)
    assert words in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_aliases_and_merged_keys_that_are_meant() -> None:
    text = (
        "base: &base {keep: 0.7, sinks: 4}\nprune: {<<: *base, keep: 0.5}\nboth: {<<: [*base, {local: 0.1}], sinks: 2}"
    )
    found = parse_yaml("f", text)
    assert found["prune"] == {"keep": 0.5, "sinks": 4} and found["both"] == {"keep": 0.7, "sinks": 2, "local": 0.1}
    assert len(parse_yaml("f", laughs(4))["a3"]) == 10


@given(st.text("ab:-&*<!{}[],\n\"' 0129.#|>?~=", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_yaml("f", text)
    except ConfigError as error:
        assert "\n" not in str(error)


def test_files_and_other_readers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read as int"):
        parse_override("episodes=" + "9" * 5000)
    big = tmp_path / "big.yaml"
    big.write_text(laughs(9))
    with pytest.raises(ConfigError, match=r"big\.yaml: line 5.*more than 100,000 values"):
        load_prices(big)
    with pytest.raises(ConfigError, match="larger than"):
        read_named("run", str(_zero(tmp_path)), "erecap.configs")


def _zero(folder: Path) -> Path:
    (folder / "zero.yaml").symlink_to("/dev/zero")
    return folder / "zero.yaml"


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        (BudgetSettings, {"memory_gb": "inf"}),
        (BudgetSettings, {"pays": "nan"}),
        (ScheduleSettings, {"deadline_ms": "inf"}),
        (ScheduleSettings, {"low_watermark": "nan"}),
        (PruneSettings, {"keep": "nan"}),
        (PruneSettings, {"local": "-inf"}),
    ],
)
def test_numbers_that_are_none(settings: type, values: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="finite number"):
        settings.model_validate({key: float(value) for key, value in values.items()})  # type: ignore[attr-defined]
