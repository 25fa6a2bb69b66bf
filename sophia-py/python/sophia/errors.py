"""Every failure is a `SophiaError` with a stable `code`; the table is in docs/errors.md."""

from __future__ import annotations

import builtins
from typing import Any, ClassVar

__all__ = [
    "CancelledError",
    "CircuitOpenError",
    "ConflictError",
    "InternalError",
    "InvalidConfigError",
    "InvalidInputError",
    "NotFoundError",
    "RateLimitedError",
    "SophiaError",
    "TimeoutError",
    "UnauthorizedError",
    "UnavailableError",
    "UnsupportedError",
]


class SophiaError(Exception):
    """A failure of the engine; `except SophiaError` catches them all."""

    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        retry_after: float | None = None,
        operation: str | None = None,
        context: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds to wait before another try, where that is known."""
        self.operation = operation
        """The operation that failed, such as `memory.search`."""
        self.context: dict[str, str] = context or {}
        """Facts about the failure, such as `field`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.retry_after, self.operation, self.context)


class NotFoundError(SophiaError):
    """What was asked for does not exist in this scope."""

    code = "NOT_FOUND"


class InvalidInputError(SophiaError, ValueError):
    """An argument is malformed; the message names the field and the fix."""

    code = "INVALID_INPUT"


class InvalidConfigError(SophiaError, ValueError):
    """A configuration field is unknown, malformed or out of range."""

    code = "INVALID_CONFIG"


class UnauthorizedError(SophiaError):
    """The caller, or a credential given to a provider, was refused."""

    code = "UNAUTHORIZED"


class RateLimitedError(SophiaError):
    """A limit was reached; wait `retry_after` seconds."""

    code = "RATE_LIMITED"
    retryable = True


class TimeoutError(SophiaError, builtins.TimeoutError):  # noqa: A001 - it is one
    """The deadline passed first."""

    code = "TIMEOUT"
    retryable = True


class UnavailableError(SophiaError, ConnectionError):
    """A dependency cannot be reached, or answers with its own failure."""

    code = "UNAVAILABLE"
    retryable = True


class CircuitOpenError(SophiaError, ConnectionError):
    """The dependency failed lately and is not asked until `retry_after`."""

    code = "CIRCUIT_OPEN"
    retryable = True


class ConflictError(SophiaError):
    """The state changed meanwhile; read again, then write."""

    code = "CONFLICT"


class UnsupportedError(SophiaError):
    """The operation is not offered by this implementation, build or configuration."""

    code = "UNSUPPORTED"


class CancelledError(SophiaError):
    """A shutdown, or another caller's cancellation, ended the work. Cancelling an await raises asyncio's own error."""

    code = "CANCELLED"


class InternalError(SophiaError):
    """A fault of Sophia; please report it."""

    code = "INTERNAL"


_CLASSES: dict[str, type[SophiaError]] = {
    kind.code: kind
    for kind in (
        NotFoundError,
        InvalidInputError,
        InvalidConfigError,
        UnauthorizedError,
        RateLimitedError,
        TimeoutError,
        UnavailableError,
        CircuitOpenError,
        ConflictError,
        UnsupportedError,
        CancelledError,
        InternalError,
    )
}


def from_code(
    code: str, message: str, retry_after: float | None, operation: str | None, context: dict[str, str]
) -> SophiaError:
    """Makes the exception of a code; an unknown code is a fault of ours."""
    return _CLASSES.get(code, InternalError)(message, retry_after, operation, context)
