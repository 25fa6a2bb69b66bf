import assert from 'node:assert/strict'
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { Sophia, SophiaError } from '../dist/index.js'
import { httpServer } from './support.mjs'

const ada = { tenant: 'acme', user: 'ada' }
const bob = { tenant: 'acme', user: 'bob' }

/** A provider that answers `You asked: …`; counts calls and connections that were broken off. */
async function provider(t) {
  const upstream = { calls: 0, brokenOff: 0 }
  const baseUrl = await httpServer(t, async (request, response) => {
    let body = ''
    for await (const part of request) body += part
    upstream.calls++
    upstream.body = JSON.parse(body)
    const { model, messages, stream } = upstream.body
    const asked = messages.at(-1).content
    const [, tool, given] = asked.match(/^call (\w+) (.*)/) ?? []
    const toolCalls = tool && [{ id: '1', type: 'function', function: { name: tool, arguments: given } }]
    response.on('close', () => response.writableFinished || upstream.brokenOff++)
    if (asked === 'hang') return
    const choice = (part, finish_reason = null) => ({ id: '1', created: 1, model, choices: [{ index: 0, finish_reason, ...part }] })
    if (!stream) {
      response.setHeader('content-type', 'application/json')
      const usage = { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 }
      return response.end(JSON.stringify({ ...choice({ message: { role: 'assistant', content: `You asked: ${asked}`, tool_calls: toolCalls } }, toolCalls ? 'tool_calls' : 'stop'), usage }))
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    const send = (data) => response.write(`data: ${JSON.stringify(data)}\n\n`)
    for (let i = 0; asked === 'forever'; i++) {
      if (response.destroyed) return
      send(choice({ delta: { content: `${i} ` } }))
      await setTimeout(5)
    }
    for (const word of `You asked: ${asked}`.split(/(?<= )/)) send(choice({ delta: { content: word } }))
    send(choice({ delta: {} }, 'stop'))
    response.end('data: [DONE]\n\n')
  })
  upstream.config = { chat: { providers: [{ name: 'mock', kind: 'openai', baseUrl: `${baseUrl}/v1`, apiKey: 'k', models: ['small'] }] } }
  return upstream
}

test('records are stored, found, changed, listed and forgotten', async () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'sophia-'))
  const s = await new Sophia({ dataDir }).start()
  const stored = await s.memory.store('Ada wants the quarterly report as a PDF.', { scope: ada, kind: 'preference', tags: ['report'], metadata: { via_x: 'chat', timeoutMs: 5 } })
  assert.equal(stored.created, true)
  const { hits, tookMs, degraded } = await s.memory.search('which file format does she like?', { scope: ada, explain: true, minScore: 0 })
  assert.equal(hits[0].record.id, stored.id)
  assert.deepEqual(hits[0].record.metadata, { via_x: 'chat', timeoutMs: 5 })
  assert.ok(tookMs >= 0 && typeof degraded === 'boolean' && hits[0].matchType && 'semanticNormalized' in hits[0].explain)
  const typo = await s.memory.search('qaurterly', { scope: ada, mode: 'keyword', typoTolerant: true, mmrLambda: 0.5, importanceWeight: 0.2, recencyHalfLifeMs: 60_000, explain: true })
  assert.equal(typo.hits[0].record.id, stored.id)
  assert.ok(typo.hits[0].explain.recency > 0.9 && typo.hits[0].explain.importance === 0.5)
  const ranked = await s.memory.search('quarterly report', { scope: ada, fusion: 'rrf', explain: true })
  assert.equal(ranked.hits[0].explain.keywordRank, 1)
  await assert.rejects(s.memory.search('x', { mmrLambda: 2 }), { code: 'INVALID_INPUT' })
  assert.equal(await s.memory.get(stored.id, { scope: bob }), null)
  assert.equal((await s.memory.get({ seq: stored.seq, scope: ada })).id, stored.id)
  const updated = await s.memory.update(stored.id, { scope: ada, content: 'Now a spreadsheet.', ifVersion: 1 })
  assert.equal(updated.version, 2)
  await assert.rejects(s.memory.update(stored.id, { scope: ada, content: 'x', ifVersion: 1 }), { code: 'CONFLICT' })
  await assert.rejects(s.memory.store('x', { scope: ada, id: stored.id, ifVersion: 0 }), { code: 'CONFLICT' })
  assert.equal((await s.memory.versions(stored.id, { scope: ada }))[0].content, 'Ada wants the quarterly report as a PDF.')
  const expiring = await s.memory.store('soon gone', { scope: ada, ttlMs: 60_000 })
  assert.ok(Date.parse(expiring.expiresAt) - Date.now() <= 60_000)
  const talk = { ...ada, session: 's1' }
  await s.memory.append(talk, 'user', 'Hello', { at: new Date() })
  assert.deepEqual((await s.memory.history(talk, { limit: 5 })).map((m) => [m.role, m.content]), [['user', 'Hello']])
  assert.equal((await s.memory.sessions(ada)).length, 1)
  const outcomes = await s.memory.storeMany(['fine', { content: '' }], { scope: ada })
  assert.equal(outcomes[0].created, true)
  assert.ok(outcomes[1] instanceof SophiaError && outcomes[1].code === 'INVALID_INPUT')
  assert.ok((await s.memory.stats()).records >= 4)
  assert.ok((await s.memory.recentOperations(3)).length > 0)
  assert.ok((await s.memory.forget({ scope: ada })).records >= 4)
  assert.equal((await s.memory.health()).tiers.l1.status, 'healthy')
  await s.close()
})

