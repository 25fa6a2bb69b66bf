"""The registry: every MCP server in one list that tells the truth, and their tools to call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import Any, Literal

from ._sophia import Engine
from ._wire import Request, awaited, blocking, given, reader, same
from .memory import Seconds
from .scope import ScopeLike

__all__ = [
    "BreakerState",
    "CallAttempt",
    "Conflict",
    "Decision",
    "LoadReport",
    "Registry",
    "Server",
    "ServerStatus",
    "Tool",
    "ToolResult",
]

Transport = Literal["http", "sse", "stdio", "rest"]
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
    priority: int = 0
    max_connections: int | None = None
    timeout: Seconds | None = None
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    auth: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class LoadReport:
    """What a configuration held: ids that are new, ids that were known, and what is wrong with the rest."""

    loaded: list[str]
    updated: list[str]
    errors: list[str]
    warnings: list[str]


@dataclass(frozen=True)
class Conflict:
    """What sources disagree about, and the fix."""

    kind: str
    servers: list[str]
    message: str
    sources: list[str]
    fix: str


@dataclass(frozen=True)
class Decision:
    """Which server was picked, and why."""

    server: str
    fallbacks: list[str]
    score: float | None
    reason: str


@dataclass(frozen=True)
class CallAttempt:
    """One try of a call."""

    server: str
    ok: bool
    error: str | None
    latency_ms: float


@dataclass(frozen=True)
class ToolResult:
    """What a tool answered. A server that fails gives `ok=False` and `error`."""

    ok: bool
    text: str
    data: Any
    content: list[dict[str, Any]]
    server: str
    latency_ms: float
    attempts: list[CallAttempt]
    fallback_used: bool
    error: str | None


@dataclass(frozen=True)
class Tool:
    """A tool of a server, as MCP describes it."""

    server: str
    name: str
    title: str | None
    description: str | None
    input_schema: dict[str, Any]


@dataclass(frozen=True)
class ServerStatus:
    """How a server is: healthy, degraded, unhealthy or unknown."""

    status: str
    latency_ms: float | None
    last_check: str | None
    detail: str | None


@dataclass(frozen=True)
class BreakerState:
    """A circuit breaker: closed, open or half_open; times are RFC 3339, UTC."""

    state: str
    failures: int
    opened_at: str | None
    retry_at: str | None


def _server(server: Server | Mapping[str, Any]) -> Mapping[str, Any]:
    return given(**vars(server)) if isinstance(server, Server) else server


class Registry:
    """MCP servers: registered, checked, called."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def register(self, server: Server | Mapping[str, Any]) -> None:
        """Adds a server, or replaces the one with its id."""
        self._engine.call_sync("registry.register", _server(server))

    def deregister(self, id: str) -> bool:
        """Removes a server and stops its process; returns whether there was one."""
        removed: bool = self._engine.call_sync("registry.deregister", {"id": id})
        return removed

    def _load(self, config: Mapping[str, Any] | Sequence[Any] | str | PathLike[str], *, source: str | None = None) -> Request[LoadReport]:
        """Loads servers from a file or a mapping in any of the common dialects; `source` names it in what `lint` says."""
        if isinstance(config, str | PathLike):
            arguments = given(path=fspath(config), source=source)
        else:
            arguments = given(config=config, source=source)
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

    def list(self) -> list[Server]:
        """Returns every server, sorted by id."""
        servers: list[Server] = reader(list[Server])(self._engine.call_sync("registry.list", {}))
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
    ) -> "list[Server]":
        """Returns the servers that match all that is given."""
        arguments = given(capability=capability, all_of=all_of, tier=tier, group=group, tags=tags, status=status)
        servers = reader(_SERVERS)(self._engine.call_sync("registry.discover", arguments))
        return servers  # type: ignore[no-any-return]

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

    def _list_tools(self, *, server: str | None = None) -> "Request[list[Tool]]":
        """Returns the tools of a server, or of all that answer."""
        return Request("registry.list_tools", given(server=server), reader(_TOOLS))

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

    def breaker(self, id: str) -> BreakerState:
        """Returns where the circuit breaker of a server stands."""
        state: BreakerState = reader(BreakerState)(self._engine.call_sync("registry.breaker", {"id": id}))
        return state

    def _status(self) -> Request[dict[str, Any]]:
        """Returns calls, errors and breakers by server."""
        return Request("registry.status", {}, same)

    status = awaited(_status)
    status_sync = blocking(_status)


# Outside the class, whose method `list` hides the type.
_SERVERS = list[Server]
_TOOLS = list[Tool]
