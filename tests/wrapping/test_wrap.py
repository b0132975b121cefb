"""`erecap.wrap`: the wrapped object has the interface of the target, prunes, logs, and changes nothing else."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest
import torch

import erecap
from erecap.errors import ConfigError
from tests.tokens.models import padded, prompt, tiny

GREEDY = {"max_new_tokens": 6, "do_sample": False}


def chat(turns: int) -> list[dict]:
    messages = [{"role": "system", "content": "You plan."}, {"role": "user", "content": "Goal: tea. " + "x" * 40}]
    for turn in range(turns):
        messages += [
            {"role": "assistant", "content": f"go to shelf {turn}"},
            {"role": "user", "content": f"You see nothing on shelf {turn}."},
        ]
    return messages


def test_a_model_keeping_everything_answers_as_the_bare_one() -> None:
    model = tiny("llama")
    wrapped = erecap.wrap(model, keep=1.0)
    for given in (prompt(), padded()):
        assert torch.equal(wrapped.generate(**given, **GREEDY), model.generate(**given, **GREEDY))
    assert wrapped.config is model.config and wrapped.device == model.device
    assert torch.equal(wrapped(**prompt()).logits, model(**prompt()).logits)
    assert wrapped.log.rows == 2


def test_a_pruned_model_keeps_the_contract_and_logs(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = tiny("llama")
    wrapped = erecap.wrap(model, prune=erecap.PruneConfig("attention", 0.5, (2, 4)), log=tmp_path / "mine")
    output = wrapped.generate(**prompt(40), **GREEDY, return_dict_in_generate=True, output_scores=True)
    assert output.sequences.shape == (1, 46) and len(output.scores) == 6
    assert torch.equal(output.sequences[:, :40], prompt(40)["input_ids"])
    wrapped.generate(prompt(30)["input_ids"], **GREEDY)
    first, second = map(json.loads, (tmp_path / "mine" / "replans.jsonl").read_text().splitlines())
    assert first["kept_per_layer"] == [40, 40, 20, 20, 10, 10, 10, 10]
    assert (first["prompt_tokens"], first["plan_tokens"], first["mode"]) == (40, 6, "prune[attention]")
    assert second["replan"] == 1 and second["prompt_tokens"] == 30 and second["total_ms"] > second["prefill_ms"] > 0
    assert json.loads((tmp_path / "mine" / "run.json").read_text())["format"] == 1
    # Other sessions continue the log.
    for keep in (0.9, 1.0):
        erecap.wrap(model, keep=keep, log=tmp_path / "mine").generate(**prompt(), **GREEDY)
    rows = [json.loads(line) for line in (tmp_path / "mine" / "replans.jsonl").read_text().splitlines()]
    why = [row["dropped_because"] for row in rows]
    assert why == [*(f"keep={k} of the tokens at each pruning stage are asked for" for k in (0.5, 0.5, 0.9)), None]


def test_calls_that_manage_their_own_cache_are_passed_on_and_say_so(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = tiny("llama")
    wrapped = erecap.wrap(model, keep=0.5, log=tmp_path)
    expected = model.generate(**prompt(), **GREEDY)
    assert torch.equal(wrapped.generate(**prompt(), **GREEDY, use_cache=False), expected)
    assert torch.equal(wrapped.generate(**prompt(), **GREEDY, cache_implementation="dynamic"), expected)
    rows = [json.loads(line) for line in (tmp_path / "replans.jsonl").read_text().splitlines()]
    assert [row["decision"] for row in rows] == ["passed", "passed"]
    assert "caching off" in rows[0]["reason"] and "cache implementation" in rows[1]["reason"]


def test_a_callable_is_shown_fewer_old_messages(tmp_path) -> None:  # type: ignore[no-untyped-def]
    seen: list = []

    def planner(messages, temperature=0.0):  # type: ignore[no-untyped-def]
        """Plan."""
        seen.append((messages, temperature))
        return "make tea"

    messages = chat(10)
    before = json.dumps(messages)
    wrapped = erecap.wrap(planner, keep_tokens=60, log=tmp_path)
    assert wrapped(messages, temperature=0.5) == "make tea"
    shown, temperature = seen[0]
    assert temperature == 0.5 and wrapped.__name__ == "planner" and wrapped.__doc__ == "Plan."
    assert shown[:2] == messages[:2] and shown[-1] == messages[-1] and len(shown) < len(messages)
    shorter = ("see nothing on shelf", "[removed]")
    assert all(message in messages or message["content"].startswith(shorter) for message in shown)
    assert [m["role"] for m in shown[1:]] == ["user", "assistant"] * ((len(shown) - 2) // 2) + ["user"]
    assert json.dumps(messages) == before  # the caller's history is whole
    row = json.loads((tmp_path / "replans.jsonl").read_text())
    assert row["decision"] == "pruned" and row["overflow_messages"] == len(messages) - len(shown)
    assert row["tokens_estimated"] is True and row["new_tokens"] <= 60 < row["prompt_tokens"]


def test_a_callable_keeping_everything_sees_the_very_messages() -> None:
    messages = chat(5)
    assert erecap.wrap(lambda m: m, keep=1.0)(messages) == messages
    assert erecap.wrap(lambda m: m, keep_tokens=10_000)(messages) == messages
    assert erecap.wrap(lambda m: m)([]) == []


def test_what_must_stay_is_never_cut() -> None:
    messages = chat(3)
    shown = erecap.wrap(lambda m: m, keep_tokens=1)(messages)
    assert [m["content"] for m in shown] == [messages[i]["content"] for i in (0, 1, -2, -1)]


def test_async_callables_and_objects() -> None:
    async def planner(messages):  # type: ignore[no-untyped-def]
        return str(len(messages))

    wrapped = erecap.wrap(planner, keep_tokens=30)
    assert int(asyncio.run(wrapped(chat(10)))) < 22 and wrapped.log.rows == 1

    class Agent:
        def __call__(self, messages):  # type: ignore[no-untyped-def]
            return "ok"

    assert erecap.wrap(Agent())(chat(2)) == "ok"


def test_an_exception_of_the_target_is_the_callers() -> None:
    def broken(messages):  # type: ignore[no-untyped-def]
        raise TimeoutError("no answer")

    with pytest.raises(TimeoutError, match="no answer"):
        erecap.wrap(broken)(chat(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": 0.0}, "keep must be above 0"),
        ({"keep_tokens": 0}, "keep_tokens must be 1"),
        ({"keep": "x"}, "keep must be above 0 and at most 1, got 'x'"),
        ({"keep_tokens": "x"}, "keep_tokens must be 1 or more, a whole number, got 'x'"),
        ({"keep_tokens": 60.5}, "keep_tokens must be 1 or more, a whole number, got 60.5"),
        ({"keep_tokens": 60, "rank": "x"}, "rank: got 'x'; allowed: a function"),
        ({"keep_tokens": 60, "count_tokens": 4}, "count_tokens: got 4; allowed: a function"),
        ({"keep_tokens": 60, "patterns": 4}, "patterns: got 4; allowed: "),
        ({"keep_tokens": 60, "shadow": "x"}, "shadow: got 'x'; allowed: from 0 to 1"),
        ({"scorer": "attention"}, "only 'recency'"),
        ({"prune": erecap.PruneConfig()}, "prune is for models"),
    ],
)
def test_options_a_callable_does_not_have(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        erecap.wrap(lambda m: "x", **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep_tokens": 5}, "for callables"),
        ({"keep": 2.0}, "keep must be"),
        ({"keep": "x"}, "keep must be a number above 0 and at most 1, got 'x'"),
        ({"prune": "x"}, "prune: got 'x'; allowed: a PruneConfig"),
        ({"rank": "x"}, "for callables"),
        ({"scorer": "saliency"}, "known: attention"),
        ({"prune": erecap.PruneConfig(stages=(99,))}, "layers 0 to 7"),
    ],
)
def test_options_a_model_does_not_have(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        erecap.wrap(tiny("llama"), **arguments)


@pytest.mark.parametrize("bad", [[{"content": "x"}], ["x"], 5])
def test_input_that_is_not_messages(bad: object) -> None:
    with pytest.raises(ConfigError, match="message"):
        erecap.wrap(lambda m: "x")(bad)


def test_neither_model_nor_callable() -> None:
    with pytest.raises(TypeError, match="got int"):
        erecap.wrap(5)


def already_wrapped(kind: str) -> object:
    if kind in ("session", "prune"):
        return erecap.wrap(tiny("llama"), **({} if kind == "session" else {"keep": 0.5}))
    if kind == "pipeline":
        from transformers import pipeline

        from tests.context.small_tokenizers import byte_level
        from tests.session.chats import model

        return erecap.wrap(pipeline("text-generation", model=model("llama"), tokenizer=byte_level()))
    if kind == "client":
        return erecap.wrap(SimpleNamespace(chat=SimpleNamespace(completions=None)), keep_tokens=60)
    if kind == "generator":
        return erecap.wrap(GeneratingAgent(), keep_tokens=60)

    async def later(messages: list) -> str:
        return "x"

    return erecap.wrap(later if kind == "async" else lambda messages: "x", keep_tokens=60)


@pytest.mark.parametrize("kind", ["session", "prune", "pipeline", "client", "generator", "async", "callable"])
def test_what_is_wrapped_is_not_wrapped_again(kind: str) -> None:
    wrapped = already_wrapped(kind)
    with pytest.raises(ConfigError, match=r"^it is already wrapped; give all options to one wrap$"):
        erecap.wrap(wrapped)


def test_a_module_that_does_not_generate_is_no_callable() -> None:
    for module in (torch.nn.Linear(2, 2), tiny("llama").model):
        with pytest.raises(TypeError, match=f"{type(module).__name__} is a torch module without generate$"):
            erecap.wrap(module)

    class Planner(torch.nn.Module):
        def generate(self, messages: list) -> str:
            return f"{len(messages)} messages"

    assert erecap.wrap(Planner(), keep_tokens=60).generate(chat(30)) != "62 messages"


def test_a_log_without_episodes_is_a_readable_run_folder(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from erecap.report import build

    erecap.wrap(lambda m: "look", log=tmp_path / "mine")(chat(2))
    assert "No episode has finished yet" in build(tmp_path / "mine").read_text("utf-8")


def test_a_pipeline_gets_a_wrapped_model(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from transformers import pipeline

    from tests.context.small_tokenizers import byte_level
    from tests.session.chats import model

    pipe = pipeline("text-generation", model=model("llama"), tokenizer=byte_level())
    text, options = "You see a mug on the shelf. " * 4, {"max_new_tokens": 6, "do_sample": False}
    assert erecap.wrap(pipe, keep=1.0)(text, **options) == pipe(text, **options)
    wrapped = erecap.wrap(pipe, keep=0.5, log=tmp_path)
    [answer] = wrapped(text, **options)
    assert answer["generated_text"].startswith(text) and wrapped.log.rows == 1
    row = json.loads((tmp_path / "replans.jsonl").read_text())
    assert row["decision"] == "pruned" and min(row["kept_per_layer"]) < row["prompt_tokens"]
    assert pipe.model is not wrapped.model and pipe(text, **options)
    with pytest.raises(ConfigError, match="keep_tokens and count_tokens are for callables"):
        erecap.wrap(pipe, keep_tokens=5)


class Agent:
    """An agent of another library, which has a model, a tokenizer and a task without being a pipeline."""

    model, tokenizer, task = "m", "t", "find the mug"


class GeneratingAgent(Agent):
    def generate(self, messages: list) -> str:
        return f"{len(messages)} messages"


class CallableAgent(Agent):
    def __call__(self, messages: list) -> str:
        return f"{len(messages)} messages"


def test_agents_with_a_model_a_tokenizer_and_a_task_are_no_pipelines() -> None:
    given = chat(30)
    assert erecap.wrap(GeneratingAgent(), keep_tokens=60).generate(given) != "62 messages"
    assert erecap.wrap(CallableAgent(), keep_tokens=60)(given) != "62 messages"
    with pytest.raises(TypeError, match="got Agent"):
        erecap.wrap(Agent())