test('bad records are refused with the field as the caller wrote it', async () => {
  const s = new Sophia()
  await assert.rejects(s.memory.store(''), { code: 'INVALID_INPUT', context: { field: 'content' } })
  await assert.rejects(s.memory.store('x', { ttlMs: -5 }), { code: 'INVALID_INPUT', context: { field: 'ttlMs' } })
  await assert.rejects(s.memory.store('x', { embedding: [1, NaN] }), { code: 'INVALID_INPUT', context: { field: 'embedding[1]' } })
  await assert.rejects(s.memory.store('x', { metadata: { a: ['\ud800'] } }), { context: { field: 'metadata.a[0]' } })
  await assert.rejects(s.memory.store('x', { scope: { tenat: 'acme' } }), { message: /`scope.tenat` is not a known field; did you mean `tenant`/ })
  await assert.rejects(s.memory.search('x', { tagsAl: [] }), { message: /did you mean `tagsAll`/ })
})

test('values are kept by key and scope, with a default where there is none', async () => {
  const s = new Sophia()
  await s.memory.kv.set('plan', { name: 'pro', seats_left: 3 }, { scope: ada, ttlMs: 60_000, tags: ['billing'] })
  assert.deepEqual(await s.memory.kv.get('plan', { scope: ada }), { name: 'pro', seats_left: 3 })
  assert.deepEqual(s.memory.kv.getSync('plan', { scope: ada }), { name: 'pro', seats_left: 3 })
  assert.equal(await s.memory.kv.get('plan', { scope: bob }), null)
  assert.equal(await s.memory.kv.get('plan'), null)
  for (let i = 0; i < 2; i++) assert.equal(await s.memory.kv.get('plan', { scope: bob, default: 'free' }), 'free')
  for (const value of [null, 0, '', false, [], 'text']) {
    s.memory.kv.setSync('value', value)
    assert.deepEqual(await s.memory.kv.get('value', { default: 'default' }), value)
  }
  await assert.rejects(s.memory.kv.get('plan', { scope: { usr: 'ada' } }), { code: 'INVALID_INPUT' })
  await assert.rejects(s.memory.kv.get('', { scope: ada }), { code: 'INVALID_INPUT' })
  await assert.rejects(s.memory.kv.get(7), { code: 'INVALID_INPUT' })
  await assert.rejects(s.memory.kv.get('plan', { scope: ada, signal: AbortSignal.abort() }), { name: 'AbortError' })
  assert.equal(await s.memory.kv.invalidate({ tags: ['billing'], scope: ada }), 1)
  assert.equal(await s.memory.kv.get('plan', { scope: ada }), null)
  await s.memory.kv.set('gone', 1)
  assert.equal(await s.memory.kv.delete('gone'), true)
})

