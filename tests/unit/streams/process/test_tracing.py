"""Spans: whose they are, and that nobody pays for them who didn't ask."""

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pixtide.schemas.errors import UsageError
from pixtide.schemas.trace import Trace, trace_of
from pixtide.streams.process import tracing
from pixtide.streams.process.tracing import begin, send_spans

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def trace() -> Trace:
    found = trace_of([("traceparent", f"00-{TRACE}-{SPAN}-01".encode())])
    assert found is not None
    return found


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Of a provider that is this test's alone."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", lambda: provider.get_tracer("pixtide"))
    yield exporter
    provider.shutdown()


def only(exporter: InMemorySpanExporter) -> ReadableSpan:
    [span] = exporter.get_finished_spans()
    return span


def test_a_span_continues_the_trace_of_its_record(exporter: InMemorySpanExporter) -> None:
    span = begin("ingest x", "consumer", trace(), {"messaging.system": "kafka"})
    assert span.trace is not None
    assert (span.trace.trace_id, span.trace.span_id) != (TRACE, SPAN)
    assert span.headers() == [span.trace.header()]
    assert span.trace.traceparent.endswith("-01")
    span.end(outcome="indexed", fetch_ms=1.5)
    span.end(error="too late")
    ended = only(exporter)
    assert ended.context is not None and ended.parent is not None
    assert f"{ended.context.span_id:016x}" == span.trace.span_id
    assert f"{ended.context.trace_id:032x}" == TRACE == span.trace.trace_id
    assert f"{ended.parent.span_id:016x}" == SPAN
    assert dict(ended.attributes or {}) == {
        "messaging.system": "kafka",
        "pixtide.outcome": "indexed",
        "pixtide.fetch_ms": 1.5,
    }
    assert ended.status.is_unset


def test_a_record_without_a_trace_begins_one(exporter: InMemorySpanExporter) -> None:
    begin("ingest x", "consumer", None, {}).end(error="EMPTY_IMAGE")
    ended = only(exporter)
    assert ended.parent is None
    assert (ended.status.is_ok, ended.status.description) == (False, "EMPTY_IMAGE")


def test_without_a_provider_the_trace_goes_on_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    for tracer in (None, TracerProvider(shutdown_on_exit=False)):
        if tracer is None:
            monkeypatch.setattr(tracing, "_tracer", lambda: None)
        else:
            monkeypatch.undo()  # nobody has set one up in this process
        span = begin("answer x", "consumer", trace(), {})
        assert span.trace == trace()
        assert not span.counts
        span.end()
        assert begin("search x", "client", None, {}).headers() == []


def test_an_exporter_that_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    with pytest.raises(UsageError, match="knows otlp and none"):
        send_spans("ingest")
