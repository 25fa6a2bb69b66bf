"""Memory and tools around a question: what the scope knows is recalled, and functions are called until there is an answer.

Run: python examples/python/tools.py. It asks a stand-in for a model, which calls the first tool that it is offered and then
repeats what the tool said; for a real model give `providers` its base_url and key.
"""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from sophia import Scope, Sophia

ADA = Scope(tenant="acme", user="ada", session="monday")


def forecast(city: str, unit: Literal["celsius", "fahrenheit"] = "celsius") -> dict[str, Any]:
    """Tells how warm a city will be tomorrow."""
    return {"city": city, "high": 12 if unit == "celsius" else 54, "unit": unit}


async def main(base_url: str) -> None:
    providers = [{"name": "stand-in", "base_url": base_url, "models": ["stand-in"]}]
    async with Sophia({"chat": {"providers": providers}}) as s:
        await s.memory.store("Ada lives in Oslo and goes to work by bike.", scope=Scope(tenant="acme", user="ada"))
        question = "Do I need a warm coat in Oslo?"
        answer = await s.chat.complete(question, scope=ADA, memory={"store": True}, tools=[forecast])
        help = answer.assistance
        assert help is not None and help.recalled is not None
        print(answer.text)
        print(f"asked {help.rounds} times; recalled {len(help.recalled.ids)} note; stored {len(help.recalled.stored)} messages")
        for step in help.steps:
            print(f"round {step.round}: {step.tool}({step.arguments}) -> {step.result}")
        assert (help.rounds, help.steps[0].tool, len(help.recalled.ids)) == (2, "forecast", 1)
        assert json.loads(help.steps[0].result)["high"] == 12

        # The exchange is in memory, and a stream does all of this as well.
        said = await s.memory.history(scope=ADA)
        assert [message.content for message in said] == [question, answer.text]
        parts = [part async for part in s.chat.stream("And in Rome?", scope=ADA, tools=[forecast])]
        assert parts[-1].assistance is not None and parts[-1].assistance.rounds == 2
        print("streamed:", "".join(part.delta for part in parts))


class StandIn(BaseHTTPRequestHandler):
    """Calls the first tool with the city of the question, and repeats what it said."""

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the terminal for the program that is shown."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        last = asked["messages"][-1]
        message: dict[str, Any] = {"role": "assistant", "content": f"The tool says: {last['content']}"}
        if last["role"] != "tool":
            arguments = json.dumps({"city": "Rome" if "Rome" in last["content"] else "Oslo"})
            call = {"name": asked["tools"][0]["function"]["name"], "arguments": arguments}
            message = {"role": "assistant", "content": None}
            message["tool_calls"] = [{"index": 0, "id": "call-1", "type": "function", "function": call}]
        reason = "tool_calls" if "tool_calls" in message else "stop"
        choice = {"index": 0, "finish_reason": reason}
        if asked.get("stream"):
            events = [{"id": "1", "model": "stand-in", "choices": [choice | {"delta": message}]}]
            body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        else:
            body = json.dumps({"id": "1", "model": "stand-in", "choices": [choice | {"message": message}]})
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if asked.get("stream") else "application/json")
        self.send_header("content-length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asyncio.run(main(f"http://127.0.0.1:{server.server_address[1]}/v1"))
