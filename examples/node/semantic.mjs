// Chat's semantic tier: the same question in other words is answered from the cache, and what changes the answer is asked.
// Run: node examples/node/semantic.mjs. It asks an echo server of its own.
import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { once } from 'node:events'
import { Sophia } from 'sophia-ai'

const ada = { tenant: 'acme', user: 'ada' }
const questions = [
  'How do I reset my router?',
  'Please tell me how I can reset my router.', // The same: served.
  'How do I reset my 2 routers?', // A number more: asked.
  'How do I not reset my router?', // The contrary: asked.
]

let calls = 0
const echo = createServer(async (request, response) => {
  const { model, messages } = JSON.parse(Buffer.concat(await request.toArray()).toString())
  const message = { role: 'assistant', content: `(echo, no model) ${messages.at(-1).content}` }
  calls += 1
  response.setHeader('content-type', 'application/json')
  response.end(JSON.stringify({ id: '1', object: 'chat.completion', created: 1, model, choices: [{ index: 0, message, finish_reason: 'stop' }] }))
}).listen(0, '127.0.0.1')
await once(echo, 'listening')
const provider = { name: 'echo', baseUrl: `http://127.0.0.1:${echo.address().port}/v1`, models: ['echo'] }

// "auto" would only report until enough answers agreed; "serve" trusts the threshold until answers speak against it.
const s = new Sophia({ chat: { providers: [provider], semantic: { enabled: true, mode: 'serve', audit: 0 } } })
for (const question of questions) {
  const answer = await s.chat.complete(question, { scope: ada, explain: true })
  const { outcome } = answer.explain.stages.find(({ stage }) => stage === 'semantic')
  console.log(`${answer.cache.status}: ${question} (semantic: ${outcome})`)
}
assert.equal(calls, 3)

// A user says that an answer by meaning was wrong: it serves no other question any more.
const { cache } = await s.chat.complete(questions[1], { scope: ada })
assert.ok(s.chat.semanticFeedback(cache.key, 'wrong', { scope: ada }))
assert.equal((await s.chat.complete(questions[1], { scope: ada })).cache.status, 'miss')
const report = s.chat.semanticReport()
console.log(`served ${report.served} of ${report.lookups}, judged wrong ${report.wrong}`)
assert.equal(report.wrong, 1)

await s.close()
echo.close()
