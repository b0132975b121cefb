"""Counters of a server, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from erecap.generation import Generation
from erecap.serving.engine import Engine
from erecap.serving.keys import EVERYBODY

_GAUGES = {
    "sessions": "Conversations that are remembered.",
    "kv_bytes": "Bytes of their keys and values.",
    "running": "Requests that the model is answering.",
    "waiting": "Requests that wait for it.",
    "sessions_evicted": "Conversations that had to go for others.",
}
_OF_ALL = ("running", "waiting")  # of all tenants together
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """Counters of one tenant of a server, in a registry of their own.

    Args:
        engine: whose sessions and queue are shown; None: a proxy, which has none.
        tenant: whose; of several, none sees how busy the others keep the model.
    """

    def __init__(self, engine: Engine | None, tenant: str = EVERYBODY) -> None:
        self._registry = CollectorRegistry()
        self._engine, self._tenant = engine, tenant
        registry = self._registry
        self._requests = Counter("erecap_requests", "Requests answered.", ["path", "status"], registry=registry)
        self._tokens = Counter("erecap_tokens", "Tokens by kind.", ["kind"], registry=registry)
        self._unnoted = Counter("erecap_unnoted", "Calls that the log could not take.", registry=registry)
        self._seconds = Histogram(
            "erecap_seconds", "Seconds of a planning call by phase.", ["phase"], buckets=_SECONDS, registry=registry
        )
        self._gauges = {
            name: Gauge(f"erecap_{name}", about, registry=registry)
            for name, about in _GAUGES.items()
            if tenant == EVERYBODY or name not in _OF_ALL
        }

    def ended(self, path: str, status: int) -> None:
        """Count a request."""
        self._requests.labels(path, str(status)).inc()

    def answered(self, generation: Generation, waited: float) -> None:
        """Count a call of the model."""
        usage, timing = generation.usage, generation.timing
        self.counted(usage.prompt_tokens, usage.reused_tokens, usage.completion_tokens)
        self._seconds.labels("wait").observe(waited)
        for phase in ("prefill", "decode", "total"):
            self._seconds.labels(phase).observe(getattr(timing, f"{phase}_ms") / 1e3)

    def counted(self, prompt: int, cached: int, completion: int) -> None:
        """Count the tokens of a call."""
        self._tokens.labels("prompt").inc(prompt)
        self._tokens.labels("cached").inc(cached)
        self._tokens.labels("completion").inc(completion)

    def unnoted(self) -> None:
        """Count a call that could not be written to the log."""
        self._unnoted.inc()

    def page(self) -> bytes:
        """The text of `/metrics`."""
        if self._engine is not None:
            store = self._engine.stores[self._tenant]
            values = {
                "sessions": len(store),
                "kv_bytes": store.kv_bytes(),
                "running": self._engine.running,
                "waiting": self._engine.waiting,
                "sessions_evicted": store.evicted,
            }
            for name, gauge in self._gauges.items():
                gauge.set(values[name])
        return generate_latest(self._registry)
