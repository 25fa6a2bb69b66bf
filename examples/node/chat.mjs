// Chat: a question that was asked before costs microseconds, and a stampede costs one call.
// Run: node examples/node/chat.mjs. It asks an echo server of its own; for a real model give its baseUrl and apiKey.
import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { once } from 'node:events'
import { Sophia, SophiaError } from 'sophia-ai'

const ada = { tenant: 'acme', user: 'ada' }
const bob = { tenant: 'acme', user: 'bob' }

// An OpenAI-compatible server that repeats the question, after a while.
let calls = 0
const echo = createServer(async (request, response) => {
  const { model, messages } = JSON.parse(Buffer.concat(await request.toArray()).toString())
  const message = { role: 'assistant', content: `(echo, no model) ${messages.at(-1).content}` }
  calls += 1
  setTimeout(() => {
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify({ id: '1', object: 'chat.completion', created: 1, model, choices: [{ index: 0, message, finish_reason: 'stop' }] }))
  }, 200)
}).listen(0, '127.0.0.1')
await once(echo, 'listening')
const baseUrl = `http://127.0.0.1:${echo.address().port}/v1`

const s = new Sophia({ chat: { providers: [{ name: 'echo', kind: 'openai', baseUrl, apiKey: 'none', models: ['echo'] }] } })

// A miss, then a hit; another user is never given the answer.
for (const scope of [ada, ada, bob]) {
  const answer = await s.chat.complete('What is our churn?', { model: 'echo', scope })
  console.log(`${scope.user}: ${answer.cache.status} ${answer.latencyMs.toFixed(3)} ms ${answer.text}`)
}
assert.equal(calls, 2)

// Fifty callers with one question are one call.
calls = 0
const answers = await Promise.all(Array.from({ length: 50 }, () => s.chat.complete('stampede', { model: 'echo', scope: ada })))
console.log(`${answers.length} callers, ${calls} call`)
assert.equal(calls, 1)

// A deadline, or a signal, ends a call; a failure has a code.
const slow = s.chat.complete('too slow', { model: 'echo', scope: ada, timeoutMs: 50 })
await assert.rejects(slow, (error) => error instanceof SophiaError && error.code === 'TIMEOUT')
const aborted = s.chat.complete('never mind', { model: 'echo', scope: ada, signal: AbortSignal.timeout(50) })
await assert.rejects(aborted, { name: 'TimeoutError' })

// The same cache, single flight, permits and deadline around any function of one's own.
let runs = 0
const countDeals = async () => {
  runs += 1
  return { answer: '42 open deals' }
}
const results = await Promise.all(Array.from({ length: 20 }, () => s.chat.run('How many deals are open?', countDeals, { scope: ada })))
console.log(`${results.length} callers, ${runs} run, ${results[0].value.answer}`)
assert.equal(runs, 1)

await s.close()
echo.close()
