"""One replanning call: its state when it begins, and the predicted costs of its options."""

from __future__ import annotations

from dataclasses import dataclass

from erecap.cost.model import CostModel


@dataclass(frozen=True)
class State:
    """The state when a replanning call begins, in tokens."""

    kv: int  # stored by the fullest layer
    new: int  # of the chat, to be read in this call
    rewritten: int = 0  # read earlier and given up, because the chat before them changed
    positions: int = 0  # position of the next token
    plan_tokens: int = 32  # that the call will probably generate
    plan_passes: int | None = None  # forward passes for that, where drafts or forced tokens save some; None: one each
    old_plan_tokens: int = 0  # of the old plan that is not executed yet; 0: nothing is left to verify
    trigger: str | None = None  # why a plan is asked for; named in the reason where the call is deferred or saved
    protected: int = 0  # stored tokens that no eviction may take
    chat: int | None = None  # of the whole chat; None: not known, and then it is never re-read

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int) and value < 0:
                raise ValueError(f"State.{name} cannot be negative, got {value}")
        if self.chat is not None and self.chat < self.new:
            raise ValueError(f"State.chat ({self.chat}) cannot be less than State.new ({self.new})")

    def within(self, target: int) -> int:
        """`target`, but at least what is protected and at most what is stored."""
        return min(self.kv, max(target, self.protected, 0))

    def passes(self, window: int) -> bool:
        """Return True if the call would need positions beyond the window."""
        return self.positions + self.new + self.plan_tokens > window


@dataclass(frozen=True)
class CallCost:
    """Predictions for one call, in ms, with everything that goes with it."""

    cost: CostModel
    state: State
    budget: int | None  # tokens stored when the call returns
    window: int  # positions that the model can take
    ratio: float  # every prediction is multiplied with it

    def ms(self, target: int) -> float:
        """Milliseconds of the whole call, if stored tokens are first evicted down to `target`."""
        state = self.state
        edits = self.cost.predict_evict(state.kv) if target < state.kv else 0.0
        if state.passes(self.window):
            edits += self.cost.predict_splice(target)
        edits += self._closing(target + state.new + state.plan_tokens)
        return self.bare_ms(target) + self.ratio * edits

    def bare_ms(self, kv: int) -> float:
        """Milliseconds to prefill what is new and generate the plan on top of `kv` stored tokens."""
        return self.ratio * self._replan(self.state.new, kv)

    def evict_ms(self) -> float:
        """Milliseconds of an eviction before any prefill."""
        return self.ratio * self.cost.predict_evict(self.state.kv)

    def verify_ms(self) -> float:
        """Milliseconds to prefill what is new, and verify the rest of the old plan."""
        state = self.state
        ms = self.cost.predict_verify(state.new, state.kv, state.old_plan_tokens, budget=self.budget)
        if state.positions + state.new + state.old_plan_tokens > self.window:
            ms += self.cost.predict_splice(state.kv)
        return self.ratio * (ms + self._closing(state.kv + state.new))

    def read_again_ms(self, chat: int) -> float:
        """Milliseconds to prefill all `chat` tokens on an empty cache, and generate the plan."""
        return self.ratio * (self._replan(chat, 0) + self._closing(chat + self.state.plan_tokens))

    def most_stored(self, deadline: float, lowest: int, below: int) -> int | None:
        """The most stored tokens, from `lowest` to `below - 1`, with which the call meets the deadline; None: none."""
        if lowest >= below or self.ms(lowest) > deadline:
            return None
        fits, over = lowest, below
        while over - fits > 1:
            middle = (fits + over) // 2
            if self.ms(middle) <= deadline:
                fits = middle
            else:
                over = middle
        return fits

    def _replan(self, new: int, kv: int) -> float:
        plan, passes = self.state.plan_tokens, self.state.plan_passes
        return self.cost.predict_replan(new, kv, plan, passes=passes, budget=self.budget)

    def _closing(self, stored: int) -> float:
        # A session comes back to its budget at the end of a call.
        return self.cost.predict_evict(stored) if self.budget is not None and stored > self.budget else 0.0
