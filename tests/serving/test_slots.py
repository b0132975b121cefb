"""A request that fails in any way gives its session back: no slot stays taken, and conversations keep their cache."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from erecap.serving.engine import Ask, Engine
from erecap.serving.failures import ApiFailure
from tests.context.small_tokenizers import llama_like
from tests.serving.asking import answer, writing
from tests.session.chats import start, turn

HALF = {"role": "user", "content": "\ud83d"}


def fails(
    on: Engine, messages: list[dict[str, Any]], before: Callable[[Ask], None] = lambda ask: None, **options: Any
) -> int:
    """Status of a request that has to fail."""
    ask = Ask(messages, {"max_new_tokens": 6, **options})  # type: ignore[arg-type]
    before(ask)
    on.submit(ask)
    with pytest.raises(ApiFailure) as caught:
        ask.answer.result(60)
    return caught.value.status


def refuses(done: Any) -> list[int]:
    raise ApiFailure(400, "response_format: too complex")


def breaks(done: Any) -> list[int]:
    raise RuntimeError("a constraint failed")


# What fails, and how: messages behind those that were read before, options, what happens before.
FAILURES: dict[str, tuple[list[dict[str, Any]], dict[str, Any], int]] = {
    "half a surrogate pair": ([HALF], {}, 400),
    "half a surrogate pair in the middle": ([HALF, *turn("look", 1)], {}, 400),
    "longer than the window": ([{"role": "user", "content": "word " * 400}], {}, 400),
    "an answer longer than the window": ([], {"max_new_tokens": 10**9}, 400),
    "a constraint that gives up": ([], {"allowed_tokens": refuses}, 400),
    "a constraint that fails": ([], {"allowed_tokens": breaks}, 500),
    "an option of another type": ([], {"stop": 5}, 500),
}


@pytest.mark.parametrize("name", list(FAILURES))
def test_a_failure_leaves_no_slot_taken(engines, name: str) -> None:  # type: ignore[no-untyped-def]
    messages, options, status = FAILURES[name]
    on = engines(window=300, sessions=3, at_once=2)
    for number in range(8):  # of a conversation of its own each
        assert fails(on, [{"role": "user", "content": f"Robot {number}."}, *messages], **options) == status
        assert len(on.store) == 0 and on.store.kv_bytes() == 0
    talk = start()
    usage = answer(on, talk, **writing("look")).usage
    for number in range(8):  # of a conversation that goes on, and one that branches off
        assert fails(on, [*talk, *turn("look", number), *messages], **options) == status
        assert fails(on, [talk[0], *messages, {"role": "user", "content": f"{number}"}], **options) == status
        assert len(on.store) <= 1 and on.store.busy == 0 and on.store.evicted == 0
    if status == 400:  # nothing was wrong with the session
        assert answer(on, [*talk, *turn("look", 9)]).usage.reused_tokens >= usage.prompt_tokens
    else:
        assert answer(on, [*talk, *turn("look", 9)]).usage.reused_tokens == 0


def test_a_template_that_refuses_leaves_no_slot_taken(engines) -> None:  # type: ignore[no-untyped-def]
    on = engines(tokenizer=llama_like(), sessions=2, at_once=2)
    for number in range(6):
        chat = [{"role": "user", "content": f"{number}"}, {"role": "user", "content": "roles have to alternate"}]
        assert fails(on, chat) == 400 and len(on.store) == 0


def test_a_goal_beyond_the_budget_leaves_no_slot_taken(engines) -> None:  # type: ignore[no-untyped-def]
    on = engines(kv_tokens=60, sessions=2, at_once=2)
    for number in range(5):
        goal = [
            {"role": "system", "content": f"{number} You plan for a robot. " * 20},
            {"role": "user", "content": "Go."},
        ]
        assert fails(on, goal) == 400 and len(on.store) == 0


def test_clients_that_have_gone_and_models_that_fail(engines) -> None:  # type: ignore[no-untyped-def]
    on = engines(sessions=2, at_once=2)
    assert fails(on, start(), before=lambda ask: ask.given_up.set()) == 499
    layer = on.pool.model.get_decoder().layers[0]

    def fault(*given: object) -> None:
        raise RuntimeError("an inner shape does not fit")

    hook = layer.register_forward_pre_hook(fault)
    try:
        with ThreadPoolExecutor(6) as clients:
            statuses = list(clients.map(lambda n: fails(on, [{"role": "user", "content": f"Robot {n}."}]), range(6)))
    finally:
        hook.remove()
    assert set(statuses) == {500} and len(on.store) == 0 and on.running == 0
    assert answer(on, start()).usage.reused_tokens == 0


def test_clients_that_leave_while_they_wait_do_not_fill_the_queue(engines) -> None:  # type: ignore[no-untyped-def]
    on = engines(sessions=1, at_once=1, most_waiting=3)
    hold = Ask(start(), {"max_new_tokens": 2000})  # type: ignore[arg-type]
    on.submit(hold)
    while not on.running:
        time.sleep(0.01)
    left = []
    for number in range(40):
        left.append(Ask([{"role": "user", "content": f"{number}"}], {"max_new_tokens": 2}))
        on.submit(left[-1])
        left[-1].given_up.set()
        assert on.waiting == 0
    hold.given_up.set()
    hold.answer.result(60)
    assert answer(on, start()).usage.completion_tokens == 8
    for ask in left:
        with pytest.raises(ApiFailure, match="the client is gone") as gone:
            ask.answer.result(0)
        assert gone.value.status == 499


def test_a_future_that_its_waiter_cancels_does_not_end_the_engine(engines) -> None:  # type: ignore[no-untyped-def]
    on = engines(sessions=2, at_once=1)
    asks = [Ask(start(), {"max_new_tokens": 30}) for _ in range(6)]  # type: ignore[arg-type]
    for ask in asks:
        on.submit(ask)
        ask.answer.cancel()
    assert answer(on, start()).usage.completion_tokens == 8
    assert on.broken is None and on.running == 0 and on.store.busy == 0
