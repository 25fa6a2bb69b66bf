// Models of the AI SDK behind the middleware: the real `ai` package, over a model of its own that counts.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { generateText, streamText, tool, wrapLanguageModel } from 'ai'
import { convertArrayToReadableStream, MockLanguageModelV3 } from 'ai/test'
import { z } from 'zod'
import { sophiaMiddleware } from '../dist/ai-sdk.js'
import { Sophia } from '../dist/index.js'

const ada = { tenant: 'acme', user: 'ada' }
const bob = { tenant: 'acme', user: 'bob' }
const usage = { inputTokens: { total: 3, noCache: 3, cacheRead: 0, cacheWrite: 0 }, outputTokens: { total: 4, text: 4, reasoning: 0 } }
const finish = (unified, providerMetadata) => ({ type: 'finish', usage, finishReason: { unified, raw: unified }, ...(providerMetadata && { providerMetadata }) })
const thinking = { signature: { value: 'c2ln' } }

/** A gate that opens once. */
function gate() {
  let open
  const opened = new Promise((resolve) => (open = resolve))
  return { open, opened }
}

/** An engine, and a model that says what it was asked; `how` may change its answer. */
function setup(t, how = {}) {
  const s = new Sophia()
  t.after(() => s.close())
  const counts = { generated: 0, streamed: 0, aborted: 0 }
  const asked = ({ prompt }) => prompt.at(-1).content[0].text
  const inner = new MockLanguageModelV3({
    provider: 'mock',
    modelId: 'small',
    doGenerate: async (params) => {
      counts.generated++
      counts.params = params
      params.abortSignal?.addEventListener('abort', () => counts.aborted++)
      await how.wait?.(params)
      if (how.error) throw how.error
      const text = { type: 'text', text: `You asked: ${asked(params)}` }
      return { content: how.content ?? [text], finishReason: { unified: how.finish ?? 'stop', raw: undefined }, usage, warnings: [], response: { id: 'r1', timestamp: new Date(0), modelId: 'small-1', headers: { x: 'y' } } }
    },
    doStream: async (params) => {
      counts.streamed++
      params.abortSignal?.addEventListener('abort', () => counts.aborted++)
      const parts = [
        { type: 'stream-start', warnings: [] },
        { type: 'response-metadata', id: 'r1', modelId: 'small-1', timestamp: new Date(0) },
        { type: 'reasoning-start', id: 'a' },
        { type: 'reasoning-delta', id: 'a', delta: 'Hm.' },
        { type: 'reasoning-end', id: 'a', providerMetadata: thinking },
        { type: 'text-start', id: 'b' },
        ...['You ', 'asked: ', asked(params)].map((delta) => ({ type: 'text-delta', id: 'b', delta })),
        { type: 'text-end', id: 'b' },
        ...(how.last ?? [finish('stop', { mock: { seen: true } })]),
      ]
      if (!how.wait) return { stream: convertArrayToReadableStream(parts) }
      const slow = async function* () {
        yield* parts.slice(0, 7)
        await how.wait(params)
        yield* parts.slice(7)
      }
      return { stream: ReadableStream.from(slow()) }
    },
  })
  const model = (options = { scope: ada }) => wrapLanguageModel({ model: inner, middleware: sophiaMiddleware(s, options) })
  const ask = (prompt, options, more) => generateText({ model: model(options), prompt, maxRetries: 0, ...more })
  const stream = (prompt, options, more) => streamText({ model: model(options), prompt, maxRetries: 0, onError: () => {}, ...more })
  return { s, counts, ask, stream, model }
}

const status = (result) => result.providerMetadata.sophia.cache.status

test('an answer is asked for once in its scope, whole or streamed', async (t) => {
  const { counts, ask, stream } = setup(t)
  const first = await ask('hello')
  assert.deepEqual([first.text, status(first), first.response.id, first.response.headers], ['You asked: hello', 'miss', 'r1', { x: 'y' }])
  const again = await ask('hello')
  assert.deepEqual([again.text, status(again), again.usage.inputTokens, again.response.timestamp], ['You asked: hello', 'hit', 3, new Date(0)])
  const streamed = stream('hello')
  assert.equal(await streamed.text, 'You asked: hello')
  assert.equal((await streamed.providerMetadata).sophia.cache.status, 'hit')
  assert.equal(status(await ask('hello', { scope: bob })), 'miss')
  assert.deepEqual([counts.generated, counts.streamed], [2, 0])
})

