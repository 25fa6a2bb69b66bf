/** Cached chat: one client for every provider, and the same protection for any function of one's own. */

import type {
  CacheMode,
  ChatChunk,
  ChatMetrics,
  ChatRequest,
  ChatResponse,
  CacheInfo,
  Embeddings,
  Invalidate,
  Message,
  Model,
  RunOptions,
  Share,
} from './types.js'
import type { Bridge, CallOptions, JsonIterator } from './wire.js'

export type { CacheMode, Share }

/** How to ask. `providerFields` are passed to the provider verbatim, under its own names: `{ top_p: 0.5 }`. */
export type ChatOptions = Omit<ChatRequest, 'prompt' | 'messages'> & CallOptions

/** How to run a producer, and how its value is kept. */
export interface RunProducerOptions<T> extends Omit<RunOptions, 'message'>, CallOptions {
  /** Returns the text by which rules choose how long the value is kept. */
  text?: (value: T) => string | null | undefined
  /** Whether the value may be kept: yes by default. */
  cacheable?: boolean | ((value: T) => boolean)
}

/** A value, and how the caller came by it. */
export interface RunResult<T> {
  /** The value, as JSON gives it back. */
  value: T
  /** How it relates to the cache. */
  cache: CacheInfo
  /** How long this call took, in milliseconds. */
  latencyMs: number
}

/** Asks models, and keeps what they answer. */
export class Chat {
  readonly #bridge: Bridge

  /** @internal */
  constructor(bridge: Bridge) {
    this.#bridge = bridge
  }

  /** Answers a question: from the cache, from a call that is under way, or from a provider. */
  complete(prompt: string | readonly Message[], options?: ChatOptions): Promise<ChatResponse> {
    return this.#bridge.call('chat.complete', asked(prompt), options)
  }

  /** Answers a question in parts, as they come. Leaving the loop closes the call to the provider. */
  stream(prompt: string | readonly Message[], options?: ChatOptions): JsonIterator<ChatChunk> {
    return this.#bridge.stream('chat.stream', asked(prompt), options)
  }

  /**
   * Gives the value of `producer` for `message` and scope: from the cache, from a run that is under way, or from a run of its
   * own. What the producer throws reaches everyone who waits. Its signal aborts when nobody waits any more.
   */
  run<T>(
    message: string,
    producer: (context: { signal: AbortSignal }) => T | PromiseLike<T>,
    options: RunProducerOptions<T> = {},
  ): Promise<RunResult<T>> {
    const { text, cacheable, signal, ...rest } = options
    const kept = this.#bridge.keep(async (signal: AbortSignal) => {
      const value = await producer({ signal })
      return {
        value,
        text: text?.(value),
        cacheable: typeof cacheable === 'function' ? Boolean(cacheable(value)) : cacheable,
      }
    })
    return this.#bridge.run('chat.run', { ...rest, message }, { signal }, (engine, id, text) => engine.run(id, text, kept))
  }

  /** Turns texts into vectors. */
  embed(texts: readonly string[], options?: { model?: string | null } & CallOptions): Promise<Embeddings> {
    return this.#bridge.call('chat.embed', { texts }, options)
  }

  /** Lists the models of all providers. */
  models(options?: CallOptions): Promise<Model[]> {
    return this.#bridge.call('chat.models', {}, options)
  }

  /** Returns the context that the words of a message speak for. */
  classify(message: string): string {
    return this.#bridge.callSync('chat.classify', { message })
  }

  /** Returns the key that the answer to a request is kept under. */
  cacheKey(prompt: string | readonly Message[], options?: Omit<ChatOptions, 'signal'>): string {
    return this.#bridge.callSync('chat.cache_key', asked(prompt), options)
  }

  /** Returns how long an answer is kept, in seconds. */
  ttlFor(context: string, text = ''): number {
    return this.#bridge.callSync('chat.ttl_for', { context, text })
  }

  /** Removes kept answers, and returns how many. */
  invalidate(options: Invalidate & CallOptions): Promise<number> {
    return this.#bridge.call('chat.invalidate', {}, options)
  }

  /** Returns what chat measured. */
  metrics(): ChatMetrics {
    return this.#bridge.callSync('chat.metrics', {})
  }
}

function asked(prompt: string | readonly Message[]): { prompt: string } | { messages: readonly Message[] } {
  return typeof prompt === 'string' ? { prompt } : { messages: prompt }
}
