"""Export and import, backup, check, extraction, and the memory as an MCP server of `python -m sophia`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from sophia import ConflictError, InvalidInputError, NotFoundError, Scope, Server, Sophia, UnavailableError

ADA = Scope(tenant="acme", user="ada")


async def test_an_export_is_imported_whole_and_only_once(tmp_path: Path) -> None:
    async with Sophia(data_dir=tmp_path / "from") as s:
        stored = await s.memory.store("Ada wants a PDF.", scope=ADA, tags=["report"])
        await s.memory.update(stored.id, scope=ADA, content="Ada wants a spreadsheet.")
        await s.memory.kv.set("plan", {"seats": 3}, scope=ADA)
        written = await s.memory.export(tmp_path / "all.jsonl")
        assert (written.records, written.versions, written.keys) == (1, 1, 1)
        assert written.bytes == (tmp_path / "all.jsonl").stat().st_size
        with pytest.raises(ConflictError):
            await s.memory.export(tmp_path / "all.jsonl")
        saved = await s.memory.backup(tmp_path / "backup.db")
        assert saved.bytes > 0 and Path(saved.path) == tmp_path / "backup.db"
        report = await s.memory.check(repair=True)
        assert report.ok and report.problems == []
    with Sophia(data_dir=tmp_path / "to") as s:
        assert s.memory.import_sync(tmp_path / "all.jsonl").added == 2
        again = s.memory.import_sync(str(tmp_path / "all.jsonl"), format="sophia")
        assert (again.format, again.added, again.unchanged) == ("sophia", 0, 2)
        assert [version.content for version in s.memory.versions_sync(stored.id, scope=ADA)] == [
            "Ada wants a PDF.",
            "Ada wants a spreadsheet.",
        ]
        assert s.memory.kv.get_sync("plan", scope=ADA) == {"seats": 3}


async def test_files_of_others_are_taken_over(tmp_path: Path) -> None:
    memory = {"id": "m1", "memory": "Ada likes tea", "user_id": "ada", "created_at": "2025-06-01T10:00:00Z"}
    (tmp_path / "mem0.json").write_text(json.dumps({"results": [memory]}))
    s = Sophia()
    receipt = await s.memory.import_(tmp_path / "mem0.json", scope={"tenant": "acme"})
    assert (receipt.format, receipt.added) == ("mem0", 1)
    assert (await s.memory.search("drinks", scope=ADA)).hits[0].record.id == "m1"
    with pytest.raises(NotFoundError):
        await s.memory.import_(tmp_path / "nothing")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InvalidInputError, match="none of the files that are known"):
        await s.memory.import_(tmp_path / "text")
    with pytest.raises(InvalidInputError):
        await s.memory.import_(tmp_path / "text", format="mem1")  # type: ignore[arg-type]


@pytest.fixture
def model() -> Iterator[tuple[str, list[str]]]:
    """A model that answers with the texts that it is given, in order."""
    texts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            message = {"role": "assistant", "content": texts.pop(0)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            answer = json.dumps({"id": "1", "object": "chat.completion", "model": "small", "choices": [choice]})
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", texts
    server.shutdown()


async def test_a_model_writes_down_the_facts_of_a_text(model: tuple[str, list[str]]) -> None:
    url, texts = model
    s = Sophia({"chat": {"providers": [{"name": "m", "kind": "openai", "base_url": url, "models": ["small"]}]}})
    fact = {"subject": "Ada", "predicate": "likes", "object": "tea", "functional": False}
    fact |= {"valid_at": None, "invalid_at": None}
    texts += [json.dumps({"entities": [{"name": "Ada", "kind": "person"}], "facts": [fact]}), "I would rather not."]
    found = await s.memory.graph.extract("Ada likes tea.", scope=ADA, source="note-1", at="2025-01-01T00:00:00Z")
    assert (found.entities[0].kind, found.facts[0].source) == ("person", "note-1")
    assert [fact.object for fact in await s.memory.graph.facts(subject="Ada", scope=ADA)] == ["tea"]
    with pytest.raises(UnavailableError, match="JSON"):
        await s.memory.graph.extract("Ada likes coffee.", scope=ADA)


async def test_the_memory_is_a_server_of_the_registry() -> None:
    s = Sophia()
    s.registry.register(Server("memory", url="sophia://memory"))
    stored = await s.registry.call("memory", "store_memory", {"content": "Ada likes tea."}, scope=ADA)
    assert stored.ok and stored.data["created"]
    assert len(await s.registry.list_tools(server="memory")) == 6
    assert (await s.memory.search("tea", scope=ADA)).total == 1


async def test_a_watch_of_the_registry_ends_when_the_engine_is_closed() -> None:
    s = Sophia()
    changes = s.registry.watch()
    s.registry.register(Server("memory", url="sophia://memory"))
    assert (await anext(changes)).server == "memory"
    waiting = asyncio.ensure_future(anext(changes, None))
    await asyncio.sleep(0)
    await s.close()
    assert await asyncio.wait_for(waiting, 10) is None


async def test_python_serves_the_memory_over_mcp(tmp_path: Path) -> None:
    args = ["-m", "sophia", "mcp", "serve", "graph", "--user", "ada", "--data-dir", str(tmp_path)]
    async with Client(StdioServerParameters(command=sys.executable, args=args)) as client:
        entity = {"name": "Ada", "entityType": "person", "observations": ["likes tea"]}
        created = await client.call_tool("create_entities", {"entities": [entity]})
        assert created.structured_content == {"entities": [entity]}
    async with Sophia(data_dir=tmp_path) as s:
        assert (await s.memory.export(tmp_path / "all.jsonl", scope=Scope(user="ada"))).entities == 1
