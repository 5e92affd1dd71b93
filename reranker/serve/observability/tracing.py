"""OpenTelemetry spans: one a request, with children for the queue and for the engine's batch.

Attributes hold no text, no user and no item: the route is the template, `/v1/users/{user}`. That is why
opentelemetry-instrumentation-fastapi is not used: it records paths and queries as they came.
"""

import os
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reranker.errors import ConfigError
from reranker.serve.batcher import Done

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_PROBES = frozenset({"/health", "/ready", "/metrics"})


class Tracing:
    """Makes the spans of one app.

    Args:
        provider: where spans go; `close` shuts it down.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """

    def __init__(self, provider: "TracerProvider") -> None:
        try:
            from opentelemetry import propagate, trace
        except ImportError as error:
            raise _missing(error) from error
        self._trace = trace
        self._propagate = propagate
        self._provider = provider
        self._tracer = provider.get_tracer("reranker.serve")

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """The app with a span around each request but probes; a caller's `traceparent` is its parent."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] in _PROBES:
                await app(scope, receive, send)
                return
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            status = 500

            async def watched(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            with self._tracer.start_as_current_span(
                scope["method"],
                context=self._propagate.extract(headers),
                kind=self._trace.SpanKind.SERVER,
                record_exception=False,  # its message may quote what the caller sent
                set_status_on_exception=False,
            ) as span:
                try:
                    await app(scope, receive, watched)
                finally:
                    route = getattr(scope.get("route"), "path_format", "unknown")
                    log = scope.get("state", {}).get("log", {})
                    span.update_name(f"{scope['method']} {route}")
                    span.set_attributes(
                        {
                            "http.request.method": scope["method"],
                            "http.route": route,
                            "http.response.status_code": status,
                            "reranker.request_id": scope.get("state", {}).get("request_id", ""),
                            **{f"reranker.{name}": log[name] for name in ("documents", "served") if name in log},
                        }
                    )
                    if status >= 500:
                        span.set_status(self._trace.StatusCode.ERROR)

        return traced

    def ranked(self, submitted: int, done: Done[Any]) -> None:
        """Children of the current request's span: the wait and the batch.

        Args:
            submitted: when the job went into the queue, nanoseconds since 1970.
            done: what came of it.
        """
        taken = submitted + round(done.waited * 1e9)
        ended = taken + round(done.worked * 1e9)
        self._tracer.start_span("reranker.queue", start_time=submitted).end(taken)
        batch = self._tracer.start_span(
            "reranker.batch", start_time=taken, attributes={"reranker.batch_size": done.batch}
        )
        batch.end(ended)

    def close(self) -> None:
        """Sends what waits."""
        self._provider.shutdown()


def otlp_tracing() -> Tracing:
    """Spans sent over OTLP/HTTP, set up by the standard OTEL_ variables.

    Raises:
        ConfigError: OpenTelemetry is not installed, or a variable has an impossible value.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise _missing(error) from error
    try:
        resource = Resource.create()
        if "service.name" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "") and not os.environ.get(
            "OTEL_SERVICE_NAME"
        ):
            resource = resource.merge(Resource({"service.name": "reranker"}))
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except ValueError as error:
        raise ConfigError(f"OpenTelemetry refuses its settings ({error}): look at the OTEL_ variables") from error
    return Tracing(provider)


def _missing(error: ImportError) -> ConfigError:
    return ConfigError(f"tracing needs more packages ({error}): pip install 'reranker[otel]'")
