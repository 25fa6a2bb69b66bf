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

await measure('an empty async function', 200_000, async () => {})
s.health.register('callback', { probe: Probe.callback(() => 'ok') })
await measure('health.alerts(), sync', 100_000, () => s.health.alerts())
await measure('health.observe(…), sync', 100_000, (i) => s.health.observe('bench', 'queue_length', i))
await measure('health.check of a callback: there and back', 5_000, () => s.health.check('callback'))

await s.close()
