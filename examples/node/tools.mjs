// Memory and tools around a question: what the scope knows is recalled, and functions are called until there is an answer.
// Run: node examples/node/tools.mjs. It asks a stand-in for a model, which calls the first tool that it is offered and then
// repeats what the tool said; for a real model give its baseUrl and apiKey.
import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { once } from 'node:events'
import { Sophia } from 'sophia-ai'

const standIn = createServer(async (request, response) => {
  const { messages, tools } = JSON.parse(Buffer.concat(await request.toArray()).toString())
  const last = messages.at(-1)
  const call = { name: tools[0].function.name, arguments: '{"city":"Oslo"}' }
  const message =
    last.role === 'tool'
      ? { role: 'assistant', content: `The tool says: ${last.content}` }
      : { role: 'assistant', content: null, tool_calls: [{ id: 'call-1', type: 'function', function: call }] }
  const finish_reason = last.role === 'tool' ? 'stop' : 'tool_calls'
  response.setHeader('content-type', 'application/json')
  response.end(JSON.stringify({ id: '1', model: 'stand-in', choices: [{ index: 0, message, finish_reason }] }))
}).listen(0, '127.0.0.1')
await once(standIn, 'listening')

const baseUrl = `http://127.0.0.1:${standIn.address().port}/v1`
const s = new Sophia({ chat: { providers: [{ name: 'stand-in', baseUrl, models: ['stand-in'] }] } })
const ada = { tenant: 'acme', user: 'ada', session: 'monday' }
await s.memory.store('Ada lives in Oslo and goes to work by bike.', { scope: { tenant: 'acme', user: 'ada' } })

const forecast = {
  name: 'forecast',
  description: 'Tells how warm a city will be tomorrow.',
  parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
  run: ({ city }, { scope }) => ({ city, high: 12, askedBy: scope.user }),
}
const question = 'Do I need a warm coat in Oslo?'
const answer = await s.chat.complete(question, { scope: ada, memory: { store: true }, tools: [forecast] })
console.log(answer.text)
const { rounds, recalled, steps } = answer.assistance
console.log(`asked ${rounds} times; recalled ${recalled.ids.length} note; stored ${recalled.stored.length} messages`)
assert.deepEqual([rounds, steps[0].tool, recalled.ids.length], [2, 'forecast', 1])
assert.deepEqual(JSON.parse(steps[0].result), { city: 'Oslo', high: 12, askedBy: 'ada' })

// A tool that fails is told to the model, which may do without.
const broken = { ...forecast, run: () => { throw new Error('the satellite is away') } }
const without = await s.chat.complete('And tomorrow?', { scope: ada, tools: [broken] })
assert.match(without.text, /the satellite is away/)

await s.close()
standIn.close()
