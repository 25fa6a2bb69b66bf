"""The HTTP surface as an ASGI application: `app.mount("/", s.asgi())` in FastAPI, or `uvicorn module:app` by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from ._sophia import Stream
from ._wire import settled

if TYPE_CHECKING:
    from ._engine import Sophia

__all__ = ["AsgiApp"]

Message = MutableMapping[str, Any]
AsgiScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

POLICY_VIOLATION = 1008
"""WebSocket close code of a caller that may not listen (RFC 6455, 7.4.1)."""


class AsgiApp:
    """Serves every route of the surface, WebSockets included, on the engine it was made by.

    Under a host that sends lifespan events to it, it starts and closes the engine; mounted in an application, that
    application does (`async with sophia`).
    """

    def __init__(self, sophia: Sophia) -> None:
        self._sophia = sophia

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(receive, send)

    async def _http(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        surface = self._sophia._engine.http()
        body = await _body(receive, surface.max_body_bytes)
        if body is None:
            return
        stream = surface.request(scope["method"], _target(scope), list(scope["headers"]), body, _peer(scope))
        gone = asyncio.ensure_future(_until_disconnected(receive))
        try:
            head = await _next(stream, gone)
            if head is None:
                return
            await send({"type": "http.response.start", "status": head["status"], "headers": _headers(head)})
            while (chunk := await _next(stream, gone)) is not None:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if not gone.done():
                await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            stream.close()

    async def _websocket(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        await receive()
        live = self._sophia._engine.http().live(_target(scope), list(scope["headers"]), _peer(scope))
        if live is None:
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            return
        stream, subprotocol = live
        await send({"type": "websocket.accept", "subprotocol": subprotocol})
        gone = asyncio.ensure_future(_until_disconnected(receive))
        try:
            while (text := await _next(stream, gone)) is not None:
                await send({"type": "websocket.send", "text": text})
            if not gone.done():
                await send({"type": "websocket.close"})
        finally:
            gone.cancel()
            stream.close()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            phase = message["type"].removeprefix("lifespan.")
            try:
                await (self._sophia.start() if phase == "startup" else self._sophia.close())
            except Exception as failure:
                await send({"type": f"lifespan.{phase}.failed", "message": str(failure)})
                raise
            await send({"type": f"lifespan.{phase}.complete"})
            if phase == "shutdown":
                return


async def _body(receive: Receive, limit: int) -> bytes | None:
    """Reads the body, or no more of it than it takes to see that it is too long; None where the caller has left."""
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False) and size <= limit
    return b"".join(chunks)


async def _next(stream: Stream, gone: asyncio.Future[None]) -> Any:
    """Returns the next item of a stream; None at its end, or when the caller has left."""
    item = asyncio.ensure_future(settled(stream.next()))
    try:
        await asyncio.wait({item, gone}, return_when=asyncio.FIRST_COMPLETED)
        return item.result() if item.done() else None
    finally:
        item.cancel()


async def _until_disconnected(receive: Receive) -> None:
    while not (await receive())["type"].endswith("disconnect"):
        await asyncio.sleep(0)  # a host that repeats itself at once must not keep the loop from the answer


def _target(scope: AsgiScope) -> str:
    # The raw path keeps its escapes; a mounted application sees the path of the whole one.
    path: str = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1").partition("?")[0]
    path = path.removeprefix(scope.get("root_path", "")) or "/"
    query: str = scope.get("query_string", b"").decode("latin-1")
    return f"{path}?{query}" if query else path


def _peer(scope: AsgiScope) -> str | None:
    """Returns who asks: None is this machine, over a Unix socket; an address that is not known is nobody's."""
    client, server = scope.get("client"), scope.get("server")
    if client is not None:
        return str(client[0])
    return None if server is None or server[1] is None else "unknown"


def _headers(head: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head["headers"]]