test('a loader runs once for all who ask, and what it throws reaches them all as it is', async () => {
  const s = new Sophia()
  let loads = 0
  const load = async () => (loads++, await setTimeout(20), { plan: 'pro' })
  const values = await Promise.all(Array.from({ length: 100 }, () => s.memory.kv.getOrSet('plan', load, { scope: ada, ttlMs: 60_000 })))
  assert.equal(loads, 1)
  assert.deepEqual(values[99], { plan: 'pro' })
  assert.deepEqual(await s.memory.kv.getOrSet('plan', () => assert.fail('is kept'), { scope: ada }), { plan: 'pro' })
  class OutOfInk extends Error {}
  const thrown = new OutOfInk('no ink')
  const failing = Array.from({ length: 5 }, () => s.memory.kv.getOrSet('ink', async () => { throw thrown }, { scope: ada }))
  for (const result of await Promise.allSettled(failing)) assert.equal(result.reason, thrown)
  let signal
  const hangs = (context) => ((signal = context.signal), new Promise(() => {}))
  const waiting = [50, 600_000].map((timeoutMs) => s.memory.kv.getOrSet('hung', hangs, { scope: ada, timeoutMs }))
  for (const result of await Promise.allSettled(waiting)) assert.equal(result.reason.code, 'TIMEOUT')
  assert.equal(await s.memory.kv.getOrSet('hung', () => 1, { scope: ada }), 1)
  while (!signal.aborted) await setTimeout(1)
  await assert.rejects(s.memory.kv.getOrSet('text', () => { throw 'a text' }), (reason) => reason === 'a text')
  await assert.rejects(s.memory.kv.getOrSet('big', () => 10n), { code: 'INVALID_INPUT', context: { field: 'result' } })
})

test('facts know when they were true', async () => {
  const s = new Sophia()
  await s.memory.graph.upsert('ada', { kind: 'person', attributes: { first_name: 'Ada' }, scope: ada })
  await s.memory.graph.relate('ada', 'works_at', 'acme', { scope: ada, validAt: '2024-01-01T00:00:00Z', functional: true })
  await s.memory.graph.relate('ada', 'works_at', 'globex', { scope: ada, validAt: new Date('2025-06-01'), functional: true })
  const facts = (options) => s.memory.graph.facts({ subject: 'ada', scope: ada, ...options }).then((found) => found.map((fact) => fact.object))
  assert.deepEqual(await facts(), ['globex'])
  assert.deepEqual(await facts({ asOf: '2024-07-01T00:00:00Z' }), ['acme'])
  assert.equal((await s.memory.graph.neighbors('ada', { scope: ada })).length, 1)
  assert.equal((await s.memory.graph.path('ada', 'globex', { scope: ada })).length, 1)
})

test('what is remembered is moved, backed up and checked', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'sophia-'))
  const file = (name) => join(directory, name)
  const s = new Sophia({ dataDir: file('from') })
  const stored = await s.memory.store('Ada wants a PDF.', { scope: ada })
  await s.memory.update(stored.id, { scope: ada, content: 'Ada wants a spreadsheet.' })
  const written = await s.memory.export(file('all.jsonl'), { scope: ada })
  assert.deepEqual([written.records, written.versions, written.path], [1, 1, file('all.jsonl')])
  await assert.rejects(s.memory.export(file('all.jsonl')), { code: 'CONFLICT' })
  assert.ok((await s.memory.backup(file('backup.db'))).bytes > 0)
  assert.deepEqual(await s.memory.check({ repair: true }), { ok: true, problems: [] })
  await s.close()
  const other = new Sophia({ dataDir: file('to') })
  assert.equal((await other.memory.import(file('all.jsonl'))).added, 1)
  const again = await other.memory.import(file('all.jsonl'), { format: 'sophia', scope: ada })
  assert.deepEqual([again.format, again.unchanged], ['sophia', 1])
  assert.equal((await other.memory.versions(stored.id, { scope: ada })).length, 2)
  await assert.rejects(other.memory.import(file('all.jsonl'), { scope: bob }), { code: 'UNAUTHORIZED' })
  await other.close()
})

