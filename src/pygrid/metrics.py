"""What a server counts and times, in a registry of its own, so that two apps in one process do not mix."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)


class Metrics:
    """The registry and the families every app has; a feature adds its own families to ``registry``."""

    CONTENT_TYPE = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "pygrid_http_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "pygrid_http_request_seconds",
            "Time from the first byte of a request to the last byte of its answer; a long poll counts its wait.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.open_requests = Gauge("pygrid_http_open_requests", "Requests being answered now.", registry=self.registry)
        self.task_failures = Counter(
            "pygrid_task_failures",
            "Times that a background task failed and was started again.",
            ("task",),
            registry=self.registry,
        )

        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request. ``route`` is the template (``/users/{user_id}``), never the path itself."""
        key = (method, route, status)
        found = self._children.get(key)
        if found is None:
            # Looking a child up by its labels costs more than counting; routes and methods are few.
            found = self.requests.labels(method, route, str(status)), self.seconds.labels(method, route)
            self._children[key] = found
        count, histogram = found
        count.inc()
        histogram.observe(seconds)

    def render(self) -> bytes:
        """All families in Prometheus's text format."""
        return generate_latest(self.registry)
