"""The checkpointer of LangGraph on Sophia."""

from __future__ import annotations

import math
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    PendingWrite,
    get_checkpoint_id,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.base import Checkpoint as LangGraphCheckpoint
from langgraph.checkpoint.serde.base import SerializerProtocol

from ._adapters import Steps, call, narrowed, refused, run, run_sync
from ._engine import Sophia
from ._langgraph_tuple import StoredTuple
from .checkpoints import EncodedInput
from .scope import ScopeLike
from .types import ChannelHistory, Checkpoint, CheckpointPage, Encoded
from .types import PendingWrite as StoredWrite

__all__ = ["SophiaSaver"]

PAGE = 100
"""Checkpoints that one call of the engine lists."""
VERSION_DIGITS = 12
"""Digits of the count in a version of a channel, so that versions sort as text."""
VERSION_BITS = 32
"""Bits of chance at the end of a version."""

Configurable = dict[str, Any]
PendingWrites = list[PendingWrite]
ScopeOf = Callable[[RunnableConfig], ScopeLike]


class SophiaSaver(BaseCheckpointSaver[str]):
    """Keeps the checkpoints of LangGraph in Sophia: deduplicated, compressed, scoped, and with the whole interface.

    `scope` says whose they are: a tenant and user, or a function that makes them of the config, for a graph that serves many
    users. What is given no config needs a saver with the scope itself: to delete, copy and prune, and to list all threads.

    The same threads can be read by every process on the same `data_dir`.
    """

    def __init__(
        self, sophia: Sophia, *, scope: ScopeLike | ScopeOf = None, serde: SerializerProtocol | None = None
    ) -> None:
        super().__init__(serde=serde)
        self._engine = sophia._engine
        self._checkpoints = sophia.memory.checkpoints
        self._scope = scope if callable(scope) else _of_tenant_and_user(scope)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Returns the checkpoint that the config names, or the last one of its thread; None where there is none."""
        return run_sync(self._engine, self._get(config))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Returns the checkpoint that the config names, or the last one of its thread; None where there is none."""
        return await run(self._engine, self._get(config))

    def _get(self, config: RunnableConfig) -> Steps[CheckpointTuple | None]:
        thread, namespace = _place(config)
        scope = self._scope_of(config)
        request = self._checkpoints._get(thread, get_checkpoint_id(config), namespace=namespace, scope=scope)
        found = yield from call(request)
        return None if found is None else self._tuple(found, config)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Yields the checkpoints that match, the last one first; they are read a page at a time."""
        after: str | None = None
        while limit is None or limit > 0:
            page = run_sync(self._engine, self._page(config, filter, before, limit, after))
            yield from (self._tuple(checkpoint, config) for checkpoint in page.checkpoints)
            limit = None if limit is None else limit - len(page.checkpoints)
            after = page.next
            if after is None:
                return

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Yields the checkpoints that match, the last one first; they are read a page at a time."""
        after: str | None = None
        while limit is None or limit > 0:
            page = await run(self._engine, self._page(config, filter, before, limit, after))
            for checkpoint in page.checkpoints:
                yield self._tuple(checkpoint, config)
            limit = None if limit is None else limit - len(page.checkpoints)
            after = page.next
            if after is None:
                return

    def _page(
        self,
        config: RunnableConfig | None,
        metadata: dict[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
        after: str | None,
    ) -> Steps[CheckpointPage]:
        place = _configurable(config)
        # All threads only where no thread is asked for: one that is not known yet is not all of them.
        is_all = not config or (callable(self._scope) and "thread_id" not in place)
        request = self._checkpoints._list(
            None if is_all else _place(config)[0],
            namespace=place.get("checkpoint_ns"),
            id=place.get("checkpoint_id"),
            before=_configurable(before).get("checkpoint_id"),
            metadata=metadata,
            limit=PAGE if limit is None else min(limit, PAGE),
            after=after,
            scope=self._scope_of(config) if config else self._fixed_scope("list"),
        )
        return (yield from call(request))

    def put(
        self,
        config: RunnableConfig,
        checkpoint: LangGraphCheckpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Keeps a checkpoint, and returns the config that names it."""
        return run_sync(self._engine, self._put(config, checkpoint, metadata, new_versions))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: LangGraphCheckpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Keeps a checkpoint, and returns the config that names it."""
        return await run(self._engine, self._put(config, checkpoint, metadata, new_versions))

    def _put(
        self,
        config: RunnableConfig,
        checkpoint: LangGraphCheckpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Steps[RunnableConfig]:
        thread, namespace = _place(config)
        body: dict[str, Any] = {**checkpoint}
        values: dict[str, Any] = body.pop("channel_values")
        versions = checkpoint["channel_versions"]
        # Without new versions it may be a copy of a checkpoint that is not its parent: then all values are sent.
        fresh = [name for name in values if not new_versions or name in new_versions or name not in versions]
        facts = get_serializable_checkpoint_metadata(config, metadata)
        counters = facts.get("counters_since_delta_snapshot") or {}
        request = self._checkpoints._put(
            thread,
            checkpoint["id"],
            self._encode(body),
            namespace=namespace,
            parent=get_checkpoint_id(config),
            run_id=facts.get("run_id"),
            metadata=cast(Mapping[str, Any], facts),
            channels={name: self._encode(values[name]) for name in fresh},
            versions={name: str(version) for name, version in versions.items()},
            deltas=[name for name in counters if name not in values],
            scope=self._scope_of(config),
        )
        yield from call(request)
        return self._config(config, thread, namespace, checkpoint["id"])

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Keeps what a task wrote that began from the checkpoint of the config."""
        run_sync(self._engine, self._put_writes(config, writes, task_id, task_path))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Keeps what a task wrote that began from the checkpoint of the config."""
        await run(self._engine, self._put_writes(config, writes, task_id, task_path))

    def _put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task: str, path: str
    ) -> Steps[None]:
        thread, namespace = _place(config)
        request = self._checkpoints._put_writes(
            thread,
            config["configurable"]["checkpoint_id"],
            task,
            [
                {"channel": channel, "index": WRITES_IDX_MAP.get(channel, place), "value": self._encode(value)}
                for place, (channel, value) in enumerate(writes)
            ],
            path=path,
            namespace=namespace,
            scope=self._scope_of(config),
        )
        yield from call(request)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Returns for each channel its value at the nearest ancestor that has one, and what was written since."""
        return run_sync(self._engine, self._deltas(config, channels))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Returns for each channel its value at the nearest ancestor that has one, and what was written since."""
        return await run(self._engine, self._deltas(config, channels))

    def _deltas(self, config: RunnableConfig, channels: Sequence[str]) -> Steps[Mapping[str, DeltaChannelHistory]]:
        if not channels:
            return {}
        thread, namespace = _place(config)
        request = self._checkpoints._deltas(
            thread, channels, id=get_checkpoint_id(config), namespace=namespace, scope=self._scope_of(config)
        )
        found = yield from call(request)
        return {name: self._history(found[name]) for name in channels}

    def _history(self, history: ChannelHistory) -> DeltaChannelHistory:
        read = DeltaChannelHistory(writes=self._writes(history.writes))
        if history.seed is not None:
            read["seed"] = self._decode(history.seed)
        return read

    def delete_thread(self, thread_id: str) -> None:
        """Removes a thread with all its checkpoints and writes."""
        self._checkpoints.delete_thread_sync(str(thread_id), scope=self._fixed_scope("delete_thread"))

    async def adelete_thread(self, thread_id: str) -> None:
        """Removes a thread with all its checkpoints and writes."""
        await self._checkpoints.delete_thread(str(thread_id), scope=self._fixed_scope("delete_thread"))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Removes the checkpoints and writes of runs, in all threads."""
        self._checkpoints.delete_for_runs_sync(run_ids, scope=self._fixed_scope("delete_for_runs"))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Removes the checkpoints and writes of runs, in all threads."""
        await self._checkpoints.delete_for_runs(run_ids, scope=self._fixed_scope("delete_for_runs"))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copies a thread whole to a new one. Raises `sophia.ConflictError` where the target has checkpoints."""
        scope = self._fixed_scope("copy_thread")
        self._checkpoints.copy_thread_sync(str(source_thread_id), str(target_thread_id), scope=scope)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copies a thread whole to a new one. Raises `sophia.ConflictError` where the target has checkpoints."""
        scope = self._fixed_scope("copy_thread")
        await self._checkpoints.copy_thread(str(source_thread_id), str(target_thread_id), scope=scope)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Keeps the last checkpoint of each namespace and what its delta channels are made of; or with "delete", nothing."""
        chosen = _strategy(strategy)
        self._checkpoints.prune_sync([*map(str, thread_ids)], strategy=chosen, scope=self._fixed_scope("prune"))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Keeps the last checkpoint of each namespace and what its delta channels are made of; or with "delete", nothing."""
        chosen = _strategy(strategy)
        await self._checkpoints.prune([*map(str, thread_ids)], strategy=chosen, scope=self._fixed_scope("prune"))

    def get_next_version(self, current: Any, channel: None) -> Any:
        """Returns a version above `current`. Its end is random, so that two forks of one step do not share a version.

        It is text; or a number where the thread was begun with numbers, by another saver.
        """
        if isinstance(current, (int, float)):
            return math.floor(current) + 1 + secrets.randbits(VERSION_BITS) / 2**VERSION_BITS
        count, _, _ = str(current or 0).partition(".")
        return f"{int(count) + 1:0{max(len(count), VERSION_DIGITS)}}.{secrets.token_hex(VERSION_BITS // 8)}"

    def _tuple(self, found: Checkpoint, asked: RunnableConfig | None) -> CheckpointTuple:
        place = found.thread, found.namespace

        def read() -> LangGraphCheckpoint:
            body: dict[str, Any] = self._decode(found.body)
            body["channel_values"] = {name: self._decode(value) for name, value in found.channels.items()}
            return cast(LangGraphCheckpoint, body)

        return StoredTuple.reading(
            read,
            config=self._config(asked, *place, found.id),
            metadata=cast(CheckpointMetadata, found.metadata),
            parent_config=None if found.parent is None else self._config(asked, *place, found.parent),
            pending_writes=self._writes(found.writes),
        )

    def _writes(self, writes: Sequence[StoredWrite]) -> PendingWrites:
        return [(write.task, write.channel, self._decode(write.value)) for write in writes]

    def _config(self, asked: RunnableConfig | None, thread: str, namespace: str, id: str) -> RunnableConfig:
        # What a function makes the scope of has to be in the config that names the checkpoint, too.
        own = _configurable(asked) if callable(self._scope) else {}
        place = {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": id}
        return {"configurable": {**own, **place}}

    def _encode(self, value: Any) -> EncodedInput:
        encoding, data = self.serde.dumps_typed(value)
        return {"encoding": encoding, "data": bytes(data)}

    def _decode(self, value: Encoded) -> Any:
        return self.serde.loads_typed((value.encoding, value.data))

    def _scope_of(self, config: RunnableConfig) -> ScopeLike:
        return _of_tenant_and_user(self._scope(config)) if callable(self._scope) else self._scope

    def _fixed_scope(self, operation: str) -> ScopeLike:
        if callable(self._scope):
            problem = "is a function of the config, and there is none here: take a saver with the scope itself"
            raise refused(f"memory.checkpoints.{operation}", "scope", problem)
        return self._scope


def _of_tenant_and_user(scope: ScopeLike) -> ScopeLike:
    for name, part in zip(("session", "agent"), narrowed(scope), strict=True):
        if part is not None:
            raise refused("memory.checkpoints", f"scope.{name}", "is set: checkpoints belong to a tenant and user")
    return scope


def _configurable(config: RunnableConfig | None) -> Configurable:
    return config.get("configurable", {}) if config else {}


def _place(config: RunnableConfig | None) -> tuple[str, str]:
    place = _configurable(config)
    if (thread := place.get("thread_id")) is None:
        raise refused("memory.checkpoints", "configurable.thread_id", "must name the thread: it is missing, or None")
    return str(thread), place.get("checkpoint_ns") or ""


def _strategy(strategy: str) -> Literal["keep_latest", "delete"]:
    # Any other text is the engine's to refuse, with its reason.
    return cast(Literal["keep_latest", "delete"], strategy)
