// The command line as npm installs it.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { test } from 'node:test'
import { promisify } from 'node:util'

const run = promisify(execFile)
const cli = new URL('../dist/cli.js', import.meta.url).pathname

test('the command line answers, and fails with a message that names the fix', async () => {
  // Without the variables of whoever runs the tests: those of the engine are its configuration.
  const env = { PATH: process.env.PATH }
  const { stdout } = await run(process.execPath, [cli, 'check', '--json'], { env })
  assert.equal(typeof JSON.parse(stdout), 'object')
  const failed = await run(process.execPath, [cli, 'chek']).catch((error) => error)
  assert.notEqual(failed.code, 0)
  assert.match(failed.stderr, /check/)
})
