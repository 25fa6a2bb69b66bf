// A model of the AI SDK behind Sophia: asked once, for everyone in a scope. Runs without a key, over a model of its own.
import { generateText, streamText, wrapLanguageModel } from 'ai'
import { MockLanguageModelV3 } from 'ai/test'
import { Sophia } from 'sophia-ai'
import { sophiaMiddleware } from 'sophia-ai/ai-sdk'

const s = new Sophia()
let calls = 0
// In your program: openai('gpt-5'), anthropic('claude-sonnet-4-5'), …
const provider = new MockLanguageModelV3({
  doGenerate: async ({ prompt }) => ({
    content: [{ type: 'text', text: `Answer ${++calls} to: ${prompt.at(-1).content[0].text}` }],
    finishReason: { unified: 'stop', raw: 'stop' },
    usage: { inputTokens: { total: 3 }, outputTokens: { total: 4 } },
    warnings: [],
  }),
})
const model = wrapLanguageModel({ model: provider, middleware: sophiaMiddleware(s, { scope: { tenant: 'acme', user: 'ada' } }) })

const prompt = 'What is our churn?'
const answers = await Promise.all(Array.from({ length: 20 }, () => generateText({ model, prompt })))
console.log(`20 callers, ${calls} call: ${answers[0].text}`)

// What is kept serves streams, too.
const streamed = streamText({ model, prompt })
for await (const delta of streamed.textStream) process.stdout.write(delta)
console.log(` (${(await streamed.providerMetadata).sophia.cache.status})`)

// Another user asks for themselves.
const bob = { sophia: { scope: { tenant: 'acme', user: 'bob' } } }
console.log((await generateText({ model, prompt, providerOptions: bob })).text)
await s.close()
