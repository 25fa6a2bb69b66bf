// The command line as npm installs it.
import assert from 'node:assert/strict'
import { Client } from '@modelcontextprotocol/sdk/client/index.js'
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js'
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

test('it serves the memory over MCP', async (t) => {
  const client = new Client({ name: 'test', version: '1' })
  const args = [cli, 'mcp', 'serve', 'memory', '--user', 'ada']
  await client.connect(new StdioClientTransport({ command: process.execPath, args, env: { PATH: process.env.PATH }, stderr: 'ignore' }))
  t.after(() => client.close())
  const stored = await client.callTool({ name: 'store_memory', arguments: { content: 'The standup is at ten.' } })
  const found = await client.callTool({ name: 'search_memories', arguments: { query: 'when do we meet?' } })
  assert.equal(found.structuredContent.hits[0].id, stored.structuredContent.id)
})
