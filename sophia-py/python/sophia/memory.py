"""Memory: records found by meaning, conversations, and a tiered key-value store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar

from ._sophia import Engine
from ._wire import UNSET, Request, awaited, blocking, given, reader, same, settled
from .errors import SophiaError, from_code
from .scope import Scope, ScopeLike

__all__ = [
    "Hit",
    "KeyValue",
    "Memory",
    "MemoryHealth",
    "RecentOperation",
    "Record",
    "SearchResult",
    "Session",
    "StoreResult",
    "TierHealth",
]

T = TypeVar("T")
Mode = Literal["hybrid", "semantic", "keyword", "exact"]
Priority = Literal["low", "medium", "high", "critical"]
Seconds = float | str
"""Seconds, or text such as "15m"."""
Time = str | datetime
"""RFC 3339 text, or a datetime with a time zone."""


@dataclass(frozen=True)
class StoreResult:
    """Where a record went. `tiers` names the tiers that hold it; `expires_at` is RFC 3339, UTC."""

    id: str
    seq: int
    version: int
    created: bool
    tiers: list[str]
    expires_at: str | None


@dataclass(frozen=True)
class Record:
    """One remembered thing. Times are RFC 3339, UTC; `seq` is a stable integer that grows with every record."""

    id: str
    seq: int
    version: int
    content: str
    kind: str
    category: str | None
    tags: list[str]
    metadata: dict[str, Any]
    summary: str | None
    source: str | None
    importance: float
    priority: Priority
    status: str
    scope: Scope
    role: str | None
    created_at: str
    updated_at: str
    expires_at: str | None


@dataclass(frozen=True)
class Hit:
    """A record that was found; `score` is 0..1. `explain` holds every component where it was asked for."""

    record: Record
    score: float
    match_type: str
    highlights: list[str]
    tier: str
    explain: dict[str, Any] | None


@dataclass(frozen=True)
class SearchResult:
    """What a search found, best first. `degraded` says what could not be searched, or is None."""

    hits: list[Hit]
    total: int
    took_ms: float
    cache_hit: bool
    degraded: str | None


@dataclass(frozen=True)
class Session:
    """One conversation of a scope."""

    session: str
    records: int
    first_at: str
    last_at: str


@dataclass(frozen=True)
class TierHealth:
    """One tier: l1 in process, l2 Redis, l3 durable. What is not known is None."""

    status: str
    latency_ms: float | None
    entries: int | None
    hit_ratio: float | None
    detail: str | None


@dataclass(frozen=True)
class MemoryHealth:
    """The health of every tier."""

    status: str
    tiers: dict[str, TierHealth]


@dataclass(frozen=True)
class RecentOperation:
    """One of the last operations; `duration_ms` is its time in the engine."""

    id: str
    operation: str
    duration_ms: float
    status: str
    timestamp: str


def _items(items: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return list(items)


def _stored(outcomes: list[dict[str, Any]]) -> list[StoreResult | SophiaError]:
    read = reader(StoreResult)
    return [read(outcome["ok"]) if outcome.get("ok") is not None else _failed(outcome["error"]) for outcome in outcomes]


def _failed(error: dict[str, Any]) -> SophiaError:
    return from_code(error["code"], error["message"], error.get("retry_after"), "memory.store_many", {})


class KeyValue:
    """Values by key, in process first and durable behind it. Any JSON value; each scope has its own keys."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._now = engine.kv_get_now

    async def get(self, key: str, *, scope: ScopeLike = None, default: Any = None) -> Any:
        """Returns the value, or `default` where there is none. An L1 hit costs well under a microsecond of engine time."""
        found = self._now(key, scope, UNSET)
        if found is UNSET:
            found = await settled(self._engine.call("memory.kv.get", given(key=key, scope=scope)))
        return default if found is None else found

    def get_sync(self, key: str, *, scope: ScopeLike = None, default: Any = None) -> Any:
        """Returns the value, or `default` where there is none."""
        found = self._now(key, scope, UNSET)
        if found is UNSET:
            found = self._engine.call_sync("memory.kv.get", given(key=key, scope=scope))
        return default if found is None else found

    def _set(
        self, key: str, value: Any, *, scope: ScopeLike = None, ttl: Seconds | None = None, tags: Sequence[str] = ()
    ) -> Request[None]:
        """Sets the value in every tier; it is durable when this returns."""
        return Request("memory.kv.set", given(key=key, scope=scope, ttl=ttl, tags=tags) | {"value": value}, same)

    set = awaited(_set)
    set_sync = blocking(_set)

    async def get_or_set(
        self,
        key: str,
        loader: Callable[[], T | Awaitable[T]],
        *,
        scope: ScopeLike = None,
        ttl: Seconds | None = None,
        stale: Seconds | None = None,
        tags: Sequence[str] = (),
    ) -> T:
        """Returns the value, or what `loader` returns, which is then kept. The loader runs once for all who ask at once."""
        options = given(scope=scope, ttl=ttl, stale=stale, tags=tags)
        value: T = await settled(self._engine.kv_get_or_set(key, options, loader))
        return value

    def _delete(self, key: str, *, scope: ScopeLike = None) -> Request[bool]:
        """Deletes the value in every tier; returns whether there was one."""
        return Request("memory.kv.delete", given(key=key, scope=scope), same)

    delete = awaited(_delete)
    delete_sync = blocking(_delete)

    def _invalidate(
        self, *, prefix: str | None = None, tags: Sequence[str] | None = None, scope: ScopeLike = None
    ) -> Request[int]:
        """Deletes what has the prefix, or one of the tags; returns how many."""
        return Request("memory.kv.invalidate", given(prefix=prefix, tags=tags, scope=scope), same)

    invalidate = awaited(_invalidate)
    invalidate_sync = blocking(_invalidate)


