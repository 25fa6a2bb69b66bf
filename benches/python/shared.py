"""What an answer costs that another process has kept in Redis, beside the Redis client by itself.

    cargo build --release -p sophia-benches --bin upstream
    pip install . redis
    python scripts/with_redis.py python benches/python/shared.py

One engine asks each question of the upstream; another one, with nothing in process, then finds each answer once. The client
gets a value of about the same size, and reads its JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path

import redis.asyncio
from sophia import Sophia

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = 2_000
CONCURRENT = 50
ROUNDS = 3

Ask = Callable[[int], Awaitable[None]]


def engine(base_url: str, redis_url: str) -> Sophia:
    provider = {"name": "bench", "base_url": base_url, "models": ["bench"]}
    return Sophia({"chat": {"providers": [provider]}, "redis": {"url": redis_url}})


async def measure(name: str, ask: Ask) -> None:
    """Asks each question once: the first half one after the other, the second one many at once."""
    times = []
    for number in range(QUESTIONS // 2):
        began = time.perf_counter()
        await ask(number)
        times.append(time.perf_counter() - began)
    numbers = iter(range(QUESTIONS // 2, QUESTIONS))

    async def worker() -> None:
        for number in numbers:
            await ask(number)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(CONCURRENT)))
    rate = QUESTIONS / 2 / (time.perf_counter() - began)
    print(f"{name:<32}{statistics.median(times) * 1e6:>8.0f} µs p50{rate:>12,.0f}/s, {CONCURRENT} at once", flush=True)


async def compare(base_url: str, redis_url: str) -> None:
    async with engine(base_url, redis_url) as one:
        for number in range(QUESTIONS):
            first = await one.chat.complete(f"How are the deals of {number}? " * 8, model="bench")
    client = redis.asyncio.Redis.from_url(redis_url, max_connections=CONCURRENT)
    stored = json.dumps({"text": first.text, "message": first.message, "model": first.model, "usage": asdict(first.usage)})
    for number in range(QUESTIONS):
        await client.set(f"bench:{number}", stored)

    async def get(number: int) -> None:
        json.loads(await client.get(f"bench:{number}"))

    for _ in range(ROUNDS):
        await measure("redis-py and json", get)
        async with engine(base_url, redis_url) as other:
            await other.memory.kv.get("the connection is made")

            async def complete(number: int, s: Sophia = other) -> None:
                found = await s.chat.complete(f"How are the deals of {number}? " * 8, model="bench")
                assert found.cache.tier == "l2", found.cache

            await measure("sophia, chat.complete from L2", complete)
    await client.aclose()


def main() -> None:
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    upstream = subprocess.Popen([target / "release" / "upstream"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert upstream.stdout is not None
    try:
        asyncio.run(compare(upstream.stdout.readline().strip(), os.environ["SOPHIA_TEST_REDIS_URL"]))
    finally:
        upstream.terminate()
        upstream.wait()


if __name__ == "__main__":
    main()
