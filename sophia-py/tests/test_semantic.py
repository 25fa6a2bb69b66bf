"""The semantic tier and the explanation of an answer, through the facade."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from sophia import InvalidConfigError, Scope, Sophia

ADA = Scope(tenant="acme", user="ada")
BOB = Scope(tenant="acme", user="bob")


class Upstream(BaseHTTPRequestHandler):
    """Repeats the last message."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        message = {"role": "assistant", "content": f"You asked: {asked['messages'][-1]['content']}"}
        body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()


def engine(url: str, **semantic: Any) -> Sophia:
    providers = [{"name": "mock", "base_url": url, "models": ["m"]}]
    return Sophia({"chat": {"providers": providers, "semantic": {"enabled": True, "audit": 0, **semantic}}})


def test_a_question_that_means_the_same_is_answered_and_says_by_what(url: str) -> None:
    s = engine(url, mode="serve")
    first = s.chat.complete_sync("How do I reset my router?", scope=ADA)
    again = s.chat.complete_sync("Please tell me how I can reset my router.", scope=ADA, explain=True)
    assert (again.cache.status, again.cache.tier, again.cache.key) == ("semantic_hit", "semantic", first.cache.key)
    assert again.text == first.text
    assert again.cache.similarity is not None and again.cache.similarity > 0.75
    assert first.explain is None and again.explain is not None
    stages = {note.stage: note for note in again.explain.stages}
    assert stages["semantic"].outcome == "served" and stages["l1"].outcome == "miss"
    assert stages["semantic"].took_ms >= 0 and "router" not in stages
    assert s.chat.complete_sync("How do I reset my router please", scope=BOB).cache.status == "miss"


def test_a_user_who_says_that_it_was_wrong_is_heard(url: str) -> None:
    s = engine(url, mode="serve")
    s.chat.complete_sync("How do I reset my router?", scope=ADA)
    same = "Please tell me how I can reset my router."
    hit = s.chat.complete_sync(same, scope=ADA)
    assert hit.cache.status == "semantic_hit" and hit.cache.key is not None
    assert not s.chat.semantic_feedback(hit.cache.key, "wrong", scope=BOB), "it is not his to judge"
    assert s.chat.semantic_feedback(hit.cache.key, "wrong", scope=ADA)
    assert s.chat.complete_sync(same, scope=ADA).cache.status == "miss"
    report = s.chat.semantic_report()
    assert (report.judged, report.wrong, report.demoted) == (1, 1, 1)


async def test_a_stream_says_at_its_end_what_each_stage_did(url: str) -> None:
    s = engine(url)
    for expected in (("l1", "miss"), ("l1", "hit")):
        chunks = [chunk async for chunk in s.chat.stream("hello", scope=ADA, explain=True)]
        assert all(chunk.explain is None for chunk in chunks[:-1])
        told = chunks[-1].explain
        assert told is not None and expected in [(note.stage, note.outcome) for note in told.stages]


def test_a_report_says_what_would_have_been_served(url: str) -> None:
    s = engine(url, mode="shadow")
    for question in ("How do I reset my router?", "how to reset my router", "How do I reset my 2 routers?"):
        assert s.chat.complete_sync(question, scope=ADA).cache.status == "miss"
    report = s.chat.semantic_report()
    assert (report.enabled, report.mode, report.served, report.would_have_served) == (True, "shadow", 0, 1)
    assert report.vetoed == {"numbers": 1}
    assert [group.scope for group in report.groups] == [ADA]
    assert report.recent[0].veto == "numbers" and report.recent[1].outcome == "shadow"


def test_it_is_off_by_default_and_wrong_values_are_named() -> None:
    assert not Sophia().chat.semantic_report().enabled
    for field, value in (("threshold", 0.2), ("max_error", 0.9), ("audit", 2), ("max_entries", 0)):
        with pytest.raises(InvalidConfigError, match=f"chat.semantic.{field}"):
            Sophia({"chat": {"semantic": {field: value}}})
