// Dialects: the clients of OpenAI and of Anthropic ask one engine, whatever its provider speaks, and share its answers.
// Run: node examples/node/dialects.mjs (needs the packages openai and @anthropic-ai/sdk). The provider here is an echo server
// that speaks chat completions; `kind` may as well be 'anthropic' or 'responses'.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import Anthropic from '@anthropic-ai/sdk'
import OpenAI from 'openai'
import { Sophia } from 'sophia-ai'

// A server that repeats the question.
let calls = 0
const echo = createServer(async (request, response) => {
  const { model, messages } = JSON.parse(Buffer.concat(await request.toArray()).toString())
  const message = { role: 'assistant', content: `(echo, no model) ${messages.at(-1).content}` }
  calls += 1
  response.setHeader('content-type', 'application/json')
  response.end(JSON.stringify({ id: '1', object: 'chat.completion', created: 1, model, choices: [{ index: 0, message, finish_reason: 'stop' }] }))
}).listen(0, '127.0.0.1')
await once(echo, 'listening')
const baseUrl = `http://127.0.0.1:${echo.address().port}/v1`

const s = new Sophia({ chat: { providers: [{ name: 'echo', kind: 'openai', baseUrl, models: ['echo'] }] } })
const server = createServer(s.handler()).listen(0, '127.0.0.1')
await once(server, 'listening')
const base = `http://127.0.0.1:${server.address().port}`

const openai = new OpenAI({ baseURL: `${base}/v1`, apiKey: 'none' })
const anthropic = new Anthropic({ baseURL: base, apiKey: 'none' })
const messages = [{ role: 'user', content: 'What is our churn?' }]

// The same question in the words of three protocols, whole and streamed: one call, one entry.
const answer = await openai.chat.completions.create({ model: 'echo', messages })
console.log('chat completions:', answer.choices[0].message.content)
console.log('responses:       ', (await openai.responses.create({ model: 'echo', input: 'What is our churn?' })).output_text)
console.log('streamed:        ', (await openai.responses.stream({ model: 'echo', input: messages }).finalResponse()).output_text)
assert.equal(calls, 1)

const asked = { model: 'echo', max_tokens: 100, messages }
console.log('messages:        ', await anthropic.messages.stream(asked).finalText())
console.log('and again:       ', (await anthropic.messages.create(asked)).content[0].text)
assert.equal(calls, 2)

// What the provider's protocol cannot say is refused by name, not dropped.
const thinking = { type: 'enabled', budget_tokens: 1024 }
await assert.rejects(anthropic.messages.create({ ...asked, thinking }), Anthropic.BadRequestError)
assert.equal(calls, 2)

server.closeAllConnections()
server.close()
await s.close()
echo.closeAllConnections()
echo.close()