test('a stream comes as it is made, and is kept with its reasoning', async (t) => {
  const { open, opened } = gate()
  const { counts, ask, stream } = setup(t, { wait: () => opened })
  const first = stream('hello')
  const deltas = []
  for await (const delta of first.textStream) {
    deltas.push(delta)
    if (deltas.length === 1) open()
  }
  assert.deepEqual(deltas, ['You ', 'asked: ', 'hello'])
  assert.deepEqual([(await first.providerMetadata).mock, (await first.providerMetadata).sophia.cache.status], [{ seen: true }, 'miss'])
  const again = await ask('hello')
  assert.deepEqual([again.text, again.reasoningText, status(again)], ['You asked: hello', 'Hm.', 'hit'])
  assert.deepEqual(again.reasoning[0].providerMetadata, thinking)
  assert.deepEqual([counts.generated, counts.streamed], [0, 1])
})

test('fifty at once are one call, also where the first one leaves', async (t) => {
  const { open, opened } = gate()
  const { counts, ask, stream } = setup(t, { wait: () => opened })
  const leaving = new AbortController()
  const first = ask('hello', undefined, { abortSignal: leaving.signal })
  const others = Array.from({ length: 49 }, (_, index) => (index % 2 ? ask('hello') : stream('hello').text))
  await new Promise(setImmediate)
  leaving.abort()
  await assert.rejects(first, { name: 'AbortError' })
  open()
  const answers = await Promise.all(others)
  assert.ok(answers.every((answer) => (answer.text ?? answer) === 'You asked: hello'))
  assert.deepEqual([counts.generated + counts.streamed, counts.aborted], [1, 0])
})

test('when the last one leaves, the call is aborted', async (t) => {
  const never = () => new Promise(() => {})
  const { counts, ask, stream } = setup(t, { wait: never })
  const leaving = new AbortController()
  const asked = ask('hello', undefined, { abortSignal: leaving.signal })
  while (counts.generated === 0) await new Promise(setImmediate)
  leaving.abort()
  await assert.rejects(asked, { name: 'AbortError' })
  while (counts.aborted === 0) await new Promise(setImmediate)
  const other = new AbortController()
  for await (const part of stream('other', undefined, { abortSignal: other.signal }).fullStream) if (part.type === 'text-delta') other.abort()
  while (counts.aborted === 1) await new Promise(setImmediate)
})

test('what is cut off, broken or calls tools is given and not kept', async (t) => {
  const call = { type: 'tool-call', toolCallId: '1', toolName: 'look', input: '{"what":"x"}' }
  const tools = { look: tool({ inputSchema: z.object({ what: z.string() }) }) }
  for (const how of [{ finish: 'length' }, { finish: 'content-filter' }, { content: [], finish: 'stop' }, { content: [{ type: 'text', text: ' ' }] }, { content: [call], finish: 'tool-calls' }]) {
    const { counts, ask } = setup(t, how)
    for (const _ of [1, 2]) assert.equal(status(await ask('hello', undefined, { tools })), 'miss', JSON.stringify(how))
    assert.equal(counts.generated, 2)
  }
  const { counts, ask, stream } = setup(t, { content: [call], finish: 'tool-calls' })
  const options = { scope: ada, toolCalls: true }
  await ask('hello', options, { tools })
  assert.deepEqual((await ask('hello', options, { tools })).toolCalls[0].input, { what: 'x' })
  assert.deepEqual((await stream('hello', options, { tools }).toolCalls)[0].input, { what: 'x' })
  assert.deepEqual([counts.generated, counts.streamed], [1, 0])

  const boom = new Error('boom')
  const broken = setup(t, { last: [{ type: 'error', error: boom }] })
  for (const calls of [1, 2]) {
    const { kinds, error } = await read(broken.stream('hello'))
    assert.deepEqual([kinds.includes('text-delta'), error], [true, boom])
    assert.equal(broken.counts.streamed, calls)
  }
})

/** Reads all of a stream: the text that came, the kinds of its parts, and what it broke with. */
async function read(result) {
  const seen = { text: '', kinds: [], error: undefined }
  try {
    for await (const part of result.fullStream) {
      seen.kinds.push(part.type)
      if (part.type === 'text-delta') seen.text += part.text
      if (part.type === 'error') seen.error = part.error
    }
  } catch (error) {
    seen.error = error
  }
  return seen
}

