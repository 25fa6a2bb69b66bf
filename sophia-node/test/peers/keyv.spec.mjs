// The suite of Keyv for stores, whole.
import keyvTestSuite, { keyvIteratorTests } from '@keyv/test-suite'
import Keyv from 'keyv'
import * as test from 'vitest'
import { Sophia } from '../../dist/index.js'
import { SophiaKeyv } from '../../dist/keyv.js'

const s = new Sophia()

// A store for each Keyv, since Keyv writes its namespace into its store; all on one engine.
keyvTestSuite(test, Keyv, () => new SophiaKeyv(s))
keyvIteratorTests(test, Keyv, () => new SophiaKeyv(s))

test.it('keeps to its keys and to its scope', async (t) => {
  await s.memory.kv.set('other', 1)
  const ada = new Keyv({ store: new SophiaKeyv(s, { scope: { user: 'ada' } }), namespace: undefined })
  await ada.set('foo', 'of ada')
  await new Keyv({ store: new SophiaKeyv(s), namespace: undefined }).clear()
  t.expect(await ada.get('foo')).toBe('of ada')
  t.expect(await s.memory.kv.get('other')).toBe(1)
})
