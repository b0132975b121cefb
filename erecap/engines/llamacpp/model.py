"""A GGUF model opened by llama.cpp, which engines share."""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from weakref import finalize

from erecap.engines.llamacpp.library import last_words, library
from erecap.errors import ConfigError, ModelError
from erecap.models.gguf_files import locate_gguf

Precision = Literal["float16", "float32", "bfloat16"]
TYPES: dict[str, tuple[int, int]] = {"float32": (0, 4), "float16": (1, 2), "bfloat16": (30, 2)}  # ggml's number, bytes
CONTROL = 8  # attribute of tokens that are marks, not text


@dataclass(frozen=True)
class LlamaCppOptions:
    """Options of a model on llama.cpp.

    Raises:
        ConfigError: a value that is not allowed.
    """

    threads: int | None = None  # None: `OMP_NUM_THREADS`, else the cores of this process
    kv: Precision = "float16"  # of keys and values
    flash: bool | None = None  # llama.cpp's flash attention; None: where it thinks that it pays
    # Of llama.cpp's own model parameters, for builds with CUDA, Metal or Vulkan. Layers on the device; None: all that
    # it can.
    gpu_layers: int | None = None
    main_gpu: int = 0
    split_mode: int | None = None  # 0: one device, 1: layers over the devices, 2: rows; None: its own choice

    def __post_init__(self) -> None:
        if self.kv not in TYPES:
            raise ConfigError(f"engine llamacpp: kv is {self.kv!r}; allowed: {', '.join(TYPES)}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"engine llamacpp: threads is {self.threads}; allowed: 1 or more")

    @property
    def own_threads(self) -> int:
        """Threads that it computes with."""
        if self.threads is not None:
            return self.threads
        stated = os.environ.get("OMP_NUM_THREADS", "")
        return int(stated) if stated.isdigit() and int(stated) else len(os.sched_getaffinity(0))


@dataclass(eq=False)
class LlamaCppModel:
    """A language model in a GGUF file, loaded by llama.cpp; made by `LlamaCppModel.open`.

    Attributes:
        path: the file.
        handle: llama.cpp's pointer to the model.
        adapter: llama.cpp's pointer to a LoRA adapter that is applied to it, and the adapter's digest.
    """

    path: Path
    options: LlamaCppOptions
    handle: Any
    vocab: Any
    adapter: Any = None
    adapter_hash: str | None = None
    generation_config: Any = field(init=False)

    def __post_init__(self) -> None:
        self.generation_config = SimpleNamespace(eos_token_id=self.ends)

    @classmethod
    def open(
        cls, path: str | Path, options: LlamaCppOptions | None = None, *, adapter: str | Path | None = None
    ) -> LlamaCppModel:
        """Load a GGUF file.

        Args:
            path: the file, or the catalog name of a model that comes as one.
            adapter: a LoRA adapter of PEFT, a folder or a name, which is converted; or a GGUF file of one.

        Raises:
            ConfigError: llama.cpp is not installed, or there is no such file.
            ModelError: it cannot be loaded, or is of a kind that no session can serve.
        """
        api, path, options = library(), locate_gguf(str(path)), options or LlamaCppOptions()
        params = api.llama_model_default_params()
        if options.gpu_layers is not None:
            params.n_gpu_layers = options.gpu_layers
        if options.split_mode is not None:
            params.split_mode = options.split_mode
        params.main_gpu = options.main_gpu
        last_words()
        handle = api.llama_model_load_from_file(str(path).encode(), params)
        if not handle:
            raise ModelError(f"{path.name}: llama.cpp cannot load it{last_words()}")
        model = cls(path, options, handle, api.llama_model_get_vocab(handle))
        finalize(model, api.llama_model_free, handle)
        problem = model.problem()
        if problem is not None:
            raise ModelError(f"{path.name}: {problem}")
        if adapter is not None:
            model._take(str(adapter))
        return model

    def _take(self, adapter: str) -> None:
        path = Path(adapter)
        if path.suffix != ".gguf" or not path.is_file():
            from erecap.engines.llamacpp.lora import converted
            from erecap.models.adapters import locate_adapter

            path = converted(locate_adapter(adapter), self)
        self.adapter = library().llama_adapter_lora_init(self.handle, str(path).encode())
        if not self.adapter:
            raise ModelError(f"{path.name}: llama.cpp cannot apply it to {self.path.name}{last_words()}")
        self.adapter_hash = _sha256(path)  # the adapter itself is freed with the model

    def problem(self) -> str | None:
        """Reason why no session can serve the model, in a sentence; None: one can."""
        api, model = library(), self.handle
        kind = self.facts.get("general.architecture", "?")
        instead = "take a decoder with full attention"
        if api.llama_model_is_recurrent(model) or api.llama_model_is_hybrid(model):
            return f"{kind} models have a recurrent state, of which no part can be evicted or rolled back; {instead}"
        if api.llama_model_has_encoder(model) or not api.llama_model_has_decoder(model):
            return f"{kind} models have an encoder, and sessions read and answer with a decoder alone; {instead}"
        if api.llama_model_is_diffusion(model):
            return f"{kind} models do not answer token by token; {instead}"
        if api.llama_model_n_swa(model) > 0:
            return (
                f"{kind} models attend within a window of {api.llama_model_n_swa(model)} tokens in some layers, where "
                f"llama.cpp drops older ones by itself; {instead}, or "
                "give the folder of the same model in safetensors, not this file, to the engine 'transformers'"
            )
        if api.llama_model_rope_type(model) not in (-1, 0, 2):  # none, neighbouring numbers, halves
            return f"{kind} models have positions of several dimensions; {instead}"
        return None

    # What is known ----------------------------------------------------------------------------------------

    @cached_property
    def facts(self) -> Mapping[str, str]:
        """The file's metadata as text, without its long tables."""
        api, found = library(), {}
        buffer = ctypes.create_string_buffer(1 << 16)
        for number in range(api.llama_model_meta_count(self.handle)):
            api.llama_model_meta_key_by_index(self.handle, number, buffer, len(buffer))
            key = buffer.value.decode("utf-8", "replace")
            api.llama_model_meta_val_str_by_index(self.handle, number, buffer, len(buffer))
            found[key] = buffer.value.decode("utf-8", "replace")
        return found

    @cached_property
    def shape(self) -> str:
        """Architecture, size and precision in llama.cpp's words, such as `llama 134M Q4_1`."""
        buffer = ctypes.create_string_buffer(256)
        library().llama_model_desc(self.handle, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @cached_property
    def vocabulary(self) -> int:
        """Token ids are below this."""
        return int(library().llama_vocab_n_tokens(self.vocab))

    @cached_property
    def window(self) -> int:
        """Positions that the model was trained with."""
        return int(library().llama_model_n_ctx_train(self.handle))

    @cached_property
    def bytes_per_token(self) -> int:
        """Bytes of the keys and values of a token in all layers."""
        kind, (queries, heads) = self.facts.get("general.architecture", ""), self.heads
        width = library().llama_model_n_embd(self.handle) // queries
        keys, values = (int(self.facts.get(f"{kind}.attention.{part}_length", width)) for part in ("key", "value"))
        return int(self.layers * heads * (keys + values) * TYPES[self.options.kv][1])

    @cached_property
    def heads(self) -> tuple[int, int]:
        """Heads of queries, and of keys and values."""
        api = library()
        return int(api.llama_model_n_head(self.handle)), int(api.llama_model_n_head_kv(self.handle))

    @cached_property
    def layers(self) -> int:
        """Layers of the model."""
        return int(library().llama_model_n_layer(self.handle))

    @cached_property
    def why_fixed(self) -> str | None:
        """Reason why stored keys cannot be rotated to other positions; None: they can."""
        if library().llama_model_rope_type(self.handle) == -1:
            return f"{self.facts.get('general.architecture', '?')} models have no rotary positions"
        return None

    @cached_property
    def ends(self) -> list[int]:
        """Token ids that end an answer, as llama.cpp says."""
        api = library()
        return [n for n in range(api.llama_vocab_n_tokens(self.vocab)) if api.llama_vocab_is_eog(self.vocab, n)]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return _sha256(self.path)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer and chat template of the file; see `GgufTokenizer`."""
        from erecap.engines.llamacpp.tokenizer import GgufTokenizer

        return GgufTokenizer(self)

    def fingerprint(self) -> dict[str, str]:
        """Digests of all that stored keys and values depend on."""
        import llama_cpp

        made = {
            "weights": f"sha256:{self.digest}",
            "config": f"llama.cpp {llama_cpp.__version__} flash={self.options.flash}",
            "dtype": self.options.kv,
        }
        return made if self.adapter_hash is None else {**made, "adapters": f"sha256:{self.adapter_hash}"}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
