"""`python -m sophia`, or `sophia`: the command line."""

from __future__ import annotations

import os
import sys

from ._models import minilm_folder
from ._sophia import command_line


def main() -> None:
    """Runs the command line with the arguments of this process, and ends it."""
    if "MINILM_PATH" not in os.environ and (folder := minilm_folder()):
        os.environ["MINILM_PATH"] = folder
    sys.exit(command_line(["sophia", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
