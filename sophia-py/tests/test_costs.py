"""What answers cost, what kept ones save, and how much a scope may use."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import sophia
from sophia import Scope, Sophia

ADA, BOB = Scope(tenant="acme", user="ada"), Scope(tenant="acme", user="bob")
ANSWER = {
    "id": "1",
    "model": "small-2026",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500},
}


class Provider(BaseHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps(ANSWER).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def base_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def engine(base_url: str, **chat: Any) -> Sophia:
    providers = [{"name": "mock", "base_url": base_url, "models": ["small"]}]
    return Sophia({"chat": {"providers": providers, **chat}})


def test_costs_are_told_by_model_and_scope_and_hits_save_them(base_url: str) -> None:
    s = engine(base_url, prices={"small": {"prompt": 1.0, "completion": 2.0}})
    answer = s.chat.complete_sync("hello", scope=ADA)
    assert answer.cost_usd == pytest.approx(0.002)
    s.chat.complete_sync("hello", scope=ADA)
    s.chat.complete_sync("hello", scope=BOB)
    costs = s.chat.costs_sync()
    assert [(row.model, row.calls, row.saved_calls) for row in costs.rows] == [("small-2026", 2, 1)]
    assert (costs.total.cost_usd, costs.total.saved_usd) == (pytest.approx(0.004), pytest.approx(0.002))
    assert [row.user for row in s.chat.costs_sync(by="scope", days=1).rows] == ["ada", "bob"]
    assert s.chat.costs_sync(scope=BOB).total.saved_calls == 0
    with pytest.raises(sophia.InvalidInputError, match="days"):
        s.chat.costs_sync(days=63)


def test_an_unknown_price_is_none_and_not_zero(base_url: str) -> None:
    s = engine(base_url)
    assert s.chat.complete_sync("hello").cost_usd is None
    assert (s.chat.costs_sync().total.cost_usd, s.chat.costs_sync().total.unpriced_calls) == (None, 1)


def test_who_is_over_a_limit_is_told_when_to_come_back(base_url: str) -> None:
    s = engine(base_url, limits=[{"per": "user", "requests_per_minute": 1}, {"per": "tenant", "daily_usd": 1.0}])
    s.chat.complete_sync("hello", scope=ADA)
    with pytest.raises(sophia.RateLimitedError, match="requests_per_minute") as refused:
        s.chat.complete_sync("other", scope=ADA)
    assert refused.value.retry_after is not None and 0 < refused.value.retry_after <= 60
    assert s.chat.complete_sync("hello", scope=ADA).cache.status == "hit"
    calls, budget = s.chat.budget_sync(scope=ADA)
    assert (calls.limit, calls.max, calls.rule) == ("requests_per_minute", 1, "chat.limits[0]")
    assert calls.used > 0 and calls.resets_at is not None
    assert (budget.limit, budget.used, budget.unpriced_calls, budget.scope) == ("daily_usd", 0, 1, Scope(tenant="acme"))
    s.chat.complete_sync("other", scope=BOB)


async def test_costs_and_budgets_outlive_an_engine(base_url: str, tmp_path: Path) -> None:
    def durable() -> Sophia:
        providers = [{"name": "mock", "base_url": base_url, "models": ["small"]}]
        prices = {"small": {"prompt": 1.0, "completion": 2.0}}
        limits = [{"per": "user", "daily_usd": 0.002}]
        return Sophia({"data_dir": str(tmp_path), "chat": {"providers": providers, "prices": prices, "limits": limits}})

    async with durable() as s:
        await s.chat.complete("hello", scope=ADA)
    async with durable() as s:
        costs = await s.chat.costs()
        assert (costs.total.calls, costs.total.cost_usd) == (1, pytest.approx(0.002))
        [budget] = await s.chat.budget(scope=ADA)
        assert (budget.used, budget.remaining) == (pytest.approx(0.002), 0)
        with pytest.raises(sophia.RateLimitedError, match="daily_usd"):
            await s.chat.complete("other", scope=ADA)


async def test_vectors_have_a_deadline_of_their_own() -> None:
    # It takes connections and answers nothing.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        s = engine(f"http://127.0.0.1:{silent.getsockname()[1]}/v1")
        with pytest.raises(sophia.TimeoutError):
            await s.chat.embed(["x"], timeout=0.05)
        with pytest.raises(sophia.InvalidInputError, match="timeout"):
            await s.chat.embed(["x"], timeout=0)


async def test_producers_inside_of_others_do_not_wait_for_their_permits() -> None:
    s = Sophia({"chat": {"max_concurrent": 2, "timeout": 10}})

    async def whole(number: int) -> int:
        async def part() -> int:
            await asyncio.sleep(0)
            return number

        return (await s.chat.run(f"part {number}", part)).value

    runs = (s.chat.run(f"whole {number}", lambda number=number: whole(number)) for number in range(20))
    assert [result.value for result in await asyncio.gather(*runs)] == list(range(20))

    async def itself() -> object:
        return await s.chat.run("itself", itself)

    with pytest.raises(sophia.InvalidInputError, match="which would wait for itself"):
        await s.chat.run("itself", itself)
