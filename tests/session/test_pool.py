"""Agents that decode together answer, store and rank as they do alone."""

from __future__ import annotations

import threading

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from erecap.budget import Budget
from erecap.session import ReplanPool, ReplanSession
from erecap.tokens import PruneConfig
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn
from tests.tokens.models import ARCHITECTURES

# Different lengths, ends, budgets, rankings, drafts, constraints, weights; one that prunes while it reads.
AGENTS = [
    {"session": {}, "new": 9},
    {"session": {"budget": Budget(kv_tokens=90)}, "new": 5, "words": 30},
    {"session": {"budget": Budget(kv_tokens=120), "evict_by": "attention"}, "new": 12},
    {"session": {"draft": False, "evict_by": "random", "budget": Budget(kv_tokens=100)}, "new": 7},
    {"session": {"prune": PruneConfig("recency", 0.6, (2, 5)), "budget": Budget(kv_tokens=110)}, "new": 8},
    {"session": {}, "new": 10, "draft": "go to shelf 1\ngo to shelf 2"},
    {"session": {}, "new": 10, "allowed": "go to shelf 12\n"},
    {"session": {}, "new": 6, "temperature": 0.7},
]


def options(agent: dict) -> dict:
    given = {"max_new_tokens": agent["new"], "draft": agent.get("draft")}
    if "allowed" in agent:
        line = byte_level()(agent["allowed"], add_special_tokens=False)["input_ids"]
        others = list(range(40, 60))
        # Free choice at every third place, one way to go between.
        given["allowed_tokens"] = lambda ids: others if len(ids) % 3 == 0 else [line[len(ids) % len(line)]]
    if "temperature" in agent:
        given |= {"temperature": agent["temperature"], "seed": 11}
    return given


def recorded(session: ReplanSession) -> list[torch.Tensor]:
    """All logits that the session will be given."""
    rows, forward = [], session._reader._forward

    def record(*args, **kwargs):  # type: ignore[no-untyped-def]
        rows.append(forward(*args, **kwargs))
        return rows[-1]

    session._reader._forward = record
    return rows


def chats() -> list[list[dict]]:
    found = []
    for number, agent in enumerate(AGENTS):
        messages = start()
        messages[1]["content"] += f"\nYou are agent {number}." + " Look." * agent.get("words", number)
        found.append(messages)
    return found