class Memory:
    """What was said and what is known: kept whole, found by meaning, inside its scope only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.kv = KeyValue(engine)
        """Values by key."""

    def _store(
        self,
        content: str,
        *,
        scope: ScopeLike = None,
        id: str | None = None,
        kind: str = "note",
        category: str | None = None,
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        summary: str | None = None,
        source: str | None = None,
        importance: float = 0.5,
        priority: Priority = "medium",
        ttl: Seconds | None = None,
        embedding: Sequence[float] | None = None,
        dedupe: bool = False,
    ) -> Request[StoreResult]:
        """Stores one record; it is durable and searchable when this returns.

        `importance` is 0..1; `embedding` replaces the engine's own; `dedupe` returns the record that already has this
        content in this scope.
        """
        arguments = given(
            content=content,
            scope=scope,
            id=id,
            kind=kind,
            category=category,
            tags=tags,
            metadata=metadata,
            summary=summary,
            source=source,
            importance=importance,
            priority=priority,
            ttl=ttl,
            embedding=embedding,
            dedupe=dedupe,
        )
        return Request("memory.store", arguments, reader(StoreResult))

    store = awaited(_store)
    store_sync = blocking(_store)

    def _store_many(
        self, items: Iterable[Mapping[str, Any]], *, scope: ScopeLike = None, atomic: bool = False
    ) -> Request[list[StoreResult | SophiaError]]:
        """Stores many records, each a mapping of the arguments of `store`; `scope` is for those that name none.

        Each gets its own result or error; with `atomic`, one error stores none and is raised.
        """
        arguments = given(items=list(items), scope=scope, atomic=atomic)
        return Request("memory.store_many", arguments, _stored)

    store_many = awaited(_store_many)
    store_many_sync = blocking(_store_many)

    def _get(
        self, id: str | None = None, *, seq: int | None = None, scope: ScopeLike = None, include_archived: bool = False
    ) -> Request[Record | None]:
        """Returns the record with this id or seq in this scope, or None."""
        arguments = given(id=id, seq=seq, scope=scope, include_archived=include_archived)
        return Request("memory.get", arguments, reader(Record | None))

    get = awaited(_get)
    get_sync = blocking(_get)

    def _search(
        self,
        query: str = "",
        *,
        scope: ScopeLike = None,
        scopes: Sequence[ScopeLike] | None = None,
        mode: Mode = "hybrid",
        limit: int = 10,
        offset: int = 0,
        min_score: float = 0.0,
        kinds: Sequence[str] | None = None,
        categories: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        tags_all: Sequence[str] | None = None,
        priorities: Sequence[Priority] | None = None,
        source: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        since: Time | None = None,
        until: Time | None = None,
        embedding: Sequence[float] | None = None,
        token_budget: int | None = None,
        include_archived: bool = False,
        include_expired: bool = False,
        explain: bool = False,
    ) -> Request[SearchResult]:
        """Finds records by meaning and by words, best first. Filters are exact; results are deterministic.

        `scopes` searches several at once; `tags` wants one of them, `tags_all` every one.
        """
        arguments = given(
            query=query,
            scope=scope,
            scopes=scopes,
            mode=mode,
            limit=limit,
            offset=offset,
            min_score=min_score,
            kinds=kinds,
            categories=categories,
            tags=tags,
            tags_all=tags_all,
            priorities=priorities,
            source=source,
            metadata=metadata,
            since=since,
            until=until,
            embedding=embedding,
            token_budget=token_budget,
            include_archived=include_archived,
            include_expired=include_expired,
            explain=explain,
        )
        return Request("memory.search", arguments, reader(SearchResult))

    search = awaited(_search)
    search_sync = blocking(_search)

    def _update(
        self,
        id: str,
        *,
        scope: ScopeLike = None,
        content: str = UNSET,
        category: str | None = UNSET,
        tags: Sequence[str] = UNSET,
        metadata: Mapping[str, Any] = UNSET,
        priority: Priority = UNSET,
        summary: str | None = UNSET,
        status: str = UNSET,
        if_version: int | None = None,
    ) -> Request[Record]:
        """Changes what is given and keeps the rest, as a new version; None clears, `metadata` is merged.

        With `if_version`, a record that has another version by now raises `ConflictError`.
        """
        changes = {
            "content": content,
            "category": category,
            "tags": tags,
            "metadata": metadata,
            "priority": priority,
            "summary": summary,
            "status": status,
        }
        arguments = given(id=id, scope=scope, if_version=if_version)
        arguments |= {name: value for name, value in changes.items() if value is not UNSET}
        return Request("memory.update", arguments, reader(Record))

    update = awaited(_update)
    update_sync = blocking(_update)

    def _versions(self, id: str, *, scope: ScopeLike = None) -> Request[list[Record]]:
        """Returns every version of a record, oldest first."""
        return Request("memory.versions", given(id=id, scope=scope), reader(list[Record]))

    versions = awaited(_versions)
    versions_sync = blocking(_versions)

    def _delete(self, id: str, *, scope: ScopeLike = None, permanent: bool = False) -> Request[bool]:
        """Archives a record, or with `permanent` removes it; returns whether there was one."""
        return Request("memory.delete", given(id=id, scope=scope, permanent=permanent), same)

    delete = awaited(_delete)
    delete_sync = blocking(_delete)

    def _delete_where(
        self,
        *,
        scope: ScopeLike = None,
        kinds: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        before: Time | None = None,
        permanent: bool = False,
    ) -> Request[int]:
        """Deletes every record of the scope that matches all that is given; returns how many."""
        arguments = given(scope=scope, kinds=kinds, tags=tags, before=before, permanent=permanent)
        return Request("memory.delete_where", arguments, same)

    delete_where = awaited(_delete_where)
    delete_where_sync = blocking(_delete_where)

    def _append(
        self,
        scope: ScopeLike,
        role: str,
        content: str,
        *,
        at: Time | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Request[Record]:
        """Appends a turn to the conversation of `scope`, which must name a session."""
        arguments = given(scope=scope, role=role, content=content, at=at, metadata=metadata)
        return Request("memory.append", arguments, reader(Record))

    append = awaited(_append)
    append_sync = blocking(_append)

    def _history(self, scope: ScopeLike, *, limit: int = 50, before: int | None = None) -> Request[list[Record]]:
        """Returns the last `limit` turns of a conversation, oldest first; `before` a `seq` pages back."""
        return Request("memory.history", given(scope=scope, limit=limit, before=before), reader(list[Record]))

    history = awaited(_history)
    history_sync = blocking(_history)

    def _sessions(self, scope: ScopeLike, *, limit: int = 100) -> Request[list[Session]]:
        """Returns the conversations of a scope, the latest first."""
        return Request("memory.sessions", given(scope=scope, limit=limit), reader(list[Session]))

    sessions = awaited(_sessions)
    sessions_sync = blocking(_sessions)

    def _clear_session(self, scope: ScopeLike) -> Request[int]:
        """Removes the turns of a conversation for good; returns how many."""
        return Request("memory.clear_session", given(scope=scope), same)

    clear_session = awaited(_clear_session)
    clear_session_sync = blocking(_clear_session)

    def _stats(self) -> Request[dict[str, Any]]:
        """Returns counts of what is stored."""
        return Request("memory.stats", {}, same)

    stats = awaited(_stats)
    stats_sync = blocking(_stats)

    def _health(self) -> Request[MemoryHealth]:
        """Returns the health of every tier."""
        return Request("memory.health", {}, reader(MemoryHealth))

    health = awaited(_health)
    health_sync = blocking(_health)

    def _recent_operations(self, n: int = 50) -> Request[list[RecentOperation]]:
        """Returns the last operations, newest first."""
        return Request("memory.recent_operations", {"n": n}, reader(list[RecentOperation]))

    recent_operations = awaited(_recent_operations)
