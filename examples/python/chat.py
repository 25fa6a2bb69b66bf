"""Chat: a question that was asked before costs microseconds, and a stampede costs one call.

Run: python examples/python/chat.py. It asks an echo server of its own; for a real model give `providers` its base_url and key.
"""

import asyncio

import echo_provider
from sophia import RunResult, Scope, Sophia, TimeoutError

ADA = Scope(tenant="acme", user="ada")
BOB = Scope(tenant="acme", user="bob")


async def main(base_url: str, served: echo_provider.Served) -> None:
    provider = {
        "name": "echo",
        "kind": "openai",
        "base_url": base_url,
        "api_key": "none",
        "models": [echo_provider.MODEL],
    }
    async with Sophia({"chat": {"providers": [provider]}}) as s:
        # A miss, then a hit; another user is never given the answer.
        for scope in (ADA, ADA, BOB):
            answer = await s.chat.complete("What is our churn?", model="echo", scope=scope)
            print(f"{scope.user}: {answer.cache.status:<4} {answer.latency_ms:8.3f} ms  {answer.text}")
        assert served.calls == 2

        # Fifty callers with one question are one call.
        served.calls = 0
        answers = await asyncio.gather(*(s.chat.complete("stampede", model="echo", scope=ADA) for _ in range(50)))
        print(f"{len(answers)} callers, {served.calls} call")
        assert served.calls == 1

        # A stream is live the first time and comes from the cache the second.
        served.calls = 0
        for _ in range(2):
            text = "".join([chunk.delta async for chunk in s.chat.stream("Tell me a story.", model="echo", scope=ADA)])
            print(f"streamed: {text.strip()}")
        assert served.calls == 1

        # Everything takes a deadline, and a failure has a name.
        try:
            await s.chat.complete("too slow", model="echo", scope=ADA, timeout=0.05)
        except TimeoutError as error:
            print(f"{error.code}: retryable {error.retryable}")

        # The same cache, single flight, permits and deadline around any coroutine of one's own.
        runs = 0

        async def count_deals() -> dict[str, str]:
            nonlocal runs
            runs += 1
            await asyncio.sleep(0.05)
            return {"answer": "42 open deals"}

        async def deals() -> dict[str, str]:
            result: RunResult[dict[str, str]] = await s.chat.run("How many deals are open?", count_deals, scope=ADA)
            return result.value

        counted = await asyncio.gather(*(deals() for _ in range(20)))
        print(f"{len(counted)} callers, {runs} run, {counted[0]}")
        assert runs == 1

        metrics = s.chat.metrics()
        print(f"hit rate {metrics['cache_hit_rate']:.2f}, coalesced {metrics['coalesced']}")


with echo_provider.running() as (url, seen):
    asyncio.run(main(url, seen))
