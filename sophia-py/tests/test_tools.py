"""Functions as tools: what a model is told of them."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any, Literal

import pytest
from openai.types.chat import ChatCompletionMessage
from pydantic import BaseModel

from sophia import InvalidInputError, RateLimitedError, Sophia, UnsupportedError
from sophia._tools import Tool, definition, split

from .conftest import Model, engine


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
    given: Any = (tool for tool in (own, look_up))
    assert split(given) == ([own], [look_up])


@pytest.mark.parametrize("tools", [5, look_up, {"type": "function"}])
def test_what_is_no_list_of_tools_is_refused(tools: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"`tools` must be a list .* not a value of type `{type(tools).__name__}`") as refused:
        Sophia().chat.complete_sync("hello", tools=tools)
    assert refused.value.context["field"] == "tools"


def test_what_an_sdk_answered_and_models_of_ones_own_are_messages(model: Model) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    answered = ChatCompletionMessage.model_validate({"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]})

    class Told(BaseModel):
        role: str = "tool"
        tool_call_id: str
        content: str
        name: str | None = None

    assert engine(model).chat.complete_sync([answered, Told(tool_call_id="1", content="Ada")]).text == "Ada"
    # As from the SDK: to a provider, null is no list of calls.
    assert model.bodies[-1]["messages"] == [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "Ada"},
    ]


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


def test_what_a_tool_raises_has_a_code_of_its_own(model: Model) -> None:
    def fail(how: str) -> str:
        raise {"ours": RateLimitedError("slowly"), "late": TimeoutError("late")}.get(how, ValueError("broken"))

    s = engine(model)
    for how, code in (("ours", "RATE_LIMITED"), ("late", "TIMEOUT"), ("else", "UNAVAILABLE")):
        answer = s.chat.complete_sync(f'call fail {{"how": "{how}"}}', tools=[fail])
        assert answer.assistance is not None and answer.assistance.steps[0].error_code == code


def test_tools_are_called_also_where_the_question_holds_up_their_loop(model: Model) -> None:
    async def look_up(name: str) -> str:
        await asyncio.sleep(0)
        return f"{name} {threading.current_thread() is threading.main_thread()}"

    async def main() -> None:
        async with engine(model) as s:
            for tools in ([look_up], [Directory()]):
                name = definition(tools[0])["function"]["name"]
                answer = s.chat.complete_sync(f'call {name} {{"name": "Ada"}}', tools=tools, timeout=5)
                assert answer.text in ("Ada False", "Ada 1")
            # Where nothing holds it up, they run on the loop.
            assert (await s.chat.complete('call look_up {"name": "Bob"}', tools=[look_up])).text == "Bob True"

    asyncio.run(main())


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
    asked: list[list[Tool]] = [[look_up], [own, look_up]]
    for tools in asked:
        cache = s.chat.complete_sync("hello", tools=tools).cache
        assert cache.key == s.chat.cache_key("hello", tools=tools) != s.chat.cache_key("hello")
    with pytest.raises(UnsupportedError):
        s.chat.cache_key("hello", tools=[look_up, "registry"])
