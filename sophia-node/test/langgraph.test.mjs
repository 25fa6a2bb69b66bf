import assert from 'node:assert/strict'
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Annotation, MessagesAnnotation, StateGraph } from '@langchain/langgraph'
import { InMemoryStore, MemorySaver } from '@langchain/langgraph-checkpoint'
import { Sophia } from '../dist/index.js'
import { SophiaSaver, SophiaStore } from '../dist/langgraph.js'

/** What Python gives to the same two places. */
const IDS = [
  'langgraph:f21ad731c46def745b23651a1c8f7692ba52941e08d456d97e21ed99ea3d5b9c',
  'langgraph@5c0c071518e801befb86db6e94ffe3ad:f21ad731c46def745b23651a1c8f7692ba52941e08d456d97e21ed99ea3d5b9c',
]

const State = Annotation.Root({ ...MessagesAnnotation.spec, turns: Annotation })

function chat(checkpointer) {
  const answer = ({ turns = 0 }) => ({ messages: [{ role: 'assistant', content: `answer ${turns + 1}` }], turns: turns + 1 })
  return new StateGraph(State).addNode('answer', answer).addEdge('__start__', 'answer').compile({ checkpointer })
}

const said = ({ messages = [] }) => messages.map((message) => message.content)

test('a graph goes on after a restart, and can be forked, pruned and copied', async () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'sophia-'))
  const config = { configurable: { thread_id: 't' } }
  const first = new Sophia({ dataDir })
  await chat(new SophiaSaver(first)).invoke({ messages: [{ role: 'user', content: 'one' }] }, config)
  await first.close()

  const s = new Sophia({ dataDir })
  const saver = new SophiaSaver(s)
  const graph = chat(saver)
  const state = await graph.invoke({ messages: [{ role: 'user', content: 'two – zwei 二' }] }, config)
  assert.deepEqual(said(state), ['one', 'answer 1', 'two – zwei 二', 'answer 2'])
  const history = await all(graph.getStateHistory(config))
  const before = history.find((snapshot) => said(snapshot.values).length === 2)
  const forked = await graph.invoke({ messages: [{ role: 'user', content: 'instead' }] }, before.config)
  assert.deepEqual(said(forked), ['one', 'answer 1', 'instead', 'answer 2'])
  const [latest] = history
  assert.deepEqual(said((await graph.getState(latest.config)).values), said(state))
  const copied = await graph.updateState(latest.config, null, '__copy__')
  assert.deepEqual(said((await graph.getState(copied)).values), said(state))
  await saver.copyThread('t', 'copy')
  await saver.prune(['t'])
  assert.equal((await all(saver.list(config))).length, 1)
  const { values } = await graph.getState({ configurable: { thread_id: 'copy' } })
  assert.deepEqual(said(values), said((await graph.getState(config)).values))
  await saver.deleteThread('t')
  assert.equal(await saver.getTuple(config), undefined)
  await s.close()
})

test('one graph serves many users, each in a scope of its own', async () => {
  const s = new Sophia()
  const graph = chat(new SophiaSaver(s, { scope: ({ configurable }) => ({ user: configurable?.user_id ?? 'nobody' }) }))
  const of = (user_id) => ({ configurable: { thread_id: 't', user_id } })
  await graph.invoke({ messages: [{ role: 'user', content: 'of ada' }] }, of('ada'))
  assert.deepEqual((await graph.getState(of('bob'))).values, {})
  assert.equal(said((await graph.getState(of('ada'))).values)[0], 'of ada')
  assert.equal((await s.memory.forget({ scope: { user: 'ada' } })).checkpoints, 3)
  assert.deepEqual((await graph.getState(of('ada'))).values, {})
})

