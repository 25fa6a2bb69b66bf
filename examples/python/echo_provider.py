"""An OpenAI-compatible server that repeats the question: for a look at the cache without a key and without a model.

Run: python examples/python/echo_provider.py [PORT]. In a program: `with echo_provider.running() as (base_url, served): …`, where
`served.calls` counts what really reached it.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "echo"
# A model takes its time; this one pretends to, so that a cache has something to save.
DELAY_S = 0.2


@dataclass
class Served:
    """What reached the server."""

    calls: int = 0


class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.served = Served()
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the terminal for the program that is shown."""

    def do_GET(self) -> None:
        self.reply({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "echo"}]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.served.calls += 1
        time.sleep(DELAY_S)
        question = request["messages"][-1]["content"]
        answer = f"(echo, no model) {question}"
        head = {"id": "echo-1", "created": int(time.time()), "model": request.get("model", MODEL)}
        words = {"prompt_tokens": len(question.split()), "completion_tokens": len(answer.split())}
        usage = words | {"total_tokens": sum(words.values())}
        message = {"role": "assistant", "content": answer}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        try:
            if request.get("stream"):
                self.stream(head, answer, usage)
            else:
                self.reply(head | {"object": "chat.completion", "choices": [choice], "usage": usage})
        except ConnectionError:
            self.close_connection = True  # The caller did not wait.

    def reply(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, head: dict[str, Any], answer: str, usage: dict[str, int]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for word in answer.split(" "):
            self.event(head, {"delta": {"content": word + " "}, "finish_reason": None})
        self.event(head, {"delta": {}, "finish_reason": "stop"}, usage=usage)
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def event(self, head: dict[str, Any], choice: dict[str, Any], **more: Any) -> None:
        chunk = head | {"object": "chat.completion.chunk", "choices": [{"index": 0} | choice]} | more
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.flush()


@contextlib.contextmanager
def running(port: int = 0) -> Iterator[tuple[str, Served]]:
    """Serves on a port of loopback, a free one by default; gives the base URL and what was served."""
    server = Server(port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", server.served
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    with running(int(sys.argv[1]) if len(sys.argv) > 1 else 8001) as (url, _):
        print(f"echo provider at {url}", flush=True)
        threading.Event().wait()
