"""The bridge between Python's await and the engine: exit, fork, threads, loops, Ctrl-C, cancellation."""

from __future__ import annotations

import asyncio
import contextvars
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sophia import CancelledError, Probe, Scope, Sophia, SophiaError, _callbacks, errors
from sophia._sophia import error_codes

from .conftest import Model, Program, engine

ADA = Scope(tenant="acme", user="ada")

IN_FLIGHT_AT_EXIT = """
import asyncio, sys
from sophia import Sophia

async def main():
    s = Sophia(data_dir=sys.argv[1])
    async def work(i):
        while True:
            await s.memory.store(f"note {i}")
            await s.memory.search("note")
    tasks = [asyncio.create_task(work(i)) for i in range(16)]
    await asyncio.sleep(0.05)
    globals()["kept"] = (s, tasks)  # the interpreter ends with all of them in flight
    if sys.argv[2] == "abrupt":
        sys.exit(7)

asyncio.run(main())
"""


@pytest.mark.parametrize("ending", ["clean", "abrupt"])
def test_exit_with_tasks_in_flight_never_crashes(program: Program, tmp_path: Path, ending: str) -> None:
    for attempt in range(12):
        ended = program(IN_FLIGHT_AT_EXIT, str(tmp_path / f"data{attempt}"), ending)
        assert ended.returncode == (7 if ending == "abrupt" else 0), ended.stderr


FORK = """
import asyncio, os, sys
from sophia import Scope, Sophia

s = Sophia(data_dir=sys.argv[1])

async def use(text):
    await asyncio.wait_for(s.memory.store(text), 10)
    return len((await asyncio.wait_for(s.memory.search("note", limit=10), 10)).hits)

if sys.argv[2] == "used":
    asyncio.run(use("a note of the parent"))
children = []
for i in range(3):
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if asyncio.run(use(f"a note of child {i}")) >= 1 else 1)
        except BaseException:
            import traceback; traceback.print_exc()
            os._exit(2)
    children.append(pid)
assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
found = asyncio.run(use("another note of the parent"))
assert found == (5 if sys.argv[2] == "used" else 4), found
"""


@pytest.mark.parametrize("parent", ["fresh", "used"])
def test_children_of_a_fork_work_and_share_the_file(program: Program, tmp_path: Path, parent: str) -> None:
    ended = program(FORK, str(tmp_path / "data"), parent)
    assert ended.returncode == 0, ended.stderr


FORK_WHILE_BUSY = """
import os, sys, threading
from sophia import Sophia

s = Sophia(data_dir=sys.argv[1])
s.memory.store_sync("first")
kept, done = [], threading.Event()

def work(name):
    while not done.is_set():
        kept.append(s.memory.store_sync(f"a note of thread {name}").id)
        s.memory.kv.get_sync("nothing")

threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
for thread in threads:
    thread.start()
children = []
for i in range(12):
    pid = os.fork()
    if pid == 0:
        # Not by way of Python's own exit: the threads are not here.
        os._exit(0 if all(s.memory.store_sync(f"a note of child {i}") for _ in range(5)) else 1)
    children.append(pid)
assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * len(children)
done.set()
for thread in threads:
    thread.join()
assert len(kept) > 3 and all(s.memory.get_sync(id) for id in kept)
assert s.memory.stats_sync().records == 1 + len(kept) + 5 * len(children)
"""


def test_a_fork_loses_nothing_of_what_other_threads_are_writing(program: Program, tmp_path: Path) -> None:
    ended = program(FORK_WHILE_BUSY, str(tmp_path / "data"))
    assert ended.returncode == 0, ended.stderr


FORK_IN_PROCESS = """
import os
from sophia import Sophia

s = Sophia()
s.memory.store_sync("a note of the parent")
pid = os.fork()
if pid == 0:
    os._exit(0 if s.memory.search_sync("note").hits == [] else 1)
assert os.waitpid(pid, 0)[1] == 0
assert len(s.memory.search_sync("note").hits) == 1
"""


