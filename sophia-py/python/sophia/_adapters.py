"""What the adapters to other frameworks share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from ._sophia import Engine
from ._wire import Request, settled
from .errors import InvalidInputError, SophiaError
from .memory import Memory
from .scope import Scope, ScopeLike
from .types import Hit, Record, StoreResult

PAGE = 1_000
"""Records that one call of the engine lists."""
ITEMS = 10_000
"""Records that one call of the engine stores."""
DEEPEST = 10_000
"""The furthest record that an offset reaches."""
APART_DIGITS = 32
"""Digits of the hash that holds sessions and agents apart."""

R = TypeVar("R")
Steps = Generator[Request[Any], Any, R]
"""Calls of the engine that follow one another: written once, run with `await` or without."""


def missing(extra: str, needs: str, cause: ImportError) -> ImportError:
    """Returns the error that says what to install."""
    return ImportError(f"sophia.{extra} needs {needs}: pip install 'sophia-ai[{extra}]'  ({cause})")


def refused(operation: str, field: str, problem: str) -> InvalidInputError:
    """Returns the error of an argument that is not told to the engine."""
    return InvalidInputError(f"{operation}: `{field}` {problem}", operation=operation, context={"field": field})


def compact(value: Any) -> str:
    """Returns a value as JSON, as `JSON.stringify` writes it: what is hashed of it is the same in Node."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace").decode()


def narrowed(scope: ScopeLike) -> tuple[str | None, str | None]:
    """Returns the session and the agent of a scope."""
    parts = scope if isinstance(scope, Mapping) else vars(scope or Scope())
    return parts.get("session"), parts.get("agent")


def apart(scope: ScopeLike) -> str:
    """Returns what begins the names of a session or agent, so that it shares none with another; "" where neither is set."""
    parts = narrowed(scope)
    return "" if parts == (None, None) else "@" + hashlib.sha256(compact(parts).encode()).hexdigest()[:APART_DIGITS]


def call(request: Request[R]) -> Steps[R]:
    """Makes one call."""
    result: R = yield request
    return result


def run_sync(engine: Engine, steps: Steps[R]) -> R:
    """Runs steps, each of which blocks."""
    try:
        request = next(steps)
        while True:
            try:
                answer = request.result(engine.call_sync(request.operation, request.arguments))
            except SophiaError as error:
                request = steps.throw(error)
            else:
                request = steps.send(answer)
    except StopIteration as ended:
        result: R = ended.value
        return result


async def run(engine: Engine, steps: Steps[R]) -> R:
    """Runs steps, each of which is awaited."""
    try:
        request = next(steps)
        while True:
            try:
                answer = request.result(await settled(engine.call(request.operation, request.arguments)))
            except SophiaError as error:
                request = steps.throw(error)
            else:
                request = steps.send(answer)
    except StopIteration as ended:
        result: R = ended.value
        return result


def store_all(
    memory: Memory, items: Sequence[Mapping[str, Any]], *, scope: ScopeLike
) -> Steps[list[StoreResult]]:
    """Stores records: all or none of each `ITEMS`."""
    stored: list[StoreResult] = []
    for first in range(0, len(items), ITEMS):
        request = memory._store_many(items[first : first + ITEMS], scope=scope, atomic=True)
        for outcome in (yield from call(request)):
            if isinstance(outcome, SophiaError):
                raise outcome
            stored.append(outcome)
    return stored


def best_hits(
    memory: Memory, query: str, take: Callable[[list[Hit]], bool], *, page: int, **options: Any
) -> Steps[None]:
    """Reads what a query finds, the best first, until `take` has enough of it, as far as an offset reaches."""
    for offset in range(0, DEEPEST + 1, page):
        hits = (yield from call(memory._search(query, limit=page, offset=offset, **options))).hits
        if take(hits) or len(hits) < page:
            return


def newest_records(
    memory: Memory,
    take: Callable[[list[Record]], bool],
    *,
    scope: ScopeLike,
    kinds: Sequence[str],
    page: int = PAGE,
    **filters: Any,
) -> Steps[None]:
    """Reads the records that the filters keep, the newest first, until `take` has enough of what it is given."""
    seen: set[int] = set()
    until: datetime | None = None
    while True:
        created: list[str] = []
        for offset in range(0, DEEPEST + 1, page):
            request = memory._search(scope=scope, kinds=kinds, limit=page, offset=offset, until=until, **filters)
            records = [hit.record for hit in (yield from call(request)).hits]
            fresh = [record for record in records if record.seq not in seen]
            seen.update(record.seq for record in fresh)
            created.extend(record.created_at for record in fresh)
            if take(fresh) or len(records) < page:
                return
        if not created:
            return
        # Beyond the deepest offset by time; those of the same moment are read twice.
        until = min(map(datetime.fromisoformat, created)) + timedelta(microseconds=1)


def all_records(memory: Memory, *, scope: ScopeLike, kinds: Sequence[str], **filters: Any) -> Steps[list[Record]]:
    """Reads every record that the filters keep, the first stored one first."""
    found: list[Record] = []

    def take(records: list[Record]) -> bool:
        found.extend(records)
        return False

    yield from newest_records(memory, take, scope=scope, kinds=kinds, **filters)
    return sorted(found, key=lambda record: record.seq)
