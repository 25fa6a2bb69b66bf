"""LangChain's standard tests on the adapters, and what those do not ask."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.caches import BaseCache
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, InvalidToolCall, ToolMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import (
    AsyncCacheTestSuite,
    BaseStoreAsyncTests,
    BaseStoreSyncTests,
    SyncCacheTestSuite,
    VectorStoreIntegrationTests,
)
from pydantic import SecretStr

from sophia import InvalidInputError, Scope, Sophia
from sophia.langchain import ChatSophia, SophiaByteStore, SophiaCache, SophiaChatMessageHistory, SophiaVectorStore
from sophia.langchain_chat import _messages

from .conftest import Model, engine

ADA = Scope(tenant="acme", user="ada")
BOB = Scope(tenant="acme", user="bob")


class TestVectorsOfTheEngine(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self) -> Iterator[VectorStore]:  # type: ignore[override]
        with Sophia() as s:
            yield SophiaVectorStore(s, scope=ADA)


class TestVectorsOfTheCaller(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self) -> Iterator[VectorStore]:  # type: ignore[override]
        with Sophia(memory={"embedder": "none"}) as s:
            yield SophiaVectorStore(s, self.get_embeddings())


class TestCache(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self) -> Iterator[BaseCache]:  # type: ignore[override]
        with Sophia() as s:
            yield SophiaCache(s)


class TestAsyncCache(AsyncCacheTestSuite):
    @pytest.fixture
    async def cache(self) -> Any:
        async with Sophia() as s:
            yield SophiaCache(s)


class TestByteStore(BaseStoreSyncTests[bytes]):
    @pytest.fixture
    def kv_store(self) -> Iterator[SophiaByteStore]:  # type: ignore[override]
        with Sophia() as s:
            yield SophiaByteStore(s)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"foo", b"\x00\xff", b""


class TestAsyncByteStore(BaseStoreAsyncTests[bytes]):
    @pytest.fixture
    async def kv_store(self) -> Any:
        async with Sophia() as s:
            yield SophiaByteStore(s)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"foo", b"\x00\xff", b""


def test_scopes_and_collections_are_apart() -> None:
    with Sophia() as s:
        stores = [SophiaVectorStore(s, scope=ADA), SophiaVectorStore(s, scope=ADA, collection="b"), SophiaVectorStore(s, scope=BOB)]
        for place, store in enumerate(stores):
            store.add_texts([f"tea number {place}"], [{"place": place}], ids=["same"])
        assert [store.similarity_search("tea")[0].metadata["place"] for store in stores] == [0, 1, 2]
        assert stores[0].similarity_search("tea", filter={"place": 1}) == []
        assert stores[0].similarity_search_with_score("zebra")[0][1] < 0.25
        stores[0].delete()
        assert [len(store.similarity_search("tea")) for store in stores] == [0, 1, 1]
        with pytest.raises(ValueError):
            stores[0].add_texts(["one", "two"], ids=["1"])


def test_sessions_and_agents_have_documents_of_their_own() -> None:
    with Sophia() as s:
        scopes = [Scope(user="ada"), Scope(user="ada", session="1"), Scope(user="ada", session="2")]
        stores = [SophiaVectorStore(s, scope=scope) for scope in scopes]
        for place, store in enumerate(stores):
            store.add_texts([f"tea number {place}"], ids=["same"])
        assert [store.get_by_ids(["same"])[0].page_content for store in stores] == [f"tea number {n}" for n in range(3)]
        assert [[found.page_content for found in store.similarity_search("tea")] for store in stores] == [
            [f"tea number {n}"] for n in range(3)
        ]
        stores[0].delete()
        assert [len(store.similarity_search("tea")) for store in stores] == [0, 1, 1]


def test_many_documents_are_stored_and_found() -> None:
    with Sophia(memory={"embedder": "none"}) as s:
        store = SophiaVectorStore(s, mode="keyword")
        assert len(set(store.add_texts(["tea" if n < 1_500 else "coffee" for n in range(10_001)]))) == 10_001
        found = store.similarity_search_with_score("tea", k=2_000)
        assert len({document.id for document, _ in found}) == 2_000
        assert [score > 0 for _, score in found] == [True] * 1_500 + [False] * 500
        assert store.similarity_search("tea", k=0) == []


class Angles(Embeddings):
    """Vectors whose cosines to the question are small: document 0 is the nearest, and none is near."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self._at(0.2 - int(text) / 100) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self._at(1.0)

    def _at(self, cosine: float) -> list[float]:
        return [cosine, math.sqrt(1 - cosine * cosine)]


