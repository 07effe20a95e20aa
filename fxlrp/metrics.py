"""What `fxlrp serve` counts, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
SAMPLES = tuple(2**i for i in range(11))
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


class Metrics:
    """Counts of one service, in a registry of its own, with memory and processor time of the process."""

    def __init__(self, in_flight: Callable[[], float]) -> None:
        """Begin at zero.

        Args:
            in_flight: Says how many requests are read, wait or run.
        """
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter("fxlrp_requests", "Answers.", ["path", "status"], registry=self.registry)
        self.seconds = self.histogram("fxlrp_request_seconds", "From headers to answer.", SECONDS, "path")
        self.samples = self.histogram("fxlrp_batch_samples", "Samples in one call of the artefact.", SAMPLES)
        self.calls = self.histogram("fxlrp_call_seconds", "Time of one call of the artefact.", SECONDS)
        gauge = Gauge("fxlrp_in_flight", "Requests that are read, wait or run.", registry=self.registry)
        gauge.set_function(in_flight)

    def histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        """An empty one."""
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def called(self, samples: int, seconds: float) -> None:
        """Count a call of the artefact."""
        self.samples.observe(samples)
        self.calls.observe(seconds)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
