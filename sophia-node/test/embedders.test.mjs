import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sophia } from '../dist/index.js'
import { httpServer } from './support.mjs'

const scope = { tenant: 'acme', user: 'ada' }
const MEANINGS = [['car', 'automobile'], ['cat', 'kitten'], ['doctor', 'physician']]

/** A vector that knows that some words mean the same. */
function vector(text) {
  return [...MEANINGS.map((words) => Number(words.some((word) => text.includes(word)))), 0.1]
}

async function find(s, question) {
  const { hits } = await s.memory.search(question, { scope, mode: 'semantic' })
  return hits.map((hit) => hit.record.content)
}

async function engine(t, config) {
  const s = new Sophia(config)
  await s.start()
  t.after(() => s.close())
  return s
}

test('a function embeds', async (t) => {
  for (const embed of [
    (texts) => texts.map(vector),
    async (texts) => texts.map((text) => Float32Array.from(vector(text))),
  ]) {
    const s = await engine(t)
    s.memory.setEmbedder(embed, { model: 'meanings', dimensions: 4 })
    await s.memory.store('an old car', { scope })
    await s.memory.store('a black cat', { scope })
    assert.equal((await find(s, 'which automobile?'))[0], 'an old car')
    const { embedder } = await s.memory.health()
    assert.deepEqual([embedder.model, embedder.dimensions, embedder.status], ['meanings@4', 4, 'healthy'])
  }
})

test('what a function does wrong is said, and made good later', async (t) => {
  const wrong = {
    nan: () => [[NaN, 0, 0, 1]],
    short: () => [[1]],
    throws: () => {
      throw new Error('the model is away')
    },
  }
  for (const [model, embed] of Object.entries(wrong)) {
    const s = await engine(t)
    s.memory.setEmbedder(embed, { model, dimensions: 4 })
    await s.memory.store('an old car', { scope })
    const found = await s.memory.search('car', { scope })
    assert.deepEqual(found.hits.map((hit) => hit.record.content), ['an old car'])
    assert.ok(found.degraded && /finite|dimensions|away/.test(found.warnings.join(' ')), found.warnings.join(' '))
    assert.equal((await s.memory.stats()).staleVectors, 1)
    s.memory.setEmbedder((texts) => texts.map(vector), { model: 'right', dimensions: 4 })
    const { left, failure } = await s.memory.reembed({ timeoutMs: 10_000 })
    assert.deepEqual([left, failure], [0, null])
    assert.deepEqual(await find(s, 'automobile'), ['an old car'])
  }
  const s = await engine(t)
  const bad = () => s.memory.setEmbedder((texts) => texts.map(vector), { model: 'm', dimensions: 0 })
  assert.throws(bad, { code: 'INVALID_INPUT' })
})

test('a server embeds and is not asked twice for the same', async (t) => {
  const asked = []
  const baseUrl = await httpServer(t, async (request, response) => {
    let body = ''
    for await (const part of request) body += part
    asked.push(JSON.parse(body).input)
    const data = JSON.parse(body).input.map((text, index) => ({ index, embedding: vector(text) }))
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify({ data }))
  })
  const s = await engine(t, { memory: { embedder: { kind: 'http', baseUrl, model: 'm' } } })
  await s.memory.store('an old car', { scope })
  for (let i = 0; i < 2; i++) assert.deepEqual(await find(s, 'which automobile?'), ['an old car'])
  assert.deepEqual(asked, [['an old car'], ['which automobile?']])
})

test('the transformer wants a folder with its weights', () => {
  const path = '/nowhere'
  assert.throws(() => new Sophia({ memory: { embedder: { kind: 'minilm', path } } }), { code: 'INVALID_CONFIG', message: /memory\.embedder\.path/ })
})
