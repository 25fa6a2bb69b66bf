import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Sophia, SophiaError } from '../dist/index.js'
import { httpServer } from './support.mjs'

const ada = { tenant: 'acme', user: 'ada' }

function nested(levels) {
  let value = 'bottom'
  for (let level = 0; level < levels; level++) value = { a: value }
  return value
}

const endless = []
endless.push(endless)

/** Runs a call that must fail, at once or later; returns the error. */
async function refused(call) {
  try {
    await call()
  } catch (error) {
    assert.ok(error instanceof SophiaError, `${error}`)
    return error
  }
  return assert.fail(`was accepted: ${call}`)
}

test('a configuration that cannot be is refused by the name of its field', async () => {
  for (const [config, field, hint] of [
    [{ chat: { maxConcurent: 5 } }, 'chat.maxConcurent', 'maxConcurrent'],
    [{ chatt: {} }, 'chatt', 'chat'],
    [{ chat: { maxConcurrent: 'many' } }, 'chat.maxConcurrent', 'string'],
    [{ chat: { timeoutMs: -1 } }, 'chat.timeoutMs', ''],
    [{ memory: 5 }, 'memory', 'integer'],
    [{ dataDir: 5 }, 'dataDir', 'integer'],
    [{ dataDir: '\ud800' }, 'dataDir', 'surrogate'],
    [{ memory: { ttlJitter: Infinity } }, 'memory.ttlJitter', 'finite'],
    [{ server: { port: 70_000 } }, 'server.port', ''],
    [{ server: { keys: [{ key: '' }] } }, 'server.keys[0].key', 'empty'],
    [{ chat: { providers: [{ name: 'x', baseUrl: 'http://169.254.169.254/v1' }] } }, 'chat.providers[0].', 'metadata'],
    [{ chat: { providers: endless } }, '', 'circular'],
  ]) {
    const error = await refused(() => new Sophia(config))
    assert.equal(error.code, 'INVALID_CONFIG', error.message)
    assert.ok(error.context.field.startsWith(field) && error.message.includes(hint), error.message)
  }
})

test('an argument that cannot be is refused by the name of its field, and nothing is kept', async () => {
  const s = new Sophia()
  const store = (content, options) => () => s.memory.store(content, { scope: ada, ...options })
  const search = (options) => () => s.memory.search('x', { scope: ada, ...options })
  const many = (count) => Array.from({ length: count }, (_, number) => `${number}`)
  for (const [call, field] of [
    [store(''), 'content'],
    [store('x'.repeat(10_000_000)), 'content'],
    [store('a\0b'), 'content'],
    [store('lone \ud800 surrogate'), 'content'],
    [store(5), 'content'],
    [store(undefined), 'content'],
    [store('x', { ttlMs: -1 }), 'ttlMs'],
    [store('x', { ttlMs: 1e300 }), 'ttlMs'],
    [store('x', { importance: 2 }), 'importance'],
    [store('x', { importance: NaN }), 'importance'],
    [store('x', { embedding: Array(256).fill(Infinity) }), 'embedding'],
    [store('x', { embedding: new Float32Array(256).fill(NaN) }), 'embedding'],
    [store('x', { embedding: [0.5, 0.5] }), 'embedding'],
    [store('x', { embedding: Array(256).fill(0) }), 'embedding'],
    [store('x', { priority: 'urgent' }), 'priority'],
    [store('x', { scope: 'ada' }), 'scope'],
    [store('x', { scope: { usr: 'ada' } }), 'scope.usr'],
    [store('x', { scope: { user: '' } }), 'scope.user'],
    [store('x', { metadata: { a: [NaN] } }), 'metadata.a[0]'],
    [store('x', { metadata: { a: '\0' } }), 'metadata'],
    [store('x', { metadata: nested(110) }), 'metadata'],
    [store('x', { metadata: nested(3_000) }), 'metadata'],
    [store('x', { metadata: { a: endless } }), 'arguments'],
    [store('x', { metadata: { a: [1, 10n] } }), 'metadata.a[1]'],
    [() => s.health.register('x', { probe: 'http://127.0.0.1' }), 'probe'],
    [store('x', { tags: many(300) }), 'tags'],
    [store('x', { id: 'i'.repeat(2_000) }), 'id'],
    [search({ limit: 0 }), 'limit'],
    [search({ limit: 1e15 }), 'limit'],
    [search({ limit: -1 }), 'limit'],
    [search({ limit: 1.5 }), 'limit'],
    [search({ offset: 1e9 }), 'offset'],
    [search({ minScore: NaN }), 'minScore'],
    [search({ minSimilarity: -1.5 }), 'minSimilarity'],
    [search({ kinds: many(40_000) }), 'kinds'],
    [search({ tagsAll: many(2_000) }), 'tagsAll'],
    [search({ scopes: many(2_000).map((user) => ({ user })) }), 'scopes'],
    [search({ mode: 'by magic' }), 'mode'],
    [() => s.memory.history({ session: 's' }, { limit: 1e7 }), 'limit'],
    [() => s.memory.kv.set('k', NaN), 'value'],
    [() => s.memory.kv.set('k', { a: [Infinity] }), 'value.a[0]'],
    [() => s.memory.kv.set('k', new Map([['a', 1]])), 'value'],
    [() => s.memory.kv.set('k', { a: [new Set([1])] }), 'value.a[0]'],
    [() => s.memory.kv.set('k', { a: new Uint8Array([1, 2]) }), 'value.a'],
    [() => s.memory.kv.set('k', { a: Promise.resolve(1) }), 'value.a'],
    [() => s.memory.kv.set('k', { a: new Error('lost') }), 'value.a'],
    [() => s.memory.kv.set('k', { a: new Date(NaN) }), 'value.a'],
    [() => s.memory.kv.set('k', [() => 1]), 'value[0]'],
    [() => s.memory.kv.set('k', nested(110)), 'value'],
    [() => s.memory.kv.set('k\0', 1), 'key'],
    [() => s.memory.kv.set('k', 1, { ttlMs: -1 }), 'ttlMs'],
    [() => s.memory.kv.set('k', 1, { scope: ['ada'] }), 'scope'],
    [() => s.memory.kv.set('k', 'x'.repeat(10_000_000)), 'value'],
    [() => s.memory.kv.invalidate({ tags: many(40_000) }), 'tags'],
    [() => s.memory.forget({}), 'scope'],
  ]) {
    const error = await refused(call)
    assert.equal(error.code, 'INVALID_INPUT', error.message)
    assert.ok(error.context.field.startsWith(field), `${field}: ${error.message}`)
  }
  const { records, keys } = await s.memory.stats()
  assert.deepEqual({ records, keys }, { records: 0, keys: 0 })
})

