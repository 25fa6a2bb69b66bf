"""What a chat call costs from Python: asked, kept and streamed, beside other clients of the same upstream.

    cargo build --release -p sophia-benches --bin upstream
    pip install . openai liter-llm litellm langchain-openai tensorzero
    python benches/python/chat.py

The upstream answers at once, so what is measured is the client. A client that is not installed is left out, and named.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CALLS = 1_000
WARM_UP = 100
MESSAGES = [{"role": "system", "content": "You are short."}, {"role": "user", "content": "How are the deals? " * 13}]

Call = Callable[[], Awaitable[Any]]
Stream = Callable[[], AsyncIterator[Any]]


class Client:
    """One client: what it calls, and what it cannot do is None."""

    ask: Call
    hit: Call | None = None
    stream: Stream | None = None


class Sophia(Client):
    def __init__(self, base_url: str) -> None:
        from sophia import Sophia

        provider = {"name": "bench", "base_url": base_url, "models": ["bench"]}
        chat = Sophia({"chat": {"providers": [provider], "max_concurrent": 1_000}}).chat
        self.ask = lambda: chat.complete(MESSAGES, model="bench", cache="bypass")
        self.hit = lambda: chat.complete(MESSAGES, model="bench")
        self.stream = lambda: aiter(chat.stream(MESSAGES, model="bench", cache="bypass"))


class LiterLlm(Client):
    def __init__(self, base_url: str) -> None:
        import liter_llm

        server = {"api_key": "none", "base_url": base_url}
        client = liter_llm.create_client_from_json(json.dumps(server))
        caching = liter_llm.create_client_from_json(json.dumps(server | {"cache": {"max_entries": 100, "ttl_seconds": 300}}))
        request = liter_llm.ChatCompletionRequest(model="openai/bench", messages=MESSAGES)
        self.ask = lambda: liter_llm.chat(client, request)
        self.hit = lambda: liter_llm.chat(caching, request)
        self.stream = lambda: liter_llm.chat_stream(client, request)


class OpenAi(Client):
    def __init__(self, base_url: str) -> None:
        from openai import AsyncOpenAI

        client = AsyncOpenAI(api_key="none", base_url=base_url)
        self.ask = lambda: client.chat.completions.create(model="bench", messages=MESSAGES)

        async def stream() -> AsyncIterator[Any]:
            async for chunk in await client.chat.completions.create(model="bench", messages=MESSAGES, stream=True):
                yield chunk

        self.stream = stream


class LangChain(Client):
    def __init__(self, base_url: str) -> None:
        from langchain_openai import ChatOpenAI

        client = ChatOpenAI(model="bench", api_key="none", base_url=base_url)
        self.ask = lambda: client.ainvoke(MESSAGES)
        self.stream = lambda: client.astream(MESSAGES)


class LiteLlm(Client):
    def __init__(self, base_url: str) -> None:
        import litellm

        fields: dict[str, Any] = {"model": "openai/bench", "messages": MESSAGES, "api_key": "none", "base_url": base_url}
        self.ask = lambda: litellm.acompletion(**fields)

        async def stream() -> AsyncIterator[Any]:
            async for chunk in await litellm.acompletion(**fields, stream=True):
                yield chunk

        self.stream = stream


class TensorZero(Client):
    """Its gateway inside this process; its cache of answers needs a database, and is left out."""

    def __init__(self, base_url: str) -> None:
        from tensorzero import AsyncTensorZeroGateway

        provider = f'type = "openai"\nmodel_name = "bench"\napi_base = "{base_url}"\napi_key_location = "none"\n'
        model = f'[models.bench]\nrouting = ["bench"]\n[models.bench.providers.bench]\n{provider}'
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
            config.write(f"[gateway]\nobservability.enabled = false\n{model}")
            config.flush()
            client: Any = AsyncTensorZeroGateway.build_embedded(config_file=config.name, async_setup=False)
        system, user = MESSAGES
        asked = {"system": system["content"], "messages": [user]}
        self.ask = lambda: client.inference(model_name="bench", input=asked)

        async def stream() -> AsyncIterator[Any]:
            async for chunk in await client.inference(model_name="bench", input=asked, stream=True):
                yield chunk

        self.stream = stream


CLIENTS = {
    "sophia": Sophia,
    "liter-llm": LiterLlm,
    "tensorzero": TensorZero,
    "openai": OpenAi,
    "langchain-openai": LangChain,
    "litellm": LiteLlm,
}


async def p50_us(call: Call) -> float:
    for _ in range(WARM_UP):
        await call()
    times = []
    for _ in range(CALLS):
        began = time.perf_counter()
        await call()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


async def per_second(call: Call, concurrent: int) -> float:
    calls = CALLS * 2

    async def worker(count: int) -> None:
        for _ in range(count):
            await call()

    began = time.perf_counter()
    await asyncio.gather(*(worker(calls // concurrent) for _ in range(concurrent)))
    return calls / (time.perf_counter() - began)


async def stream_cpu_us(stream: Stream) -> float:
    async def drain() -> None:
        async for _ in stream():
            pass

    for _ in range(20):
        await drain()
    began = time.process_time()
    for _ in range(300):
        await drain()
    return (time.process_time() - began) / 300 * 1e6


async def measure(name: str, base_url: str) -> None:
    client = CLIENTS[name](base_url)
    row = [f"{await p50_us(client.ask):.0f}"]
    row += [f"{await per_second(client.ask, concurrent):,.0f}" for concurrent in (50, 200)]
    row += ["", ""] if client.hit is None else [f"{await p50_us(client.hit):.1f}", f"{await per_second(client.hit, 50):,.0f}"]
    row += [""] if client.stream is None else [f"{await stream_cpu_us(client.stream):.0f}"]
    print(f"| {name} | " + " | ".join(row) + " |", flush=True)


def main() -> None:
    if len(sys.argv) == 3:
        asyncio.run(measure(sys.argv[1], sys.argv[2]))
        # Not by way of a client's own clean-up: one of them crashes there.
        os._exit(0)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    upstream = subprocess.Popen([target / "release" / "upstream"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert upstream.stdout is not None
    base_url = upstream.stdout.readline().strip()
    print("| client | call, p50 µs | calls/s, 50 at once | 200 at once | kept, p50 µs | kept/s | 20 tokens streamed, CPU µs |")
    print("|---|---|---|---|---|---|---|")
    try:
        for name in CLIENTS:
            if importlib.util.find_spec(name.replace("-", "_")) is None:
                print(f"{name} is not installed: pip install {name}", file=sys.stderr)
                continue
            # Each in a process of its own: what one imports slows the next.
            subprocess.run([sys.executable, __file__, name, base_url], check=True)
    finally:
        upstream.terminate()
        upstream.wait()


if __name__ == "__main__":
    main()
