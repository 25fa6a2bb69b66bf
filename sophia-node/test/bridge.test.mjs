import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { Probe, Sophia } from '../dist/index.js'
import { httpServer, hungServer, program } from './support.mjs'

test('an aborted call rejects with the reason of its signal, and its work is dropped', async (t) => {
  const hung = await hungServer(t)
  const s = new Sophia()
  s.health.register('hung', { probe: Probe.http(hung.url), timeoutMs: 60_000 })
  const closed = hung.closed()
  await assert.rejects(s.health.check('hung', { signal: AbortSignal.timeout(100) }), { name: 'TimeoutError' })
  await closed
  const reason = new Error('enough')
  const controller = new AbortController()
  const running = s.health.check('hung', { signal: controller.signal })
  await hung.connected()
  controller.abort(reason)
  await assert.rejects(running, (error) => error === reason)
})

test('a signal that is aborted already starts nothing', async (t) => {
  const s = new Sophia()
  let calls = 0
  s.health.register('mine', { probe: Probe.callback(() => void calls++) })
  await assert.rejects(s.health.check('mine', { signal: AbortSignal.abort() }), { name: 'AbortError' })
  await setImmediate()
  assert.equal(calls, 0)
})

test('a signal keeps no listener after the call', async (t) => {
  const url = await httpServer(t, (_, response) => response.end('ok'))
  const s = new Sophia()
  s.health.register('web', { probe: Probe.http(url) })
  const { signal } = new AbortController()
  let listeners = 0
  const [add, remove] = [signal.addEventListener.bind(signal), signal.removeEventListener.bind(signal)]
  signal.addEventListener = (...args) => (listeners++, add(...args))
  signal.removeEventListener = (...args) => (listeners--, remove(...args))
  assert.equal((await s.health.check('web', { signal })).status, 'healthy')
  assert.equal(listeners, 0)
})

test('a function is called with its result awaited, and what it throws is told', async () => {
  const s = new Sophia()
  s.health.register('sync', { probe: Probe.callback(() => 'ok') })
  s.health.register('async', {
    probe: Probe.callback(async () => {
      await setImmediate()
      return { status: 'degraded', score: 70, detail: 'slow' }
    }),
  })
  s.health.register('throws', { probe: Probe.callback(() => { throw new Error('out of ink') }), failAfter: 1 })
  s.health.register('nonsense', { probe: Probe.callback(() => 'purple'), failAfter: 1 })
  const checks = await s.health.checkAll()
  assert.equal(checks.sync.status, 'healthy')
  assert.deepEqual([checks.async.status, checks.async.score, checks.async.detail], ['degraded', 70, 'slow'])
  assert.equal(checks.throws.status, 'unhealthy')
  assert.match(checks.throws.detail, /out of ink/)
  assert.equal(checks.nonsense.status, 'unhealthy')
})

test('a function learns that its answer is no longer awaited', async () => {
  const s = new Sophia()
  const { promise, resolve } = Promise.withResolvers?.() ?? withResolvers()
  s.health.register('slow', {
    timeoutMs: 50,
    probe: Probe.callback((signal) => new Promise(() => signal.addEventListener('abort', resolve))),
  })
  const check = await s.health.check('slow')
  assert.notEqual(check.observed, 'healthy')
  await promise
})

