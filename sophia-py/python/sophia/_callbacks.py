"""A call of a user's function on behalf of the engine."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

Report = Callable[[Any, BaseException | None], None]

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


class Call:
    """Runs `function(*arguments)` and reports its value or its exception, once.

    On `loop` where there is one that is not held up, so that the function may use what belongs to that loop; else on a thread
    of its own.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None,
        context: contextvars.Context,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        report: Report,
    ) -> None:
        is_free = loop is not None and loop.is_running() and context.get(_blocked) is not loop
        self._loop = loop if is_free else None
        self._context = context
        self._function = function
        self._arguments = arguments
        self._report = report
        self._task: asyncio.Future[Any] | None = None
        self._ended = False

    def start(self) -> None:
        if self._loop is None:
            threading.Thread(target=self._context.copy().run, args=(self._on_thread,), daemon=True).start()
        else:
            self._loop.call_soon_threadsafe(self._on_loop, context=self._context.copy())

    def cancel(self) -> None:
        """Cancels the task, if it has begun and not ended; called from any thread."""
        if self._loop is not None and not self._ended and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel_on_loop)

    def _on_loop(self) -> None:
        if self._ended:
            return
        try:
            value = self._function(*self._arguments)
            if inspect.isawaitable(value):
                self._task = asyncio.ensure_future(value)
                self._task.add_done_callback(self._done)
                return
        except BaseException as raised:  # noqa: BLE001 - whatever it raises belongs to who awaits the answer
            self._end(None, raised)
        else:
            self._end(value, None)

    def _done(self, task: asyncio.Future[Any]) -> None:
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
            if inspect.isawaitable(value):
                value = asyncio.run(_await(value))
        except BaseException as raised:  # noqa: BLE001 - as above
            self._end(None, raised)
        else:
            self._end(value, None)

    def _end(self, value: Any, raised: BaseException | None) -> None:
        self._ended = True
        self._report(value, raised)


async def _await(value: Awaitable[Any]) -> Any:
    return await value
