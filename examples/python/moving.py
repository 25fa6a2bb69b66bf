"""Moving: take over what another tool kept, offer it to a model as tools, move it on, back it up and check it.

Run: python examples/python/moving.py
"""

import asyncio
import json
import tempfile
from pathlib import Path

from sophia import Scope, Server, Sophia

ADA = Scope(tenant="acme", user="ada")
# What the MCP reference server `server-memory` keeps in its memory.jsonl.
KEPT_ELSEWHERE = [
    {"type": "entity", "name": "Ada", "entityType": "person", "observations": ["likes tea"]},
    {"type": "entity", "name": "Acme", "entityType": "company", "observations": []},
    {"type": "relation", "from": "Ada", "to": "Acme", "relationType": "works_at"},
]


async def main(directory: Path) -> None:
    kept = directory / "memory.jsonl"
    kept.write_text("\n".join(json.dumps(line) for line in KEPT_ELSEWHERE), encoding="utf-8")
    async with Sophia(data_dir=directory / "data") as s:
        # Who wrote a file is told from what stands in it. Made again, an import changes nothing.
        taken = await s.memory.import_(kept, scope=ADA)
        again = await s.memory.import_(kept, scope=ADA)
        print(f"{taken.format}: {taken.added} added; again: {again.added} added, {again.unchanged} unchanged")

        # The graph and the records are tools of the registry: for `chat`, for callers, and by `sophia mcp serve` for others.
        s.registry.register(Server("graph", url="sophia://graph"))
        s.registry.register(Server("memory", url="sophia://memory"))
        found = await s.registry.call("graph", "search_nodes", {"query": "tea"}, scope=ADA)
        print("who likes tea:", found.data["entities"][0]["name"])
        await s.registry.call("memory", "store_memory", {"content": "Ada wants reports as PDF."}, scope=ADA)

        # Everything in lines of JSON, and a copy of the data file while others write.
        written = await s.memory.export(directory / "all.jsonl")
        backup = await s.memory.backup(directory / "backup.db")
        print(f"exported {written.records} record, {written.entities} entities, {written.facts} fact")
        print(f"backed up {backup.bytes} bytes; whole: {(await s.memory.check()).ok}")

    async with Sophia(data_dir=directory / "other") as s:
        taken = await s.memory.import_(directory / "all.jsonl")
        hits = (await s.memory.search("which file format?", scope=ADA)).hits
        print(f"moved {taken.added} things; found again: {hits[0].record.content!r}")
        assert taken.added == written.records + written.entities + written.facts


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(main(Path(name)))
