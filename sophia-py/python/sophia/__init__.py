"""The embeddable core of an AI backend: memory, cached chat, an MCP registry and health correlation."""

from ._engine import Sophia
from ._sophia import __version__
from .chat import CacheInfo, ChatChunk, ChatResponse, ChatStream, RunResult, Usage
from .errors import (
    CancelledError,
    CircuitOpenError,
    ConflictError,
    InternalError,
    InvalidConfigError,
    InvalidInputError,
    NotFoundError,
    RateLimitedError,
    SophiaError,
    TimeoutError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedError,
)
from .health import Alert, Probe, SystemHealth
from .memory import Hit, MemoryHealth, Record, SearchResult, StoreResult
from .registry import Conflict, LoadReport, Server, ServerStatus, Tool, ToolResult
from .scope import Scope

__all__ = [
    "Alert",
    "CacheInfo",
    "CancelledError",
    "ChatChunk",
    "ChatResponse",
    "ChatStream",
    "CircuitOpenError",
    "Conflict",
    "ConflictError",
    "Hit",
    "InternalError",
    "InvalidConfigError",
    "InvalidInputError",
    "LoadReport",
    "MemoryHealth",
    "NotFoundError",
    "Probe",
    "RateLimitedError",
    "Record",
    "RunResult",
    "Scope",
    "SearchResult",
    "Server",
    "ServerStatus",
    "Sophia",
    "SophiaError",
    "StoreResult",
    "SystemHealth",
    "TimeoutError",
    "Tool",
    "ToolResult",
    "UnauthorizedError",
    "UnavailableError",
    "UnsupportedError",
    "Usage",
    "__version__",
]
