"""The trace that a caller is in, where it uses OpenTelemetry."""

from __future__ import annotations

import sys


def traceparent() -> str | None:
    """Returns the current span as a W3C `traceparent`; None where there is none. OpenTelemetry is not imported for it."""
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    context = api.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
