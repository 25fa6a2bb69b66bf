// Moving: take over what another tool kept, offer it to a model as tools, move it on, back it up and check it.
//
// Run: node examples/node/moving.mjs
import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Sophia } from 'sophia-ai'

const ada = { tenant: 'acme', user: 'ada' }
// What the MCP reference server `server-memory` keeps in its memory.jsonl.
const keptElsewhere = [
  { type: 'entity', name: 'Ada', entityType: 'person', observations: ['likes tea'] },
  { type: 'entity', name: 'Acme', entityType: 'company', observations: [] },
  { type: 'relation', from: 'Ada', to: 'Acme', relationType: 'works_at' },
]

const directory = await mkdtemp(join(tmpdir(), 'sophia-'))
const file = (name) => join(directory, name)
await writeFile(file('memory.jsonl'), keptElsewhere.map((line) => JSON.stringify(line)).join('\n'))

const s = new Sophia({ dataDir: file('data') })
// Who wrote a file is told from what stands in it. Made again, an import changes nothing.
const taken = await s.memory.import(file('memory.jsonl'), { scope: ada })
const again = await s.memory.import(file('memory.jsonl'), { scope: ada })
console.log(`${taken.format}: ${taken.added} added; again: ${again.added} added, ${again.unchanged} unchanged`)

// The graph and the records are tools of the registry: for `chat`, for callers, and by `sophia mcp serve` for others.
s.registry.register({ id: 'graph', url: 'sophia://graph' })
s.registry.register({ id: 'memory', url: 'sophia://memory' })
const found = await s.registry.call('graph', 'search_nodes', { query: 'tea' }, { scope: ada })
console.log('who likes tea:', found.data.entities[0].name)
await s.registry.call('memory', 'store_memory', { content: 'Ada wants reports as PDF.' }, { scope: ada })

// Everything in lines of JSON, and a copy of the data file while others write.
const written = await s.memory.export(file('all.jsonl'))
const backup = await s.memory.backup(file('backup.db'))
console.log(`exported ${written.records} record, ${written.entities} entities, ${written.facts} fact`)
console.log(`backed up ${backup.bytes} bytes; whole: ${(await s.memory.check()).ok}`)
await s.close()

const other = new Sophia({ dataDir: file('other') })
const moved = await other.memory.import(file('all.jsonl'))
const { hits } = await other.memory.search('which file format?', { scope: ada })
console.log(`moved ${moved.added} things; found again: ${hits[0].record.content}`)
assert.equal(moved.added, written.records + written.entities + written.facts)
await other.close()
await rm(directory, { recursive: true })
