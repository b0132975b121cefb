"""The scheduler's rules: an action for a replanning call and its reason, from predicted milliseconds. No torch in here.

The scheduler only decides. What it is told comes in a `State`, what it wants goes out as a `Decision`, and how long the
call really took comes back through `observe`.
"""

from __future__ import annotations

import math
from typing import Literal

from erecap.cost.model import CostModel
from erecap.generation import Action, Decision
from erecap.scheduling.call import CallCost, State

SLOWEST, FASTEST = 4.0, 0.25  # bounds of the ratio of actual to predicted times
LEARNING = 0.2  # weight of the newest call in that ratio
READ_AGAIN_BELOW = 0.25  # stored share of the chat below which a rewritten chat is re-read


class Scheduler:
    """Decides call by call; one per session, since it remembers when it last evicted.

    In order: what is forced (the window is full, the budget exceeded); then the deadline, by the mildest action that is
    predicted to meet it; then what saves more time than it costs.

    Args:
        cost: None: only what is forced is decided, and nothing is predicted.
        budget_tokens: most tokens stored when a call returns; None: no limit, and nothing is evicted to save time.
        window: positions that the model can take.
        deadline_ms: for a whole call; None: no deadline.
        low_watermark: share of the budget that is left by an eviction, so that the next calls need none.
        cooldown: calls between two evictions that nothing forces.
        horizon: calls over which the saving of an eviction counts.
        may_defer: the call may be deferred while some of the old plan is left, never twice in a row.
        reuse_plan: the rest of the old plan may be verified in one pass instead of generating a new one.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(
        self,
        cost: CostModel | None,
        *,
        budget_tokens: int | None,
        window: int,
        deadline_ms: float | None = None,
        low_watermark: float = 0.8,
        cooldown: int = 2,
        horizon: int = 8,
        may_defer: bool = False,
        reuse_plan: bool = False,
    ) -> None:
        checks = {
            "budget_tokens": budget_tokens is None or budget_tokens >= 1,
            "window": window >= 1,
            "deadline_ms": deadline_ms is None or deadline_ms > 0,
            "low_watermark": 0 < low_watermark <= 1,
            "cooldown": cooldown >= 0,
            "horizon": horizon >= 1,
        }
        for name, fine in checks.items():
            if not fine:
                raise ValueError(f"Scheduler: {name} is out of range, got {locals()[name]}")
        self.cost = cost
        self.budget_tokens = budget_tokens
        self.window = window
        self.deadline_ms = deadline_ms
        self.low_watermark = low_watermark
        self.cooldown = cooldown
        self.horizon = horizon
        self.may_defer = may_defer
        self.reuse_plan = reuse_plan
        self.ratio = 1.0  # actual over predicted time of late; predictions are multiplied with it
        self._since_eviction: int | None = None  # calls since the last eviction; None: there was none
        self._deferred = False  # the last decision was to defer
        self._last: tuple[State, int] | None = None  # the state that was last decided, and how far to evict in it

    def decide(self, state: State) -> Decision:
        """Decide what to do in this call. Counts as a call for `cooldown`; then `target_kv(state)` gives the target."""
        decision, target = self._choose(state)
        self._last = (state, target)
        if decision.action in ("evict", "splice", "re-read"):
            self._since_eviction = 0
        elif self._since_eviction is not None:
            self._since_eviction += 1
        self._deferred = decision.action == "defer"
        return decision

    def target_kv(self, state: State) -> int:
        """Tokens to leave stored before anything new is read; `state.kv` where nothing is to be evicted.

        For the state that was decided last it belongs to that decision, for another one to what would be decided.
        Never fewer than are protected.
        """
        return self._last[1] if self._last is not None and self._last[0] == state else self._choose(state)[1]

    def observe(self, decision: Decision, actual_ms: float) -> None:
        """Learn how long the call of `decision` took. `ratio` follows slowly, within its bounds.

        Raises:
            ValueError: a time that is not finite and above 0.
        """
        if not (math.isfinite(actual_ms) and actual_ms > 0):
            raise ValueError(f"actual_ms must be finite and above 0, got {actual_ms}")
        if not decision.predicted_ms:
            return  # nothing was predicted, or nothing was run
        seen = self.ratio * min(SLOWEST, max(FASTEST, actual_ms / decision.predicted_ms))
        self.ratio = min(SLOWEST, max(FASTEST, (1 - LEARNING) * self.ratio + LEARNING * seen))

    # In order: forced, deadline, economy -------------------------------------------------------------------

    def _choose(self, state: State) -> tuple[Decision, int]:
        """The decision, and the tokens to leave stored."""
        action, target, why = self._forced(state)
        if self.cost is None:
            return Decision(action, f"{why}; there is no calibrated cost model, so nothing is predicted"), target
        call = CallCost(self.cost, state, self.budget_tokens, self.window, self.ratio)
        takes = call.ms(target)
        if action == "append":
            again = self._read_again(call, takes)
            if again is not None:
                return again, state.kv
        if self.deadline_ms is not None and takes > self.deadline_ms:
            return self._late(call, self.deadline_ms, Decision(action, why, takes), target)
        if action == "append":
            return self._economy(call, why, takes)
        return Decision(action, f"{why}; the call is predicted to take {_ms(takes)}", takes), target

    def _forced(self, state: State) -> tuple[Literal["append", "evict", "splice"], int, str]:
        """The action that window and budget force, the tokens to leave stored, and the reason."""
        coming = state.new + state.plan_tokens
        words = f"{state.new:,} new and {state.plan_tokens:,} plan tokens"
        limits = [state.kv]
        over = self.budget_tokens is not None and state.kv + coming > self.budget_tokens
        if self.budget_tokens is not None and over:
            limits += [self._watermark, self.budget_tokens - coming]
        if state.passes(self.window):
            target = state.within(min(*limits, self.window - coming))
            close = "positions are closed up"
            if target < state.kv:
                close = f"tokens are evicted down to {target:,} and {close}"
            return (
                "splice",
                target,
                f"from position {state.positions:,} on, {words} pass the window of {self.window:,}, so {close}",
            )
        if not over:
            room = "there is no budget" if self.budget_tokens is None else f"the budget is {self.budget_tokens:,}"
            return "append", state.kv, f"{state.kv:,} tokens are stored and {room}"
        target = state.within(min(limits))
        exceed = f"{state.kv:,} stored, {words} exceed the budget of {self.budget_tokens:,}"
        if target == state.kv:
            return "append", target, f"{exceed}, but nothing stored may be evicted before they are read"
        return "evict", target, f"{exceed}, so tokens are evicted down to {target:,}"

    def _late(self, call: CallCost, deadline: float, forced: Decision, target: int) -> tuple[Decision, int]:
        """The action where the call as it stands, `forced`, is predicted to miss the deadline."""
        state, takes = call.state, forced.predicted_ms or 0.0
        begin = f"{forced.reason}; the call would take {_ms(takes)} and the deadline is {_ms(deadline)}"
        edit: Action = "splice" if forced.action == "splice" else "evict"
        lowest = state.within(0)
        deeper = call.most_stored(deadline, lowest, target)
        if deeper is not None:
            ms = call.ms(deeper)
            return Decision(edit, f"{begin}: with tokens evicted down to {deeper:,} it takes {_ms(ms)}", ms), deeper
        verify = call.verify_ms() if self.reuse_plan and state.old_plan_tokens else None
        after = f" after trigger '{state.trigger}'" if state.trigger else ""
        if verify is not None and verify <= deadline:
            plan = f"verifying the {state.old_plan_tokens:,} tokens left of the old plan{after}"
            return Decision("reuse-plan", f"{begin}: {plan} takes {_ms(verify)}", verify), state.kv
        if self.may_defer and state.old_plan_tokens and not self._deferred:
            return Decision("defer", f"{begin}, which nothing meets: the call{after} is put off", 0.0), state.kv
        # Evicting all that nothing protects would be quicker, and late as well: memory is not given up for nothing.
        choices: list[tuple[float, Action, int]] = [(takes, forced.action, target)]
        if verify is not None:
            choices.append((verify, "reuse-plan", state.kv))
        ms, cheapest, target = min(choices, key=lambda choice: choice[0])
        reason = f"{begin}, which nothing meets: {cheapest} is the cheapest with {_ms(ms)}"
        return Decision(cheapest, reason, ms), target

    def _economy(self, call: CallCost, why: str, takes: float) -> tuple[Decision, int]:
        """Evict although nothing forces it, if that saves more than it costs."""
        state = call.state
        plain = Decision("append", f"{why}; the call is predicted to take {_ms(takes)}", takes)
        coming = state.new + state.plan_tokens
        if self.budget_tokens is None or coming == 0:
            return plain, state.kv
        target = state.within(self._watermark)
        if target == state.kv:
            return plain, state.kv
        if self._since_eviction is not None and self._since_eviction < self.cooldown:
            return plain, state.kv
        # After that the budget forces an eviction anyway, so that nothing more is saved.
        calls = min(self.horizon, max(1, (self.budget_tokens - state.kv) // coming))
        price, saved = call.evict_ms(), calls * (call.bare_ms(state.kv) - call.bare_ms(target))
        figures = f"costs {_ms(price)} and saves {_ms(saved)} over {calls} call{'s' if calls > 1 else ''}"
        evicting = f"evicting {state.kv - target:,} of {state.kv:,} stored tokens {figures}"
        ms = call.ms(target)
        if saved > price and (self.deadline_ms is None or ms <= self.deadline_ms):
            return Decision("evict", f"{evicting}; the call is predicted to take {_ms(ms)}", ms), target
        reason = f"{evicting}, so nothing is evicted; the call is predicted to take {_ms(takes)}"
        return Decision("append", reason, takes), state.kv

    def _read_again(self, call: CallCost, takes: float) -> Decision | None:
        """Read the whole chat on an empty cache, after a rewrite, where that is cheaper or brings back much."""
        state, chat = call.state, call.state.chat
        if chat is None or not state.rewritten or chat + state.plan_tokens > self.window:
            return None
        ms = call.read_again_ms(chat)
        if self.deadline_ms is not None and ms > self.deadline_ms:
            return None
        begin = f"the chat was rewritten under {state.rewritten:,} tokens read before"
        figures = f"reading all {chat:,} tokens anew takes {_ms(ms)}, going on takes {_ms(takes)}"
        if ms < takes:
            return Decision("re-read", f"{begin}; {figures}", ms)
        before = chat - state.new
        after = chat if self.budget_tokens is None else min(chat, self.budget_tokens)
        if before and state.kv < READ_AGAIN_BELOW * before and after >= READ_AGAIN_BELOW * chat:
            share = f"only {state.kv:,} of the {before:,} tokens before what is new are stored"
            return Decision("re-read", f"{begin} and {share}; {figures}", ms)
        return None

    @property
    def _watermark(self) -> int:
        assert self.budget_tokens is not None
        return int(self.low_watermark * self.budget_tokens)


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:,.0f} ms"
