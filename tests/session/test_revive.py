"""`ReplanSession.revive`: against the masked oracle, and together with everything else a session does."""

from __future__ import annotations

import random

import pytest
import torch

from erecap.budget import Budget
from erecap.session import ReplanSession
from erecap.tokens import PruneConfig
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn
from tests.tokens.models import ARCHITECTURES
from tests.tokens.test_parking import StoreLog, sound

NEW = 6
PRUNE = PruneConfig("random", 0.6, (2, 5), park_tokens=200)


def played(name: str = "llama", turns: int = 3, **options) -> tuple[ReplanSession, list]:  # type: ignore[no-untyped-def]
    session = ReplanSession(model(name), byte_level(), **{"prune": PRUNE, **options})
    messages = start()
    for number in range(turns):
        messages += turn(session.generate(messages, max_new_tokens=NEW).text, number)
    return session, messages


def last_row(session: ReplanSession, ids: list[int]) -> torch.Tensor:
    with session.engine.attached():
        return torch.from_numpy(session.engine.verify(ids)[-1])


@pytest.mark.parametrize("evict_by", ["recency", "attention"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_session_with_revivals_is_the_masked_oracle(name: str, evict_by: str) -> None:
    session = ReplanSession(model(name), byte_level(), prune=PRUNE, evict_by=evict_by)
    log, messages = StoreLog(8), start()
    forward = session.engine.forward

    def watched(ids, *args, **kwargs):  # type: ignore[no-untyped-def]
        for seen in log.seen:  # of tokens rolled back since
            for place in [place for place in seen if place >= session.cache.get_seq_length()]:
                del seen[place]
        rows = forward(ids, *args, **kwargs)
        log.note(session.cache)
        return rows

    session.engine.forward = watched
    for number in range(4):
        messages += turn(session.generate(messages, max_new_tokens=NEW).text, number)
        log.note(session.cache)
        if number % 2:
            total = session.cache.get_seq_length()
            assert session.revive((total // 4, total - 2)) > 10
            log.note(session.cache)
            sound(session.cache)
    ids = [50, 51, 52]
    got = last_row(session, ids)
    expected = log.oracle(session.model, torch.tensor([[*session.token_ids, *ids]]))[0, -1]
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_after_a_splice_they_come_back_at_their_new_positions(name: str) -> None:
    """All that is left moves by the same distance, so nothing changes but the absolute positions."""
    session, _ = played(name)
    twin = session.fork()
    session.evict((0, 20))
    twin.splice((0, 20))
    positions = twin.cache.layout(0).positions[0]
    assert positions.tolist() == list(range(len(positions)))
    assert session.revive() == twin.revive() > 20
    sound(session.cache)
    sound(twin.cache)
    got, expected = last_row(twin, [50, 51]), last_row(session, [50, 51])
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_the_budget_holds_again_after_the_next_call() -> None:
    session, messages = played(turns=4, budget=Budget(kv_tokens=130))
    revived = session.revive()
    assert revived > 10 and len(session.cache.parking) == 0
    sound(session.cache, evicted=True)
    session.generate(messages, max_new_tokens=NEW)
    assert max(session.cache.kept_lengths()) <= 130
    sound(session.cache, evicted=True)


def test_what_is_evicted_does_not_come_back() -> None:
    session, _ = played()
    there = session.cache.parking.places()
    session.evict((30, 60))
    assert session.cache.parking.places() == [place for place in there if not 30 <= place < 60]
    assert session.revive((30, 60)) == 0
    assert session.revive() == len([place for place in there if not 30 <= place < 60])


def test_saved_and_restored_they_can_still_come_back(tmp_path) -> None:  # type: ignore[no-untyped-def]
    session, messages = played("gemma3", budget=Budget(kv_tokens=130))
    session.splice((30, 40))
    session.save(tmp_path / "agent.safetensors")
    others = []
    for park in (200, 7, 0):
        prune = PruneConfig("random", 0.6, (2, 5), park_tokens=park)
        other = ReplanSession(model("gemma3"), byte_level(), prune=prune, budget=Budget(kv_tokens=130))
        other.restore(tmp_path / "agent.safetensors")
        others.append(other)
    there = session.cache.parking.places()
    assert [other.cache.parking.places() for other in others] == [there, there[-7:], []] and len(there) > 7
    assert others[2].revive() == 0 and others[1].revive() == 7
    assert others[0].revive() == session.revive() == len(there)
    assert torch.equal(last_row(others[0].fork(), [50]), last_row(session.fork(), [50]))
    texts = [one.generate(messages, max_new_tokens=NEW).text for one in (session, others[0])]
    assert texts[0] == texts[1]


def test_a_closed_session_has_nothing_to_revive() -> None:
    session, _ = played()
    session.close()
    assert session.revive() == 0
    with pytest.raises(ValueError, match="lies outside"):
        session.revive((0, 5))


def test_without_parking_nothing_comes_back() -> None:
    session, _ = played(prune=PruneConfig("random", 0.6, (2, 5)))
    assert session.revive() == 0


@pytest.mark.parametrize(("seed", "budget"), [(1, None), (2, 130), (3, 130), (4, None)])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_among_random_edits(name: str, seed: int, budget: int | None) -> None:
    choice = random.Random(seed)
    session, messages = played(name, 1, budget=Budget(kv_tokens=budget))
    revived = 0
    for number in range(14):
        step = choice.choice(["call", "call", "revive", "revive", "evict", "splice", "forget", "rewrite", "correct"])
        low, high = sorted(choice.randrange(session.cache.get_seq_length()) for _ in range(2))
        if step == "call":
            messages += turn(session.generate(messages, max_new_tokens=NEW).text, number)
        elif step == "rewrite":
            messages[len(messages) // 2 | 1] = {"role": "user", "content": f"Something else, {number}."}
            session.generate(messages, max_new_tokens=NEW)
        elif step == "correct":
            session.correct(f"The mug {number} is gone.")
        elif step == "revive":
            revived += session.revive((low, high))
        else:
            getattr(session, step)((low, min(high, low + 15)))
        sound(session.cache, evicted=True)
        assert all(bool(torch.isfinite(layer.keys).all()) for layer in session.cache.layers)
        assert session.cache.get_seq_length() == len(session.token_ids)
    assert revived > 0
