"""Functions as tools: what a model is told of them."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import pytest

from sophia import InvalidInputError, Sophia, UnsupportedError
from sophia._tools import Tool, definition, split


class Model(ThreadingHTTPServer):
    """A provider whose model calls the tool that it is asked for, and then repeats what it was told."""

    bodies: list[dict[str, Any]]

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        self.bodies.append(body)
        *_, last = body["messages"]
        if last["role"] == "tool" or not last["content"].startswith("call "):
            message = {"role": "assistant", "content": last["content"]}
        else:
            _, name, arguments = last["content"].split(" ", 2)
            call = {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        reason = "tool_calls" if "tool_calls" in message else "stop"
        return {"id": "1", "model": "small", "choices": [{"index": 0, "message": message, "finish_reason": reason}]}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        assert isinstance(self.server, Model)
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        body = json.dumps(self.server.answer(asked)).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def model() -> Iterator[Model]:
    server = Model(("127.0.0.1", 0), Handler)
    server.bodies = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def engine(model: Model) -> Sophia:
    base_url = f"http://127.0.0.1:{model.server_address[1]}/v1"
    return Sophia({"chat": {"providers": [{"name": "mock", "base_url": base_url, "models": ["small"]}]}})


def look_up(
    name: str, limit: int = 10, tags: list[str] | None = None, how: Literal["exact", "near"] = "near", more: Any = None
) -> str:
    """Looks a name up.

    In the directory.
    """
    return f"{name}{limit}{tags}{how}{more}"


def test_a_function_is_described_by_its_signature_and_its_docstring() -> None:
    described = definition(look_up)["function"]
    assert (described["name"], described["description"]) == ("look_up", "Looks a name up.\n\nIn the directory.")
    assert described["parameters"]["required"] == ["name"]
    assert described["parameters"]["properties"] == {
        "name": {"type": "string"},
        "limit": {"type": "integer"},
        "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
        "how": {"enum": ["exact", "near"]},
        "more": {},
    }


def test_a_parameter_without_a_name_for_the_model_is_refused() -> None:
    def any_of_them(*names: str) -> str:
        return "".join(names)

    with pytest.raises(TypeError, match="'any_of_them': parameter 'names'"):
        definition(any_of_them)


def test_tools_are_parted_from_functions() -> None:
    own = {"type": "function", "function": {"name": "own"}}
    assert split(None) == (None, [])
    assert split("registry") == (["registry"], [])
    assert split([own, look_up, "registry"]) == ([own, "registry"], [look_up])
    assert split([look_up]) == (None, [look_up])


class Directory:
    """The directory."""

    def __call__(self, name: str, limit: int = 1) -> str:
        return f"{name} {limit}"


def test_partials_and_objects_that_can_be_called_are_functions(model: Model) -> None:
    near = functools.partial(functools.partial(look_up, how="near"), limit=3)
    described = definition(near)["function"]
    assert (described["name"], described["description"][:14]) == ("look_up", "Looks a name u")
    assert (list(described["parameters"]["properties"]), described["parameters"]["required"]) == (["name", "tags", "more"], ["name"])
    described = definition(Directory())["function"]
    assert (described["name"], described["description"]) == ("Directory", "The directory.")
    assert described["parameters"]["properties"] == {"name": {"type": "string"}, "limit": {"type": "integer"}}

    s = engine(model)
    assert s.chat.complete_sync('call look_up {"name": "Ada"}', tools=[near]).text == "Ada3NonenearNone"
    assert s.chat.complete_sync('call Directory {"name": "Ada"}', tools=[Directory()]).text == "Ada 1"
    # What is fixed is not the model's to say, whatever it says.
    answer = s.chat.complete_sync('call look_up {"name": "Ada", "limit": 9}', tools=[near])
    assert answer.assistance is not None and answer.assistance.steps[0].error_code is not None
    assert "'limit'" in answer.text


def test_two_tools_of_one_name_are_refused(model: Model) -> None:
    def another() -> Callable[..., str]:
        def look_up() -> str:
            return ""

        return look_up

    s = engine(model)
    for tools in ([look_up, another()], [look_up, look_up]):
        with pytest.raises(InvalidInputError, match="`tools` hold two tools of the name `look_up`") as refused:
            s.chat.complete_sync("hello", tools=tools)
        assert refused.value.context["field"] == "tools"
    with pytest.raises(InvalidInputError, match="`tools` holds a lambda"):
        s.chat.complete_sync("hello", tools=[lambda: "a", lambda: "b"])
    assert model.bodies == []


def test_the_key_of_an_answer_knows_the_functions(model: Model) -> None:
    s = engine(model)
    own = {"type": "function", "function": {"name": "own", "parameters": {"type": "object"}}}
    alone: list[Tool] = [look_up]
    for tools in (alone, [own, look_up]):
        cache = s.chat.complete_sync("hello", tools=tools).cache
        assert cache.key == s.chat.cache_key("hello", tools=tools) != s.chat.cache_key("hello")
    with pytest.raises(UnsupportedError):
        s.chat.cache_key("hello", tools=[look_up, "registry"])
