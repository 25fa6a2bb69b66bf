// The real SDKs for Node, pointed at a served engine: they work by changing their `baseURL`.
//
// `make test ONLY=sdks` builds what this needs: `cargo build --workspace --all-features --example served_mock`.
import { createAnthropic } from '@ai-sdk/anthropic'
import { createOpenAI } from '@ai-sdk/openai'
import Anthropic from '@anthropic-ai/sdk'
import { APICallError, embedMany, generateText, Output, stepCountIs, streamText, tool } from 'ai'
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { after, before, describe, test } from 'node:test'
import { createInterface } from 'node:readline/promises'
import { fileURLToPath } from 'node:url'
import OpenAI from 'openai'
import { z } from 'zod'

const built = process.env.SOPHIA_TEST_BUILT ?? fileURLToPath(new URL('../../../target/debug', import.meta.url))
const user = (content) => [{ role: 'user', content }]
const options = { apiKey: 'test-key', maxRetries: 0 }
const parameters = {
  type: 'object',
  properties: { x: { type: 'integer' } },
  required: ['x'],
  additionalProperties: false,
}
const City = z.object({ name: z.string(), people: z.number() })
let program, addresses

before(async () => {
  program = spawn(`${built}/examples/served_mock`, { stdio: ['pipe', 'pipe', 'inherit'] })
  for await (const line of createInterface({ input: program.stdout })) {
    addresses = JSON.parse(line)
    break
  }
})
after(() => program.stdin.end())

async function collect(parts) {
  const all = []
  for await (const part of parts) all.push(part)
  return all
}

