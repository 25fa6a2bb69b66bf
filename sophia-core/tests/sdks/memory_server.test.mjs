// The memory as an MCP server, asked by the official client, and beside the reference server `server-memory`.
//
// `make test ONLY=sdks` builds what this needs: `cargo build --workspace --all-features --bin sophia`.
import { Client } from '@modelcontextprotocol/sdk/client/index.js'
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js'
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const built = process.env.SOPHIA_TEST_BUILT ?? join(root, 'target/debug')
const ROUNDS = 400

async function connect(t, command, args, env = {}) {
  const client = new Client({ name: 'test', version: '1' })
  await client.connect(new StdioClientTransport({ command, args, env: { PATH: process.env.PATH, ...env }, stderr: 'ignore' }))
  t.after(() => client.close())
  return client
}

async function folder(t) {
  const path = await mkdtemp(join(tmpdir(), 'sophia-'))
  t.after(() => rm(path, { recursive: true, force: true }))
  return path
}

const sophia = (t, dir, ...args) => connect(t, join(built, 'sophia'), ['mcp', 'serve', ...args, '--data-dir', dir])
const reference = (t, dir) =>
  connect(t, process.execPath, [join(root, 'node_modules/@modelcontextprotocol/server-memory/dist/index.js')], {
    MEMORY_FILE_PATH: join(dir, 'memory.jsonl'),
  })
const call = (client, name, args = {}) => client.callTool({ name, arguments: args })

// A small generator with a seed (mulberry32), so that a failure can be played again.
function random(seed) {
  const next = () => {
    seed = (seed + 0x6d2b79f5) | 0
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
  const below = (n) => Math.floor(next() * n)
  return { below, of: (list) => list[below(list.length)], some: (make, most) => Array.from({ length: below(most + 1) }, make) }
}

const NAMES = ['Ada', 'ada', 'Bob', 'Zürich', '東京', 'a "b"', 'İstanbul', 'ΟΔΟΣ', 'x'.repeat(300), 'tab\\n']
const TYPES = ['person', 'Person', 'city', '', 'naïve']
const TEXTS = ['likes tea', 'Likes TEA', 'lives in Zürich', '', '🗼 tall', 'line\nbreak', 'say "hi"', '{"a": 1}']
const VERBS = ['knows', 'lives_in', 'Knows', 'is a']
const QUERIES = ['', 'ada', 'TEA', 'zür', 'person', 'ος', 'i̇', 'nothing', '🗼', '"', 'line']

function anything(r) {
  const entity = () => ({ name: r.of(NAMES), entityType: r.of(TYPES), observations: r.some(() => r.of(TEXTS), 3) })
  const relation = () => ({ from: r.of(NAMES), to: r.of(NAMES), relationType: r.of(VERBS) })
  const texts = () => r.some(() => r.of(TEXTS), 3)
  const calls = [
    () => ['create_entities', { entities: r.some(entity, 4) }],
    () => ['create_relations', { relations: r.some(relation, 5) }],
    () => ['add_observations', { observations: r.some(() => ({ entityName: r.of(NAMES), contents: texts() }), 2) }],
    () => ['delete_entities', { entityNames: r.some(() => r.of(NAMES), 2) }],
    () => ['delete_observations', { deletions: r.some(() => ({ entityName: r.of(NAMES), observations: texts() }), 2) }],
    () => ['delete_relations', { relations: r.some(relation, 2) }],
    () => ['read_graph', {}],
    () => ['search_nodes', { query: r.of(QUERIES) }],
    () => ['open_nodes', { names: r.some(() => r.of(NAMES), 3) }],
  ]
  return r.of(calls)()
}

test('random calls have the results that the reference server gives', async (t) => {
  const dir = await folder(t)
  const [ours, theirs] = await Promise.all([sophia(t, dir, 'graph'), reference(t, dir)])
  const seed = Number(process.env.SEED ?? Date.now() % 1e9)
  const r = random(seed)
  const played = {}
  for (let round = 0; round < ROUNDS; round++) {
    const [name, args] = anything(r)
    const [mine, reference] = await Promise.all([call(ours, name, args), call(theirs, name, args)])
    const shown = ({ content, structuredContent, isError }) => ({ content, structuredContent, isError: isError ?? false })
    assert.deepEqual(shown(mine), shown(reference), `seed ${seed}, round ${round}: ${name} ${JSON.stringify(args)}`)
    played[reference.isError ? 'refused' : name] = (played[name] ?? 0) + 1
  }
  assert.equal(Object.keys(played).length, 10, `every tool, and a refusal, must have been played: ${JSON.stringify(played)}`)
})

test('the tools are described as the reference server describes them', async (t) => {
  const dir = await folder(t)
  const [ours, theirs] = await Promise.all([sophia(t, dir, 'graph'), reference(t, dir)])
  const described = async (client) =>
    (await client.listTools()).tools.map(({ name, title, description, inputSchema, outputSchema }) => ({
      name, title, description, takes: shape(inputSchema), gives: shape(outputSchema),
    }))
  assert.deepEqual(await described(ours), await described(theirs))
})

// What a schema says of types, without the words around it.
function shape(schema) {
  if (schema.type === 'array') return [shape(schema.items)]
  if (schema.type !== 'object') return schema.type
  return Object.fromEntries(Object.entries(schema.properties ?? {}).map(([name, value]) => [name, shape(value)]))
}

test('memories are stored, found, changed and deleted, and stay in their scope', async (t) => {
  const dir = await folder(t)
  const ada = await sophia(t, dir, 'memory', '--tenant', 'acme', '--user', 'ada')
  const bob = await sophia(t, dir, 'memory', '--tenant', 'acme', '--user', 'bob')
  const names = (await ada.listTools()).tools.map((tool) => tool.name)
  assert.deepEqual(names, ['store_memory', 'search_memories', 'get_memory', 'update_memory', 'delete_memory', 'get_memory_stats'])
  // The client checks each answer against the schema that the tool promises.
  const ask = async (client, name, args) => (await call(client, name, args)).structuredContent
  const stored = await ask(ada, 'store_memory', { content: 'Ada wants the quarterly report as a PDF.', kind: 'preference', tags: ['report'], ttl: '30d', session: 's1' })
  assert.ok(stored.created && Date.parse(stored.expires_at) > Date.now())
  const found = await ask(ada, 'search_memories', { query: 'which file format does she like?' })
  assert.deepEqual([found.total, found.hits[0].id, found.hits[0].session], [1, stored.id, 's1'])
  assert.equal((await ask(bob, 'search_memories', { query: 'report' })).total, 0)
  assert.equal((await ask(bob, 'get_memory', { id: stored.id })).memory, null)
  assert.equal((await ask(ada, 'get_memory', { id: stored.id, session: 's2' })).memory, null)
  const updated = await ask(ada, 'update_memory', { id: stored.id, content: 'Ada wants a spreadsheet.' })
  assert.deepEqual([updated.memory.content, updated.memory.tags], ['Ada wants a spreadsheet.', ['report']])
  assert.deepEqual(await ask(ada, 'get_memory_stats', {}), { memories: 1, messages: 0, conversations: 0 })
  assert.deepEqual(await ask(ada, 'delete_memory', { id: stored.id }), { deleted: true })
  assert.equal((await ask(ada, 'search_memories', { query: 'spreadsheet' })).total, 0)

  const refused = await call(ada, 'store_memory', { content: 'x', tenant: 'globex' })
  assert.ok(refused.isError && /tenant/.test(refused.content[0].text), JSON.stringify(refused))
  assert.ok((await call(ada, 'forget_everything')).isError)
})
