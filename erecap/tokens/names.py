"""Names of the token scorers, importable without torch (configurations check against them)."""

SCORER_NAMES: tuple[str, ...] = ("attention", "random", "recency")
PRESETS: dict[str, float] = {"keep09": 0.9, "keep08": 0.8, "keep07": 0.7}
