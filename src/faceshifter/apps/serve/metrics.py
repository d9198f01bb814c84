"""Counters of one server in Prometheus' form."""

from functools import partial
from typing import TYPE_CHECKING

import prometheus_client as prometheus

if TYPE_CHECKING:
    from starlette.types import Scope

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")


class Metrics:
    """Counters of requests, swaps, jobs and queues."""

    def __init__(self) -> None:
        """Start at zero."""
        self.registry = registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=registry)
        counter = partial(prometheus.Counter, registry=registry)
        histogram = partial(prometheus.Histogram, registry=registry, buckets=SECONDS)
        self.requests = counter(
            "faceshifter_requests", "Requests that were answered", ("method", "route", "status")
        )
        self.request_seconds = histogram(
            "faceshifter_request_seconds",
            "From a request's head to the end of its answer",
            ("route",),
        )
        self.swap_seconds = histogram(
            "faceshifter_swap_seconds", "Reading, swapping and writing one photo"
        )
        self.jobs = counter("faceshifter_jobs", "Videos that have ended", ("state",))
        self.queue = prometheus.Gauge(
            "faceshifter_queue_depth", "Swaps that wait or run", ("kind",), registry=registry
        )

    def count_request(self, scope: "Scope", status: int, seconds: float) -> None:
        """Count an answer; what clients invent is one label, or they could fill the memory."""
        path = getattr(scope.get("route"), "path", None)
        if path is None:  # refused before the application has looked for a route
            path = scope["path"] if scope["path"] in ("/swap", "/jobs") else "other"
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.requests.labels(method, path, str(status)).inc()
        self.request_seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return prometheus.generate_latest(self.registry)
