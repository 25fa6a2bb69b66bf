/**
 * Gives models of the AI SDK (`ai` 6) the cache, the single flight, the limits and the scopes of an engine.
 *
 * ```ts
 * import { generateText, wrapLanguageModel } from 'ai'
 * import { sophiaMiddleware } from 'sophia-ai/ai-sdk'
 *
 * const model = wrapLanguageModel({ model: openai('gpt-5'), middleware: sophiaMiddleware(sophia, { scope: ada }) })
 * const { text, providerMetadata } = await generateText({ model, prompt: 'What is our churn?' })
 * providerMetadata.sophia.cache.status // 'miss', 'hit', 'coalesced', …
 * ```
 */

import { createHash } from 'node:crypto'
import type {
  LanguageModelV3,
  LanguageModelV3CallOptions,
  LanguageModelV3Content,
  LanguageModelV3GenerateResult,
  LanguageModelV3Middleware,
  LanguageModelV3StreamPart,
  LanguageModelV3StreamResult,
  SharedV3ProviderMetadata,
} from '@ai-sdk/provider'
import type { RunProducerOptions, RunResult } from './chat.js'
import type { Sophia } from './index.js'

/** How answers are asked for and kept. One call says otherwise under `providerOptions.sophia`. */
export interface SophiaMiddlewareOptions extends Omit<RunProducerOptions<string>, 'text' | 'cacheable' | 'signal'> {
  /** Whether answers that call tools are kept, too: no by default. */
  toolCalls?: boolean
}

/** Name of what concerns this middleware in `providerOptions` and `providerMetadata`. */
const NAME = 'sophia'

/** An answer as it is kept: what came with the one call for it alone, such as its headers, is not. */
type Kept = Pick<LanguageModelV3GenerateResult, 'content' | 'finishReason' | 'usage' | 'providerMetadata' | 'warnings'> & {
  response?: { id?: string | undefined; modelId?: string | undefined; timestamp?: string | undefined }
}

/**
 * Returns a middleware for `wrapLanguageModel`. Whole answers and streams share what is kept; the same question asked at the
 * same time is one call; an answer that was cut off, filtered, empty or broken is given and never kept.
 */
export function sophiaMiddleware(sophia: Sophia, options: SophiaMiddlewareOptions = {}): LanguageModelV3Middleware {
  const run = (model: LanguageModelV3, params: LanguageModelV3CallOptions, make: Make, signal?: AbortSignal) => {
    const { toolCalls, ...own } = { ...options, ...params.providerOptions?.[NAME] } as SophiaMiddlewareOptions
    let made: Kept
    const produce = async ({ signal }: { signal: AbortSignal }) => JSON.stringify((made = await make(signal)))
    return sophia.chat.run(nameOf(model, params), produce, {
      context: 'default',
      ...own,
      text: () => textOf(made),
      cacheable: () => isWhole(made, toolCalls ?? false),
      ...(signal && { signal }),
    })
  }
  return {
    specificationVersion: 'v3',

    async wrapGenerate({ model, params }) {
      let own: LanguageModelV3GenerateResult | undefined
      let thrown: { error: unknown } | undefined
      const make = async (signal: AbortSignal) => {
        try {
          // Not with the caller's own signal: others may wait for the same.
          own = await model.doGenerate({ ...bare(params), abortSignal: signal })
          return kept(own)
        } catch (error) {
          // What is thrown at an abort is told by what aborted: the caller, or the deadline.
          if (!signal.aborted) thrown = { error }
          throw error
        }
      }
      const answer = await run(model, params, make, params.abortSignal).catch((error) => Promise.reject(thrown ? thrown.error : error))
      return { ...(own ?? revived(answer)), providerMetadata: told(own ?? revived(answer), answer) }
    },

    async wrapStream({ model, params }) {
      const left = new AbortController()
      const signal = params.abortSignal ? AbortSignal.any([params.abortSignal, left.signal]) : left.signal
      const live = new Live(() => left.abort())
      const make = async (signal: AbortSignal) => {
        try {
          const result = await model.doStream({ ...bare(params), abortSignal: signal })
          live.begin(result)
          const parts: LanguageModelV3StreamPart[] = []
          let broken: { error: unknown } | undefined
          for await (const part of iterate(result.stream, signal)) {
            parts.push(part)
            if (part.type === 'error') broken ??= part
            if (part.type !== 'finish' || broken) live.give(part)
          }
          if (broken) throw broken.error
          return collected(parts)
        } catch (error) {
          if (!signal.aborted) live.fail(error)
          throw error
        }
      }
      const answer = run(model, params, make, signal)
      answer.then((answer) => live.end(answer), (error) => live.fail(error))
      return await Promise.race([live.begun, answer.then(replayed)])
    },
  }
}

type Make = (signal: AbortSignal) => Promise<Kept>

