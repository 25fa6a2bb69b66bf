"""Lets .venv import the `sophia` that the tests' one `cargo build` has made.

What `maturin develop` does, without its own build: with other features, that would compile every dependency again.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from prepare import ROOT, VENV, VENV_BIN

PACKAGE = ROOT / "sophia-py" / "python"
# Linux, macOS.
NAMES = ("lib_sophia.so", "lib_sophia.dylib")


def main(built: Path) -> None:
    # Beside, then renamed: a process that has the old one open keeps it.
    module, unnamed = PACKAGE / "sophia" / "_sophia.abi3.so", PACKAGE / "sophia" / "_sophia.new"
    shutil.copyfile(next(built / name for name in NAMES if (built / name).exists()), unnamed)
    unnamed.replace(module)
    site_packages = next(VENV.glob("lib*/python*/site-packages"))
    path = site_packages / "sophia_ai.pth"
    path.write_text(f"{PACKAGE}\n")
    # What the package says of itself, and that pyproject.toml can be packed.
    metadata = subprocess.run(
        [str(VENV_BIN / "maturin"), "pep517", "write-dist-info", "--metadata-directory", str(site_packages)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    # What to take out again: without it, pip installs nothing in its place.
    about = site_packages / metadata.stdout.strip()
    installed = [path, about / "RECORD", *(file for file in about.rglob("*") if file.is_file())]
    lines = {f"{file.relative_to(site_packages).as_posix()},,\n" for file in installed}
    (about / "RECORD").write_text("".join(sorted(lines)))
    print(f"{module.relative_to(ROOT)}, {about.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
