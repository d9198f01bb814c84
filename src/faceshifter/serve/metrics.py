"""Counters and times in Prometheus's format."""

from collections.abc import Callable

from faceshifter.errors import DependencyError

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")


class Metrics:
    """Those of one server."""

    def __init__(self) -> None:
        """Start at zero.

        Raises:
            DependencyError: prometheus-client is not installed.
        """
        try:
            import prometheus_client as prometheus
        except ImportError:
            raise DependencyError(
                "a server needs prometheus-client; run pip install 'faceshifter[serve]'"
            ) from None
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        self.requests = prometheus.Counter(
            "faceshifter_requests",
            "Requests that were answered",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.request_seconds = prometheus.Histogram(
            "faceshifter_request_seconds",
            "From a request's head to the end of its answer",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.swap_seconds = prometheus.Histogram(
            "faceshifter_swap_seconds",
            "Reading, swapping and writing one photo",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.jobs = prometheus.Counter(
            "faceshifter_jobs", "Videos that have ended", ("state",), registry=self.registry
        )
        self.queue = prometheus.Gauge(
            "faceshifter_queue_depth",
            "Swaps that wait or run",
            ("kind",),
            registry=self.registry,
        )

    def watch_queue(self, kind: str, depth: Callable[[], int]) -> None:
        """Ask for a queue's depth whenever the metrics are read."""
        self.queue.labels(kind).set_function(depth)

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answer; what clients make up is one label, or they could fill the memory."""
        method = method if method in METHODS else "other"
        self.requests.labels(method, route, str(status)).inc()
        self.request_seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of them."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)