test('what is given no config needs a saver with the scope itself', async () => {
  const s = new Sophia()
  const saver = new SophiaSaver(s, { scope: ({ configurable }) => ({ user: configurable.user_id }) })
  const config = { configurable: { thread_id: 't', user_id: 'ada' } }
  await chat(saver).invoke({ messages: [{ role: 'user', content: 'one' }] }, config)
  const refused = { code: 'INVALID_INPUT', context: { field: 'scope' }, message: /take a saver with the scope itself/ }
  await assert.rejects(saver.deleteThread('t'), refused)
  await assert.rejects(saver.prune(['t']), refused)
  await assert.rejects(saver.copyThread('t', 'u'), refused)
  await assert.rejects(saver.deleteForRuns(['r']), refused)
  await assert.rejects(all(saver.list({})), refused)
  assert.equal((await all(saver.list({ configurable: { user_id: 'ada' } }))).length, 3)
  const ada = new SophiaSaver(s, { scope: { user: 'ada' } })
  assert.equal((await all(ada.list({}))).length, 3)
  await ada.deleteThread('t')
  assert.equal(await saver.getTuple(config), undefined)
  const narrow = { code: 'INVALID_INPUT', context: { field: 'scope.session' } }
  assert.throws(() => new SophiaSaver(s, { scope: { user: 'ada', session: '1' } }), narrow)
  await assert.rejects(new SophiaSaver(s, { scope: () => ({ session: '1' }) }).getTuple(config), narrow)
})

test('a thread that is null is not all threads', async () => {
  const saver = new SophiaSaver(new Sophia())
  const graph = chat(saver)
  for (const thread_id of ['alice', 'bob']) {
    await graph.invoke({ messages: [{ role: 'user', content: 'x' }] }, { configurable: { thread_id } })
  }
  const threads = (await all(saver.list({}))).map((found) => found.config.configurable.thread_id)
  assert.deepEqual([...new Set(threads)].sort(), ['alice', 'bob'])
  const unknown = { configurable: { thread_id: null } }
  await assert.rejects(all(saver.list(unknown)), /thread_id. is missing, or null/)
  await assert.rejects(saver.getTuple(unknown), /thread_id. is missing, or null/)
})

test('a thread may be named by a number', async () => {
  const s = new Sophia()
  const saver = new SophiaSaver(s)
  const config = { configurable: { thread_id: 42 } }
  const graph = chat(saver)
  await graph.invoke({ messages: [{ role: 'user', content: 'one' }] }, config)
  assert.equal((await all(graph.getStateHistory(config))).length, 3)
  await saver.copyThread(42, 43)
  await saver.prune([43])
  assert.equal((await all(saver.list({ configurable: { thread_id: 43 } }))).length, 1)
  await saver.deleteThread(42)
  assert.equal(await saver.getTuple(config), undefined)
})

test('a thread that was begun with numbers as versions goes on', async () => {
  const s = new Sophia()
  const config = { configurable: { thread_id: 't', checkpoint_ns: '' } }
  const [saver, other] = [new SophiaSaver(s), new MemorySaver()]
  await chat(other).invoke({ messages: [{ role: 'user', content: 'one' }] }, config)
  for (const { parentConfig, checkpoint, metadata } of (await all(other.list(config))).reverse()) {
    await saver.put(parentConfig ?? config, checkpoint, metadata, checkpoint.channel_versions)
  }
  const graph = chat(saver)
  for (const [turn, content] of [[2, 'two'], [3, 'three']]) {
    const state = await graph.invoke({ messages: [{ role: 'user', content }] }, config)
    assert.deepEqual(said(state).slice(-2), [content, `answer ${turn}`])
  }
  const versions = Object.values((await saver.getTuple(config)).checkpoint.channel_versions)
  assert.ok(versions.every((version) => typeof version === 'number') && new Set(versions).size > 1)
  const [first, second] = [saver.getNextVersion(7), saver.getNextVersion(7)]
  assert.ok(first >= 8 && first < 9 && second >= 8 && second < 9 && first !== second)
})

