"""Spans of requests, read from OpenTelemetry's own in-memory exporter."""

import subprocess
import sys

import httpx
import pytest

from reranker.engines.scripted import ScriptedEngine
from reranker.errors import EngineError
from reranker.serve.app import create_app
from reranker.serve.observability.tracing import Tracing, otlp_tracing
from reranker.stores import SqliteUserStore
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Breakable(ScriptedEngine):
    broken = False

    def span_log_likelihoods(self, requests):
        if self.broken:
            raise EngineError("cannot read secret")
        return super().span_log_likelihoods(requests)


@pytest.fixture
def spans():
    return InMemorySpanExporter()


@pytest.fixture
def server(spans, tmp_path):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    app = create_app(toys.fitted(), store=SqliteUserStore(tmp_path / "u.db"), tracing=Tracing(provider))
    with serving(app) as url:
        wait_until_ready(url)
        yield url


def test_a_request_has_children_for_the_queue_and_the_batch(server, spans):
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "x-request-id": "mine"}
    httpx.post(f"{server}/v1/rerank", json={"query": "q", "documents": ["zorblax", "mipfen"]}, headers=headers)
    found = {span.name: span for span in spans.get_finished_spans()}
    assert found.keys() == {"POST /v1/rerank", "reranker.queue", "reranker.batch"}
    request, queue, batch = (found[name] for name in ("POST /v1/rerank", "reranker.queue", "reranker.batch"))
    assert f"{request.context.trace_id:032x}" == TRACE and f"{request.parent.span_id:016x}" == "b7ad6b7169203331"
    assert queue.parent.span_id == batch.parent.span_id == request.context.span_id
    assert queue.end_time == batch.start_time and batch.end_time > batch.start_time
    assert dict(batch.attributes) == {"reranker.batch_size": 1}
    assert dict(request.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/rerank",
        "http.response.status_code": 200,
        "reranker.request_id": "mine",
        "reranker.documents": 2,
        "reranker.served": "llm",
    }


def test_no_words_of_the_user_and_no_ids_are_in_a_span(server, spans):
    httpx.post(f"{server}/v1/rerank?secret=1", json={"query": "secret", "documents": ["secret"], "user": "secret"})
    httpx.post(f"{server}/v1/rerank", json={"documents": ["x"], "model": "secret"})
    httpx.get(f"{server}/v1/users/secret")
    httpx.get(f"{server}/secret")
    found = spans.get_finished_spans()
    assert [span.name for span in found if span.kind.name == "SERVER"] == [
        "POST /v1/rerank",
        "POST /v1/rerank",
        "GET /v1/users/{user}",
        "GET unknown",
    ]
    assert "secret" not in "".join(span.to_json() for span in found)


def test_a_failure_is_an_error_without_its_message(spans):
    engine = Breakable()
    reranker = toys.fitted(engine)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    with serving(create_app(reranker, tracing=Tracing(provider))) as url:
        wait_until_ready(url)
        engine.broken = True
        assert httpx.post(f"{url}/v1/rerank", json={"documents": ["x"]}).status_code == 500
    (request,) = spans.get_finished_spans()
    assert request.status.status_code.name == "ERROR"
    assert not request.events and "secret" not in request.to_json()


def test_probes_are_not_traced(server, spans):
    for path in ("/health", "/ready", "/metrics"):
        httpx.get(f"{server}{path}")
    assert spans.get_finished_spans() == ()


def test_standard_variables_name_the_service(monkeypatch):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    for variable, name in ((None, "reranker"), ("shop", "shop")):
        if variable:
            monkeypatch.setenv("OTEL_SERVICE_NAME", variable)
        tracing = otlp_tracing()
        assert tracing._provider.resource.attributes["service.name"] == name
        tracing.close()


def test_missing_packages_are_named():
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from reranker.errors import ConfigError\n"
        "from reranker.serve.observability.tracing import otlp_tracing\n"
        "try: otlp_tracing()\n"
        "except ConfigError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'reranker[otel]'" in done.stdout