def test_the_nearest_are_found_also_where_none_is_near() -> None:
    texts = [str(n) for n in range(30)]
    with Sophia(memory={"embedder": "none"}) as s:
        reference = InMemoryVectorStore(Angles())
        for store in (reference, SophiaVectorStore(s, Angles(), mode="semantic")):
            store.add_texts(texts)
            assert said(store.similarity_search("q", k=25)) == texts[:25]


async def test_documents_that_differ_are_preferred_where_that_is_asked() -> None:
    async with Sophia() as s:
        store = SophiaVectorStore(s)
        store.add_texts(["Ada drinks green tea.", "Ada drinks green tea!", "Her tea pot is broken."])
        assert [text[:3] for text in said(store.similarity_search("green tea", k=2))] == ["Ada", "Ada"]
        assert said(store.max_marginal_relevance_search("green tea", k=2, lambda_mult=0.1))[1] == "Her tea pot is broken."
        found = await store.as_retriever(search_type="mmr", search_kwargs={"k": 2, "lambda_mult": 0.1}).ainvoke("green tea")
        assert said(found)[1] == "Her tea pot is broken."


def said(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


async def test_messages_are_added_all_or_none() -> None:
    async with Sophia() as s:
        history = SophiaChatMessageHistory(s, Scope(user="ada", session="1"))
        history.add_messages([HumanMessage("before")])
        wrong = [HumanMessage("one"), HumanMessage("a\0b"), HumanMessage("three")]
        with pytest.raises(InvalidInputError):
            history.add_messages(wrong)
        with pytest.raises(InvalidInputError):
            await history.aadd_messages(wrong)
        assert history.messages == [HumanMessage("before")]


def test_the_history_keeps_messages_whole_and_in_order() -> None:
    with Sophia() as s:
        scope = Scope(tenant="acme", user="ada", session="s1")
        history = SophiaChatMessageHistory(s, scope)
        call = AIMessage("", id="2", tool_calls=[{"name": "look", "args": {"x": [1]}, "id": "c"}])
        said = [HumanMessage("Where is my order?", id="1"), call, ToolMessage("Oslo", tool_call_id="c", id="3")]
        history.add_messages(said)
        s.memory.append_sync(scope, "assistant", "It is in Oslo.")
        assert history.messages[:3] == said and history.messages[3] == AIMessage("It is in Oslo.", role="assistant")
        assert s.memory.history_sync(scope)[0].role == "user"
        assert SophiaChatMessageHistory(s, Scope(tenant="acme", user="ada", session="s2")).messages == []
        history.clear()
        assert history.messages == []
        with pytest.raises(ValueError):
            SophiaChatMessageHistory(s, ADA)


def test_sessions_and_agents_have_keys_of_their_own() -> None:
    with Sophia() as s:
        scopes = [Scope(user="ada"), Scope(user="ada", session="1"), Scope(user="ada", session="2"), Scope(user="ada", agent="1")]
        stores = [SophiaByteStore(s, scope=scope) for scope in scopes]
        caches = [SophiaCache(s, scope=scope) for scope in scopes]
        for place, (store, cache) in enumerate(zip(stores, caches, strict=True)):
            assert store.mget(["k"]) == [None] and cache.lookup("p", "m") is None
            store.mset([("k", str(place).encode())])
            cache.update("p", "m", [Generation(text=str(place))])
        caches[0].clear()
        caches[1].clear()
        stores[0].mdelete(["k"])
        assert [store.mget(["k"]) for store in stores] == [[None], [b"1"], [b"2"], [b"3"]]
        assert [list(store.yield_keys()) for store in stores] == [[], ["k"], ["k"], ["k"]]
        kept = [Generation(text="2")], [Generation(text="3")]
        assert [cache.lookup("p", "m") for cache in caches] == [None, None, *kept]


async def test_an_answer_that_cannot_be_read_back_is_asked_for_again() -> None:
    class Usage:
        """What an SDK may put beside an answer."""

    async with Sophia() as s:
        cache = SophiaCache(s)
        message = AIMessage("hi", response_metadata={"usage": Usage()})
        cache.update("p", "m", [ChatGeneration(message=message)])
        assert cache.lookup("p", "m") is None and await cache.alookup("p", "m") is None
        cache.update("p", "m", [Generation(text="hi")])
        assert cache.lookup("p", "m") == [Generation(text="hi")]


def test_keys_of_a_byte_store_are_its_own() -> None:
    with Sophia() as s:
        store, other = SophiaByteStore(s, namespace="a"), SophiaByteStore(s, namespace="a/b")
        store.mset([(f"key/{number:04}", b"x") for number in range(1_005)])
        other.mset([("key/0000", b"y")])
        assert len(list(store.yield_keys())) == 1_005 and list(other.yield_keys()) == ["key/0000"]
        assert list(store.yield_keys(prefix="key/100")) == ["key/1000", "key/1001", "key/1002", "key/1003", "key/1004"]


def test_without_langchain_the_error_names_the_extra(program: Any) -> None:
    ended = program("import sys\nsys.modules['langchain_core'] = None\nimport sophia\nimport sophia.langchain")
    assert ended.returncode != 0 and "pip install 'sophia-ai[langchain]'" in ended.stderr


def find(name: str) -> str:
    """Finds it."""
    return name


BROKEN = InvalidToolCall(type="invalid_tool_call", name="find", args="{bad", id="1", error="no JSON")
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
TEXT: Any = {"type": "text", "text": "Yes."}
ASKED = HumanMessage("Hi")
FOUND = ToolMessage("Ada", tool_call_id="1")
CALL: Any = {"name": "find", "args": {"name": "Ada"}, "id": "1"}


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: model.invoke([ASKED, AIMessage("", invalid_tool_calls=[BROKEN]), FOUND]),
        lambda model: model.invoke([ASKED, AIMessage("", tool_calls=[{**CALL, "id": "0"}], invalid_tool_calls=[BROKEN]), FOUND]),
        lambda model: model.invoke([ASKED, AIMessage([THOUGHT, TEXT]), ASKED]),
        lambda model: model.invoke([ASKED, AIMessage([{"type": "reasoning", "reasoning": "Hm."}, TEXT]), ASKED]),
        lambda model: model.invoke([ASKED, AIMessage([THOUGHT], tool_calls=[CALL]), FOUND]),
        lambda model: model.invoke([ASKED, AIMessage(content_blocks=[TEXT, {"type": "tool_call", **CALL}]), FOUND]),
        lambda model: model.invoke([HumanMessage(["a", "b"]), AIMessage([TEXT, {"type": "text", "text": " No."}]), ASKED]),
        lambda model: model.bind_tools([find], tool_choice=True).invoke("Hi"),
        lambda model: model.bind_tools([find], tool_choice=False).invoke("Hi"),
        lambda model: model.bind_tools([find], tool_choice="find").invoke("Hi"),
        lambda model: model.bind_tools([find], tool_choice={"type": "function", "function": {"name": "find"}}).invoke("Hi"),
        lambda model: model.bind_tools([find], strict=True).invoke("Hi"),
        lambda model: model.bind_tools([find], strict=False, parallel_tool_calls=False).invoke("Hi"),
    ],
)
def test_a_model_is_asked_as_by_langchain_openai(model: Model, ask: Callable[[BaseChatModel], Any]) -> None:
    def text_of(part: str | dict[str, Any]) -> str:
        return part if isinstance(part, str) else part["text"]

    def normal(message: dict[str, Any]) -> dict[str, Any]:
        content = message["content"] or ""
        return {**message, "content": content if isinstance(content, str) else "".join(map(text_of, content))}

    with engine(model) as s:
        ask(ChatSophia(sophia=s, model="small"))
    base_url = f"http://127.0.0.1:{model.server_address[1]}/v1"
    ask(ChatOpenAI(model="small", base_url=base_url, api_key=SecretStr("k")))
    ours, theirs = model.bodies
    assert [normal(message) for message in ours.pop("messages")] == [normal(message) for message in theirs.pop("messages")]
    theirs.pop("stream", None)
    assert ours == theirs


def test_each_result_of_a_tool_is_a_message() -> None:
    results: list[str | dict[Any, Any]] = [{"type": "tool_result", "tool_use_id": id, "content": id} for id in ("1", "2")]
    assert [message["tool_call_id"] for message in _messages([HumanMessage(results)])] == ["1", "2"]