/** What this caller's own call gives, as it comes. */
class Live {
  readonly begun: Promise<LanguageModelV3StreamResult>
  #begin!: (result: LanguageModelV3StreamResult) => void
  #refuse!: (error: unknown) => void
  #parts!: ReadableStreamDefaultController<LanguageModelV3StreamPart>
  #hasBegun = false
  #hasEnded = false
  #isAwaited = false
  #isBroken = false
  #failure: { error: unknown } | undefined
  readonly #stream: ReadableStream<LanguageModelV3StreamPart>

  constructor(leave: () => void) {
    this.begun = new Promise((resolve, reject) => ([this.#begin, this.#refuse] = [resolve, reject]))
    // Nobody may be waiting for it: another caller's call may be the one.
    this.begun.catch(() => {})
    const start = (parts: ReadableStreamDefaultController<LanguageModelV3StreamPart>) => void (this.#parts = parts)
    const cancel = () => {
      this.#hasEnded = true
      leave()
    }
    const pull = () => {
      this.#isAwaited = true
      if (this.#failure) this.#parts.error(this.#failure.error)
    }
    // Nothing is asked for ahead: a failure would cost what was given before it and is not read yet.
    this.#stream = new ReadableStream({ start, pull, cancel }, { highWaterMark: 0 })
  }

  begin(result: LanguageModelV3StreamResult): void {
    this.#hasBegun = true
    this.#begin({ ...result, stream: this.#stream })
  }

  give(part: LanguageModelV3StreamPart): void {
    if (this.#hasEnded) return
    this.#isAwaited = false
    this.#isBroken ||= part.type === 'error'
    this.#parts.enqueue(part)
  }

  /** Gives the last part, which says how the answer was come by. */
  end(answer: RunResult<string>): void {
    if (!this.#hasBegun || this.#hasEnded) return
    const { usage, finishReason, ...whole } = read(answer)
    this.give({ type: 'finish', usage, finishReason, providerMetadata: told(whole, answer) })
    this.#close()
  }

  /** Breaks the stream, after what was given; one that told an error as a part only ends. */
  fail(error: unknown): void {
    this.#refuse(error)
    if (!this.#hasBegun || this.#hasEnded) return
    if (this.#isBroken) return this.#close()
    this.#hasEnded = true
    this.#failure = { error }
    if (this.#isAwaited) this.#parts.error(error)
  }

  #close(): void {
    this.#hasEnded = true
    this.#parts.close()
  }
}

/** Names a question: the model and all that it is asked with, whatever the order of its fields. */
function nameOf(model: LanguageModelV3, params: LanguageModelV3CallOptions): string {
  const { abortSignal, includeRawChunks, headers, ...asked } = bare(params)
  // The SDK names itself in some calls and not in others.
  const own = Object.entries(headers ?? {}).filter(([name]) => name.toLowerCase() !== 'user-agent')
  const all = [model.provider, model.modelId, asked, Object.fromEntries(own)]
  const hash = createHash('sha256').update(JSON.stringify(plain(all)))
  return `ai-sdk:${hash.digest('hex')}`
}

/** Returns what the model is asked with: without what is meant for this middleware. */
function bare(params: LanguageModelV3CallOptions): LanguageModelV3CallOptions {
  if (!params.providerOptions || !(NAME in params.providerOptions)) return params
  const { [NAME]: _, ...others } = params.providerOptions
  return { ...params, providerOptions: Object.keys(others).length > 0 ? others : undefined }
}

/** Returns a value of which equal ones have equal JSON. */
function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return { bytes: createHash('sha256').update(value).digest('hex') }
  if (value instanceof URL || value instanceof RegExp) return { text: String(value) }
  if (value instanceof Date || value === null || typeof value !== 'object') return value
  if (Array.isArray(value)) return value.map(plain)
  const fields = Object.entries(value).filter(([, field]) => field !== undefined && typeof field !== 'function')
  return Object.fromEntries(fields.sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, field]) => [name, plain(field)]))
}

function isWhole({ finishReason, content }: Kept, toolCalls: boolean): boolean {
  const calls = content.some(({ type }) => type.startsWith('tool-'))
  if (calls) return toolCalls && ['stop', 'tool-calls'].includes(finishReason.unified)
  // An empty answer says nothing; the next try may.
  const says = content.some((part) => part.type === 'file' || (part.type === 'text' && part.text.trim() !== ''))
  return finishReason.unified === 'stop' && says
}

function textOf({ content }: Kept): string {
  return content.map((part) => (part.type === 'text' ? part.text : '')).join('')
}

function kept({ content, finishReason, usage, providerMetadata, warnings, response }: LanguageModelV3GenerateResult): Kept {
  const timestamp = response?.timestamp?.toISOString()
  return {
    content: content.map(encoded),
    finishReason,
    usage,
    warnings,
    ...(providerMetadata && { providerMetadata }),
    ...(response && { response: { id: response.id, modelId: response.modelId, timestamp } }),
  }
}

/** JSON holds no bytes: a file is kept in base64, which is its other form. */
function encoded(part: LanguageModelV3Content): LanguageModelV3Content {
  return part.type === 'file' && part.data instanceof Uint8Array ? { ...part, data: Buffer.from(part.data).toString('base64') } : part
}

function read(answer: RunResult<string>): Kept {
  return JSON.parse(answer.value)
}

function revived(answer: RunResult<string>): LanguageModelV3GenerateResult {
  const { response, ...rest } = read(answer)
  if (!response) return rest
  const { timestamp, id, modelId } = response
  return { ...rest, response: { ...(id && { id }), ...(modelId && { modelId }), ...(timestamp && { timestamp: new Date(timestamp) }) } }
}

/** Adds how the answer was come by to what the provider tells about it. */
function told({ providerMetadata }: { providerMetadata?: SharedV3ProviderMetadata }, { cache }: RunResult<string>): SharedV3ProviderMetadata {
  return { ...providerMetadata, [NAME]: { cache: { ...cache } } }
}

/** Makes a whole answer of the parts of a stream. */
function collected(parts: LanguageModelV3StreamPart[]): Kept {
  const content: LanguageModelV3Content[] = []
  const open = new Map<string, LanguageModelV3Content & { text: string }>()
  const whole: Partial<Kept> = {}
  for (const part of parts) {
    switch (part.type) {
      case 'stream-start':
        whole.warnings = part.warnings
        break
      case 'response-metadata':
        whole.response = { ...whole.response, id: part.id, modelId: part.modelId, timestamp: part.timestamp?.toISOString() }
        break
      case 'text-start':
      case 'reasoning-start': {
        const type = part.type === 'text-start' ? 'text' : 'reasoning'
        const block = { type, text: '', ...(part.providerMetadata && { providerMetadata: part.providerMetadata }) } as const
        open.set(`${type}:${part.id}`, block)
        content.push(block)
        break
      }
      case 'text-delta':
      case 'reasoning-delta':
      case 'text-end':
      case 'reasoning-end': {
        const block = open.get(`${part.type.split('-')[0]}:${part.id}`)
        if (block && 'delta' in part) block.text += part.delta
        // Signatures of reasoning come at its end.
        if (block && part.providerMetadata) block.providerMetadata = { ...block.providerMetadata, ...part.providerMetadata }
        break
      }
      case 'finish':
        Object.assign(whole, { usage: part.usage, finishReason: part.finishReason, providerMetadata: part.providerMetadata })
        break
      case 'tool-call':
      case 'tool-result':
      case 'tool-approval-request':
      case 'file':
      case 'source':
        content.push(encoded(part))
    }
  }
  if (!whole.finishReason || !whole.usage) throw new Error('the stream ended without its last part')
  return { warnings: [], ...whole, content, finishReason: whole.finishReason, usage: whole.usage }
}

/** Makes a stream of a whole answer. */
function replayed(answer: RunResult<string>): LanguageModelV3StreamResult {
  const { content, warnings, response, usage, finishReason, ...rest } = revived(answer)
  const parts: LanguageModelV3StreamPart[] = [{ type: 'stream-start', warnings }]
  if (response) parts.push({ type: 'response-metadata', ...response })
  content.forEach((part, index) => {
    const id = String(index)
    if (part.type === 'text' || part.type === 'reasoning') {
      const { type, text, providerMetadata } = part
      const told = providerMetadata && { providerMetadata }
      parts.push({ type: `${type}-start`, id }, { type: `${type}-delta`, id, delta: text }, { type: `${type}-end`, id, ...told })
      return
    }
    if (part.type === 'tool-call') {
      const { toolCallId: id, toolName, input } = part
      parts.push({ type: 'tool-input-start', id, toolName }, { type: 'tool-input-delta', id, delta: input }, { type: 'tool-input-end', id })
    }
    parts.push(part)
  })
  parts.push({ type: 'finish', usage, finishReason, providerMetadata: told(rest, answer) })
  const start = (controller: ReadableStreamDefaultController<LanguageModelV3StreamPart>) => {
    parts.forEach((part) => controller.enqueue(part))
    controller.close()
  }
  return { stream: new ReadableStream({ start }) }
}

/** Reads a stream; where that is left early, or aborted, the stream is closed. */
async function* iterate<T>(stream: ReadableStream<T>, signal: AbortSignal): AsyncGenerator<T> {
  const reader = stream.getReader()
  const close = () => void reader.cancel(signal.reason).catch(() => {})
  signal.addEventListener('abort', close, { once: true })
  if (signal.aborted) close()
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value
  } finally {
    signal.removeEventListener('abort', close)
    close()
  }
}
