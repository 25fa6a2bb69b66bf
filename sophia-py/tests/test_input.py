"""Bad input gives a typed error that names the field and the fix; nothing is lost, and nothing is half written."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path
from typing import Any

import numpy
import pytest

from sophia import ConflictError, InvalidConfigError, InvalidInputError, Scope, Sophia, SophiaError

ADA = Scope(tenant="acme", user="ada")


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
        ({"memory": 5}, "memory", "integer"),
        ({"data_dir": "\ud800"}, "data_dir", "surrogate"),
    ],
)
def test_a_wrong_config_names_the_field(config: dict[str, Any], field: str, hint: str) -> None:
    with pytest.raises(InvalidConfigError) as raised:
        Sophia(config)
    assert raised.value.context["field"] == field and hint in str(raised.value)


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
    ],
)
def test_a_wrong_argument_names_the_field_and_stores_nothing(s: Sophia, arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        s.memory.store_sync(**arguments)
    assert raised.value.context["field"].startswith(field), raised.value
    assert s.memory.stats_sync().records == 0


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


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_refused(s: Sophia, value: float) -> None:
    with pytest.raises(InvalidInputError) as raised:
        s.health.observe("chat", "latency_ms", value)
    assert raised.value.context["field"] == "value"
