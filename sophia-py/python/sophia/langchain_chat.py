"""Sophia as a chat model of LangChain: `ChatSophia(sophia=s, model="small", scope=Scope(user="ada"))`.

Needs the package langchain-core.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    InvalidToolCall,
    ToolCall,
    convert_to_openai_messages,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.output_parsers.openai_tools import make_invalid_tool_call, parse_tool_call
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from .types import CacheInfo, ChatResponse, Usage

__all__ = ["ChatSophia"]

# What a provider wants back word for word: Anthropic's signed thoughts, the items of OpenAI's Responses.
NATIVE = ("content_blocks", "output_items")
# Blocks of a content that are no part of it for a provider: thoughts, and calls, which a message has beside its content.
THOUGHTS = ("thinking", "redacted_thinking", "reasoning", "reasoning_content")
CALLS = ("tool_call", "invalid_tool_call", "function_call")


class ChatSophia(BaseChatModel):
    """A chat model that asks through a Sophia engine: cached, shared by who asks the same, bounded and measured.

    `scope` says whose questions these are, and so who may be given a kept answer. What a call is given by name goes to
    `Chat.complete`: `model.invoke("Hi", temperature=0, ttl=60)`.
    """

    sophia: Any
    """The engine."""
    model: str | None = None
    """Model; the engine's default where it is None."""
    scope: Any = None
    """Whose questions these are."""
    options: dict[str, Any] = {}
    """Further arguments of every `Chat.complete`, such as `{"share": "tenant", "temperature": 0}`."""

    @property
    def _llm_type(self) -> str:
        return "sophia"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return {"model": self.model, **self.options}

    def _arguments(self, stop: list[str] | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        arguments = {"model": self.model, "scope": self.scope, **self.options, **kwargs}
        return arguments | ({"stop": stop} if stop else {})

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _result(self.sophia.chat.complete_sync(_messages(messages), **self._arguments(stop, kwargs)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _result(await self.sophia.chat.complete(_messages(messages), **self._arguments(stop, kwargs)))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        arguments = self._arguments(stop, kwargs)
        stream = self.sophia.chat.stream(_messages(messages), **arguments)
        try:
            async for part in stream:
                calls = [_call_chunk(call) for call in part.tool_calls]
                message = AIMessageChunk(content=part.delta, tool_call_chunks=calls)
                if part.reasoning:
                    message.additional_kwargs["reasoning_content"] = part.reasoning
                if part.finish_reason is not None or part.usage is not None:
                    message.usage_metadata = _usage(part.usage)
                    message.response_metadata = _metadata(part.finish_reason, part.cache)
                    if arguments["model"] is not None:
                        message.response_metadata["model_name"] = arguments["model"]
                    message.chunk_position = "last"
                if part.message is not None:
                    message.additional_kwargs |= {name: part.message[name] for name in NATIVE if part.message.get(name)}
                chunk = ChatGenerationChunk(message=message)
                if run_manager:
                    await run_manager.on_llm_new_token(part.delta, chunk=chunk)
                yield chunk
        finally:
            await stream.aclose()

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: dict[str, Any] | str | bool | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offers tools. `tool_choice` is "auto", "none", "any" or True (some tool), the name of a tool, or as OpenAI writes it.

        `strict` says that arguments follow the schema of each tool exactly.
        """
        offered = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        # What with_structured_output says for its own bookkeeping.
        kwargs.pop("ls_structured_output_format", None)
        if tool_choice in ("any", "required", True):
            kwargs["tool_choice"] = "required"
        elif tool_choice in ("auto", "none") or isinstance(tool_choice, dict):
            kwargs["tool_choice"] = tool_choice
        elif tool_choice:
            kwargs["tool_choice"] = {"type": "function", "function": {"name": tool_choice}}
        return self.bind(tools=offered, **kwargs)


def _messages(messages: list[BaseMessage]) -> list[dict[str, Any]]:
    return [written for message in messages for written in _written(message)]


def _written(message: BaseMessage) -> list[dict[str, Any]]:
    """Writes a message as OpenAI's chat completions have it: results of tools in a message of the user are more than one."""
    if not isinstance(message, AIMessage):
        return convert_to_openai_messages([message], text_format=_text_format(message))
    said = message
    if isinstance(message.content, list):
        said = message.model_copy(update={"content": [block for block in message.content if _is_said(block)]})
    (written,) = convert_to_openai_messages([said], text_format=_text_format(said))
    # The model is told of its mistake by the answer to it.
    for call in message.invalid_tool_calls:
        function = {"name": call["name"] or "", "arguments": call["args"] or ""}
        written.setdefault("tool_calls", []).append({"type": "function", "id": call["id"], "function": function})
    return [written | {name: message.additional_kwargs[name] for name in NATIVE if name in message.additional_kwargs}]


def _text_format(message: BaseMessage) -> Literal["string", "block"]:
    """Parts of a text are not lines of it."""
    return "block" if isinstance(message.content, list) and len(message.content) > 1 else "string"


def _is_said(block: str | dict[str, Any]) -> bool:
    return isinstance(block, str) or block.get("type") not in (*THOUGHTS, *CALLS)


def _result(answer: ChatResponse) -> ChatResult:
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for call in answer.tool_calls:
        try:
            parsed = parse_tool_call(call, return_id=True)
            if parsed:
                calls.append(ToolCall(name=parsed["name"], args=parsed["args"], id=parsed["id"]))
        except Exception as error:
            # A model's mistake is told as LangChain tells it.
            invalid.append(make_invalid_tool_call(call, str(error)))
    kept = {name: answer.message[name] for name in (*NATIVE, "reasoning_content") if answer.message.get(name)}
    message = AIMessage(
        content=answer.text,
        tool_calls=calls,
        invalid_tool_calls=invalid,
        additional_kwargs=kept,
        usage_metadata=_usage(answer.usage),
        response_metadata=_metadata(answer.finish_reason, answer.cache)
        | {"model_name": answer.model, "provider": answer.provider},
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def _metadata(finish_reason: str | None, cache: CacheInfo | None) -> dict[str, Any]:
    return {"finish_reason": finish_reason, "cache": cache.status if cache else None}


def _usage(usage: Usage | None) -> UsageMetadata | None:
    """Token counts, where they are known: LangChain has no unknown ones."""
    if usage is None or usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    counts = UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )
    if usage.cached_tokens is not None:
        counts["input_token_details"] = {"cache_read": usage.cached_tokens}
    if usage.reasoning_tokens is not None:
        counts["output_token_details"] = {"reasoning": usage.reasoning_tokens}
    return counts


def _call_chunk(call: Mapping[str, Any]) -> Any:
    function = call.get("function") or {}
    return tool_call_chunk(
        name=function.get("name"), args=function.get("arguments"), id=call.get("id"), index=call.get("index")
    )
