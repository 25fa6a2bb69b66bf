"""OpenTelemetry: what chat does becomes spans of the conventions for generative AI, and a kept answer is one without a call.

Run: python examples/python/telemetry.py. It sends to a collector of its own, which says what came; for a real one give its
address, such as http://127.0.0.1:4318, or set OTEL_EXPORTER_OTLP_ENDPOINT.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import echo_provider
from sophia import Scope, Sophia

ADA = Scope(tenant="acme", user="ada")


@contextlib.contextmanager
def collector(came: dict[str, bytes]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            came[self.path] = came.get(self.path, b"") + body
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Keeps the terminal for the program that is shown."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


async def main(base_url: str, endpoint: str) -> None:
    provider = {"name": "echo", "base_url": base_url, "models": [echo_provider.MODEL]}
    config = {"chat": {"providers": [provider]}, "telemetry": {"otlp": {"endpoint": endpoint, "service_name": "shop"}}}
    async with Sophia(config) as s:
        for expected in ("miss", "hit"):
            answer = await s.chat.complete("What is our churn?", scope=ADA)
            assert answer.cache.status == expected


came: dict[str, bytes] = {}
with echo_provider.running() as (url, _), collector(came) as endpoint:
    asyncio.run(main(url, endpoint))
# What is sent in the background is sent by the end of `close()`.
spans = came["/v1/traces"]
for name in (b"chat.complete", b"chat echo", b"gen_ai.usage.input_tokens", b"sophia.cache.status"):
    print(f"{name.decode():28} in {spans.count(name)} span(s)")
assert (spans.count(b"chat.complete"), spans.count(b"chat echo")) == (2, 1)
assert b"churn" not in spans, "what was asked is in no span unless `content` asks for it"
print(f"metrics: {len(came['/v1/metrics'])} bytes")
