"""A vLLM server of its own with the connector: conversations over HTTP, and what happens when it is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from erecap.engines import ENGINES
from erecap.engines.protocol import EngineSettings
from erecap.engines.vllm.server import VllmServer
from erecap.errors import RunError
from tests.context.small_tokenizers import byte_level
from tests.engines.vllm_models import NEEDS_VLLM, plain_llama

pytestmark = [NEEDS_VLLM, pytest.mark.slow]
TRANSFER = {
    "kv_connector": "ErecapConnector", "kv_connector_module_path": "erecap.engines.vllm.connector",
    "kv_role": "kv_both", "kv_load_failure_policy": "fail", "kv_connector_extra_config": {"store_mb": 64},
}  # fmt: skip


class Served:
    """The process of a server, and its address."""

    def __init__(self, folder: Path, log: Path, port: int) -> None:
        env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
               "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}  # fmt: skip
        command = [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(port),
            "--served-model-name", "tiny", "--kv-transfer-config", json.dumps(TRANSFER), "--dtype", "float32",
            "--enforce-eager", "--block-size", "32", "--max-num-seqs", "8",
        ]  # fmt: skip
        self.port = port
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, env=env, stdout=file, stderr=file, start_new_session=True)
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert self.process.poll() is None, log.read_text()[-3000:]
                time.sleep(0.25)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    plain_llama().save_pretrained(tmp_path / "model")
    byte_level().save_pretrained(tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Served(tmp_path / "model", tmp_path / "log", port)
    yield made
    made.kill()


def test_conversations_of_a_server_are_kept_evicted_and_lost_with_it(server: Served) -> None:
    address = VllmServer(f"http://127.0.0.1:{server.port}/v1", "tiny", block=32)
    mine = address.conversation()
    other = ENGINES["transformers"](plain_llama(), EngineSettings())

    def wanted(ids: list[int], most: int) -> tuple[int, ...]:
        """What the engine on transformers answers; it has then read the same."""
        found, row = [], None
        with other.attached(), torch.no_grad():
            row = other.verify(ids)[-1]
            for number in range(most):
                found.append(int(row.argmax()))
                if number < most - 1:
                    row = other.verify([found[-1]])[-1]
        return tuple(found)

    ids = [(7 * n) % 90 + 3 for n in range(150)]
    last = mine.answer(ids, 5)
    assert last == wanted(ids, 5)
    for turn in range(6):
        gone = mine.indices[10 + turn : 25 + turn]
        assert mine.evict([gone]) == 15 and other.evict([gone for _ in other.stored().groups]) == 15
        if turn == 3:
            mine.reposition(), other.reposition()
        ids = [last[-1], *range(turn, turn + 8)]
        last = mine.answer(ids, 4)
        assert last == wanted(ids, 4), turn
        assert (mine.tokens, mine.next_position) == (other.tokens, other.next_position)
        assert np.array_equal(mine.indices, other.stored().indices)

    stale = address.conversation()
    stale.answer([1, 2, 3], 2)
    forged = stale.ask([4])
    with pytest.raises(RunError, match="status 500"):
        address.ask([type(forged)([9, *forged.ids[1:]], forged.asked, forged.salt)])  # ids that are not the kept ones
    with pytest.raises(RunError, match="has lost the tokens before"):
        stale.answer([4], 1)
    assert mine.answer([5], 1) == wanted([5], 1), "others go on"
    server.kill()
    with pytest.raises(RunError, match="no answer of a vLLM"):
        mine.answer([6], 1)
    assert mine.tokens == other.tokens, "as before"
