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

test.it('answers as the store of Keyv itself', async (t) => {
  const [ours, theirs] = [new Keyv({ store: new SophiaKeyv(s, { scope: { user: 'bob' } }) }), new Keyv()]
  for (const keyv of [ours, theirs]) {
    t.expect(await keyv.setMany([{ key: 'a', value: 1 }, { key: 'b', value: 2 }])).toEqual([true, true])
    for (const ttl of [-5, Infinity, NaN, 0]) {
      await keyv.set('t', 1)
      t.expect(await keyv.set('t', 2, ttl)).toBe(true)
      t.expect(await keyv.get('t')).toBe(ttl < 0 ? undefined : 2)
    }
  }
  const failures = []
  ours.on('error', (error) => failures.push(error.code))
  const entries = [{ key: 'x', value: 1 }, { key: 'bad\0', value: 1 }, { key: 'y', value: 2 }]
  t.expect(await ours.setMany(entries)).toEqual([true, false, true])
  t.expect(failures).toEqual(['INVALID_INPUT'])
  t.expect(await ours.getMany(['x', 'y'])).toEqual([1, 2])
})

test.it('keeps namespaces apart where Keyv does not', async (t) => {
  const options = { useKeyPrefix: false, namespace: 'q' }
  const keyv = (namespace) => new Keyv({ ...options, namespace, store: new SophiaKeyv(s, options) })
  const [q, r] = [keyv('q'), keyv('r')]
  await q.set('k', 1)
  await r.set('k', 2)
  const found = []
  for await (const entry of q.iterator('q')) found.push(entry)
  t.expect(found).toEqual([['k', 1]])
  await keyv('q').clear()
  t.expect([await q.get('k'), await r.get('k')]).toEqual([undefined, 2])
  const told = new Keyv({ ...options, store: new SophiaKeyv(s), throwOnErrors: true })
  told.on('error', () => {})
  await t.expect(told.set('k', 1)).rejects.toMatchObject({ code: 'INVALID_INPUT', context: { field: 'useKeyPrefix' } })
})

test.it('clears nothing where it does not know what', async (t) => {
  const store = new SophiaKeyv(s)
  const [a, b] = ['A', 'B'].map((namespace) => new Keyv({ store, namespace, throwOnErrors: true }))
  for (const keyv of [a, b]) keyv.on('error', () => {})
  await a.set('k', 'a')
  await b.set('k', 'b')
  await t.expect(a.clear()).rejects.toMatchObject({ code: 'INVALID_INPUT', context: { field: 'namespace' } })
  t.expect([await a.get('k'), await b.get('k')]).toEqual(['a', 'b'])
})

test.it('keeps sessions and agents apart', async (t) => {
  const scopes = [{ user: 'eve' }, { user: 'eve', session: '1' }, { user: 'eve', session: '2' }]
  const keyvs = scopes.map((scope) => new Keyv({ store: new SophiaKeyv(s, { scope }), namespace: undefined }))
  for (const [place, keyv] of keyvs.entries()) await keyv.set('k', place)
  await keyvs[0].clear()
  t.expect(await Promise.all(keyvs.map((keyv) => keyv.get('k')))).toEqual([undefined, 1, 2])
})
