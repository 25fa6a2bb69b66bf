/** One error class for each code of the engine. `docs/errors.md` is the table. */

import { DURATIONS } from './types.js'

/** Stable codes, the same in Rust, Python, Node and HTTP. */
export type ErrorCode =
  | 'NOT_FOUND'
  | 'INVALID_INPUT'
  | 'INVALID_CONFIG'
  | 'UNAUTHORIZED'
  | 'RATE_LIMITED'
  | 'TIMEOUT'
  | 'UNAVAILABLE'
  | 'CIRCUIT_OPEN'
  | 'CONFLICT'
  | 'UNSUPPORTED'
  | 'CANCELLED'
  | 'INTERNAL'

/** What an error says beside its message. */
export interface ErrorDetails {
  /** Stable code. */
  code: ErrorCode
  /** What failed, such as `memory.search`. */
  operation: string
  /** Whether the same call may succeed later, unchanged. */
  retryable: boolean
  /** How long to wait before another try; null where that is not known. */
  retryAfterMs: number | null
  /** Facts about the failure, such as the `field` at fault. Never a secret. */
  context: Readonly<Record<string, string>>
  /** What caused it. */
  cause?: unknown
}

/**
 * Any failure of the engine. Catch a subclass, or look at `code`.
 *
 * ```js
 * try { await s.registry.call('nobody', 'x', {}) } catch (e) { assert(e instanceof SophiaError && e.code === 'NOT_FOUND') }
 * ```
 */
export class SophiaError extends Error implements ErrorDetails {
  readonly code: ErrorCode
  readonly operation: string
  readonly retryable: boolean
  readonly retryAfterMs: number | null
  readonly context: Readonly<Record<string, string>>

  constructor(message: string, details: ErrorDetails) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = details.code
    this.operation = details.operation
    this.retryable = details.retryable
    this.retryAfterMs = details.retryAfterMs
    this.context = details.context
  }
}

/** What was asked for does not exist in this scope. */
export class NotFoundError extends SophiaError {}
/** An argument is malformed; the message names the field and the fix. */
export class InvalidInputError extends SophiaError {}
/** A configuration field is unknown, malformed or out of range; the message names its path. */
export class InvalidConfigError extends SophiaError {}
/** The caller, or a credential of the engine, was refused. */
export class UnauthorizedError extends SophiaError {}
/** A limit of the engine or of a provider was reached; `retryAfterMs` says when to come back, if known. */
export class RateLimitedError extends SophiaError {}
/** The deadline passed first. */
export class TimeoutError extends SophiaError {}
/** A dependency cannot be reached, or answers with its own failure. */
export class UnavailableError extends SophiaError {}
/** A breaker is open: the dependency failed lately and is not asked. */
export class CircuitOpenError extends SophiaError {}
/** The state changed meanwhile, such as a version that is no longer current. */
export class ConflictError extends SophiaError {}
/** The operation is not offered by this implementation, build or configuration. */
export class UnsupportedError extends SophiaError {}
/** The caller, or a shutdown, cancelled the work. */
export class CancelledError extends SophiaError {}
/** A fault of the engine. */
export class InternalError extends SophiaError {}

const CLASSES: Readonly<Record<ErrorCode, typeof SophiaError>> = {
  NOT_FOUND: NotFoundError,
  INVALID_INPUT: InvalidInputError,
  INVALID_CONFIG: InvalidConfigError,
  UNAUTHORIZED: UnauthorizedError,
  RATE_LIMITED: RateLimitedError,
  TIMEOUT: TimeoutError,
  UNAVAILABLE: UnavailableError,
  CIRCUIT_OPEN: CircuitOpenError,
  CONFLICT: ConflictError,
  UNSUPPORTED: UnsupportedError,
  CANCELLED: CancelledError,
  INTERNAL: InternalError,
}

for (const type of [SophiaError, ...Object.values(CLASSES)]) {
  Object.defineProperty(type.prototype, 'name', { value: type.name, configurable: true, writable: true })
}

