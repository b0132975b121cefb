"""vLLM's KV connector that keeps the keys and values of sessions, and gives kept tokens back at other positions.

vLLM makes one object in its scheduler and one in each worker. The scheduler's decides: it holds the list of entries and
tells the workers in each step what to save, load and drop. A worker holds the numbers of its own layers and heads.

A request that may not have the rows that it asks for is failed by vLLM: rows are promised, and the worker reports that
they could not be loaded. So it ends with an error, and never with an answer to other keys and values.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import vllm
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.v1.request import RequestStatus

from erecap.engines.vllm.index import StoreIndex, refusal
from erecap.engines.vllm.limits import STORE_MB, TESTED, layers_problem, version_problem
from erecap.engines.vllm.turning import turn_of
from erecap.engines.vllm.wire import Asked, Told, WireError
from erecap.engines.vllm.worker import StoreWorker

_log = logging.getLogger(__name__)
ENDED = (RequestStatus.FINISHED_STOPPED, RequestStatus.FINISHED_LENGTH_CAPPED)


@dataclass
class Load:
    """Rows to write into a request's blocks; `name` None: they are refused."""

    name: str | None
    rows: np.ndarray
    places: np.ndarray
    start: int  # the place of the first of them
    blocks: list[int]


@dataclass
class Save:
    """A request's tokens to keep: `rows` of the entry `source`, and what it has read behind them."""

    request: str
    name: str
    source: str | None
    rows: np.ndarray
    end: int
    ids: np.ndarray
    blocks: list[int]


@dataclass
class Step(KVConnectorMetadata):
    """The orders of one step."""

    saves: list[Save] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    drops: list[str] = field(default_factory=list)


