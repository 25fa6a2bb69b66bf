"""What OpenTelemetry is told: by a receiver that reads it with the protocol's own classes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from sophia import InvalidConfigError, Scope, Sophia

ADA = Scope(tenant="acme", user="ada")
ANSWER = {
    "id": "r1",
    "model": "small-2026",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "private"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5},
}


class Server(ThreadingHTTPServer):
    received: list[tuple[str, bytes]]


class Handler(BaseHTTPRequestHandler):
    """A provider and a collector in one."""

    server: Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        answer = b""
        if self.path.startswith("/chat"):
            answer = json.dumps(ANSWER).encode()
        else:
            assert self.headers["content-type"] == "application/x-protobuf" and self.headers["x-key"] == "a b"
            self.server.received.append((self.path, body))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.received = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def providers(server: Server) -> dict[str, Any]:
    return {"providers": [{"name": "mock", "base_url": url(server), "models": ["small"]}]}


def spans(server: Server) -> dict[str, Any]:
    requests = [ExportTraceServiceRequest.FromString(body) for path, body in server.received if path == "/v1/traces"]
    scopes = [scope for request in requests for resource in request.resource_spans for scope in resource.scope_spans]
    return {span.name: span for scope in scopes for span in scope.spans}


def attributes(of: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in of}


async def test_calls_are_told_in_the_trace_of_the_caller(server: Server) -> None:
    otlp = {"endpoint": url(server), "headers": {"x-key": "a b"}, "service_name": "shop"}
    s = Sophia({"chat": providers(server), "telemetry": {"otlp": otlp}})
    with TracerProvider().get_tracer("test").start_as_current_span("request") as own:
        await s.chat.complete("secret words", scope=ADA)
        await s.chat.run("x", lambda: 1, scope=ADA)
    await s.chat.complete("secret words", scope=ADA)
    await s.close()
    told, context = spans(server), own.get_span_context()
    call, run = told["chat small"], told["chat.run"]
    assert call.trace_id == run.trace_id == context.trace_id.to_bytes(16, "big")
    assert run.parent_span_id == context.span_id.to_bytes(8, "big")
    about = attributes(call.attributes)
    assert (about["gen_ai.request.model"], about["gen_ai.response.model"]) == ("small", "small-2026")
    assert (about["gen_ai.usage.input_tokens"], about["gen_ai.usage.output_tokens"]) == (10, 5)
    assert call.kind == 3 and call.end_time_unix_nano > call.start_time_unix_nano > 10**18
    hit = told["chat.complete"]
    assert attributes(hit.attributes)["sophia.cache.status"] == "hit" and not hit.parent_span_id
    assert all(b"words" not in body and b"private" not in body for _, body in server.received)

    [metrics] = [ExportMetricsServiceRequest.FromString(body) for path, body in server.received if path == "/v1/metrics"]
    [resource] = metrics.resource_metrics
    assert attributes(resource.resource.attributes)["service.name"] == "shop"
    by_name = {metric.name: metric for metric in resource.scope_metrics[0].metrics}
    [duration] = by_name["gen_ai.client.operation.duration"].histogram.data_points
    assert (duration.count, len(duration.bucket_counts), len(duration.explicit_bounds)) == (1, 15, 14)
    assert sum(duration.bucket_counts) == 1 and duration.sum == duration.min == duration.max > 0
    tokens = by_name["gen_ai.client.token.usage"].histogram.data_points
    assert {attributes(point.attributes)["gen_ai.token.type"]: point.sum for point in tokens} == {"input": 10, "output": 5}
    counts = {
        attributes(point.attributes).get("sophia.cache.status"): point.as_double
        for point in by_name["sophia.chat.requests"].sum.data_points
        if attributes(point.attributes)["sophia.operation"] == "chat.complete"
    }
    assert counts == {"miss": 1, "hit": 1}


async def test_the_environment_is_enough(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url(server))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "from-the-environment")
    async with Sophia({"chat": providers(server)}) as s:
        await s.chat.complete("hello", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    assert spans(server)["chat.complete"].parent_span_id.hex() == "b7ad6b7169203331"
    assert all(b"from-the-environment" in body for _, body in server.received)
    async with Sophia({"chat": providers(server), "telemetry": {"otlp": {"enabled": False}}}) as s:
        server.received.clear()
        await s.chat.complete("hello")
    assert server.received == []


def test_an_endpoint_that_is_none_is_named() -> None:
    with pytest.raises(InvalidConfigError, match="telemetry.otlp.endpoint"):
        Sophia({"telemetry": {"otlp": {"endpoint": "localhost:4317"}}})
