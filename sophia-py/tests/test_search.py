"""Options of a search, as Python users call it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sophia import Sophia
from sophia.errors import InvalidInputError

ADA = {"user": "ada"}


def test_options_change_the_order_and_are_explained() -> None:
    memory = Sophia().memory
    for text, importance in [("The bakery sells rye bread.", 0.1), ("The bakery sells rye bread daily.", 0.1)]:
        memory.store_sync(text, scope=ADA, importance=importance)
    memory.store_sync("Flour for bread costs more now.", scope=ADA, importance=1.0)

    def ask(**options: object) -> list[str]:
        return [hit.record.content for hit in memory.search_sync("rye bread bakery", scope=ADA, **options).hits]  # type: ignore[arg-type]

    assert "bakery" in ask()[1]
    assert "Flour" in ask(mmr_lambda=0.3)[1]
    assert "Flour" in ask(importance_weight=0.9)[0]
    found = memory.search_sync("rye bread", scope=ADA, fusion="rrf", recency_half_life="1h", explain=True)
    explain = found.hits[0].explain
    assert explain is not None and explain.keyword_rank == 1 and explain.recency is not None and explain.recency > 0.9


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "keyword"},
        {"mode": "semantic"},
        {"mode": "hybrid"},
        {"fusion": "rrf"},
        {"mmr_lambda": 0.5},
        {"importance_weight": 0.5},
        {"recency_half_life": "1h"},
    ],
    ids=str,
)
def test_pages_together_are_what_one_call_finds(options: dict[str, Any]) -> None:
    words = "report revenue growth quarterly invoice customer meeting server database cloud network music garden".split()
    chance = random.Random(1)
    memory = Sophia().memory
    texts = (" ".join(chance.choices(words, k=chance.randint(3, 15))) for _ in range(300))
    memory.store_many_sync([{"content": text, "importance": chance.random()} for text in texts])

    def found(limit: int, offset: int = 0) -> list[str]:
        result = memory.search_sync("revenue customer database", limit=limit, offset=offset, **options)
        return [hit.record.id for hit in result.hits]

    whole = found(1_000)
    pages = [hit for offset in range(0, 300, 30) for hit in found(30, offset)]
    assert len(whole) > 200 and len(set(whole)) == len(whole)
    assert pages == whole


def test_typos_are_tolerated_where_they_are_asked_for() -> None:
    memory = Sophia().memory
    memory.store_sync("The quarterly report is late.", scope=ADA)
    assert memory.search_sync("qaurterly", scope=ADA, mode="keyword").hits == []
    found = memory.search_sync("qaurterly", scope=ADA, mode="keyword", typo_tolerant=True)
    assert found.hits[0].highlights == ["The **quarterly** report is late."]


def test_messages_are_explained_by_their_conversation() -> None:
    memory = Sophia().memory
    for text in ["Ada: Our holiday was wonderful!", "Bob: Where have you been?", "Ada: Lisbon."]:
        memory.append_sync(ADA | {"session": "s"}, "user", text)
    found = memory.search_sync("Where did Ada spend her holiday?", scope=ADA, explain=True)
    parts = [hit.explain.conversation for hit in found.hits if hit.explain]
    assert len(parts) == 3 and all(part is not None and part.own >= 0 for part in parts)


def test_options_out_of_range_are_named() -> None:
    with pytest.raises(InvalidInputError, match="mmr_lambda"):
        Sophia().memory.search_sync("x", mmr_lambda=2)
