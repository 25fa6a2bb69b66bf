"""The document store of Haystack on Sophia's records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from haystack import Document, component
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.utils.filters import document_matches_filter

from ._adapters import PAGE, Steps, all_records, call, run, run_sync
from ._engine import Sophia
from .errors import SophiaError
from .memory import Mode
from .scope import ScopeLike
from .types import Record

__all__ = ["SophiaDocumentStore", "SophiaRetriever"]

KIND = "haystack.document"
FIELD = "haystack"
"""The name in the metadata under which the whole document is kept."""
DEFAULT_TOP_K = 10

Filters = dict[str, Any]


class SophiaDocumentStore:
    """Keeps documents as records of Sophia: durable, scoped, found by meaning and by words with no embedder in the pipeline.

    The vectors are the engine's own, of the document's text; an `embedding` that a document brings is kept with it.
    Filters are Haystack's, exactly; they read the documents of the collection.
    """

    def __init__(
        self, sophia: Sophia, *, scope: ScopeLike = None, collection: str = "default", mode: Mode = "hybrid"
    ) -> None:
        self._engine = sophia._engine
        self._memory = sophia.memory
        self._scope = scope
        self._collection = collection
        self._mode: Mode = mode

    def count_documents(self) -> int:
        """Returns how many documents there are."""
        return len(self.filter_documents())

    def filter_documents(self, filters: Filters | None = None) -> list[Document]:
        """Returns the documents that pass the filters, in the order in which they were written."""
        return run_sync(self._engine, self._filter(filters))

    async def filter_documents_async(self, filters: Filters | None = None) -> list[Document]:
        """Returns the documents that pass the filters, in the order in which they were written."""
        return await run(self._engine, self._filter(filters))

    async def count_documents_async(self) -> int:
        """Returns how many documents there are."""
        return len(await self.filter_documents_async())

    def write_documents(self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE) -> int:
        """Writes documents, all or none; returns how many. Without a policy, one whose id is there is an error."""
        return run_sync(self._engine, self._write(documents, policy))

    async def write_documents_async(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """Writes documents, all or none; returns how many. Without a policy, one whose id is there is an error."""
        return await run(self._engine, self._write(documents, policy))

    def delete_documents(self, document_ids: list[str]) -> None:
        """Removes documents for good; ids that are not there are passed over."""
        run_sync(self._engine, self._delete(document_ids))

    async def delete_documents_async(self, document_ids: list[str]) -> None:
        """Removes documents for good; ids that are not there are passed over."""
        await run(self._engine, self._delete(document_ids))

    def delete_all_documents(self) -> None:
        """Removes all documents of the collection for good."""
        self._memory.delete_where_sync(scope=self._scope, kinds=[KIND], tags=[self._tag], permanent=True)

    async def delete_all_documents_async(self) -> None:
        """Removes all documents of the collection for good."""
        await self._memory.delete_where(scope=self._scope, kinds=[KIND], tags=[self._tag], permanent=True)

    def delete_by_filter(self, filters: Filters) -> int:
        """Removes the documents that pass the filters for good; returns how many."""
        return run_sync(self._engine, self._delete_by_filter(filters))

    async def delete_by_filter_async(self, filters: Filters) -> int:
        """Removes the documents that pass the filters for good; returns how many."""
        return await run(self._engine, self._delete_by_filter(filters))

    def update_by_filter(self, filters: Filters, meta: dict[str, Any]) -> int:
        """Merges `meta` into the documents that pass the filters; returns how many."""
        return run_sync(self._engine, self._update_by_filter(filters, meta))

    async def update_by_filter_async(self, filters: Filters, meta: dict[str, Any]) -> int:
        """Merges `meta` into the documents that pass the filters; returns how many."""
        return await run(self._engine, self._update_by_filter(filters, meta))

    def count_documents_by_filter(self, filters: Filters) -> int:
        """Returns how many documents pass the filters."""
        return len(self.filter_documents(filters))

    def count_unique_metadata_by_filter(self, filters: Filters, metadata_fields: list[str]) -> dict[str, int]:
        """Returns how many values each field has in the documents that pass the filters."""
        documents = self.filter_documents(filters)
        return {name: len(_values(documents, name)) for name in map(_field, metadata_fields)}

    def get_metadata_fields_info(self) -> dict[str, dict[str, str]]:
        """Returns the type of each field: "boolean", "int", "float" or "keyword"."""
        return {
            name: {"type": _type(value)}
            for document in self.filter_documents()
            for name, value in document.meta.items()
            if value is not None
        }

    def get_metadata_field_min_max(self, metadata_field: str) -> dict[str, Any]:
        """Returns the least and the greatest value of a field; None where there is none, or they do not compare."""
        values = _values(self.filter_documents(), _field(metadata_field))
        try:
            return {"min": min(values, default=None), "max": max(values, default=None)}
        except TypeError:
            return {"min": None, "max": None}

    def get_metadata_field_unique_values(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: Filters | None = None,
    ) -> tuple[list[Any], int]:
        """Returns a page of the values of a field, and how many there are; `search_term` keeps those that hold it."""
        values = _values(self.filter_documents(filters), _field(metadata_field))
        wanted = (search_term or "").lower()
        kept = sorted((value for value in values if wanted in str(value).lower()), key=str)
        return kept[from_ : from_ + size], len(kept)

    def search(self, query: str, *, top_k: int = DEFAULT_TOP_K, filters: Filters | None = None) -> list[Document]:
        """Returns the documents that match best, by meaning and by words, each with its score."""
        return run_sync(self._engine, self._search(query, top_k, filters))

    async def search_async(
        self, query: str, *, top_k: int = DEFAULT_TOP_K, filters: Filters | None = None
    ) -> list[Document]:
        """Returns the documents that match best, by meaning and by words, each with its score."""
        return await run(self._engine, self._search(query, top_k, filters))

    def _records(self) -> Steps[list[Record]]:
        return (
            yield from all_records(self._memory, scope=self._scope, kinds=[KIND], categories=[self._collection])
        )

    def _filter(self, filters: Filters | None) -> Steps[list[Document]]:
        documents = [_document(record) for record in (yield from self._records())]
        return [document for document in documents if not filters or document_matches_filter(filters, document)]

    def _write(self, documents: Iterable[Document], policy: DuplicatePolicy) -> Steps[int]:
        if isinstance(documents, str) or not all(isinstance(document, Document) for document in documents):
            raise ValueError("write_documents takes a list of Documents")
        kept: dict[str, Document] = {}
        for document in documents:
            known = document.id in kept
            if policy != DuplicatePolicy.OVERWRITE and not known:
                known = (yield from call(self._memory._get(self._id(document.id), scope=self._scope))) is not None
            if known and policy == DuplicatePolicy.SKIP:
                continue
            if known and policy != DuplicatePolicy.OVERWRITE:
                raise DuplicateDocumentError(f"a document with the id `{document.id}` is there already")
            kept[document.id] = document
        yield from self._store(kept.values())
        return len(kept)

    def _store(self, documents: Iterable[Document]) -> Steps[None]:
        items = [
            {
                "id": self._id(document.id),
                "source": document.id,
                "content": (document.content or "").replace("\0", "").strip() or document.id,
                "kind": KIND,
                "category": self._collection,
                "tags": [self._tag],
                "metadata": {FIELD: document.to_dict(flatten=False)},
            }
            for document in documents
        ]
        for outcome in (yield from call(self._memory._store_many(items, scope=self._scope, atomic=True))):
            if isinstance(outcome, SophiaError):
                raise outcome

    def _delete(self, ids: Iterable[str]) -> Steps[None]:
        for id in ids:
            yield from call(self._memory._delete(self._id(id), scope=self._scope, permanent=True))

    def _delete_by_filter(self, filters: Filters) -> Steps[int]:
        documents = yield from self._filter(filters)
        yield from self._delete(document.id for document in documents)
        return len(documents)

    def _update_by_filter(self, filters: Filters, meta: dict[str, Any]) -> Steps[int]:
        documents = yield from self._filter(filters)
        yield from self._store(replace(document, meta=document.meta | meta) for document in documents)
        return len(documents)

    def _search(self, query: str, top_k: int, filters: Filters | None) -> Steps[list[Document]]:
        found: list[Document] = []
        offset = 0
        while len(found) < top_k:
            # What does not pass the filters has to be read, too: then a page is as long as it may be.
            limit = PAGE if filters else top_k
            request = self._memory._search(
                query,
                scope=self._scope,
                mode=self._mode,
                kinds=[KIND],
                categories=[self._collection],
                limit=limit,
                offset=offset,
            )
            hits = (yield from call(request)).hits
            for hit in hits:
                document = _document(hit.record)
                if not filters or document_matches_filter(filters, document):
                    found.append(replace(document, score=hit.score))
            offset += limit
            if len(hits) < limit or not filters:
                break
        return found[:top_k]

    def _id(self, id: str) -> str:
        # Of a fixed length, and apart from the ids of other collections and of other records.
        return "haystack:" + hashlib.sha256(json.dumps([self._collection, id]).encode()).hexdigest()

    @property
    def _tag(self) -> str:
        return f"haystack:{self._collection}"


@component
class SophiaRetriever:
    """Finds the documents of a [`SophiaDocumentStore`] that answer a query: one component, with no embedder before it."""

    def __init__(
        self, document_store: SophiaDocumentStore, *, top_k: int = DEFAULT_TOP_K, filters: Filters | None = None
    ) -> None:
        self.document_store = document_store
        self.top_k = top_k
        self.filters = filters

    @component.output_types(documents=list[Document])
    def run(self, query: str, top_k: int | None = None, filters: Filters | None = None) -> dict[str, list[Document]]:
        """Returns the documents that match best."""
        found = self.document_store.search(query, top_k=top_k or self.top_k, filters=filters or self.filters)
        return {"documents": found}


def _document(record: Record) -> Document:
    return Document.from_dict(record.metadata[FIELD])


def _field(name: str) -> str:
    return name.removeprefix("meta.")


def _type(value: Any) -> str:
    return {bool: "boolean", int: "int", float: "float"}.get(type(value), "keyword")


def _values(documents: list[Document], name: str) -> list[Any]:
    """Returns the values of a field, each once; 1, 1.0, "1" and True are four."""
    found = (document.meta.get(name) for document in documents)
    return list({(type(value).__name__, json.dumps(value)): value for value in found if value is not None}.values())