test('a model writes down the facts of a text, and the memory is a server of the registry', async (t) => {
  const fact = { subject: 'Ada', predicate: 'likes', object: 'tea', functional: false, valid_at: null, invalid_at: null }
  const said = JSON.stringify({ entities: [{ name: 'Ada', kind: 'person' }], facts: [fact] })
  const baseUrl = await httpServer(t, (request, response) => {
    response.setHeader('content-type', 'application/json')
    const choices = [{ index: 0, message: { role: 'assistant', content: said }, finish_reason: 'stop' }]
    response.end(JSON.stringify({ id: '1', object: 'chat.completion', model: 'small', choices }))
  })
  const s = new Sophia({ chat: { providers: [{ name: 'm', kind: 'openai', baseUrl: `${baseUrl}/v1`, models: ['small'] }] } })
  const found = await s.memory.graph.extract('Ada likes tea.', { scope: ada, source: 'note-1', at: '2025-01-01T00:00:00Z' })
  assert.deepEqual([found.entities[0].kind, found.facts[0].source, found.facts[0].validAt], ['person', 'note-1', '2025-01-01T00:00:00Z'])
  s.registry.register({ id: 'memory', url: 'sophia://memory' })
  const stored = await s.registry.call('memory', 'store_memory', { content: 'Ada likes tea.' }, { scope: ada })
  assert.ok(stored.ok && stored.data.created)
  assert.equal((await s.memory.search('tea', { scope: ada })).total, 1)
})

test('a question that means the same is answered, and the answer says by which stage', async (t) => {
  const { config } = await provider(t)
  const s = new Sophia({ chat: { ...config.chat, semantic: { enabled: true, mode: 'serve', audit: 0 } } })
  const ask = (text, options) => s.chat.complete(text, { model: 'small', scope: ada, ...options })
  const first = await ask('How do I reset my router?')
  const again = await ask('Please tell me how I can reset my router.', { explain: true })
  assert.deepEqual([again.cache.status, again.cache.tier, again.cache.key], ['semantic_hit', 'semantic', first.cache.key])
  assert.ok(again.cache.similarity > 0.75 && first.explain === null)
  const found = again.explain.stages.find(({ stage }) => stage === 'semantic')
  assert.deepEqual([found.outcome, found.detail.key], ['served', first.cache.key])
  assert.equal((await ask('How do I reset my 2 routers?')).cache.status, 'miss')
  for await (const { explain, finishReason } of s.chat.stream('How do I reset my router?', { model: 'small', scope: ada, explain: true })) {
    assert.deepEqual(explain?.stages.map(({ stage, outcome }) => [stage, outcome]), finishReason ? [['key', 'made'], ['l1', 'hit']] : undefined)
  }
  const report = s.chat.semanticReport()
  assert.deepEqual([report.served, report.entries, report.vetoed.numbers], [1, 2, 1])
  assert.deepEqual([report.recent[0].outcome, report.recent[0].veto], ['vetoed', 'numbers'])
  assert.equal(s.chat.semanticFeedback(again.cache.key, 'wrong', { scope: bob }), false)
  assert.equal(s.chat.semanticFeedback(again.cache.key, 'wrong', { scope: ada }), true)
  assert.equal((await ask('Please tell me how I can reset my router.')).cache.status, 'miss')
  assert.equal(s.chat.semanticReport().judged, 1)
})

