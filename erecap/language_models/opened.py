"""A loaded model: its description, and the trained pruners that fit it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erecap.cost.flops import ModelShape
from erecap.errors import ConfigError
from erecap.generation import Message
from erecap.models import describe_adapter, fingerprint, load, locate
from erecap.protocols import LanguageModel
from erecap.registries import ENGINES

if TYPE_CHECKING:
    from erecap.layers.plan import Base
    from erecap.tokens.scoring.learned import LearnedScorer


@dataclass(frozen=True)
class ModelSettings:
    """Settings for opening a model."""

    name: str  # a catalog name, a folder, or a hub name
    adapter: str | None = None  # LoRA adapter merged into it: a folder or a name
    dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None  # of the model's arithmetic; None: torch's choice
    layers: str | None = None  # layer plan that is applied to it: a folder or a name
    device_map: str | None = None  # layers on several devices, see `erecap.parallel.device_map`


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """A loaded model with its description.

    Attributes:
        model, tokenizer: of transformers, or of the engine that opens a GGUF file.
        facts: `model` of `run.json`, see `describe_model`.
    """

    model: Any
    tokenizer: Any
    facts: dict[str, Any]
    settings: ModelSettings | None = None  # that it was opened with
    _scorers: dict[tuple[str, bool], LearnedScorer] = field(default_factory=dict, init=False, repr=False)
    _planned: dict[str, OpenedModel] = field(default_factory=dict, init=False, repr=False)
    _engines: dict[str, OpenedModel] = field(default_factory=dict, init=False, repr=False)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the folder that the model was loaded from."""
        return str(self.facts["hash"])

    @property
    def adapter_hash(self) -> str | None:
        """Hash of the adapter that was merged into it."""
        return self.facts["adapter"]["hash"] if self.facts["adapter"] else None

    @property
    def plan_hash(self) -> str | None:
        """Hash of the layer plan that is applied to it."""
        return self.facts["plan"]["hash"] if self.facts.get("plan") else None

    @property
    def cost_print(self) -> str:
        """The key of predicted times: the fingerprint, and the layer plan if there is one."""
        return self.fingerprint if self.plan_hash is None else f"{self.fingerprint} {self.plan_hash}"

    def with_layers(self, name: str | None) -> OpenedModel:
        """This model with a layer plan. Both share all weights that the plan leaves alone.

        Args:
            name: folder or name of the plan; None: the model as it is.

        Raises:
            ConfigError: no such folder, or the model has another plan already.
            ModelError: the plan is damaged, or for another model.
        """
        if name is None:
            return self
        from erecap.layers.applying import with_plan
        from erecap.layers.files import describe_plan, load_plan

        found = describe_plan(name)
        if found["hash"] == self.plan_hash:
            return self
        if self.plan_hash is not None:
            raise ConfigError(
                f"layers: the model was opened with plan {self.facts['plan']['name']}, a mode names {name}"
            )
        if found["hash"] not in self._planned:
            model = with_plan(self.model, load_plan(name), base=self.base)
            facts = {**self.facts, **_counted(model), "plan": found}
            self._planned[found["hash"]] = OpenedModel(model, self.tokenizer, facts, self.settings)
        return self._planned[found["hash"]]

    def engine_of(self, engine: str) -> str:
        """The engine that a mode's sessions have on this model: the mode's, and llama.cpp's for a GGUF file."""
        gguf = self.settings is not None and is_gguf(self.settings.name)
        return "llamacpp" if gguf and engine == "transformers" else engine

    def on_engine(self, engine: str) -> OpenedModel:
        """This model as an engine opens it, with the same tokenizer; itself where the engine serves it as it is.

        Raises:
            ConfigError: the engine cannot be imported, or opens no such model.
            ModelError: the model cannot be loaded.
        """
        opener = getattr(ENGINES.get_or_refuse(engine, "engine"), "open_model", None)
        if opener is None or self.settings is None or is_gguf(self.settings.name):
            return self
        if self.plan_hash is not None:
            raise ConfigError(f"layers: got a plan with engine {engine}; allowed: with engine transformers")
        if engine not in self._engines:
            model = _opened_by(opener, self.settings)
            self._engines[engine] = OpenedModel(model, self.tokenizer, self.facts, self.settings)
        return self._engines[engine]

    @property
    def base(self) -> Base:
        """The model as a layer plan names it."""
        from erecap.layers.plan import Base

        return Base(self.facts["name"], self.fingerprint, self.adapter_hash)

    def learned_scorer(self, name: str, *, allow_untested: bool = False) -> LearnedScorer:
        """The trained pruner of that name or folder, checked against this model and its adapter, and loaded once.

        Raises:
            ConfigError: no such folder.
            ModelError: made for another model, damaged, or untested.
        """
        from erecap.tokens.scoring.by_name import learned_scorer

        key = (name, allow_untested)
        if key not in self._scorers:
            self._scorers[key] = learned_scorer(
                name, self.model, base=self.fingerprint, adapter=self.adapter_hash, allow_untested=allow_untested
            )
        return self._scorers[key]


