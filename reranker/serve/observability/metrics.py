"""What Prometheus reads at /metrics."""

from collections.abc import Callable, Iterator

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.registry import Collector

from reranker.drift import WindowDrift
from reranker.fusion.guard import GuardDecision
from reranker.soft_tokens import AdaptReport

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_OF_DRIFT = ["domain", "quantity"]
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class _OfVLLM(Collector):
    """vLLM's own counters, which it keeps in the process's registry where `disable_log_stats` is off."""

    def collect(self) -> Iterator[Metric]:
        return (one for one in REGISTRY.collect() if one.name.startswith("vllm:"))


class Metrics:
    """The counters of one app, in a registry of their own, and vLLM's.

    Args:
        waiting: how many requests stand in the queue.
        adapting: how many users wait to be adapted.
        ranking: how many rankings wait or are in work.
        writing: how many texts wait or are being written.
        storing: how many calls of user stores wait or are in work.
    """

    def __init__(
        self,
        waiting: Callable[[], int],
        adapting: Callable[[], int],
        ranking: Callable[[], int],
        writing: Callable[[], int],
        storing: Callable[[], int],
    ) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter("reranker_requests", "Requests answered", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "reranker_request_seconds", "Time to answer", ["route"], buckets=_SECONDS, registry=registry
        )
        self.documents = Counter("reranker_documents", "Documents ranked", registry=registry)
        self.served = Counter("reranker_served", "Lists answered, by order", ["order"], registry=registry)
        self.batch = Histogram("reranker_batch_size", "Requests read together", buckets=_SIZES, registry=registry)
        self.engine_seconds = Histogram(
            "reranker_batch_seconds", "Time a batch took", buckets=_SECONDS, registry=registry
        )
        self.generated = Counter("reranker_generated_tokens", "Tokens written", registry=registry)
        self.logged = Counter("reranker_score_log_rows", "Rows of the score log", ["outcome"], registry=registry)
        self.reloads = Counter("reranker_reloads", "Bundles reloaded", ["domain", "outcome"], registry=registry)
        self.adaptations = Counter("reranker_adaptations", "Contexts adapted to users", registry=registry)
        self.drifted = Counter("reranker_drifted", "Of those, users who had drifted", registry=registry)
        self.adapt_seconds = Histogram(
            "reranker_adapt_seconds", "Time a batch of adaptations took", buckets=_SECONDS, registry=registry
        )
        self.drift_psi = Gauge(
            "reranker_drift_psi", "Population stability index of the last window of lists", _OF_DRIFT, registry=registry
        )
        self.drift_alarm = Gauge(
            "reranker_drift_alarm", "1 where the last window of lists is an alarm", _OF_DRIFT, registry=registry
        )
        self.drift_windows = Counter("reranker_drift_windows", "Windows compared", ["domain"], registry=registry)
        self.guard_margin = Gauge(
            "reranker_guard_margin",
            "NDCG@10 over the first-stage order on validation lists of the bundle: of the order that is served",
            ["domain", "bound"],
            registry=registry,
        )
        for name, what, count in (
            ("reranker_adapt_queue", "Users who wait to be adapted", adapting),
            ("reranker_queue", "Requests that wait for the engine", waiting),
            ("reranker_rankings", "Rankings that wait or are in work", ranking),
            ("reranker_texts", "Texts that wait or are being written", writing),
            ("reranker_store_calls", "Calls of user stores that wait or are in work", storing),
        ):
            Gauge(name, what, registry=registry).set_function(count)
        registry.register(_OfVLLM())

    def request_done(self, route: str, status: int, seconds: float) -> None:
        self.requests.labels(route, status).inc()
        self.seconds.labels(route).observe(seconds)

    def batch_done(self, size: int, seconds: float) -> None:
        self.batch.observe(size)
        self.engine_seconds.observe(seconds)

    def adapted(self, report: AdaptReport) -> None:
        self.adaptations.inc(report.users)
        self.drifted.inc(report.drifted)
        self.adapt_seconds.observe(report.seconds)

    def drift_done(self, domain: str, window: WindowDrift) -> None:
        self.drift_windows.labels(domain).inc()
        for one in window.shifts:
            self.drift_psi.labels(domain, one.quantity).set(one.psi)
            self.drift_alarm.labels(domain, one.quantity).set(one.alarm)

    def guard_decided(self, domain: str, guard: GuardDecision) -> None:
        margin = guard.margin
        for bound, value in (("mean", margin.mean), ("low", margin.low), ("high", margin.high)):
            self.guard_margin.labels(domain, bound).set(value)

    def text(self) -> bytes:
        return generate_latest(self.registry)
