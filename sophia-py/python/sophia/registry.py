"""The registry: every MCP server in one list that tells the truth, and their tools to call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import Any, Literal

from ._sophia import Engine, Stream
from ._wire import Reading, Request, awaited, blocking, given, reader, same
from .memory import Seconds
from .scope import ScopeLike
from .types import (
    BreakerSnapshot,
    Change,
    Conflict,
    Decision,
    LoadReport,
    ServerOverview,
    ServerStatus,
    Tool,
    ToolResult,
    Transport,
)

__all__ = ["Registry", "RegistryChanges", "Server"]

Strategy = Literal["p2c", "tier", "score", "round_robin", "least_connections", "weighted"]
ToolFormat = Literal["mcp", "openai", "anthropic"]


@dataclass(frozen=True)
class Server:
    """An MCP server, or an in-house one that speaks REST. `transport` follows from `url` or `command` where it is not given."""

    id: str
    name: str | None = None
    url: str | None = None
    command: str | None = None
    args: Sequence[str] = ()
    env: Mapping[str, str] | None = None
    transport: Transport | None = None
    rest: Mapping[str, str] | None = None
    capabilities: Sequence[str] = ()
    tier: str | None = None
    group: str | None = None
    tags: Sequence[str] = ()
    health_path: str | None = None
    fallback: Sequence[str] = ()
    weight: float = 1.0
    aliases: Sequence[str] = ()
    cwd: str | None = None
    priority: int = 0
    max_connections: int | None = None
    timeout: Seconds | None = None
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    auth: str | None = field(default=None, repr=False)


def _server(server: Server | Mapping[str, Any]) -> Mapping[str, Any]:
    return given(**vars(server)) if isinstance(server, Server) else server


# Named here, since inside the class the method `list` hides the type.
Servers = list[Server]
Tools = list[Any]
_TOOLS = list[Tool]


class RegistryChanges(Reading[Change]):
    """What happens to servers, as it happens: `async for change in s.registry.watch()`."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream, reader(Change))


class Registry:
    """MCP servers: registered, checked, called."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def register(self, server: Server | Mapping[str, Any]) -> None:
        """Adds a server, or replaces the one with its id."""
        self._engine.call_sync("registry.register", {"server": _server(server)})

    def deregister(self, id: str) -> bool:
        """Removes a server and stops its process; returns whether there was one."""
        removed: bool = self._engine.call_sync("registry.deregister", {"id": id})
        return removed

    def _load(self, config: Mapping[str, Any] | Sequence[Any] | str | PathLike[str], *, source: str | None = None) -> Request[LoadReport]:
        """Loads servers from a file or a mapping in any of the common dialects; `source` names it in what `lint` says.

        A source that is loaded again takes out the servers that it alone had named, and no longer names.
        """
        value = fspath(config) if isinstance(config, str | PathLike) else config
        arguments = given(config=value, source=source)
        return Request("registry.load", arguments, reader(LoadReport))

    load = awaited(_load)
    load_sync = blocking(_load)

    def lint(self) -> list[Conflict]:
        """Returns what the loaded sources disagree about."""
        conflicts: list[Conflict] = reader(list[Conflict])(self._engine.call_sync("registry.lint", {}))
        return conflicts

    def export(self, dialect: str = "mcpServers") -> dict[str, Any]:
        """Returns the servers as another program's configuration; secrets are left as placeholders."""
        exported: dict[str, Any] = self._engine.call_sync("registry.export", {"dialect": dialect})
        return exported

    def get(self, id: str) -> Server:
        """Returns a server; case and `-` or `_` do not matter. An unknown one raises `NotFoundError`."""
        server: Server = reader(Server)(self._engine.call_sync("registry.get", {"id": id}))
        return server

    def list(self) -> Servers:
        """Returns every server, sorted by id."""
        servers: Servers = reader(Servers)(self._engine.call_sync("registry.list", {}))
        return servers

    def discover(
        self,
        *,
        capability: str | None = None,
        all_of: Sequence[str] | None = None,
        tier: str | None = None,
        group: str | None = None,
        tags: Sequence[str] | None = None,
        status: str | None = None,
    ) -> Servers:
        """Returns the servers that match all that is given."""
        arguments = given(capability=capability, all_of=all_of, tier=tier, group=group, tags=tags, status=status)
        servers: Servers = reader(Servers)(self._engine.call_sync("registry.discover", arguments))
        return servers

    def select(
        self, capability: str, *, strategy: Strategy = "p2c", prefer: str | None = None, avoid: Sequence[str] = ()
    ) -> Decision:
        """Picks a server for a capability, and those to fall back to."""
        arguments = given(capability=capability, strategy=strategy, prefer=prefer, avoid=avoid)
        decision: Decision = reader(Decision)(self._engine.call_sync("registry.select", arguments))
        return decision

    def _call(
        self,
        server: str | None,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        capability: str | None = None,
        scope: ScopeLike = None,
        timeout: Seconds | None = None,
        fallback: bool = True,
        idempotent: bool | None = None,
    ) -> Request[ToolResult]:
        """Calls a tool. An unknown server raises `NotFoundError`; one that fails gives `ok=False`."""
        request = given(
            server=server,
            tool=tool,
            arguments=arguments,
            capability=capability,
            scope=scope,
            timeout=timeout,
            fallback=fallback,
            idempotent=idempotent,
        )
        return Request("registry.call", request, reader(ToolResult))

    call = awaited(_call)
    call_sync = blocking(_call)

    def _list_tools(self, *, server: str | None = None, format: ToolFormat = "mcp") -> Request[Tools]:
        """Returns the tools of a server, or of all that answer: `Tool`s, or mappings as `openai` or `anthropic` want them.

        Of all, a server that does not answer has the tools of its last good list, and `tools_error` in `status` says why. Where
        several tools would have one qualified name, such as `github__search`, each of them has a hash at its end.
        """
        read = reader(_TOOLS) if format == "mcp" else same
        return Request("registry.list_tools", given(server=server, format=format), read)

    list_tools = awaited(_list_tools)
    list_tools_sync = blocking(_list_tools)

    def _check(self, id: str) -> Request[ServerStatus]:
        """Asks a server how it is."""
        return Request("registry.check", {"id": id}, reader(ServerStatus))

    check = awaited(_check)
    check_sync = blocking(_check)

    def _check_all(self, *, concurrency: int = 64, deadline: Seconds = 5) -> Request[dict[str, ServerStatus]]:
        """Asks every server at once, under one deadline."""
        arguments = given(concurrency=concurrency, deadline=deadline)
        return Request("registry.check_all", arguments, reader(dict[str, ServerStatus]))

    check_all = awaited(_check_all)
    check_all_sync = blocking(_check_all)

    def breaker(self, id: str) -> BreakerSnapshot:
        """Returns where the circuit breaker of a server stands."""
        state: BreakerSnapshot = reader(BreakerSnapshot)(self._engine.call_sync("registry.breaker", {"id": id}))
        return state

    def _status(self) -> Request[dict[str, ServerOverview]]:
        """Returns calls, errors and breakers by server, without asking any."""
        return Request("registry.status", {}, reader(dict[str, ServerOverview]))

    status = awaited(_status)
    status_sync = blocking(_status)

    def watch(self) -> RegistryChanges:
        """Returns what changes from now on, until the engine is closed."""
        return RegistryChanges(self._engine.registry_watch())
