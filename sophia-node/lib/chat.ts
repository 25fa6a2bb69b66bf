/** Cached chat: one client for every provider, and the same protection for any function of one's own. */

import { AsyncLocalStorage, AsyncResource } from 'node:async_hooks'
import type {
  CacheMode,
  ChatChunk,
  ChatMetrics,
  ChatRequest,
  ChatResponse,
  CacheInfo,
  CostQuery,
  Costs,
  EmbedCall,
  Embeddings,
  Invalidate,
  LimitStatus,
  Message,
  Model,
  RunOptions,
  Scope,
  SemanticReport,
  SemanticVerdict,
  Share,
} from './types.js'
import { invalidInput } from './errors.js'
import { traced } from './tracing.js'
import { isCode, write, type Bridge, type CallOptions, type JsonIterator } from './wire.js'

export type { CacheMode, Share }

/** A function that is called when the model asks for it. */
export interface FunctionTool {
  name: string
  description?: string
  /** JSON Schema of its arguments. */
  parameters?: object
  /** What it returns is shown to the model: text as it is, anything else as JSON. What it throws is told to the model. */
  run(args: any, context: { scope: Scope; signal: AbortSignal }): unknown
}

/** A tool as the provider takes it, a function that is called here, or all tools of the registry. */
export type Tool = object | FunctionTool | 'registry'

/** How to ask. `providerFields` are passed to the provider verbatim, under its own names: `{ top_p: 0.5 }`. */
export type ChatOptions = Omit<ChatRequest, 'prompt' | 'messages' | 'tools'> & { tools?: 'registry' | readonly Tool[] | null } & CallOptions

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

/** The producers of `run` that stand around what is done: a run inside of them must not wait for them, nor for their permits. */
const standing = new AsyncLocalStorage<readonly string[]>()

/** Asks models, and keeps what they answer. */
export class Chat {
  readonly #bridge: Bridge

  /** @internal */
  constructor(bridge: Bridge) {
    this.#bridge = bridge
  }

  /** Answers a question: from the cache, from a call that is under way, or from a provider. */
  complete(prompt: string | readonly Message[], options?: ChatOptions): Promise<ChatResponse> {
    const own = functionsOf(options)
    if (own === undefined) return this.#bridge.call('chat.complete', asked(prompt), { ...traced(), ...options })
    const { signal, ...rest } = own.options
    return this.#bridge.run('chat.complete', { ...traced(), ...rest, ...asked(prompt) }, { signal }, (engine, id, text) =>
      engine.completeWith(id, text, write('chat.complete', own.definitions), this.#bridge.keep('chat.complete', own.answer)),
    )
  }

  /** Answers a question in parts, as they come. Leaving the loop closes the call to the provider. */
  stream(prompt: string | readonly Message[], options?: ChatOptions): JsonIterator<ChatChunk> {
    const own = functionsOf(options)
    if (own === undefined) return this.#bridge.stream('chat.stream', asked(prompt), { ...traced(), ...options })
    return this.#bridge.streamWith(asked(prompt), { ...traced(), ...own.options }, own.definitions, own.answer)
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
    const produce = async (around: readonly string[], signal: AbortSignal) => {
      const value = await standing.run(around, () => producer({ signal }))
      // As a field it would be left out.
      if (isCode(value)) throw invalidInput('chat.run', 'value', `is a ${typeof value}, which JSON cannot say`)
      return {
        value,
        text: text?.(value),
        cacheable: typeof cacheable === 'function' ? Boolean(cacheable(value)) : cacheable,
      }
    }
    const around = standing.getStore()
    return this.#bridge.run('chat.run', { ...traced(), ...rest, message, around }, { signal }, (engine, id, text) =>
      engine.run(id, text, this.#bridge.keep('chat.run', produce)),
    )
  }

  /** Turns texts into vectors. The limits of `scope` are kept, and what it costs is written down there. */
  embed(texts: readonly string[], options?: Omit<EmbedCall, 'texts'> & CallOptions): Promise<Embeddings> {
    return this.#bridge.call('chat.embed', { texts }, { ...traced(), ...options })
  }

  /** Lists the models of all providers. */
  models(options?: CallOptions): Promise<Model[]> {
    return this.#bridge.call('chat.models', {}, options)
  }

  /** Returns the context that the words of a message speak for. */
  classify(message: string): string {
    return this.#bridge.callSync('chat.classify', { message })
  }

  /** Returns the key that the answer to a request is kept under; with functions among `tools`, that of one that calls none. */
  cacheKey(prompt: string | readonly Message[], options?: Omit<ChatOptions, 'signal'>): string {
    const own = functionsOf(options)
    const tools = own && { tools: [...own.options.tools, ...own.definitions] }
    return this.#bridge.callSync('chat.cache_key', asked(prompt), { ...options, ...tools })
  }

  /** Returns how long an answer is kept, in seconds. */
  ttlFor(context: string, text = ''): number {
    return this.#bridge.callSync('chat.ttl_for', { context, text })
  }

  /** Removes kept answers, and returns how many. */
  invalidate(options: Invalidate & CallOptions): Promise<number> {
    return this.#bridge.call('chat.invalidate', {}, options)
  }

  /** Returns what calls cost and what kept answers saved, in all processes that share Redis or else a `dataDir`; of everyone, where no scope is given. */
  costs(options?: CostQuery & CallOptions): Promise<Costs> {
    return this.#bridge.call('chat.costs', {}, options)
  }

  /** Returns the limits that concern a scope, and how much of each is used. */
  budget(scope?: Scope | null, options?: CallOptions): Promise<LimitStatus[]> {
    return this.#bridge.call('chat.budget', { scope }, options)
  }

  /**
   * Tells what a user says of an answer that was kept for another question; returns whether it is known. `key` is the
   * `cache.key` of a response whose `cache.status` is `semantic_hit`. Each hit counts once; an answer that was wrong once
   * serves no other question any more.
   */
  semanticFeedback(key: string, verdict: SemanticVerdict, options?: { scope?: Scope | null }): boolean {
    return this.#bridge.callSync('chat.semantic_feedback', { key, verdict }, options)
  }

  /** Returns what the semantic tier did, or would have done. No text of any question is in it. */
  semanticReport(): SemanticReport {
    return this.#bridge.callSync('chat.semantic_report', {})
  }

  /** Returns what chat measured. */
  metrics(): ChatMetrics {
    return this.#bridge.callSync('chat.metrics', {})
  }
}

/** Parts functions that are called here from the tools that the engine is told as they are. */
function functionsOf(options: ChatOptions | undefined) {
  const tools = options?.tools
  if (!Array.isArray(tools)) return undefined
  const isFunction = (tool: Tool): tool is FunctionTool => typeof tool === 'object' && tool !== null && 'run' in tool
  const functions = tools.filter(isFunction)
  if (functions.length === 0) return undefined
  const definitions = functions.map(({ name, description, parameters }) => ({
    type: 'function',
    function: { name, description, parameters: parameters ?? { type: 'object' } },
  }))
  const named = new Map(functions.map((tool) => [tool.name, tool]))
  // Bound to where it was given, as far as producers stand around it.
  const answer = AsyncResource.bind((asked: { tool: string; arguments: object; scope: Scope }, signal: AbortSignal) =>
    named.get(asked.tool)?.run(asked.arguments, { scope: asked.scope, signal }),
  )
  return { options: { ...options, tools: tools.filter((tool) => !isFunction(tool)) }, definitions, answer }
}

function asked(prompt: string | readonly Message[]): { prompt: string } | { messages: readonly Message[] } {
  return typeof prompt === 'string' ? { prompt } : { messages: prompt }
}
