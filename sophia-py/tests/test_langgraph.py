"""LangGraph's own conformance suite on the saver, and what the suite does not ask."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.store.base import GetOp
from langgraph.store.memory import InMemoryStore

from sophia import ConflictError, InvalidInputError, NotFoundError, Scope, Sophia
from sophia.langgraph import SophiaSaver, SophiaStore

ADA = Scope(tenant="acme", user="ada")
BOB = Scope(tenant="acme", user="bob")
IDS = [
    "langgraph:f21ad731c46def745b23651a1c8f7692ba52941e08d456d97e21ed99ea3d5b9c",
    "langgraph@5c0c071518e801befb86db6e94ffe3ad:f21ad731c46def745b23651a1c8f7692ba52941e08d456d97e21ed99ea3d5b9c",
]
"""What Node gives to the same two places."""
SUITE = 81
"""Tests of langgraph-checkpoint-conformance 0.0.2."""


def test_the_conformance_suite_passes_whole(tmp_path: Path) -> None:
    @checkpointer_test(name="SophiaSaver")
    async def saver() -> AsyncGenerator[SophiaSaver, None]:
        async with Sophia(data_dir=tmp_path) as s:
            yield SophiaSaver(s, scope=ADA)

    report = asyncio.run(validate(saver)).to_dict()
    results = report["results"].values()
    assert [failure for result in results for failure in result["failures"]] == []
    assert sum(result["tests_passed"] for result in results) == SUITE
    assert all(result["detected"] for result in results) and report["conformance_level"] == "FULL"


class State(TypedDict):
    messages: Annotated[list[Any], add_messages]
    turns: int


def chat(saver: SophiaSaver | None, store: SophiaStore | None = None) -> Any:
    def answer(state: State) -> dict[str, Any]:
        turn = state.get("turns", 0) + 1
        return {"messages": [("ai", f"answer {turn}")], "turns": turn}

    graph = StateGraph(State)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    return graph.compile(checkpointer=saver, store=store)


def said(state: Any) -> list[str]:
    return [message.content for message in state["messages"]]


def test_a_graph_goes_on_after_a_restart_and_can_be_forked(tmp_path: Path) -> None:
    config: Any = {"configurable": {"thread_id": "t"}}
    with Sophia(data_dir=tmp_path) as s:
        chat(SophiaSaver(s)).invoke({"messages": [("user", "one")]}, config)
    with Sophia(data_dir=tmp_path) as s:
        graph = chat(SophiaSaver(s))
        state = graph.invoke({"messages": [("user", "two")]}, config)
        assert said(state) == ["one", "answer 1", "two", "answer 2"] and state["turns"] == 2
        history = list(graph.get_state_history(config))
        before = next(snapshot for snapshot in history if len(snapshot.values.get("messages", [])) == 2)
        forked = graph.invoke({"messages": [("user", "instead")]}, before.config)
        assert said(forked) == ["one", "answer 1", "instead", "answer 2"]
        assert said(graph.get_state(history[0].config).values) == ["one", "answer 1", "two", "answer 2"]
        copied = graph.update_state(history[0].config, None, as_node="__copy__")
        assert said(graph.get_state(copied).values) == ["one", "answer 1", "two", "answer 2"]


async def test_async_graphs_run_on_it_too() -> None:
    async with Sophia() as s:
        graph = chat(SophiaSaver(s))
        config: Any = {"configurable": {"thread_id": "t"}}
        await graph.ainvoke({"messages": [("user", "one")]}, config)
        assert [len(snapshot.values.get("messages", [])) async for snapshot in graph.aget_state_history(config)] == [2, 1, 0]


def append(state: list[str], writes: Any) -> list[str]:
    return [*state, *(item for write in writes for item in write)]


class Log(TypedDict):
    lines: Annotated[list[str], DeltaChannel(append, snapshot_frequency=5)]


def test_a_delta_channel_is_rebuilt_and_survives_pruning() -> None:
    def grow(state: Log) -> dict[str, Any]:
        return {"lines": [f"line {len(state['lines'])}"]}

    builder = StateGraph(Log)
    builder.add_node("grow", grow)
    builder.add_edge(START, "grow")
    with Sophia() as s:
        saver = SophiaSaver(s)
        graph = builder.compile(checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "t"}}
        for turn in range(12):
            graph.invoke({"lines": [f"asked {turn}"]}, config)
        lines = graph.get_state(config).values["lines"]
        assert len(lines) == 24 and lines[:2] == ["asked 0", "line 1"]
        kept = len(list(saver.list(config)))
        saver.prune(["t"])
        assert graph.get_state(config).values["lines"] == lines
        assert 1 < len(list(saver.list(config))) < kept
        saver.copy_thread("t", "copy")
        copy: Any = {"configurable": {"thread_id": "copy"}}
        assert graph.get_state(copy).values["lines"] == lines


def test_one_graph_serves_many_users_each_in_their_scope() -> None:
    with Sophia() as s:
        saver = SophiaSaver(s, scope=lambda config: Scope(user=config.get("configurable", {}).get("user_id", "nobody")))
        graph = chat(saver)
        ada: Any = {"configurable": {"thread_id": "t", "user_id": "ada"}}
        bob: Any = {"configurable": {"thread_id": "t", "user_id": "bob"}}
        graph.invoke({"messages": [("user", "of ada")]}, ada)
        graph.invoke({"messages": [("user", "of bob")]}, bob)
        assert said(graph.get_state(ada).values)[0] == "of ada" and said(graph.get_state(bob).values)[0] == "of bob"
        parent = next(iter(graph.get_state_history(ada))).parent_config
        assert said(graph.get_state(parent).values)[0] == "of ada"
        s.memory.forget_sync(scope=Scope(user="ada"))
        assert graph.get_state(ada).values == {} and graph.get_state(bob).values != {}


async def test_what_is_given_no_config_needs_a_saver_with_the_scope_itself() -> None:
    async with Sophia() as s:
        saver = SophiaSaver(s, scope=lambda config: Scope(user=config["configurable"]["user_id"]))
        config: Any = {"configurable": {"thread_id": "t", "user_id": "ada"}}
        chat(saver).invoke({"messages": [("user", "one")]}, config)
        sync: list[Callable[[], Any]] = [
            lambda: saver.delete_thread("t"),
            lambda: saver.prune(["t"]),
            lambda: saver.copy_thread("t", "u"),
            lambda: saver.delete_for_runs(["r"]),
            lambda: list(saver.list(None)),
        ]
        for act in sync:
            with pytest.raises(InvalidInputError, match="take a saver with the scope itself") as raised:
                act()
            assert raised.value.context["field"] == "scope"
        for later in (saver.adelete_thread("t"), saver.aprune(["t"]), saver.acopy_thread("t", "u"), saver.adelete_for_runs([])):
            with pytest.raises(InvalidInputError):
                await later
        assert len(list(saver.list({"configurable": {"user_id": "ada"}}))) == 3
        ada = SophiaSaver(s, scope=Scope(user="ada"))
        assert len(list(ada.list(None))) == 3
        ada.delete_thread("t")
        assert saver.get_tuple(config) is None
        narrow: list[Callable[[], Any]] = [
            lambda: SophiaSaver(s, scope=Scope(session="1")),
            lambda: SophiaSaver(s, scope=lambda _: {"session": "1"}).get_tuple(config),
        ]
        for act in narrow:
            with pytest.raises(InvalidInputError) as raised:
                act()
            assert raised.value.context["field"] == "scope.session"


def test_a_thread_that_is_not_known_is_not_all_threads() -> None:
    with Sophia() as s:
        saver = SophiaSaver(s)
        graph = chat(saver)
        for thread in ("alice", "bob"):
            graph.invoke({"messages": [("user", "x")]}, {"configurable": {"thread_id": thread}})
        assert {found.config["configurable"]["thread_id"] for found in saver.list(None)} == {"alice", "bob"}
        unknown: list[Any] = [{"configurable": {"thread_id": None}}, {"configurable": {"checkpoint_ns": ""}}, {"tags": ["x"]}]
        for config in unknown:
            for act in (lambda: list(saver.list(config)), lambda: saver.get_tuple(config)):
                with pytest.raises(InvalidInputError) as raised:
                    act()
                assert raised.value.context["field"] == "configurable.thread_id"


def test_a_thread_may_be_named_by_a_number() -> None:
    with Sophia() as s:
        saver = SophiaSaver(s)
        graph = chat(saver)
        config: Any = {"configurable": {"thread_id": 42}}
        numbered: Any = 42
        graph.invoke({"messages": [("user", "one")]}, config)
        assert len(list(graph.get_state_history(config))) == 3
        saver.copy_thread(numbered, 43)  # type: ignore[arg-type]
        saver.prune([43])  # type: ignore[list-item]
        assert len(list(saver.list({"configurable": {"thread_id": 43}}))) == 1
        saver.delete_thread(numbered)
        assert saver.get_tuple(config) is None


def test_bytes_cross_as_bytes_and_what_is_wrong_is_named() -> None:
    with Sophia() as s:
        checkpoints = s.memory.checkpoints
        blob = bytes(range(256)) * 20
        body: Any = {"encoding": "raw", "data": blob}
        checkpoints.put_sync("t", "1", body, channels={"a": body}, versions={"a": "1"}, scope=ADA)
        found = checkpoints.get_sync("t", scope=ADA)
        assert found is not None and found.body.data == blob and found.channels["a"].data == blob
        assert checkpoints.get_sync("t", scope=BOB) is None
        wrong: Any = {"encoding": "raw", "data": 5}
        with pytest.raises(InvalidInputError) as raised:
            checkpoints.put_sync("t", "2", wrong)
        assert raised.value.context["field"] == "body.data"


def test_the_store_answers_as_langgraphs_own() -> None:
    with Sophia() as s:
        ours, theirs = SophiaStore(s, scope=ADA), InMemoryStore()
        for store in (ours, theirs):
            store.put(("docs", "a"), "1", {"color": "red", "size": 1, "deep": {"x": [1, None]}})
            store.put(("docs", "a"), "2", {"color": "blue", "size": 2.5})
            store.put(("docs", "b", "v1"), "1", {"color": "red", "size": 3})
            store.put(("docs", "a"), "3", {"meta": {"age": 30, "x": 1}, "on": True, "size": 0, "score": "10"})
            store.put(("docs", "c"), "1", {"meta": {"age": 10}, "on": 1.0, "size": -1, "score": "9"})
            store.put(("users",), "1", {"name": "Ada"})
            store.put(("docs", "a"), "2", {"color": "blue", "size": 7})
            store.put(("users",), "2", {"name": "gone"})
            store.delete(("users",), "2")

        def both(ask: Any) -> None:
            def plain(found: Any) -> Any:
                if isinstance(found, list):
                    return sorted((plain(item) for item in found), key=repr)
                return (found.namespace, found.key, found.value) if hasattr(found, "key") else found

            assert plain(ask(ours)) == plain(ask(theirs))

        both(lambda store: store.get(("docs", "a"), "2"))
        both(lambda store: store.get(("users",), "2"))
        for prefix in ((), ("docs",), ("docs", "a"), ("doc",)):
            both(lambda store, prefix=prefix: store.search(prefix))
        filters: list[dict[str, Any]] = [
            {"color": "red"},
            {"size": {"$gt": 2}},
            {"size": {"$gte": 3, "$lt": 7}, "color": "red"},
            {"color": {"$ne": "red"}},
            {"deep": {"x": [1, None]}},
            {"deep": {"x": [1]}},
            {"meta": {"age": {"$gt": 20}}},
            {"meta": {"age": 30}},
            {"meta": {}},
            {"meta": {"name": None}},
            {"missing": None},
            {"on": 1},
            {"on": True},
            {"score": "10", "meta": {"age": 30}},
        ]
        for wanted in filters:
            both(lambda store, wanted=wanted: store.search(("docs",), filter=wanted))
        both(lambda store: store.search(("docs", "c"), filter={"score": {"$lt": "10"}}))
        # Where theirs raises what `float` does, an item that is of another type does not pass.
        assert [item.key for item in ours.search((), filter={"score": {"$gt": "9"}})] == ["3"]
        assert ours.search((), filter={"color": {"$gt": 0}}) == []
        with pytest.raises(ValueError, match=r"\$near"):
            ours.search((), filter={"color": {"$near": 0}})
        both(lambda store: store.list_namespaces())
        both(lambda store: store.list_namespaces(prefix=("docs",), max_depth=2))
        both(lambda store: store.list_namespaces(suffix=("v1",)))
        both(lambda store: store.list_namespaces(prefix=("*", "a")))
        both(lambda store: store.get(("docs",), "2"))
        assert len(ours.search((), limit=2)) == 2 and len(ours.search((), limit=10, offset=5)) == 1
        assert SophiaStore(s, scope=BOB).search(()) == []
        item = ours.get(("docs", "a"), "2")
        assert item is not None and item.created_at <= item.updated_at


def test_a_store_is_shared_with_node_and_apart_from_those_of_other_sessions_and_agents() -> None:
    with Sophia() as s:
        place = ("u", 'é😀"\n'), "schlüssel"
        narrow = Scope(user="ada", session="1")
        ada, one, two = (
            SophiaStore(s, scope=scope) for scope in (Scope(user="ada"), narrow, {**vars(narrow), "agent": "a"})
        )
        for n, store in enumerate((ada, one, two)):
            store.put(*place, {"n": n})
        for n, store in enumerate((ada, one, two)):
            found = store.get(*place)
            assert found is not None and found.value == {"n": n}
            assert [item.value for item in store.search(())] == [{"n": n}]
            assert store.list_namespaces() == [place[0]]
        one.delete(*place)
        found = ada.get(*place)
        assert found is not None and found.value == {"n": 0}
        assert sorted(hit.record.id for hit in s.memory.search_sync(scope=Scope(user="ada")).hits) == IDS


def test_the_store_finds_by_meaning_and_leaves_out_what_is_not_indexed() -> None:
    with Sophia() as s:
        store = SophiaStore(s, index={"fields": ["text"]})
        store.put(("m",), "tea", {"text": "Ada drinks green tea.", "other": "bicycle"})
        store.put(("m",), "bike", {"text": "Her bicycle is broken."})
        store.put(("m",), "hidden", {"text": "What does she drink? Tea."}, index=False)
        found = store.search(("m",), query="which beverage does she like?")
        assert found[0].key == "tea" and found[0].score is not None
        assert [(item.key, item.score) for item in found][-1] == ("hidden", None)
        assert store.search(("m",), query="bicycle")[0].key == "bike"
        far = store.search(("m",), query="quantum chromodynamics")
        assert [item.score is not None for item in far] == [True, True, False], "the nearest, also where none is near"
        whole = SophiaStore(s, scope=ADA)
        whole.put(("m",), "tea", {"deep": {"text": "Ada drinks green tea."}})
        whole.put(("m",), "bike", {"deep": {"text": "Her bicycle is broken."}})
        first = whole.search(("m",), query="which beverage does she like?")[0]
        assert first.key == "tea" and first.score is not None


def test_the_store_lists_beyond_the_deepest_offset_and_says_what_a_query_does_not_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("_adapters", "_langgraph_store"):
        monkeypatch.setattr(f"sophia.{module}.PAGE", 10)
        monkeypatch.setattr(f"sophia.{module}.DEEPEST", 20)
    with Sophia() as s:
        store = SophiaStore(s)
        for number in range(95):
            store.put(("bulk",), str(number), {"text": f"revenue of customer {number}", "n": number})

        def numbers(**options: Any) -> list[int]:
            return [item.value["n"] for item in store.search(("bulk",), **options)]

        assert numbers(limit=95) == list(reversed(range(95)))
        assert numbers(limit=10, offset=90) == [4, 3, 2, 1, 0]
        assert numbers(limit=5, filter={"n": {"$lt": 2}}) == [1, 0]
        assert numbers(limit=5, filter={"n": 3}) == [3]
        assert len(set(numbers(query="revenue customer", limit=30))) == 30
        unreachable: list[dict[str, Any]] = [{"limit": 31}, {"limit": 5, "filter": {"n": {"$lt": -1}}}]
        for options in unreachable:
            with pytest.raises(ValueError, match="reaches its first 30 items"):
                numbers(query="revenue customer", **options)


def test_items_of_the_store_expire_unless_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sophia(data_dir=tmp_path) as s:
        store = SophiaStore(s)
        store.put(("m",), "short", {"n": 1}, ttl=0.5)
        first = s.memory.search_sync().hits[0].record
        put = store.get(("m",), "short")
        for _ in range(20):
            assert store.search(("m",)) == [put]
        assert s.memory.search_sync().hits[0].record == first
        monkeypatch.setattr("sophia._langgraph_store.REFRESHED_AFTER", 0)
        assert store.get(("m",), "short", refresh_ttl=False) is not None
        assert s.memory.search_sync().hits[0].record.expires_at == first.expires_at
        assert store.get(("m",), "short") == store.get(("m",), "short") == put
        later = s.memory.search_sync().hits[0].record.expires_at
        assert first.expires_at is not None and later is not None and later > first.expires_at


def test_a_read_undoes_nothing_that_happens_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sophia._langgraph_store.REFRESHED_AFTER", 0)
    with Sophia() as s:
        store = SophiaStore(s, scope=ADA)

        def read(act: Callable[[], Any]) -> None:
            """Reads an item that has a time to live, and acts before that begins anew."""
            store.put(("m",), "k", {"n": 1}, ttl=60)
            steps = store._get(GetOp(("m",), "k"))
            get = next(steps)
            renew = steps.send(get.result(s._engine.call_sync(get.operation, get.arguments)))
            act()
            with pytest.raises((ConflictError, NotFoundError)) as refused:
                s._engine.call_sync(renew.operation, renew.arguments)
            with pytest.raises(StopIteration):
                steps.throw(refused.value)

        read(lambda: store.put(("m",), "k", {"n": 2}))
        found = store.get(("m",), "k")
        assert found is not None and found.value == {"n": 2}
        assert s.memory.search_sync(scope=ADA).hits[0].record.expires_at is None
        read(lambda: store.delete(("m",), "k"))
        assert store.get(("m",), "k") is None
        read(lambda: s.memory.forget_sync(scope=ADA))
        assert s.memory.search_sync(scope=ADA).hits == []


def test_without_langgraph_the_error_names_the_extra(program: Any) -> None:
    ended = program("import sys\nsys.modules['langgraph'] = None\nimport sophia\nimport sophia.langgraph")
    assert ended.returncode != 0 and "pip install 'sophia-ai[langgraph]'" in ended.stderr


def test_a_tuple_that_is_decoded_late_is_as_any_other() -> None:
    with Sophia() as s:
        saver = SophiaSaver(s)
        config: Any = {"configurable": {"thread_id": "t"}}
        chat(saver).invoke({"messages": [("user", "one")]}, config)

        def late() -> CheckpointTuple:
            found = saver.get_tuple(config)
            assert found is not None
            return found

        read = CheckpointTuple(*late())
        assert said(read.checkpoint["channel_values"]) == ["one", "answer 1"] and type(read.checkpoint) is dict
        assert late() == read and read == late() and late() == late()
        assert late()[1] == read[1] and late()[:2] == read[:2] and list(late()) == list(read) and repr(late()) == repr(read)
        first, second, *_ = late()
        assert (first, second) == (read.config, read.checkpoint)
        assert late()._asdict() == read._asdict()
        changed = late()._replace(metadata={"step": 7})
        assert changed.metadata == {"step": 7} and changed.checkpoint == read.checkpoint
        assert copy.deepcopy(late()) == read and pickle.loads(pickle.dumps(late())) == read
        kept = late()
        assert kept.checkpoint is kept.checkpoint


def test_threads_move_from_and_to_another_saver() -> None:
    config: Any = {"configurable": {"thread_id": "t"}}
    with Sophia() as s:
        saver, other = SophiaSaver(s), InMemorySaver()
        for source, target in ((saver, other), (other, saver)):
            chat(source).invoke({"messages": [("user", "one")]}, config)
            for found in reversed(list(source.list(config))):
                place = {"thread_id": "moved", "checkpoint_ns": ""}
                if found.parent_config:
                    place["checkpoint_id"] = found.parent_config["configurable"]["checkpoint_id"]
                target.put({"configurable": place}, found.checkpoint, found.metadata, found.checkpoint["channel_versions"])
            moved = target.get_tuple({"configurable": {"thread_id": "moved"}})
            assert moved is not None and said(moved.checkpoint["channel_values"]) == ["one", "answer 1"]


def test_a_thread_that_was_begun_with_numbers_as_versions_goes_on() -> None:
    class Numbering(InMemorySaver):
        def get_next_version(self, current: Any, channel: None) -> Any:
            return (current or 0) + 1

    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    with Sophia() as s:
        saver, other = SophiaSaver(s), Numbering()
        chat(other).invoke({"messages": [("user", "one")]}, config)
        for found in reversed(list(other.list(config))):
            saver.put(found.parent_config or config, found.checkpoint, found.metadata, found.checkpoint["channel_versions"])
        graph = chat(saver)
        for turn, text in enumerate(("two", "three"), start=2):
            assert said(graph.invoke({"messages": [("user", text)]}, config))[-2:] == [text, f"answer {turn}"]
        versions = list(saver.get_tuple(config).checkpoint["channel_versions"].values())  # type: ignore[union-attr]
        assert all(isinstance(version, (int, float)) for version in versions) and len(set(versions)) > 1
        first, second = (saver.get_next_version(7, None) for _ in range(2))
        assert 8 <= first < 9 and 8 <= second < 9 and first != second


def test_the_file_of_langgraphs_own_saver_is_taken_over(tmp_path: Path) -> None:
    config: Any = {"configurable": {"thread_id": "t"}}
    file = tmp_path / "checkpoints.db"
    with SqliteSaver.from_conn_string(str(file)) as theirs, Sophia(data_dir=tmp_path / "ours") as s:
        graph = chat(theirs)
        for turn in range(20):
            graph.invoke({"messages": [("user", f"question {turn} " * 20)]}, config)
        report = s.memory.checkpoints.import_langgraph_sync(file, scope=ADA)
        saver = SophiaSaver(s, scope=ADA)
        expected, found = list(theirs.list(None)), list(saver.list(None))
        assert report.checkpoints == len(expected) == 60 and report.writes > 0
        for theirs_one, ours in zip(expected, found, strict=True):
            assert ours == theirs_one
        assert said(chat(saver).invoke({"messages": [("user", "more")]}, config))[-2:] == ["more", "answer 21"]
        assert SophiaSaver(s).get_tuple(config) is None
        with pytest.raises(InvalidInputError) as raised:
            s.memory.checkpoints.import_langgraph_sync(tmp_path / "ours" / "sophia.db")
        assert raised.value.context["field"] == "path"