test('a function is forgotten when its call is over, also one that never began', async () => {
  const { output } = await program(`
    const s = new Sophia()
    const left = { signal: AbortSignal.abort() }
    const calls = [
      (tools) => s.chat.complete('x', { tools }),
      (tools) => s.chat.complete('x', { tools, temperature: NaN }),
      (tools) => s.chat.complete('x', { tools, ...left }),
      (tools) => s.chat.stream('x', { tools, temperature: NaN }).next(),
      (tools) => s.chat.stream('x', { tools, ...left }).next(),
      ([{ run }]) => s.chat.run('x', run),
      ([{ run }]) => s.chat.run('x', run, { ttlMs: NaN }),
      ([{ run }]) => s.chat.run('x', run, left),
      ([{ run }]) => s.memory.kv.getOrSet('x', run, { ttlMs: NaN }),
    ]
    const begin = async (call) => {
      const run = () => 1
      await call([{ name: 'look', run }]).catch(() => {})
      return new WeakRef(run)
    }
    const { setFlagsFromString } = await import('node:v8')
    const { runInNewContext } = await import('node:vm')
    setFlagsFromString('--expose-gc')
    const collect = runInNewContext('gc')
    const functions = []
    for (const call of calls) functions.push(await begin(call))
    for (let tries = 0; tries < 100 && functions.some((kept) => kept.deref()); tries++) {
      await new Promise((resolve) => setTimeout(resolve, 10))
      collect()
    }
    console.log(functions.flatMap((kept, index) => (kept.deref() ? [index] : [])).join() || 'none is left')
    await s.close()
  `)
  assert.equal(output.trim(), 'none is left')
})

test('many calls at once are all settled, each with its own answer', async () => {
  const s = new Sophia()
  const names = Array.from({ length: 1_000 }, (_, i) => `service-${i}`)
  for (const name of names) {
    s.health.register(name, { probe: Probe.callback(async () => (await setImmediate(), { status: 'ok', detail: name })) })
  }
  const checks = await Promise.all(names.map((name) => s.health.check(name)))
  assert.deepEqual(checks.map((check) => check.detail), names)
})

test('a stream gives what happens, and a loop that is left closes it', async () => {
  const s = new Sophia()
  s.health.rule('queue_length', { critical: 10, direction: 'lower_is_better' })
  const events = s.health.subscribe()
  s.health.observe('jobs', 'queue_length', 50)
  for await (const event of events) {
    if (event.type !== 'alert_opened') continue
    assert.deepEqual(event.data.services, ['jobs'])
    assert.ok(event.data.startedAt && event.timestamp)
    break
  }
  assert.deepEqual(await events.next(), { done: true, value: undefined })
})

test('a read under way ends when its stream is closed or aborted', async () => {
  const s = new Sophia()
  const events = s.health.subscribe()
  const read = events.next()
  await events.return()
  assert.deepEqual(await read, { done: true, value: undefined })
  await assert.rejects(s.health.subscribe({ signal: AbortSignal.timeout(20) }).next(), { name: 'TimeoutError' })
  await assert.rejects(s.health.subscribe({ signal: AbortSignal.abort() }).next(), { name: 'AbortError' })
  await assert.rejects(s.health.subscribe({ nonsense: 1 }).next(), { code: 'INVALID_INPUT' })
})

test('healing that takes too long is taken back, and undefined is no verdict', async () => {
  const s = new Sophia()
  const back = []
  s.health.action('hang', () => new Promise(() => {}), { timeoutMs: 200, rollback: (target) => void back.push(target) })
  const late = await s.health.trigger('hang', 'redis')
  assert.deepEqual([late.status, late.rolledBack, back], ['failed', true, ['redis']])

  s.health.action('tell', () => {}, { verify: () => undefined, rollback: (target) => void back.push(target) })
  const told = await s.health.trigger('tell', 'redis')
  assert.deepEqual([told.status, told.effect, told.rolledBack], ['completed', 'unknown', false])
})

test('a subscription ends when the engine closes', async () => {
  const s = new Sophia()
  await s.start()
  const events = s.health.subscribe()
  const read = events.next()
  await s.close()
  assert.deepEqual(await read, { done: true, value: undefined })
  assert.deepEqual(await s.health.subscribe().next(), { done: true, value: undefined })
})

test('a watch of the registry ends when the engine is closed', async () => {
  const s = new Sophia()
  const changes = s.registry.watch()
  s.registry.register({ id: 'memory', url: 'sophia://memory' })
  assert.equal((await changes.next()).value.server, 'memory')
  const waiting = changes.next()
  await s.close()
  assert.deepEqual(await waiting, { done: true, value: undefined })
})

