"""Bad input gives a typed error that names the field and the fix; nothing is lost, and nothing is half written."""

from __future__ import annotations

import json
import math
import pickle
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy
import pydantic
import pytest

from sophia import (
    ConflictError,
    InvalidConfigError,
    InvalidInputError,
    Scope,
    Sophia,
    SophiaError,
    UnsupportedError,
)

ADA = Scope(tenant="acme", user="ada")


def nested(levels: int) -> Any:
    value: Any = "bottom"
    for _ in range(levels):
        value = {"a": value}
    return value


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.fixture
def s() -> Sophia:
    return Sophia()


@pytest.mark.parametrize(
    ("config", "field", "hint"),
    [
        ({"chat": {"max_concurent": 5}}, "chat.max_concurent", "max_concurrent"),
        ({"chatt": {}}, "chatt", "chat"),
        ({"chat": {"max_concurrent": "many"}}, "chat.max_concurrent", "string"),
        ({"chat": {"max_concurrent": 0}}, "chat.max_concurrent", ""),
        ({"chat": {"timeout": "-1s"}}, "chat.timeout", "duration"),
        ({"chat": {"timeout": math.nan}}, "chat.timeout", ""),
        ({"chat": {"timeout": timedelta(seconds=3)}}, "chat.timeout", "config: `chat.timeout` is wrong: a timedelta"),
        ({"memory": 5}, "memory", "integer"),
        ({"data_dir": "\ud800"}, "data_dir", "surrogate"),
        ({"data_dir": 5}, "data_dir", "integer"),
        ({"data_dir": ""}, "data_dir", "empty"),
        ({"data_dir": "~/data"}, "data_dir", "~/data"),
        ({"memory": {"l1": {"max_bytes": -1}}}, "memory.l1.max_bytes", ""),
        ({"memory": {"ttl_jitter": math.inf}}, "memory.ttl_jitter", "finite"),
        ({"server": {"port": 70_000}}, "server.port", ""),
        ({"server": {"keys": [{"key": ""}]}}, "server.keys[0].key", "empty"),
        ({"chat": {"providers": [{"name": "x", "base_url": "http://169.254.169.254/v1"}]}}, "chat.providers[0].", "metadata"),
        ({"chat": {"providers": ENDLESS}}, "chat.providers", "itself"),
    ],
)
def test_a_wrong_config_names_the_field(config: dict[str, Any], field: str, hint: str) -> None:
    with pytest.raises(InvalidConfigError) as raised:
        Sophia(config)
    assert raised.value.context["field"].startswith(field) and hint in str(raised.value), raised.value


