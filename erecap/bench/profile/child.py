"""Peak memory of one cell of a profile, measured in a fresh process.

python -m erecap.bench.profile.child reads one JSON object from standard input and writes one to standard output.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from erecap.bench.memory import growth_elsewhere, report, serve_request
from erecap.bench.profile.calls import Text, call_of
from erecap.bench.profile.settings import Cell, Profile
from erecap.generation import JsonRow


def cell_growth(
    model: str, dtype: str, profile: Profile, cell: Cell, text: Text, threads: int, adapter: str | None = None
) -> float | None:
    """Bytes that a call takes at most beside the weights.

    Of a replanning call, what its session stores counts, and what reading the chat took does not.

    Args:
        model, adapter: what the process loads it by.

    Returns, Raises: as `growth_elsewhere`.
    """
    call = {"profile": asdict(profile), "cell": asdict(cell), "text": asdict(text)}
    request = {"model": model, "dtype": dtype, "threads": threads, "adapter": adapter, **call}
    return growth_elsewhere(request, cell.name, "erecap.bench.profile.child")


def _measure(request: JsonRow, model: Any, tokenizer: Any) -> None:
    profile, cell, text = Profile(**request["profile"]), Cell(**request["cell"]), request["text"]
    whole = Text(tuple(text["messages"]), tuple(text["ids"]), text["new"])
    short = Text(whole.messages[:3], whole.ids[: max(8, len(whole.ids) // 32)], whole.new)
    # The first call allocates what every later one uses again.
    call_of(profile.of, profile, cell, model, tokenizer, short)()
    report(lambda: call_of(profile.of, profile, cell, model, tokenizer, whole))


if __name__ == "__main__":
    serve_request(_measure)
