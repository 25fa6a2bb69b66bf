"""Whose data it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Scope", "ScopeLike"]


@dataclass(frozen=True)
class Scope:
    """Whose data it is. Tenant and user are walls: they match exactly, and an unset one matches only unset.

    Session and agent narrow a read when they are set on it.
    """

    tenant: str | None = None
    user: str | None = None
    session: str | None = None
    agent: str | None = None


ScopeLike = Scope | Mapping[str, str] | None
