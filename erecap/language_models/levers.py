"""The built-in levers: budget, layer plans, pruning at prefill, drafts, early exit, packed weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from erecap.budget import Budget
from erecap.config.exits import Exit
from erecap.config.modes import Evict, Mode
from erecap.decoding.linear import WEIGHTS


class KvTokens:
    """`kv_tokens`: tokens that the session stores when a call returns."""

    def check(self, value: Any) -> int:
        if type(value) is not int or value < 16:
            raise ValueError(f"got {value!r}; allowed: a whole number of tokens, at least 16")
        return value

    def problem(self, value: int, mode: Mode) -> str | None:
        return None if isinstance(mode.kv, Evict) else "the mode evicts nothing; allowed: with kv: {evict: ...}"

    def digest(self, value: int) -> None:
        return None

    def rereads(self, before: int | None, after: int | None, evicted: bool) -> bool:
        # What was evicted does not come back by itself.
        return evicted and before is not None and (after is None or after > before)

    def arguments(self, value: int | None, own: Mapping[str, Any]) -> Mapping[str, Any]:
        return {} if value is None else {"budget": Budget.of(value)}

    def change(self, session: Any, value: int | None, own: Mapping[str, Any]) -> None:
        session.limit(own["budget"] if value is None else value)


class _OfNewSessions:
    """A lever that belongs to a session from its beginning, so that another value means reading again."""

    def digest(self, value: Any) -> str | None:
        return None

    def rereads(self, before: Any, after: Any, evicted: bool) -> bool:
        return True

    def change(self, session: Any, value: Any, own: Mapping[str, Any]) -> None:
        raise AssertionError("a new session is made instead")


class Plan(_OfNewSessions):
    """`layers` and `slices`: a layer plan, that is another model, whose keys and values are its own."""

    def check(self, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise ValueError(f"got {value!r}; allowed: the folder or name of a layer plan")
        return value

    def problem(self, value: str, mode: Mode) -> str | None:
        return "the mode has a layer plan itself; allowed: one of them" if mode.layers is not None else None

    def digest(self, value: str) -> str:
        from erecap.layers.files import describe_plan

        return describe_plan(value)["hash"]

    def arguments(self, value: str | None, own: Mapping[str, Any]) -> Mapping[str, Any]:
        return {} if value is None else {"layers": value}


class PrefillKeep(_OfNewSessions):
    """`prefill_keep`: share of its tokens that each stage of pruning at prefill keeps."""

    def check(self, value: Any) -> float:
        if type(value) not in (int, float) or not 0 < value <= 1:
            raise ValueError(f"got {value!r}; allowed: a share above 0, at most 1")
        return float(value)

    def problem(self, value: float, mode: Mode) -> str | None:
        return None if mode.prune is None else f"the mode prunes by {mode.prune} itself; allowed: without prune"

    def arguments(self, value: float | None, own: Mapping[str, Any]) -> Mapping[str, Any]:
        if value is None:
            return {}
        from erecap.tokens.scoring.schedule import PruneConfig

        return {"prune": PruneConfig("attention", value, seed=own["seed"])}


class Draft:
    """`draft`: tokens are proposed before the model has chosen them; answers stay the same."""

    def check(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"got {value!r}; allowed: true or false")
        return value

    def problem(self, value: bool, mode: Mode) -> str | None:
        return None

    def digest(self, value: bool) -> None:
        return None

    def rereads(self, before: bool | None, after: bool | None, evicted: bool) -> bool:
        return False

    def arguments(self, value: bool | None, own: Mapping[str, Any]) -> Mapping[str, Any]:
        return {} if value is None else {"draft": value}

    def change(self, session: Any, value: bool | None, own: Mapping[str, Any]) -> None:
        session.draft = own["draft"] if value is None else value


class EarlyExit:
    """`exit`: tokens are named before the last layer and verified; answers stay the same. False: by all layers."""

    def check(self, value: Any) -> bool | str | dict[str, Any]:
        if value is False:
            return value
        settings = Exit.of(value)
        if settings is None:
            raise ValueError(f"got {value!r}; allowed: false, a predictor's name or folder, or settings")
        if not settings.lossless:
            raise ValueError("got lossless: false; allowed: early exit that is verified, so that answers stay the same")
        return settings.parts()

    def problem(self, value: Any, mode: Mode) -> str | None:
        return None

    def digest(self, value: Any) -> str | None:
        if value is False or "predictor" not in value:
            return None
        from erecap.decoding.exits.files import describe_exits

        return str(describe_exits(value["predictor"])["hash"])

    def rereads(self, before: Any, after: Any, evicted: bool) -> bool:
        return False

    def arguments(self, value: Any, own: Mapping[str, Any]) -> Mapping[str, Any]:
        return {} if value is None else {"exit": Exit.of(value or None)}

    def change(self, session: Any, value: Any, own: Mapping[str, Any]) -> None:
        session.leave_early(own.get("exit") if value is None else Exit.of(value or None))


class DecodeWeights(_OfNewSessions):
    """`decode_weights`: precision of the weights while decoding; a session has one from its beginning."""

    def check(self, value: Any) -> str:
        if value not in WEIGHTS:
            raise ValueError(f"got {value!r}; allowed: {', '.join(WEIGHTS)}")
        return str(value)

    def problem(self, value: str, mode: Mode) -> str | None:
        return None

    def arguments(self, value: str | None, own: Mapping[str, Any]) -> Mapping[str, Any]:
        return {} if value is None else {"decode_weights": value}


KV_TOKENS, DRAFT, PREFILL_KEEP, DECODE_WEIGHTS = KvTokens(), Draft(), PrefillKeep(), DecodeWeights()
EXIT = EarlyExit()
LAYERS = SLICES = Plan()