for (const upstream of ['openai', 'anthropic', 'responses']) {
  describe(`over a provider that speaks ${upstream}`, () => {
    const base = () => addresses[upstream]

    test('openai: chat completions', async () => {
      const { chat } = new OpenAI({ baseURL: `${base()}/v1`, ...options })
      const answer = await chat.completions.create({ model: 'small', messages: user('hello you') })
      assert.equal(answer.choices[0].message.content, 'You asked: hello you')
      const stream = chat.completions.stream({ model: 'small', messages: user('tell me more') })
      const deltas = (await collect(stream)).map((chunk) => chunk.choices[0]?.delta.content ?? '')
      assert.equal(deltas.join(''), 'You asked: tell me more')
      assert.equal((await stream.finalChatCompletion()).choices[0].finish_reason, 'stop')
      const tools = [{ type: 'function', function: { name: 'find', parameters } }]
      const called = await chat.completions.create({ model: 'small', messages: user('fault:tool_call'), tools })
      assert.deepEqual(called.choices[0].message.tool_calls.map((call) => call.function), [{ name: 'find', arguments: '{"x":1}' }])
    })

    test('openai: responses', async () => {
      const { responses } = new OpenAI({ baseURL: `${base()}/v1`, ...options })
      const answer = await responses.create({ model: 'small', instructions: 'Be brief.', input: 'hello you' })
      assert.equal(answer.output_text, 'You asked: hello you')
      const stream = responses.stream({ model: 'small', input: 'tell me more' })
      const deltas = (await collect(stream)).filter((event) => event.type === 'response.output_text.delta')
      assert.equal(deltas.map((event) => event.delta).join(''), 'You asked: tell me more')
      assert.equal((await stream.finalResponse()).status, 'completed')
      const tools = [{ type: 'function', name: 'find', parameters, strict: true }]
      const called = await responses.create({ model: 'small', input: 'fault:tool_call', tools })
      assert.deepEqual([called.output[0].name, called.output[0].arguments], ['find', '{"x":1}'])
    })

    test('anthropic: messages', async () => {
      const { messages } = new Anthropic({ baseURL: base(), ...options })
      const answer = await messages.create({ model: 'small', max_tokens: 99, messages: user('hello you') })
      assert.deepEqual([answer.content[0].text, answer.stop_reason], ['You asked: hello you', 'end_turn'])
      const stream = messages.stream({ model: 'small', max_tokens: 99, messages: user('tell me more') })
      const deltas = []
      stream.on('text', (delta) => deltas.push(delta))
      assert.equal(await stream.finalText(), 'You asked: tell me more')
      assert.ok(deltas.length > 1)
      const tools = [{ name: 'find', input_schema: parameters }]
      const asked = { model: 'small', max_tokens: 99, messages: user('fault:tool_call'), tools }
      for (const called of [await messages.create(asked), await messages.stream(asked).finalMessage()]) {
        assert.deepEqual([called.content[0].name, called.content[0].input, called.stop_reason], ['find', { x: 1 }, 'tool_use'])
      }
    })

    test('errors are the SDKs own', async () => {
      const openai = new OpenAI({ baseURL: `${base()}/v1`, ...options })
      const anthropic = new Anthropic({ baseURL: base(), ...options })
      for (const [fault, name] of [
        ['fail:400', 'BadRequestError'],
        ['fail:401', 'AuthenticationError'],
        ['fail:404', 'NotFoundError'],
        ['fault:limit', 'RateLimitError'],
        ['fail:500', 'InternalServerError'],
      ]) {
        for (const stream of [false, true]) {
          const messages = user(`${fault} one two`)
          await assert.rejects(openai.chat.completions.create({ model: 'small', messages, stream }), OpenAI[name])
          await assert.rejects(openai.responses.create({ model: 'small', input: messages, stream }), OpenAI[name])
          await assert.rejects(anthropic.messages.create({ model: 'small', max_tokens: 9, messages, stream }), Anthropic[name])
        }
      }
      const cut = user('fault:cut one two three')
      const broken = async (stream) => collect(await stream)
      await assert.rejects(broken(openai.chat.completions.create({ model: 'small', messages: cut, stream: true })), OpenAI.APIError)
      await assert.rejects(broken(openai.responses.create({ model: 'small', input: cut, stream: true })), OpenAI.APIError)
      await assert.rejects(
        broken(anthropic.messages.create({ model: 'small', max_tokens: 9, messages: cut, stream: true })),
        Anthropic.APIError,
      )
      const stranger = new Anthropic({ baseURL: base(), apiKey: 'wrong', maxRetries: 0 })
      await assert.rejects(stranger.messages.create({ model: 'small', max_tokens: 9, messages: cut }), Anthropic.AuthenticationError)
    })

    for (const dialect of ['chat', 'responses', 'messages']) {
      test(`ai sdk: ${dialect}`, async () => {
        const given = { baseURL: `${base()}/v1`, apiKey: 'test-key' }
        const model = {
          chat: () => createOpenAI(given).chat('small'),
          responses: () => createOpenAI(given).responses('small'),
          messages: () => createAnthropic(given)('small'),
        }[dialect]()
        const common = { model, maxRetries: 0 }
        const answer = await generateText({ ...common, system: 'Be brief.', prompt: 'hello you' })
        assert.deepEqual([answer.text, answer.finishReason, answer.usage.outputTokens], ['You asked: hello you', 'stop', 5])

        const streamed = streamText({ ...common, prompt: 'tell me more' })
        const parts = await collect(streamed.textStream)
        assert.equal(parts.join(''), 'You asked: tell me more')
        assert.ok(parts.length > 1)
        const said = [...answer.response.messages, ...user('tell me more'), ...(await streamed.response).messages]
        const further = await generateText({ ...common, messages: [...user('hello you'), ...said, ...user('and then')] })
        assert.equal(further.text, 'You asked: and then')

        const given_to = []
        const find = tool({
          description: 'Finds a number.',
          inputSchema: z.object({ x: z.number() }),
          execute: async (input) => (given_to.push(input), 'forty-two'),
        })
        const called = await generateText({ ...common, prompt: 'fault:tool_call', tools: { find }, stopWhen: stepCountIs(2) })
        assert.deepEqual([given_to, called.steps.length], [[{ x: 1 }], 2])
        assert.match(called.text, /^You asked: .*forty-two/)
        const live = streamText({ ...common, prompt: 'fault:tool_call again', tools: { find } })
        assert.deepEqual((await live.toolCalls).map((call) => call.input), [{ x: 1 }])

        const city = await generateText({ ...common, prompt: 'Zurich', output: Output.object({ schema: City }) })
        assert.deepEqual(city.output, { name: 'Zurich', people: 1 })

        await assert.rejects(generateText({ ...common, prompt: 'fault:limit' }), (error) => {
          assert.ok(APICallError.isInstance(error), String(error))
          assert.deepEqual([error.statusCode, error.isRetryable], [429, true])
          return true
        })
        const failed = []
        await collect(streamText({ ...common, prompt: 'fault:cut one two three', onError: ({ error }) => failed.push(error) }).textStream)
        assert.equal(failed.length, 1)
      })
    }
  })
}

test('ai sdk: embeddings', async () => {
  const model = createOpenAI({ baseURL: `${addresses.openai}/v1`, apiKey: 'test-key' }).embedding('small')
  const { embeddings } = await embedMany({ model, values: ['a', 'bbb'] })
  assert.deepEqual(embeddings, [[1, 1], [3, 1]])
})
