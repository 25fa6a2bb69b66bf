"""The engine: one object that owns the four capabilities."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from os import PathLike, fspath
from types import TracebackType
from typing import Any, Self

from . import _sophia
from ._wire import settled
from .asgi import AsgiApp
from .chat import Chat
from .health import Health
from .memory import Memory
from .registry import Registry

__all__ = ["Sophia"]


_LIVE: weakref.WeakSet[Sophia] = weakref.WeakSet()


class Sophia:
    """Memory, chat, registry and health in one engine.

    It needs no service, no key and no event loop to be built; files and connections are opened by their first use, or by
    `start()`. Without `data_dir`, everything stays in this process and is gone at its end.

    >>> from sophia import Scope, Sophia
    >>> with Sophia() as s:
    ...     stored = s.memory.store_sync("Ada wants the quarterly report as a PDF.", scope=Scope(user="ada"))
    ...     found = s.memory.search_sync("which file format does she like?", scope=Scope(user="ada"))
    >>> found.hits[0].record.id == stored.id
    True
    """

    def __init__(self, config: Mapping[str, Any] | str | PathLike[str] | None = None, **overrides: Any) -> None:
        """Builds an engine from a mapping, or from a `.toml` or `.json` file; keywords are set over it."""
        if isinstance(config, Mapping):
            engine = _sophia.Engine({**config, **overrides})
        elif config is None:
            engine = _sophia.Engine(overrides)
        else:
            engine = _sophia.Engine(overrides, path=fspath(config))
        self._attach(engine)

    @classmethod
    def from_env(cls) -> Self:
        """Builds an engine from the variables `SOPHIA_…` and the file that `SOPHIA_CONFIG` names."""
        sophia = cls.__new__(cls)
        sophia._attach(_sophia.Engine(env=True))
        return sophia

    def _attach(self, engine: _sophia.Engine) -> None:
        self._engine = engine
        self._started = False
        _LIVE.add(self)
        self.memory = Memory(engine)
        """Records, conversations, values by key."""
        self.chat = Chat(engine)
        """Models, cached."""
        self.registry = Registry(engine)
        """MCP servers and their tools."""
        self.health = Health(engine)
        """What is wrong, and why."""

    def asgi(self) -> AsgiApp:
        """Returns the HTTP surface as an ASGI application, to be mounted or served."""
        return AsgiApp(self)

    async def start(self) -> None:
        """Opens what the configuration names, and starts background work. A second call does nothing."""
        await settled(self._engine.start())
        self._started = True

    async def close(self) -> None:
        """Flushes and stops everything; `start()` starts it again."""
        self._started = False
        await settled(self._engine.close())

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __enter__(self) -> Self:
        self._engine.start_sync()
        self._started = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._started = False
        self._engine.close_sync()

    @staticmethod
    def config_schema() -> dict[str, Any]:
        """Returns the JSON Schema of the configuration."""
        schema: dict[str, Any] = _sophia.config_schema()
        return schema


def _before_fork() -> None:
    """Closes what is open: a child that inherited an open SQLite file would take the parent's locks for its own.

    It stays closed until the fork is done: other threads, and work in the background, would open it again.
    """
    if _sophia.has_begun():
        for sophia in list(_LIVE):
            if sophia._engine.durable:
                sophia._engine.suspend_sync()


def _after_fork_in_parent() -> None:
    for sophia in list(_LIVE):
        if sophia._engine.durable:
            sophia._engine.resume()
            if sophia._started:
                sophia._engine.start_sync()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)
