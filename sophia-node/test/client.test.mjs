import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ClientError, SophiaClient } from '../dist/client.js'
import { httpServer } from './support.mjs'

test('a report is asked for with the token, below the base', async (t) => {
  const seen = []
  const baseUrl = await httpServer(t, (request, response) => {
    seen.push([request.method, request.url, request.headers.authorization])
    if (request.url.endsWith('unified-health')) return response.end('{"overall_health": 91.5}')
    response.statusCode = 404
    response.end('{"error": {"code": "NOT_FOUND", "message": "no such alert"}}')
  })
  const client = new SophiaClient({ baseUrl: `${baseUrl}/sophia`, token: 't' })
  assert.deepEqual(await client.unifiedHealth(), { overall_health: 91.5 })
  assert.deepEqual(seen, [['GET', '/sophia/api/v1/unified-health', 'Bearer t']])
  const refused = client.request('/api/v1/alerts/x/ack', { method: 'POST', body: { by: 'ada' } })
  await assert.rejects(refused, { name: 'ClientError', status: 404, code: 'NOT_FOUND', message: 'no such alert' })
  await assert.rejects(client.unifiedHealth({ signal: AbortSignal.abort() }), { name: 'AbortError' })
  await assert.rejects(new SophiaClient({ baseUrl: 'http://127.0.0.1:9' }).unifiedHealth(), (e) => e instanceof ClientError && e.status === 0)
})

test('a lost connection is made again, later and later, until it is ended', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  t.mock.method(Math, 'random', () => 1)
  const sockets = []
  class Socket {
    constructor(url, protocols) {
      this.url = String(url)
      this.protocols = protocols
      sockets.push(this)
    }
    close() {
      this.closed = true
      this.onclose?.()
    }
  }
  const states = []
  const messages = []
  const client = new SophiaClient({ baseUrl: 'https://example.test/', WebSocket: Socket, token: 'a (key)' })
  const end = client.live((message) => messages.push(message.data), { onState: (state) => states.push(state) })
  assert.equal(sockets[0].url, 'wss://example.test/ws/unified-health')
  assert.deepEqual(sockets[0].protocols, ['sophia.v1', 'sophia.key.a%20%28key%29'])
  sockets[0].onopen()
  sockets[0].onmessage({ data: '{"type": "unified_health", "data": 1, "timestamp": "t"}' })
  sockets[0].onmessage({ data: 'not JSON' })
  assert.deepEqual(messages, [1])
  for (const delay of [500, 1_000, 2_000]) {
    sockets.at(-1).onclose()
    const count = sockets.length
    t.mock.timers.tick(delay - 1)
    assert.equal(sockets.length, count)
    t.mock.timers.tick(1)
    assert.equal(sockets.length, count + 1)
  }
  sockets.at(-1).onopen()
  t.mock.timers.tick(75_000)
  assert.ok(sockets.at(-1).closed, 'a silent connection is given up')
  end()
  t.mock.timers.tick(120_000)
  assert.equal(sockets.length, 4)
  assert.deepEqual(states.slice(0, 4), ['connecting', 'open', 'waiting', 'connecting'])
  assert.equal(states.at(-1), 'closed')
})
