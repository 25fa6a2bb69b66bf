"""The engine: one object that owns the four capabilities."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Mapping
from os import PathLike, fspath
from types import TracebackType
from typing import Any, NoReturn, Self, cast

from . import _sophia
from ._wire import settled
from .asgi import AsgiApp
from .chat import Chat
from .health import Health
from .memory import Memory
from .registry import Registry

__all__ = ["Sophia"]


_LIVE: weakref.WeakSet[Sophia] = weakref.WeakSet()
_OF_RECIPES: weakref.WeakValueDictionary[str, Sophia] = weakref.WeakValueDictionary()


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
        if config is None or isinstance(config, Mapping):
            fields = {**(config or {}), **overrides}
            engine, recipe = _sophia.Engine(fields), _recipe(fields)
        else:
            engine, recipe = _sophia.Engine(overrides, path=fspath(config)), _recipe(overrides, config=fspath(config))
        self._attach(engine, recipe)

    @classmethod
    def from_env(cls) -> Self:
        """Builds an engine from the variables `SOPHIA_…` and the file that `SOPHIA_CONFIG` names."""
        sophia = cls.__new__(cls)
        sophia._attach(_sophia.Engine(env=True), {"env": True})
        return sophia

    def _attach(self, engine: _sophia.Engine, recipe: dict[str, Any] | None) -> None:
        self._engine = engine
        self._recipe = recipe
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

    def __reduce__(self) -> NoReturn:
        raise TypeError("an engine cannot be pickled: build one in each process, from the same configuration")

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

    @classmethod
    def _of_recipe(cls, recipe: Mapping[str, Any]) -> Self:
        """Returns an engine that is built as another was, the same one for the same recipe while it is in use."""
        if "env" in recipe:
            build, key = cls.from_env, "env"
        else:
            build, key = lambda: cls(**recipe), json.dumps(recipe, sort_keys=True)
        sophia = _OF_RECIPES.get(key) or build()
        _OF_RECIPES[key] = sophia
        return cast(Self, sophia)

    @staticmethod
    def config_schema() -> dict[str, Any]:
        """Returns the JSON Schema of the configuration."""
        schema: dict[str, Any] = _sophia.config_schema()
        return schema


def _recipe(fields: Mapping[str, Any], **built_of: Any) -> dict[str, Any] | None:
    """Returns how to build an engine again, to be written into files; None where it could hold a secret."""
    memory = fields.get("memory", {})
    is_open = fields.keys() <= {"data_dir", "memory"} and isinstance(memory, Mapping) and _is_plain(memory)
    if not is_open:
        return None
    place = {} if fields.get("data_dir") is None else {"data_dir": fspath(fields["data_dir"])}
    return {**built_of, **fields, **place}


def _is_plain(memory: Mapping[str, Any]) -> bool:
    # An embedder that is a mapping may name a key.
    return all(isinstance(value, (str, int, float)) for value in memory.values())


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
