"""The engine's log: `logging` under the logger `sophia`, with a child for each capability, such as `sophia.memory`."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress

_ROOT = logging.getLogger("sophia")
_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}

# Held while an event is told, and over a fork: the child would find a handler, or its file, locked by a thread that is not there.
_telling = threading.RLock()
# A handler that forks may have what is told wait for itself.
_MOST_WAITED_S = 1


def tell(level: str, name: str, text: str, at: float, file: str, line: int) -> None:
    """Gives one event to its logger, with the time and the place of the event."""
    logger, number = logging.getLogger(name), _LEVELS[level]
    if not logger.isEnabledFor(number):
        return
    record = logger.makeRecord(name, number, file, line, text, (), None)
    record.created, record.msecs = at, at % 1 * 1000
    with _telling:
        logger.handle(record)


def directives() -> str:
    """Returns what the loggers would take, such as `warn,sophia.memory=debug`: the engine makes no other events."""
    # A copy: other threads make loggers meanwhile.
    loggers = list(_ROOT.manager.loggerDict.items())
    own = [
        f"{name}={_taken(logger)}"
        for name, logger in loggers
        if name.startswith("sophia.") and name[7:].isidentifier() and isinstance(logger, logging.Logger)
    ]
    return ",".join([f"sophia={_taken(_ROOT)}", *own])


def _taken(logger: logging.Logger) -> str:
    return next((level for level, number in _LEVELS.items() if logger.isEnabledFor(number)), "off")


def _before_fork() -> None:
    _telling.acquire(timeout=_MOST_WAITED_S)


def _after_fork_in_parent() -> None:
    # Not ours where waiting for it took too long.
    with suppress(RuntimeError):
        _telling.release()


def _after_fork_in_child() -> None:
    global _telling
    _telling = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
