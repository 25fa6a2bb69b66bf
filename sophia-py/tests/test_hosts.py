"""The engine in real hosts: FastAPI under uvicorn with WebSocket and streams, and preforked gunicorn workers."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from sophia import Sophia

APP = """
import os
from contextlib import asynccontextmanager
from fastapi import FastAPI
from sophia import Scope, Sophia

sophia = Sophia({"chat": {"providers": [{"name": "mock", "kind": "openai", "base_url": os.environ["UPSTREAM"], "api_key": "k"}]}},
                data_dir=os.environ["DATA"])

@asynccontextmanager
async def lifespan(app):
    async with sophia:
        yield

app = FastAPI(lifespan=lifespan)

@app.post("/notes")
async def add(text: str, user: str):
    return {"id": (await sophia.memory.store(text, scope=Scope(user=user))).id, "pid": os.getpid()}

@app.get("/notes")
async def notes(q: str, user: str):
    return [hit.record.content for hit in (await sophia.memory.search(q, scope=Scope(user=user))).hits]

app.mount("/", sophia.asgi())
"""

UPSTREAM = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        head = {"id": "1", "created": 1, "model": body["model"]}
        if body.get("stream"):
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("connection", "close")
            self.end_headers()
            for word in ["one ", "two ", "three"]:
                chunk = {**head, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
                self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\\n\\n")
            end = {**head, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
            self.wfile.write(b"data: " + json.dumps(end).encode() + b"\\n\\ndata: [DONE]\\n\\n")
            self.close_connection = True
        else:
            answer = json.dumps({**head, "object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": "one two three"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def hosted(tmp_path: Path, *command: str) -> Iterator[str]:
    """Runs a host of the application, and yields its base URL once it answers."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "upstream.py").write_text(UPSTREAM)
    upstream = subprocess.Popen([sys.executable, "upstream.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert upstream.stdout is not None
    environment = {"UPSTREAM": f"http://127.0.0.1:{upstream.stdout.readline().strip()}/v1", "DATA": str(tmp_path / "data")}
    port = free_port()
    log = (tmp_path / "host.log").open("w")
    host = subprocess.Popen(
        [sys.executable, "-m", *[part.format(port=port) for part in command]],
        cwd=tmp_path,
        env=environment,
        stdout=log,
        stderr=log,
    )
    base = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                httpx.get(f"{base}/healthz", timeout=2).raise_for_status()
                break
            except httpx.HTTPError:
                assert host.poll() is None, (tmp_path / "host.log").read_text()
                time.sleep(0.1)
        else:
            raise AssertionError((tmp_path / "host.log").read_text())
        yield base
    finally:
        host.terminate()
        upstream.terminate()
        host.wait(20)
        upstream.wait(20)
        log.close()


UVICORN = ["uvicorn", "app:app", "--host", "127.0.0.1", "--port", "{port}"]
GUNICORN = ["gunicorn", "app:app", "--preload", "-w", "2", "-k", "uvicorn_worker.UvicornWorker", "-b", "127.0.0.1:{port}"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with hosted(tmp_path_factory.mktemp("host"), *UVICORN) as base:
        yield base


def test_the_routes_of_the_application_come_first(base: str) -> None:
    httpx.post(f"{base}/notes", params={"text": "The PDF is due on Friday.", "user": "ada"}).raise_for_status()
    found = httpx.get(f"{base}/notes", params={"q": "when is the document due?", "user": "ada"}).json()
    assert found == ["The PDF is due on Friday."]
    assert httpx.get(f"{base}/notes", params={"q": "PDF", "user": "bob"}).json() == []


def test_the_surface_answers_beside_them(base: str) -> None:
    assert httpx.get(f"{base}/readyz").status_code == 200
    assert "sophia_" in httpx.get(f"{base}/metrics").text

    report = httpx.get(f"{base}/api/v1/unified-health").json()
    assert {"overall_health", "infrastructure", "ai_memory", "deployment", "business", "alerts"} <= set(report)
    stored = httpx.post(f"{base}/api/v1/memory/store", json={"content": "x", "scope": {"user": "eve"}}).json()
    assert stored["version"] == 1
    refused = httpx.post(f"{base}/api/v1/memory/store", json={"content": "x", "knd": "y"})
    assert refused.status_code == 400 and "kind" in refused.json()["error"]["message"]


def test_a_remote_caller_without_keys_is_refused(base: str) -> None:
    answer = httpx.post(f"{base}/api/v1/memory/stats", json={}, headers={"x-forwarded-for": "10.0.0.9"})
    assert answer.status_code == 401


@pytest.mark.parametrize(("server", "status"), [(("127.0.0.1", 80), 401), (("/run/app.sock", None), 200)])
def test_a_caller_whose_address_is_lost_counts_as_remote(server: tuple[str, int | None], status: int) -> None:
    heads: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not heads:
            return {"type": "http.request", "body": b"{}"}
        await asyncio.Event().wait()
        raise AssertionError("never")

    async def send(message: Any) -> None:
        heads.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/memory/stats",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "client": None,
        "server": server,
    }
    asyncio.run(Sophia().asgi()(scope, receive, send))
    assert heads[0]["status"] == status


def test_the_openai_dialect_streams_and_then_replays(base: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "count"}], "stream": True}
    texts = []
    for _ in range(2):
        with httpx.stream("POST", f"{base}/v1/chat/completions", json=body) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            events = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        deltas = [json.loads(event)["choices"] for event in events[:-1]]
        texts.append("".join(choice[0]["delta"].get("content") or "" for choice in deltas if choice))
    assert texts == ["one two three"] * 2


def test_a_websocket_sends_the_report_at_once(base: str) -> None:
    # A browser has no other way to send a key, and hangs up where no protocol is agreed on.
    offered = [Subprotocol("sophia.v1"), Subprotocol("sophia.key.none")]
    with connect(base.replace("http", "ws") + "/ws/unified-health", subprotocols=offered) as live:
        message = json.loads(live.recv(timeout=10))
        assert live.subprotocol == "sophia.v1"
    assert {"type", "data", "timestamp"} == set(message) and message["data"]["timestamp"]


def test_a_websocket_that_its_host_cancels_ends_quietly() -> None:
    async def main() -> None:
        sent: asyncio.Queue[Any] = asyncio.Queue()
        first = True

        async def receive() -> dict[str, Any]:
            nonlocal first
            if first:
                first = False
                return {"type": "websocket.connect"}
            await asyncio.Event().wait()
            raise AssertionError("never")

        scope = {"type": "websocket", "path": "/ws/unified-health", "headers": [(b"host", b"localhost")], "client": None}
        task = asyncio.create_task(Sophia().asgi()(scope, receive, sent.put))
        assert (await sent.get())["type"] == "websocket.accept" and json.loads((await sent.get())["text"])["data"]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_preforked_workers_answer_and_share_their_data(tmp_path: Path) -> None:
    with hosted(tmp_path, *GUNICORN) as base:
        workers = set()
        for i in range(40):
            stored = httpx.post(f"{base}/notes", params={"text": f"note {i}", "user": "ada"}, timeout=20).json()
            workers.add(stored["pid"])
        found = httpx.get(f"{base}/notes", params={"q": "note 0", "user": "ada"}, timeout=20).json()
        assert "note 0" in found and workers
