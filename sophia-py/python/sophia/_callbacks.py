"""A call of a user's function on behalf of the engine."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .errors import UnsupportedError

Report = Callable[[Any, BaseException | None], None]

EMBED = "memory.embed"
WAITED_FOR = (EMBED, "health.probe", "health.action")
"""Operations of functions that a synchronous call may wait for."""

_waiting: set[Call] = set()
"""What is to run on a loop and has not begun, of those. Without a lock, which a fork might leave closed: each step is atomic."""

_embedding: set[Call] = set()
"""What embeds on a loop and is awaited there. Without a lock, as above."""

_blocked: contextvars.ContextVar[asyncio.AbstractEventLoop | None] = contextvars.ContextVar("sophia_blocked", default=None)


@contextmanager
def blocking_the_loop() -> Iterator[None]:
    """While a synchronous call holds up the loop of this thread: what is called for it does not wait for that loop."""
    try:
        token = _blocked.set(asyncio.get_running_loop())
    except RuntimeError:
        yield
        return
    try:
        yield
    finally:
        _blocked.reset(token)


def held_up() -> None:
    """While a synchronous call holds up the loop of this thread: takes from that loop what the call may wait for."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    for call in list(_waiting):
        if call.is_on(loop):
            _waiting.discard(call)
            call.leave_loop()


def holds_up_embedding() -> bool:
    """Whether something embeds on the loop of this thread: a synchronous call that waits for it would wait in vain."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return False
    return any(call.is_on(loop) for call in list(_embedding))


class MayBlock:
    """A function that may block. Where it is no coroutine function it runs on a thread of its own, and holds up no loop."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def blocks(self) -> bool:
        own = self.function if inspect.isroutine(self.function) else getattr(self.function, "__call__", None)
        return not (inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(own))


