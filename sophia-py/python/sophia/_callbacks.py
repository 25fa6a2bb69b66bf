"""A call of a user's function on behalf of the engine."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import os
import threading
from collections.abc import Awaitable, Callable, Hashable, Iterator
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
    """A look at a service. While one goes on that holds a thread, which cannot be stopped, further ones join it."""

    def key(self, context: contextvars.Context) -> Hashable:
        """What two looks share that see the same: the function, however often it was given, and the variables it reads."""
        # By identity, which is safe while one goes on: its call holds them. A bound method is made anew by each access.
        function = self.function if inspect.isroutine(self.function) else id(self.function)
        return function, frozenset((id(variable), id(value)) for variable, value in context.items())


_looks: dict[Hashable, Look] = {}
"""Looks on threads that have not ended. Without a lock, as above."""

if hasattr(os, "register_at_fork"):
    # The threads of a parent do not go on in its child.
    os.register_at_fork(after_in_child=_looks.clear)


class Look:
    """A look on the thread of one call, and the calls that wait for what it sees."""

    def __init__(self, leader: Call, key: Hashable) -> None:
        self.leader = leader
        self._key = key
        self._waiting: set[Call] = set()
        self._outcome: tuple[Any, BaseException | None] | None = None
        self._is_given_up = False

    def join(self, call: Call) -> None:
        """Tells the call what is seen, once."""
        self._waiting.add(call)
        if self._outcome is not None:
            self._tell(*self._outcome)

    def leave(self, call: Call) -> None:
        """Tells the call nothing any more; what nobody waits for ends, where it can be stopped."""
        self._waiting.discard(call)
        awaited = self.leader.awaited
        if awaited is not None and self._outcome is None and not self._waiting:
            self._is_given_up = True
            awaited.cancel()

    def end(self, value: Any, raised: BaseException | None) -> None:
        """Tells all what was seen."""
        _looks.pop(self._key, None)
        self._outcome = value, raised
        self._tell(value, raised)

    def _tell(self, value: Any, raised: BaseException | None) -> None:
        while self._waiting:
            try:
                call = self._waiting.pop()
            except KeyError:
                return
            if self._is_given_up:
                # Joined while it was being stopped.
                call.start()
            else:
                call.report(value, raised)


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
        self.report = report
        self._operation = operation
        self._has_left = False
        self._task: asyncio.Future[Any] | None = None
        self.awaited: concurrent.futures.Future[Any] | None = None
        self._look: Look | None = None
        self._ended = False

    def start(self) -> bool:
        """Begins it; returns whether on the loop."""
        if self._loop is not None:
            if self._operation in WAITED_FOR:
                _waiting.add(self)
            try:
                self._loop.call_soon_threadsafe(self._on_loop, context=self._context.copy())
                return True
            except RuntimeError:
                # It was closed a moment ago.
                _waiting.discard(self)
                self._loop = self._home = None
        if self._begins_look():
            self._begin_thread()
        return False

    def _begins_look(self) -> bool:
        """Whether no other call looks already for this one. What has left its loop is no look, and joins none."""
        if not isinstance(self._function, OneLook) or self._has_left:
            return True
        key = self._function.key(self._context)
        self._look = _looks.setdefault(key, Look(self, key))
        self._look.join(self)
        return self._look.leader is self

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
        if self._look is not None:
            self._look.leave(self)
        elif self.awaited is not None:
            self.awaited.cancel()
        if self._loop is not None and not self._ended and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel_on_loop)

    def _begin_thread(self) -> None:
        try:
            threading.Thread(target=self._context.copy().run, args=(self._on_thread,), daemon=True).start()
        except RuntimeError as no_thread:
            # Told as any other end, also to who joined already.
            self._end(None, no_thread)

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
                self.awaited = asyncio.run_coroutine_threadsafe(_await(value), self._home)
                value = self.awaited.result()
            elif inspect.isawaitable(value):
                value = asyncio.run(_await(value))
        except concurrent.futures.CancelledError:
            # By the loop, which knows it by another name.
            self._end(None, asyncio.CancelledError())
        except BaseException as raised:  # noqa: BLE001 - as above
            self._end(None, raised)
        else:
            self._end(value, None)

    def _end(self, value: Any, raised: BaseException | None) -> None:
        self._ended = True
        if self._look is None:
            self.report(value, raised)
        else:
            self._look.end(value, raised)


def _close(value: Awaitable[Any]) -> None:
    """Closes what nobody will await."""
    if (close := getattr(value, "close", None)) is not None:
        close()


async def _await(value: Awaitable[Any]) -> Any:
    return await value
