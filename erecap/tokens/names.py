"""Names of the token scorers, importable without torch (configurations check against them)."""

SCORER_NAMES: tuple[str, ...] = ("attention", "random", "recency")
LEARNED = "learned"  # the scorer that comes from a trained checkpoint, and so cannot be made from its name alone
MODE_SCORERS: tuple[str, ...] = (*SCORER_NAMES, LEARNED)  # what a run may name; `learned` needs `pruner: FOLDER`
SINKS = 4  # first tokens of a sequence that are always kept, unless a configuration says otherwise
PRESETS: dict[str, float] = {"keep09": 0.9, "keep08": 0.8, "keep07": 0.7}
