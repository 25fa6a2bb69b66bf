/** The bridge to the native engine: JSON text out, JSON text back, at once or later. */

import * as native from '../native.js'
import { SophiaError, camel, invalidInput, toError, type Refuse } from './errors.js'
import { hearLogs } from './logs.js'
import { DURATIONS, type Scope } from './types.js'

/** What every call takes. */
export interface CallOptions {
  /** Aborts the call: the work is dropped and the promise rejects with the signal's reason. */
  signal?: AbortSignal | undefined
}

/** A function that the engine calls with plain values and a signal that aborts when the answer is no longer awaited. */
export type Callback = (...args: any[]) => unknown

interface Waiter {
  resolve(text: string): void
  reject(reason: unknown): void
  /** What was given, to name its fields in an error. */
  given: unknown
}

/** A message of the native side; the numbers are those of `native.Ask`. */
type Message = native.Message

/** Engines that owe an answer. They are held here, so that a forgotten engine still settles what it promised. */
const owing = new Set<Bridge>()

/** Keeps the process alive while an answer is owed; the native wake-up by itself does not. */
let vigil: NodeJS.Timeout | undefined

/** Longest delay of a timer: it is there to be waited for, not to fire. */
const NEVER_MS = 2 ** 31 - 1

/** One native engine. */
export class Bridge {
  readonly #engine: native.Engine
  readonly #waiters = new Map<number, Waiter>()
  readonly #functions = new Map<number, { operation: string; callback: Callback }>()
  readonly #invocations = new Map<number, AbortController>()
  readonly #thrown = new Map<number, unknown>()
  #last = 0

  constructor(source: native.ConfigSource, text: string, given: unknown) {
    hearLogs()
    // Weak: the native side holds `deliver` for as long as the engine lives, which would hold the engine in turn.
    const self = new WeakRef(this)
    const engine = native.open(source, text, (batch) => {
      const bridge = self.deref()
      if (bridge) bridge.#deliver(batch)
    })
    if (!(engine instanceof native.Engine)) throw toError(engine, given)
    this.#engine = engine
  }

  /** Starts the engine. */
  start(options?: CallOptions): Promise<void> {
    return this.#run((id) => this.#engine.start(id), undefined, options?.signal)
  }

  /** Shuts the engine down. */
  close(): Promise<void> {
    return this.#run((id) => this.#engine.close(id), undefined, undefined)
  }

  /** Calls an operation with `own` arguments and those in `options`. */
  async call<T>(operation: string, own: object, options?: CallOptions): Promise<T> {
    const { signal, ...rest } = options ?? {}
    const given = { ...rest, ...own }
    return this.#run((id) => this.#engine.call(id, operation, writeArguments(operation, given)), given, signal)
  }

  /** Calls an operation and waits for it on this thread. */
  callSync<T>(operation: string, own: object, options?: object): T {
    const given = { ...options, ...own }
    const reply = this.#engine.callSync(operation, writeArguments(operation, given))
    if (typeof reply === 'string') return JSON.parse(reply)
    throw this.#error(reply as native.Failure, given)
  }

  /** Calls a native method that takes the number of its promise. */
  async run<T>(operation: string, given: object, options: CallOptions | undefined, call: NativeCall): Promise<T> {
    return this.#run((id) => call(this.#engine, id, writeArguments(operation, given)), given, options?.signal)
  }