class OneAtATime(MayBlock):
    """One that runs once at a time for the same arguments: a thread for which nobody waits any more goes on."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._running: set[tuple[Any, ...]] = set()
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any) -> Any:
        with self._lock:
            if arguments in self._running:
                raise RuntimeError("the run before, which took too long, has not ended")
            self._running.add(arguments)
        try:
            return self.function(*arguments)
        finally:
            with self._lock:
                self._running.discard(arguments)


class OneLook(MayBlock):
    """A look at a service. While one goes on in a thread, no other begins, since a thread cannot be stopped: who looks meanwhile
    waits for that one."""

    def is_taken_by(self, call: Call) -> bool:
        """Whether the call is to take a look; else it waits for the one that goes on."""
        look = Look(self.function, call)
        call.look = _looks.setdefault(look.key, look)
        call.look.add(call)
        return call.look is look


class Look:
    """A look that goes on in a thread, and who waits for it. Without a lock, as above: whoever is told is taken out once."""

    def __init__(self, function: Callable[..., Any], taker: Call) -> None:
        own = getattr(function, "__self__", function)
        self.key = (id(own), getattr(function, "__name__", None))
        self._function = function
        """Kept, so that its number is not given to another one meanwhile."""
        self._taker = taker
        self._waiting: set[Call] = set()
        self._outcome: tuple[Any, BaseException | None] | None = None

    def add(self, call: Call) -> None:
        self._waiting.add(call)
        if self._outcome is not None:
            self._tell(call, *self._outcome)

    def leave(self, call: Call) -> Call | None:
        """Takes out a call that is cancelled; returns the one to end where nobody waits any more and it can be ended."""
        self._waiting.discard(call)
        if self._waiting or not self._taker.is_awaited():
            return None
        self._make_room()
        return self._taker

    def end(self, value: Any, raised: BaseException | None) -> None:
        self._make_room()
        self._outcome = value, raised
        for call in list(self._waiting):
            self._tell(call, value, raised)

    def _make_room(self) -> None:
        if _looks.get(self.key) is self:
            _looks.pop(self.key, None)

    def _tell(self, call: Call, value: Any, raised: BaseException | None) -> None:
        try:
            self._waiting.remove(call)
        except KeyError:
            return
        call.tell(value, raised)


_looks: dict[tuple[int, str | None], Look] = {}
"""Looks that go on, by what looks, whatever it is registered as and how often."""


class Call:
    """Runs `function(*arguments)` and reports its value or its exception, once.

    On `loop` where there is one that is not held up, so that the function may use what belongs to that loop; else, and where
    it may block, on a thread of its own. What a synchronous call may wait for that holds up the loop goes to such a thread,
    too, and fails where it is to be awaited.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None,
        context: contextvars.Context,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        report: Report,
        operation: str,
    ) -> None:
        is_free = loop is not None and loop.is_running() and context.get(_blocked) is not loop
        self._home = loop if is_free else None
        self._loop = None if isinstance(function, MayBlock) and function.blocks() else self._home
        self._context = context
        self._function = function
        self._arguments = arguments
        self._report = report
        self._operation = operation
        self._has_left = False
        self._task: asyncio.Future[Any] | None = None
        self._awaited: concurrent.futures.Future[Any] | None = None
        self._ended = False
        self.look: Look | None = None
        """The look that it takes, or waits for."""

    def start(self) -> None:
        function = self._function
        if self._loop is not None:
            if self._operation in WAITED_FOR:
                _waiting.add(self)
            self._loop.call_soon_threadsafe(self._on_loop, context=self._context.copy())
        elif not (isinstance(function, OneLook) and function.blocks()) or function.is_taken_by(self):
            try:
                threading.Thread(target=self._context.copy().run, args=(self._on_thread,), daemon=True).start()
            except RuntimeError as refused:
                self._end(None, refused)

    def is_on(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether it runs on this loop."""
        return self._loop is loop

    def leave_loop(self) -> None:
        """Runs it on a thread, where it has not begun; called from the thread of its loop."""
        self._has_left, self._loop, self._home = True, None, None
        self.start()

    def cancel(self) -> None:
        """Cancels the task, if it has begun and not ended; called from any thread."""
        _waiting.discard(self)
        ended = self if self.look is None else self.look.leave(self)
        if ended is not None and ended._awaited is not None:
            ended._awaited.cancel()
        if self._loop is not None and not self._ended and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel_on_loop)

    def is_awaited(self) -> bool:
        """Whether what it called is awaited, and can be cancelled."""
        return self._awaited is not None

    def _on_loop(self) -> None:
        _waiting.discard(self)
        if self._ended or self._has_left:
            return
        try:
            value = self._function(*self._arguments)
            if inspect.isawaitable(value):
                self._task = asyncio.ensure_future(value)
                if self._operation == EMBED:
                    _embedding.add(self)
                self._task.add_done_callback(self._done)
                return
        except BaseException as raised:  # noqa: BLE001 - whatever it raises belongs to who awaits the answer
            self._end(None, raised)
        else:
            self._end(value, None)

    def _done(self, task: asyncio.Future[Any]) -> None:
        _embedding.discard(self)
        if task.cancelled():
            self._end(None, asyncio.CancelledError())
        elif (raised := task.exception()) is not None:
            self._end(None, raised)
        else:
            self._end(task.result(), None)

    def _cancel_on_loop(self) -> None:
        self._ended = True
        if self._task is not None:
            self._task.cancel()

    def _on_thread(self) -> None:
        try:
            value = self._function(*self._arguments)
            if inspect.isawaitable(value) and self._has_left:
                _close(value)
                problem = "a synchronous call holds up the event loop that the function belongs to: await the asynchronous method"
                raise UnsupportedError(f"{self._operation}: {problem}", operation=self._operation)
            if inspect.isawaitable(value) and self._home is not None:
                # What it made to be awaited belongs to the loop.
                self._awaited = asyncio.run_coroutine_threadsafe(_await(value), self._home)
                value = self._awaited.result()
            elif inspect.isawaitable(value):
                value = asyncio.run(_await(value))
        except BaseException as raised:  # noqa: BLE001 - as above
            self._end(None, raised)
        else:
            self._end(value, None)

    def _end(self, value: Any, raised: BaseException | None) -> None:
        if self.look is None:
            self.tell(value, raised)
        else:
            self.look.end(value, raised)

    def tell(self, value: Any, raised: BaseException | None) -> None:
        """Reports the value or the exception."""
        self._ended = True
        self._report(value, raised)


def _close(value: Awaitable[Any]) -> None:
    """Closes what nobody will await."""
    if (close := getattr(value, "close", None)) is not None:
        close()


async def _await(value: Awaitable[Any]) -> Any:
    return await value
