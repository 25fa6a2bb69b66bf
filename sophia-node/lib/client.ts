/**
 * The HTTP surface of Sophia for browsers (and anything else with `fetch` and `WebSocket`): no native code, no dependencies.
 *
 * ```js
 * import { SophiaClient } from 'sophia-ai/client'
 *
 * const client = new SophiaClient()
 * const health = await client.unifiedHealth()
 * const stop = client.live((message) => show(message.data), { onState: (state) => showConnection(state) })
 * ```
 */

/** How to reach the surface. */
export interface ClientOptions {
  /** Where it is; that of the page by default. */
  baseUrl?: string | URL
  /** Sent as `Authorization: Bearer …` with every request, and as a subprotocol with a WebSocket. */
  token?: string
  /** Used in place of the global one. */
  fetch?: typeof fetch
  /** Used in place of the global one, which Node has from 22 on. */
  WebSocket?: typeof WebSocket
}

/** What the WebSockets send. */
export interface LiveMessage<T = unknown> {
  /** What it is, such as `unified_health`. */
  type: string
  data: T
  /** RFC 3339, UTC. */
  timestamp: string
}

/** Whether live messages arrive: `waiting` is the time before another try. */
export type LiveState = 'connecting' | 'open' | 'waiting' | 'closed'

/** How to listen. */
export interface LiveOptions {
  /** Which WebSocket; `/ws/unified-health` by default. */
  path?: string
  /** Told of every change of the connection. */
  onState?: (state: LiveState) => void
  /** Ends it, as the returned function does. */
  signal?: AbortSignal
}

/** How to ask. */
export interface RequestOptions {
  method?: string
  /** Sent as JSON. */
  body?: unknown
  signal?: AbortSignal
}

/** A request that the surface refused, or that did not reach it (`status` 0). */
export class ClientError extends Error {
  override readonly name = 'ClientError'

  constructor(
    message: string,
    /** HTTP status. */
    readonly status: number,
    /** Stable code, such as `NOT_FOUND`; null where there is none. */
    readonly code: string | null,
    options?: ErrorOptions,
  ) {
    super(message, options)
  }
}

/** First and longest delay before another try, in milliseconds; each is about twice the one before. */
const FIRST_DELAY_MS = 500
const MAX_DELAY_MS = 30_000
/** The server sends at least every 30 s: a connection that is silent for longer than twice that is dead. */
const SILENCE_MS = 75_000

/** A client of the HTTP surface. */
export class SophiaClient {
  readonly #base: URL
  readonly #options: ClientOptions

  constructor(options: ClientOptions = {}) {
    const page = (globalThis as { location?: { href: string } }).location?.href
    this.#base = new URL(options.baseUrl ?? '/', page)
    this.#options = options
  }

  /** Returns infrastructure, AI memory, deployment and business in one report. */
  unifiedHealth<T = Record<string, unknown>>(options?: { signal?: AbortSignal }): Promise<T> {
    return this.request('/api/v1/unified-health', options)
  }

  /** Asks anything of the surface, as JSON. */
  async request<T = unknown>(path: string, { method = 'GET', body, signal }: RequestOptions = {}): Promise<T> {
    const headers: Record<string, string> = { accept: 'application/json' }
    if (this.#options.token) headers['authorization'] = `Bearer ${this.#options.token}`
    if (body !== undefined) headers['content-type'] = 'application/json'
    const ask = this.#options.fetch ?? fetch
    let response: Response
    try {
      response = await ask(this.#url(path), {
        method,
        headers,
        body: body === undefined ? null : JSON.stringify(body),
        signal: signal ?? null,
      })
    } catch (cause) {
      if (signal?.aborted) throw signal.reason
      throw new ClientError(`${path} cannot be reached`, 0, null, { cause })
    }
    const text = await response.text()
    const json = parse(text)
    if (response.ok) return (json === undefined ? text : json) as T
    const error = (json as { error?: { message?: string; code?: string } } | undefined)?.error
    throw new ClientError(error?.message ?? `${path} answered ${response.status}`, response.status, error?.code ?? null)
  }

  /**
   * Listens to live messages, and connects again with growing delays when the connection is lost.
   * Returns the function that ends it.
   */
  live<T = unknown>(onMessage: (message: LiveMessage<T>) => void, options: LiveOptions = {}): () => void {
    const { path = '/ws/unified-health', onState, signal } = options
    const Socket = this.#options.WebSocket ?? (globalThis as { WebSocket?: typeof WebSocket }).WebSocket
    if (!Socket) throw new TypeError('this runtime has no WebSocket, as Node before 22: give the option `WebSocket`, such as that of the package ws')
    const { token } = this.#options
    // A browser can send no header with it.
    const protocols = token === undefined ? [] : ['sophia.v1', `sophia.key.${encoded(token)}`]
    const url = this.#url(path)
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:'
    let socket: WebSocket | undefined
    let timer: ReturnType<typeof setTimeout> | undefined
    let failures = 0
    let ended = false

    const listenForSilence = () => {
      clearTimeout(timer)
      timer = setTimeout(() => socket?.close(), SILENCE_MS)
    }
    const connect = () => {
      onState?.('connecting')
      const current = new Socket(url, protocols)
      socket = current
      current.onopen = () => {
        onState?.('open')
        listenForSilence()
      }
      current.onmessage = (event) => {
        failures = 0
        listenForSilence()
        const message = parse(String(event.data))
        if (message !== undefined) onMessage(message as LiveMessage<T>)
      }
      current.onclose = () => {
        clearTimeout(timer)
        if (ended) return
        onState?.('waiting')
        timer = setTimeout(connect, delay(failures++))
      }
    }
    const end = () => {
      if (ended) return
      ended = true
      clearTimeout(timer)
      signal?.removeEventListener('abort', end)
      socket?.close()
      onState?.('closed')
    }
    signal?.addEventListener('abort', end, { once: true })
    if (signal?.aborted) end()
    else connect()
    return end
  }

  #url(path: string): URL {
    const base = this.#base.href.endsWith('/') ? this.#base.href : `${this.#base.href}/`
    return new URL(path.replace(/^\//, ''), base)
  }
}

/** Between half and all of the full delay, so that those who lost a server together do not come back together. */
function delay(failures: number): number {
  const full = Math.min(MAX_DELAY_MS, FIRST_DELAY_MS * 2 ** failures)
  return full * (0.5 + Math.random() / 2)
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** Writes a key with the characters that a subprotocol may have. */
function encoded(key: string): string {
  return encodeURIComponent(key).replace(/[()]/g, (character) => (character === '(' ? '%28' : '%29'))
}