  /** Calls a native method that is ready at once. */
  runSync<T>(operation: string, given: object, call: (engine: native.Engine, text: string) => native.Reply): T {
    const reply = call(this.#engine, writeArguments(operation, given))
    if (typeof reply === 'string') return JSON.parse(reply)
    throw this.#error(reply as native.Failure, given)
  }

  /** Looks a key up in this process: JSON text, an empty text for no such key, or nothing where it is not known. */
  kvGet(key: unknown, scope: Scope | null | undefined): string | null | undefined {
    if (typeof key !== 'string' || !isPlain(scope)) return undefined
    return this.#engine.kvGet(key, scope?.tenant, scope?.user, scope?.session, scope?.agent)
  }

  /** Opens a stream of results. A failure to open it is what the first read gives. */
  stream<T>(operation: string, own: object, options?: CallOptions): JsonIterator<T> {
    const { signal, ...rest } = options ?? {}
    const given = { ...rest, ...own }
    return this.#open<T>((engine) => engine.stream(operation, writeArguments(operation, given)), given, signal)
  }

  /** Opens a streamed answer with functions as tools. */
  streamWith<T>(own: object, options: CallOptions, tools: object[], answer: Callback): JsonIterator<T> {
    const { signal, ...rest } = options
    const given = { ...rest, ...own }
    const open = (engine: native.Engine) =>
      engine.streamWith(writeArguments('chat.stream', given), write('chat.stream', tools), this.keep('chat.stream', answer))
    return this.#open<T>(open, given, signal)
  }

  /** Returns the largest body that the HTTP surface accepts, in bytes. */
  get maxBodyBytes(): number {
    return this.#engine.maxBodyBytes()
  }

  /** Answers an HTTP request: a head, and then chunks whose characters are bytes. */
  request(method: string, { target, rawHeaders, client }: Asked, body: Uint8Array): JsonIterator<Head | string> {
    return this.#open((engine) => engine.request(method, target, rawHeaders, body, client), undefined, undefined)
  }

  /** Opens a WebSocket: a head of status 101, and then texts; or the answer that refuses it. */
  live({ target, rawHeaders, client }: Asked): JsonIterator<Head | string> {
    return this.#open((engine) => engine.live(target, rawHeaders, client), undefined, undefined)
  }

  /**
   * Keeps a function for the native side, and returns its number there. `operation` stands in its errors. The native side says
   * when to forget it: call this last, when nothing but the native call can fail.
   */
  keep(operation: string, callback: Callback): number {
    const id = this.#id()
    this.#functions.set(id, { operation, callback })
    return id
  }

  async #run<T>(begin: (id: number) => native.Reply, given: unknown, signal: AbortSignal | undefined): Promise<T> {
    signal?.throwIfAborted()
    const id = this.#id()
    const reply = begin(id)
    if (typeof reply === 'string') return JSON.parse(reply)
    if (reply) throw this.#error(reply, given)
    const cancel = () => this.#engine.cancel(id)
    return JSON.parse(await this.#settled(id, given, signal, cancel))
  }

  /** Opens a native stream. A failure to open it is what the first read gives. */
  #open<T>(call: NativeStream, given: unknown, signal: AbortSignal | undefined): JsonIterator<T> {
    const open = () => {
      signal?.throwIfAborted()
      const stream = call(this.#engine)
      if (stream instanceof native.JsonStream) return stream
      throw this.#error(stream, given)
    }
    return new JsonIterator<T>(open, (stream) => this.#read(stream, given, signal), signal)
  }

  /** Reads what a stream has, as the JSON text of a list; an empty text is the end. */
  async #read(stream: native.JsonStream, given: unknown, signal: AbortSignal | undefined): Promise<string> {
    signal?.throwIfAborted()
    const id = this.#id()
    const reply = stream.next(id)
    if (typeof reply === 'string') return reply
    if (reply) throw this.#error(reply, given)
    return this.#settled(id, given, signal, () => stream.close())
  }

  /** Waits for the native side to settle `id`, or for the signal, which cancels. */
  #settled(id: number, given: unknown, signal: AbortSignal | undefined, cancel: () => void): Promise<string> {
    const settled = new Promise<string>((resolve, reject) => {
      this.#waiters.set(id, { resolve, reject, given })
      if (this.#waiters.size === 1) {
        owing.add(this)
        vigil = vigil?.ref() ?? setInterval(() => {}, NEVER_MS)
      }
    })
    return signal ? abortable(signal, settled, (reason) => {
      cancel()
      this.#take(id)?.reject(reason)
    }) : settled
  }