test('answers are kept for their scope, and streams are replayed', async (t) => {
  const upstream = await provider(t)
  const s = new Sophia(upstream.config)
  const ask = (scope) => s.chat.complete('What is our churn?', { model: 'small', scope, maxTokens: 5, providerFields: { top_p: 0.5 } })
  const [first, again, other] = [await ask(ada), await ask(ada), await ask(bob)]
  assert.deepEqual([first, again, other].map((answer) => answer.cache.status), ['miss', 'hit', 'miss'])
  assert.equal(first.text, 'You asked: What is our churn?')
  assert.deepEqual([first.usage.promptTokens, first.finishReason, first.provider], [3, 'stop', 'mock'])
  assert.deepEqual([upstream.body.max_tokens, upstream.body.top_p], [5, 0.5])
  assert.deepEqual(first.message, { role: 'assistant', content: first.text })
  const text = async () => {
    let text = ''
    for await (const chunk of s.chat.stream([{ role: 'user', content: 'tell me' }], { model: 'small', scope: ada })) text += chunk.delta
    return text
  }
  upstream.calls = 0
  assert.deepEqual([await text(), await text()], Array(2).fill('You asked: tell me'))
  assert.equal(upstream.calls, 1)
  assert.equal(s.chat.ttlFor('infrastructure'), 60)
  assert.match(s.chat.cacheKey('x', { model: 'small' }), /^[0-9a-f]+$/)
  assert.ok(s.chat.metrics().cacheHitRate > 0)
  assert.ok((await s.chat.invalidate({ scope: ada })) > 0)
  await assert.rejects(s.chat.complete('x', { temprature: 1 }), { message: /did you mean `temperature`/ })
})

test('calls cost, hits save, and who is over a limit is told when to come back', async (t) => {
  const upstream = await provider(t)
  const prices = { small: { prompt: 1, completion: 2 } }
  const s = new Sophia({ chat: { ...upstream.config.chat, prices, limits: [{ per: 'user', requestsPerMinute: 1 }] } })
  const ask = (question, scope = ada) => s.chat.complete(question, { scope })
  assert.equal((await ask('a')).costUsd, 11e-6)
  assert.equal((await ask('a')).cache.status, 'hit')
  await assert.rejects(ask('b'), (error) => error.code === 'RATE_LIMITED' && error.context.limit === 'requests_per_minute' && error.retryAfterMs > 0)
  await ask('b', bob)
  const { rows, total } = await s.chat.costs({ by: 'scope', days: 7 })
  assert.deepEqual(rows.map((row) => [row.user, row.calls, row.savedCalls]), [['ada', 1, 1], ['bob', 1, 0]])
  assert.deepEqual([total.costUsd, total.savedUsd, total.promptTokens], [22e-6, 11e-6, 6])
  const [limit] = await s.chat.budget(ada)
  assert.deepEqual([limit.rule, limit.limit, limit.max, limit.scope], ['chat.limits[0]', 'requests_per_minute', 1, ada])
  await assert.rejects(s.chat.costs({ days: 0 }), { code: 'INVALID_INPUT', context: { field: 'days' } })
})

test('a stream that is left closes the call to the provider', async (t) => {
  const upstream = await provider(t)
  const s = new Sophia(upstream.config)
  let chunks = 0
  for await (const chunk of s.chat.stream('forever', { model: 'small' })) if (chunk.delta && ++chunks === 3) break
  while (upstream.brokenOff === 0) await setTimeout(5)
  const aborted = async () => {
    for await (const _ of s.chat.stream('forever', { model: 'small', signal: AbortSignal.timeout(50) }));
  }
  await assert.rejects(aborted(), { name: 'TimeoutError' })
  while (upstream.brokenOff === 1) await setTimeout(5)
  const leaving = new AbortController()
  const paused = s.chat.stream('forever', { model: 'small', signal: leaving.signal })
  await paused.next()
  leaving.abort()
  while (upstream.brokenOff === 2) await setTimeout(5)
  await assert.rejects(paused.next(), { name: 'AbortError' })
  assert.equal((await paused.next()).done, true)
  await assert.rejects(s.chat.stream('', { model: 'small' }).next(), { code: 'INVALID_INPUT' })
})

