// What several tests need: servers on loopback and programs in processes of their own.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer as createHttpServer } from 'node:http'
import { createServer } from 'node:net'

/** Starts a TCP server that accepts and says nothing; `closed()` resolves when a connection ends. */
export async function hungServer(t) {
  const sockets = new Set()
  const waiting = []
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.resume()
    socket.on('close', () => {
      sockets.delete(socket)
      waiting.splice(0).forEach((resolve) => resolve())
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    sockets.forEach((socket) => socket.destroy())
    server.close()
  })
  return {
    url: `http://127.0.0.1:${server.address().port}/`,
    server,
    connected: () => once(server, 'connection'),
    closed: () => new Promise((resolve) => waiting.push(resolve)),
  }
}

/** Starts an HTTP server; returns its URL. */
export async function httpServer(t, handler) {
  const server = createHttpServer(handler).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${server.address().port}`
}

/** Runs a program in a process of its own; returns its exit code, signal and output. */
export async function program(text, ...args) {
  const entry = new URL('../dist/index.js', import.meta.url)
  const source = `import { Sophia, Probe } from ${JSON.stringify(entry.href)}\n${text}`
  const child = spawn(process.execPath, ['--input-type=module', '-e', source, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  const timer = setTimeout(() => child.kill('SIGKILL'), 20_000)
  let output = ''
  child.stdout.on('data', (data) => (output += data))
  child.stderr.on('data', (data) => (output += data))
  const [code, signal] = await once(child, 'close')
  clearTimeout(timer)
  return { code, signal, output }
}