test('bytes that are no text come back as base64', async () => {
  const s = new Sophia()
  const body = { encoding: 'raw', data: { base64: '/wA=' } }
  await s.memory.checkpoints.put({ thread: 't', id: '1', body, metadata: { some_key: 1 } })
  const found = await s.memory.checkpoints.get('t')
  assert.deepEqual(found.body, body)
  assert.deepEqual(found.metadata, { some_key: 1 })
  const wrong = { thread: 't', id: '2', body: { encoding: 'raw', data: { base64: '*' } } }
  await assert.rejects(s.memory.checkpoints.put(wrong), { code: 'INVALID_INPUT', context: { field: 'body.data' } })
  await assert.rejects(s.memory.checkpoints.copyThread('t', 't'), { code: 'CONFLICT' })
  assert.equal(await s.memory.checkpoints.deleteForRuns(['none']), 0)
  assert.deepEqual((await s.memory.checkpoints.deltas('t', ['a'])).a, { seed: null, writes: [] })
  assert.equal((await s.memory.checkpoints.list()).checkpoints.length, 1)
})

test("the store answers as LangGraph's own", async () => {
  const s = new Sophia()
  const stores = [new SophiaStore(s), new InMemoryStore()]
  for (const store of stores) {
    await store.put(['docs', 'a'], '1', { color: 'red', size: 1, deep: { x: [1, null] } })
    await store.put(['docs', 'a'], '2', { color: 'blue', size: 2.5 })
    await store.put(['docs', 'b', 'v1'], '1', { color: 'red', size: 3 })
    await store.put(['docs', 'a'], '3', { meta: { age: 30, x: 1 }, on: true, size: 0, score: '10' })
    await store.put(['docs', 'c'], '1', { meta: { age: 10 }, on: 1, size: -1, score: '9' })
    await store.put(['users'], '1', { name: 'Ada' })
    await store.put(['docs', 'a'], '2', { color: 'blue', size: 7 })
    await store.put(['users'], '2', { name: 'gone' })
    await store.delete(['users'], '2')
  }
  const plain = (found) => {
    if (Array.isArray(found)) return found.map(plain).sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1))
    return found && typeof found === 'object' ? { value: found.value, key: found.key, namespace: found.namespace } : found
  }
  const both = async (ask) => {
    const [ours, theirs] = await Promise.all(stores.map(ask))
    assert.deepEqual(plain(ours), plain(theirs))
  }
  await both((store) => store.get(['docs', 'a'], '2'))
  await both((store) => store.get(['users'], '2'))
  for (const prefix of [['docs'], ['docs', 'a'], ['doc']]) await both((store) => store.search(prefix))
  const filters = [
    { color: 'red' },
    { size: { $gt: 2 } },
    { size: { $gte: 3, $lt: 7 }, color: 'red' },
    { color: { $in: ['blue'] } },
    { on: 1 },
    { on: true },
    { missing: null },
    { missing: undefined },
    { score: { $gt: '9' } },
    { color: { $gt: 0 } },
  ]
  for (const filter of filters) await both((store) => store.search(['docs'], { filter }))
  const [ours, theirs] = stores
  const nested = [
    [{ deep: { x: [1, null] } }, ['1']],
    [{ deep: { x: [1] } }, []],
    [{ meta: { age: { $gt: 20 } } }, ['3']],
    [{ meta: { age: 10 } }, ['1']],
  ]
  for (const [filter, keys] of nested) assert.deepEqual((await ours.search(['docs'], { filter })).map(({ key }) => key), keys)
  assert.deepEqual(await ours.listNamespaces(), await theirs.listNamespaces())
  assert.deepEqual(await ours.listNamespaces({ prefix: ['docs'], maxDepth: 2 }), await theirs.listNamespaces({ prefix: ['docs'], maxDepth: 2 }))
  assert.deepEqual(await ours.listNamespaces({ suffix: ['v1'] }), [['docs', 'b', 'v1']])
})

