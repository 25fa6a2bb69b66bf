import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import * as errors from '../dist/errors.js'
import { Sophia, SophiaError } from '../dist/index.js'
import { errorCodes } from '../native.js'

test('every code of the table has a class with its name', () => {
  const table = readFileSync(new URL('../../docs/errors.md', import.meta.url), 'utf8')
  const rows = [...table.matchAll(/^\| `([A-Z_]+)` \| (yes|no) \| \d+ \| `(\w+)` \|/gm)]
  const told = errorCodes()
  assert.deepEqual(rows.map(([, code]) => code).sort(), told.map(({ code }) => code).sort())
  for (const [, code, retryable, name] of rows) {
    const error = errors.toError({ ...told.find((one) => one.code === code), causes: ['outer', 'inner'] })
    assert.ok(error instanceof errors[name] && error instanceof SophiaError && error instanceof Error, code)
    assert.equal(error.name, name)
    assert.equal(error.code, code)
    assert.equal(error.retryable, retryable === 'yes')
    assert.equal(error.retryAfterMs, null)
    assert.equal(error.operation, 'errors')
    assert.equal(error.message, 'errors: an example')
    assert.equal(error.cause.message, 'outer')
    assert.equal(error.cause.cause.message, 'inner')
  }
})

test('a failure of a call is caught by its code and by its class', async () => {
  const s = new Sophia()
  await assert.rejects(s.health.check('nobody'), { code: 'NOT_FOUND', name: 'NotFoundError', retryable: false })
  await assert.rejects(s.health.check('nobody'), errors.NotFoundError)
  assert.throws(() => s.health.ack('no-such-alert', 'ada'), { code: 'NOT_FOUND', operation: 'health.ack' })
})

test('the stack of an error names the caller', async function theCaller() {
  const s = new Sophia()
  const error = await s.health.check('nobody').catch((e) => e)
  assert.match(error.stack, /theCaller/)
})

test('a bad configuration is refused by the constructor, in the names of the caller', () => {
  const refused = (config) => {
    try {
      new Sophia(config)
    } catch (error) {
      return error
    }
    return assert.fail('was accepted')
  }
  const misspelt = refused({ dataDirr: './data' })
  assert.ok(misspelt instanceof errors.InvalidConfigError)
  assert.equal(misspelt.message, 'config: `dataDirr` is not a known field; did you mean `dataDir`?')
  assert.equal(misspelt.context.field, 'dataDirr')
  assert.equal(refused({ health: { intervallMs: 5 } }).message, 'config: `health.intervallMs` is not a known field; did you mean `intervalMs`?')
  const wrong = refused({ health: { intervalMs: '5s' } })
  assert.match(wrong.message, /^config: `health.intervalMs` is wrong: .*expected a number of milliseconds$/)
  assert.match(refused({ health: { failAfter: 1.5 } }).message, /^config: `health.failAfter` is wrong: .*expected a whole number of at least 0$/)
  assert.equal(refused({ health: { intervalMs: NaN } }).message, 'config: `health.intervalMs` must be a finite number, not NaN')
  assert.match(refused('./no-such-file.toml').message, /no-such-file.toml/)
})

test('a bad argument is named as the caller wrote it', () => {
  const s = new Sophia()
  const register = (options) => () => s.health.register('x', { probe: { kind: 'tcp', host: 'h', port: 1 }, ...options })
  assert.throws(register({ timeoutMs: -1 }), { code: 'INVALID_INPUT', context: { field: 'timeoutMs' } })
  assert.throws(register({ failAfter: 0 }), { message: /^health.register: `failAfter` must be at least 1$/ })
  assert.throws(register({ fail_afterr: 1 }), { message: /did you mean `failAfter`\?$/ })
  assert.throws(() => s.health.observe('chat', 'latency_ms'), { message: 'health.observe: `value` is required' })
})

test('what JSON would change on the way is refused', async () => {
  const s = new Sophia()
  for (const value of [NaN, Infinity, -Infinity]) {
    assert.throws(() => s.health.observe('chat', 'latency_ms', value), { code: 'INVALID_INPUT', context: { field: 'value' } })
  }
  const fields = []
  for (const name of ['\ud800', 'a\udc00b']) {
    await s.health.check(name).catch((e) => fields.push([e.code, e.context.field]))
  }
  assert.deepEqual(fields, Array(2).fill(['INVALID_INPUT', 'service']))
  await assert.rejects(s.health.check('\u{1F600}'), { code: 'NOT_FOUND' })
  await assert.rejects(s.health.check(10n), { code: 'INVALID_INPUT' })
})
