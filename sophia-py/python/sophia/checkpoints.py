"""Checkpoints: what a workflow was doing at each of its steps, to go on from, to look back at, and to fork."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any, Literal, TypedDict

from ._sophia import Engine
from ._wire import Request, awaited, blocking, given, reader, same
from .scope import ScopeLike
from .types import ChannelHistory, Checkpoint, CheckpointPage, ImportedCheckpoints

__all__ = ["Checkpoints", "EncodedInput", "WriteInput"]


class EncodedInput(TypedDict):
    """A value as its owner encoded it. It comes back byte for byte."""

    encoding: str
    """By what it is read, such as "msgpack" or "json". Lists of these two are kept item by item."""
    data: bytes


class WriteInput(TypedDict):
    """One write of a task."""

    channel: str
    index: int
    """Its place among the writes of the task. One from 0 is kept as it was first written; one below 0 is replaced."""
    value: EncodedInput


class Checkpoints:
    """The checkpoints of workflows: kept once where they are equal, compressed, and scoped by tenant and user.

    `sophia.langgraph.SophiaSaver` gives them to LangGraph.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def _put(
        self,
        thread: str,
        id: str,
        body: EncodedInput,
        *,
        namespace: str = "",
        parent: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        channels: Mapping[str, EncodedInput] | None = None,
        versions: Mapping[str, str] | None = None,
        deltas: Sequence[str] = (),
        scope: ScopeLike = None,
    ) -> Request[None]:
        """Keeps a checkpoint; one with its id is replaced. It is durable when this returns.

        `channels` are the values that are new, `versions` those of all channels: one without a new value keeps the value
        that it has at this version. `deltas` names channels whose value is made of the writes since an ancestor.
        """
        arguments = given(
            thread=thread,
            id=id,
            body=body,
            namespace=namespace,
            parent=parent,
            run_id=run_id,
            metadata=metadata,
            channels=channels,
            versions=versions,
            deltas=deltas,
            scope=scope,
        )
        return Request("memory.checkpoints.put", arguments, same)

    put = awaited(_put)
    put_sync = blocking(_put)

    def _put_writes(
        self,
        thread: str,
        id: str,
        task: str,
        writes: Sequence[WriteInput],
        *,
        path: str = "",
        namespace: str = "",
        scope: ScopeLike = None,
    ) -> Request[None]:
        """Keeps what a task wrote that began from a checkpoint, which may be put later."""
        arguments = given(
            thread=thread, id=id, task=task, writes=writes, path=path, namespace=namespace, scope=scope
        )
        return Request("memory.checkpoints.put_writes", arguments, same)

    put_writes = awaited(_put_writes)
    put_writes_sync = blocking(_put_writes)

    def _get(
        self, thread: str, id: str | None = None, *, namespace: str = "", scope: ScopeLike = None
    ) -> Request[Checkpoint | None]:
        """Returns one checkpoint with its writes, the last one where no id is given, or None."""
        arguments = given(thread=thread, id=id, namespace=namespace, scope=scope)
        return Request("memory.checkpoints.get", arguments, reader(Checkpoint | None))

    get = awaited(_get)
    get_sync = blocking(_get)

    def _list(
        self,
        thread: str | None = None,
        *,
        namespace: str | None = None,
        id: str | None = None,
        before: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        limit: int = 100,
        after: str | None = None,
        scope: ScopeLike = None,
    ) -> Request[CheckpointPage]:
        """Returns a page of checkpoints, the one with the greatest id first; `after` is the `next` of the page before."""
        arguments = given(
            thread=thread,
            namespace=namespace,
            id=id,
            before=before,
            metadata=metadata,
            limit=limit,
            after=after,
            scope=scope,
        )
        return Request("memory.checkpoints.list", arguments, reader(CheckpointPage))

    list = awaited(_list)
    list_sync = blocking(_list)

    def _deltas(
        self,
        thread: str,
        channels: Sequence[str],
        *,
        id: str | None = None,
        namespace: str = "",
        scope: ScopeLike = None,
    ) -> Request[dict[str, ChannelHistory]]:
        """Returns for each channel its value at the nearest ancestor that has one, and what was written since."""
        arguments = given(thread=thread, channels=channels, id=id, namespace=namespace, scope=scope)
        return Request("memory.checkpoints.deltas", arguments, reader(dict[str, ChannelHistory]))

    deltas = awaited(_deltas)
    deltas_sync = blocking(_deltas)

    def _delete_thread(self, thread: str, *, scope: ScopeLike = None) -> Request[int]:
        """Removes a thread with all its namespaces; returns how many checkpoints it had."""
        return Request("memory.checkpoints.delete_thread", given(thread=thread, scope=scope), same)

    delete_thread = awaited(_delete_thread)
    delete_thread_sync = blocking(_delete_thread)

    def _delete_for_runs(self, run_ids: Sequence[str], *, scope: ScopeLike = None) -> Request[int]:
        """Removes the checkpoints that runs made, with their writes; returns how many."""
        return Request("memory.checkpoints.delete_for_runs", given(run_ids=run_ids, scope=scope), same)

    delete_for_runs = awaited(_delete_for_runs)
    delete_for_runs_sync = blocking(_delete_for_runs)

    def _copy_thread(self, source: str, target: str, *, scope: ScopeLike = None) -> Request[int]:
        """Copies a thread whole to a new one; returns how many checkpoints. Raises `ConflictError` where it is there."""
        return Request("memory.checkpoints.copy_thread", given(source=source, target=target, scope=scope), same)

    copy_thread = awaited(_copy_thread)
    copy_thread_sync = blocking(_copy_thread)

    def _import_langgraph(self, path: str | PathLike[str], *, scope: ScopeLike = None) -> Request[ImportedCheckpoints]:
        """Takes over the checkpoints of a file of LangGraph's `SqliteSaver`; the file is only read."""
        arguments = given(path=fspath(path), scope=scope)
        return Request("memory.checkpoints.import_langgraph", arguments, reader(ImportedCheckpoints))

    import_langgraph = awaited(_import_langgraph)
    import_langgraph_sync = blocking(_import_langgraph)

    def _prune(
        self,
        threads: Sequence[str],
        *,
        strategy: Literal["keep_latest", "delete"] = "keep_latest",
        scope: ScopeLike = None,
    ) -> Request[int]:
        """Removes all but the last checkpoint of each namespace and what its delta channels are made of; or all."""
        return Request("memory.checkpoints.prune", given(threads=threads, strategy=strategy, scope=scope), same)

    prune = awaited(_prune)
    prune_sync = blocking(_prune)
