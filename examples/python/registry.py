"""Registry: any MCP configuration in, what disagrees out, a tool called, a dead server survived.

Run: python examples/python/registry.py. It starts the reference server of npm, which `npm install` at the root brings.
"""

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from sophia import NotFoundError, Server, Sophia

EVERYTHING = Path(__file__).parents[2] / "node_modules" / ".bin" / "mcp-server-everything"


class Analytics(BaseHTTPRequestHandler):
    """An in-house "MCP server" that speaks plain REST."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(b'{"status": "ok"}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.answer(b'{"result": "Globex, Initech, Umbrella"}')

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


async def main(analytics_url: str) -> None:
    async with Sophia() as s:
        # The format of Claude, Cursor and VS Code; a file's path works as well.
        await s.registry.load({"mcpServers": {"everything": {"command": str(EVERYTHING), "args": ["stdio"]}}})
        tools = await s.registry.list_tools(server="everything")
        print(f"{len(tools)} tools, such as {', '.join(sorted(tool.name for tool in tools)[:4])}")
        result = await s.registry.call("everything", "echo", {"message": "hello"})
        print(f"{result.server} answered {result.text!r} in {result.latency_ms:.1f} ms")
        assert result.ok and "hello" in result.text

        # What several files disagree about, and the fix.
        await s.registry.load({"servers": [{"name": "github", "port": 9007}]}, source="a.yaml")
        await s.registry.load({"active_servers": {"github": 9016, "git-hub": 9007}}, source="b.json")
        for conflict in s.registry.lint():
            print(f"{conflict.kind}: {conflict.message} Fix: {conflict.fix}")

        # A server that is down is passed over for its fallback, and the result says so.
        rest = {"*": "/{tool}"}
        s.registry.register(
            Server(
                "main",
                url="http://127.0.0.1:9",
                transport="rest",
                rest=rest,
                capabilities=["analytics"],
                fallback=["spare"],
            )
        )
        s.registry.register(
            Server(
                "spare",
                url=analytics_url,
                transport="rest",
                rest=rest,
                capabilities=["analytics"],
                health_path="/health",
            )
        )
        print(f"spare is {(await s.registry.check('spare')).status}")
        deals = await s.registry.call("main", "top_deals", {})
        print(f"{deals.server} answered {deals.text!r} after {len(deals.attempts)} attempts")
        assert deals.ok and deals.fallback_used

        try:
            await s.registry.call("nobody", "top_deals", {})
        except NotFoundError as error:
            print(f"{error.code}: {error}")


server = ThreadingHTTPServer(("127.0.0.1", 0), Analytics)
threading.Thread(target=server.serve_forever, daemon=True).start()
asyncio.run(main(f"http://127.0.0.1:{server.server_address[1]}"))
