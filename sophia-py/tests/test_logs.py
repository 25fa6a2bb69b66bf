"""What the engine logs arrives in `logging`, and keeps nothing up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import pytest

from sophia import Server, Sophia

from .conftest import Program

AWAY = {"redis": {"url": "redis://127.0.0.1:1"}}
WARNING = "a tier is away, and will have to catch up tier=l2"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_a_warning_arrives_with_its_logger_level_message_and_place(caplog: pytest.LogCaptureFixture) -> None:
    before = time.time()
    sophia = Sophia(AWAY)
    sophia.memory.kv.set_sync("a", 1)
    until(lambda: any(record.getMessage() == WARNING for record in caplog.records))
    record = next(record for record in caplog.records if record.getMessage() == WARNING)
    assert (record.name, record.levelno, record.filename) == ("sophia.memory", logging.WARNING, "far.rs")
    assert before <= record.created <= time.time() and record.lineno > 0


def test_what_is_below_the_level_arrives_only_from_where_it_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    sophia = Sophia(AWAY)
    sophia.registry.register(Server("memory", url="sophia://memory"))

    def is_heard() -> bool:
        sophia.registry.export()
        return any(record.levelno == logging.INFO for record in caplog.records)

    assert not is_heard()
    sophia.memory.kv.set_sync("a", 1)
    until(lambda: WARNING in caplog.text)
    assert not is_heard()
    # A change is heard within a second.
    caplog.set_level(logging.DEBUG, logger="sophia.registry")
    until(is_heard)
    assert {record.name for record in caplog.records if record.levelno < logging.WARNING} == {"sophia.registry"}
    assert 'are not exported servers=["memory"]' in caplog.text
    # What is set before an engine is built is heard at once.
    caplog.set_level(logging.CRITICAL, logger="sophia")
    caplog.clear()
    silent = Sophia(AWAY)
    silent.memory.kv.set_sync("a", 1)
    time.sleep(0.05)
    assert caplog.records == []


def test_by_default_a_warning_is_seen_also_right_before_the_exit(program: Program) -> None:
    for _ in range(5):
        ended = program(f"""
from sophia import Sophia
s = Sophia({AWAY})
s.memory.kv.set_sync("a", 1)
""")
        assert (ended.returncode, ended.stderr) == (0, f"{WARNING}\n")


def test_children_of_a_fork_tell_their_own_and_find_no_handler_locked(program: Program) -> None:
    ended = program(f"""
import logging, os, threading, time
from sophia import Sophia

class File(logging.Handler):
    \"""One with a lock of its own, as files have.\"""
    lock_of_file = threading.Lock()

    def emit(self, record):
        with self.lock_of_file:
            time.sleep(0.005)
        if record.getMessage() == "{WARNING}":
            heard.set()

heard = threading.Event()
logging.basicConfig(level=logging.DEBUG, handlers=[File()])
s = Sophia({AWAY})
s.memory.kv.set_sync("a", 1)
s.registry.register({{"id": "memory", "url": "sophia://memory"}})
children = []
for _ in range(20):
    for _ in range(20):
        s.registry.export()
    time.sleep(0.01)
    heard.clear()
    pid = os.fork()
    if pid == 0:
        s.memory.kv.set_sync("a", 2)
        os._exit(0 if heard.wait(5) else 1)
    children.append(pid)
assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * len(children)
""")
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_the_exit_waits_for_a_handler_and_not_for_all_that_waits(program: Program) -> None:
    began = time.monotonic()
    ended = program(f"""
import logging, time
from sophia import Sophia

class Slow(logging.Handler):
    def emit(self, record):
        time.sleep(1.5)
        print(record.getMessage())

logging.basicConfig(handlers=[Slow()], level=logging.INFO)
s = Sophia({AWAY})
s.registry.register({{"id": "memory", "url": "sophia://memory"}})
s.memory.kv.set_sync("a", 1)
for _ in range(100):
    s.registry.export()
""")
    assert (ended.returncode, ended.stderr, time.monotonic() - began < 20) == (0, "", True)
    assert ended.stdout.startswith(WARNING)


def test_slow_handlers_hold_up_nobody_and_what_does_not_fit_is_counted(program: Program) -> None:
    ended = program(f"""
import logging, threading, time
from sophia import Sophia

told = []

class Slow(logging.Handler):
    def emit(self, record):
        # It may also ask the engine.
        s.registry.list()
        told.append(record.getMessage())
        time.sleep(0.2)

logging.basicConfig(level=logging.DEBUG, handlers=[Slow()])
s = Sophia()
s.memory.kv.set_sync("a", 1)
s.registry.register({{"id": "memory", "url": "sophia://memory"}})
began = time.monotonic()
for _ in range(3000):
    s.registry.export()
assert time.monotonic() - began < 30
logging.disable(logging.INFO)
deadline = time.monotonic() + 20
while not any(text.startswith("more was logged than could be told, and is dropped dropped=") for text in told):
    assert time.monotonic() < deadline, told[-3:]
    time.sleep(0.01)
""")
    assert ended.returncode == 0, ended.stderr[-2000:]
