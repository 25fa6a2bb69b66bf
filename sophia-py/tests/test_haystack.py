"""Haystack's own tests for document stores, and what those do not ask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack.dataclasses import ByteStream
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.testing.document_store import (
    CountDocumentsByFilterTest,
    CountUniqueMetadataByFilterTest,
    DocumentStoreBaseExtendedTests,
    GetMetadataFieldMinMaxTest,
    GetMetadataFieldsInfoTest,
    GetMetadataFieldUniqueValuesTest,
)

from sophia import Scope, Sophia
from sophia.haystack import SophiaDocumentStore, SophiaRetriever

ADA = Scope(tenant="acme", user="ada")


class TestDocumentStore(
    DocumentStoreBaseExtendedTests,
    CountDocumentsByFilterTest,
    CountUniqueMetadataByFilterTest,
    GetMetadataFieldsInfoTest,
    GetMetadataFieldMinMaxTest,
    GetMetadataFieldUniqueValuesTest,
):
    @pytest.fixture
    def document_store(self) -> Iterator[SophiaDocumentStore]:  # type: ignore[override]
        with Sophia() as s:
            yield SophiaDocumentStore(s, scope=ADA)

    def test_write_documents(self, document_store: Any) -> None:
        """The suite asks each store to say what it does without a policy: ours fails on an id that is there."""
        document = Document(content="test doc")
        assert document_store.write_documents([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            document_store.write_documents([document])
        assert document_store.filter_documents() == [document]


def test_documents_come_back_whole() -> None:
    with Sophia() as s:
        store = SophiaDocumentStore(s)
        documents = [
            Document(content="with a blob", blob=ByteStream(b"\x00\xff", mime_type="x/y"), meta={"deep": {"a": [1, 1.0, None]}}),
            Document(content=None, meta={"only": "meta"}, embedding=[0.5, -1.0]),
        ]
        store.write_documents(documents)
        assert store.filter_documents() == documents


def test_a_pipeline_retrieves_without_an_embedder() -> None:
    with Sophia() as s:
        store = SophiaDocumentStore(s, scope=ADA)
        texts = {"tea": "Ada drinks green tea.", "bike": "Her bicycle is broken."}
        store.write_documents([Document(content=text, meta={"topic": topic}) for topic, text in texts.items()])
        pipeline = Pipeline()
        pipeline.add_component("retriever", SophiaRetriever(store, top_k=1))
        found = pipeline.run({"retriever": {"query": "which beverage does she like?"}})["retriever"]["documents"]
        assert [document.meta["topic"] for document in found] == ["tea"] and found[0].score > 0
        wanted = {"field": "meta.topic", "operator": "==", "value": "bike"}
        assert [document.meta["topic"] for document in store.search("tea", filters=wanted)] in ([], ["bike"])


async def test_it_can_be_awaited_and_keeps_to_its_scope() -> None:
    async with Sophia() as s:
        store = SophiaDocumentStore(s, scope=ADA)
        document = Document(content="tea", meta={"n": 1})
        assert await store.write_documents_async([document]) == 1
        assert await store.write_documents_async([document], DuplicatePolicy.SKIP) == 0
        assert await SophiaDocumentStore(s).count_documents_async() == 0
        assert await store.update_by_filter_async({"field": "meta.n", "operator": "==", "value": 1}, {"n": 2}) == 1
        assert (await store.search_async("tea"))[0].meta == {"n": 2}
        await store.delete_documents_async([document.id])
        assert await store.count_documents_async() == 0


def test_without_haystack_the_error_names_the_extra(program: Any) -> None:
    ended = program("import sys\nsys.modules['haystack'] = None\nimport sophia\nimport sophia.haystack")
    assert ended.returncode != 0 and "pip install 'sophia-ai[haystack]'" in ended.stderr
