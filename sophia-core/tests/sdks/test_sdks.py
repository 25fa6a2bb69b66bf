"""The real Python SDKs, pointed at a served engine: they work by changing their `base_url`.

`make test ONLY=sdks` builds what this needs: `cargo build --workspace --all-features --example served_mock`.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

ROOT = Path(__file__).parents[3]
PROGRAM = Path(os.environ.get("SOPHIA_TEST_BUILT", ROOT / "target" / "debug")) / "examples" / "served_mock"
UPSTREAMS = ["openai", "anthropic", "responses"]


class City(BaseModel):
    name: str
    people: int


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["name", "people"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[str, str]]:
    with subprocess.Popen([PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin and program.stdout
        yield json.loads(program.stdout.readline())
        program.stdin.close()


@pytest.fixture(params=UPSTREAMS)
def base(request: pytest.FixtureRequest, addresses: dict[str, str]) -> str:
    """An engine over a provider of each protocol."""
    return addresses[request.param]


@pytest.fixture
def oai(base: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{base}/v1", api_key="test-key", max_retries=0) as client:
        yield client


@pytest.fixture
def ant(base: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=base, api_key="test-key", max_retries=0) as client:
        yield client


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


FUNCTION: Any = {"type": "function", "function": {"name": "find", "parameters": SCHEMA}}


class TestChatCompletions:
    def test_complete_and_stream(self, oai: openai.OpenAI) -> None:
        answer = oai.chat.completions.create(model="small", messages=user("hello you"))
        assert answer.choices[0].message.content == "You asked: hello you"
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage and (answer.usage.prompt_tokens, answer.usage.total_tokens) == (10, 15)
        raw = oai.chat.completions.with_raw_response.create(model="small", messages=user("hello you"))
        assert raw.headers["x-sophia-cache"] == "hit"
        with oai.chat.completions.stream(model="small", messages=user("tell me more")) as stream:
            deltas = [event.delta for event in stream if event.type == "content.delta"]
            final = stream.get_final_completion()
        assert "".join(deltas) == "You asked: tell me more" == final.choices[0].message.content
        assert len(deltas) > 1

    def test_tools_and_structured_output(self, oai: openai.OpenAI) -> None:
        messages = user("fault:tool_call")
        answer = oai.chat.completions.create(model="small", messages=messages, tools=[FUNCTION])
        (call,) = answer.choices[0].message.tool_calls or []
        assert call.type == "function" and (call.function.name, call.function.arguments) == ("find", '{"x":1}')
        assert answer.choices[0].finish_reason == "tool_calls"
        with oai.chat.completions.stream(model="small", messages=messages, tools=[FUNCTION]) as stream:
            streamed = stream.get_final_completion().choices[0].message.tool_calls or []
        assert [call.function.arguments for call in streamed] == ['{"x":1}']
        messages += [answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "42"}]
        result = oai.chat.completions.create(model="small", messages=messages, tools=[FUNCTION])
        assert result.choices[0].message.content == "You asked: 42"
        parsed = oai.chat.completions.parse(model="small", messages=user("Zurich"), response_format=City)
        assert parsed.choices[0].message.parsed == City(name="Zurich", people=1)

    def test_embeddings_and_models(self, addresses: dict[str, str]) -> None:
        with openai.OpenAI(base_url=f"{addresses['openai']}/v1", api_key="test-key") as client:
            found = client.embeddings.create(model="small", input=["a", "bbb"])
            assert [vector.embedding for vector in found.data] == [[1.0, 1.0], [3.0, 1.0]]
            assert [model.id for model in client.models.list()] == ["small"]
            assert client.models.retrieve("small").owned_by == "mock"


class TestResponses:
    def test_complete_and_stream(self, oai: openai.OpenAI) -> None:
        answer = oai.responses.create(model="small", instructions="Be brief.", input="hello you")
        assert (answer.output_text, answer.status) == ("You asked: hello you", "completed")
        assert answer.usage and (answer.usage.input_tokens, answer.usage.output_tokens) == (10, 5)
        with oai.responses.stream(model="small", input="tell me more") as stream:
            events = list(stream)
            final = stream.get_final_response()
        assert [event.sequence_number for event in events] == list(range(len(events)))
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert "".join(deltas) == "You asked: tell me more" == final.output_text
        assert len(deltas) > 1

    def test_reasoning_tools_and_structured_output(self, oai: openai.OpenAI) -> None:
        thought = oai.responses.create(model="small", input="fault:reasoning")
        assert thought.output[0].type == "reasoning"
        assert "".join(part.text for part in thought.output[0].summary) == "Hm, let me see."
        function: Any = {"type": "function", "name": "find", "parameters": SCHEMA, "strict": True}
        asked: list[Any] = user("fault:tool_call")
        answer = oai.responses.create(model="small", input=asked, tools=[function])
        (call,) = answer.output
        assert call.type == "function_call" and (call.name, call.arguments) == ("find", '{"x":1}')
        with oai.responses.stream(model="small", input=asked, tools=[function]) as stream:
            (streamed,) = stream.get_final_response().output
        assert streamed.type == "function_call" and streamed.arguments == '{"x":1}'
        asked += [call, {"type": "function_call_output", "call_id": call.call_id, "output": "42"}]
        result = oai.responses.create(model="small", input=asked, tools=[function])
        assert result.output_text == "You asked: 42"
        parsed = oai.responses.parse(model="small", input="Zurich", text_format=City)
        assert parsed.output_parsed == City(name="Zurich", people=1)


class TestMessages:
    def test_complete_and_stream(self, ant: anthropic.Anthropic) -> None:
        answer = ant.messages.create(model="small", max_tokens=99, system="Be brief.", messages=user("hello you"))
        assert [block.text for block in answer.content if block.type == "text"] == ["You asked: hello you"]
        assert (answer.stop_reason, answer.usage.output_tokens) == ("end_turn", 5)
        assert answer.usage.cache_read_input_tokens == 4
        with ant.messages.stream(model="small", max_tokens=99, messages=user("tell me more")) as stream:
            deltas = list(stream.text_stream)
            final = stream.get_final_message()
        assert "".join(deltas) == "You asked: tell me more" == final.content[-1].text  # type: ignore[union-attr]
        assert len(deltas) > 1 and final.usage.output_tokens == 5

    def test_thinking_tools_and_structured_output(self, ant: anthropic.Anthropic) -> None:
        with ant.messages.stream(model="small", max_tokens=99, messages=user("fault:reasoning")) as stream:
            thought = stream.get_final_message().content[0]
        assert thought.type == "thinking" and thought.thinking == "Hm, let me see."
        function: Any = {"name": "find", "input_schema": SCHEMA}
        asked = user("fault:tool_call")
        answer = ant.messages.create(model="small", max_tokens=99, messages=asked, tools=[function])
        call = answer.content[-1]
        assert call.type == "tool_use" and (call.name, call.input, answer.stop_reason) == ("find", {"x": 1}, "tool_use")
        with ant.messages.stream(model="small", max_tokens=99, messages=asked, tools=[function]) as stream:
            streamed = stream.get_final_message().content[-1]
        assert streamed.type == "tool_use" and streamed.input == {"x": 1}
        result = [{"type": "tool_result", "tool_use_id": call.id, "content": "42"}]
        asked += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": result}]
        done = ant.messages.create(model="small", max_tokens=99, messages=asked, tools=[function])
        assert done.content[-1].text == "You asked: 42"  # type: ignore[union-attr]
        parsed = ant.messages.parse(model="small", max_tokens=99, messages=user("Zurich"), output_format=City)
        assert parsed.parsed_output == City(name="Zurich", people=1)

    def test_models(self, ant: anthropic.Anthropic) -> None:
        assert [model.id for model in ant.models.list()] == ["small"]


class TestErrors:
    """Each failure is the SDK's own exception, for whole answers and for streams."""

    @pytest.mark.parametrize(
        ("fault", "name"),
        [
            ("fail:400", "BadRequestError"),
            ("fail:401", "AuthenticationError"),
            ("fail:404", "NotFoundError"),
            ("fault:limit", "RateLimitError"),
            ("fail:500", "InternalServerError"),
            ("fault:cut", None),
        ],
    )
    def test_by_kind(self, fault: str, name: str | None, oai: openai.OpenAI, ant: anthropic.Anthropic) -> None:
        text = f"{fault} one two three"
        for call in (
            lambda: oai.chat.completions.create(model="small", messages=user(text)),
            lambda: list(oai.chat.completions.create(model="small", messages=user(text), stream=True)),
            lambda: oai.responses.create(model="small", input=text),
            lambda: list(oai.responses.create(model="small", input=text, stream=True)),
        ):
            with pytest.raises(getattr(openai, name) if name else openai.APIError) as raised:
                call()
            assert "upstream-key" not in str(raised.value)
        for call in (
            lambda: ant.messages.create(model="small", max_tokens=9, messages=user(text)),
            lambda: list(ant.messages.create(model="small", max_tokens=9, messages=user(text), stream=True)),
        ):
            with pytest.raises(getattr(anthropic, name) if name else anthropic.APIStatusError):
                call()

    def test_overloaded_and_unsupported_and_keys(self, base: str, addresses: dict[str, str]) -> None:
        with anthropic.Anthropic(base_url=base, api_key="test-key", max_retries=0) as ant:
            with pytest.raises(anthropic.InternalServerError) as overloaded:
                ant.messages.create(model="small", max_tokens=9, messages=user("fault:overloaded"))
            assert overloaded.value.status_code == 529
            if base != addresses["anthropic"]:
                with pytest.raises(anthropic.BadRequestError, match="`top_k` has no counterpart"):
                    ant.messages.create(model="small", max_tokens=9, messages=user("x"), extra_body={"top_k": 3})
        with anthropic.Anthropic(base_url=base, api_key="wrong", max_retries=0) as ant:
            with pytest.raises(anthropic.AuthenticationError):
                ant.messages.create(model="small", max_tokens=9, messages=user("x"))
        with openai.OpenAI(base_url=f"{base}/v1", api_key="wrong", max_retries=0) as oai:
            with pytest.raises(openai.AuthenticationError):
                oai.models.list()


