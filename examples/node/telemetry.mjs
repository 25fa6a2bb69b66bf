// OpenTelemetry: what chat does becomes spans of the conventions for generative AI, and a kept answer is one without a call.
// Run: node examples/node/telemetry.mjs. It sends to a collector of its own, which says what came; for a real one give its
// address, such as http://127.0.0.1:4318, or set OTEL_EXPORTER_OTLP_ENDPOINT.
import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { once } from 'node:events'
import { Sophia } from 'sophia-ai'

const ada = { tenant: 'acme', user: 'ada' }
const serve = async (answer) => {
  const server = createServer(async (request, response) => {
    const body = Buffer.concat(await request.toArray())
    response.setHeader('content-type', 'application/json')
    response.end(answer(request.url, body))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { server, url: `http://127.0.0.1:${server.address().port}` }
}

const echo = await serve((_, body) => {
  const { model, messages } = JSON.parse(body)
  const message = { role: 'assistant', content: `(echo, no model) ${messages.at(-1).content}` }
  const usage = { prompt_tokens: 4, completion_tokens: 8, total_tokens: 12 }
  return JSON.stringify({ id: '1', object: 'chat.completion', created: 1, model, choices: [{ index: 0, message, finish_reason: 'stop' }], usage })
})
const came = {}
const collector = await serve((path, body) => {
  came[path] = (came[path] ?? '') + body.toString('latin1')
  return ''
})

const s = new Sophia({
  chat: { providers: [{ name: 'echo', baseUrl: `${echo.url}/v1`, models: ['echo'] }] },
  telemetry: { otlp: { endpoint: collector.url, serviceName: 'shop' } },
})
for (const expected of ['miss', 'hit']) {
  const { cache } = await s.chat.complete('What is our churn?', { scope: ada })
  assert.equal(cache.status, expected)
}
// What is sent in the background is sent by the end of `close()`.
await s.close()

const spans = came['/v1/traces']
const count = (name) => spans.split(name).length - 1
for (const name of ['chat.complete', 'chat echo', 'gen_ai.usage.input_tokens', 'sophia.cache.status']) {
  console.log(`${name}: in ${count(name)} span(s)`)
}
assert.deepEqual([count('chat.complete'), count('chat echo')], [2, 1])
assert.equal(count('churn'), 0, 'what was asked is in no span unless `content` asks for it')
console.log(`metrics: ${came['/v1/metrics'].length} bytes`)
echo.server.close()
collector.server.close()