def test_a_fork_takes_nothing_from_a_parent_that_keeps_its_data_in_process(program: Program) -> None:
    ended = program(FORK_IN_PROCESS)
    assert ended.returncode == 0, ended.stderr


SLEEPY = """
import signal, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from sophia import Sophia

class Slow(BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_POST(self):
        print("asked", flush=True)
        time.sleep(30)

server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_address[1]}/v1"
s = Sophia({"chat": {"providers": [{"name": "slow", "kind": "openai", "base_url": url, "api_key": "k"}]}})
# Where the tests were begun in the background, it is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
s.chat.complete_sync("hello", model="m")
"""


def test_ctrl_c_stops_a_blocking_call_at_once(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(SLEEPY)
    process = subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "asked\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert time.monotonic() - began < 2 and "KeyboardInterrupt" in stderr


def test_an_answer_in_memory_is_returned_with_nothing_to_await() -> None:
    s = Sophia()
    s.memory.kv.set_sync("plan", {"plan": "pro"}, scope=ADA)
    assert s._engine.kv_get_now("plan", ADA, None) == {"plan": "pro"}
    value = s._engine.call("memory.kv.get", {"key": "plan", "scope": ADA})
    assert not asyncio.isfuture(value) and value == {"plan": "pro"}


def begun(s: Sophia, text: str) -> Any:
    pending = s._engine.call("memory.store", {"content": text, "scope": ADA})
    assert type(pending) is asyncio.Future
    return pending


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_what_is_awaited_is_a_future(run: Callable[..., object], tmp_path: Path) -> None:
    s = Sophia(data_dir=tmp_path)

    async def use() -> None:
        pending, called = begun(s, "one"), []
        assert asyncio.isfuture(pending) and asyncio.ensure_future(pending) is pending
        assert not pending.done() and not pending.cancelled()
        for ask in (pending.result, pending.exception):
            with pytest.raises(asyncio.InvalidStateError):
                ask()
        pending.add_done_callback(called.append)
        pending.add_done_callback(print)
        assert pending.remove_done_callback(print) == 1
        stored = await asyncio.wait_for(pending, 5)
        assert stored is await pending is pending.result() and pending.exception() is None and called == [pending]
        assert pending.done() and not pending.cancel()
        pending.add_done_callback(called.append)
        assert called == [pending]
        await asyncio.sleep(0)
        assert called == [pending] * 2
        pending = begun(s, "two")
        pending.add_done_callback(called.append)
        assert pending.cancel() and pending.cancelled() and len(called) == 2
        for _ in range(2):
            with pytest.raises(asyncio.CancelledError):
                await pending
        await asyncio.sleep(0)
        assert called[2:] == [pending]
        first, second = await asyncio.gather(begun(s, "three"), begun(s, "four"))
        assert first["id"] != second["id"]

    run(use())


def test_who_is_woken_first_may_cancel_the_next_or_end_the_loop(tmp_path: Path) -> None:
    s = Sophia(data_dir=tmp_path)
    tasks: list[asyncio.Task[str]] = []

    async def store(number: int, then: Callable[[], object]) -> str:
        stored: str = (await begun(s, f"note {number}"))["id"]
        then()
        return stored

    async def begin(*then: Callable[[], object]) -> None:
        tasks[:] = [asyncio.create_task(store(number, after)) for number, after in enumerate(then)]
        await asyncio.sleep(0)
        # All of them end before the loop hears of any.
        time.sleep(0.3)
        await asyncio.sleep(0.1)

    def nothing() -> None:
        pass

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin(lambda: [task.cancel() for task in tasks[1:]], nothing, nothing))
    first, *others = loop.run_until_complete(asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5))
    assert isinstance(first, str) and all(isinstance(end, str | asyncio.CancelledError) for end in others)

    with pytest.raises(SystemExit):
        loop.run_until_complete(begin(sys.exit, nothing, nothing))
    assert isinstance(tasks[0].exception(), SystemExit)
    assert all(loop.run_until_complete(asyncio.wait_for(asyncio.gather(*tasks[1:]), 5)))
    loop.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_one_engine_serves_several_loops_in_turn(run: Callable[..., object], tmp_path: Path) -> None:
    s = Sophia(data_dir=tmp_path)

    async def use() -> None:
        results = await asyncio.gather(*[s.memory.store(f"note {i}", scope=ADA) for i in range(100)])
        assert len({r.seq for r in results}) == 100

    for _ in range(3):
        run(use())


