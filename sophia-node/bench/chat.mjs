// What a chat call costs from Node: asked, kept and streamed, beside other clients of the same upstream, which answers at once.
//
//     cargo build --release -p sophia-benches --bin upstream && npm run build
//     node sophia-node/bench/chat.mjs
//
// Each client has a process of its own, so that none slows the next.
import { spawn, spawnSync } from 'node:child_process'
import { createInterface } from 'node:readline/promises'
import { fileURLToPath } from 'node:url'

const CALLS = 1_000
const WARM_UP = 200
const messages = [
  { role: 'system', content: 'You are short.' },
  { role: 'user', content: 'How are the deals? '.repeat(13) },
]

async function sophia(baseUrl) {
  const { Sophia } = await import('../dist/index.js')
  const provider = { name: 'bench', base_url: baseUrl, models: ['bench'] }
  const { chat } = new Sophia({ chat: { providers: [provider], max_concurrent: 1_000 } })
  return {
    ask: () => chat.complete(messages, { model: 'bench', cache: 'bypass' }),
    hit: () => chat.complete(messages, { model: 'bench' }),
    stream: () => chat.stream(messages, { model: 'bench', cache: 'bypass' }),
  }
}

async function openai(baseURL) {
  const { default: OpenAI } = await import('openai')
  const { completions } = new OpenAI({ apiKey: 'none', baseURL }).chat
  return {
    ask: () => completions.create({ model: 'bench', messages }),
    stream: () => completions.create({ model: 'bench', messages, stream: true }),
  }
}

async function aiSdk(baseURL) {
  // The warnings are about the prompt, and would be measured.
  globalThis.AI_SDK_LOG_WARNINGS = false
  const { generateText, streamText } = await import('ai')
  const { createOpenAI } = await import('@ai-sdk/openai')
  const model = createOpenAI({ apiKey: 'none', baseURL }).chat('bench')
  return { ask: () => generateText({ model, messages }), stream: () => streamText({ model, messages }).textStream }
}

const clients = { 'sophia-ai': sophia, openai, 'ai with @ai-sdk/openai': aiSdk }

async function p50(call) {
  for (let i = 0; i < WARM_UP; i++) await call()
  const times = []
  for (let i = 0; i < CALLS; i++) {
    const began = process.hrtime.bigint()
    await call()
    times.push(Number(process.hrtime.bigint() - began) / 1_000)
  }
  return times.sort((a, b) => a - b)[CALLS / 2]
}

async function perSecond(call, concurrent) {
  const worker = async () => {
    for (let i = 0; i < (CALLS * 2) / concurrent; i++) await call()
  }
  const began = process.hrtime.bigint()
  await Promise.all(Array.from({ length: concurrent }, worker))
  return (CALLS * 2) / (Number(process.hrtime.bigint() - began) / 1e9)
}

async function streamCpu(stream) {
  const drain = async () => {
    for await (const _ of await stream());
  }
  for (let i = 0; i < 50; i++) await drain()
  const began = process.cpuUsage()
  for (let i = 0; i < 300; i++) await drain()
  const { user, system } = process.cpuUsage(began)
  return (user + system) / 300
}

async function measure(name, baseUrl) {
  const { ask, hit, stream } = await clients[name](baseUrl)
  const whole = (number) => Math.round(number).toLocaleString('en')
  const row = [name, whole(await p50(ask)), whole(await perSecond(ask, 50)), whole(await perSecond(ask, 200))]
  row.push(...(hit ? [(await p50(hit)).toFixed(1), whole(await perSecond(hit, 50))] : ['', '']))
  row.push(whole(await streamCpu(stream)))
  console.log(`| ${row.join(' | ')} |`)
  process.exit()
}

async function main() {
  const target = process.env.CARGO_TARGET_DIR ?? fileURLToPath(new URL('../../target', import.meta.url))
  const upstream = spawn(`${target}/release/upstream`, { stdio: ['pipe', 'pipe', 'inherit'] })
  const { value: baseUrl } = await createInterface({ input: upstream.stdout })[Symbol.asyncIterator]().next()
  console.log('| client | call, p50 µs | calls/s, 50 at once | 200 at once | kept, p50 µs | kept/s | 20 tokens streamed, CPU µs |')
  console.log('|---|---|---|---|---|---|---|')
  for (const name of Object.keys(clients)) {
    spawnSync(process.execPath, [fileURLToPath(import.meta.url), name, baseUrl], { stdio: 'inherit' })
  }
  upstream.stdin.end()
  upstream.kill()
}

const [, , name, baseUrl] = process.argv
await (name ? measure(name, baseUrl) : main())