def test_what_is_no_probe_and_no_value_is_told_what_is(s: Sophia) -> None:
    wrong: Any = "http://127.0.0.1"
    with pytest.raises(InvalidInputError, match="Probe.http"):
        s.health.register("x", probe=wrong)
    with pytest.raises(TypeError, match="in each process"):
        pickle.dumps(s)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"content": ""}, "content"),
        ({"content": "x" * 10_000_000}, "content"),
        ({"content": "a\0b"}, "content"),
        ({"content": "lone \ud800 surrogate"}, "content"),
        ({"content": 5}, "content"),
        ({"content": "x", "ttl": -1}, "ttl"),
        ({"content": "x", "ttl": "soon"}, "ttl"),
        ({"content": "x", "importance": 2}, "importance"),
        ({"content": "x", "importance": math.nan}, "importance"),
        ({"content": "x", "embedding": [math.nan] * 256}, "embedding"),
        ({"content": "x", "embedding": [0.5] * 3}, "embedding"),
        ({"content": "x", "priority": "urgent"}, "priority"),
        ({"content": "x", "scope": "ada"}, "scope"),
        ({"content": "x", "scope": {"usr": "ada"}}, "scope.usr"),
        ({"content": "x", "scope": {"user": ""}}, "scope.user"),
        ({"content": "x", "metadata": {"a": object()}}, "metadata.a"),
        ({"content": "x", "metadata": {"a": 2**70}}, "metadata.a"),
        ({"content": "x", "metadata": {5: "a"}}, "metadata"),
        ({"content": "x", "metadata": {"a": [math.nan]}}, "metadata.a[0]"),
        ({"content": "x", "metadata": {"a": -math.inf}}, "metadata.a"),
        ({"content": "x", "metadata": {"a": "\0"}}, "metadata"),
        ({"content": "x", "metadata": nested(110)}, "metadata"),
        ({"content": "x", "metadata": nested(10_000)}, "metadata"),
        ({"content": "x", "metadata": {"a": ENDLESS}}, "metadata.a"),
        ({"content": "x", "metadata": {"a\ud800": 1}}, "metadata"),
        ({"content": "x", "ttl": 10**12}, "ttl"),
        ({"content": "x", "ttl": math.nan}, "ttl"),
        ({"content": "x", "tags": "ab\0"}, "tags"),
        ({"content": "x", "tags": [str(number) for number in range(300)]}, "tags"),
        ({"content": "x", "id": "i" * 2_000}, "id"),
        ({"content": "x", "kind": ""}, "kind"),
        ({"content": "x", "embedding": [math.inf] * 256}, "embedding"),
        ({"content": "x", "embedding": [0.0] * 256}, "embedding"),
        ({"content": "x", "embedding": "abc"}, "embedding"),
    ],
)
def test_a_wrong_argument_names_the_field_and_stores_nothing(s: Sophia, arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        s.memory.store_sync(**arguments)
    assert raised.value.context["field"].startswith(field), raised.value
    assert s.memory.stats_sync().records == 0


@pytest.mark.parametrize("field", ["scop", "memmory", "cahce", "timout", "maxTokens", "tag"])
def test_a_misspelt_argument_is_not_passed_on_to_the_provider(s: Sophia, field: str) -> None:
    asking: Any = s.chat
    for ask in (asking.complete_sync, asking.stream, asking.cache_key):
        with pytest.raises(InvalidInputError, match="did you mean") as raised:
            ask("x", **{field: 1})
        assert raised.value.context["field"] == field
    with pytest.raises(InvalidInputError, match="did you mean `scope`"):
        asking.embed_sync(["x"], scop=ADA)
    asked = Sophia({"chat": {"providers": [{"name": "mock", "base_url": "http://127.0.0.1:9/v1", "models": ["m"]}]}}).chat
    assert asked.cache_key("x", model="m", top_p=0.5, top_k=3, stop=["a"], min_tokens=1, user="u", models=["m"], seed=7)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda s: s.memory.search_sync("x", limit=0), "limit"),
        (lambda s: s.memory.search_sync("x", limit=2**63), "limit"),
        (lambda s: s.memory.search_sync("x", limit=-1), "limit"),
        (lambda s: s.memory.search_sync("x", offset=10**9), "offset"),
        (lambda s: s.memory.search_sync("x", min_score=math.nan), "min_score"),
        (lambda s: s.memory.search_sync("x", min_similarity=-1.5), "min_similarity"),
        (lambda s: s.memory.search_sync("x", kinds=["k"] * 40_000), "kinds"),
        (lambda s: s.memory.search_sync("x", tags_all=[str(number) for number in range(2_000)]), "tags_all"),
        (lambda s: s.memory.search_sync("x", scopes=[{"user": str(number)} for number in range(2_000)]), "scopes"),
        (lambda s: s.memory.search_sync("x", scope=5), "scope"),
        (lambda s: s.memory.search_sync("x", mode="by magic"), "mode"),
        (lambda s: s.memory.search_sync("\ud800"), "query"),
        (lambda s: s.memory.get_sync(seq=2**64), "seq"),
        (lambda s: s.memory.history_sync(scope={"session": "s"}, limit=10**7), "limit"),
        (lambda s: s.memory.kv.set_sync("k", math.nan), "value"),
        (lambda s: s.memory.kv.set_sync("k", {"a": [math.inf]}), "value.a[0]"),
        (lambda s: s.memory.kv.set_sync("k", ENDLESS), "value"),
        (lambda s: s.memory.kv.set_sync("k", nested(110)), "value"),
        (lambda s: s.memory.kv.set_sync("k\0", 1), "key"),
        (lambda s: s.memory.kv.set_sync("k", 1, ttl=-1), "ttl"),
        (lambda s: s.memory.kv.set_sync("k", 1, scope=["ada"]), "scope"),
        (lambda s: s.memory.kv.set_sync("k", "x" * 10_000_000), "value"),
        (lambda s: s.memory.kv.invalidate_sync(tags=[str(number) for number in range(40_000)]), "tags"),
        (lambda s: s.memory.graph.relate_sync("a", "b", ""), "object"),
        (lambda s: s.memory.graph.path_sync("a", "b", max_depth=10**6), "max_depth"),
        (lambda s: s.memory.forget_sync(), "scope"),
    ],
)
def test_what_cannot_be_asked_is_named(s: Sophia, call: Callable[[Sophia], object], field: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        call(s)
    assert raised.value.context["field"].startswith(field), raised.value
    assert s.memory.stats_sync().keys == 0


@pytest.fixture
def garbage() -> Iterator[tuple[str, list[tuple[int, str, bytes]]]]:
    """A provider that answers whatever the test puts into the list."""
    answers: list[tuple[int, str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            status, kind, body = answers[0]
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1", answers
    server.shutdown()
    server.server_close()


def test_a_provider_that_answers_garbage_is_an_error_and_nothing_of_it_is_kept(
    garbage: tuple[str, list[tuple[int, str, bytes]]],
) -> None:
    url, answers = garbage
    provider = {"name": "p", "base_url": url, "models": ["m"], "api_key": "sk-very-secret"}
    breaker = {"consecutive_failures": 100, "failure_ratio": 1.0}
    s = Sophia({"chat": {"providers": [provider], "retry": {"retries": 0}, "breaker": breaker}})
    deep = b'{"choices":' + b"[" * 100_000
    kind = "application/json"
    for answer in [
        (200, "text/html", b"<html>busy</html>"),
        (200, kind, b"{"),
        (200, kind, b"null"),
        (200, kind, b'{"choices": 5}'),
        (200, kind, b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
        (200, kind, deep),
        (200, kind, b""),
        (500, kind, b"sk-very-secret"),
        (204, kind, b""),
    ]:
        answers[:] = [answer]
        with pytest.raises(SophiaError) as raised:
            s.chat.complete_sync("hello", model="m")
        assert raised.value.code in ("UNAVAILABLE", "UNSUPPORTED"), (answer[:2], raised.value)
        assert "secret" not in f"{raised.value!r} {raised.value} {raised.value.context}"
    message = {"role": "assistant", "content": "Hi"}
    whole = {"choices": [{"message": message, "finish_reason": "stop"}], "model": "m", "usage": {}}
    answers[:] = [(200, kind, json.dumps(whole).encode())]
    answer = s.chat.complete_sync("hello", model="m")
    assert (answer.text, answer.cache.status) == ("Hi", "miss")


def test_one_wrong_item_of_a_batch_harms_no_other(s: Sophia) -> None:
    outcomes = s.memory.store_many_sync([{"content": "good"}, {"content": ""}, {"content": "fine"}], scope=ADA)
    assert isinstance(outcomes[1], InvalidInputError) and s.memory.stats_sync().records == 2
    with pytest.raises(SophiaError):
        s.memory.store_many_sync([{"content": "third"}, {"content": ""}], scope=ADA, atomic=True)
    assert s.memory.stats_sync().records == 2


def test_a_vector_may_be_a_numpy_array(s: Sophia) -> None:
    vector = numpy.ones(256, dtype=numpy.float32)
    stored = s.memory.store_sync("x", scope=ADA, embedding=vector)
    found = s.memory.search_sync(scope=ADA, embedding=vector, mode="semantic")
    assert [hit.record.id for hit in found.hits] == [stored.id]


class City(pydantic.BaseModel):
    name: str
    founded: date | None = None


@dataclass(slots=True)
class Slotted:
    kind: ClassVar[str] = "slotted"
    name: str = "a"
    city: City | None = None


@dataclass
class Half(Slotted):
    size: int = 2

    @cached_property
    def double(self) -> int:
        return self.size * 2


HALF = Half(city=City(name="Rome"))
assert HALF.double == 4


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (City(name="Rome"), {"name": "Rome", "founded": None}),
        ([City(name="Rome", founded=date(1, 1, 1))], [{"name": "Rome", "founded": "0001-01-01"}]),
        (pydantic.RootModel([1, 2]), [1, 2]),
        (Slotted(), {"name": "a", "city": None}),
        (HALF, {"name": "a", "city": {"name": "Rome", "founded": None}, "size": 2}),
        (ADA, {"tenant": "acme", "user": "ada", "session": None, "agent": None}),
        (MappingProxyType({"a": (1, 2)}), {"a": [1, 2]}),
        (deque([1, 2]), [1, 2]),
        (range(2), [0, 1]),
        ({1}, [1]),
        (frozenset({1}), [1]),
        ({"a": 1}.keys(), ["a"]),
        ({"a": 1}.values(), [1]),
        ({"a": 1}.items(), [["a", 1]]),
        ((number for number in (1, 2)), [1, 2]),
        (map(str, (1, 2)), ["1", "2"]),
        (numpy.array([[1.5]]), [[1.5]]),
        (numpy.float64(1.5), 1.5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_of_python_are_read_as_what_they_are(s: Sophia, value: Any, read: Any) -> None:
    s.memory.kv.set_sync("k", value)
    assert s.memory.kv.get_sync("k") == read


class Pairs:
    def __iter__(self) -> Iterator[int]:
        return iter((1, 2))


DATABASE = sqlite3.connect(":memory:")
DATABASE.row_factory = sqlite3.Row
ROW = DATABASE.execute("SELECT 1 AS one").fetchone()


@pytest.mark.parametrize("value", [StringIO("text"), ROW, DATABASE.cursor(), Pairs(), City, Slotted], ids=lambda value: type(value).__name__)
def test_what_only_can_be_iterated_over_is_no_list(s: Sophia, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"{type(value).__name__}` cannot be read: give it as a dict") as raised:
        s.memory.kv.set_sync("k", {"a": value})
    assert raised.value.context["field"] == "value.a"


def test_text_is_kept_whole_whatever_it_holds(s: Sophia) -> None:
    for text in ['"', "'; DROP TABLE records; --", "NEAR(a b) OR *", "😀 e\u0301 \u202e abc", "a\tb\nc\r\n", "\ufeff"]:
        stored = s.memory.store_sync(text, scope=ADA)
        record = s.memory.get_sync(stored.id, scope=ADA)
        assert record is not None and record.content == text
        s.memory.search_sync(text, scope=ADA)


def test_a_lost_race_is_a_conflict(s: Sophia) -> None:
    stored = s.memory.store_sync("one", scope=ADA)
    s.memory.update_sync(stored.id, scope=ADA, content="two", if_version=1)
    with pytest.raises(ConflictError):
        s.memory.update_sync(stored.id, scope=ADA, content="three", if_version=1)
    with pytest.raises(ConflictError):
        s.memory.store_sync("again", scope=ADA, id=stored.id, if_version=0)
    assert s.memory.store_sync("new", scope=ADA, id="new", if_version=0).created


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(SophiaError, match="file"):
        Sophia(data_dir=tmp_path / "file").memory.store_sync("x")


def test_a_foreign_file_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "sophia.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE precious (value TEXT)")
        database.execute("INSERT INTO precious VALUES ('data')")
    before = path.read_bytes()
    with pytest.raises(SophiaError, match="sophia.db"):
        Sophia(data_dir=tmp_path).memory.store_sync("x")
    assert path.read_bytes() == before


def test_a_file_of_a_newer_format_is_refused_and_named(tmp_path: Path) -> None:
    with Sophia(data_dir=tmp_path) as s:
        s.memory.store_sync("kept", scope=ADA, id="kept")
    with sqlite3.connect(tmp_path / "sophia.db") as database:
        database.execute("PRAGMA journal_mode = DELETE")
        database.execute("PRAGMA user_version = 99")
    database.close()
    before = (tmp_path / "sophia.db").read_bytes()
    with pytest.raises(UnsupportedError, match="99") as raised:
        Sophia(data_dir=tmp_path).memory.store_sync("x")
    assert raised.value.context["found"] == "99" and (tmp_path / "sophia.db").read_bytes() == before


def test_a_damaged_file_is_refused_untouched_and_the_error_says_how_to_restore(tmp_path: Path) -> None:
    with Sophia(data_dir=tmp_path) as s:
        s.memory.store_sync("kept", scope=ADA)
    path = tmp_path / "sophia.db"
    damaged = b"\0" * 100 + path.read_bytes()[100:]
    path.write_bytes(damaged)
    with pytest.raises(InvalidConfigError, match="backup"):
        Sophia(data_dir=tmp_path).memory.store_sync("x")
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_refused(s: Sophia, value: float) -> None:
    with pytest.raises(InvalidInputError) as raised:
        s.health.observe("chat", "latency_ms", value)
    assert raised.value.context["field"] == "value"