def test_one_engine_serves_loops_in_several_threads_at_once(tmp_path: Path) -> None:
    s = Sophia(data_dir=tmp_path)

    async def use(thread: int) -> int:
        stored = await asyncio.gather(*[s.memory.store(f"{thread}:{i}") for i in range(50)])
        return len(stored)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda thread: asyncio.run(use(thread)), range(8))) == 400
    assert s.memory.stats_sync().records == 400


def test_cancelled_awaits_leave_the_loop_and_the_engine_usable(tmp_path: Path) -> None:
    async def main() -> None:
        async with Sophia(data_dir=tmp_path) as s:
            left = asyncio.Event()

            async def loader() -> int:
                try:
                    return await asyncio.Future()
                finally:
                    left.set()

            tasks = [asyncio.create_task(s.memory.kv.get_or_set("k", loader)) for _ in range(50)]
            await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
            # Until the last of them has left, who asks joins their flight.
            await asyncio.wait_for(left.wait(), 5)
            assert await s.memory.kv.get_or_set("k", lambda: 2) == 2

    asyncio.run(main())


def test_a_read_that_is_cancelled_loses_nothing_of_a_stream(model: Model) -> None:
    words = " ".join(str(number) for number in range(40))

    async def main() -> None:
        async with engine(model) as s:
            stream, text = s.chat.stream(words), ""
            while True:
                try:
                    text += (await asyncio.wait_for(anext(stream), 0.0015)).delta
                except TimeoutError:
                    continue
                except StopAsyncIteration:
                    break
            assert text.split() == words.split()

            one = s.chat.stream(f"{words} more")
            ended = await asyncio.gather(anext(one), anext(one), return_exceptions=True)
            assert [type(result).__name__ for result in ended] == ["ChatChunk", "ConflictError"]

    asyncio.run(main())


def test_a_stream_is_closed_when_its_reader_is_cancelled(model: Model) -> None:
    async def read(s: Sophia) -> None:
        async for _ in s.chat.stream("forever"):
            pass

    async def main() -> None:
        async with engine(model) as s:
            reading = asyncio.create_task(read(s))
            await asyncio.sleep(0.05)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            await asyncio.to_thread(model.broken_off.wait, 5)
            assert model.broken_off.is_set()

            model.broken_off.clear()
            try:
                await asyncio.wait_for(read(s), 0.05)
            except TimeoutError:
                # While the traceback of the reader is held, as well.
                await asyncio.to_thread(model.broken_off.wait, 5)
            assert model.broken_off.is_set()

    asyncio.run(main())


def test_the_last_waiter_to_leave_cancels_the_loader(tmp_path: Path) -> None:
    async def main() -> None:
        async with Sophia(data_dir=tmp_path) as s:
            cancelled = asyncio.Event()

            async def loader() -> None:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    cancelled.set()
                    raise

            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(s.memory.kv.get_or_set("k", loader), 0.1)
            await asyncio.wait_for(cancelled.wait(), 5)

    asyncio.run(main())


def test_a_loader_that_hangs_is_cancelled_at_its_deadline_for_all_who_wait() -> None:
    async def main() -> None:
        s, left = Sophia(), asyncio.Event()

        async def loader() -> None:
            try:
                await asyncio.Future()
            finally:
                left.set()

        waiting = (s.memory.kv.get_or_set("k", loader, timeout=seconds) for seconds in (0.1, 600))
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(outcome, TimeoutError) for outcome in outcomes), outcomes
        await asyncio.wait_for(left.wait(), 5)
        assert await s.memory.kv.get_or_set("k", lambda: 1) == 1

    asyncio.run(main())