/** Returns the class of a code; an error that a newer engine has is a plain `SophiaError`. */
export function errorClass(code: string): typeof SophiaError {
  return (CLASSES as Record<string, typeof SophiaError>)[code] ?? SophiaError
}

/** An error as the engine tells it. */
interface Told {
  code: string
  operation: string
  message: string
  retryable: boolean
  retryAfterMs?: number | null
  context?: string[][]
  causes?: string[]
}

/** Builds the error that the engine tells, with names as the caller wrote them in `given`. */
export function toError(told: Told, given?: unknown): SophiaError {
  const context = Object.fromEntries(told.context ?? [])
  let message = told.message.replace(/ at line \d+ column \d+$/, '')
  const field = context['field']
  if (field !== undefined) {
    const written = asWritten(field, given)
    context['field'] = written
    message = message.replace(`\`${field}\``, () => `\`${written}\``)
    message = asSuggested(message, written, told.operation)
  }
  const facts = Object.entries(context).filter(([key]) => key !== 'field')
  const shown = facts.length === 0 ? '' : ` (${facts.map(([key, value]) => `${key}: ${value}`).join(', ')})`
  const type = errorClass(told.code)
  return new type(`${told.operation}: ${message}${shown}`, {
    code: told.code as ErrorCode,
    operation: told.operation,
    retryable: told.retryable,
    retryAfterMs: told.retryAfterMs ?? null,
    context: Object.freeze(context),
    cause: chain(told.causes ?? []),
  })
}

/** Makes the error of what cannot be told to the engine. */
export type Refuse = (operation: string, field: string, problem: string, cause?: unknown) => SophiaError

/** Refuses an argument. */
export const invalidInput: Refuse = (...told) => refused('INVALID_INPUT', ...told)

/** Refuses a configuration. */
export const invalidConfig: Refuse = (...told) => refused('INVALID_CONFIG', ...told)

function refused(code: ErrorCode, operation: string, field: string, problem: string, cause?: unknown): SophiaError {
  const type = errorClass(code)
  return new type(`${operation}: \`${field}\` ${problem}`, {
    code,
    operation,
    retryable: false,
    retryAfterMs: null,
    context: Object.freeze({ field }),
    cause,
  })
}

function chain(causes: string[]): Error | undefined {
  return causes.reduceRight<Error | undefined>((cause, message) => new Error(message, cause && { cause }), undefined)
}

/** Returns the camelCase form of a snake_case name. */
export function camel(name: string): string {
  return name.replace(/(?<=.)_+([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())
}

/** Turns the engine's path of a field, `scope.max_wait`, into the caller's, `scope.maxWaitMs`. */
function asWritten(path: string, given: unknown): string {
  let place = given
  const parts = path.split('.').map((part) => {
    const [name = '', ...indices] = part.split(/(?=\[)/)
    const written = name === '' ? '' : nameIn(place, name)
    place = member(place, written)
    for (const index of indices) place = member(place, index.slice(1, -1))
    return written + indices.join('')
  })
  return parts.join('.')
}

function nameIn(place: unknown, name: string): string {
  const names = [name, camel(name), `${camel(name)}Ms`]
  const written = typeof place === 'object' && place !== null && names.find((candidate) => candidate in place)
  return written || camel(name)
}

function member(place: unknown, name: string): unknown {
  return typeof place === 'object' && place !== null ? (place as Record<string, unknown>)[name] : undefined
}

/** Turns the names that an error about an unknown field suggests. In a configuration durations have two names. */
function asSuggested(message: string, written: string, operation: string): string {
  const shown = (name: string) => camel(name) + (operation !== 'config' && DURATIONS.has(camel(name)) ? 'Ms' : '')
  const meant = (name: string) => (/ms\w?$/i.test(written) ? camel(name).replace(/(?:Ms)?$/, 'Ms') : shown(name))
  return message
    .replace(/(?<=is not a known field; did you mean `)\w+/, meant)
    .replace(/(?<=is not a known field; known are ).*/, (names) => names.replace(/\w+/g, shown))
}
