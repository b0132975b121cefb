"""Saved sessions: bound to the model by content; whatever is damaged is one line, and nothing of it is taken."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import pre_tokenizers

import erecap
from erecap.budget import Budget
from erecap.engines import files
from erecap.engines.tiny import TinyModel
from erecap.errors import RunError
from erecap.session import ReplanSession
from erecap.tokens import PruneConfig
from tests.context.small_tokenizers import INST, byte_level
from tests.session.characters import Characters
from tests.session.chats import model, start, turn

BUDGET = Budget(kv_tokens=90)


def saved(path: Path, of: Any = None, **options: Any) -> tuple[ReplanSession, list[dict]]:
    session = ReplanSession(of if of is not None else model(), byte_level(), budget=BUDGET, **options)
    messages = start()
    for number in range(3):
        messages += turn(session.generate(messages, max_new_tokens=5).text, number)
    session.correct("The mug is gone.")
    session.save(path)
    return session, messages


def refused(path: Path, of: Any = None, tokenizer: Any = None, **options: Any) -> str:
    """The one line by which `path` is refused; the session is as new afterwards, and the answer its own."""
    session = ReplanSession(of if of is not None else model(), tokenizer or byte_level(), budget=BUDGET, **options)
    with pytest.raises(RunError) as caught:
        session.restore(path)
    assert "\n" not in str(caught.value) and path.name in str(caught.value)
    assert session.token_ids == [] and session.engine.stored().most == 0
    session.generate(start(), max_new_tokens=2)
    return str(caught.value)


def changed(change: Callable[[Any], Any]) -> Any:
    twin = copy.deepcopy(model())
    with torch.no_grad():
        change(twin)
    return twin


def test_the_example_of_the_page_goes_on_as_the_saved_session_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "sessions.md").read_text("utf-8")
    [example] = [block for block in re.findall(r"```python\n(.*?)```", page, re.S) if ".restore(" in block]
    session, messages = ReplanSession(model(), byte_level(), budget=Budget(kv_tokens=1024)), start()
    plan = session.generate(messages, max_new_tokens=5).text
    names = {"erecap": erecap, "model": model(), "tokenizer": byte_level(), "session": session, "plan": plan}
    names["messages"] = messages
    exec(example, names)
    assert session.generate(messages, max_new_tokens=32).text == names["plan"] != plan
    assert names["later"].token_ids == session.token_ids


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: [weight.mul_(1.01) for weight in m.parameters()], "other weights"),
        (lambda m: m.model.layers[3].mlp.down_proj.weight[0, :1].add_(1e-3), "other weights"),
        (lambda m: m.model.norm.weight.data.mul_(2.0), "other weights"),
        (lambda m: m.model.embed_tokens.weight[7].zero_(), "other weights"),
        (lambda m: m.to(torch.bfloat16), "in float32, this one is in bfloat16"),
        (lambda m: setattr(m.config, "rms_norm_eps", 1e-3), "other configuration"),
        (lambda m: m.config.rope_parameters.update(rope_theta=5e5), "other configuration"),
    ],
)
def test_keys_of_another_model_of_the_shape_are_refused(change: Any, words: str, tmp_path: Path) -> None:
    saved(tmp_path / "a.safetensors")
    assert words in refused(tmp_path / "a.safetensors", changed(change))


def test_keys_of_another_state_of_adapters_are_refused(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")

    def adapted() -> Any:
        torch.manual_seed(2)
        config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        return peft.get_peft_model(copy.deepcopy(model()), config).eval()

    path, one = tmp_path / "a.safetensors", adapted()
    session, messages = saved(path, one)
    twin = ReplanSession(adapted(), byte_level(), budget=BUDGET)
    twin.restore(path)
    assert twin.generate(messages, max_new_tokens=5).text == session.generate(messages, max_new_tokens=5).text
    off = adapted()
    off.disable_adapter_layers()
    assert "other adapters" in refused(path, off)
    scaled = adapted()
    scaled.base_model.model.model.layers[2].self_attn.q_proj.set_scale("default", 3.0)
    assert "other adapters" in refused(path, scaled)


def test_another_tokenizer_or_template_is_noticed(tmp_path: Path) -> None:
    saved(tmp_path / "a.safetensors")
    other = copy.deepcopy(byte_level())
    other.chat_template = INST
    assert "another chat template" in refused(tmp_path / "a.safetensors", tokenizer=other)
    more = copy.deepcopy(byte_level())
    digits = pre_tokenizers.Digits(individual_digits=True)
    more.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, more.backend_tokenizer.pre_tokenizer])
    assert "another tokenizer" in refused(tmp_path / "a.safetensors", tokenizer=more)
    padded = copy.deepcopy(byte_level())
    padded(["a", "b c"], padding=True, truncation=True, max_length=9)  # says nothing of how a chat becomes tokens
    again = ReplanSession(model(), padded, budget=BUDGET)
    again.restore(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "options",
    [{}, {"evict_by": "random"}, {"prune": PruneConfig("recency", 0.7, (2, 5), park_tokens=30)}],
)
def test_what_was_evicted_is_known_afterwards(options: dict, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    session, messages = saved(path, **options)
    session.splice((30, 40))
    assert session.evicted_tokens > 0
    session.save(path)
    other = ReplanSession(model(), byte_level(), budget=BUDGET, **options)
    other.restore(path)
    assert other.evicted_tokens == session.evicted_tokens and other.token_ids == session.token_ids
    assert other.generate(messages, max_new_tokens=5).text == session.generate(messages, max_new_tokens=5).text


def test_older_formats_are_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for number in (1, 2, 3):
        save_file({"ids": torch.arange(3)}, path, metadata={"format": f"erecap-session-{number}", "known": "{}"})
        assert "saved by an older version, without a fingerprint of its model" in refused(path)
    save_file({"ids": torch.arange(3)}, path)
    assert "not a saved session" in refused(path)


def test_any_flipped_bit_and_any_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    saved(path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [*generator.integers(0, header, 60), *generator.integers(header, len(whole), 60)]
    for place in map(int, places):
        raw = bytearray(whole)
        raw[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(raw)
        session = ReplanSession(model(), byte_level(), budget=BUDGET)
        with pytest.raises(RunError) as caught:
            session.restore(path)
        assert "\n" not in str(caught.value), place
    for length in (0, 7, 8, 100, header - 1, header, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path)
    path.write_bytes(whole + b"\0")
    refused(path)


def rewritten(path: Path, tensors: Callable[[dict], object] = len, known: Callable[[dict], object] = len) -> None:
    """Change a file and give it the checksums of what it holds now, as a program would that means harm."""
    with safe_open(path, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}
        values = json.loads(file.metadata()["known"])
    tensors(found)
    known(values)
    plain = json.dumps(values)
    sums = json.dumps({name: files.checksum(tensor) for name, tensor in sorted(found.items())})
    metadata = {"format": files.FORMAT, "known": plain, "sums": sums, "check": files.seal(plain, sums)}
    save_file(found, path, metadata=metadata)


def put(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict], None]:
    return lambda found: found.__setitem__(name, change(found[name].clone()))


def fill(where: tuple, value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: tensor.index_put_(tuple(torch.tensor(n) for n in where), torch.tensor(value).to(tensor.dtype))


def into_a_gap(positions: torch.Tensor) -> torch.Tensor:
    """Move one token to the free position before it."""
    place = int((positions[0, 1:] - positions[0, :-1] > 1).nonzero()[0]) + 1
    positions[0, place] -= 1
    return positions


TENSORS = {
    "NaN key": (put("keys.2", fill((0, 0, 3, 1), float("nan"))), "keys.2 holds values that are not finite"),
    "infinite value": (put("values.0", fill((0, 1, 0, 0), float("inf"))), "values.0 holds values"),
    "key of another dtype": (put("keys.1", lambda t: t.half()), "keys.1 is"),
    "fewer heads": (put("keys.1", lambda t: t[:, :1].contiguous()), "keys.1 is"),
    "narrower heads": (put("values.4", lambda t: t[..., :-1].contiguous()), "values.4 is"),
    "another rank": (put("keys.5", lambda t: t[0]), "keys.5 is"),
    "fewer tokens": (put("keys.3", lambda t: t[:, :, :-1].contiguous()), "keys.3 is"),
    "a layer too many": (lambda f: f.__setitem__("keys.8", f["keys.0"].clone()), "keys of layer 8"),
    "a layer of no number": (lambda f: f.__setitem__("keys.x", f["keys.0"].clone()), "damaged"),
    "values missing": (lambda f: f.pop("values.6"), "values.6 is missing"),
    "positions missing": (lambda f: f.pop("positions.6"), "positions.6 is missing"),
    "index beyond what was read": (put("index.0", fill((0, -1), 10**6)), "index.0 does not rise"),
    "index before the first": (put("index.0", fill((0, 0), -1)), "index.0 does not rise"),
    "index twice": (put("index.0", lambda t: torch.cat([t[:, :1], t[:, :-1]], 1)), "index.0 does not rise"),
    "position beyond the next": (put("positions.3", fill((0, -1), 4000)), "positions.3 does not rise"),
    "another position in one layer": (put("positions.7", into_a_gap), "two positions"),
    "positions as floats": (put("positions.7", lambda t: t.float()), "positions.7 has dtype"),
    "ids as floats": (put("ids", lambda t: t.float()), "ids are not one row"),
    "ids missing": (lambda f: f.pop("ids"), "ids are not one row"),
    "an id beyond the vocabulary": (put("ids", fill((4,), 10**9)), "token id 1000000000"),
    "a negative id": (put("ids", fill((4,), -3)), "token id -3"),
    "fewer ids than tokens": (put("ids", lambda t: t[:-1]), "tokens were read"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_cannot_be_meant(case: str, tmp_path: Path) -> None:
    change, words = TENSORS[case]
    saved(tmp_path / "a.safetensors")
    rewritten(tmp_path / "a.safetensors", tensors=change)
    assert words in refused(tmp_path / "a.safetensors")


def deep(value: dict) -> None:
    inner: list = []
    for _ in range(400):
        inner = [inner]
    value["marks"] = inner


VALUES: dict[str, Callable[[dict], object]] = {
    "tokens read as text": lambda v: v.update(logical="90"),
    "more tokens read": lambda v: v.update(logical=v["logical"] + 1),
    "tokens read, negative": lambda v: v.update(logical=-1),
    "tokens read, huge": lambda v: v.update(logical=1 << 70),
    "shift beyond": lambda v: v["state"].update(shift=v["logical"] + 1),
    "shift negative": lambda v: v["state"].update(shift=-2),
    "shift too large for its positions": lambda v: v["state"].update(shift=v["logical"] - 1),
    "no marks": lambda v: v.pop("marks"),
    "a mark of text": lambda v: v["marks"].append("here"),
    "a mark beyond the end": lambda v: v["marks"][-1].__setitem__(3, 10**6),
    "marks that fall": lambda v: v["marks"].reverse(),
    "a digest of no digits": lambda v: v["marks"][0].__setitem__(2, "zz" * 16),
    "starts of text": lambda v: v["marks"][0].__setitem__(6, ["a"]),
    "a correction beyond": lambda v: v["overlays"].append([10**6, [1]]),
    "a correction of unknown tokens": lambda v: v["overlays"].append([1, [10**6]]),
    "pending text": lambda v: v["state"].update(pending=["a"]),
    "no chat": lambda v: v["state"].pop("chat"),
    "a message without content": lambda v: v["state"]["chat"].update(waiting=[{"role": "user"}]),
    "answered maybe": lambda v: v["state"]["chat"].update(answered="maybe"),
    "ends of one part": lambda v: v["state"]["chat"].update(ends=[1]),
    "layers": lambda v: v.update(layers=9),
    "no state": lambda v: v.pop("state"),
    "a list": lambda v: v.update(state=[]),
    "nested deeply": deep,
    "no tokenizer": lambda v: v.pop("tokenizer"),
    "no maker": lambda v: v.pop("made"),
}


@pytest.mark.parametrize("case", VALUES)
def test_values_that_cannot_be_meant(case: str, tmp_path: Path) -> None:
    saved(tmp_path / "a.safetensors")
    rewritten(tmp_path / "a.safetensors", known=VALUES[case])
    assert "damaged session file" in refused(tmp_path / "a.safetensors")


def test_parked_tokens_and_scores_are_checked_as_well(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    prune = PruneConfig("recency", 0.5, (2, 5), park_tokens=40)
    for name, change, words in (
        ("parked.2.hidden", fill((0, 0, 0), float("nan")), "parked.2.hidden"),
        ("parked.2.index", fill((0, -1), 10**6), "parked.2.index"),
        ("parked.5.positions", lambda t: t[:, :-1], "differ in length"),
    ):
        saved(path, prune=prune)
        rewritten(path, tensors=put(name, change))
        assert words in refused(path, prune=prune)


class Newest:
    layer = 2

    def score(self, layer: int, hidden: torch.Tensor, ctx: Any) -> torch.Tensor:
        return ctx.index.float()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ratings.scores", fill((1,), float("nan"))),
        ("ratings.scores", lambda t: t[:-1]),
        ("ratings.places", fill((-1,), 10**6)),
        ("ratings.places", lambda t: t.flip(0)),
    ],
)
def test_scores_that_cannot_be_meant(name: str, change: Any, tmp_path: Path) -> None:
    saved(tmp_path / "a.safetensors", evict_by=Newest())
    rewritten(tmp_path / "a.safetensors", tensors=put(name, change))
    assert "ratings" in refused(tmp_path / "a.safetensors", evict_by=Newest())


@pytest.mark.parametrize("column", ["index", "position", "token", "value"])
def test_columns_of_the_tiny_engine(column: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"

    def made(**facts: Any) -> ReplanSession:
        return ReplanSession(TinyModel(**facts), Characters(), engine="tiny")

    session = made()
    session.read([{"role": "user", "content": "cool the apple"}])
    session.save(path)
    for other in ({"seed": 1}, {"window": 999}):
        with pytest.raises(RunError, match="saved from"):
            made(**other).restore(path)
    rewritten(path, tensors=put(f"tiny.{column}", lambda t: t[:-1] if column == "value" else t * 1000 - 1))
    with pytest.raises(RunError, match=r"^a.safetensors: damaged session file: its columns"):
        made().restore(path)


def test_a_model_whose_weights_are_elsewhere_is_not_saved_under_a_wrong_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="on the device meta, which holds no values"):
        ReplanSession(copy.deepcopy(model()).to("meta"), byte_level())
