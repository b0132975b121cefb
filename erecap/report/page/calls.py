"""The report of a wrapped planner: calls without episodes, and a comparison with the bare planner."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from erecap.errors import RunError
from erecap.generation import JsonRow
from erecap.report.stats import percentiles
from erecap.untrusted import parse_json, read_json

HEAD, CALLS, SHADOW = "run.json", "replans.jsonl", "shadow.jsonl"
OF_CALLS = ("replan", "kept_tokens", "prompt_tokens", "reused_tokens", "total_ms", "decision")  # that rows must have
OF_SHADOW = ("replan", "total_ms", "agrees")
_OF_SERVERS = ("server_prompt_tokens", "server_cached_tokens")  # which a server may leave out
_NUMBERS = (
    "kept_tokens", "prompt_tokens", "reused_tokens", "new_tokens", "prefill_ms", "decode_ms", "total_ms", *_OF_SERVERS,
)  # fmt: skip
_MOST = 1e15  # of tokens or milliseconds


def is_call_log(folder: Path) -> bool:
    """Return True if a wrapped planner wrote the folder."""
    try:
        head = read_json(folder / HEAD)
    except (OSError, ValueError):
        return False  # the loader of runs says what is wrong with it
    return isinstance(head, dict) and "wrapped" in head


def summarise_calls(folder: Path) -> JsonRow:
    """Figures of all calls in the folder.

    `calls`, `pruned`, `failed` (shares), `given`, `shown` (tokens), `total_ms` (percentiles each), `reused` (share of
    the shown tokens that begin as in the call before), `cached` (share of the prompt that the server says it had),
    and `shadow`: `calls`, `failed`, `skipped`, `unknown` (answers that cannot be compared), `agrees` (share of the
    others; None without any), `ratio` (median of bare over wrapped time), `total_ms`.

    `session` has the figures of a wrapped model's session, None for other logs: the shares of calls that were `read`
    whole, `reused` something, were `passed` to the bare model, and in which something was `evicted`; `new`,
    `reused_tokens`, `prefill_ms` and `decode_ms` (percentiles over the calls that were not passed; None without any).

    Raises:
        RunError: no calls, or a damaged row, with file and line.
    """
    rows = _rows(folder / CALLS, OF_CALLS)
    if not rows:
        raise RunError(f"{folder / CALLS}: no calls; the planner that was wrapped has not been asked yet")
    shown = [row["kept_tokens"] for row in rows]
    prompts = sum(row.get("server_prompt_tokens") or 0 for row in rows)
    return {
        "calls": len(rows),
        "pruned": _share(rows, "pruned"),
        "failed": _share(rows, "failed"),
        "given": _figures([row["prompt_tokens"] for row in rows]),
        "shown": _figures(shown),
        "reused": sum(row["reused_tokens"] for row in rows) / max(1.0, sum(shown)),
        "cached": sum(row.get("server_cached_tokens") or 0 for row in rows) / prompts if prompts else None,
        "total_ms": _figures([row["total_ms"] for row in rows]),
        "session": _session(rows) if any(str(row.get("mode")).startswith("session") for row in rows) else None,
        "shadow": _shadow(_rows(folder / SHADOW, OF_SHADOW), rows),
    }


def call_table(logs: Sequence[tuple[str, JsonRow]]) -> Table:
    """Side by side, a column a log."""
    table = Table("", *(name for name, _ in logs), box=None, padding=(0, 2, 0, 0))

    def line(title: str, text: Any) -> None:
        cells = [text(figures) for _, figures in logs]
        if any(cell != "–" for cell in cells):
            table.add_row(title, *cells)

    def text(cell: Any) -> Any:  # a line of planners whose text is shortened
        return lambda f: "–" if f["session"] else cell(f)

    def session(cell: Any) -> Any:  # a line of models behind a session
        return lambda f: cell(f["session"]) if f["session"] else "–"

    line("calls", lambda f: f"{f['calls']:,}")
    line("of these shortened", text(lambda f: f"{f['pruned']:.0%}"))
    line("sent whole after an error", lambda f: f"{f['failed']:.1%}" if f["failed"] else "–")
    line("read whole, as a new conversation", session(lambda s: f"{s['read']:.0%}"))
    line("continued a stored conversation", session(lambda s: f"{s['reused']:.0%}"))
    line("evicted something", session(lambda s: f"{s['evicted']:.0%}"))
    line("passed to the bare model", session(lambda s: f"{s['passed']:.0%}" if s["passed"] else "–"))
    line("tokens given, P50 / P95", text(lambda f: _two(f["given"])))
    line("tokens shown, P50 / P95", text(lambda f: _two(f["shown"])))
    line("tokens of the prompt, P50 / P95", session(lambda s: _two(s["prompt"])))
    line("tokens new, prefilled in the call", session(lambda s: _two(s["new"])))
    line("tokens reused, read before", session(lambda s: _two(s["reused_tokens"])))
    line("ms of prefill, P50 / P95", session(lambda s: _two(s["prefill_ms"])))
    line("ms of decoding, P50 / P95", session(lambda s: _two(s["decode_ms"])))
    line("shown as in the call before", text(lambda f: f"{f['reused']:.0%}"))
    line("found in the server's cache", lambda f: "–" if f["cached"] is None else f"{f['cached']:.0%}")
    line("ms a call, P50 / P95 / P99", lambda f: " / ".join(f"{f['total_ms'][k]:,.0f}" for k in ("p50", "p95", "p99")))
    line("bare calls beside it", lambda f: "–" if f["shadow"] is None else f"{f['shadow']['calls']:,}")
    line(
        "bare calls skipped", lambda f: "–" if not (f["shadow"] or {}).get("skipped") else f"{f['shadow']['skipped']:,}"
    )
    line(
        "bare answers that cannot be compared",
        lambda f: "–" if not (f["shadow"] or {}).get("unknown") else f"{f['shadow']['unknown']:,}",
    )
    line("the same answer", lambda f: _agreement(f["shadow"]))
    line("bare over wrapped time, median", lambda f: "–" if f["shadow"] is None else f"{f['shadow']['ratio']:.2f}x")
    return table


def _session(rows: Sequence[JsonRow]) -> JsonRow:
    served = [row for row in rows if row["decision"] != "passed"]
    keys = {
        "prompt": "prompt_tokens", "new": "new_tokens", "reused_tokens": "reused_tokens", "prefill_ms": "prefill_ms",
        "decode_ms": "decode_ms",
    }  # fmt: skip
    return {
        **{decision: _share(rows, decision) for decision in ("read", "reused", "passed")},
        "evicted": sum(bool(row.get("evicted")) for row in rows) / len(rows),
        **{name: _figures([row.get(key, 0) for row in served]) if served else None for name, key in keys.items()},
    }


def _two(figures: JsonRow | None) -> str:
    return "–" if figures is None else f"{figures['p50']:,.0f} / {figures['p95']:,.0f}"


def _shadow(replays: list[JsonRow], rows: list[JsonRow]) -> JsonRow | None:
    skipped = sum("skipped" in row for row in replays)
    unknown = sum(row.get("unknown") is not None for row in replays)
    done = [row for row in replays if row["agrees"] is not None or row.get("unknown") is not None]
    if not done:
        return None
    compared = [row["agrees"] for row in done if row["agrees"] is not None]
    wrapped = {row["replan"]: row["total_ms"] for row in rows}
    ratios = [row["total_ms"] / wrapped[row["replan"]] for row in done if wrapped.get(row["replan"])]
    return {
        "calls": len(done),
        "failed": len(replays) - len(done) - skipped,
        "skipped": skipped,
        "unknown": unknown,
        "agrees": sum(compared) / len(compared) if compared else None,
        "ratio": statistics.median(ratios) if ratios else 0.0,
        "total_ms": _figures([row["total_ms"] for row in done]),
    }


def _agreement(shadow: JsonRow | None) -> str:
    if shadow is None:
        return "–"
    return "unknown" if shadow["agrees"] is None else f"{shadow['agrees']:.0%}"


def _share(rows: Sequence[JsonRow], decision: str) -> float:
    return sum(row["decision"] == decision for row in rows) / len(rows)


def _figures(values: Sequence[float]) -> dict[str, float]:
    found = percentiles(values)
    assert found is not None, "there are calls"
    return {"mean": found.mean, "p50": found.p50, "p95": found.p95, "p99": found.p99, "max": found.max}


def _rows(path: Path, keys: Sequence[str]) -> list[JsonRow]:
    """Rows of a file that may still be written to: a last line that is cut short is left out."""
    if not path.exists():
        return []
    # Bytes, because a row may break off within a character.
    lines = path.read_bytes().split(b"\n")
    torn = lines.pop()
    rows = [_row(f"{path}:{number}", line, keys) for number, line in enumerate(lines, start=1)]
    if _is_object(torn):
        rows.append(_row(f"{path}:{len(lines) + 1}", torn, keys))
    return rows


def _row(where: str, line: bytes, keys: Sequence[str]) -> JsonRow:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise RunError(f"{where}: no JSON: {error}") from error
    if not isinstance(row, dict):
        raise RunError(f"{where}: no JSON object, got {line[:40].decode(errors='replace')}")
    missing = [key for key in keys if key not in row]
    if missing:
        raise RunError(f"{where}: the row lacks {', '.join(missing)}")
    _check_values(where, row)
    return row


def _check_values(where: str, row: JsonRow) -> None:
    """Refuse a row whose figures are none."""
    replayed = "agrees" in row
    if replayed and not (row["agrees"] is None or isinstance(row["agrees"], bool)):
        raise RunError(f"{where}: agrees: got {row['agrees']!r:.40}; allowed: true, false or null")
    unheard = replayed and row["agrees"] is None and row.get("unknown") is None
    if not isinstance(row["replan"], int):
        raise RunError(f"{where}: replan: got {row['replan']!r:.40}; allowed: a whole number")
    for key in _NUMBERS:
        value = row.get(key, 0)
        if value is None and (unheard or key in _OF_SERVERS):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _MOST:
            raise RunError(f"{where}: {key}: got {value!r:.40}; allowed: a finite number, at least 0")


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False