test('a stream that breaks is never a finished one, for whoever follows it neither', async (t) => {
  const reset = new Error('ECONNRESET')
  const { open, opened } = gate()
  const { counts, stream } = setup(t, {
    wait: async () => {
      await opened
      throw reset
    },
  })
  const first = stream('hello')
  const reading = read(first)
  while (counts.streamed === 0) await new Promise(setImmediate)
  const follower = read(stream('hello'))
  await new Promise(setImmediate)
  open()
  const seen = await reading
  assert.deepEqual([seen.text, seen.error, seen.kinds.includes('finish')], ['You ', reset, false])
  await assert.rejects(async () => await first.text, (thrown) => thrown === reset)
  assert.equal((await follower).error, reset)
  assert.equal((await read(stream('hello'))).error, reset, 'nothing of it is kept')
  assert.equal(counts.streamed, 2)
})

test('what comes after an error of a stream is given, and not kept', async (t) => {
  const soft = new Error('one chunk is not JSON')
  const rest = [{ type: 'text-start', id: 'c' }, { type: 'text-delta', id: 'c', delta: '!' }, { type: 'text-end', id: 'c' }]
  const { counts, stream } = setup(t, { last: [{ type: 'error', error: soft }, ...rest, finish('stop')] })
  for (const calls of [1, 2]) {
    const result = stream('hello')
    const { text, error } = await read(result)
    assert.deepEqual([text, error, (await result.usage).inputTokens], ['You asked: hello!', soft, 3])
    assert.equal(counts.streamed, calls)
  }
})

test('a stream without its last part is a broken one', async (t) => {
  const { stream } = setup(t, { last: [] })
  const { text, error } = await read(stream('hello'))
  assert.equal(text, 'You asked: hello')
  assert.match(String(error), /ended without its last part/)
})

test('a deadline breaks the stream, and closes that of a model that hears no signal', async (t) => {
  let closed
  const never = new ReadableStream({ start: (parts) => parts.enqueue({ type: 'stream-start', warnings: [] }), cancel: (reason) => void (closed = reason) })
  const { s } = setup(t)
  const deaf = new MockLanguageModelV3({ doStream: async () => ({ stream: never }) })
  const model = wrapLanguageModel({ model: deaf, middleware: sophiaMiddleware(s, { timeoutMs: 200 }) })
  const { error } = await read(streamText({ model, prompt: 'hello', onError: () => {} }))
  assert.equal(error?.code, 'TIMEOUT')
  while (closed === undefined) await new Promise(setImmediate)
  const aborted = ({ abortSignal }) => new Promise((_, reject) => abortSignal.addEventListener('abort', () => reject(abortSignal.reason)))
  const { ask } = setup(t, { wait: aborted })
  await assert.rejects(ask('hello', { timeoutMs: 200 }), { code: 'TIMEOUT' })
})

test('who leaves a stream by a signal is told that it was aborted', async (t) => {
  const { counts, stream } = setup(t, { wait: () => new Promise(() => {}) })
  const leaving = new AbortController()
  const reading = read(stream('hello', undefined, { abortSignal: leaving.signal }))
  while (counts.streamed === 0) await new Promise(setImmediate)
  leaving.abort()
  const { kinds, error } = await reading
  assert.deepEqual([kinds.at(-1), error], ['abort', undefined])
})

test('an error is the one that the model threw', async (t) => {
  const error = new TypeError('no such model')
  const { ask } = setup(t, { error })
  await assert.rejects(ask('hello'), (thrown) => thrown === error)
})

test('whatever the model is asked with tells questions apart', async (t) => {
  const { counts, ask } = setup(t)
  const variants = [{}, { temperature: 0.5 }, { system: 'Be brief.' }, { seed: 7 }, { headers: { 'x-team': 'a' } }, { providerOptions: { openai: { user: 'u' } } }]
  for (const more of variants) assert.equal(status(await ask('hello', undefined, more)), 'miss', JSON.stringify(more))
  for (const more of variants) assert.equal(status(await ask('hello', undefined, more)), 'hit', JSON.stringify(more))
  assert.equal(counts.generated, variants.length)
})

test('one call says otherwise in its provider options', async (t) => {
  const { s, counts, ask } = setup(t)
  const own = (sophia) => ({ providerOptions: { sophia } })
  await ask('hello')
  assert.equal(status(await ask('hello', undefined, own({ cache: 'refresh', tags: ['greeting'] }))), 'miss')
  assert.equal(counts.params.providerOptions?.sophia, undefined, 'they are not for the provider')
  assert.equal(status(await ask('hello', undefined, own({ scope: bob }))), 'miss')
  assert.equal(await s.chat.invalidate({ tags: ['greeting'] }), 1)
  assert.equal(status(await ask('hello')), 'miss')
})
