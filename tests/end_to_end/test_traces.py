"""Spans of four processes, as a collector of OpenTelemetry's gets them: two traces, end to end."""

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from pixtide.schemas import topics
from pixtide.schemas.trace import trace_of
from tests.faults.oracle import read_topic
from tests.servers import KafkaServer, WeaviateServer
from tests.support.deployments import killed_in_the_end, on_servers
from tests.support.pictures import jpeg


@dataclass
class Collector:
    """Speaks OTLP over HTTP at `url`; the spans by the name of the service that sent them."""

    url: str = ""
    spans: dict[str, list[Span]] = field(default_factory=dict)

    def the(self, service: str) -> Span | None:
        """The one span of that service; None while there is none."""
        found = self.spans.get(service, [])
        assert len(found) < 2, found
        return found[0] if found else None


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()

    class Receive(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
                named = {each.key: each.value.string_value for each in sent.resource.attributes}
                spans = [span for scope in sent.scope_spans for span in scope.spans]
                made.spans.setdefault(named["service.name"], []).extend(spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receive) as server:
        made.url = f"http://127.0.0.1:{server.server_port}"
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield made
        server.shutdown()
        serving.join()


def wait_for(what: Callable[[], Span | None]) -> Span:
    deadline = time.monotonic() + 60
    while (found := what()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


@pytest.mark.slow
def test_a_picture_and_a_search_are_a_trace_each(
    tmp_path: Path, kafka: KafkaServer, weaviate: WeaviateServer, collector: Collector
) -> None:
    picture = tmp_path / "red.jpg"
    picture.write_bytes(jpeg(1))
    stack = on_servers(tmp_path, kafka, weaviate, real_model=False)
    stack.create()
    stack.env |= {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    with killed_in_the_end(stack):
        stack.start()
        stack.publish(str(picture))
        assert stack.search("red", "-k", "1")
        for name in ("ingest", "query"):
            stack.stop_process(name)

    published = wait_for(lambda: collector.the("pixtide-publish"))
    ingested = wait_for(lambda: collector.the("pixtide-ingest"))
    asked = wait_for(lambda: collector.the("pixtide-search"))
    answered = wait_for(lambda: collector.the("pixtide-query"))
    for first, second in ((published, ingested), (asked, answered)):
        assert not first.parent_span_id
        assert second.parent_span_id == first.span_id
        assert second.trace_id == first.trace_id
        assert first.start_time_unix_nano <= second.start_time_unix_nano
    assert asked.trace_id != published.trace_id
    assert asked.end_time_unix_nano >= answered.start_time_unix_nano
    told = {each.key: each.value for each in ingested.attributes}
    assert told["pixtide.outcome"].string_value == "indexed"
    assert told["pixtide.encode_ms"].double_value > 0
    # and whoever follows the outcomes goes on from there
    [outcome] = read_topic(stack, topics.INDEXED)
    trace = trace_of(outcome.headers)
    assert trace is not None
    assert trace.trace_id == ingested.trace_id.hex()
    assert trace.span_id == ingested.span_id.hex()
