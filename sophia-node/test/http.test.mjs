import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, request } from 'node:http'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Sophia } from '../dist/index.js'
import { httpServer } from './support.mjs'

/** Serves an engine; returns it with its base URL. */
async function served(t, config = {}) {
  const s = new Sophia(config)
  const server = createServer(s.handler()).on('upgrade', s.upgrade()).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(async () => {
    server.closeAllConnections()
    server.close()
    await s.close()
  })
  const { port } = server.address()
  return { s, server, port, base: `http://127.0.0.1:${port}` }
}

const post = (url, body, headers) =>
  fetch(url, { method: 'POST', headers: { 'content-type': 'application/json', ...headers }, body: JSON.stringify(body) })

/** A provider that streams three words, or one word and then nothing until the caller leaves. */
async function upstream(t, { hangs = false } = {}) {
  const calls = []
  const left = { promise: undefined, resolve: undefined }
  left.promise = new Promise((resolve) => (left.resolve = resolve))
  const url = await httpServer(t, async (req, res) => {
    let text = ''
    for await (const part of req) text += part
    calls.push(JSON.parse(text))
    const event = (choice) => `data: ${JSON.stringify({
      id: '1', created: 1, model: 'm', object: 'chat.completion.chunk', choices: [{ index: 0, finish_reason: null, ...choice }],
    })}\n\n`
    res.writeHead(200, { 'content-type': 'text/event-stream' })
    res.on('close', left.resolve)
    for (const content of ['one ', 'zwölf ', 'three']) {
      res.write(event({ delta: { content } }))
      if (hangs) return
    }
    res.end(`${event({ delta: {}, finish_reason: 'stop' })}data: [DONE]\n\n`)
  })
  const chat = { providers: [{ name: 'mock', kind: 'openai', baseUrl: `${url}/v1`, apiKey: 'k' }] }
  return { calls, left: left.promise, config: { chat } }
}

const question = { model: 'm', messages: [{ role: 'user', content: 'count' }], stream: true }

/** A WebSocket client as small as it can be: `send` masks, `next` gives the next frame. */
async function webSocket(t, port, path, { headers = {}, early = [] } = {}) {
  const socket = connect(port, '127.0.0.1')
  t.after(() => socket.destroy())
  let bytes = Buffer.alloc(0)
  let ended = false
  socket.on('data', (piece) => (bytes = Buffer.concat([bytes, piece])))
  socket.on('end', () => (ended = true))
  const until = async (ready) => {
    for (;;) {
      const found = ready()
      if (found !== undefined) return found
      if (ended) return undefined
      await Promise.race([once(socket, 'data'), once(socket, 'end')])
    }
  }
  const take = (length) => {
    const taken = bytes.subarray(0, length)
    bytes = bytes.subarray(length)
    return taken
  }
  const asked = {
    Host: `127.0.0.1:${port}`, Upgrade: 'websocket', Connection: 'Upgrade',
    'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==', 'Sec-WebSocket-Version': '13', ...headers,
  }
  const lines = Object.entries(asked).map(([name, value]) => `${name}: ${value}\r\n`)
  socket.write(Buffer.concat([Buffer.from(`GET ${path} HTTP/1.1\r\n${lines.join('')}\r\n`), ...early]))
  const head = await until(() => {
    const end = bytes.indexOf('\r\n\r\n')
    return end < 0 ? undefined : take(end + 4).toString('latin1')
  })
  const next = () => until(() => {
    if (bytes.length < 2) return undefined
    assert.equal(bytes[1] & 0x80, 0, 'a server does not mask')
    const short = bytes[1]
    const start = short === 127 ? 10 : short === 126 ? 4 : 2
    if (bytes.length < start) return undefined
    const length = short === 127 ? Number(bytes.readBigUInt64BE(2)) : short === 126 ? bytes.readUInt16BE(2) : short
    if (bytes.length < start + length) return undefined
    const frame = take(start + length)
    return { opcode: frame[0] & 0xf, payload: frame.subarray(start) }
  })
  const rest = async () => {
    await until(() => undefined)
    return bytes.toString()
  }
  return { socket, head, next, rest, send: (...frames) => socket.write(Buffer.concat(frames)) }
}

/** A client's frame. */
function masked(opcode, text) {
  const payload = Buffer.from(text)
  const mask = Buffer.from([1, 2, 3, 4])
  const length = payload.length <= 125 ? [0x80 | payload.length] : [0x80 | 126, payload.length >> 8, payload.length & 0xff]
  return Buffer.concat([Buffer.from([0x80 | opcode, ...length]), mask, payload.map((byte, i) => byte ^ mask[i % 4])])
}