test('an engine can be closed and started again', async () => {
  const s = new Sophia()
  assert.equal(await s.start(), s)
  await s.start()
  await s.close()
  await s.start()
  assert.ok((await s.health.report()).timestamp)
  await s[Symbol.asyncDispose]()
})

test('a promise is settled even when its engine is forgotten', async () => {
  const checks = Array.from({ length: 20 }, () => {
    const s = new Sophia()
    s.health.register('x', { probe: Probe.callback(async () => (await setImmediate(), 'ok')) })
    return s.health.check('x')
  })
  globalThis.gc?.()
  assert.ok((await Promise.all(checks)).every((check) => check.status === 'healthy'))
})

test('several threads have an engine each', async () => {
  const entry = new URL('../dist/index.js', import.meta.url).href
  const source = `
    const { parentPort } = require('node:worker_threads')
    import(${JSON.stringify(entry)}).then(async ({ Sophia, Probe }) => {
      const s = await new Sophia().start()
      s.health.register('x', { probe: Probe.callback(async () => 'ok') })
      const checks = await Promise.all(Array.from({ length: 100 }, () => s.health.check('x')))
      parentPort.postMessage(checks.filter((check) => check.status === 'healthy').length)
    })`
  const counts = await Promise.all(
    Array.from({ length: 4 }, async () => {
      const worker = new Worker(source, { eval: true })
      const [[count], [code]] = await Promise.all([once(worker, 'message'), once(worker, 'exit')])
      assert.equal(code, 0)
      return count
    }),
  )
  assert.deepEqual(counts, [100, 100, 100, 100])
})

test('a thread may end with calls under way', async () => {
  const entry = new URL('../dist/index.js', import.meta.url).href
  const source = `
    const { parentPort } = require('node:worker_threads')
    import(${JSON.stringify(entry)}).then(async ({ Sophia, Probe }) => {
      const s = await new Sophia().start()
      s.health.register('never', { probe: Probe.callback(() => new Promise(() => {})), timeoutMs: 60_000 })
      s.health.register('busy', { probe: Probe.callback(async () => 'ok') })
      s.health.check('never')
      parentPort.postMessage('ready')
      for (;;) await s.health.check('busy')
    })`
  for (let i = 0; i < 5; i++) {
    const worker = new Worker(source, { eval: true })
    await once(worker, 'message')
    await worker.terminate()
  }
})

test('a process ends by itself when nothing is awaited', async () => {
  const ended = await program(`
    const s = await new Sophia().start()
    s.health.register('x', { probe: Probe.callback(() => 'ok'), intervalMs: 100 })
    s.health.subscribe()
    console.log('done')`)
  assert.deepEqual(ended, { code: 0, signal: null, output: 'done\n' })
})

test('a process lives for as long as something is awaited', async (t) => {
  const url = await httpServer(t, (_, response) => setTimeout(() => response.end('ok'), 300))
  const ended = await program(`
    const s = new Sophia()
    s.health.register('x', { probe: Probe.http(${JSON.stringify(url)}) })
    s.health.check('x').then((check) => console.log(check.status))`)
  assert.deepEqual(ended, { code: 0, signal: null, output: 'healthy\n' })
})

test('a process may exit with calls under way', async (t) => {
  const hung = await hungServer(t)
  for (let i = 0; i < 6; i++) {
    const ended = await program(`
      const s = await new Sophia().start()
      s.health.register('hung', { probe: Probe.http(${JSON.stringify(hung.url)}), timeoutMs: 60_000 })
      s.health.register('busy', { probe: Probe.callback(async () => 'ok') })
      for (let i = 0; i < 50; i++) { s.health.check('hung'); (async () => { for (;;) await s.health.check('busy') })() }
      setTimeout(() => process.exit(7), 50)`)
    assert.deepEqual(ended, { code: 7, signal: null, output: '' })
  }
})

function withResolvers() {
  let resolve
  const promise = new Promise((r) => (resolve = r))
  return { promise, resolve }
}
