// The suite of LangGraph.js for checkpointers, whole.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { validate } from '@langchain/langgraph-checkpoint-validation'
import { Sophia } from '../../dist/index.js'
import { SophiaSaver } from '../../dist/langgraph.js'

const directory = mkdtempSync(join(tmpdir(), 'sophia-'))
const s = new Sophia({ dataDir: directory })
let made = 0

validate({
  checkpointerName: 'SophiaSaver',
  beforeAll: () => s.start().then(() => undefined),
  afterAll: async () => {
    await s.close()
    rmSync(directory, { recursive: true })
  },
  // Each in a scope of its own: an empty store, in one file with all the others.
  createCheckpointer: () => new SophiaSaver(s, { scope: { user: `user-${++made}` } }),
})