  #take(id: number): Waiter | undefined {
    const waiter = this.#waiters.get(id)
    if (waiter && this.#waiters.delete(id) && this.#waiters.size === 0) {
      owing.delete(this)
      if (owing.size === 0) vigil?.unref()
    }
    return waiter
  }

  #deliver(batch: Message[]): void {
    for (const { ask, id, target, text, failure } of batch) {
      switch (ask) {
        case native.Ask.Settle: {
          const waiter = this.#take(id)
          if (failure) waiter?.reject(this.#error(failure, waiter.given))
          else waiter?.resolve(text ?? '')
          break
        }
        case native.Ask.Invoke:
          void this.#invoke(id, target ?? 0, text ?? '[]')
          break
        case native.Ask.Abandon:
          this.#invocations.get(id)?.abort()
          this.#invocations.delete(id)
          break
        case native.Ask.Forget:
          this.#functions.delete(id)
          break
        case native.Ask.Release:
          this.#thrown.delete(id)
          break
      }
    }
  }

  /** Calls a function for the native side, and tells it the outcome. */
  async #invoke(id: number, target: number, text: string): Promise<void> {
    const abort = new AbortController()
    this.#invocations.set(id, abort)
    try {
      const { operation = '', callback } = this.#functions.get(target) ?? {}
      const value = await callback?.(...JSON.parse(text), abort.signal)
      this.#engine.answer(id, write(operation, value, invalidInput, 'result'))
    } catch (thrown) {
      const kept = this.#id()
      this.#thrown.set(kept, thrown)
      this.#engine.refuse(id, codeOf(thrown), messageOf(thrown), kept)
    } finally {
      this.#invocations.delete(id)
    }
  }

  /** Builds the error of a failure, or finds the value that a callback threw. */
  #error(failure: native.Failure, given: unknown): unknown {
    const { thrown } = failure
    return thrown != null && this.#thrown.has(thrown) ? this.#thrown.get(thrown) : toError(failure, given)
  }

  #id(): number {
    // Numbers are 32 bits on the native side: one is used again only after four thousand million calls.
    this.#last = (this.#last + 1) >>> 0
    return this.#last
  }
}

/** Whether a scope is what it seems, so that nothing in it is passed over. */
function isPlain(scope: Scope | null | undefined): boolean {
  for (const part in scope) {
    if (part !== 'tenant' && part !== 'user' && part !== 'session' && part !== 'agent') return false
    const value = scope[part]
    if (value != null && typeof value !== 'string') return false
  }
  return scope == null || typeof scope === 'object'
}

/** Who asks the HTTP surface for what. `rawHeaders` are names and values in turn. */
export interface Asked {
  /** Path and query. */
  target: string
  rawHeaders: string[]
  /** The address of the other end; none is a Unix socket. */
  client: string | undefined
}

/** The head of an HTTP answer. */
export interface Head {
  status: number
  headers: [name: string, value: string][]
}

type NativeStream = (engine: native.Engine) => native.JsonStream | native.Failure

type NativeCall = (engine: native.Engine, id: number, text: string) => native.Reply

/** Rejects with the signal's reason when it aborts first, after `abort` was called; leaves no listener behind. */
export function abortable<T>(signal: AbortSignal, running: Promise<T>, abort: (reason: unknown) => void): Promise<T> {
  const listener = () => abort(signal.reason)
  signal.addEventListener('abort', listener, { once: true })
  return running.finally(() => signal.removeEventListener('abort', listener))
}

/** The items of a native stream. Leaving a `for await` loop closes it. */
export class JsonIterator<T> implements AsyncIterableIterator<T> {
  #stream: native.JsonStream | undefined
  #failure: { reason: unknown } | undefined
  #items: T[] = []
  readonly #read: (stream: native.JsonStream) => Promise<string>
  readonly #signal: AbortSignal | undefined
  readonly #abort: () => void

  constructor(
    open: () => native.JsonStream,
    read: (stream: native.JsonStream) => Promise<string>,
    signal: AbortSignal | undefined,
  ) {
    this.#read = read
    this.#signal = signal
    // Weak: a signal may live for long, and a stream that is forgotten is closed.
    const self = new WeakRef(this)
    this.#abort = () => {
      const stream = self.deref()
      if (stream) stream.#fail(signal?.reason)
    }
    try {
      this.#stream = open()
      signal?.addEventListener('abort', this.#abort, { once: true })
    } catch (reason) {
      this.#failure = { reason }
    }
  }

  /** Reads the next item. */
  async next(): Promise<IteratorResult<T, undefined>> {
    const failure = this.#failure
    if (failure) {
      this.#failure = undefined
      throw failure.reason
    }
    if (this.#items.length === 0 && this.#stream) {
      try {
        const text = await this.#read(this.#stream)
        if (text === '') this.#close()
        else this.#items = this.#items.concat(JSON.parse(text))
      } catch (reason) {
        this.#failure = undefined
        this.#close()
        throw this.#signal?.aborted ? this.#signal.reason : reason
      }
    }
    const value = this.#items.shift()
    return value === undefined ? { done: true, value: undefined } : { done: false, value }
  }

