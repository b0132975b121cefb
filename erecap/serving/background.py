"""A server in threads of this process, on a free port of this machine: for measurements and tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from erecap.errors import RunError

_END_S = 30  # how long a server may take to finish what is running


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Serve an ASGI application within; its URL, such as http://127.0.0.1:41234.

    Raises:
        RunError: the server does not start, or does not end.
    """
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on", http="h11"))
    thread = threading.Thread(target=server.run, name="erecap-server", daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RunError("the server did not start; its log says why")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(_END_S)
    if thread.is_alive():
        raise RunError(f"the server did not end within {_END_S} s")
