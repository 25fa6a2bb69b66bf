"""The vector store of LangChain on Sophia's records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self
from uuid import uuid4

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from ._adapters import PAGE, Steps, apart, best_hits, call, newest_records, run, run_sync, store_all
from ._engine import Sophia
from .memory import Mode
from .scope import ScopeLike
from .types import Hit, Record

__all__ = ["SophiaVectorStore"]

KIND = "langchain.document"
DEFAULT_K = 4
"""Documents of a search that names no number, as LangChain has it."""
DEFAULT_FETCHED = 20
DEFAULT_LAMBDA = 0.5

Filter = dict[str, Any]
Vectors = list[list[float]]


class SophiaVectorStore(VectorStore):
    """Keeps documents as records of Sophia: durable, scoped, found by meaning and by words with no key and no download.

    Without `embedding` the engine's own embedder is used. With one, its vectors are, and the engine must be built with
    `memory={"embedder": "none"}`, since vectors of two models are not compared. `filter` keeps documents whose metadata
    has these values.
    """

    def __init__(
        self,
        sophia: Sophia,
        embedding: Embeddings | None = None,
        *,
        scope: ScopeLike = None,
        collection: str = "default",
        mode: Mode = "hybrid",
    ) -> None:
        self._engine = sophia._engine
        self._memory = sophia.memory
        self._embedding = embedding
        self._scope = scope
        self._apart = apart(scope)
        self._collection = collection
        self._mode: Mode = mode

    @property
    def embeddings(self) -> Embeddings | None:
        """What makes the vectors; None where the engine does."""
        return self._embedding

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        sophia: Sophia | None = None,
        **kwargs: Any,
    ) -> Self:
        """Builds a store of texts; without `sophia`, in an engine of its own that is gone with this process."""
        engine = sophia or Sophia(memory={"embedder": "none"} if embedding else {})
        store = cls(engine, embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Stores texts, all or none of each 10,000, and returns their ids; one whose id is there is replaced."""
        listed = list(texts)
        vectors = self._embedding.embed_documents(listed) if self._embedding else None
        return run_sync(self._engine, self._add(listed, metadatas, ids, vectors))

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Stores texts, all or none of each 10,000, and returns their ids; one whose id is there is replaced."""
        listed = list(texts)
        vectors = await self._embedding.aembed_documents(listed) if self._embedding else None
        return await run(self._engine, self._add(listed, metadatas, ids, vectors))

    def _add(
        self,
        texts: list[str],
        metadatas: list[dict[str, Any]] | None,
        ids: Sequence[str | None] | None,
        vectors: Vectors | None,
    ) -> Steps[list[str]]:
        names = [id or str(uuid4()) for id in (ids or [None] * len(texts))]
        facts = metadatas or [{} for _ in texts]
        if not len(texts) == len(names) == len(facts):
            raise ValueError(f"{len(texts)} texts, {len(facts)} metadatas and {len(names)} ids: must be as many")
        items: list[dict[str, Any]] = [
            {
                "id": self._id(name),
                "source": name,
                "content": text,
                "kind": KIND,
                "category": self._collection,
                "tags": [self._tag],
                "metadata": fact,
            }
            for text, name, fact in zip(texts, names, facts, strict=True)
        ]
        for item, vector in zip(items, vectors or [], strict=False):
            item["embedding"] = vector
        yield from store_all(self._memory, items, scope=self._scope)
        return names

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Removes documents for good; all of the collection where no ids are given."""
        return run_sync(self._engine, self._delete(ids))

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Removes documents for good; all of the collection where no ids are given."""
        return await run(self._engine, self._delete(ids))

    def _delete(self, ids: list[str] | None) -> Steps[bool]:
        if ids is None:
            request = self._memory._delete_where(scope=self._scope, kinds=[KIND], tags=[self._tag], permanent=True)
            yield from call(request)
            return True
        for id in ids:
            yield from call(self._memory._delete(self._id(id), scope=self._scope, permanent=True))
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Returns the documents that have these ids; those that are missing are left out."""
        return run_sync(self._engine, self._get(ids))

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Returns the documents that have these ids; those that are missing are left out."""
        return await run(self._engine, self._get(ids))

    def _get(self, ids: Sequence[str]) -> Steps[list[Document]]:
        found: list[Document] = []
        for id in ids:
            record = yield from call(self._memory._get(self._id(id), scope=self._scope))
            if record is not None:
                found.append(_document(record))
        return found

    def similarity_search(
        self, query: str, k: int = DEFAULT_K, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """Returns the `k` documents that match best."""
        return [document for document, _ in self.similarity_search_with_score(query, k, filter)]

    async def asimilarity_search(
        self, query: str, k: int = DEFAULT_K, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """Returns the `k` documents that match best."""
        return [document for document, _ in await self.asimilarity_search_with_score(query, k, filter)]

    def similarity_search_with_score(
        self, query: str, k: int = DEFAULT_K, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Returns the `k` documents that match best, each with its score: from 0, which does not match, to 1."""
        vector = self._embedding.embed_query(query) if self._embedding else None
        return run_sync(self._engine, self._search(query, vector, k, filter))

    async def asimilarity_search_with_score(
        self, query: str, k: int = DEFAULT_K, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Returns the `k` documents that match best, each with its score: from 0, which does not match, to 1."""
        vector = await self._embedding.aembed_query(query) if self._embedding else None
        return await run(self._engine, self._search(query, vector, k, filter))

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = DEFAULT_K,
        fetch_k: int = DEFAULT_FETCHED,
        lambda_mult: float = DEFAULT_LAMBDA,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Returns `k` documents that match well and differ: `lambda_mult` is 1 for what matches, 0 for what differs.

        The engine chooses what it chooses them of; `fetch_k` is not looked at.
        """
        vector = self._embedding.embed_query(query) if self._embedding else None
        found = run_sync(self._engine, self._search(query, vector, k, filter, mmr_lambda=lambda_mult))
        return [document for document, _ in found]

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = DEFAULT_K,
        fetch_k: int = DEFAULT_FETCHED,
        lambda_mult: float = DEFAULT_LAMBDA,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Returns `k` documents that match well and differ: `lambda_mult` is 1 for what matches, 0 for what differs.

        The engine chooses what it chooses them of; `fetch_k` is not looked at.
        """
        vector = await self._embedding.aembed_query(query) if self._embedding else None
        found = await run(self._engine, self._search(query, vector, k, filter, mmr_lambda=lambda_mult))
        return [document for document, _ in found]

    def _search(
        self, query: str, vector: list[float] | None, k: int, filter: Filter | None, **options: Any
    ) -> Steps[list[tuple[Document, float]]]:
        if k < 1:
            return []
        places: dict[str, Any] = {
            "scope": self._scope,
            "kinds": [KIND],
            "categories": [self._collection],
            "tags": [self._tag],
            "metadata": filter,
        }
        found: dict[int, tuple[Record, float]] = {}

        def take(hits: list[Hit]) -> bool:
            found.update((hit.record.seq, (hit.record, hit.score)) for hit in hits)
            return len(found) >= k

        def fill(records: list[Record]) -> bool:
            for record in records:
                found.setdefault(record.seq, (record, 0.0))
            return len(found) >= k

        page = min(k, PAGE)
        # LangChain's "k nearest" counts what is not near at all, too.
        options |= {"mode": self._mode, "embedding": vector, "min_similarity": -1.0}
        yield from best_hits(self._memory, query, take, page=page, **options, **places)
        if len(found) < k:
            # What has no vector comes last.
            yield from newest_records(self._memory, fill, page=page, **places)
        return [(_document(record), score) for record, score in found.values()][:k]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda score: score

    def _id(self, id: str) -> str:
        # Of a fixed length, and apart from the ids of other collections and of other records.
        return f"langchain{self._apart}:" + hashlib.sha256(json.dumps([self._collection, id]).encode()).hexdigest()

    @property
    def _tag(self) -> str:
        return f"langchain{self._apart}:{self._collection}"


def _document(record: Record) -> Document:
    return Document(id=record.source, page_content=record.content, metadata=record.metadata)
