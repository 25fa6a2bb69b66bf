"""The document store of Haystack on Sophia's records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import date, datetime
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.utils.filters import document_matches_filter

from ._adapters import DEEPEST, ITEMS, PAGE, Steps, all_records, apart, best_hits, call, refused, run, run_sync, store_all
from ._engine import Sophia
from .errors import ConflictError, NotFoundError
from .memory import Mode
from .scope import Scope, ScopeLike
from .types import Hit, Record

__all__ = ["SophiaDocumentStore", "SophiaRetriever"]

PUBLIC = "sophia.haystack"
"""The module by which saved pipelines name the classes."""
KIND = "haystack.document"
FIELD = "haystack"
"""The name in the metadata under which the whole document is kept."""
TIMES: dict[str, type[date]] = {"$datetime": datetime, "$date": date}
"""What an object stands for that has one of these names alone."""
DEFAULT_TOP_K = 10
TRIES = 16
"""How often a write is tried that others come before."""

Filters = dict[str, Any]


class SophiaDocumentStore:
    """Keeps documents as records of Sophia: durable, scoped, found by meaning and by words with no embedder in the pipeline.

    The vectors are the engine's own, of the document's text; an `embedding` that a document brings is kept with it.
    Filters are Haystack's, exactly; they read the documents of the collection. A pipeline can be saved where the engine is
    built of a file, of the environment, or of `data_dir` and plain settings of `memory`.
    """

    __module__ = PUBLIC

    def __init__(
        self, sophia: Sophia, *, scope: ScopeLike = None, collection: str = "default", mode: Mode = "hybrid"
    ) -> None:
        self._sophia = sophia
        self._engine = sophia._engine
        self._memory = sophia.memory
        self._scope = scope
        self._apart = apart(scope)
        self._collection = collection
        self._mode: Mode = mode

    def to_dict(self) -> dict[str, Any]:
        """Returns what the store is made of, for a pipeline that is saved."""
        if self._sophia._recipe is None:
            problem = "is built of settings that may hold secrets: build it of a file, of the environment or of plain settings"
            raise refused("haystack.to_dict", "sophia", problem)
        scope = {name: part for name, part in _parts(self._scope).items() if part is not None}
        settings: dict[str, Any] = {"scope": scope, "collection": self._collection, "mode": self._mode}
        return default_to_dict(self, sophia=self._sophia._recipe, **settings)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SophiaDocumentStore:
        """Makes a store of what `to_dict` returned; stores of the same engine share one."""
        settings = data["init_parameters"]
        sophia = Sophia._of_recipe(settings["sophia"])
        made: SophiaDocumentStore = default_from_dict(cls, {**data, "init_parameters": {**settings, "sophia": sophia}})
        return made

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
        """Writes documents, all or none of each 10,000; returns how many. Without a policy, one that is there is an error."""
        return run_sync(self._engine, self._write(documents, policy))

    async def write_documents_async(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """Writes documents, all or none of each 10,000; returns how many. Without a policy, one that is there is an error."""
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
            yield from all_records(
                self._memory, scope=self._scope, kinds=[KIND], categories=[self._collection], tags=[self._tag]
            )
        )

    def _filter(self, filters: Filters | None) -> Steps[list[Document]]:
        documents = [_document(record) for record in (yield from self._records())]
        return [document for document in documents if not filters or document_matches_filter(filters, document)]

    def _write(self, documents: Iterable[Document], policy: DuplicatePolicy) -> Steps[int]:
        if isinstance(documents, str) or not all(isinstance(document, Document) for document in documents):
            raise ValueError("write_documents takes a list of Documents")
        kept: dict[str, Document] = {}
        for document in documents:
            if policy != DuplicatePolicy.OVERWRITE and document.id in kept:
                if policy != DuplicatePolicy.SKIP:
                    raise _duplicate(document)
                continue
            kept[document.id] = document
        if policy == DuplicatePolicy.OVERWRITE:
            items = [self._item(document) for document in kept.values()]
            return len((yield from store_all(self._memory, items, scope=self._scope)))
        new = yield from self._new(kept.values(), policy)
        written = 0
        for first in range(0, len(new), ITEMS):
            written += yield from self._write_new(new[first : first + ITEMS], policy)
        return written

    def _new(self, documents: Iterable[Document], policy: DuplicatePolicy) -> Steps[list[Document]]:
        """Returns the documents that are not there; one that is there is an error unless it may be skipped."""
        new: list[Document] = []
        for document in documents:
            if (yield from call(self._memory._get(self._id(document.id), scope=self._scope))) is None:
                new.append(document)
            elif policy != DuplicatePolicy.SKIP:
                raise _duplicate(document)
        return new

    def _write_new(self, documents: list[Document], policy: DuplicatePolicy) -> Steps[int]:
        """Writes documents that were not there, all or none; looks again where another has written one of them since."""
        tries = TRIES
        while True:
            items = [{**self._item(document), "if_version": 0} for document in documents]
            try:
                yield from store_all(self._memory, items, scope=self._scope)
            except ConflictError as error:
                new = yield from self._new(documents, policy)
                tries -= len(new) == len(documents)
                if not _has_changed(error) or tries == 0:
                    raise
                documents = new
            else:
                return len(documents)

    def _item(self, document: Document) -> dict[str, Any]:
        return {
            "id": self._id(document.id),
            "source": document.id,
            "content": (document.content or "").replace("\0", "").strip() or document.id,
            "kind": KIND,
            "category": self._collection,
            "tags": [self._tag],
            "metadata": {FIELD: _written(document)},
        }

    def _delete(self, ids: Iterable[str]) -> Steps[None]:
        for id in ids:
            yield from call(self._memory._delete(self._id(id), scope=self._scope, permanent=True))

    def _delete_by_filter(self, filters: Filters) -> Steps[int]:
        documents = yield from self._filter(filters)
        yield from self._delete(document.id for document in documents)
        return len(documents)

    def _update_by_filter(self, filters: Filters, meta: dict[str, Any]) -> Steps[int]:
        updated = 0
        for record in (yield from self._records()):
            updated += yield from self._update(record, filters, meta)
        return updated

    def _update(self, found: Record | None, filters: Filters, meta: dict[str, Any]) -> Steps[bool]:
        """Merges `meta` into one document, if it is there and passes the filters when that is done."""
        tries = TRIES
        while found is not None:
            document = _document(found)
            if filters and not document_matches_filter(filters, document):
                return False
            changed = replace(document, meta=document.meta | meta)
            metadata = {FIELD: _written(changed)}
            request = self._memory._update(found.id, scope=self._scope, metadata=metadata, if_version=found.version)
            try:
                yield from call(request)
            except (ConflictError, NotFoundError) as error:
                tries -= 1
                if isinstance(error, ConflictError) and not _has_changed(error) or tries == 0:
                    raise
                found = yield from call(self._memory._get(found.id, scope=self._scope))
            else:
                return True
        return False

    def _search(self, query: str, top_k: int, filters: Filters | None) -> Steps[list[Document]]:
        if top_k < 1:
            return []
        found: dict[str, Document] = {}
        read = 0

        def take(hits: list[Hit]) -> bool:
            nonlocal read
            read += len(hits)
            for hit in hits:
                document = _document(hit.record)
                if not filters or document_matches_filter(filters, document):
                    found.setdefault(document.id, replace(document, score=hit.score))
            return len(found) >= top_k

        # What does not pass the filters has to be read, too: then a page is as long as it may be.
        page = PAGE if filters else min(top_k, PAGE)
        yield from best_hits(
            self._memory,
            query,
            take,
            page=page,
            scope=self._scope,
            mode=self._mode,
            kinds=[KIND],
            categories=[self._collection],
            tags=[self._tag],
        )
        if len(found) < top_k and read > DEEPEST:
            # What matches worse than an offset reaches comes last.
            for document in (yield from self._filter(filters)):
                found.setdefault(document.id, replace(document, score=0.0))
        return list(found.values())[:top_k]

    def _id(self, id: str) -> str:
        # Of a fixed length, and apart from the ids of other collections and of other records.
        return f"haystack{self._apart}:" + hashlib.sha256(json.dumps([self._collection, id]).encode()).hexdigest()

    @property
    def _tag(self) -> str:
        return f"haystack{self._apart}:{self._collection}"


@component
class SophiaRetriever:
    """Finds the documents of a [`SophiaDocumentStore`] that answer a query: one component, with no embedder before it."""

    __module__ = PUBLIC

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
    return Document.from_dict(_with_times(record.metadata[FIELD]))


def _duplicate(document: Document) -> DuplicateDocumentError:
    return DuplicateDocumentError(f"a document with the id `{document.id}` is there already")


def _has_changed(error: ConflictError) -> bool:
    """Returns whether another has changed a record meanwhile; any other conflict stays."""
    return "found" in error.context


def _written(document: Document) -> dict[str, Any]:
    written: dict[str, Any] = _without_times(document.to_dict(flatten=False))
    return written


def _without_times(value: Any) -> Any:
    """Returns a value with each date and datetime as JSON can write it."""
    if isinstance(value, date):
        return {"$datetime" if isinstance(value, datetime) else "$date": value.isoformat()}
    if isinstance(value, Mapping):
        plain = {name: _without_times(inner) for name, inner in value.items()}
        name = _time(plain)
        return {name: plain} if name else plain
    return [_without_times(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _with_times(value: Any) -> Any:
    if isinstance(value, dict):
        name = _time(value)
        if name is None:
            return {name: _with_times(inner) for name, inner in value.items()}
        inner = value[name]
        return TIMES[name].fromisoformat(inner) if isinstance(inner, str) else {name: _with_times(inner[name])}
    return [_with_times(inner) for inner in value] if isinstance(value, list) else value


def _time(value: Mapping[str, Any]) -> str | None:
    return next((name for name in value if len(value) == 1 and name in TIMES), None)


def _parts(scope: ScopeLike) -> Mapping[str, str | None]:
    return scope if isinstance(scope, Mapping) else vars(scope or Scope())


def _field(name: str) -> str:
    return name.removeprefix("meta.")


def _type(value: Any) -> str:
    return {bool: "boolean", int: "int", float: "float"}.get(type(value), "keyword")


def _values(documents: list[Document], name: str) -> list[Any]:
    """Returns the values of a field, each once; 1, 1.0, "1" and True are four."""
    found = (document.meta.get(name) for document in documents)
    return list({(type(value).__name__, json.dumps(value, default=str)): value for value in found if value is not None}.values())