def test_what_a_callback_raises_reaches_every_waiter_as_the_same_object() -> None:
    failure = LookupError("no such plan")

    async def main() -> None:
        s = Sophia()

        async def loader() -> None:
            await asyncio.sleep(0.05)
            raise failure

        outcomes = await asyncio.gather(*[s.memory.kv.get_or_set("k", loader) for _ in range(20)], return_exceptions=True)
        assert all(outcome is failure for outcome in outcomes)

    asyncio.run(main())


Ask = Callable[[Sophia, Callable[[], Awaitable[str]]], Awaitable[object]]


async def from_run(s: Sophia, make: Callable[[], Awaitable[str]]) -> object:
    return (await s.chat.run("q", make)).value


async def from_kv(s: Sophia, make: Callable[[], Awaitable[str]]) -> object:
    return await s.memory.kv.get_or_set("k", make)


def closing(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Callable[..., object]:
    def run(main: Coroutine[Any, Any, None]) -> None:
        loop = new_loop()
        loop.run_until_complete(main)
        loop.close()

    return run


@pytest.mark.parametrize("ask", [from_run, from_kv])
@pytest.mark.parametrize(
    "run",
    [asyncio.run, uvloop.run, closing(asyncio.new_event_loop), closing(uvloop.new_event_loop)],
    ids=["asyncio", "uvloop", "asyncio closed", "uvloop closed"],
)
def test_who_waits_for_work_on_a_loop_that_ends_begins_anew(run: Callable[..., object], ask: Ask) -> None:
    s, begun, leaving = Sophia(), threading.Event(), threading.Event()
    asking: list[object] = []

    async def hang() -> str:
        begun.set()
        await asyncio.Future()
        return "never"

    async def make() -> str:
        return "made"

    async def lead() -> None:
        asking.append(asyncio.ensure_future(ask(s, hang)))
        while not leaving.is_set():
            await asyncio.sleep(0.01)

    async def follow() -> object:
        following = asyncio.ensure_future(ask(s, make))
        await asyncio.sleep(0.1)
        assert not following.done()
        leaving.set()
        return await asyncio.wait_for(following, 5)

    with ThreadPoolExecutor() as pool:
        leader = pool.submit(run, lead())
        assert begun.wait(5)
        assert asyncio.run(follow()) == "made"
        leader.result(5)


async def test_a_callback_that_is_cancelled_is_an_error_of_ours_to_who_waits_for_it() -> None:
    async def cancelled() -> str:
        raise asyncio.CancelledError

    for ask in (from_run, from_kv):
        with pytest.raises(CancelledError, match="the task of the callback was cancelled"):
            await ask(Sophia(), cancelled)


def test_callbacks_see_the_context_variables_of_their_caller() -> None:
    import contextvars

    request: contextvars.ContextVar[str] = contextvars.ContextVar("request")

    async def main() -> None:
        s = Sophia()
        request.set("r1")

        async def loader() -> str:
            return request.get()

        assert await s.memory.kv.get_or_set("k", loader) == "r1"

    asyncio.run(main())


def test_a_call_without_a_running_loop_says_so(tmp_path: Path) -> None:
    s = Sophia(data_dir=tmp_path)
    with pytest.raises(RuntimeError, match="no running event loop: .*asyncio"):
        s.memory.store("note").send(None)


def test_every_code_has_its_class_and_survives_a_pickle() -> None:
    codes = error_codes()
    assert len(codes) == 12
    for code, retryable in codes:
        error = errors.from_code(code, "message", 1.5, "memory.search", {"field": "x"})
        assert (error.code, error.retryable, error.retry_after) == (code, retryable, 1.5)
        assert type(error).__name__ in errors.__all__ and isinstance(error, SophiaError)
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and again.context == {"field": "x"}


def test_errors_with_a_builtin_meaning_are_that_builtin() -> None:
    assert issubclass(errors.TimeoutError, TimeoutError) and issubclass(errors.UnavailableError, ConnectionError)


def test_no_thread_or_descriptor_is_left_behind(tmp_path: Path) -> None:
    async def use(s: Sophia) -> None:
        await s.memory.store("note")

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    s = Sophia(data_dir=tmp_path)
    asyncio.run(use(s))
    before, threads = count(), threading.active_count()
    for _ in range(20):
        asyncio.run(use(s))
    assert count() <= before + 4 and threading.active_count() == threads


async def test_probes_and_healing_that_block_hold_up_no_loop() -> None:
    async with Sophia() as s:
        loop_thread = threading.get_ident()
        ran_on: dict[str, int] = {}

        def look() -> bool:
            time.sleep(0.5)
            ran_on["look"] = threading.get_ident()
            return True

        async def look_too() -> bool:
            ran_on["look_too"] = threading.get_ident()
            return True

        s.health.register("slow", probe=Probe.callback(look))
        s.health.register("quick", probe=Probe.callback(look_too))
        s.health.register("made", probe=Probe.callback(lambda: look_too()))
        checks = asyncio.ensure_future(s.health.check_all())
        ticks = 0
        while not checks.done():
            await asyncio.sleep(0.01)
            ticks += 1
        assert [check.status for check in (await checks).values()] == ["healthy"] * 3
        assert ticks > 10 and ran_on["look"] != loop_thread and ran_on["look_too"] == loop_thread

        s.health.action("heal", lambda target: ran_on.update(heal=threading.get_ident()), timeout=5)
        assert (await s.health.trigger("heal", "slow")).status == "completed"
        assert ran_on["heal"] != loop_thread


def test_a_look_that_hangs_holds_one_thread() -> None:
    with Sophia() as s:
        end = threading.Event()

        def hang() -> bool:
            return end.wait(30)

        threads = threading.active_count()
        for _ in range(10):
            s.health.register("hung", probe=Probe.callback(hang), timeout=0.05)
            check = s.health.check_sync("hung")
            assert check.observed == "unhealthy" and "no answer" in (check.detail or "")
        with ThreadPoolExecutor(10) as pool:
            checks = list(pool.map(s.health.check_sync, ["hung"] * 10))
        assert {check.observed for check in checks} == {"unhealthy"} and threading.active_count() <= threads + 1
        end.set()
        assert s.health.check_sync("hung").observed == "healthy"
    assert not _callbacks._looks


class Slow:
    """Probes that take longer than a caller waits, and how often each was begun."""

    def __init__(self) -> None:
        self.begun = 0

    def block(self) -> bool:
        self.begun += 1
        time.sleep(0.8)
        return True

    async def wait(self) -> bool:
        self.begun += 1
        await asyncio.sleep(0.8)
        return True

    def make(self) -> Awaitable[bool]:
        return self.wait()


@pytest.mark.parametrize(("name", "most"), [("block", 1), ("wait", 5), ("make", 5)])
async def test_a_look_that_the_caller_cuts_short_says_nothing(name: str, most: int) -> None:
    async with Sophia() as s:
        slow = Slow()
        s.health.register("db", probe=Probe.callback(getattr(slow, name)), fail_after=1, critical=True)
        checks = [(await s.health.check_all(deadline=0.1))["db"] for _ in range(3)]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(s.health.check("db"), 0.1)
        assert {check.observed for check in checks} == {"unknown"} and s.health.alerts() == []
        assert (await s.health.check("db")).observed == "healthy" and slow.begun <= most


def test_what_a_look_raises_reaches_all_who_wait_for_it_and_who_leaves_does_not_end_it() -> None:
    began, end = threading.Event(), threading.Event()

    def look() -> bool:
        began.set()
        end.wait(10)
        raise ValueError("disk full")

    async def first_leaves(s: Sophia) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(s.health.check("db"), 0.1)

    with Sophia() as s, Sophia() as other:
        for engine in (s, other):
            engine.health.register("db", probe=Probe.callback(look), timeout=10)
        asyncio.run(first_leaves(s))
        assert began.is_set()
        with ThreadPoolExecutor(2) as pool:
            checks = [pool.submit(engine.health.check_sync, "db") for engine in (s, other)]
            time.sleep(0.1)
            began.clear()
            end.set()
            assert all("disk full" in (check.result().detail or "") for check in checks) and not began.is_set()


def test_looks_that_read_other_context_variables_do_not_join() -> None:
    tenant = contextvars.ContextVar[str]("tenant")

    def look() -> dict[str, str]:
        time.sleep(0.2)
        return {"status": "ok", "detail": tenant.get()}

    with Sophia() as s:
        for name in ("ada", "bob"):
            tenant.set(name)
            s.health.register(name, probe=Probe.callback(look))
        checks = s.health.check_all_sync()
        assert {name: check.detail for name, check in checks.items()} == {"ada": "ada", "bob": "bob"}


LOOK_IN_A_CHILD = """
import os, threading
from sophia import Probe, Sophia

parent = os.getpid()

def look():
    return os.getpid() != parent or threading.Event().wait(60)

def check():
    s.health.register("db", probe=Probe.callback(look), timeout=0.5)
    return s.health.check_sync("db").observed

s = Sophia()
check()
if (child := os.fork()) == 0:
    os._exit(check() != "healthy")
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_of_a_fork_does_not_wait_for_a_look_of_its_parent(program: Program) -> None:
    assert program(LOOK_IN_A_CHILD).stdout.split() == ["0"]


async def test_a_synchronous_look_from_the_loop_of_the_probe_blames_nobody() -> None:
    async with Sophia() as s:

        async def look() -> str:
            return "ok"

        s.health.register("web", probe=Probe.callback(look), fail_after=1)
        check = s.health.check_sync("web")
        assert check.observed == "unknown" and "await the asynchronous method" in (check.detail or "")
        assert s.health.alerts() == []
        assert (await s.health.check("web")).observed == "healthy"


async def test_healing_that_takes_too_long_is_taken_back_and_none_is_no_verdict() -> None:
    async with Sophia() as s:
        back: list[str] = []

        async def hang(target: str) -> None:
            await asyncio.Event().wait()

        s.health.action("hang", hang, timeout=0.2, rollback=back.append)
        result = await s.health.trigger("hang", "redis")
        assert (result.status, result.rolled_back, back) == ("failed", True, ["redis"])

        s.health.action("tell", lambda target: None, verify=lambda target: None, rollback=back.append)
        result = await s.health.trigger("tell", "redis")
        assert (result.status, result.effect, result.rolled_back) == ("completed", "unknown", False)


async def test_a_subscription_ends_when_the_engine_closes() -> None:
    s = Sophia()
    await s.start()
    events = s.health.subscribe()
    waiting = asyncio.ensure_future(anext(events, None))
    await asyncio.sleep(0.1)
    await s.close()
    assert await asyncio.wait_for(waiting, 5) is None
    assert await asyncio.wait_for(anext(s.health.subscribe(), None), 5) is None


async def test_healing_that_goes_on_after_its_time_is_not_begun_again() -> None:
    async with Sophia() as s:
        began: list[str] = []
        end = threading.Event()

        def hang(target: str) -> None:
            began.append(target)
            end.wait(10)

        s.health.action("hang", hang, timeout=0.2, cooldown=0)
        assert (await s.health.trigger("hang", "redis")).status == "failed"
        again = await s.health.trigger("hang", "redis")
        assert again.status == "failed" and "has not ended" in (again.detail or "")
        await s.health.trigger("hang", "web")
        assert began == ["redis", "web"]
        end.set()
