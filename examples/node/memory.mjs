// Memory: a support desk that remembers its customers. Nothing has to run; it all lives in one directory.
// Run: node examples/node/memory.mjs
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Sophia } from 'sophia-ai'

const customer = { tenant: 'acme', user: 'ada' }
const someoneElse = { tenant: 'acme', user: 'bob' }
const dataDir = await mkdtemp(join(tmpdir(), 'sophia-'))
const s = new Sophia({ dataDir })

// Kept whole, and found by meaning in the very next call.
const wish = await s.memory.store('Send the quarterly report as a PDF.', { scope: customer, kind: 'preference', tags: ['report'] })
await s.memory.store('The billing service restarts every few minutes.', { scope: customer, kind: 'incident' })
const found = await s.memory.search('which file format does she want?', { scope: customer, limit: 1 })
console.log(`found "${found.hits[0].record.content}" with score ${found.hits[0].score.toFixed(2)} in ${found.tookMs.toFixed(1)} ms`)
assert.equal(found.hits[0].record.id, wish.id)

// A scope is a wall: what one user stored does not exist for another.
assert.deepEqual((await s.memory.search('report', { scope: someoneElse })).hits, [])

// A change is a new version. `ifVersion` refuses to overwrite a change that somebody else made meanwhile.
const changed = await s.memory.update(wish.id, { scope: customer, content: 'Send the quarterly report as a spreadsheet.', ifVersion: 1 })
const versions = await s.memory.versions(wish.id, { scope: customer })
console.log(`version ${changed.version}: "${changed.content}"; before: "${versions[0].content}"`)

// A conversation keeps its order.
const talk = { ...customer, session: 'monday' }
await s.memory.append(talk, 'user', 'Is the report ready?')
await s.memory.append(talk, 'assistant', 'It is in your inbox.')
for (const turn of await s.memory.history(talk)) console.log(`  ${turn.role}: ${turn.content}`)

// Values by key. However many ask at once, the loader runs once.
let loads = 0
const loadPlan = async () => {
  loads += 1
  await sleep(50)
  return { plan: 'pro' }
}
const asked = Array.from({ length: 100 }, () => s.memory.kv.getOrSet('plan', loadPlan, { scope: customer, ttlMs: 60_000 }))
const plans = await Promise.all(asked)
console.log(`${plans.length} callers, ${loads} load`)
assert.deepEqual([loads, plans[0]], [1, { plan: 'pro' }])

await s.close()
await rm(dataDir, { recursive: true })