def close(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((got - wanted).abs().max() <= 1e-4 * wanted.abs().max())


def assert_same_state(got: ReplanSession, wanted: ReplanSession) -> None:
    assert got.token_ids == wanted.token_ids
    assert got.cache.kept_lengths() == wanted.cache.kept_lengths()
    for layer in range(len(wanted.cache.layers)):
        one, two = got.cache.layout(layer), wanted.cache.layout(layer)
        assert torch.equal(one.index, two.index) and torch.equal(one.positions, two.positions)
        assert close(got.cache.layers[layer].keys, wanted.cache.layers[layer].keys)
        assert close(got.cache.layers[layer].values, wanted.cache.layers[layer].values)


def hooks_of(model) -> tuple:  # type: ignore[no-untyped-def]
    return [
        len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()
    ], model.config._attn_implementation


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "model"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_together_is_as_alone(name: str, flat: bool, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    if not flat:
        monkeypatch.setattr("erecap.decoding.short.FLAT_TOKENS", 0)
    before = hooks_of(model(name))
    pool = ReplanPool(model(name), byte_level())
    alone = [ReplanSession(model(name), byte_level(), **agent["session"]) for agent in AGENTS]
    together = [pool.session(**agent["session"]) for agent in AGENTS]
    rows = [(recorded(one), recorded(two)) for one, two in zip(together, alone, strict=True)]
    talks = chats()
    for number in range(2):
        wanted = [s.generate(m, **options(a)) for s, m, a in zip(alone, talks, AGENTS, strict=True)]
        got = pool.generate([(s, m, options(a)) for s, m, a in zip(together, talks, AGENTS, strict=True)])
        assert [g.text for g in got] == [w.text for w in wanted]
        assert [g.usage for g in got] == [w.usage for w in wanted]
        for one, two in zip(together, alone, strict=True):
            assert_same_state(one, two)
        talks = [[*m, *turn(g.text, number)] for m, g in zip(talks, got, strict=True)]
    for one, two in rows:
        assert len(one) == len(two) and all(close(a, b) for a, b in zip(one, two, strict=True))
    # Most of the forward calls were shared, and none was tried in vain.
    assert pool.counts.requests == sum(len(one) for one, _ in rows)
    assert pool.counts.forwards < 0.45 * pool.counts.requests and pool.counts.retries == 0
    assert hooks_of(model(name)) == before


def test_eager_attention(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("erecap.decoding.short.FLAT_TOKENS", 0)
    monkeypatch.setattr(model("mistral").config, "_attn_implementation", "eager")
    pool = ReplanPool(model("mistral"), byte_level())
    calls = [(pool.session(**a["session"]), m, options(a)) for a, m in zip(AGENTS, chats(), strict=True)]
    wanted = [ReplanSession(model("mistral"), byte_level(), **a["session"]) for a in AGENTS]
    for got, alone, (session, messages, given) in zip(pool.generate(calls), wanted, calls, strict=True):
        assert got.text == alone.generate(messages, **given).text
        assert_same_state(session, alone)
    assert model("mistral").config._attn_implementation == "eager"


def test_long_reads_are_split_over_forward_calls() -> None:
    pool = ReplanPool(model(), byte_level(), max_tokens=130)
    long = [{"role": "user", "content": "Look at the shelf. " * n} for n in (30, 2, 3, 40)]
    given = {"max_new_tokens": 4}
    got = pool.generate([(pool.session(prefill_chunk=100), [m], given) for m in long])
    wanted = [ReplanSession(model(), byte_level(), prefill_chunk=100).generate([m], **given) for m in long]
    assert [g.text for g in got] == [w.text for w in wanted]


def test_packed_weights_keep_to_themselves() -> None:
    pool = ReplanPool(model(), byte_level())
    kinds = ["int8", "same", "int8", "same", "int8"]
    given = {"max_new_tokens": 12, "draft": "go to shelf 1"}
    got = pool.generate([(pool.session(decode_weights=k), m, given) for k, m in zip(kinds, chats(), strict=False)])
    for kind, messages, answer in zip(kinds, chats(), got, strict=False):
        alone = ReplanSession(model(), byte_level(), decode_weights=kind)
        assert alone.generate(messages, **given).text == answer.text


@pytest.fixture
def fragile(monkeypatch):  # type: ignore[no-untyped-def]
    """A model that fails when it is to embed the token of `~`; the list holds what it raises."""
    monkeypatch.setattr("erecap.decoding.short.FLAT_TOKENS", 0)
    made, errors = model("qwen3"), [MemoryError("no room")]
    [bad] = byte_level()("~", add_special_tokens=False)["input_ids"]

    def check(module, args, output):  # type: ignore[no-untyped-def]
        if bool((args[0] == bad).any()):
            raise errors[0]

    # In the middle of the layers, after some of them have stored.
    ids: list[torch.Tensor] = []
    first = made.model.embed_tokens.register_forward_pre_hook(lambda module, args: ids.append(args[0]))
    handle = made.model.layers[4].register_forward_hook(lambda module, args, output: check(module, (ids[-1],), output))
    yield made, errors
    handle.remove()
    first.remove()


def test_a_failing_session_harms_no_other(fragile) -> None:  # type: ignore[no-untyped-def]
    made, _ = fragile
    pool = ReplanPool(made, byte_level())
    sessions = [pool.session() for _ in range(3)]
    given = {"max_new_tokens": 6}
    first = pool.generate([(s, m, given) for s, m in zip(sessions, chats(), strict=False)])
    talks = [[*m, *turn(g.text, 1)] for m, g in zip(chats(), first, strict=False)]
    bad = [*talks[1][:-1], {"role": "user", "content": "What is ~?"}]
    got = pool.generate([(s, m, given) for s, m in zip(sessions, [talks[0], bad, talks[2]], strict=True)],
                        return_exceptions=True)  # fmt: skip
    assert isinstance(got[1], MemoryError) and pool.counts.retries == 1
    twins = [ReplanSession(made, byte_level()) for _ in range(3)]
    for number, twin in enumerate(twins):
        twin.generate(chats()[number], **given)
    assert [got[n].text for n in (0, 2)] == [twins[n].generate(talks[n], **given).text for n in (0, 2)]
    # The one that failed goes on as if the call had not been.
    assert pool.generate([(sessions[1], talks[1], given)])[0].text == twins[1].generate(talks[1], **given).text
    for session, twin in zip(sessions, twins, strict=True):
        assert_same_state(session, twin)


def test_the_first_error_is_raised_when_the_others_have_ended(fragile) -> None:  # type: ignore[no-untyped-def]
    made, _ = fragile
    pool = ReplanPool(made, byte_level())
    good, bad = pool.session(), pool.session()
    with pytest.raises(MemoryError) as caught:
        pool.generate(
            [(bad, [{"role": "user", "content": "~"}], {"max_new_tokens": 5}), (good, start(), {"max_new_tokens": 5})]
        )
    assert caught.value.__notes__ == ["in call 0 of 2 of a ReplanPool"]
    assert good.token_ids and not bad.token_ids


@pytest.mark.parametrize("where", ["model", "callback"])
def test_an_interrupt_ends_all_and_leaves_them_usable(where: str, fragile) -> None:  # type: ignore[no-untyped-def]
    made, errors = fragile
    errors[0] = KeyboardInterrupt()
    before, threads = hooks_of(made), threading.active_count()
    pool = ReplanPool(made, byte_level())
    sessions, twins = [pool.session() for _ in range(3)], [ReplanSession(made, byte_level()) for _ in range(3)]
    given = {"max_new_tokens": 6}
    talks = []
    for session, twin, messages in zip(sessions, twins, chats(), strict=False):
        twin.generate(messages, **given)
        talks.append([*messages, *turn(session.generate(messages, **given).text, 1)])
    calls = [(session, messages, dict(given)) for session, messages in zip(sessions, talks, strict=True)]
    if where == "model":
        calls[2][1][-1]["content"] += "~"
    else:
        asked = []

        def cancel() -> bool:
            asked.append(1)
            if len(asked) == 3:
                raise KeyboardInterrupt
            return False

        calls[1][2]["cancel"] = cancel
    with pytest.raises(KeyboardInterrupt):
        pool.generate(calls)
    assert threading.active_count() == threads and hooks_of(made) == before
    talks[2][-1]["content"] = talks[2][-1]["content"].removesuffix("~")
    for session, twin, messages in zip(sessions, twins, talks, strict=True):
        assert session.generate(messages, **given).text == twin.generate(messages, **given).text
        assert_same_state(session, twin)


def test_planners_around_sessions_share_as_well() -> None:
    """Functions that call a session somewhere inside, several times, and read, and check plans."""
    pool = ReplanPool(model(), byte_level())

    def work(session: ReplanSession, messages: list[dict]) -> list:
        text = session.generate(messages, max_new_tokens=6).text
        after = [*messages, *turn(text, 3)]
        return [text, session.read(after), session.still_valid("go to shelf 1", after), session.fork().token_ids]

    jobs = [lambda m=m: work(pool.session(budget=Budget(kv_tokens=100)), m) for m in chats()]
    wanted = [work(ReplanSession(model(), byte_level(), budget=Budget(kv_tokens=100)), m) for m in chats()]
    assert pool.run(jobs) == wanted and pool.counts.forwards < pool.counts.requests / 2
    assert pool.run([]) == [] and pool.generate([]) == []


def test_two_functions_with_one_session_both_fail() -> None:
    pool = ReplanPool(model(), byte_level())
    session, other = pool.session(), pool.session()
    jobs = [lambda s=s: s.generate(start(), max_new_tokens=4).text for s in (session, session, other)]
    one, two, three = pool.run(jobs, return_exceptions=True)
    assert "same session" in str(one) and "same session" in str(two) and isinstance(three, str)


def test_sessions_on_another_model_are_served_inside_run() -> None:
    pool = ReplanPool(model(), byte_level())
    other = ReplanSession(model("gemma3"), byte_level())
    jobs = [lambda s=s: s.generate(start(), max_new_tokens=4).text for s in (pool.session(), other, pool.session())]
    twins = [ReplanSession(model(name), byte_level()) for name in ("llama", "gemma3", "llama")]
    assert pool.run(jobs) == [twin.generate(start(), max_new_tokens=4).text for twin in twins]


def test_what_is_refused() -> None:
    pool = ReplanPool(model(), byte_level())
    session, other = pool.session(), ReplanSession(model("qwen2"), byte_level())
    with pytest.raises(ValueError, match="call 1 is for a session that has a call already"):
        pool.generate([(session, start(), {"max_new_tokens": 3})] * 2)
    with pytest.raises(ValueError, match="call 0 is on another model"):
        pool.generate([(other, start(), {"max_new_tokens": 3})])
    with pytest.raises(ValueError, match="at least 1"):
        ReplanPool(model(), byte_level(), max_tokens=0)
    with pytest.raises(TypeError, match="no_such_option"):
        pool.generate([(session, start(), {"no_such_option": 3})])
    factors = [1.0] * 4
    config = Phi3Config(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, original_max_position_embeddings=64, max_position_embeddings=256,
        rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, "short_factor": factors, "long_factor": factors},
    )  # fmt: skip
    with pytest.raises(ValueError, match="longrope"):
        ReplanPool(Phi3ForCausalLM(config), byte_level())
    before = model().config._attn_implementation
    model().config._attn_implementation = "flex_attention"
    try:
        with pytest.raises(ValueError, match="flex_attention"):
            ReplanPool(model(), byte_level())
    finally:
        model().config._attn_implementation = before


def test_callers_modes_hold_in_the_jobs() -> None:
    pool = ReplanPool(model(), byte_level())
    with torch.inference_mode():
        calls = [(pool.session(budget=Budget(kv_tokens=90)), m, {"max_new_tokens": 6}) for m in chats()[:3]]
        got = pool.generate(calls)
    wanted = [ReplanSession(model(), byte_level(), budget=Budget(kv_tokens=90)) for _ in got]
    assert [g.text for g in got] == [
        s.generate(m, max_new_tokens=6).text for s, m in zip(wanted, chats(), strict=False)
    ]
