"""Chat: one client for every provider, and the same protection for any coroutine of one's own."""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

from . import _tracing
from ._sophia import Engine, Stream, refuse_misspelt
from ._tools import Tool, answering, definition, split
from ._wire import Reading, Request, awaited, blocking, given, reader, same, settled
from .memory import Seconds
from .scope import ScopeLike
from .types import (
    CacheInfo,
    ChatChunk,
    ChatMetrics,
    ChatResponse,
    Costs,
    Embeddings,
    LimitStatus,
    Model,
    SemanticReport,
)

__all__ = ["Chat", "ChatStream", "RunOptions", "RunResult", "UseMemory"]

T = TypeVar("T")
P = ParamSpec("P")
Share = Literal["session", "user", "tenant", "all"]
CacheMode = Literal["default", "bypass", "refresh", "only"]
Verdict = Literal["right", "wrong"]
CostGroup = Literal["model", "provider", "tenant", "scope"]


class Dumped(Protocol):
    """A model of pydantic, such as a message that the SDK of a provider has given."""

    def model_dump(self, *, mode: str, exclude_none: bool) -> Any:
        """Returns it as plain values."""


Messages = str | Sequence[Mapping[str, Any] | Dumped]

_around: ContextVar[list[str] | None] = ContextVar("around", default=None)
"""The producers of `run` that stand around what is done here: a run inside of them must not wait for them, nor for their permits."""


@dataclass(frozen=True)
class RunResult(Generic[T]):
    """What a producer returned, by way of the cache."""

    value: T
    cache: CacheInfo
    latency_ms: float


class ChatStream:
    """An answer while it is made: `async for chunk in stream`. Leaving it, or `aclose()`, closes what feeds it."""

    def __init__(self, stream: Stream) -> None:
        self._parts: Reading[list[ChatChunk]] = Reading(stream, reader(list[ChatChunk]))
        self._ready: deque[ChatChunk] = deque()

    def __aiter__(self) -> ChatStream:
        return self

    async def __anext__(self) -> ChatChunk:
        while not self._ready:
            try:
                self._ready.extend(await anext(self._parts))
            except BaseException:
                # As there.
                del self
                raise
        return self._ready.popleft()

    async def aclose(self) -> None:
        """Closes the stream."""
        self._ready.clear()
        await self._parts.aclose()


class UseMemory(TypedDict, total=False):
    """How a question uses memory; what is left out is the default."""

    limit: int
    token_budget: int
    min_score: float
    kinds: Sequence[str] | None
    store: bool


class RunOptions(TypedDict, Generic[T], total=False):
    """How a value that a producer makes is asked for and kept; what is left out is the default."""

    scope: ScopeLike
    share: Share
    context: str
    cache: CacheMode
    ttl: Seconds | None
    timeout: Seconds | None
    tags: Sequence[str]
    traceparent: str | None
    cacheable: Callable[[T], bool] | None
    text: Callable[[T], str] | None


def _check_passed_on(operation: str, fields: Mapping[str, Any], method: Any) -> None:
    """Refuses an argument of the method that is misspelt, and would reach the provider."""
    if fields:
        refuse_misspelt(operation, list(fields), list(method.__kwdefaults__))


def _streamed(build: Callable[Concatenate[Chat, P], Request[ChatResponse]]) -> Callable[Concatenate[Chat, P], ChatStream]:
    @functools.wraps(build)
    def stream(self: Chat, /, *args: P.args, **kwargs: P.kwargs) -> ChatStream:
        request = build(self, *args, **kwargs)
        return ChatStream(self._engine.chat_stream(request.arguments, *(request.tools or ())))

    stream.__doc__ = "Asks a model and gives its answer piece by piece; the arguments are those of `complete`."
    return stream


