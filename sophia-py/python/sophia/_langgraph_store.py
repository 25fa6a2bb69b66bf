"""The store of LangGraph on Sophia's records."""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    get_text_at_path,
    tokenize_path,
)

from ._adapters import DEEPEST, PAGE, Steps, all_records, apart, call, compact, newest_records, run, run_sync
from ._engine import Sophia
from .errors import ConflictError, NotFoundError
from .memory import Mode
from .scope import ScopeLike
from .types import Record

__all__ = ["SophiaStore"]

INDEXED = "langgraph.item"
"""Kind of the records that a query finds."""
UNINDEXED = "langgraph.item.unindexed"
"""Kind of the records that only a key, a filter or a listing finds."""
TTL_TAG = "ttl:"
"""Begins the tag that says for how many minutes an item lives after it was last read."""
SECONDS_PER_MINUTE = 60.0
REFRESHED_AFTER = 1 / 20
"""The part of a time to live after which a read lets it begin anew: each time is a write."""

Namespace = tuple[str, ...]
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
MOST_EXACT = 2**53
"""The greatest number up to which every whole number is a float, too."""


class SophiaStore(BaseStore):
    """Keeps the items of LangGraph as records of Sophia: durable, scoped, found by meaning with no key and no download.

    A query searches the text of `index["fields"]` (the whole value by default) with the engine's own embedder, by meaning
    and by words; `mode` chooses another way. `index=False` at `put` keeps an item out of queries. `ttl` is in minutes, and
    begins anew when the item is read after a twentieth of it or more.
    """

    supports_ttl = True

    def __init__(
        self,
        sophia: Sophia,
        *,
        scope: ScopeLike = None,
        index: IndexConfig | Mapping[str, Any] | None = None,
        ttl: TTLConfig | None = None,
        mode: Mode = "hybrid",
    ) -> None:
        self._engine = sophia._engine
        self._memory = sophia.memory
        self._scope = scope
        self._apart = apart(scope)
        self._fields = [str(field) for field in (index or {}).get("fields") or ["$"]]
        self._mode: Mode = mode
        self.ttl_config = ttl

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Runs operations: what reads sees the store as it was before what writes."""
        return run_sync(self._engine, self._batch(list(ops)))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Runs operations: what reads sees the store as it was before what writes."""
        return await run(self._engine, self._batch(list(ops)))

    def _batch(self, ops: list[Op]) -> Steps[list[Result]]:
        results: list[Result] = []
        puts: dict[tuple[Namespace, str], PutOp] = {}
        for op in ops:
            result: Result = None
            if isinstance(op, GetOp):
                result = yield from self._get(op)
            elif isinstance(op, SearchOp):
                result = yield from self._search(op)
            elif isinstance(op, ListNamespacesOp):
                result = yield from self._namespaces(op)
            elif isinstance(op, PutOp):
                puts[op.namespace, op.key] = op
            else:
                raise ValueError(f"Unknown operation type: {type(op)}")
            results.append(result)
        for put in puts.values():
            yield from self._put(put)
        return results

    def _get(self, op: GetOp) -> Steps[Item | None]:
        found = yield from call(self._memory._get(self._id(op.namespace, op.key), scope=self._scope))
        if found is None:
            return None
        if op.refresh_ttl:
            yield from self._refresh(found)
        return Item(**_fields(found))

    def _put(self, op: PutOp) -> Steps[None]:
        if op.value is None:
            request = self._memory._delete(self._id(op.namespace, op.key), scope=self._scope, permanent=True)
            yield from call(request)
            return
        text = "" if op.index is False else self._text(op.value, op.index or self._fields)
        tags = [self._tag(op.namespace[:depth]) for depth in range(len(op.namespace) + 1)]
        if op.ttl is not None:
            tags.append(f"{TTL_TAG}{op.ttl}")
        request_put = self._memory._store(
            text or op.key,
            scope=self._scope,
            id=self._id(op.namespace, op.key),
            kind=INDEXED if text else UNINDEXED,
            category=_prefix(op.namespace),
            tags=tags,
            metadata=op.value,
            source=op.key,
            ttl=None if op.ttl is None else op.ttl * SECONDS_PER_MINUTE,
        )
        yield from call(request_put)

    def _text(self, value: Mapping[str, Any], fields: Iterable[str]) -> str:
        texts = (
            text for field in fields for text in get_text_at_path(value, field if field == "$" else tokenize_path(field))
        )
        return "\n".join(texts).replace("\0", "").strip()

    def _search(self, op: SearchOp) -> Steps[list[SearchItem]]:
        wanted = op.filter or {}
        exact = {name: want for name, want in wanted.items() if _is_exact(want)}
        first, last = op.offset, op.offset + op.limit
        filters: dict[str, Any] = {
            "scope": self._scope,
            "tags_all": [self._tag(op.namespace_prefix)],
            "metadata": exact or None,
        }
        found: dict[str, tuple[Record, float | None]] = {}

        def take(records: Iterable[tuple[Record, float | None]]) -> bool:
            for record, score in records:
                if _passes(record.metadata, wanted):
                    found.setdefault(record.id, (record, score))
            return len(found) >= last

        def page() -> int:
            return PAGE if len(exact) < len(wanted) else min(last - len(found), PAGE)

        offset, has_more = 0, True
        while op.query and has_more and len(found) < last:
            if offset > DEEPEST:
                reach = f"a query reaches its first {DEEPEST + PAGE:,} items"
                raise ValueError(f"{reach}; ask for fewer, or narrow it by its namespace or filter")
            request = self._memory._search(
                op.query,
                mode=self._mode,
                # The nearest, also where none is near.
                min_similarity=-1.0,
                kinds=[INDEXED],
                limit=page(),
                offset=offset,
                **filters,
            )
            result = yield from call(request)
            take((hit.record, hit.score) for hit in result.hits)
            offset += len(result.hits)
            has_more = bool(result.hits) and offset < result.total
        if len(found) < last:
            # What is not indexed fills up, without a score.
            yield from newest_records(
                self._memory,
                lambda records: take((record, None) for record in records),
                kinds=[UNINDEXED] if op.query else [INDEXED, UNINDEXED],
                page=page(),
                **filters,
            )
        items = list(found.values())[first:last]
        if op.refresh_ttl:
            for record, _ in items:
                yield from self._refresh(record)
        return [SearchItem(**_fields(record), score=score) for record, score in items]

    def _refresh(self, record: Record) -> Steps[None]:
        """Lets the time to live of an item begin anew, where it has one and a part of it has passed."""
        ttl = _tagged(record, TTL_TAG)
        if ttl is None:
            return
        whole = timedelta(minutes=float(ttl))
        if _left(record) > whole * (1 - REFRESHED_AFTER):
            return
        # What was put, removed or forgotten meanwhile stays so.
        with suppress(ConflictError, NotFoundError):
            yield from call(
                self._memory._update(
                    record.id, scope=self._scope, ttl=whole.total_seconds(), if_version=record.version
                )
            )

    def _namespaces(self, op: ListNamespacesOp) -> Steps[list[Namespace]]:
        conditions = op.match_conditions or ()
        tags = [self._tag(c.path) for c in conditions if c.match_type == "prefix" and "*" not in c.path]
        records = yield from all_records(
            self._memory, scope=self._scope, kinds=[INDEXED, UNINDEXED], tags_all=tags or [self._tag(())]
        )
        known = {_namespace(record) for record in records}
        matching = {namespace for namespace in known if all(_matches(condition, namespace) for condition in conditions)}
        if op.max_depth is not None:
            matching = {namespace[: op.max_depth] for namespace in matching}
        return sorted(matching)[op.offset : op.offset + op.limit]

    def _id(self, namespace: Namespace, key: str) -> str:
        # Of a fixed length, however long the names are; and no two places have the same.
        return f"langgraph{self._apart}:" + hashlib.sha256(compact([*namespace, key]).encode()).hexdigest()

    def _tag(self, namespace: Namespace) -> str:
        return self._apart + _prefix(namespace)