test('a duration under its bare name is no number of seconds', async () => {
  const s = new Sophia()
  for (const [call, field] of [
    [() => s.chat.complete('x', { timeout: 1500 }), 'timeout'],
    [() => s.chat.run('x', () => 1, { ttl: 60 }), 'ttl'],
    [() => s.memory.kv.getOrSet('k', () => 1, { stale: 5 }), 'stale'],
    [() => s.memory.search('x', { recency_half_life: 60 }), 'recency_half_life'],
    [() => s.health.register('x', { probe: { kind: 'tcp', host: 'h', port: 1 }, interval: 5 }), 'interval'],
  ]) {
    const error = await refused(call)
    assert.deepEqual([error.code, error.context.field], ['INVALID_INPUT', field])
    assert.match(error.message, /`\w+` is told in milliseconds: write `\w+Ms`$/)
  }
  await assert.rejects(s.chat.complete('x', { timeot: 5 }), { message: /did you mean `timeoutMs`\?$/ })
  await assert.rejects(s.chat.complete('x', { somethingElse: 5 }), { message: /known are .*\bttlMs, timeoutMs\b/ })
  // A configuration may be that of another language.
  assert.ok(new Sophia({ chat: { timeout: 5 } }))
})

test("what is for the provider is shown its place, and a misspelt option its name", async () => {
  const s = new Sophia()
  await assert.rejects(s.chat.complete('x', { top_p: 1 }), { message: /is not a known field; known are .*providerFields$/ })
  await assert.rejects(s.chat.complete('x', { scop: {} }), { message: /did you mean `scope`\?$/ })
})

