/** The HTTP surface as listeners of Node's `http` server, which Express takes as well. */

import type { Server } from 'node:net'
import { type IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { PING_INTERVAL_MS, acceptOf, closeFrame, frames, pingFrame, reader } from './websocket.js'
import type { Asked, Bridge, Head, JsonIterator } from './wire.js'

/** Answers a request. What cannot be answered goes to `next`, where there is one. */
export type Handler = (req: IncomingMessage, res: ServerResponse, next?: (failure?: unknown) => void) => void

/** Takes a connection over as a WebSocket, or refuses it. */
export type Upgrade = (req: IncomingMessage, socket: Duplex, head: Buffer) => void

type Parts = JsonIterator<Head | string>

const SWITCHING_PROTOCOLS = 101
const INTERNAL_SERVER_ERROR = 500
const NOTHING = Buffer.alloc(0)

/** The listener for requests. */
export function handler(bridge: Bridge): Handler {
  const answer = async (req: IncomingMessage, res: ServerResponse) => {
    const asked = askedBy(req)
    const body = await bodyOf(req, bridge.maxBodyBytes)
    if (body) await send(bridge.request(req.method ?? '', asked, body), res)
  }
  return (req, res, next) => {
    answer(req, res).catch((failure: unknown) => {
      // After its head, an answer fails only because nobody is there to read it.
      if (res.headersSent || res.destroyed) res.destroy()
      else if (next) next(failure)
      else res.writeHead(INTERNAL_SERVER_ERROR).end()
    })
  }
}

/** The listener for WebSockets. */
export function upgrade(bridge: Bridge): Upgrade {
  const take = async (req: IncomingMessage, socket: Duplex, early: Buffer) => {
    const accept = acceptOf(req)
    const asked = askedBy(req)
    // What is no WebSocket is answered as if it had not asked for another protocol.
    const parts = accept === undefined ? bridge.request(req.method ?? '', asked, NOTHING) : bridge.live(asked)
    socket.once('close', () => void parts.return())
    const head = await headOf(parts)
    if (!head || socket.destroyed) return
    if (accept !== undefined && head.status === SWITCHING_PROTOCOLS) await push(parts, head, accept, socket, early)
    else await refuse(req, socket, head, parts)
  }
  return (req, socket, early) => {
    // Without a listener, a connection that breaks would end the process.
    socket.on('error', () => {})
    take(req, socket, early).catch(() => socket.destroy())
  }
}

/** Sends the head of an answer and its body, as fast as the other end reads. */
async function send(parts: Parts, res: ServerResponse): Promise<void> {
  if (res.destroyed) return void parts.return()
  res.once('close', () => void parts.return())
  const head = await headOf(parts)
  if (head && !res.destroyed) await sendRest(head, parts, res)
}

async function sendRest({ status, headers }: Head, parts: Parts, res: ServerResponse): Promise<void> {
  res.writeHead(status, headers.flat())
  // What comes in parts may be long in coming.
  if (!headers.some(([name]) => name === 'content-length')) res.flushHeaders()
  await pipeline(bytesOf(parts), res)
}

async function* bytesOf(parts: Parts): AsyncGenerator<Buffer> {
  for await (const part of parts) yield Buffer.from(part as string, 'latin1')
}

async function headOf(parts: Parts): Promise<Head | undefined> {
  return (await parts.next()).value as Head | undefined
}

/** Sends messages until one side closes. */
async function push(parts: Parts, head: Head, accept: string, socket: Duplex, early: Buffer): Promise<void> {
  const headers = [['Upgrade', 'websocket'], ['Connection', 'Upgrade'], ['Sec-WebSocket-Accept', accept], ...head.headers]
  const lines = headers.map(([name, value]) => `${name}: ${value}\r\n`)
  socket.write(`HTTP/1.1 101 Switching Protocols\r\n${lines.join('')}\r\n`)
  let parting: Buffer | undefined
  const leave = (frame?: Buffer) => {
    parting ??= frame
    void parts.return()
  }
  socket.on('end', leave)
  socket.on('data', reader({ pong: (frame) => void socket.write(frame), leave }))
  if (early.length > 0) socket.unshift(early)
  const pings = setInterval(() => socket.writableNeedDrain || socket.write(pingFrame), PING_INTERVAL_MS)
  socket.once('close', () => clearInterval(pings))
  await pipeline(async function* () {
    yield* frames(parts as AsyncIterable<string>)
    yield parting ?? closeFrame()
  }, socket)
}

/** Gives an answer instead of the handshake, and hangs up. */
async function refuse(req: IncomingMessage, socket: Duplex, head: Head, parts: Parts): Promise<void> {
  const res = new ServerResponse(req)
  res.shouldKeepAlive = false
  res.assignSocket(req.socket)
  // What is still being sent would otherwise hold the connection open.
  socket.resume()
  await sendRest(head, parts, res)
  socket.end()
}

/** Reads the body, or no more of it than it takes to see that it is too long; nothing where the caller has left. */
function bodyOf(req: IncomingMessage, limit: number): Promise<Uint8Array | undefined> | Uint8Array {
  if (req.readableEnded) return parsedBodyOf(req)
  // The surface refuses it by its headers.
  if (Number(req.headers['content-length']) > limit) return NOTHING
  const chunks: Buffer[] = []
  let size = 0
  return new Promise((resolve) => {
    // What is beyond the limit is read and dropped, so that the caller comes to read the answer.
    req.on('data', (chunk: Buffer) => {
      if (size > limit) return
      size += chunk.length
      chunks.push(chunk)
      if (size > limit) resolve(Buffer.concat(chunks))
    })
    req.on('end', () => resolve(Buffer.concat(chunks)))
    req.on('close', () => resolve(undefined))
  })
}

/** Returns the body that a parser before us, as `express.json()`, has read already. */
function parsedBodyOf(req: IncomingMessage & { body?: unknown }): Uint8Array {
  const { body } = req
  if (body === undefined) return NOTHING
  if (body instanceof Uint8Array) return body
  return Buffer.from(typeof body === 'string' ? body : JSON.stringify(body))
}

function askedBy(req: IncomingMessage): Asked {
  return { target: req.url ?? '/', rawHeaders: req.rawHeaders, client: clientOf(req) }
}

/** Stands for an address that is not known, which counts as remote. */
const UNKNOWN = 'unknown'

/** Returns the address of the caller; nothing for a Unix socket. */
function clientOf({ socket }: IncomingMessage): string | undefined {
  if (socket.remoteAddress !== undefined) return socket.remoteAddress
  // A connection that broke has no address either: only the server can tell it from a Unix socket.
  const { server } = socket as { server?: Server }
  return typeof server?.address?.() === 'string' ? undefined : UNKNOWN
}
