"""Providers of other protocols, through the facade: the same answers, with what only they have."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from pydantic import BaseModel
from sophia import ChatResponse, InvalidConfigError, Scope, Sophia, UnavailableError, UnsupportedError
from sophia.langchain_chat import ChatSophia

THINKING = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "small",
    "content": [THINKING, {"type": "text", "text": "Hello."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 0, "output_tokens": 5},
}
CITY = {"name": "Zurich", "people": 400_000}
ITEM = {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "Hello."}]}
USAGE = {"input_tokens": 7, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 4}}
RESPONSE = {"id": "r", "object": "response", "status": "completed", "model": "small", "output": [ITEM], "usage": USAGE}


def message_events() -> Iterator[dict[str, Any]]:
    yield {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}}
    yield {"type": "content_block_start", "index": 0, "content_block": {**THINKING, "thinking": "", "signature": ""}}
    yield {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm."}}
    yield {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "c2ln"}}
    yield {"type": "content_block_stop", "index": 0}
    yield {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}
    for text in ("Hel", "lo."):
        yield {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": text}}
    yield {"type": "content_block_stop", "index": 1}
    yield {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}
    yield {"type": "message_stop"}


@contextmanager
def upstream() -> Iterator[tuple[str, list[Any]]]:
    """A server of Messages and of Responses; `overloaded` is answered with 529."""
    seen: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            seen.append((self.path, dict(self.headers), body))
            whole = MESSAGE if self.path.endswith("/messages") else RESPONSE
            if body.get("tools"):
                call = {"type": "tool_use", "id": "t1", "name": body["tools"][0]["name"], "input": CITY}
                whole = {**MESSAGE, "content": [THINKING, call], "stop_reason": "tool_use"}
            kind, text = "application/json", json.dumps(whole)
            if body.get("stream"):
                kind = "text/event-stream"
                text = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in message_events())
            overloaded = "overloaded" in json.dumps(body)
            self.send_response(529 if overloaded else 200)
            self.send_header("content-type", kind)
            self.end_headers()
            self.wfile.write(text.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def in_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    @functools.wraps(test)
    def run() -> None:
        async def main() -> None:
            await test()

        asyncio.run(main())

    return run


def engine(kind: str, base_url: str) -> Sophia:
    provider = {"name": "p", "kind": kind, "base_url": base_url, "api_key": "k", "models": ["small"]}
    return Sophia({"chat": {"providers": [provider], "retry": {"retries": 0}}})


@in_loop
async def test_messages_and_responses_answer_like_any_provider() -> None:
    for kind, path in (("anthropic", "/v1/messages"), ("responses", "/v1/responses")):
        with upstream() as (base_url, seen):
            async with engine(kind, base_url) as s:
                answer = await s.chat.complete("Hi", model="small", max_tokens=9)
                assert isinstance(answer, ChatResponse)
                assert (answer.text, answer.finish_reason, answer.usage.prompt_tokens) == ("Hello.", "stop", 7)
                assert answer.usage.cached_tokens == 4
                assert (await s.chat.complete("Hi", model="small", max_tokens=9)).cache.status == "hit"
            ((asked, headers, body),) = seen
            assert asked == path
            assert body["max_tokens" if kind == "anthropic" else "max_output_tokens"] == 9
            assert headers["x-api-key" if kind == "anthropic" else "authorization"].endswith("k")


@in_loop
async def test_thoughts_stream_and_go_back_signed() -> None:
    with upstream() as (base_url, seen):
        async with engine("anthropic", base_url) as s:
            for status in ("miss", "hit"):
                chunks = [chunk async for chunk in s.chat.stream("Hi", model="small")]
                assert "".join(chunk.delta for chunk in chunks) == "Hello."
                assert "".join(chunk.reasoning or "" for chunk in chunks) == "Hm."
                assert chunks[-1].cache is not None and chunks[-1].cache.status == status
            first = await s.chat.complete("Hi", model="small")
            history = [{"role": "user", "content": "Hi"}, first.message, {"role": "user", "content": "And?"}]
            await s.chat.complete(history, model="small")
        assert seen[-1][2]["messages"][1] == {"role": "assistant", "content": MESSAGE["content"]}
        assert len(seen) == 2


@in_loop
async def test_failures_have_their_names() -> None:
    with upstream() as (base_url, seen):
        async with engine("anthropic", base_url) as s:
            with pytest.raises(UnavailableError):
                await s.chat.complete("overloaded", model="small")
            with pytest.raises(UnsupportedError, match="`seed` has no counterpart in Anthropic's Messages"):
                await s.chat.complete("Hi", model="small", seed=7)
        assert len(seen) == 1
    with pytest.raises(InvalidConfigError, match="anthropic"):
        engine("antropic", "http://127.0.0.1:1")


class City(BaseModel):
    """A city."""

    name: str
    people: int


def chat_model(s: Sophia) -> ChatSophia:
    return ChatSophia(sophia=s, model="small", scope=Scope(user="ada"))


def test_langchain_asks_through_the_cache() -> None:
    with upstream() as (base_url, seen), engine("anthropic", base_url) as s:
        model = chat_model(s)
        first, again = model.invoke("Hi"), model.invoke("Hi")
        assert (first.text, first.response_metadata["finish_reason"]) == ("Hello.", "stop")
        assert (first.response_metadata["cache"], again.response_metadata["cache"]) == ("miss", "hit")
        assert first.usage_metadata is not None and first.usage_metadata["total_tokens"] == 12
        assert first.additional_kwargs["reasoning_content"] == "Hm."
        other = ChatSophia(sophia=s, model="small", scope=Scope(user="bob"))
        assert other.invoke("Hi").response_metadata["cache"] == "miss"
        # Its thoughts go back as they were signed.
        model.invoke([HumanMessage("Hi"), first, HumanMessage("And?")])
        assert seen[-1][2]["messages"][1] == {"role": "assistant", "content": MESSAGE["content"]}
        with pytest.raises(UnavailableError):
            model.invoke("overloaded")


@in_loop
async def test_langchain_streams() -> None:
    with upstream() as (base_url, seen):
        async with engine("anthropic", base_url) as s:
            parts = [part async for part in chat_model(s).astream("Hi")]
            assert [part.text for part in parts if part.text] == ["Hel", "lo."]
            whole = functools.reduce(lambda left, right: left + right, parts)
            assert whole.usage_metadata is not None and whole.usage_metadata["input_tokens"] == 7
            assert (whole.text, whole.additional_kwargs["reasoning_content"]) == ("Hello.", "Hm.")
            assert (whole.response_metadata["finish_reason"], whole.response_metadata["model_name"]) == ("stop", "small")
            assert (await chat_model(s).ainvoke("Hi")).response_metadata["cache"] == "hit"
            # What was streamed can be sent back: its thoughts go as they were signed.
            await chat_model(s).ainvoke([HumanMessage("Hi"), whole, HumanMessage("And?")])
            assert seen[-1][2]["messages"][1] == {"role": "assistant", "content": MESSAGE["content"]}


def test_langchain_binds_tools_and_reads_structured_answers() -> None:
    with upstream() as (base_url, seen), engine("anthropic", base_url) as s:
        answer = chat_model(s).bind_tools([City], tool_choice="any").invoke("Where?")
        assert [(call["name"], call["args"], call["id"]) for call in answer.tool_calls] == [("City", CITY, "t1")]
        assert seen[0][2]["tool_choice"] == {"type": "any"}
        asked = [HumanMessage("Where?"), answer, ToolMessage("there", tool_call_id="t1")]
        chat_model(s).invoke(asked)
        result = {"type": "tool_result", "tool_use_id": "t1", "content": "there"}
        assert seen[-1][2]["messages"][2] == {"role": "user", "content": [result]}
        assert chat_model(s).with_structured_output(City).invoke("Where is it?") == City(name="Zurich", people=400_000)