def _prefix(namespace: Namespace) -> str:
    return compact(list(namespace))


def _namespace(record: Record) -> Namespace:
    return tuple(json.loads(record.category or "[]"))


def _fields(record: Record) -> dict[str, Any]:
    return {
        "value": record.metadata,
        "key": record.source or "",
        "namespace": _namespace(record),
        "created_at": datetime.fromisoformat(record.created_at),
        "updated_at": datetime.fromisoformat(record.updated_at),
    }


def _tagged(record: Record, begin: str) -> str | None:
    return next((tag.removeprefix(begin) for tag in record.tags if tag.startswith(begin)), None)


def _left(record: Record) -> timedelta:
    """How long an item is still found."""
    if record.expires_at is None:
        return timedelta.max
    return datetime.fromisoformat(record.expires_at) - datetime.now(UTC)


def _is_exact(want: Any) -> bool:
    """Whether the engine finds what equals it: 0 and 1 also equal booleans, and None what is missing."""
    return isinstance(want, str) or (type(want) is int and 1 < abs(want) <= MOST_EXACT)


def _passes(have: Any, want: Any) -> bool:
    """Whether a value passes a filter, as LangGraph's own store has it; what does not compare does not pass."""
    if isinstance(want, Mapping):
        if any(str(name).startswith("$") for name in want):
            return all(_compare(name, have, operand) for name, operand in want.items())
        return isinstance(have, Mapping) and all(_passes(have.get(name), inner) for name, inner in want.items())
    if isinstance(want, (list, tuple)):
        same_length = isinstance(have, (list, tuple)) and len(have) == len(want)
        return same_length and all(map(_passes, have, want))
    return bool(have == want)


def _compare(name: str, have: Any, want: Any) -> bool:
    if name == "$eq":
        return bool(have == want)
    if name == "$ne":
        return bool(have != want)
    try:
        compare = COMPARISONS[name]
    except KeyError:
        raise ValueError(f"Unsupported operator: {name}; known are $eq, $ne, {', '.join(COMPARISONS)}") from None
    return compare(_number(have), _number(want))


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _matches(condition: MatchCondition, namespace: Namespace) -> bool:
    path = condition.path
    if len(namespace) < len(path):
        return False
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return all(want in ("*", have) for have, want in zip(part, path, strict=True))