def open_model(settings: ModelSettings) -> OpenedModel:
    """Load a model and its tokenizer, and describe them. The number of threads holds for the process.

    A GGUF file is opened by llama.cpp, for its engine alone.

    Raises:
        ModelError, ConfigError: as `erecap.models.load`; or a layer plan that is damaged or for another model.
    """
    if is_gguf(settings.name):
        return _open_gguf(settings)
    import torch

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    model, tokenizer = load(
        settings.name, settings.dtype, settings.device, adapter=settings.adapter, device_map=settings.device_map
    )
    facts = describe_model(settings.name, model, settings.adapter)
    if settings.layers is not None:
        from erecap.layers.applying import apply
        from erecap.layers.files import describe_plan, load_plan

        apply(model, load_plan(settings.layers), base=OpenedModel(model, tokenizer, facts).base).free()
        facts |= {**_counted(model), "plan": describe_plan(settings.layers)}
    return OpenedModel(model, tokenizer, facts, settings)


def is_gguf(name: str) -> bool:
    """True for the path of a GGUF file."""
    return name.lower().endswith(".gguf")


def open_for(settings: ModelSettings, engine: str) -> OpenedModel:
    """Load a model for one engine alone: what other engines need of it is not loaded.

    Raises:
        ModelError, ConfigError: as `open_model`.
    """
    opener = getattr(ENGINES.get_or_refuse(engine, "engine"), "open_model", None)
    if opener is None or is_gguf(settings.name):
        return open_model(settings)
    if settings.layers is not None:
        raise ConfigError(f"layers: got a plan with engine {engine}; allowed: with engine transformers")
    model = _opened_by(opener, settings)
    return OpenedModel(model, model.tokenizer, {"name": settings.name, "plan": None}, settings)


def _opened_by(opener: Any, settings: ModelSettings) -> Any:
    if settings.device_map is not None:
        raise ConfigError("device_map: got one with another engine; allowed: with engine transformers")
    return opener(
        settings.name,
        adapter=settings.adapter,
        dtype=settings.dtype,
        device=settings.device,
        threads=settings.threads,
    )


def _open_gguf(settings: ModelSettings) -> OpenedModel:
    from erecap.engines.llamacpp.opening import facts_of, open_model

    if settings.layers is not None:
        raise ConfigError("layers: got a plan with a GGUF file; allowed: with a model of transformers")
    model = _opened_by(open_model, settings)
    return OpenedModel(model, model.tokenizer, facts_of(model, settings.name, settings.adapter), settings)


def describe_model(name: str, model: Any, adapter: str | None = None) -> dict[str, Any]:
    """`model` of `run.json`: shape of a transformers model, hash of its weights, and the adapter merged into it."""
    return {
        # A folder is named by its last part: paths of a machine are nobody else's business.
        "name": Path(name).name if Path(name).is_absolute() else name,
        "hash": fingerprint(locate(name)),
        "adapter": describe_adapter(adapter) if adapter is not None else None,
        "dtype": str(model.dtype).removeprefix("torch."),
        **_counted(model),
    }


def _counted(model: Any) -> dict[str, Any]:
    return {**vars(shape_of(model)), "parameters": sum(tensor.numel() for tensor in model.parameters())}


def shape_of(model: Any) -> ModelShape:
    """The shape of a transformers model, as far as FLOPs depend on it."""
    config = model.config.get_text_config(decoder=True)
    heads = config.num_attention_heads
    return ModelShape(
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocab_size=config.vocab_size,
    )


def warm_up(model: LanguageModel) -> None:
    """Make one call that is not timed, long enough that every mode prunes in it."""
    goal = "Goal: find a cup."
    places = "\n".join(f"You look at shelf {number}. On it, there is nothing." for number in range(1, 41))
    chat: list[Message] = [
        {"role": "system", "content": "You plan for a robot. Reply with the next command."},
        # Of these places any budget may drop what it must.
        {"role": "user", "content": f"{goal}\n{places}", "protect": [(0, len(goal))]},
    ]
    model.generate(chat, max_new_tokens=8)
