// Providers of other protocols, through the facade: the same answers, with what only they have.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sophia } from '../dist/index.js'
import { httpServer } from './support.mjs'

const thinking = { type: 'thinking', thinking: 'Hm.', signature: 'c2ln' }
const message = {
  id: 'msg_1', type: 'message', role: 'assistant', model: 'small',
  content: [thinking, { type: 'text', text: 'Hello.' }],
  stop_reason: 'end_turn', stop_sequence: null,
  usage: { input_tokens: 3, cache_read_input_tokens: 4, cache_creation_input_tokens: 0, output_tokens: 5 },
}
const response = {
  id: 'r', object: 'response', status: 'completed', model: 'small',
  output: [{ type: 'message', id: 'm', role: 'assistant', content: [{ type: 'output_text', text: 'Hello.' }] }],
  usage: { input_tokens: 7, output_tokens: 5, input_tokens_details: { cached_tokens: 4 } },
}
const delta = (index, delta) => ({ type: 'content_block_delta', index, delta })
const events = [
  { type: 'message_start', message: { ...message, content: [], stop_reason: null } },
  { type: 'content_block_start', index: 0, content_block: { type: 'thinking', thinking: '', signature: '' } },
  delta(0, { type: 'thinking_delta', thinking: 'Hm.' }),
  delta(0, { type: 'signature_delta', signature: 'c2ln' }),
  { type: 'content_block_stop', index: 0 },
  { type: 'content_block_start', index: 1, content_block: { type: 'text', text: '' } },
  delta(1, { type: 'text_delta', text: 'Hel' }),
  delta(1, { type: 'text_delta', text: 'lo.' }),
  { type: 'content_block_stop', index: 1 },
  { type: 'message_delta', delta: { stop_reason: 'end_turn' }, usage: { output_tokens: 5 } },
  { type: 'message_stop' },
]

/** An engine over a server of Messages and of Responses; `overloaded` is answered with 529. */
async function engine(t, kind) {
  const seen = []
  const url = await httpServer(t, async (req, res) => {
    const body = JSON.parse(Buffer.concat(await req.toArray()).toString())
    seen.push({ path: req.url, headers: req.headers, body })
    const status = JSON.stringify(body).includes('overloaded') ? 529 : 200
    if (body.stream) {
      res.writeHead(status, { 'content-type': 'text/event-stream' })
      return res.end(events.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join(''))
    }
    res.writeHead(status, { 'content-type': 'application/json' })
    res.end(JSON.stringify(req.url.endsWith('/messages') ? message : response))
  })
  const providers = [{ name: 'p', kind, baseUrl: `${url}/v1`, apiKey: 'k', models: ['small'] }]
  const s = new Sophia({ chat: { providers, retry: { retries: 0 } } })
  t.after(() => s.close())
  return { s, seen }
}

test('messages and responses answer like any provider', async (t) => {
  for (const kind of ['anthropic', 'responses']) {
    const { s, seen } = await engine(t, kind)
    const ask = () => s.chat.complete('Hi', { model: 'small', maxTokens: 9 })
    const answer = await ask()
    assert.deepEqual([answer.text, answer.finishReason, answer.usage.promptTokens, answer.usage.cachedTokens], ['Hello.', 'stop', 7, 4])
    assert.equal((await ask()).cache.status, 'hit')
    assert.equal(seen.length, 1)
    const [{ path, headers, body }] = seen
    if (kind === 'anthropic') assert.deepEqual([path, headers['x-api-key'], body.max_tokens], ['/v1/messages', 'k', 9])
    else assert.deepEqual([path, headers.authorization, body.max_output_tokens], ['/v1/responses', 'Bearer k', 9])
  }
})

test('thoughts stream, and go back signed', async (t) => {
  const { s, seen } = await engine(t, 'anthropic')
  for (const status of ['miss', 'hit']) {
    const chunks = []
    for await (const chunk of s.chat.stream('Hi', { model: 'small' })) chunks.push(chunk)
    assert.equal(chunks.map((chunk) => chunk.delta).join(''), 'Hello.')
    assert.equal(chunks.map((chunk) => chunk.reasoning ?? '').join(''), 'Hm.')
    assert.equal(chunks.at(-1).cache.status, status)
  }
  const first = await s.chat.complete('Hi', { model: 'small' })
  await s.chat.complete([{ role: 'user', content: 'Hi' }, first.message, { role: 'user', content: 'And?' }], { model: 'small' })
  assert.deepEqual(seen.at(-1).body.messages[1], { role: 'assistant', content: message.content })
  assert.equal(seen.length, 2)
})

test('failures have their names', async (t) => {
  const { s, seen } = await engine(t, 'anthropic')
  await assert.rejects(s.chat.complete('overloaded', { model: 'small' }), { code: 'UNAVAILABLE' })
  await assert.rejects(s.chat.complete('Hi', { model: 'small', providerFields: { seed: 7 } }), {
    code: 'UNSUPPORTED',
    message: /`seed` has no counterpart in Anthropic's Messages/,
  })
  assert.equal(seen.length, 1)
  const wrong = { chat: { providers: [{ name: 'p', kind: 'antropic' }] } }
  assert.throws(() => new Sophia(wrong), { code: 'INVALID_CONFIG', message: /anthropic/ })
})
