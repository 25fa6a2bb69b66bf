"""The LLM cache and the key-value store of LangChain on Sophia's tiers."""

from __future__ import annotations

import base64
import hashlib
import json
import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.load import dumps, loads
from langchain_core.stores import ByteStore

from ._adapters import Steps, apart, call, run, run_sync
from ._engine import Sophia
from .memory import Seconds
from .scope import ScopeLike

__all__ = ["SophiaByteStore", "SophiaCache"]

KEYS_OF_A_PAGE = 1_000


class SophiaCache(BaseCache):
    """Keeps what language models answered: `set_llm_cache(SophiaCache(sophia, ttl="1h"))`."""

    def __init__(self, sophia: Sophia, *, scope: ScopeLike = None, ttl: Seconds | None = None) -> None:
        self._kv = sophia.memory.kv
        self._scope = scope
        self._prefix = f"langchain/llm{apart(scope)}/"
        self._ttl = ttl

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """Returns what was answered to this prompt by a model so configured."""
        return _read(self._kv.get_sync(self._key(prompt, llm_string), scope=self._scope))

    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """Returns what was answered to this prompt by a model so configured."""
        return _read(await self._kv.get(self._key(prompt, llm_string), scope=self._scope))

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Keeps an answer."""
        self._kv.set_sync(self._key(prompt, llm_string), _written(return_val), scope=self._scope, ttl=self._ttl)

    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Keeps an answer."""
        await self._kv.set(self._key(prompt, llm_string), _written(return_val), scope=self._scope, ttl=self._ttl)

    def clear(self, **kwargs: Any) -> None:
        """Removes all answers of the scope."""
        self._kv.invalidate_sync(prefix=self._prefix, scope=self._scope)

    async def aclear(self, **kwargs: Any) -> None:
        """Removes all answers of the scope."""
        await self._kv.invalidate(prefix=self._prefix, scope=self._scope)

    def _key(self, prompt: str, llm_string: str) -> str:
        return self._prefix + hashlib.sha256(json.dumps([prompt, llm_string]).encode()).hexdigest()


class SophiaByteStore(ByteStore):
    """Keeps bytes by key, in process first and durable behind it. `namespace` keeps several apart in one scope."""

    def __init__(self, sophia: Sophia, *, scope: ScopeLike = None, namespace: str = "default") -> None:
        self._engine = sophia._engine
        self._kv = sophia.memory.kv
        self._scope = scope
        self._prefix = f"langchain/bytes{apart(scope)}/{len(namespace)}:{namespace}/"

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """Returns the values of keys, None where there is none."""
        return [_bytes(self._kv.get_sync(self._prefix + key, scope=self._scope)) for key in keys]

    async def amget(self, keys: Sequence[str]) -> list[bytes | None]:
        """Returns the values of keys, None where there is none."""
        return [_bytes(await self._kv.get(self._prefix + key, scope=self._scope)) for key in keys]

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """Sets the values of keys."""
        for key, value in key_value_pairs:
            self._kv.set_sync(self._prefix + key, _text(value), scope=self._scope)

    async def amset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """Sets the values of keys."""
        for key, value in key_value_pairs:
            await self._kv.set(self._prefix + key, _text(value), scope=self._scope)

    def mdelete(self, keys: Sequence[str]) -> None:
        """Removes keys."""
        for key in keys:
            self._kv.delete_sync(self._prefix + key, scope=self._scope)

    async def amdelete(self, keys: Sequence[str]) -> None:
        """Removes keys."""
        for key in keys:
            await self._kv.delete(self._prefix + key, scope=self._scope)

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Yields the keys that begin with `prefix`, sorted."""
        after: str | None = None
        while keys := run_sync(self._engine, self._page(prefix, after)):
            yield from (key.removeprefix(self._prefix) for key in keys)
            after = keys[-1]

    async def ayield_keys(self, *, prefix: str | None = None) -> AsyncIterator[str]:
        """Yields the keys that begin with `prefix`, sorted."""
        after: str | None = None
        while keys := await run(self._engine, self._page(prefix, after)):
            for key in keys:
                yield key.removeprefix(self._prefix)
            after = keys[-1]

    def _page(self, prefix: str | None, after: str | None) -> Steps[list[str]]:
        start = self._prefix + (prefix or "")
        return (yield from call(self._kv._keys(start, after=after, limit=KEYS_OF_A_PAGE, scope=self._scope)))


def _written(generations: RETURN_VAL_TYPE) -> list[str]:
    return [dumps(generation) for generation in generations]


def _read(value: list[str] | None) -> RETURN_VAL_TYPE | None:
    if value is None:
        return None
    with warnings.catch_warnings():
        # LangChain calls its own loader "beta".
        warnings.simplefilter("ignore")
        try:
            return [loads(generation) for generation in value]
        except Exception:
            # What LangChain wrote and cannot read is asked for again, whatever it says of it.
            return None


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else base64.b64decode(value)
