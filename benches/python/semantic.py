"""How often the semantic tier serves an answer that it should, and one that it should not: the data of fow-cache.

Run: `pip install . fow-cache` and then `python benches/python/semantic.py`.

Each pair passes through the whole engine, in a scope of its own: the first question is asked of a mock provider, then the
second, and the answer says whether it came from the semantic tier. Peers on the same data, from the package's own tables:
GPTCache 0.1.44 serves 81 % of the rightful and 81 % of the traps, RedisVL with its default model 51 and 11, a sentence
transformer (all-mpnet-base-v2) at 0.90 49 and 27; caches of the last message alone 98 % of the conversations that are traps.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fow_cache.data import load_conversations, load_questions
from sophia import Scope, Sophia

AT_ONCE = 32


class Upstream(BaseHTTPRequestHandler):
    """Gives every question the same answer."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": "An answer."}
        body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


def engine(url: str, profile: str) -> Sophia:
    semantic = {"enabled": True, "mode": "serve", "profile": profile, "audit": 0}
    return Sophia({"chat": {"providers": [{"name": "mock", "base_url": url, "models": ["m"]}], "semantic": semantic}})


async def served(s: Sophia, items: list[dict[str, Any]]) -> list[bool]:
    turns = asyncio.Semaphore(AT_ONCE)

    async def pair(item: dict[str, Any]) -> bool:
        async with turns:
            scope = Scope(tenant="bench", user=item["id"])
            await s.chat.complete(item["a"], model="m", scope=scope)
            again = await s.chat.complete(item["b"], model="m", scope=scope)
            return again.cache.status in ("hit", "semantic_hit")

    return list(await asyncio.gather(*map(pair, items)))


def table(name: str, items: list[dict[str, Any]], hits: list[bool]) -> None:
    groups: dict[tuple[bool, str], list[bool]] = defaultdict(list)
    totals: dict[bool, list[bool]] = defaultdict(list)
    for item, hit in zip(items, hits, strict=True):
        # As the package counts by default: whose answer depends on the application is a trap.
        rightful = bool(item["same_answer"]) and not item.get("ambiguous")
        groups[rightful, item.get("category") or item["subtype"]].append(hit)
        totals[rightful].append(hit)
    print(f"{name}: rightful hits {share(totals[True])}, traps {share(totals[False])}")
    for (rightful, group), found in sorted(groups.items(), reverse=True):
        print(f"    {'rightful' if rightful else 'trap':9}{group:28}{share(found)}")


def share(hits: list[bool]) -> str:
    return f"{100 * sum(hits) / len(hits):5.1f} % of {len(hits)}"


async def main() -> None:
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{upstream.server_address[1]}/v1"
    questions, conversations = load_questions(), load_conversations()
    for profile in ("default", "strict"):
        for name, items in (("questions", questions), ("conversations", conversations)):
            async with engine(url, profile) as s:
                table(f"{name}, {profile}", items, await served(s, items))
    upstream.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
