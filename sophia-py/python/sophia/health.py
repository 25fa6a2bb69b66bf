"""Health: what is wrong, what caused it, and what may be done about it."""

from __future__ import annotations

from ._sophia import Engine
from dataclasses import dataclass

@dataclass(frozen=True)
class Alert: ...
@dataclass(frozen=True)
class Probe: ...
@dataclass(frozen=True)
class SystemHealth: ...

class Health:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
