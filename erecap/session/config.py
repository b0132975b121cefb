"""The configuration of a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from erecap.budget import Budget, check_whole
from erecap.config.exits import Exit
from erecap.engines.protocol import EngineSettings
from erecap.registries import DEFAULT_DRAFT, DRAFTS, PRICED_DRAFTS, SHARED_DRAFTS

if TYPE_CHECKING:
    from erecap.cost.model import CostModel
    from erecap.decoding.drafts.texts import DraftMemory
    from erecap.decoding.linear import Weights
    from erecap.engines.protocol import SessionEngine
    from erecap.scheduling.rules import Scheduler
    from erecap.tokens.cache.read_scores import ReadScorer
    from erecap.tokens.scoring.schedule import PruneConfig


@dataclass(frozen=True)
class SessionConfig:
    """The keywords of `ReplanSession`.

    Raises:
        ValueError: a value of another type or out of range, or a budget with `pays` without a cost model.
    """

    prune: PruneConfig | None = None  # how many tokens reach the deeper layers at prefill; None: all
    budget: Budget | None = None  # how many tokens stay stored when a call returns; None: all
    # Ranking of unprotected tokens: `recency`, `random` (fixed when a token is read), or `attention` (the attention
    # weight that the newest token of the prompt gives it, taken at each call). Or the name or folder of a trained
    # pruner, or another object that scores each token once, when it is read (`ReadScorer`).
    evict_by: str | ReadScorer = "recency"
    stale_first: bool = True  # evict what the messages call `stale` before anything else
    # Evict the thinking of earlier answers (`Message.thoughts`) even before that. Nothing goes that fits the budget.
    thinking_first: bool = False
    # Draft tokens that followed the newest ones before, by a way of `erecap.registries.DRAFTS`; True: by the default
    # one; False: not at all. Answers stay the same, sampled ones with the same seed too.
    draft: bool | str = True
    seed: int = 0  # for `random`
    # How far back, in tokens, a chat may be rewritten without a re-read. Older ids, marks and corrections are
    # forgotten; None: the session remembers the ids of everything it has read.
    rewind_tokens: int | None = None
    # The ids read are exactly those of the whole rendered chat, tokenised at once (corrections aside), whenever an
    # answer begins. An answer whose own tokens are not the tokens of its text is then read again from where they
    # differ. Without it answers stay as they were generated.
    retokenize: bool = False
    # Precision of the weights while decoding: `same` as the model's, or packed copies in `int8` or `int4` (a CPU reads
    # fewer bytes per token then; answers may differ a little; see `FusedDecoder`).
    decode_weights: Weights = "same"
    prefill_chunk: int | None = None  # tokens of one prefill chunk (None: the engine's own); more need more memory
    # Decides call by call whether to evict, reposition, re-read, or defer the call. None: the session evicts down to
    # its budget when a call ends, and repositions when the window is full.
    scheduler: Scheduler | None = None
    # The calibrated cost model of this model on this machine (`erecap.cost.store.load_cost_model`), which a budget with
    # `pays` asks.
    cost: CostModel | None = None
    # Holds the keys and values and runs the model: a name of `erecap.registries.ENGINES`, or an engine that has
    # read nothing yet; such an engine has settings of its own.
    engine: str | SessionEngine = "transformers"
    # Answers of other conversations, which the ways `automaton-run` and `suffix` draft from, and add theirs to. Only
    # for sessions that may see each other's text.
    draft_memory: DraftMemory | None = None
    # The calibrated cost model, by which the ways `automaton` and `automaton-run` choose how much to verify. None: the
    # reference costs, which make an answer take as many passes on every machine.
    draft_cost: CostModel | None = None
    # Early exit: tokens are named by the first layers and verified by all, with the same answers; see `Exit`.
    exit: Exit | None = None

    def __post_init__(self) -> None:
        self._check_types()
        pays = self.budget.pays if self.budget is not None else None
        if (pays is None) != (self.cost is None):
            raise ValueError(
                f"a budget with pays={pays} needs a calibrated cost model of this model; run `erecap calibrate`"
                if self.cost is None
                else "a cost model is for a budget with pays: Budget.auto(pays=...)"
            )
        if self.draft_cost is not None and draft_way(self.draft) not in PRICED_DRAFTS:
            raise ValueError(f"draft_cost is for draft={' or '.join(map(repr, PRICED_DRAFTS))}, got {self.draft!r}")
        if self.draft_memory is not None and draft_way(self.draft) not in SHARED_DRAFTS:
            raise ValueError(f"draft_memory is for draft={' or '.join(map(repr, SHARED_DRAFTS))}, got {self.draft!r}")

    def _check_types(self) -> None:
        draft_way(self.draft)
        check_whole("prefill_chunk", self.prefill_chunk, least=1)
        check_whole("rewind_tokens", self.rewind_tokens, least=0)
        if self.seed is None:
            raise ValueError("seed must be a whole number, got None")
        check_whole("seed", self.seed)
        if self.budget is not None and not isinstance(self.budget, Budget):
            raise ValueError(
                f"budget must be a Budget or None, got {self.budget!r}; Budget.of takes a number of tokens"
            )
        if self.prune is not None:
            from erecap.tokens.scoring.schedule import PruneConfig

            if not isinstance(self.prune, PruneConfig):
                raise ValueError(f"prune must be a PruneConfig or None, got {self.prune!r}")
        if not isinstance(self.evict_by, str) and not _has(self.evict_by, "score", "layer"):
            raise ValueError(
                f"evict_by must be a name, or an object with `score` and `layer`, got {type(self.evict_by).__name__}"
            )
        if self.draft_memory is not None and not _has(self.draft_memory, "add", "searched"):
            raise ValueError(f"draft_memory must be a DraftMemory or None, got {_named(self.draft_memory)}")
        if not isinstance(self.engine, str) and not is_engine(self.engine):
            raise ValueError(f"engine must be a registered name, or an engine object, got {_named(self.engine)}")

    def engine_settings(self) -> EngineSettings:
        """The part of the configuration that the engine needs."""
        budget = self.budget or Budget()
        # An automatic budget without a memory evicts for the window's sake alone.
        by_budget = budget.limited and not (budget.automatic and budget.memory_bytes is None and budget.pays is None)
        return EngineSettings(
            self.prune, self.evict_by, self.seed, self.decode_weights, self.prefill_chunk,
            evicts=by_budget or self.scheduler is not None, kv_tokens=budget.kv_tokens,
        )  # fmt: skip

    @property
    def sinks(self) -> int:
        """First tokens of the sequence that are never evicted."""
        from erecap.tokens.scoring.schedule import PruneConfig

        return (self.prune or PruneConfig()).sinks


def draft_way(draft: bool | str) -> str | None:
    """The way that a session drafts by; None: it does not draft.

    Raises:
        ValueError: no way of that name.
    """
    if isinstance(draft, bool):
        return DEFAULT_DRAFT if draft else None
    if draft not in DRAFTS:
        raise ValueError(f"draft must be True, False or one of {', '.join(DRAFTS)}, got {draft!r}")
    return draft


def is_engine(value: object) -> bool:
    """Say whether a value has the main methods of a `SessionEngine`; a class is none."""
    return _has(value, "read", "verify", "stored", "evict", "tokens", "window")


def _has(value: object, *names: str) -> bool:
    # Of a class, names are those of its objects: it would be called where one of them is meant.
    return not isinstance(value, type) and all(hasattr(value, name) for name in names)


def _named(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
