"""What the tests share."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sophia import Sophia

# Haystack would tell its makers that it is used.
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Runs a program text in a fresh interpreter, and returns how it ended."""

    def run(text: str, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "program.py"
        path.write_text(text)
        return subprocess.run(
            [sys.executable, "-X", "faulthandler", str(path), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
            check=False,
        )

    return run


class Model(ThreadingHTTPServer):
    """A provider whose model calls the tool that it is asked for, and then repeats what it was told."""

    bodies: list[dict[str, Any]]
    broken_off: threading.Event

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        self.bodies.append(body)
        *_, last = body["messages"]
        if last["role"] == "tool" or not last["content"].startswith("call "):
            message = {"role": "assistant", "content": last["content"]}
        else:
            _, name, arguments = last["content"].split(" ", 2)
            call = {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        reason = "tool_calls" if "tool_calls" in message else "stop"
        return {"id": "1", "model": "small", "choices": [{"index": 0, "message": message, "finish_reason": reason}]}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        assert isinstance(self.server, Model)
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if asked.get("stream"):
            try:
                return self.stream(asked["messages"][-1]["content"])
            except ConnectionError:
                return self.server.broken_off.set()
        body = json.dumps(self.server.answer(asked)).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, text: str) -> None:
        """Says every word by itself; "forever" without an end."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for word in itertools.repeat(text) if text == "forever" else text.split(" "):
            time.sleep(0.002)
            self.send({"delta": {"content": f"{word} "}, "finish_reason": None})
        self.send({"delta": {}, "finish_reason": "stop"})
        self.wfile.write(b"data: [DONE]\n\n")

    def send(self, choice: dict[str, Any]) -> None:
        event = {"id": "1", "model": "small", "choices": [{"index": 0, **choice}]}
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()


@pytest.fixture
def model() -> Iterator[Model]:
    server = Model(("127.0.0.1", 0), Handler)
    server.bodies, server.broken_off = [], threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def engine(model: Model) -> Sophia:
    base_url = f"http://127.0.0.1:{model.server_address[1]}/v1"
    return Sophia({"chat": {"providers": [{"name": "mock", "base_url": base_url, "models": ["small"]}]}})
