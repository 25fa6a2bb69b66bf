"""Calls into the engine: arguments in, typed results out."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import types
import typing
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence, Set, ValuesView
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from ._callbacks import blocking_the_loop
from ._sophia import Engine, Stream
from .errors import ConflictError

P = ParamSpec("P")
R = TypeVar("R")


LISTS = (Sequence, Set, ValuesView, Generator, map, filter, zip, reversed)
"""What the engine reads as a list."""


class Unset:
    """The default of an argument for which None means something else."""

    def __repr__(self) -> str:
        return "…"


UNSET: Any = Unset()


def given(**fields: Any) -> dict[str, Any]:
    """Returns the arguments that were given: None is left to the engine's default."""
    return {name: value for name, value in fields.items() if value is not None}


# Not frozen: that would be most of what making one costs.
@dataclasses.dataclass(slots=True)
class Request(Generic[R]):
    """One operation of the engine, ready to be begun."""

    operation: str
    arguments: dict[str, Any]
    result: Callable[[Any], R]
    # Functions that the engine calls as tools: their definitions, and the one function that answers for all.
    tools: tuple[list[dict[str, Any]], Callable[[str], Any]] | None = None

    def begin(self, engine: Engine) -> Any:
        """Begins it: its value, or what to await."""
        if self.tools is None:
            return engine.call(self.operation, self.arguments)
        return engine.chat_complete_with(self.arguments, *self.tools)

    def finish(self, engine: Engine) -> Any:
        """Runs it to its end."""
        if self.tools is None:
            return engine.call_sync(self.operation, self.arguments)
        with blocking_the_loop():
            return engine.chat_complete_with_sync(self.arguments, *self.tools)


class HasEngine(Protocol):
    """A capability: it belongs to an engine."""

    @property
    def _engine(self) -> Engine: ...


C = TypeVar("C", bound=HasEngine)


def awaited(build: Callable[Concatenate[C, P], Request[R]]) -> Callable[Concatenate[C, P], Coroutine[Any, Any, R]]:
    """Makes the asynchronous method of a request."""

    @functools.wraps(build)
    async def method(self: C, /, *args: P.args, **kwargs: P.kwargs) -> R:
        request = build(self, *args, **kwargs)
        value = request.begin(self._engine)
        return request.result(await value if type(value) is asyncio.Future else value)

    _name(method, build)
    return method


def blocking(build: Callable[Concatenate[C, P], Request[R]]) -> Callable[Concatenate[C, P], R]:
    """Makes the synchronous method of a request."""

    @functools.wraps(build)
    def method(self: C, /, *args: P.args, **kwargs: P.kwargs) -> R:
        request = build(self, *args, **kwargs)
        return request.result(request.finish(self._engine))

    _name(method, build)
    return method


async def settled(value: Any) -> Any:
    """Awaits what the engine returned, if it is not the value yet."""
    return await value if type(value) is asyncio.Future else value


class Reading(Generic[R]):
    """Reads a stream of the engine, item by item. A read that is cancelled goes on: what it gets is given to the next one."""

    def __init__(self, stream: Stream, read: Callable[[Any], R]) -> None:
        self._stream = stream
        self._read = read
        self._under_way: asyncio.Future[Any] | None = None
        self._is_awaited = False

    def __aiter__(self) -> typing.Self:
        return self

    async def __anext__(self) -> R:
        try:
            item = await self._next()
        except BaseException:
            # Who keeps a traceback does not keep the stream open with it.
            del self
            raise
        if item is None:
            raise StopAsyncIteration
        return self._read(item)

    async def aclose(self) -> None:
        """Closes the stream; a read under way sees its end."""
        self._under_way = None
        self._stream.close()

    async def _next(self) -> Any:
        if self._is_awaited:
            raise ConflictError("stream: two tasks iterate over one stream: give each its own", operation="stream")
        if self._under_way is None:
            value = self._stream.next()
            if type(value) is not asyncio.Future:
                return value
            self._under_way = value
            # Whoever leaves does not ask how it ended.
            value.add_done_callback(lambda read: read.cancelled() or read.exception())
        read, self._is_awaited = self._under_way, True
        try:
            await asyncio.wait((read,))
        except BaseException:
            self._is_awaited = False
            del self
            raise
        self._is_awaited, self._under_way = False, None
        return read.result()

    def __del__(self) -> None:
        # A read that goes on would keep it open.
        self._stream.close()


def _name(method: Any, build: Any) -> None:
    method.__name__ = build.__name__.removeprefix("_")
    method.__qualname__ = build.__qualname__.replace("._", ".")


def same(value: Any) -> Any:
    """Returns a value as it is."""
    return value


@functools.cache
def reader(hint: Any) -> Callable[[Any], Any]:
    """Returns what turns a plain value into one of the type `hint`: dataclasses, and lists, dicts and options of them."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return functools.partial(_read_dataclass, hint, _nested_fields(hint))
    if origin is list and (read := reader(arguments[0])) is not same:
        return lambda value: [read(item) for item in value]
    if origin is dict and (read := reader(arguments[1])) is not same:
        return lambda value: {name: read(item) for name, item in value.items()}
    if origin in (typing.Union, types.UnionType):
        inner = [reader(argument) for argument in arguments if argument is not type(None)]
        if len(inner) == 1 and inner[0] is not same:
            return lambda value: None if value is None else inner[0](value)
    return same


def _nested_fields(cls: Any) -> list[tuple[str, Callable[[Any], Any]]]:
    hints = typing.get_type_hints(cls)
    readers = ((field.name, reader(hints[field.name])) for field in dataclasses.fields(cls))
    return [(name, read) for name, read in readers if read is not same]


def _read_dataclass(cls: Any, nested: list[tuple[str, Callable[[Any], Any]]], value: dict[str, Any]) -> Any:
    # The engine gives exactly the fields of the class (a test compares the two), so they become its attributes at once.
    result = object.__new__(cls)
    for name, read in nested:
        value[name] = read(value[name])
    result.__dict__.update(value)
    return result
