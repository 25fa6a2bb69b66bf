// Registry: any MCP configuration in, what disagrees out, a tool called.
// Run: node examples/node/registry.mjs. It starts the reference server of npm, which `npm install` at the root brings.
import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import { Sophia } from 'sophia-ai'

const everything = fileURLToPath(new URL('../../node_modules/.bin/mcp-server-everything', import.meta.url))
const s = new Sophia()

// The format of Claude, Cursor and VS Code; a file's path works as well.
await s.registry.load({ mcpServers: { everything: { command: everything, args: ['stdio'] } } })
const tools = await s.registry.listTools({ server: 'everything' })
console.log(`${tools.length} tools`)
const result = await s.registry.call('everything', 'echo', { message: 'hello' })
console.log(`${result.server} answered "${result.text}" in ${result.latencyMs.toFixed(1)} ms`)
assert.ok(result.ok && result.text.includes('hello'))

// What several files disagree about, and the fix.
await s.registry.load({ servers: [{ name: 'github', port: 9007 }] }, { source: 'a.yaml' })
await s.registry.load({ active_servers: { github: 9016 } }, { source: 'b.json' })
const conflicts = s.registry.lint()
for (const conflict of conflicts) console.log(`${conflict.kind}: ${conflict.message} Fix: ${conflict.fix}`)
assert.ok(conflicts.some((conflict) => conflict.kind === 'port_mismatch'))

// A server that nobody knows is an error; one that fails would be `ok: false`.
await assert.rejects(s.registry.call('nobody', 'echo', {}), { code: 'NOT_FOUND' })

await s.close()