  /** Closes the stream and what feeds it. */
  async return(): Promise<IteratorResult<T, undefined>> {
    this.#failure = undefined
    this.#close()
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }

  #fail(reason: unknown): void {
    this.#failure = { reason }
    this.#close()
  }

  #close(): void {
    this.#signal?.removeEventListener('abort', this.#abort)
    this.#stream?.close()
    this.#stream = undefined
    this.#items = []
  }
}

/** Traces of what JSON changes: of numbers that are not finite and of functions, half of a pair, a `Map`, an array of bytes. */
const CHANGED = ['null', '\\ud', '{}', '{"0":']

/** Writes the arguments of an operation. A duration under the engine's own name would be taken for seconds. */
function writeArguments(operation: string, given: object): string {
  for (const [name, value] of Object.entries(given)) {
    if (typeof value !== 'number' || !DURATIONS.has(camel(name))) continue
    throw invalidInput(operation, name, `is told in milliseconds: write \`${camel(name)}Ms\``)
  }
  return write(operation, given)
}

/**
 * Writes arguments, a configuration, or what a function gave as JSON text; what is not defined is null. Refuses what JSON would
 * change on the way, and names the field; `whole` names all of it.
 */
export function write(operation: string, given: unknown, refuse: Refuse = invalidInput, whole = 'arguments'): string {
  let text: string
  try {
    text = JSON.stringify(given) ?? 'null'
  } catch (cause) {
    // What holds itself has no end to look for.
    if (messageOf(cause).includes('BigInt')) check(given, '', (path, problem) => refuse(operation, path || whole, problem))
    throw refuse(operation, whole, `cannot be written as JSON: ${messageOf(cause)}`, cause)
  }
  if (CHANGED.some((trace) => text.includes(trace))) check(given, '', (path, problem) => refuse(operation, path || whole, problem))
  return text
}

function check(value: unknown, path: string, refuse: (path: string, problem: string) => SophiaError): void {
  if (typeof value === 'number') {
    if (!Number.isFinite(value)) throw refuse(path, `must be a finite number, not ${value}`)
  } else if (typeof value === 'string') {
    if (!isWellFormed(value)) throw refuse(path, 'holds half of a surrogate pair, which is not text')
  } else if (typeof value === 'bigint') {
    throw refuse(path, 'is a BigInt, which JSON cannot say: give a number, or text')
  } else if (isCode(value)) {
    throw refuse(path, `is a ${typeof value}, which JSON cannot say`)
  } else if (Array.isArray(value)) {
    value.forEach((item, index) => check(item, `${path}[${index}]`, refuse))
  } else if (value instanceof Date) {
    if (Number.isNaN(value.getTime())) throw refuse(path, 'must be a valid date')
  } else if (typeof value === 'object' && value !== null && !('toJSON' in value)) {
    const fields = Object.entries(value)
    if (ArrayBuffer.isView(value) || (fields.length === 0 && !isRecord(value))) {
      throw refuse(path, `is of type ${value.constructor?.name}, which JSON cannot say: give an array or an object`)
    }
    for (const [name, item] of fields) {
      if (isCode(item)) continue
      const inner = path === '' ? name : `${path}.${name}`
      check(name, inner, refuse)
      check(item, inner, refuse)
    }
  }
}

/** Whether JSON leaves a value out where it is a field, as what is undefined, and makes it null elsewhere. */
export function isCode(value: unknown): boolean {
  return typeof value === 'function' || typeof value === 'symbol'
}

/** Whether an object is of no class: of any realm, for there is more than one `Object`. */
function isRecord(value: object): boolean {
  const prototype = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}

function isWellFormed(text: string): boolean {
  return !/[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/.test(text)
}

function codeOf(thrown: unknown): string | undefined {
  if (thrown instanceof SophiaError) return thrown.code
  const name = thrown instanceof Error ? thrown.name : undefined
  return name === 'AbortError' ? 'CANCELLED' : name === 'TimeoutError' ? 'TIMEOUT' : undefined
}

function messageOf(thrown: unknown): string {
  try {
    return thrown instanceof Error ? thrown.message : String(thrown)
  } catch {
    return 'a value that cannot be shown was thrown'
  }
}
