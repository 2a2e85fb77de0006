"""OpenTelemetry spans, if wanted; none of it is imported unless it is installed.

A program that uses our clients has its own span provider, and our spans join its traces. A process
of pixtide sends spans if `OTEL_TRACES_EXPORTER=otlp` is set, to OTEL_EXPORTER_OTLP_ENDPOINT and as
OpenTelemetry's other variables say. Without either, a trace is passed on unchanged.
"""

import functools
import os
from collections.abc import Mapping
from typing import Any, Literal

from pixtide.schemas.errors import UsageError
from pixtide.schemas.trace import Trace, trace_of

Kind = Literal["producer", "consumer", "client"]
_EXPORTER = "OTEL_TRACES_EXPORTER"


class Span:
    """A piece of work with a start and an end; `trace` is for messages sent during it."""

    def __init__(self, trace: Trace | None, span: Any = None) -> None:
        self.trace = trace
        self._span = span

    @property
    def counts(self) -> bool:
        """Whether anybody records it."""
        return self._span is not None

    def headers(self) -> list[tuple[str, bytes]]:
        """The header that puts a record into the trace; none if there is no trace."""
        return [self.trace.header()] if self.trace else []

    def end(self, error: str | None = None, **attributes: str | int | float) -> None:
        """End the span with its result. Only the first call counts."""
        if self._span is None:
            return
        from opentelemetry.trace import Status, StatusCode

        span, self._span = self._span, None
        for name, value in attributes.items():
            span.set_attribute(f"pixtide.{name}", value)
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end()


#: The span of work that nobody traces.
NO_SPAN = Span(None)


def begin(name: str, kind: Kind, parent: Trace | None, attributes: Mapping[str, Any]) -> Span:
    """Start a span in the trace that a record has brought, if any.

    Spans of a producer and a client start in the program's own current span, if any.
    """
    tracer = _tracer()
    if tracer is None:
        return Span(parent)
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation import tracecontext

    w3c = tracecontext.TraceContextTextMapPropagator()
    context = None if parent is None and kind != "consumer" else Context()
    if parent is not None:
        context = w3c.extract({"traceparent": parent.traceparent}, context)
    span = tracer.start_span(name, context, SpanKind[kind.upper()], attributes)
    own = span.get_span_context()
    if not own.is_valid or (parent is not None and own.span_id == int(parent.span_id, 16)):
        return Span(parent)  # nobody wants spans
    traceparent = f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"
    return Span(trace_of([("traceparent", traceparent.encode())]), span)


def _tracer() -> Any:
    """The tracer; None if nobody wants spans, since even a dropped span costs time."""
    api = _api()
    if api is None or isinstance(provider := api.get_tracer_provider(), api.ProxyTracerProvider):
        return None
    return _tracer_of(provider)


@functools.cache
def _api() -> Any:
    try:
        from opentelemetry import trace
    except ImportError:  # or only part of it is installed
        return None
    return trace


@functools.cache
def _tracer_of(provider: Any) -> Any:
    return provider.get_tracer("pixtide")


def send_spans(command: str) -> None:
    """Send this process's spans until it ends, if its environment says so.

    Raises:
        UsageError: the extra `otel` isn't installed, or another exporter is requested.
    """
    exporter = os.environ.get(_EXPORTER) or "none"
    if exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    if exporter != "otlp":
        raise UsageError(f"{_EXPORTER}={exporter}: pixtide knows otlp and none")
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise UsageError(
            f"{_EXPORTER}=otlp: {error.name} is not installed: pip install 'pixtide[otel]'"
        ) from error
    name = os.environ.get("OTEL_SERVICE_NAME", f"pixtide-{command}")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