test('what a function gives is refused as an argument is, and nothing is kept', async () => {
  const s = new Sophia()
  for (const [value, path] of [
    [NaN, ''],
    [{ a: [1, Infinity] }, '.a[1]'],
    [new Map([[1, 2]]), ''],
    [{ a: new Set() }, '.a'],
    [() => 1, ''],
    [[Symbol('x')], '[0]'],
    [new Float32Array(2), ''],
    ['lone \ud800 surrogate', ''],
    [{ a: [1, 10n] }, '.a[1]'],
    [10n, ''],
  ]) {
    for (const [call, field] of [
      [() => s.chat.run('x', () => value), `value${path}`],
      [() => s.memory.kv.getOrSet('x', () => value), path.replace(/^\./, '') || 'result'],
    ]) {
      const error = await refused(call)
      assert.deepEqual([error.code, error.context.field], ['INVALID_INPUT', field], error.message)
    }
  }
  const error = await refused(() => s.chat.run('x', () => endless))
  assert.deepEqual([error.code, error.context.field], ['INVALID_INPUT', 'result'], error.message)
  class Point {
    constructor() {
      this.x = 1
      this.print = () => {}
    }
  }
  const fine = { empty: {}, bare: Object.create(null), none: null, list: [undefined], date: new Date(0), point: new Point(), method() {} }
  const { value } = await s.chat.run('x', () => fine)
  assert.deepEqual(value, { empty: {}, bare: {}, none: null, list: [null], date: '1970-01-01T00:00:00.000Z', point: { x: 1 } })
  assert.equal((await s.chat.run('nothing', () => {})).value, null)
})

test('text is kept whole whatever it holds', async () => {
  const s = new Sophia()
  for (const text of ['"', "'; DROP TABLE records; --", 'NEAR(a b) OR *', '😀 e\u0301 \u202e abc', 'a\tb\nc\r\n', '\ufeff']) {
    const { id } = await s.memory.store(text, { scope: ada })
    assert.equal((await s.memory.get(id, { scope: ada })).content, text)
    await s.memory.search(text, { scope: ada })
  }
})

test('a data file that is foreign, newer or damaged is refused untouched', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'sophia-input-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 'sophia.db')
  const s = new Sophia({ dataDir: folder })
  await s.memory.store('kept', { scope: ada })
  await s.close()
  const whole = readFileSync(path)
  const newer = Buffer.from(whole)
  // The number of the format, and those that say whether there is a write-ahead log.
  newer.writeUInt32BE(99, 60)
  newer.writeUInt16BE(0x0101, 18)
  const damaged = Buffer.concat([Buffer.alloc(100), whole.subarray(100)])
  const foreign = Buffer.from('not a database, but long enough to be looked at '.repeat(100))
  for (const [bytes, code, hint] of [[newer, 'UNSUPPORTED', '99'], [damaged, 'INVALID_CONFIG', 'backup'], [foreign, 'INVALID_CONFIG', 'sophia.db']]) {
    writeFileSync(path, bytes)
    const error = await refused(() => new Sophia({ dataDir: folder }).memory.store('lost'))
    assert.equal(error.code, code, error.message)
    assert.ok(error.message.includes(hint), error.message)
    assert.ok(readFileSync(path).equals(bytes), 'it was touched')
  }
  const file = join(folder, 'file')
  writeFileSync(file, 'not a directory')
  const error = await refused(() => new Sophia({ dataDir: join(file, 'data') }).memory.store('lost'))
  assert.ok(error.code === 'INVALID_CONFIG' && error.message.includes(file), error.message)
})

test('a provider that answers garbage is an error, and nothing of it is kept', async (t) => {
  let answer
  const url = await httpServer(t, (request, response) => {
    request.resume().on('end', () => {
      response.writeHead(answer.status ?? 200, { 'content-type': answer.type ?? 'application/json' })
      response.end(answer.body)
    })
  })
  const provider = { name: 'p', baseUrl: `${url}/v1`, models: ['m'], apiKey: 'sk-very-secret' }
  const s = new Sophia({ chat: { providers: [provider], retry: { retries: 0 }, breaker: { consecutive_failures: 100, failure_ratio: 1 } } })
  const ask = () => s.chat.complete('hello', { model: 'm' })
  for (answer of [
    { body: '<html>busy</html>', type: 'text/html' },
    { body: '{' },
    { body: 'null' },
    { body: '{"choices": 5}' },
    { body: Buffer.from([0x7b, 0xff, 0xfe]) },
    { body: `{"choices":${'['.repeat(100_000)}` },
    { body: '' },
    { body: 'sk-very-secret', status: 500 },
  ]) {
    const error = await refused(ask)
    assert.equal(error.code, 'UNAVAILABLE', error.message)
    assert.ok(!`${error.stack}${JSON.stringify(error.context)}`.includes('very-secret'))
  }
  answer = { body: JSON.stringify({ choices: [{ message: { role: 'assistant', content: 'Hi' }, finish_reason: 'stop' }], model: 'm' }) }
  const { text, cache } = await ask()
  assert.deepEqual([text, cache.status], ['Hi', 'miss'])
})
