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
SAMPLE_BUCKETS = tuple(2**i for i in range(11))
SECOND_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


class Metrics:
    """Counts of one service, in a registry of its own, with memory and processor time of the process."""

    def __init__(self, in_flight: Callable[[], float], arriving: Callable[[], float]) -> None:
        """Begin at zero.

        Args:
            in_flight: Says how many requests wait or run.
            arriving: Says how many bodies are not there yet.
        """
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter("fxlrp_requests", "Answers.", ["path", "model", "status"], registry=self.registry)
        self.seconds = self.histogram(
            "fxlrp_request_seconds", "From headers to answer.", SECOND_BUCKETS, "path", "model"
        )
        self.samples = self.histogram(
            "fxlrp_batch_samples", "Samples in one call of an artefact.", SAMPLE_BUCKETS, "model"
        )
        self.calls = self.histogram("fxlrp_call_seconds", "Time of one call of an artefact.", SECOND_BUCKETS, "model")
        for name, text, count in (
            ("fxlrp_in_flight", "Requests that wait or run.", in_flight),
            ("fxlrp_arriving", "Requests whose body is not there yet.", arriving),
        ):
            Gauge(name, text, registry=self.registry).set_function(count)

    def histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        """Make an empty histogram."""
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    def count_answer(self, path: str, model: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self.requests.labels(path, model, str(status)).inc()
        self.seconds.labels(path, model).observe(seconds)

    def count_call(self, model: str, samples: int, seconds: float) -> None:
        """Count a call of an artefact."""
        self.samples.labels(model).observe(samples)
        self.calls.labels(model).observe(seconds)

    def write(self) -> bytes:
        """Write all counts, as Prometheus reads them."""
        return generate_latest(self.registry)