const [TEXT, CLOSE, PING, PONG] = [1, 8, 9, 10]

test('the surface says that the process is alive', async (t) => {
  const { base } = await served(t)
  const answer = await fetch(`${base}/healthz`)
  assert.equal(answer.status, 200)
  assert.equal((await answer.json()).status, 'ok')
  assert.ok(answer.headers.get('x-request-id') && answer.headers.get('content-length'))
  const head = await fetch(`${base}/healthz`, { method: 'HEAD' })
  assert.deepEqual([head.status, await head.text()], [200, ''])
})

test('what is stored over HTTP is found over HTTP and in process', async (t) => {
  const { s, base } = await served(t)
  const content = 'Zoë wants the quarterly report as a PDF. 📄'
  const stored = await post(`${base}/api/v1/memory/store`, { content, scope: { user: 'ada' } })
  assert.equal(stored.status, 200)
  const found = await (await post(`${base}/api/v1/memory/search`, { query: 'report', scope: { user: 'ada' } })).json()
  assert.equal(found.hits[0].record.content, content)
  const { hits } = await s.memory.search('report', { scope: { user: 'ada' } })
  assert.equal(hits[0].record.content, content)
})

test('what is wrong is answered, and the connection goes on', async (t) => {
  const { base } = await served(t)
  const wrong = await fetch(`${base}/api/v1/memory/store`, { method: 'POST', body: '{"content": ' })
  assert.equal(wrong.status, 400)
  assert.ok((await wrong.json()).error.message)
  assert.equal((await fetch(`${base}/nowhere`)).status, 404)
})

test('a body over the limit is refused, announced or not', async (t) => {
  const { base } = await served(t, { server: { maxBodyBytes: 1000 } })
  const url = `${base}/api/v1/memory/store`
  assert.equal((await post(url, { content: 'x'.repeat(100_000) })).status, 413)
  const chunks = async function* () {
    for (let i = 0; i < 100; i++) yield Buffer.alloc(1000, 'x')
  }
  assert.equal((await fetch(url, { method: 'POST', body: chunks(), duplex: 'half' })).status, 413)
  assert.equal((await post(url, { content: 'short' })).status, 200)
})

test('a completion is streamed, and the second time from the cache', async (t) => {
  const { calls, config } = await upstream(t)
  const { base } = await served(t, config)
  for (let i = 0; i < 2; i++) {
    const answer = await post(`${base}/v1/chat/completions`, question)
    assert.match(answer.headers.get('content-type'), /^text\/event-stream/)
    const events = (await answer.text()).split('\n').filter((line) => line.startsWith('data: ')).map((line) => line.slice(6))
    assert.equal(events.pop(), '[DONE]')
    const words = events.flatMap((event) => JSON.parse(event).choices.map(({ delta }) => delta.content ?? ''))
    assert.equal(words.join(''), 'one zwölf three')
  }
  assert.equal(calls.length, 1)
})

test('a client that leaves closes the call to the provider', async (t) => {
  const { left, config } = await upstream(t, { hangs: true })
  const { base } = await served(t, config)
  const controller = new AbortController()
  const answer = await fetch(`${base}/v1/chat/completions`, {
    method: 'POST', body: JSON.stringify(question), headers: { 'content-type': 'application/json' }, signal: controller.signal,
  })
  const reader = answer.body.getReader()
  assert.match(Buffer.from((await reader.read()).value).toString(), /one/)
  controller.abort()
  await assert.rejects(reader.read(), { name: 'AbortError' })
  await left
})

test('a remote caller without a key is refused', async (t) => {
  const { base, port } = await served(t)
  const headers = { 'x-forwarded-for': '10.0.0.9' }
  assert.equal((await post(`${base}/api/v1/memory/stats`, {}, headers)).status, 401)
  const { head, rest } = await webSocket(t, port, '/ws/unified-health', { headers })
  assert.match(head, /^HTTP\/1\.1 401 /)
  assert.equal(JSON.parse(await rest()).error.code, 'UNAUTHORIZED')
})

