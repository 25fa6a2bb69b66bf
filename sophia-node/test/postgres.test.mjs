// Records, values, facts and checkpoints in Postgres, by configuration alone.
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chownSync, cpSync, existsSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { Sophia } from '../dist/index.js'

const ada = { tenant: 'acme', user: 'ada' }
// Postgres refuses to run as root: then it is `nobody` who runs it.
const nobody = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {}
const installed = process.env.SOPHIA_TEST_POSTGRES_BIN
const skip = installed && existsSync(join(installed, 'initdb')) ? false : 'Postgres is not installed: make test installs it'

/** A Postgres on a free loopback port. */
async function postgres(t) {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address()
  probe.close()
  await once(probe, 'close')
  const directory = mkdtempSync(join(tmpdir(), 'sophia-postgres-'))
  if (nobody.uid) chownSync(directory, nobody.uid, nobody.gid)
  const options = { cwd: directory, stdio: 'ignore', ...nobody }
  let programs = installed
  if (spawnSync(join(programs, 'postgres'), ['--version'], options).status !== 0) {
    // A copy, where `nobody` may not read what is installed.
    cpSync(dirname(programs), join(directory, 'install'), { recursive: true, dereference: true })
    programs = join(directory, 'install', 'bin')
  }
  const run = (name, ...given) => spawnSync(join(programs, name), given, options).status
  const made = ['--auth=trust', '--username=sophia', '--no-sync', '--encoding=UTF8', '--locale=C', '-D', 'data']
  assert.equal(run('initdb', ...made), 0)
  let child
  const start = async () => {
    const settings = ['-c', 'listen_addresses=127.0.0.1', '-c', 'fsync=off', '-k', directory]
    child = spawn(join(programs, 'postgres'), ['-D', 'data', '-p', `${port}`, ...settings], options)
    const deadline = Date.now() + 60_000
    while (run('pg_isready', '--quiet', '--host=127.0.0.1', `--port=${port}`) !== 0) {
      assert.ok(Date.now() < deadline && child.exitCode === null, 'Postgres does not answer')
      await setTimeout(10)
    }
  }
  const kill = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    // Killed itself, it would leave those behind who serve a connection, for a moment.
    child.kill('SIGQUIT')
    await once(child, 'exit')
  }
  t.after(async () => {
    await kill()
    rmSync(directory, { recursive: true, force: true })
  })
  await start()
  return { url: `postgres://sophia@127.0.0.1:${port}/postgres`, start, kill }
}

test('everything is kept in Postgres, and shared', { skip }, async (t) => {
  const server = await postgres(t)
  const [one, other] = [1, 2].map(() => new Sophia({ postgres: { url: server.url } }))
  t.after(() => Promise.all([one.close(), other.close()]))
  const stored = await one.memory.store('Ada wants the quarterly report as a PDF.', { scope: ada })
  const found = await other.memory.search('which file format does she like?', { scope: ada })
  assert.deepEqual(found.hits.map((hit) => hit.record.id), [stored.id])
  await one.memory.kv.set('plan', { seats: 3 }, { scope: ada })
  assert.deepEqual(await other.memory.kv.get('plan', { scope: ada }), { seats: 3 })
  const tier = (await other.memory.health()).tiers.l3
  assert.equal(tier.status, 'healthy')
  assert.match(tier.detail, /^Postgres/)
  await server.kill()
  await assert.rejects(one.memory.store('lost', { scope: ada }), { code: 'UNAVAILABLE', retryable: true })
  await server.start()
  assert.equal((await one.memory.forget({ scope: ada })).records, 1)
})
