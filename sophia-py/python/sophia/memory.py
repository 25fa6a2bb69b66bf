"""Memory: records found by meaning, conversations, and a tiered key-value store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from datetime import datetime
from inspect import isawaitable
from os import PathLike, fspath
from typing import Any, Literal, TypedDict, TypeVar, Unpack, overload

from ._sophia import Engine
from ._wire import UNSET, Request, awaited, blocking, given, reader, same, settled
from .checkpoints import Checkpoints
from .errors import SophiaError, from_code
from .scope import ScopeLike
from .types import (
    BackupReceipt,
    CheckReport,
    Entity,
    ExportReceipt,
    Extracted,
    Fact,
    ForgetReceipt,
    ImportFormat,
    ImportReceipt,
    KvFound,
    MemoryHealth,
    MemoryStats,
    Neighbor,
    Priority,
    RecentOperation,
    Record,
    Reembedded,
    SearchResult,
    Session,
    StoreResult,
)

__all__ = ["Graph", "KeyValue", "KvOptions", "Memory"]

T = TypeVar("T")
Mode = Literal["hybrid", "semantic", "keyword", "exact"]
Fusion = Literal["linear", "rrf"]
Seconds = float | str
"""Seconds, or text such as "15m"."""
Time = str | datetime
"""RFC 3339 text, or a datetime with a time zone."""
Vectors = Sequence[Sequence[float]] | Any
"""One vector for each text: lists, or a numpy array."""


class _Later:
    """Vectors that are awaited."""

    def __init__(self, made: Awaitable[Vectors]) -> None:
        self._made = made

    def __await__(self) -> Generator[Any, Any, Any]:
        return _plain((yield from self._made.__await__()))

    def close(self) -> None:
        if (close := getattr(self._made, "close", None)) is not None:
            close()


def _plain(vectors: Vectors) -> Any:
    """Returns vectors as lists: an array as a whole, or one by one."""
    if hasattr(vectors, "tolist"):
        return vectors.tolist()
    return [vector.tolist() if hasattr(vector, "tolist") else vector for vector in vectors]


def _stored(outcomes: list[dict[str, Any]]) -> list[StoreResult | SophiaError]:
    read = reader(StoreResult)
    return [_failed(outcome["error"]) if "error" in outcome else read(outcome) for outcome in outcomes]


def _failed(error: dict[str, Any]) -> SophiaError:
    context = {} if error["field"] is None else {"field": error["field"]}
    return from_code(error["code"], error["message"], None, error["operation"], context)


class KvOptions(TypedDict, total=False):
    """How a value is kept; what is left out is the default."""

    scope: ScopeLike
    ttl: Seconds | None
    stale: Seconds | None
    timeout: Seconds | None
    tags: Sequence[str]


class KeyValue:
    """Values by key: in process first, in Redis where one is shared, durable behind it. Any JSON value; each scope has its own keys."""

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

    def _look_up(self, key: str, *, scope: ScopeLike = None) -> Request[KvFound]:
        """Returns the value and how it was found: which tier knew it, whether it is stale, which tiers were stepped over."""
        return Request("memory.kv.look_up", given(key=key, scope=scope), reader(KvFound))

    look_up = awaited(_look_up)
    look_up_sync = blocking(_look_up)

    def _set(
        self, key: str, value: Any, *, scope: ScopeLike = None, ttl: Seconds | None = None, tags: Sequence[str] = ()
    ) -> Request[None]:
        """Sets the value in every tier; it is durable when this returns."""
        return Request("memory.kv.set", given(key=key, scope=scope, ttl=ttl, tags=tags) | {"value": value}, same)

    set = awaited(_set)
    set_sync = blocking(_set)

    @overload
    async def get_or_set(self, key: str, loader: Callable[[], Awaitable[T]], **options: Unpack[KvOptions]) -> T: ...

    @overload
    async def get_or_set(self, key: str, loader: Callable[[], T], **options: Unpack[KvOptions]) -> T: ...

    async def get_or_set(self, key: str, loader: Callable[[], Any], **options: Unpack[KvOptions]) -> Any:
        """Returns the value, or what `loader` returns, which is then kept. The loader runs once for all who ask at once.

        That is all in every process that shares a Redis. A value that is stale, or soon will be, is made anew while it is
        still served. Where the loader takes longer than `timeout` (30 s), all who wait get a `TimeoutError`.
        """
        return await settled(self._engine.kv_get_or_set(key, given(**options), loader))

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

    def _keys(
        self, prefix: str = "", *, after: str | None = None, limit: int = 1_000, scope: ScopeLike = None
    ) -> Request[list[str]]:
        """Returns the keys that begin with `prefix`, sorted; `after` the last one of a page, the next page."""
        return Request("memory.kv.keys", given(prefix=prefix, after=after, limit=limit, scope=scope), same)

    keys = awaited(_keys)
    keys_sync = blocking(_keys)


class Graph:
    """Facts that know when they were true, and since when that is known."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def _upsert(
        self,
        entity: str,
        *,
        kind: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        scope: ScopeLike = None,
    ) -> Request[Entity]:
        """Stores an entity, or merges what is new into it."""
        arguments = given(entity=entity, kind=kind, attributes=attributes, scope=scope)
        return Request("memory.graph.upsert", arguments, reader(Entity))

    upsert = awaited(_upsert)
    upsert_sync = blocking(_upsert)

    def _relate(
        self,
        subject: str,
        predicate: str,
        object: str,
        *,
        scope: ScopeLike = None,
        valid_at: Time | None = None,
        invalid_at: Time | None = None,
        functional: bool = False,
        source: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Request[Fact]:
        """States a fact. A `functional` predicate has one object at a time: the new fact ends the former one."""
        arguments = given(
            subject=subject,
            predicate=predicate,
            object=object,
            scope=scope,
            valid_at=valid_at,
            invalid_at=invalid_at,
            functional=functional,
            source=source,
            metadata=metadata,
        )
        return Request("memory.graph.relate", arguments, reader(Fact))

    relate = awaited(_relate)
    relate_sync = blocking(_relate)

    def _facts(
        self,
        *,
        subject: str | None = None,
        predicate: str | None = None,
        object: str | None = None,
        scope: ScopeLike = None,
        as_of: Time | None = None,
        known_at: Time | None = None,
        limit: int | None = None,
    ) -> Request[list[Fact]]:
        """Returns the facts that were true at `as_of` (now), as they were known at `known_at` (now)."""
        arguments = given(
            subject=subject,
            predicate=predicate,
            object=object,
            scope=scope,
            as_of=as_of,
            known_at=known_at,
            limit=limit,
        )
        return Request("memory.graph.facts", arguments, reader(list[Fact]))

    facts = awaited(_facts)
    facts_sync = blocking(_facts)

    def _neighbors(
        self,
        entity: str,
        *,
        depth: int = 1,
        limit: int = 100,
        scope: ScopeLike = None,
        as_of: Time | None = None,
        known_at: Time | None = None,
    ) -> Request[list[Neighbor]]:
        """Returns what is within `depth` facts of an entity."""
        arguments = given(entity=entity, depth=depth, limit=limit, scope=scope, as_of=as_of, known_at=known_at)
        return Request("memory.graph.neighbors", arguments, reader(list[Neighbor]))

    neighbors = awaited(_neighbors)
    neighbors_sync = blocking(_neighbors)

    def _path(
        self,
        a: str,
        b: str,
        *,
        max_depth: int = 4,
        scope: ScopeLike = None,
        as_of: Time | None = None,
        known_at: Time | None = None,
    ) -> Request[list[Fact] | None]:
        """Returns the facts along a shortest way between two entities, or None."""
        arguments = given(a=a, b=b, max_depth=max_depth, scope=scope, as_of=as_of, known_at=known_at)
        return Request("memory.graph.path", arguments, reader(list[Fact] | None))

    path = awaited(_path)
    path_sync = blocking(_path)

    def _extract(
        self,
        text: str,
        *,
        scope: ScopeLike = None,
        source: str | None = None,
        at: Time | None = None,
        model: str | None = None,
    ) -> Request[Extracted]:
        """Lets a model read a text and states what it says; `source` says where every fact comes from.

        What the text does not date is true from `at` on. The text is data: nothing in it is an instruction.
        """
        arguments = given(text=text, scope=scope, source=source, at=at, model=model)
        return Request("memory.graph.extract", arguments, reader(Extracted))

    extract = awaited(_extract)
    extract_sync = blocking(_extract)


class Memory:
    """What was said and what is known: kept whole, found by meaning, inside its scope only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.kv = KeyValue(engine)
        """Values by key."""
        self.graph = Graph(engine)
        """Facts and entities."""
        self.checkpoints = Checkpoints(engine)
        """The steps of workflows."""

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
        if_version: int | None = None,
    ) -> Request[StoreResult]:
        """Stores one record; it is durable and searchable when this returns.

        `importance` is 0..1; `embedding` replaces the engine's own; `dedupe` returns the record that already has this
        content in this scope.

        With `if_version`, a record of this id that has another version raises `ConflictError`; 0 is that there is none.
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
            if_version=if_version,
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
        min_similarity: float | None = None,
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
        fusion: Fusion = "linear",
        recency_half_life: Seconds | None = None,
        importance_weight: float = 0.0,
        mmr_lambda: float | None = None,
        typo_tolerant: bool = False,
        include_archived: bool = False,
        include_expired: bool = False,
        explain: bool = False,
    ) -> Request[SearchResult]:
        """Finds records by meaning and by words, best first. Filters are exact; results are deterministic.

        `scopes` searches several at once; `tags` wants one of them, `tags_all` every one. `min_similarity` is the least
        cosine, from -1 to 1, of what matches by meaning: without it what the embedder is known for, 0.25 for the bundled
        models, none for others and for an `embedding` of your own. With `recency_half_life` a
        record counts half at that age; `importance_weight` weighs importance against matching; `mmr_lambda` below 1
        prefers hits that are unlike those before them; `typo_tolerant` lets words differ by a letter or two.
        """
        arguments = given(
            query=query,
            scope=scope,
            scopes=scopes,
            mode=mode,
            limit=limit,
            offset=offset,
            min_score=min_score,
            min_similarity=min_similarity,
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
            fusion=fusion,
            recency_half_life=recency_half_life,
            importance_weight=importance_weight,
            mmr_lambda=mmr_lambda,
            typo_tolerant=typo_tolerant,
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
        importance: float = UNSET,
        status: str = UNSET,
        ttl: float | None = UNSET,
        if_version: int | None = None,
    ) -> Request[Record]:
        """Changes what is given and keeps the rest, as a new version; None clears, `metadata` is merged.

        `ttl` are the seconds that it lives from now, None is for ever; by itself it is no new version.

        With `if_version`, a record that has another version by now raises `ConflictError`.
        """
        changes = {
            "content": content,
            "category": category,
            "tags": tags,
            "metadata": metadata,
            "priority": priority,
            "summary": summary,
            "importance": importance,
            "status": status,
            "ttl": ttl,
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
        """Hides the messages of a conversation, as `delete` does; returns how many. `forget` removes them for good."""
        return Request("memory.clear_session", given(scope=scope), same)

    clear_session = awaited(_clear_session)
    clear_session_sync = blocking(_clear_session)

    def _forget(self, *, scope: ScopeLike = None, subject: str | None = None) -> Request[ForgetReceipt]:
        """Removes every trace of a scope or a person, in every tier, and returns how much of what was removed.

        A scope with a session or an agent loses its records, and what was said over `/v1/responses`; facts, keys and
        checkpoints belong to tenant and user.
        """
        return Request("memory.forget", given(scope=scope, subject=subject), reader(ForgetReceipt))

    forget = awaited(_forget)
    forget_sync = blocking(_forget)

    def set_embedder(
        self,
        function: Callable[[list[str]], Vectors | Awaitable[Vectors]],
        *,
        model: str,
        dimensions: int,
        timeout: float | None = None,
    ) -> None:
        """Turns text into vectors with a function, from the next call on: sync or async, of a list of texts.

        It returns one vector for each text, as lists or as a numpy array. `model` names what it does: give it another name
        when it gives other vectors; what was stored before is then embedded anew in the background. What it raises never
        reaches who stores or searches: records are kept and embedded later, and a search says so in its `warnings`. So it is
        where a `…_sync` method is called in the loop that an async function belongs to.
        `timeout` is in seconds, 30 by default.
        """

        def embed(texts: list[str]) -> Any:
            made = function(texts)
            return _Later(made) if isawaitable(made) else _plain(made)

        self._engine.memory_set_embedder(embed, model, dimensions, timeout)

    def _reembed(self, *, timeout: Seconds | None = None) -> Request[Reembedded]:
        """Embeds anew what has no vector of the embedder's model, and waits for the end: 30 s at most, or `timeout`.

        It happens in the background anyway; this is for scripts that want to see it done.
        """
        return Request("memory.reembed", given(timeout=timeout), reader(Reembedded))

    reembed = awaited(_reembed)
    reembed_sync = blocking(_reembed)

    def _export(self, path: str | PathLike[str], *, scope: ScopeLike = None) -> Request[ExportReceipt]:
        """Writes what is remembered to a new file, as lines of JSON; without a scope, everything of everyone."""
        return Request("memory.export", given(path=fspath(path), scope=scope), reader(ExportReceipt))

    export = awaited(_export)
    export_sync = blocking(_export)

    def _import(
        self, path: str | PathLike[str], *, format: ImportFormat | None = None, scope: ScopeLike = None
    ) -> Request[ImportReceipt]:
        """Takes over an export, or a file of mem0, server-memory, LangGraph or Chroma. Made again, it changes nothing.

        The file is only read. `scope` says whose it becomes; of an export, everything else is refused.
        """
        return Request("memory.import", given(path=fspath(path), format=format, scope=scope), reader(ImportReceipt))

    import_ = awaited(_import)
    import_sync = blocking(_import)

    def _backup(self, path: str | PathLike[str]) -> Request[BackupReceipt]:
        """Writes a copy of all data as of one moment to a new file, while others write."""
        return Request("memory.backup", {"path": fspath(path)}, reader(BackupReceipt))

    backup = awaited(_backup)
    backup_sync = blocking(_backup)

    def _check(self, *, repair: bool = False) -> Request[CheckReport]:
        """Looks whether the data is whole; with `repair`, makes anew what is derived from it and damaged."""
        return Request("memory.check", {"repair": repair}, reader(CheckReport))

    check = awaited(_check)
    check_sync = blocking(_check)

    def _stats(self) -> Request[MemoryStats]:
        """Returns counts of what is stored."""
        return Request("memory.stats", {}, reader(MemoryStats))

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
