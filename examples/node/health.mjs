// Health: what is wrong, and what may be done about it.
// Run: node examples/node/health.mjs
import assert from 'node:assert/strict'
import { Probe, Sophia } from 'sophia-ai'

const s = new Sophia()
await s.start()

// A probe is a URL, a port, or any function that returns a status.
s.health.register('crm', { probe: Probe.callback(() => ({ status: 'ok', score: 90 })), weight: 0.6 })
s.health.register('mail', { probe: Probe.callback(async () => ({ status: 'degraded', score: 60 })), weight: 0.4 })
await s.health.checkAll()
const report = await s.health.report()
console.log(`overall ${report.overall.score}: ${report.overall.status}`)
assert.equal(report.overall.score, 78)

// Which way is bad is part of the rule.
s.health.rule('cache_hit_ratio', { warning: 0.6, critical: 0.4, direction: 'higher_is_better' })
for (let i = 0; i < 5; i++) s.health.observe('chat', 'cache_hit_ratio', 0.05)
for (const alert of s.health.alerts()) console.log(`${alert.severity}: ${alert.title}`)
assert.deepEqual(s.health.alerts().map((alert) => alert.severity), ['critical'])

// An action runs at once only where the risk is low; otherwise a person decides.
const done = []
s.health.action('restart', (target) => { done.push(target) }, { risk: 'low' })
s.health.action('fail_over', (target) => { done.push(target) }, { risk: 'high' })
console.log('restart:', (await s.health.trigger('restart', 'crm')).status)
const waiting = await s.health.trigger('fail_over', 'crm')
console.log('fail over:', waiting.status)
console.log('fail over, approved:', (await s.health.approve(waiting.id, { by: 'ops@acme' })).status)
assert.deepEqual(done, ['crm', 'crm'])

await s.close()
