"""What the adapters to other frameworks share."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from ._sophia import Engine
from ._wire import Request, settled
from .memory import Memory
from .scope import ScopeLike
from .types import Record

PAGE = 1_000
"""Records that one call of the engine lists."""
DEEPEST = 10_000
"""The furthest record that an offset reaches."""

R = TypeVar("R")
Steps = Generator[Request[Any], Any, R]
"""Calls of the engine that follow one another: written once, run with `await` or without."""


def missing(extra: str, needs: str, cause: ImportError) -> ImportError:
    """Returns the error that says what to install."""
    return ImportError(f"sophia.{extra} needs {needs}: pip install 'sophia-ai[{extra}]'  ({cause})")


def call(request: Request[R]) -> Steps[R]:
    """Makes one call."""
    result: R = yield request
    return result


def run_sync(engine: Engine, steps: Steps[R]) -> R:
    """Runs steps, each of which blocks."""
    try:
        request = next(steps)
        while True:
            request = steps.send(request.result(engine.call_sync(request.operation, request.arguments)))
    except StopIteration as ended:
        result: R = ended.value
        return result


async def run(engine: Engine, steps: Steps[R]) -> R:
    """Runs steps, each of which is awaited."""
    try:
        request = next(steps)
        while True:
            request = steps.send(request.result(await settled(engine.call(request.operation, request.arguments))))
    except StopIteration as ended:
        result: R = ended.value
        return result


def all_records(memory: Memory, *, scope: ScopeLike, kinds: Sequence[str], **filters: Any) -> Steps[list[Record]]:
    """Reads every record that the filters keep, the first stored one first."""
    found: dict[int, Record] = {}
    until: datetime | None = None
    while True:
        before = len(found)
        for offset in range(0, DEEPEST + 1, PAGE):
            request = memory._search(scope=scope, kinds=kinds, limit=PAGE, offset=offset, until=until, **filters)
            page = [hit.record for hit in (yield from call(request)).hits]
            found.update((record.seq, record) for record in page)
            if len(page) < PAGE:
                return [found[seq] for seq in sorted(found)]
        if len(found) == before:
            return [found[seq] for seq in sorted(found)]
        # Beyond the deepest offset by time; those of the same moment are read twice.
        until = min(datetime.fromisoformat(record.created_at) for record in found.values()) + timedelta(microseconds=1)