test('two tools of one name are refused', async (t) => {
  const upstream = await provider(t)
  const s = new Sophia(upstream.config)
  const tools = ['a', 'b'].map((said) => ({ name: 'look', run: () => said }))
  const refused = { code: 'INVALID_INPUT', message: /`tools` hold two tools of the name `look`/, context: { field: 'tools' } }
  await assert.rejects(s.chat.complete('hello', { tools }), refused)
  await assert.rejects(s.chat.stream('hello', { tools }).next(), refused)
  assert.equal(upstream.calls, 0)
})

test('the key of an answer knows the functions', async (t) => {
  const s = new Sophia((await provider(t)).config)
  const own = { type: 'function', function: { name: 'own', parameters: { type: 'object' } } }
  const look = { name: 'look', parameters: { type: 'object' }, run: () => 'found' }
  for (const tools of [[look], [own, look]]) {
    const { cache } = await s.chat.complete('hello', { tools })
    assert.equal(s.chat.cacheKey('hello', { tools }), cache.key)
    assert.notEqual(s.chat.cacheKey('hello'), cache.key)
  }
  assert.throws(() => s.chat.cacheKey('hello', { tools: [look, 'registry'] }), { code: 'UNSUPPORTED' })
})

test('a function is protected like a model', async () => {
  const s = new Sophia()
  let runs = 0
  const produce = async ({ signal }) => (assert.ok(signal instanceof AbortSignal), runs++, await setTimeout(10), { response: '42', from_crm: true })
  const options = { scope: ada, context: 'business_intelligence', text: (value) => value.response }
  const results = await Promise.all(Array.from({ length: 20 }, () => s.chat.run('open deals?', produce, options)))
  assert.equal(runs, 1)
  assert.deepEqual(results[19].value, { response: '42', from_crm: true })
  assert.equal((await s.chat.run('open deals?', produce, options)).cache.status, 'hit')
  for (let i = 0; i < 2; i++) await s.chat.run('not kept', produce, { cacheable: (value) => !value.from_crm })
  assert.equal(runs, 3)
  const thrown = new RangeError('too far')
  await assert.rejects(s.chat.run('fails', () => { throw thrown }), (reason) => reason === thrown)
  await assert.rejects(s.chat.run('slow', () => setTimeout(5_000, null, { ref: false }), { timeoutMs: 30 }), { code: 'TIMEOUT' })
})

test('producers inside of others do not wait for their permits, nor do tools that they give', async (t) => {
  const url = await httpServer(t, (request, response) => {
    let text = ''
    request.on('data', (part) => (text += part)).on('end', () => {
      const last = JSON.parse(text).messages.at(-1)
      const call = { id: '1', type: 'function', function: { name: 'part', arguments: '{}' } }
      const [message, reason] = last.role === 'tool' ? [{ content: last.content }, 'stop'] : [{ content: null, tool_calls: [call] }, 'tool_calls']
      response.setHeader('content-type', 'application/json')
      response.end(JSON.stringify({ choices: [{ message: { role: 'assistant', ...message }, finish_reason: reason }], model: 'm' }))
    })
  })
  const s = new Sophia({ chat: { providers: [{ name: 'p', baseUrl: `${url}/v1`, models: ['m'] }], maxConcurrent: 2, timeoutMs: 10_000 } })
  const part = async (i) => (await s.chat.run(`part ${i}`, () => setTimeout(1, i))).value
  const tools = (i) => [{ name: 'part', run: () => part(i) }]
  const whole = (i) => s.chat.run(`whole ${i}`, async () => [await part(i), (await s.chat.complete(`${i}`, { tools: tools(`t${i}`) })).text])
  const results = await Promise.all(Array.from({ length: 20 }, (_, i) => whole(i)))
  assert.deepEqual(results.map(({ value }) => value), Array.from({ length: 20 }, (_, i) => [i, `t${i}`]))
  const itself = () => s.chat.run('itself', itself)
  await assert.rejects(itself(), { code: 'INVALID_INPUT', message: /which would wait for itself/ })
})

