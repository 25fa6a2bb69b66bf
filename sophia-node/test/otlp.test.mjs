// What OpenTelemetry is told: by configuration alone, in the trace of the caller.
import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { test } from 'node:test'
import { context, ROOT_CONTEXT, trace } from '@opentelemetry/api'
import { Sophia } from '../dist/index.js'
import { httpServer } from './support.mjs'

/** A manager of contexts as that of OpenTelemetry's SDK: over AsyncLocalStorage. */
function manager() {
  const storage = new AsyncLocalStorage()
  return {
    active: () => storage.getStore() ?? ROOT_CONTEXT,
    with: (context, run, self, ...args) => storage.run(context, run.bind(self), ...args),
    bind: (_, target) => target,
    enable: () => manager,
    disable: () => manager,
  }
}

test('a call is told in the trace of its caller, without what is said', async (t) => {
  const received = []
  const collector = await httpServer(t, async (request, response) => {
    const body = Buffer.concat(await request.toArray())
    received.push({ url: request.url, headers: request.headers, body })
    response.end()
  })
  const s = new Sophia({ telemetry: { otlp: { endpoint: collector, headers: { 'x-key': 'k' }, serviceName: 'shop' } } })
  context.setGlobalContextManager(manager())
  t.after(() => context.disable())
  const span = trace.wrapSpanContext({ traceId: '0af7651916cd43dd8448eb211c80319c', spanId: 'b7ad6b7169203331', traceFlags: 1 })
  await context.with(trace.setSpan(context.active(), span), () => s.chat.run('secret words', () => 'private'))
  await s.chat.run('secret words', () => 'private')
  await s.close()
  const of = (url) => Buffer.concat(received.filter((request) => request.url === url).map(({ body }) => body))
  const spans = of('/v1/traces')
  const count = (what) => spans.toString('latin1').split(Buffer.from(what, 'hex').toString('latin1')).length - 1
  assert.equal(count('0af7651916cd43dd8448eb211c80319c'), 1, 'the second one was called outside of it')
  assert.equal(count('b7ad6b7169203331'), 1)
  for (const said of ['chat.run', 'sophia.cache.status', 'hit', 'miss', 'shop']) assert.ok(spans.includes(said), said)
  assert.ok(of('/v1/metrics').includes('sophia.chat.requests'))
  assert.ok(received.every(({ body, headers }) => headers['x-key'] === 'k' && !body.includes('words') && !body.includes('private')))
})