@tool
def find(name: str) -> str:
    """Finds a city."""
    return f"found {name}"


class TestLangChain:
    @pytest.fixture(params=[False, True], ids=["chat", "responses"])
    def model(self, request: pytest.FixtureRequest, base: str) -> ChatOpenAI:
        return ChatOpenAI(
            model="small", base_url=f"{base}/v1", api_key="test-key", max_retries=0, use_responses_api=request.param
        )

    def test_invoke_and_stream(self, model: ChatOpenAI) -> None:
        answer = model.invoke("hello you")
        assert answer.text == "You asked: hello you"
        assert answer.usage_metadata and answer.usage_metadata["total_tokens"] == 15
        parts = [chunk.text for chunk in model.stream("tell me more")]
        assert "".join(parts) == "You asked: tell me more" and len(parts) > 1

    def test_tools_and_structured_output(self, model: ChatOpenAI) -> None:
        bound = model.bind_tools([find])
        asked: list[Any] = [HumanMessage("fault:tool_call")]
        answer = bound.invoke(asked)
        (call,) = answer.tool_calls
        assert (call["name"], call["args"]) == ("find", {"x": 1})
        asked += [answer, ToolMessage("42", tool_call_id=call["id"])]
        assert bound.invoke(asked).text == "You asked: 42"
        assert model.with_structured_output(City).invoke("Zurich") == City(name="Zurich", people=1)

    def test_errors_and_vectors(self, model: ChatOpenAI, addresses: dict[str, str]) -> None:
        with pytest.raises(openai.RateLimitError):
            model.invoke("fault:limit")
        vectors = OpenAIEmbeddings(
            model="small", base_url=f"{addresses['openai']}/v1", api_key="test-key", check_embedding_ctx_length=False
        )
        assert vectors.embed_documents(["a", "bbb"]) == [[1.0, 1.0], [3.0, 1.0]]
