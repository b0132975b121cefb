"""Episodes that never filled the budget: they go the same way in every mode, so one rollout stands for all.

A session evicts, and `mask` blanks, only where a chat and its answer exceed the budget. Until then all modes do the
same arithmetic in the same order. An unpruned episode whose longest chat fits has been played for them, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from erecap.config.modes import Mode
from erecap.config.run import RunConfig
from erecap.generation import JsonRow
from erecap.rollout.run_folder.identity import Identity, budget_of

UNPRUNED = "reuse"


def unpressed_rows(
    rows: Iterable[JsonRow], config: RunConfig, identities: Mapping[tuple[str, str], Identity]
) -> list[JsonRow]:
    """Rows for the budgeted modes, taken from unpruned episodes that never filled the budget.

    Args:
        rows: committed rows of any modes.
        config: its budget and the longest answer decide what fits.
        identities: by suite and mode, `reuse` included; unpruned rows of other weights or settings are passed over.

    Returns:
        Copies with the other mode's name, budget and identity, and with `same_as`. None where the budget is a share
        of the chat or of the memory, where it drops to save time, or where a scheduler may decide otherwise.
    """
    limits = {name: _limit(config, name) for name in config.modes if _as_unpruned(config.mode(name), config)}
    found = []
    for row in rows:
        identity = identities.get((row["suite"], UNPRUNED))
        if row["mode"] != UNPRUNED or identity is None or any(row[k] != v for k, v in identity.fields().items()):
            continue
        if row["error"] is not None or row["overflow"] or not row["tokens"]:
            continue
        for mode, limit in limits.items():
            if limit is None:
                continue
            # The automatic budget is the window, which the row says whether it was passed.
            most = row["tokens"] if isinstance(limit, str) else limit - config.planner.max_new_tokens
            if row["tokens"] > most:
                continue
            own = identities[row["suite"], mode].fields()
            found.append({**row, "mode": mode, "budget": limit, "same_as": UNPRUNED, **own})
    return found


def _limit(config: RunConfig, mode: str) -> int | str | None:
    """The tokens up to which nothing is dropped in a mode, or `auto`; None where that is not known beforehand."""
    budget = config.budget.budget()
    shares = (budget.kv_ratio, budget.memory_bytes, budget.pays)
    of_the_run = config.mode(mode).own_kv_tokens is None
    if config.schedule is not None or (of_the_run and any(share is not None for share in shares)):
        return None
    return budget_of(config, mode)


def _as_unpruned(mode: Mode, config: RunConfig) -> bool:
    """Return True if a mode does the arithmetic of `reuse` as long as its budget is not full."""
    same_engine = mode.engine == config.mode(UNPRUNED).engine
    same_weights = mode.decode.weights in (None, config.decode_weights)
    verified = mode.decode.exit is None or mode.decode.exit.lossless
    return mode.budgeted and mode.prune is None and same_engine and same_weights and verified
