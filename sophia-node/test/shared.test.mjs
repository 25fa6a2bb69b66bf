// What two engines share in Redis, and what they say when it is away.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { Sophia } from '../dist/index.js'

const ada = { tenant: 'acme', user: 'ada' }

async function until(condition) {
  const deadline = Date.now() + 20_000
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, 'waited in vain')
    await setTimeout(10)
  }
}

/** A Redis on a free loopback port that keeps nothing. */
async function redis(t) {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address()
  probe.close()
  await once(probe, 'close')
  const program = process.env.SOPHIA_TEST_REDIS_SERVER ?? 'redis-server'
  const options = ['--port', `${port}`, '--bind', '127.0.0.1', '--save', '', '--dir', mkdtempSync(join(tmpdir(), 'sophia-redis-'))]
  let child
  const answers = () =>
    new Promise((resolve) => {
      const socket = connect(port, '127.0.0.1', () => socket.write('PING\r\n'))
      socket.on('data', (said) => resolve(said.toString().startsWith('+PONG')) || socket.destroy())
      socket.on('error', () => resolve(false))
    })
  const start = async () => {
    child = spawn(program, options, { stdio: 'ignore' })
    await until(answers)
  }
  const kill = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  t.after(kill)
  await start()
  return { url: `redis://127.0.0.1:${port}`, start, kill }
}

async function engine(t, server, config = {}) {
  const sophia = new Sophia({ redis: { url: server.url }, ...config })
  t.after(() => sophia.close())
  await sophia.memory.kv.get('warm-up')
  await until(async () => (await sophia.memory.health()).tiers.l2.status === 'healthy')
  return sophia
}

test('values are shared, changes are heard, and one engine makes a value for all', async (t) => {
  const server = await redis(t)
  const [one, two] = [await engine(t, server), await engine(t, server)]
  await one.memory.kv.set('plan', { seats_left: 3 }, { scope: ada })
  const found = await two.memory.kv.lookUp('plan', { scope: ada })
  assert.deepEqual([found.found, found.value, found.tier, found.degraded], [true, { seats_left: 3 }, 'l2', false])
  await one.memory.kv.set('plan', { seats_left: 2 }, { scope: ada })
  await until(async () => (await two.memory.kv.get('plan', { scope: ada })).seats_left === 2)
  assert.equal(await two.memory.kv.get('plan'), null)
  let made = 0
  const load = async () => {
    made++
    await setTimeout(100)
    return made
  }
  const values = await Promise.all([one, two].map((sophia) => sophia.memory.kv.getOrSet('report', load, { ttlMs: 60_000 })))
  assert.deepEqual([values, made], [[1, 1], 1])
})

test('answers are shared', async (t) => {
  const server = await redis(t)
  const [one, two] = [await engine(t, server), await engine(t, server)]
  const run = (sophia) => sophia.chat.run('How many?', async () => '42', { scope: ada })
  assert.equal((await run(one)).cache.status, 'miss')
  const { value, cache } = await run(two)
  assert.deepEqual([value, cache.status, cache.tier, cache.degraded], ['42', 'hit', 'l2', false])
})

test('without Redis calls go on and say so, and what was deleted stays deleted', async (t) => {
  const server = await redis(t)
  const sophia = await engine(t, server, { dataDir: mkdtempSync(join(tmpdir(), 'sophia-shared-')) })
  await sophia.memory.kv.set('stays', 1)
  await sophia.memory.kv.set('goes', 1)
  await server.kill()
  assert.equal(await sophia.memory.kv.delete('goes'), true)
  const found = await sophia.memory.kv.lookUp('stays')
  assert.deepEqual([found.value, found.degraded, found.steppedOver], [1, true, ['l2']])
  assert.equal((await sophia.memory.health()).tiers.l2.status, 'unhealthy')
  await server.start()
  await until(async () => (await sophia.memory.health()).tiers.l2.status === 'healthy')
  assert.equal(await sophia.memory.kv.get('goes'), null)
})

test('what cannot be a Redis is named', () => {
  assert.throws(() => new Sophia({ redis: { url: 'http://localhost' } }), { code: 'INVALID_CONFIG', message: /redis\.url/ })
})
