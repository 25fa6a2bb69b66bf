// What an await costs: node bench/latency.mjs (after `npm run build`)
import { Probe, Sophia } from '../dist/index.js'

const WARM_UP = 20_000
const ROUNDS = 5

/** Returns the best microseconds per call of several rounds. */
async function measure(name, calls, call) {
  for (let i = 0; i < Math.min(WARM_UP, calls); i++) await call(i)
  let best = Infinity
  for (let round = 0; round < ROUNDS; round++) {
    const began = process.hrtime.bigint()
    for (let i = 0; i < calls; i++) await call(i)
    best = Math.min(best, Number(process.hrtime.bigint() - began) / 1_000 / calls)
  }
  console.log(`${name.padEnd(44)} ${best.toFixed(2).padStart(8)} µs`)
  return best
}

const s = await new Sophia().start()

const scope = { tenant: 'acme', user: 'ada' }
await measure('an empty async function', 200_000, async () => {})

await s.memory.kv.set('key', { plan: 'pro', seats: 3 }, { scope })
await measure('memory.kv.get(key, { scope }), in process', 200_000, () => s.memory.kv.get('key', { scope }))
await measure('memory.kv.getSync(key, { scope }), in process', 200_000, () => s.memory.kv.getSync('key', { scope }))
await measure('memory.kv.getOrSet(key, …), in process', 100_000, () => s.memory.kv.getOrSet('key', () => 1, { scope }))
await measure('memory.kv.set(key, value)', 500, (i) => s.memory.kv.set('other', i, { scope }))

const produce = async () => ({ response: '42' })
await measure('chat.run(message, …), kept', 50_000, () => s.chat.run('open deals?', produce, { scope }))

for (let i = 0; i < 200; i++) await s.memory.store(`Note ${i} about the quarterly report.`, { scope })
await measure('memory.search(query, { limit: 3 })', 500, () => s.memory.search('quarterly report', { scope, limit: 3 }))
s.health.register('callback', { probe: Probe.callback(() => 'ok') })
await measure('health.alerts(), sync', 100_000, () => s.health.alerts())
await measure('health.observe(…), sync', 100_000, (i) => s.health.observe('bench', 'queue_length', i))
await measure('health.check of a callback: there and back', 5_000, () => s.health.check('callback'))
await measure('the same, a hundred at once', 200, () => Promise.all(Array.from({ length: 100 }, () => s.health.check('callback'))))

await s.close()
