"""Runs the Python and JavaScript blocks of Markdown files: `python scripts/snippets.py README.md docs`.

Each block is a program of its own, in an empty directory. The Rust blocks are doctests of the examples crate, and the TOML
blocks are read by its tests.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from prepare import ROOT, environment

LIMIT_S = 60
COMMANDS = {"python": (sys.executable, ".py"), "js": ("node", ".mjs")}
BLOCK = re.compile(r"^```(python|js)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def main(names: list[str]) -> int:
    outcomes = [run(page, line, language, code) for page in pages(names) for line, language, code in blocks(page)]
    print(f"{outcomes.count(True)} of {len(outcomes)} snippets ran")
    return 0 if outcomes and all(outcomes) else 1


def pages(names: list[str]) -> Iterator[Path]:
    for name in names:
        path = ROOT / name
        yield from sorted(path.rglob("*.md")) if path.is_dir() else [path]


def blocks(page: Path) -> Iterator[tuple[int, str, str]]:
    text = page.read_text()
    for match in BLOCK.finditer(text):
        yield text.count("\n", 0, match.start()) + 2, match[1], match[2]


def run(page: Path, line: int, language: str, code: str) -> bool:
    command, suffix = COMMANDS[language]
    # Below the root, so that Node finds node_modules.
    build = ROOT / "target" / "snippets"
    build.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build) as directory:
        file = Path(directory, f"snippet{suffix}")
        file.write_text(code)
        began = time.monotonic()
        ended = subprocess.run(
            [command, file.name],
            cwd=directory,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    ok = ended.returncode == 0
    print(
        f"{'ok  ' if ok else 'FAIL'} {page.relative_to(ROOT)}:{line} {language} {time.monotonic() - began:.2f} s",
        flush=True,
    )
    if not ok:
        print(ended.stdout + ended.stderr, flush=True)
    return ok


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