def _keyed(build: Callable[Concatenate[Chat, P], Request[ChatResponse]]) -> Callable[Concatenate[Chat, P], str]:
    @functools.wraps(build)
    def cache_key(self: Chat, /, *args: P.args, **kwargs: P.kwargs) -> str:
        request = build(self, *args, **kwargs)
        if request.tools is not None:
            definitions, _ = request.tools
            request.arguments["tools"] = [*request.arguments.get("tools", ()), *definitions]
        key: str = self._engine.call_sync("chat.cache_key", request.arguments)
        return key

    cache_key.__doc__ = (
        "Returns the key under which such an answer is kept; the arguments are those of `complete`. With functions among `tools`,"
        " it is the key of an answer that calls none of them."
    )
    return cache_key


class Chat:
    """Questions to models, answered once and remembered for who may know."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def _complete(
        self,
        messages: Messages,
        /,
        *,
        model: str | None = None,
        scope: ScopeLike = None,
        share: Share = "user",
        context: str = "default",
        cache: CacheMode = "default",
        ttl: Seconds | None = None,
        timeout: Seconds | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        explain: bool = False,
        traceparent: str | None = None,
        response_format: Mapping[str, Any] | None = None,
        memory: bool | UseMemory | None = None,
        tools: Literal["registry"] | Sequence[Tool] | None = None,
        tags: Sequence[str] = (),
        **provider_fields: Any,
    ) -> Request[ChatResponse]:
        """Asks a model, or the cache. A prompt, or messages as the provider wants them; unknown fields are passed on.

        A field that is nearly the name of an argument is refused. `share` says who else may be given the answer; `timeout` is
        30 s by default. `memory` recalls what the scope knows of the question, and can store the exchange. Functions among
        `tools`, and the tools of the "registry", are called when the model asks for them, and it is asked again with what they
        returned; `complete_sync` inside of a running loop, which it holds up, calls them on a thread. `explain` asks what each
        stage did; a stream says it with its last chunk. `traceparent` is the trace it belongs to: that of the caller where
        OpenTelemetry is used.
        """
        name = "prompt" if isinstance(messages, str) else "messages"
        described, functions = split(tools)
        arguments = given(
            model=model,
            scope=scope,
            share=share,
            context=context,
            cache=cache,
            ttl=ttl,
            timeout=timeout,
            temperature=temperature,
            max_tokens=max_tokens,
            explain=explain,
            traceparent=traceparent or _tracing.traceparent(),
            response_format=response_format,
            memory=memory,
            tools=described,
            tags=tags,
        )
        _check_passed_on("chat.complete", provider_fields, Chat._complete)
        arguments |= {name: messages, "provider_fields": provider_fields}
        own = ([definition(function) for function in functions], answering(functions)) if functions else None
        return Request("chat.complete", arguments, reader(ChatResponse), own)

    complete = awaited(_complete)
    complete_sync = blocking(_complete)

    stream = _streamed(_complete)
    cache_key = _keyed(_complete)

    @overload
    async def run(
        self, message: str, producer: Callable[[], Awaitable[T]], **options: Unpack[RunOptions[T]]
    ) -> RunResult[T]: ...

    @overload
    async def run(self, message: str, producer: Callable[[], T], **options: Unpack[RunOptions[T]]) -> RunResult[T]: ...

    async def run(
        self, message: str, producer: Callable[[], Any], **options: Unpack[RunOptions[Any]]
    ) -> RunResult[Any]:
        """Gives cache, single flight, permits, deadline and metrics to any coroutine that returns a JSON value.

        The producer runs once for all who ask at once. `text` says what of its value decides the time to live, and
        `cacheable` whether it may be kept.
        """
        text, cacheable = options.pop("text", None), options.pop("cacheable", None)

        async def produce(around: list[str]) -> dict[str, Any]:
            _around.set(around)
            made = producer()
            value = await made if inspect.isawaitable(made) else made
            return {
                "value": value,
                "text": None if text is None else text(value),
                "cacheable": cacheable is None or bool(cacheable(value)),
            }

        options["traceparent"] = options.get("traceparent") or _tracing.traceparent()
        arguments = given(message=message, around=_around.get(), **options)
        result: RunResult[Any] = reader(RunResult)(await settled(self._engine.chat_run(arguments, produce)))
        return result

    def _embed(
        self,
        texts: Sequence[str],
        /,
        *,
        model: str | None = None,
        scope: ScopeLike = None,
        timeout: Seconds | None = None,
        traceparent: str | None = None,
        **provider_fields: Any,
    ) -> Request[Embeddings]:
        """Embeds texts with a provider's model; one vector a text, in order. Unknown fields are passed on.

        The limits of `scope` are kept, and what it costs is written down there.
        """
        trace = traceparent or _tracing.traceparent()
        arguments = given(texts=texts, model=model, scope=scope, timeout=timeout, traceparent=trace)
        _check_passed_on("chat.embed", provider_fields, Chat._embed)
        arguments |= {"provider_fields": provider_fields}
        return Request("chat.embed", arguments, reader(Embeddings))

    embed = awaited(_embed)
    embed_sync = blocking(_embed)

    def _models(self) -> Request[list[Model]]:
        """Returns the models that the providers offer."""
        return Request("chat.models", {}, reader(list[Model]))

    models = awaited(_models)
    models_sync = blocking(_models)

    def classify(self, message: str) -> str:
        """Returns the context that a message speaks of, such as `business_intelligence`."""
        context: str = self._engine.call_sync("chat.classify", {"message": message})
        return context

    def ttl_for(self, context: str, text: str) -> int:
        """Returns the seconds, 60 to 900, for which an answer with this text is kept."""
        seconds: int = self._engine.call_sync("chat.ttl_for", {"context": context, "text": text})
        return seconds

    def _invalidate(
        self,
        *,
        key: str | None = None,
        context: str | None = None,
        tags: Sequence[str] | None = None,
        scope: ScopeLike = None,
        subject: str | None = None,
        all: bool = False,
    ) -> Request[int]:
        """Forgets cached answers that match; returns how many. `subject` is a user, of whichever tenant."""
        arguments = given(key=key, context=context, tags=tags, scope=scope, subject=subject, all=all)
        return Request("chat.invalidate", arguments, same)

    invalidate = awaited(_invalidate)
    invalidate_sync = blocking(_invalidate)

    def _costs(self, *, by: CostGroup = "model", days: int = 30, scope: ScopeLike = None) -> Request[Costs]:
        """Returns what calls cost and what kept answers saved, by `model`, `provider`, `tenant` or `scope`.

        Counted by all processes that share Redis, or else a `data_dir`. Days are UTC, today included, 1 to 62; without a
        scope, those of everyone.
        """
        return Request("chat.costs", given(by=by, days=days, scope=scope), reader(Costs))

    costs = awaited(_costs)
    costs_sync = blocking(_costs)

    def _budget(self, *, scope: ScopeLike = None) -> Request[list[LimitStatus]]:
        """Returns the limits that concern a scope, and how much of each is used."""
        return Request("chat.budget", given(scope=scope), reader(list[LimitStatus]))

    budget = awaited(_budget)
    budget_sync = blocking(_budget)

    def semantic_feedback(self, key: str, verdict: Verdict, *, scope: ScopeLike = None) -> bool:
        """Tells what a user says of an answer that was kept for another question; returns whether it is known.

        `key` is the `cache.key` of a response whose `cache.status` is `semantic_hit`, `scope` the one it was asked under.
        Each hit counts once; an answer that was wrong once serves no other question any more.
        """
        arguments = given(key=key, verdict=verdict, scope=scope)
        known: bool = self._engine.call_sync("chat.semantic_feedback", arguments)
        return known

    def semantic_report(self) -> SemanticReport:
        """Returns what the semantic tier did, or would have done. No text of any question is in it."""
        report: SemanticReport = reader(SemanticReport)(self._engine.call_sync("chat.semantic_report", {}))
        return report

    def metrics(self) -> dict[str, Any]:
        """Returns figures over the last 1,000 calls; None where nothing was measured."""
        metrics: dict[str, Any] = self._engine.call_sync("chat.metrics", {})
        return metrics
