// What the engine logs arrives at a function, or where Node's warnings go.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { program } from './support.mjs'

const entry = new URL('../dist/index.js', import.meta.url).href
const warning = 'a tier is away, and will have to catch up'
const prelude = `
import { once } from 'node:events'
import { setTimeout } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { onLog } from ${JSON.stringify(entry)}

const away = () => new Sophia({ redis: { url: 'redis://127.0.0.1:1' } })
async function until(condition) {
  while (!condition()) await setTimeout(5)
}
`
const run = (text) => program(prelude + text)

test('a function hears level, target, message and fields; when it throws, it hears the rest, and the process ends by itself', async () => {
  const { code, output } = await run(`
    const heard = []
    let thrown
    process.on('uncaughtException', (error) => (thrown = error))
    onLog((entry) => {
      heard.push(entry)
      throw new Error('a listener that throws')
    })
    const s = away()
    await s.memory.kv.set('a', 1)
    s.registry.register({ id: 'memory', url: 'sophia://memory' })
    s.registry.export()
    const told = () => heard.find(({ level }) => level === 'warn')
    await until(() => told() && heard.length > 1 && thrown)
    console.log(JSON.stringify([told(), thrown.message]))
  `)
  assert.equal(code, 0, output)
  const told = { level: 'warn', target: 'sophia.memory', message: warning, fields: { tier: 'l2' } }
  assert.deepEqual(JSON.parse(output), [told, 'a listener that throws'])
})

test('without a function, warnings are warnings of Node, and debug is not made', async () => {
  const { code, output } = await run(`
    process.on('warning', ({ name, code, message }) => console.log(JSON.stringify([name, code, message])))
    const s = away()
    s.registry.register({ id: 'memory', url: 'sophia://memory' })
    s.registry.export()
    await s.memory.kv.set('a', 1)
    await setTimeout(100)
  `)
  const [told, ...rest] = output.split('\n').filter((line) => line.startsWith('['))
  assert.deepEqual([code, JSON.parse(told), rest], [0, ['SophiaWarning', 'sophia.memory', `${warning} tier=l2`], []])
  assert.match(output, /\[sophia\.memory\] SophiaWarning: a tier is away/)
})

test('what SOPHIA_LOG asks for is written to stderr, and what cannot be read is told', async () => {
  const asking = (directives) => run(`
    process.env.SOPHIA_LOG = '${directives}'
    const s = away()
    await s.memory.kv.set('a', 1)
    await setTimeout(100)
  `)
  assert.match((await asking('debug')).output, /^\S+Z DEBUG sophia\.memory: \S.* tier=l2/m)
  assert.equal((await asking('warn,sophia.memory=off')).output, '')
  assert.match((await asking('sophia.memory=loud')).output, /WARN sophia\.logs: .*SOPHIA_LOG.*\n.*WARN sophia\.memory: /)
})

test('what is logged right before the exit is told', async () => {
  for (const end of ['', 'process.exit()', "throw new Error('the end')"]) {
    const { output } = await run(`
      const s = away()
      await s.memory.kv.set('a', 1)
      ${end}
    `)
    assert.equal(output.split(warning).length, 2, output)
  }
})

test('a function hears all threads, and when its own ends, the other one does', async () => {
  const { code, output } = await run(`
    onLog(() => heard++)
    let heard = 0
    const worker = new Worker(\`
      import { Sophia, onLog } from ${JSON.stringify(entry)}
      import { parentPort } from 'node:worker_threads'
      onLog(({ message }) => parentPort.postMessage(message))
      parentPort.postMessage('ready')
      setInterval(() => {}, 1000)
    \`, { eval: true })
    const [ready] = await once(worker, 'message')
    const first = away()
    const asked = first.memory.kv.set('a', 1)
    const [message] = await once(worker, 'message')
    console.log(ready, message, heard)
    await asked
    const second = away()
    await Promise.all([worker.terminate(), second.memory.kv.set('a', 1)])
    const third = away()
    await third.memory.kv.set('a', 1)
    await until(() => heard > 0)
    console.log('heard')
  `)
  assert.deepEqual([code, output], [0, `ready ${warning} 0\nheard\n`])
})

test('a flood while JavaScript is busy holds nothing up, and what does not fit is counted', async () => {
  const { code, output } = await run(`
    let told = 0
    let dropped = 0
    onLog(({ target, fields }) => {
      told++
      if (target === 'sophia.logs') dropped += fields.dropped
    })
    const s = new Sophia()
    s.registry.register({ id: 'memory', url: 'sophia://memory' })
    for (let i = 0; i < 3000; i++) s.registry.export()
    await until(() => dropped > 0)
    console.log(told, dropped)
  `)
  assert.deepEqual([code, output], [0, '1025 1976\n'])
})
