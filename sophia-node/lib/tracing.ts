/** The trace that a caller is in, where it uses OpenTelemetry. */

/** Where `@opentelemetry/api` 1 keeps what is registered, and where a context keeps its span. */
const API = Symbol.for('opentelemetry.js.api.1')
const SPAN = Symbol.for('OpenTelemetry Context Key SPAN')

interface Api {
  context?: { active(): { getValue(key: symbol): { spanContext(): SpanContext } | undefined } }
}

interface SpanContext {
  traceId: string
  spanId: string
  traceFlags: number
}

/** Returns the current span as a W3C `traceparent`, to be spread into a call. OpenTelemetry is not imported for it. */
export function traced(): { traceparent?: string } {
  const api = (globalThis as { [API]?: Api })[API]
  const span = api?.context?.active().getValue(SPAN)?.spanContext()
  if (!span || /^0*$/.test(span.traceId)) return {}
  return { traceparent: `00-${span.traceId}-${span.spanId}-${span.traceFlags.toString(16).padStart(2, '0')}` }
}
