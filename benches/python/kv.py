"""What an L1 hit costs from Python: awaited, synchronous, and beside it through the stock awaitable and a peer.

Run: `pip install . ./benches/stock-await cashews` and then `python benches/python/kv.py`.
Prints microseconds a call: the median of the rounds, and the fastest and slowest.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from sophia import Scope, Sophia

CALLS = 20_000
ROUNDS = 9
VALUE = "x" * 100


async def awaited(call: Callable[[], Awaitable[Any]]) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        await call()
    return (time.perf_counter() - began) / CALLS * 1e6


def blocking(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - began) / CALLS * 1e6


async def main() -> None:
    s = Sophia()
    await s.memory.kv.set("key", VALUE)
    scope = Scope(tenant="acme", user="ada")
    await s.memory.kv.set("key", VALUE, scope=scope)
    rows: dict[str, Callable[[], Awaitable[float]]] = {
        "sophia await kv.get": lambda: awaited(lambda: s.memory.kv.get("key")),
        "sophia await kv.get, scoped": lambda: awaited(lambda: s.memory.kv.get("key", scope=scope)),
        "sophia kv.get_sync": lambda: _now(lambda: s.memory.kv.get_sync("key")),
    }
    try:
        import stock_await

        stock = stock_await.Stock()
        stock.set("key", VALUE)
        rows["stock awaitable (pyo3-async-runtimes)"] = lambda: awaited(lambda: stock.get("key"))
    except ImportError:
        print("stock_await is not installed: pip install ./benches/stock-await")
    try:
        from cashews import Cache

        cashews = Cache()
        cashews.setup("mem://")
        await cashews.set("key", VALUE)
        rows["cashews await get"] = lambda: awaited(lambda: cashews.get("key"))
    except ImportError:
        print("cashews is not installed: pip install cashews")
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(ROUNDS):  # in turn, so that a slow moment of the machine meets them all
        for name, row in rows.items():
            times[name].append(await row())
    for name, each in times.items():
        print(f"{name:40} {statistics.median(each):8.2f} µs   ({min(each):.2f} – {max(each):.2f})")


async def _now(call: Callable[[], Any]) -> float:
    return blocking(call)


asyncio.run(main())