class ErecapConnector(KVConnectorBase_V1, SupportsHMA):
    """The connector: `KVTransferConfig(kv_connector="ErecapConnector", kv_connector_module_path=MODULE)`.

    Of `kv_connector_extra_config` it reads `store_mb`, MiB of keys and values that each worker may hold, and
    `store_device`, `cpu` or `same` as vLLM's own.

    Raises:
        ValueError: another version of vLLM, or a model whose layers it cannot serve.
    """

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        problem = version_problem(vllm.__version__) or layers_problem(vllm_config, kv_cache_config)
        if problem is not None:
            raise ValueError(f"erecap's connector: {problem}")
        extra = vllm_config.kv_transfer_config.kv_connector_extra_config
        [group] = kv_cache_config.kv_cache_groups
        turn = turn_of(vllm_config.model_config.hf_config)
        self._fixed = turn if isinstance(turn, str) else None
        self._asked: dict[str, Asked | None] = {}  # by request, while it lives; None: refused
        self._why: dict[str, str] = {}
        self._at: dict[str, int] = {}  # of refused ones, the tokens that vLLM had
        self._pinned: dict[str, str] = {}
        self._step = Step()
        self.refused: deque[tuple[str, str]] = deque(maxlen=64)  # the newest refusals: request and reason
        if role == KVConnectorRole.SCHEDULER:
            spec = group.kv_cache_spec
            row_bytes = len(group.layer_names) * spec.page_size_bytes // spec.block_size
            self.index = StoreIndex(int(float(extra.get("store_mb", STORE_MB)) * (1 << 20)), row_bytes)
        else:
            self.worker = StoreWorker(
                vllm_config, kv_cache_config, turn, same_device=extra.get("store_device", "cpu") == "same"
            )

    @property
    def requires_kv_delivery(self) -> bool:
        """False: what a store loses is read again."""
        return False

    # In the scheduler -------------------------------------------------------------------------------------

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """Kept tokens that the store has and vLLM has not; asked whenever the request may be scheduled."""
        number, ids = request.request_id, np.asarray(request.prompt_token_ids, np.int64)
        try:
            asked = Asked.of(request.kv_transfer_params)
            if asked is None:
                return 0, False
            why = refusal(asked, self.index.get(asked.source), ids, request.cache_salt, self._fixed)
        except WireError as error:
            asked, why = None, str(error)
        if why is not None:
            # Promised, so that vLLM fails the request when they do not come. Its answer has no room for the reason.
            self.refused.append((number, why))
            _log.warning("request %s is refused: %s", number, why)
            self._asked[number], self._why[number], self._at[number] = None, why, num_computed_tokens
            return max(0, min(1, len(ids) - 1 - num_computed_tokens)), False
        assert asked is not None, "what is asked is refused or known"
        self._asked[number] = asked
        self._why.pop(number, None)
        return max(0, asked.kept - num_computed_tokens), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Note what a request that is now scheduled loads, and hold the entry that it goes on from."""
        number = request.request_id
        if number not in self._asked:
            return
        asked, [owned] = self._asked[number], blocks.get_block_ids()
        if asked is None:
            if num_external_tokens:
                none = np.empty(0, np.int64)
                self._step.loads.append(Load(None, none, none, self._at[number], list(owned)))
            return
        if asked.source is not None and number not in self._pinned:
            self.index.pin(asked.source)
            self._pinned[number] = asked.source
        if num_external_tokens:
            start = asked.kept - num_external_tokens
            rows, places = asked.rows(), asked.places()
            self._step.loads.append(Load(asked.source, rows[start:], places[start:], start, list(owned)))

    def build_connector_meta(self, scheduler_output: Any) -> Step:
        """The orders of this step."""
        step, self._step = self._step, Step()
        step.drops, self.index.dropped = self.index.dropped, []
        return step

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Make an entry of what the request has read; its blocks stay until the workers have saved them."""
        number = request.request_id
        if number not in self._asked:
            return False, None
        asked, why = self._asked.pop(number), self._why.pop(number, None)
        self._at.pop(number, None)
        source = self._pinned.pop(number, None)
        if source is not None:
            self.index.unpin(source)
        if asked is None:
            return False, Told(refused=why).params()
        end = min(request.num_tokens - 1, request.num_computed_tokens)
        if request.status not in ENDED or not asked.store or end < max(asked.kept, 1):
            return False, Told(given=asked.kept).params()
        ids = np.asarray(request.all_token_ids[:end], np.int64)
        places = np.concatenate([asked.places(), np.arange(asked.kept, end)])
        # Workers take the kept rows out of the source before they drop it, within one step.
        name = self.index.add(ids, places, request.cache_salt, instead=asked.drop)
        if name is None:
            told = Told(None, 0, asked.kept, self.index.why_full(len(ids)))
            return False, told.params()
        self._step.saves.append(Save(number, name, source, asked.rows(), end, ids, list(block_ids[0])))
        return True, Told(name, end, asked.kept).params()

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """The same, as versions of vLLM ask that know one group of layers."""
        return self.request_finished_all_groups(request, (block_ids,))

    def reset_cache(self) -> bool:
        """Forget all entries, as when the weights have changed; requests that run keep theirs."""
        for name in list(self.index.names()):
            self.index.drop(name)
        return True

    # In a worker ------------------------------------------------------------------------------------------

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Carry out the step's orders, before vLLM's forward pass where there is something to load."""
        step = self._get_connector_metadata()
        assert isinstance(step, Step), "made by `build_connector_meta`"
        with torch.inference_mode():
            for save in step.saves:
                self.worker.save(save)
            for load in step.loads:
                self.worker.load(load)
            for name in step.drops:
                self.worker.drop(name)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing: all layers are loaded before the pass."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """Nothing: tokens are saved when their request has ended."""

    def wait_for_save(self) -> None:
        """Nothing: saving is done when it returns."""

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """Requests whose blocks were saved in this step."""
        return self.worker.take_saved() or None, None

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks of requests that were refused."""
        return self.worker.take_failed()


MODULE = __name__
__all__ = ["MODULE", "TESTED", "ErecapConnector"]
