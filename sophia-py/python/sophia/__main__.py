"""`python -m sophia`, or `sophia`: the command line."""

from __future__ import annotations

import sys

from ._sophia import command_line


def main() -> None:
    """Runs the command line with the arguments of this process, and ends it."""
    sys.exit(command_line(["sophia", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