test('a store is shared with Python, and apart from those of other sessions and agents', async () => {
  const s = new Sophia()
  const names = [['u', 'é😀"\n'], 'schlüssel']
  const store = (scope) => new SophiaStore(s, { scope: { user: 'ada', ...scope } })
  const [ada, one, two] = [store({}), store({ session: '1' }), store({ session: '1', agent: 'a' })]
  for (const [n, each] of [ada, one, two].entries()) await each.put(...names, { n })
  for (const [n, each] of [ada, one, two].entries()) {
    assert.deepEqual((await each.get(...names)).value, { n })
    assert.deepEqual((await each.search([])).map(({ value }) => value), [{ n }])
    assert.deepEqual(await each.listNamespaces(), [names[0]])
  }
  await one.delete(...names)
  assert.deepEqual((await ada.get(...names)).value, { n: 0 })
  const ids = (await s.memory.search('', { scope: { user: 'ada' } })).hits.map(({ record }) => record.id)
  assert.deepEqual(ids.sort(), IDS)
  for (const namespace of [['a', 'b'], ['a'], ['a!'], ['a"'], ['😀'], ['\uffee']]) await one.put(namespace, 'k', {})
  assert.deepEqual(await one.listNamespaces(), [['a'], ['a', 'b'], ['a!'], ['a"'], ['\uffee'], ['😀']])
})

test('the store finds by meaning, and leaves out what is not indexed', async () => {
  const s = new Sophia()
  const store = new SophiaStore(s, { index: { fields: ['text'] } })
  await store.put(['m'], 'tea', { text: 'Ada drinks green tea.' })
  await store.put(['m'], 'bike', { text: 'Her bicycle is broken.' })
  await store.put(['m'], 'hidden', { text: 'What does she drink? Tea.' }, false)
  const found = await store.search(['m'], { query: 'which beverage does she like?' })
  assert.equal(found[0].key, 'tea')
  assert.ok(found[0].score > 0)
  assert.equal(found.at(-1).key, 'hidden')
  assert.equal(found.at(-1).score, undefined)
  const whole = new SophiaStore(s, { scope: { user: 'ada' } })
  await whole.put(['m'], 'tea', { deep: { text: 'Ada drinks green tea.' } })
  await whole.put(['m'], 'bike', { deep: { text: 'Her bicycle is broken.' } })
  const [first] = await whole.search(['m'], { query: 'which beverage does she like?' })
  assert.ok(first.key === 'tea' && first.score > 0)
})

test('the store lists beyond the deepest offset, and says what a query does not reach', async () => {
  const s = new Sophia()
  const store = new SophiaStore(s)
  await store.put(['bulk'], 'first', { n: 0, text: 'revenue' })
  const item = { kind: 'langgraph.item', category: '["bulk"]', tags: ['[]', '["bulk"]'] }
  for (let first = 1; first <= 11_001; first += 5_500) {
    const numbers = Array.from({ length: Math.min(5_500, 11_002 - first) }, (_, at) => first + at)
    await s.memory.storeMany(numbers.map((n) => ({ ...item, content: 'revenue', source: `${n}`, metadata: { n } })))
  }
  const found = await store.search(['bulk'], { limit: 12_000 })
  assert.equal(found.length, 11_002)
  assert.equal(new Set(found.map(({ value }) => value.n)).size, 11_002)
  assert.deepEqual((await store.search(['bulk'], { filter: { n: { $lt: 1 } } })).map(({ key }) => key), ['first'])
  assert.deepEqual((await store.search(['bulk'], { limit: 5, offset: 11_001 })).map(({ key }) => key), ['first'])
  await assert.rejects(store.search(['bulk'], { query: 'revenue', limit: 12_000 }), /reaches its first 11000 items/)
})

async function all(items) {
  const list = []
  for await (const item of items) list.push(item)
  return list
}
