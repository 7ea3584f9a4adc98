"""The metrics of an app. Each app has its own registry, so two apps in one process stay separate."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)


class Metrics:
    """The registry, and the metric families of every app. A feature adds its own families to ``registry``."""

    CONTENT_TYPE = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "pygrid_http_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "pygrid_http_request_seconds",
            "Time from the first byte of a request to the last byte of its answer, including the wait of a long poll.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.open_requests = Gauge("pygrid_http_open_requests", "Requests being answered now.", registry=self.registry)
        self.task_failures = Counter(
            "pygrid_task_failures",
            "Number of times a background task failed and was restarted.",
            ("task",),
            registry=self.registry,
        )

        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request. ``route`` is the template, such as ``/users/{user_id}``, not the path."""
        key = (method, route, status)
        found = self._children.get(key)
        if found is None:
            # A lookup by labels costs more than the count itself. Routes and methods are few, so the results are kept.
            found = self.requests.labels(method, route, str(status)), self.seconds.labels(method, route)
            self._children[key] = found
        count, histogram = found
        count.inc()
        histogram.observe(seconds)

    def render(self) -> bytes:
        """All families in Prometheus's text format."""
        return generate_latest(self.registry)
