"""Spans reach a collector, with the trace that the client sent."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from mlops_pkg.serving.settings import SettingsError
from mlops_pkg.serving.tracing import trace_requests
from tests.serving.conftest import start, until
from tests.toy import RECORD

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(ThreadingHTTPServer):
    """A collector of OpenTelemetry that keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[ExportTraceServiceRequest] = []
        super().__init__(("127.0.0.1", 0), _Collect)

    @property
    def spans(self) -> list[Span]:
        """The spans that have come."""
        scopes = [scope for sent in self.sent for resource in sent.resource_spans for scope in resource.scope_spans]
        return [span for scope in scopes for span in scope.spans]


class _Collect(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") != "gzip":
            self.server.sent.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that listens."""
    with Collector() as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_request_has_a_span_under_the_trace_of_its_client(bundle: Path, collector: Collector, workers: str) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_address[1]}"}
    with start(bundle, "--workers", workers, env=env) as server:
        reply = server.ask([RECORD], {"traceparent": f"00-{TRACE}-{SPAN}-01"})
        assert reply.status == 200
        assert reply.headers["traceparent"].split("-")[1] == TRACE
        assert server.ask(b"{").status == 400
        assert server.get("/v2/models/already").status == 404  # which is not `/ready`
        until(lambda: server.get("/health").status == 200)
        assert server.end() == 0  # which sends the last spans

    asked = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
    assert sorted(span.name for span in asked) == ["GET /v2/models/already", "POST /predict", "POST /predict"]
    first, second, _ = sorted(asked, key=lambda span: span.start_time_unix_nano)
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, SPAN)
    assert second.trace_id.hex() != TRACE
    statuses = [{one.key: one.value.int_value for one in span.attributes} for span in (first, second)]
    assert [one.get("http.status_code") or one["http.response.status_code"] for one in statuses] == [200, 400]
    [name] = {
        one.value.string_value
        for sent in collector.sent
        for resource in sent.resource_spans
        for one in resource.resource.attributes
        if one.key == "service.name"
    }
    assert name == "toy"


def test_without_a_collector_that_is_there_answers_come_as_ever(bundle: Path) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    with start(bundle, env=env) as server:
        assert server.ask([RECORD]).status == 200
        assert server.end() == 0


def test_without_the_extra_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.instrumentation.asgi", None)

    with pytest.raises(SettingsError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT: .* `pip install 'mlops_pkg\[tracing\]'`"):
        trace_requests(lambda *_: None, "toy")