test('a caller whose address is gone counts as remote, and one on a Unix socket as local', async (t) => {
  const s = new Sophia()
  const listen = s.handler()
  const nameless = createServer((req, res) => {
    Object.defineProperty(req.socket, 'remoteAddress', { value: undefined })
    listen(req, res)
  })
  const path = join(tmpdir(), `sophia-${process.pid}.sock`)
  const local = createServer(listen).listen(path)
  nameless.listen(0, '127.0.0.1')
  await Promise.all([once(nameless, 'listening'), once(local, 'listening')])
  t.after(() => [nameless, local].forEach((server) => server.close()))
  const status = async (options) => {
    const asked = request({ ...options, path: '/api/v1/memory/stats', method: 'POST', agent: false }).end('{}')
    const [answer] = await once(asked, 'response')
    answer.resume()
    return answer.statusCode
  }
  assert.equal(await status({ host: '127.0.0.1', port: nameless.address().port }), 401)
  assert.equal(await status({ socketPath: path }), 200)
})

test('it is mounted in an application that has read the body and set headers already', async (t) => {
  const s = new Sophia()
  const listen = s.handler()
  const failures = []
  const url = await httpServer(t, async (req, res) => {
    let text = ''
    for await (const part of req) text += part
    req.body = JSON.parse(text)
    req.originalUrl = req.url
    req.url = req.url.slice('/sophia'.length)
    res.setHeader('X-Powered-By', 'Express')
    listen(req, res, (failure) => failures.push(failure))
  })
  const answer = await post(`${url}/sophia/api/v1/memory/store`, { content: 'from an application' })
  assert.equal(answer.status, 200)
  assert.equal(answer.headers.get('x-powered-by'), 'Express')
  assert.deepEqual(failures, [])
})

test('a WebSocket sends the report at once, answers a ping and closes', async (t) => {
  const { port } = await served(t)
  const { head, next, send, rest, socket } = await webSocket(t, port, '/ws/unified-health', {
    headers: { 'Sec-WebSocket-Protocol': 'sophia.v1, other' }, early: [masked(PING, 'early')],
  })
  assert.match(head, /^HTTP\/1\.1 101 /)
  assert.match(head, /sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK\+xOo=\r\n/i)
  assert.match(head, /sec-websocket-protocol: sophia\.v1\r\n/i)
  const two = [await next(), await next()]
  assert.equal(two.find(({ opcode }) => opcode === PONG).payload.toString(), 'early')
  const message = JSON.parse(two.find(({ opcode }) => opcode === TEXT).payload)
  assert.equal(message.type, 'unified_health')
  assert.ok(message.data.timestamp)

  // In two pieces that end within a frame which means nothing.
  const bytes = Buffer.concat([masked(TEXT, 'x'.repeat(5000)), masked(PING, 'again')])
  send(bytes.subarray(0, 3000))
  send(bytes.subarray(3000))
  assert.deepEqual(await next(), { opcode: PONG, payload: Buffer.from('again') })
  send(masked(CLOSE, Buffer.from([3, 232])))
  assert.deepEqual(await next(), { opcode: CLOSE, payload: Buffer.from([3, 232]) })
  assert.equal(await rest(), '')
  socket.end()
})

test('a WebSocket closes with a reason where the client breaks the protocol', async (t) => {
  const { port } = await served(t)
  const { next, send } = await webSocket(t, port, '/ws/system-alerts')
  assert.equal((await next()).opcode, TEXT)
  send(Buffer.from([0x81, 1, 65]))
  assert.deepEqual(await next(), { opcode: CLOSE, payload: Buffer.from([3, 234]) })
})

test('a client that hangs up gives its place back', async (t) => {
  const { port, base } = await served(t, { server: { maxConcurrent: 1 } })
  const { next, socket } = await webSocket(t, port, '/ws/system-alerts')
  assert.equal((await next()).opcode, TEXT)
  assert.equal((await post(`${base}/api/v1/memory/stats`, {})).status, 429)
  socket.end()
  await once(socket, 'close')
  assert.equal((await post(`${base}/api/v1/memory/stats`, {})).status, 200)
})

test('what is no WebSocket is answered over HTTP', async (t) => {
  const { port } = await served(t)
  const { head } = await webSocket(t, port, '/nowhere')
  assert.match(head, /^HTTP\/1\.1 404 /)
  const old = await webSocket(t, port, '/ws/system-alerts', { headers: { 'Sec-WebSocket-Version': '8' } })
  assert.match(old.head, /^HTTP\/1\.1 426 /)
  const other = await webSocket(t, port, '/healthz', { headers: { Upgrade: 'h2c' } })
  assert.match(other.head, /^HTTP\/1\.1 200 /)
  assert.match(await other.rest(), /"ok"/)
})
