"""A model opened by vLLM in this process, which engines share, and the requests that are made to it."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from erecap.engines.vllm.kept import Answer, Ask, all_of
from erecap.engines.vllm.library import library, reason_of
from erecap.engines.vllm.limits import STORE_MB
from erecap.engines.vllm.wire import Told
from erecap.errors import ConfigError, ModelError, RunError

BATCH = 2048  # most tokens of one pass
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class VllmOptions:
    """Options of a model on vLLM.

    Raises:
        ConfigError: a value that is not allowed.
    """

    dtype: str = "auto"  # of weights, keys and values: one of `DTYPES`; auto: the folder's
    window: int | None = None  # positions; None: the model's
    kv_gb: int = 1  # GiB of vLLM's paged cache on a CPU
    store_mb: int = STORE_MB  # MiB of the store that keeps sessions' keys and values
    together: int = 16  # requests that vLLM runs in one pass
    block: int | None = None  # tokens of a block; None: vLLM's choice
    blocks: int | None = None  # of the paged cache; None: as many as fit, on a CPU into `kv_gb`

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"engine vllm: dtype is {self.dtype!r}; allowed: {', '.join(DTYPES)}")
        for name, least in (("window", 2), ("kv_gb", 1), ("store_mb", 1), ("together", 1), ("block", 1), ("blocks", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"engine vllm: {name} is {value}; allowed: {least} or more")


@dataclass(eq=False)
class VllmModel:
    """A language model in vLLM; made by `VllmModel.open`, one in a process.

    Attributes:
        folder: what it was opened from.
        llm: vLLM's `LLM`.
        unused: names of entries that no engine needs any more.
    """

    folder: Path
    options: VllmOptions
    llm: Any
    tokenizer: Any
    generation_config: Any = field(init=False)
    unused: list[str] = field(default_factory=list)
    lock: Any = field(default_factory=threading.RLock)
    _numbers: Any = field(default_factory=count)
    _running: dict[str, _Running] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engine = self.llm.llm_engine
        self.config = self.engine.vllm_config.model_config
        ends = self.config.try_get_generation_config().get("eos_token_id", self.hf.eos_token_id)
        self.generation_config = SimpleNamespace(eos_token_id=ends)
        [self.module] = self.llm.apply_model(lambda module: module)
        self.runner = self.engine.model_executor.driver_worker.worker.model_runner
        self.module.register_forward_hook(self._watch)

    @classmethod
    def open(
        cls, name: str | Path, options: VllmOptions | None = None, *, adapter: str | Path | None = None
    ) -> VllmModel:
        """Load a model.

        Args:
            name: a folder of transformers, or a catalog or hub name.
            adapter: a LoRA adapter of PEFT, a folder or a name; the merged model is written into the cache, once.

        Raises:
            ConfigError: vLLM is not installed, or has a model in this process already.
            ModelError: it cannot be loaded.
        """
        from erecap.models import locate
        from erecap.models.loading import load_tokenizer

        options = options or VllmOptions()
        vllm = library()
        folder = locate(str(name))
        if adapter is not None:
            from erecap.engines.vllm.merged import merged_folder

            folder = merged_folder(str(name), str(adapter))
        if _open:
            raise ConfigError(f"engine vllm: it has {_open[0]} in this process, and can have one model in each")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(options.kv_gb))
        from vllm.config import KVTransferConfig

        transfer = KVTransferConfig(
            kv_connector="ErecapConnector", kv_connector_module_path="erecap.engines.vllm.connector",
            kv_role="kv_both", kv_load_failure_policy="fail",
            kv_connector_extra_config={"store_mb": options.store_mb},
        )  # fmt: skip
        try:
            llm = vllm.LLM(
                model=str(folder), dtype=options.dtype, max_model_len=options.window, enforce_eager=True,
                skip_tokenizer_init=True, enable_prefix_caching=True, kv_transfer_config=transfer,
                max_num_seqs=options.together, max_num_batched_tokens=BATCH, disable_log_stats=True,
                async_scheduling=False, num_gpu_blocks_override=options.blocks,
                **({} if options.block is None else {"block_size": options.block}),
            )  # fmt: skip
        except (ValueError, RuntimeError, OSError) as error:
            raise ModelError(f"{folder.name}: vLLM cannot load it: {reason_of(error)}") from error
        _open.append(folder.name)
        return cls(folder, options, llm, load_tokenizer(folder))

    # What is known ----------------------------------------------------------------------------------------

    @property
    def hf(self) -> Any:
        """The configuration of transformers."""
        return self.config.hf_text_config

    @property
    def vocabulary(self) -> int:
        """Token ids are below this."""
        return int(self.config.get_vocab_size())

    @property
    def window(self) -> int:
        """Positions that a prompt can take; vLLM wants one more for an answer."""
        return int(self.config.max_model_len) - 1

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return int(self.hf.num_hidden_layers)

    @property
    def bytes_per_token(self) -> int:
        """Bytes of the keys and values of a token in all layers."""
        return int(self.scheduler.index.row_bytes)

    @property
    def block(self) -> int:
        """Tokens of a block of vLLM's cache."""
        return int(self.engine.vllm_config.cache_config.block_size)

    @property
    def dtype(self) -> str:
        """Precision of weights, keys and values."""
        return str(self.config.dtype).removeprefix("torch.")

    @property
    def shape(self) -> str:
        """The model in short."""
        return f"{self.hf.model_type}-{self.layers}x{self.hf.hidden_size}"

    @cached_property
    def why_fixed(self) -> str | None:
        """Reason why stored keys cannot be rotated to other positions; None: they can."""
        from erecap.engines.vllm.turning import turn_of

        turn = turn_of(self.config.hf_config)
        return turn if isinstance(turn, str) else None

    @property
    def scheduler(self) -> Any:
        """The connector of vLLM's scheduler, which has the list of entries."""
        return self.engine.engine_core.engine_core.scheduler.connector

    @property
    def worker(self) -> Any:
        """The connector of vLLM's worker, which has the keys and values."""
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        return get_kv_transfer_group().worker

    @cached_property
    def digest(self) -> str:
        """Hash of the weights."""
        from erecap.models import fingerprint

        return fingerprint(self.folder)

    def fingerprint(self) -> Mapping[str, str]:
        """Digests of all that stored keys and values depend on."""
        return {"weights": self.digest, "config": f"vllm {library().__version__}", "dtype": self.dtype}

    def holds(self, name: str) -> bool:
        """Say whether the store still has an entry."""
        return self.scheduler.index.get(name) is not None

    # Requests ---------------------------------------------------------------------------------------------

    def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """Make requests, which vLLM runs together.

        Raises:
            RunError: the store has lost what one of them goes on from, or vLLM has failed.
        """
        tickets: list[str] = []
        try:
            for ask in asks:
                tickets.append(self.submit(ask))
            return [self.collect(ticket)[0] for ticket in tickets]
        finally:
            for ticket in tickets:
                self.abandon(ticket)

    def submit(self, ask: Ask, rows: int = 0) -> str:
        """Hand a request to vLLM, which begins it with its next pass.

        Args:
            rows: the last tokens of the prompt whose logits are wanted.

        Returns:
            A ticket, for `collect`, and for `abandon` in any case.

        Raises:
            RunError: vLLM does not take it, such as a prompt that is longer than its window.
        """
        from vllm import SamplingParams, TokensPrompt
        from vllm.exceptions import VLLMError

        with self.lock:
            ticket = f"erecap-{next(self._numbers)}"
            unused = all_of(self.unused)
            asked = ask.asked.dropping(unused)
            self._running[ticket] = _Running(ask, rows, unused)
            try:
                self.engine.add_request(
                    ticket,
                    TokensPrompt(prompt_token_ids=list(ask.ids), cache_salt=ask.salt),
                    SamplingParams(
                        temperature=0, max_tokens=ask.most, detokenize=False, ignore_eos=True,
                        stop_token_ids=list(ask.ends), extra_args={"kv_transfer_params": asked.params()},
                    ),
                )  # fmt: skip
            except BaseException as error:
                self.abandon(ticket)
                if isinstance(error, VLLMError):
                    raise RunError(f"engine vllm: {' '.join(str(error).split())}") from error
                raise
        return ticket

    def collect(self, ticket: str) -> tuple[Answer, np.ndarray | None]:
        """Let vLLM make passes until a request is answered; its answer, and logits `(rows, vocabulary)`.

        Raises:
            RunError: as `ask`.
        """
        running = self._running[ticket]
        while running.output is None:
            with self.lock:
                if running.output is None:
                    self._step()
        with self.lock:
            answer = self._answer(running)
            logits = self._logits(running) if running.rows else None
            del self._running[ticket]
            return answer, logits

    def abandon(self, ticket: str) -> None:
        """Forget a request that was not answered; nothing happens where it was."""
        with self.lock:
            running = self._running.pop(ticket, None)
            if running is None:
                return
            self.unused.extend(running.unused)  # it may not have dropped them; one that is not there is dropped in vain
            if running.output is None:
                self.engine.abort_request([ticket])

    def settle(self) -> None:
        """Let the worker save what requests have read that ended with the last pass."""
        with self.lock:
            self._step()

    def _step(self) -> None:
        """One pass, over all requests that vLLM has."""
        for output in self.engine.step():
            if output.finished and output.request_id in self._running:
                self._running[output.request_id].output = output

    def _answer(self, running: _Running) -> Answer:
        ask, output = running.ask, running.output
        made, told = output.outputs[0], Told.of(output.kv_transfer_params)
        if told is None or made.finish_reason == "error" or told.given < ask.asked.kept:
            own = (why for name, why in self.scheduler.refused if _ticket_of(name) == output.request_id)
            why = next(own, "vLLM has failed the request")
            if ask.asked.source is not None:
                self.scheduler.index.drop(ask.asked.source)  # so that `holds` says it
            raise RunError(f"engine vllm: kept tokens could not be given back: {why}; read them again")
        blocks = -(-(len(ask.ids) + len(made.token_ids)) // self.block)
        return Answer(tuple(made.token_ids), told, output.num_cached_tokens or 0, blocks)

    def _watch(self, module: Any, given: Any, made: Any) -> None:
        """Keep the hidden states of requests whose logits are wanted; called by the model after each pass."""
        from vllm.forward_context import get_forward_context

        metadata = get_forward_context().attn_metadata
        wanted = {ticket for ticket, running in self._running.items() if running.rows}
        if not metadata or not wanted:
            return
        starts = next(iter(metadata.values())).query_start_loc.tolist()
        names = [_ticket_of(name) for name in self.runner.input_batch.req_ids]
        for name, start, end in zip(names, starts, starts[1:], strict=False):
            if name in wanted:
                self._running[name].hidden.append(made[start:end].clone())

    def _logits(self, running: _Running) -> np.ndarray:
        import torch

        hidden = torch.cat(running.hidden)
        if len(hidden) < running.rows:
            raise RunError(f"engine vllm: it has read {len(hidden)} tokens where {running.rows} were new")
        with torch.inference_mode():
            rows: np.ndarray = self.module.compute_logits(hidden[-running.rows :]).float().cpu().numpy()
        return rows


def _ticket_of(name: str) -> str:
    """The ticket in vLLM's own name of a request, which has one more part."""
    return name.rsplit("-", 1)[0]


@dataclass
class _Running:
    """A request that vLLM has, and its output when it has ended."""

    ask: Ask
    rows: int
    unused: tuple[str, ...]  # that it drops when it is answered
    output: Any = None
    hidden: list[Any] = field(default_factory=list)


_open: list[str] = []  # the model of this process