test('vectors have a deadline of their own', async (t) => {
  const url = await httpServer(t, () => {})
  const s = new Sophia({ chat: { providers: [{ name: 'p', baseUrl: `${url}/v1`, models: ['m'] }] } })
  await assert.rejects(s.chat.embed(['x'], { timeoutMs: 50 }), { code: 'TIMEOUT' })
})

test('a registry says what its sources disagree about, and calls tools', async (t) => {
  const url = await httpServer(t, (request, response) => {
    response.setHeader('content-type', 'application/json')
    response.end(request.method === 'GET' ? '{"status": "ok"}' : '{"result": "from rest", "open_deals": 3}')
  })
  const s = new Sophia()
  const report = await s.registry.load({ servers: [{ name: 'github', port: 9007, capabilities: ['code'] }] }, { source: 'a.yaml' })
  assert.deepEqual(report.loaded, ['github'])
  await s.registry.load({ active_servers: { github: 9016, 'git-hub': 9007 } }, { source: 'b.json' })
  assert.ok(s.registry.lint().some((conflict) => conflict.kind === 'port_mismatch'))
  const changes = s.registry.watch()
  s.registry.register({ id: 'spare', url, transport: 'rest', rest: { '*': '/{tool}' }, capabilities: ['Analytics'], healthPath: '/health', timeoutMs: 2_000 })
  s.registry.register({ id: 'main', url: 'http://127.0.0.1:9', rest: { '*': '/{tool}' }, capabilities: ['analytics'], fallback: ['spare'] })
  assert.equal((await changes.next()).value.server, 'spare')
  await changes.return()
  assert.equal(s.registry.get('spare').healthPath, '/health')
  assert.equal((await s.registry.check('spare')).status, 'healthy')
  const answer = await s.registry.call('main', 'top_deals', { min_value: 1 })
  assert.ok(answer.ok && answer.fallbackUsed && answer.attempts.length >= 2)
  assert.deepEqual([answer.server, answer.data.open_deals], ['spare', 3])
  assert.deepEqual(s.registry.discover({ capability: 'ANALYTICS' }).map((server) => server.id).sort(), ['main', 'spare'])
  assert.equal(s.registry.select('analytics', { avoid: ['main'] }).server, 'spare')
  assert.ok(s.registry.breaker('spare').state && s.registry.status().spare.calls >= 1)
  await assert.rejects(s.registry.call('nobody', 'x', {}), { code: 'NOT_FOUND' })
  assert.equal(s.registry.deregister('spare'), true)
})

test('healing asks first where it can do harm', async () => {
  const s = new Sophia()
  const healed = []
  s.health.action('restart_redis', (target) => healed.push(target), { risk: 'low', cooldownMs: 1_800_000 })
  s.health.action('fail_over', async (target) => healed.push(target), { risk: 'high', verify: () => true })
  s.health.action('hopeless', () => {}, { risk: 'low', verify: () => false, rollback: (target) => healed.push(`not ${target}`) })
  assert.equal((await s.health.trigger('restart_redis', 'redis')).status, 'completed')
  assert.equal((await s.health.trigger('restart_redis', 'redis')).status, 'cooldown')
  const waiting = await s.health.trigger('fail_over', 'redis', { reason: 'it is down' })
  assert.deepEqual([waiting.status, healed.length, s.health.pending().length], ['pending_approval', 1, 1])
  const done = await s.health.approve(waiting.id, { by: 'ops@acme' })
  assert.deepEqual([done.status, done.effect], ['completed', 'helped'])
  const undone = await s.health.trigger('hopeless', 'disk')
  assert.deepEqual([undone.status, undone.rolledBack], ['failed', true])
  assert.deepEqual(healed, ['redis', 'redis', 'not disk'])
  assert.match(s.health.prometheus(), /sophia_/)
})
