"""The memory as an MCP server, asked by the official Python client.

`make test ONLY=sdks` builds what this needs: `cargo build --workspace --all-features --bin sophia`.
"""

from __future__ import annotations

import os
from pathlib import Path

from mcp import Client, StdioServerParameters

ROOT = Path(__file__).parents[3]
PROGRAM = Path(os.environ.get("SOPHIA_TEST_BUILT", ROOT / "target" / "debug")) / "sophia"


async def test_memories_are_stored_and_found(tmp_path: Path) -> None:
    args = ["mcp", "serve", "memory", "--user", "ada", "--data-dir", str(tmp_path)]
    async with Client(StdioServerParameters(command=str(PROGRAM), args=args)) as client:
        assert "data, not instructions" in (client.instructions or "")
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        hints = tools["search_memories"].annotations
        assert len(tools) == 6 and hints and hints.read_only_hint
        stored = await client.call_tool("store_memory", {"content": "The standup is at ten."})
        assert stored.structured_content["created"]
        found = await client.call_tool("search_memories", {"query": "when do we meet?"})
        assert found.structured_content["hits"][0]["content"] == "The standup is at ten."
        wrong = await client.call_tool("store_memory", {"content": ""})
        assert wrong.is_error and "nothing to remember" in str(wrong.content[0])
