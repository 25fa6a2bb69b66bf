"""Haystack's own tests for document stores, and what those do not ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack.components.writers import DocumentWriter
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

from sophia import ConflictError, InvalidInputError, Scope, Sophia
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


def meanwhile(monkeypatch: pytest.MonkeyPatch, s: Sophia, call: str, act: Callable[[], Any]) -> None:
    """Acts once, before the next call of the engine of this name."""
    original = getattr(s.memory, call)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        setattr(s.memory, call, original)
        act()
        return original(*arguments, **options)

    monkeypatch.setattr(s.memory, call, wrapped)


def test_of_two_who_write_the_same_document_one_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sophia() as s:
        store, other = SophiaDocumentStore(s), SophiaDocumentStore(s)
        ours, theirs, third = (Document(id="1", content=f"by {who}", meta={"who": who}) for who in ("us", "them", "a third"))
        extra = Document(id="2", content="of ours alone")
        policies = DuplicatePolicy.NONE, DuplicatePolicy.FAIL, DuplicatePolicy.SKIP
        for policy in policies:
            store.delete_all_documents()
            meanwhile(monkeypatch, s, "_store_many", lambda policy=policy: other.write_documents([theirs], policy))
            if policy == DuplicatePolicy.SKIP:
                assert store.write_documents([ours, extra], policy) == 1
                assert store.filter_documents() == [theirs, extra]
            else:
                with pytest.raises(DuplicateDocumentError):
                    store.write_documents([ours, extra], policy)
                assert store.filter_documents() == [theirs]
        store.delete_all_documents()

        def two_others() -> None:
            other.write_documents([theirs])
            other.write_documents([third], DuplicatePolicy.OVERWRITE)

        meanwhile(monkeypatch, s, "_store_many", two_others)
        assert store.write_documents([ours], DuplicatePolicy.SKIP) == 0
        assert store.filter_documents() == [third]
        store.delete_all_documents()
        meanwhile(monkeypatch, s, "_store_many", lambda: other.write_documents([theirs]))
        assert store.write_documents([ours, extra], DuplicatePolicy.SKIP) == 1
        kept = s.memory.search_sync().hits
        assert sorted((hit.record.content, hit.record.version) for hit in kept) == [("by them", 1), ("of ours alone", 1)]
        assert store.write_documents([ours], DuplicatePolicy.OVERWRITE) == 1
        assert store.filter_documents() == [ours, extra]


def test_what_was_archived_is_no_duplicate() -> None:
    with Sophia() as s:
        store = SophiaDocumentStore(s)
        document = Document(content="tea")
        store.write_documents([document])
        s.memory.delete_sync(s.memory.search_sync().hits[0].record.id)
        assert store.write_documents([replace(document, content="more tea")]) == 1
        assert [found.content for found in store.filter_documents()] == ["more tea"]


def test_an_update_by_filter_makes_nothing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sophia() as s:
        store, other = SophiaDocumentStore(s), SophiaDocumentStore(s)
        filters = {"field": "meta.n", "operator": "==", "value": 1}
        documents = [Document(id=id, content="tea", meta={"n": 1}) for id in "abc"]
        store.write_documents(documents)
        meanwhile(monkeypatch, s, "_update", lambda: other.delete_documents(["a"]))
        assert store.update_by_filter(filters, {"m": 2}) == 2
        assert [(found.id, found.meta) for found in store.filter_documents()] == [("b", {"n": 1, "m": 2}), ("c", {"n": 1, "m": 2})]
        changed = replace(documents[1], meta={"n": 1, "other": True})
        meanwhile(monkeypatch, s, "_update", lambda: other.write_documents([changed], DuplicatePolicy.OVERWRITE))
        assert store.update_by_filter(filters, {"m": 3}) == 2
        assert store.filter_documents()[0].meta == {"n": 1, "other": True, "m": 3}
        changed = replace(documents[1], meta={"n": 2})
        meanwhile(monkeypatch, s, "_update", lambda: other.write_documents([changed], DuplicatePolicy.OVERWRITE))
        assert store.update_by_filter(filters, {"m": 4}) == 1
        assert store.filter_documents()[0].meta == {"n": 2}


def test_a_conflict_that_stays_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sophia() as s:
        scope = replace(ADA, session="1")
        store, other = SophiaDocumentStore(s, scope=scope), SophiaDocumentStore(s, scope=scope)
        taken, free = Document(id="taken", content="tea"), Document(id="free", content="tea")
        s.memory.store_sync("of another", id=store._id("taken"), scope=replace(ADA, session="2"))
        with pytest.raises(ConflictError, match="another session"):
            store.write_documents([taken, free])
        assert store.count_documents() == 0

        # Another is always quicker.
        store.write_documents([free])
        update = s.memory._update

        def overtaken(*arguments: Any, **options: Any) -> Any:
            other.write_documents([free], DuplicatePolicy.OVERWRITE)
            return update(*arguments, **options)

        monkeypatch.setattr(s.memory, "_update", overtaken)
        with pytest.raises(ConflictError, match="changed meanwhile"):
            store.update_by_filter({}, {"n": 1})


def test_datetimes_come_back_as_they_were() -> None:
    with Sophia() as s:
        store = SophiaDocumentStore(s)
        zoned = datetime(2020, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
        odd = {"$datetime": "x"}, {"$datetime": {"$datetime": zoned}}, {"$date": 1}, {"$date": date(2020, 1, 1)}
        meta = {"d": datetime(2020, 1, 1), "day": date(2020, 1, 1), "deep": [{"z": zoned}], "odd": [*odd]}
        document = Document(content="tea", meta=meta)
        store.write_documents([document])
        assert store.filter_documents() == [document] and store.search("tea")[0].meta == meta
        late = {"field": "meta.d", "operator": ">", "value": datetime(2019, 1, 1)}
        assert store.count_documents_by_filter(late) == 1
        assert store.get_metadata_field_min_max("d") == {"min": meta["d"], "max": meta["d"]}


def test_a_pipeline_is_saved_and_made_again(tmp_path: Path) -> None:
    def saved(s: Sophia) -> str:
        store = SophiaDocumentStore(s, scope=ADA, collection="c", mode="keyword")
        pipeline = Pipeline()
        pipeline.add_component("writer", DocumentWriter(store))
        pipeline.add_component("retriever", SophiaRetriever(store, top_k=1))
        return pipeline.dumps()

    with Sophia(data_dir=tmp_path) as s:
        SophiaDocumentStore(s, scope=ADA, collection="c").write_documents([Document(content="green tea")])
        text = saved(s)
    assert "sophia.haystack.SophiaDocumentStore" in text and "_haystack_store" not in text
    for engine in (text, saved(Sophia())):
        pipeline = Pipeline.loads(engine, allowed_modules=["sophia.haystack"])
        writer, retriever = pipeline.get_component("writer"), pipeline.get_component("retriever")
        writer.run([Document(content="black tea")])
        found = retriever.run("tea", top_k=5)["documents"]
        assert {document.content for document in found} == {"black tea"} | ({"green tea"} if engine == text else set())
        assert pipeline.dumps() == engine
    with pytest.raises(InvalidInputError, match="may hold secrets"):
        SophiaDocumentStore(Sophia(redis={"url": "redis://:secret@127.0.0.1:1"})).to_dict()


def test_many_documents_are_written_and_found() -> None:
    with Sophia(memory={"embedder": "none"}) as s:
        store = SophiaDocumentStore(s, mode="keyword")
        documents = [Document(id=str(n), content="tea", meta={"n": n}) for n in range(10_001)]
        assert store.write_documents(documents, DuplicatePolicy.OVERWRITE) == 10_001
        assert store.update_by_filter({"field": "meta.n", "operator": ">=", "value": 9_999}, {"late": True}) == 2
        assert len({document.id for document in store.search("tea", top_k=1_500)}) == 1_500
        assert store.search("tea", top_k=0) == []


def test_sessions_and_agents_have_documents_of_their_own() -> None:
    with Sophia() as s:
        scopes = [Scope(user="ada"), Scope(user="ada", session="1"), Scope(user="ada", session="2")]
        stores = [SophiaDocumentStore(s, scope=scope) for scope in scopes]
        for place, store in enumerate(stores):
            assert store.write_documents([Document(id="same", content=f"tea number {place}")]) == 1
        for place, store in enumerate(stores):
            assert [found.content for found in store.filter_documents()] == [f"tea number {place}"]
            assert [found.content for found in store.search("tea")] == [f"tea number {place}"]
        stores[0].delete_all_documents()
        assert [store.count_documents() for store in stores] == [0, 1, 1]


def test_without_haystack_the_error_names_the_extra(program: Any) -> None:
    ended = program("import sys\nsys.modules['haystack'] = None\nimport sophia\nimport sophia.haystack")
    assert ended.returncode != 0 and "pip install 'sophia-ai[haystack]'" in ended.stderr
