"""What two engines share in Redis, and what they say when it is away."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sophia import InvalidConfigError, Sophia

ADA = {"tenant": "acme", "user": "ada"}
PATIENCE_S = 20.0


class Server:
    """A Redis on a free loopback port that keeps nothing."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self._directory = directory
        self.start()

    def start(self) -> None:
        program = os.environ.get("SOPHIA_TEST_REDIS_SERVER") or shutil.which("redis-server") or "valkey-server"
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._directory)]
        self._process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        wait_until(self.answers)

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def wait_until(condition: Any) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


def engine(server: Server, **config: Any) -> Sophia:
    sophia = Sophia({"redis": {"url": server.url}, **config})
    sophia.memory.kv.get_sync("warm-up")
    wait_until(lambda: sophia.memory.health_sync().tiers["l2"].status == "healthy")
    return sophia


def test_values_are_shared_and_changes_are_heard(server: Server) -> None:
    one, two = engine(server), engine(server)
    one.memory.kv.set_sync("plan", {"plan": "free"}, scope=ADA)
    found = two.memory.kv.look_up_sync("plan", scope=ADA)
    assert (found.found, found.value, found.tier, found.degraded) == (True, {"plan": "free"}, "l2", False)
    one.memory.kv.set_sync("plan", {"plan": "pro"}, scope=ADA)
    wait_until(lambda: two.memory.kv.get_sync("plan", scope=ADA) == {"plan": "pro"})
    assert two.memory.kv.get_sync("plan", scope={"tenant": "acme", "user": "bob"}) is None
    nothing = two.memory.kv.look_up_sync("plan")
    assert (nothing.found, nothing.value, nothing.tier) == (False, None, None)


def test_one_engine_makes_a_value_for_all(server: Server) -> None:
    made: list[int] = []

    async def loader() -> int:
        made.append(1)
        await asyncio.sleep(0.1)
        return len(made)

    async def ask() -> list[int]:
        engines = [engine(server) for _ in range(3)]
        return await asyncio.gather(*[engine.memory.kv.get_or_set("report", loader, ttl=60) for engine in engines])

    assert asyncio.run(ask()) == [1, 1, 1] and len(made) == 1


def test_answers_are_shared(server: Server) -> None:
    one, two = engine(server), engine(server)

    async def run(sophia: Sophia) -> Any:
        return await sophia.chat.run("How many?", producer, scope=ADA)

    async def producer() -> str:
        return "42"

    async def ask() -> None:
        first, second = await run(one), await run(two)
        assert (first.cache.status, first.cache.tier) == ("miss", None)
        assert (second.value, second.cache.status, second.cache.tier) == ("42", "hit", "l2")
        assert not second.cache.degraded

    asyncio.run(ask())


def test_without_redis_calls_go_on_and_say_so(server: Server, tmp_path: Path) -> None:
    sophia = engine(server, data_dir=str(tmp_path / "data"))
    sophia.memory.kv.set_sync("stays", 1, scope=ADA)
    sophia.memory.kv.set_sync("goes", 1, scope=ADA)
    server.kill()
    assert sophia.memory.kv.delete_sync("goes", scope=ADA)
    found = sophia.memory.kv.look_up_sync("stays", scope=ADA)
    assert (found.value, found.degraded, found.stepped_over) == (1, True, ["l2"])
    assert sophia.memory.health_sync().tiers["l2"].status == "unhealthy"
    server.start()
    wait_until(lambda: sophia.memory.health_sync().tiers["l2"].status == "healthy")
    assert sophia.memory.kv.get_sync("goes", scope=ADA) is None
    assert not sophia.memory.kv.look_up_sync("stays", scope=ADA).degraded


def test_what_cannot_be_a_redis_is_named() -> None:
    with pytest.raises(InvalidConfigError, match=r"`redis\.url` must be like redis://"):
        Sophia({"redis": {"url": "http://localhost"}})
