// LangGraph.js on Sophia: a graph that goes on where it stopped, for many users, each in a scope of their own.
// Run: npm install && npm run build at the root, and then node examples/node/langgraph.mjs
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { MessagesAnnotation, StateGraph } from '@langchain/langgraph'
import { Sophia } from 'sophia-ai'
import { SophiaSaver, SophiaStore } from 'sophia-ai/langgraph'

const dataDir = await mkdtemp(join(tmpdir(), 'sophia-'))
const s = await new Sophia({ dataDir }).start()

const checkpointer = new SophiaSaver(s, { scope: ({ configurable }) => ({ tenant: 'acme', user: configurable?.user_id ?? 'nobody' }) })
const answer = ({ messages }) => ({ messages: [{ role: 'assistant', content: `You said: ${messages.at(-1).content}` }] })
const graph = new StateGraph(MessagesAnnotation).addNode('answer', answer).addEdge('__start__', 'answer').compile({ checkpointer })

const ada = { configurable: { thread_id: '1', user_id: 'ada' } }
const bob = { configurable: { thread_id: '1', user_id: 'bob' } }
await graph.invoke({ messages: [{ role: 'user', content: 'I drink green tea.' }] }, ada)
const { messages } = await graph.invoke({ messages: [{ role: 'user', content: 'And you?' }] }, ada)
console.log(`the thread has ${messages.length} messages`)
assert.equal(messages.length, 4)

// The same name of a thread, and another user: nothing of it is there.
assert.deepEqual((await graph.getState(bob)).values, {})

// What outlives a thread, found by meaning.
const store = new SophiaStore(s, { scope: { tenant: 'acme', user: 'ada' } })
await store.put(['facts'], 'tea', { text: 'Ada drinks green tea.' })
const [found] = await store.search(['facts'], { query: 'which beverage does she like?' })
console.log(`found ${found.key} with score ${found.score.toFixed(2)}`)
assert.equal(found.key, 'tea')

const { checkpoints } = await s.memory.forget({ subject: 'ada' })
console.log(`forgotten: ${checkpoints} checkpoints`)
assert.deepEqual((await graph.getState(ada)).values, {})
await s.close()
await rm(dataDir, { recursive: true })
