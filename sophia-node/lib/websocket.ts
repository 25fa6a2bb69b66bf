/** The server's half of the WebSocket protocol (RFC 6455), as far as one that only sends texts needs it. */

import { createHash } from 'node:crypto'
import type { IncomingMessage } from 'node:http'

/** How often a WebSocket is pinged: below the 60 s after which most proxies close a silent connection. */
export const PING_INTERVAL_MS = 20_000

const VERSION = '13'
/** Proves that the server speaks the protocol (RFC 6455, 1.3). */
const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
/** A key is 16 bytes in base64. */
const KEY = /^[A-Za-z0-9+/]{22}==$/

const FINAL = 0x80
const MASKED = 0x80
const TEXT = 0x1
const CLOSE = 0x8
const PING = 0x9
const PONG = 0xa
/** From here on, opcodes are those of control frames. */
const CONTROL = 0x8
const RESERVED = 0x70
const MASK_BYTES = 4
/** Up to here, the length of a frame is in its second byte (RFC 6455, 5.2). Control frames are never longer. */
const SHORT = 125
const LENGTH_16 = 126
const LENGTH_64 = 127

/** Why a side closes (RFC 6455, 7.4.1). */
const GOING_AWAY = 1001
const PROTOCOL_ERROR = 1002

/** Returns what answers the key of a handshake; nothing where the request is no handshake. */
export function acceptOf({ method, headers }: IncomingMessage): string | undefined {
  const key = headers['sec-websocket-key']
  const wanted = method === 'GET' && headers.upgrade?.toLowerCase() === 'websocket'
  if (!wanted || headers['sec-websocket-version'] !== VERSION || !key || !KEY.test(key)) return undefined
  return createHash('sha1').update(key + GUID).digest('base64')
}

/** Writes texts as frames. */
export async function* frames(texts: AsyncIterable<string>): AsyncGenerator<Buffer> {
  for await (const text of texts) yield frameOf(TEXT, Buffer.from(text))
}

/** A frame that asks for a sign of life. */
export const pingFrame = frameOf(PING, Buffer.alloc(0))

/** Returns a frame that closes. */
export function closeFrame(code = GOING_AWAY): Buffer {
  const payload = Buffer.alloc(2)
  payload.writeUInt16BE(code)
  return frameOf(CLOSE, payload)
}

/** What a client can ask of us. */
export interface Asks {
  /** Sends the answer to a ping. */
  pong(frame: Buffer): void
  /** Ends with this frame. */
  leave(frame: Buffer): void
}

/** Returns a function that takes the bytes of a client in any pieces. What is no control frame is passed over, unkept. */
export function reader({ pong, leave }: Asks): (piece: Buffer) => void {
  let kept: Buffer = Buffer.alloc(0)
  let skip = 0
  let over = false
  const end = (frame: Buffer) => {
    over = true
    leave(frame)
  }
  return (piece) => {
    if (over) return
    const skipped = Math.min(skip, piece.length)
    skip -= skipped
    kept = Buffer.concat([kept, piece.subarray(skipped)])
    while (!over) {
      const head = headOf(kept)
      if (!head) return
      if (!head.valid) return end(closeFrame(PROTOCOL_ERROR))
      const whole = head.bytes + head.length
      if (head.opcode < CONTROL) {
        skip = Math.max(0, whole - kept.length)
        kept = kept.subarray(whole)
        continue
      }
      if (kept.length < whole) return
      const payload = unmasked(kept.subarray(head.bytes - MASK_BYTES, whole))
      kept = kept.subarray(whole)
      if (head.opcode === PING) pong(frameOf(PONG, payload))
      if (head.opcode === CLOSE) end(frameOf(CLOSE, payload.subarray(0, 2)))
    }
  }
}

interface FrameHead {
  opcode: number
  /** Length of the head itself, mask included. */
  bytes: number
  /** Length of the payload. */
  length: number
  valid: boolean
}

/** Reads the head of a frame; nothing where it is not all there. */
function headOf(bytes: Buffer): FrameHead | undefined {
  if (bytes.length < 2) return undefined
  const [first, second] = [bytes.readUInt8(0), bytes.readUInt8(1)]
  const opcode = first & 0xf
  const short = second & ~MASKED
  const fits = opcode < CONTROL || ((first & FINAL) !== 0 && short <= SHORT)
  const valid = (second & MASKED) !== 0 && (first & RESERVED) === 0 && fits
  const extended = short === LENGTH_16 ? 2 : short === LENGTH_64 ? 8 : 0
  const head = 2 + extended + MASK_BYTES
  if (valid && bytes.length < head) return undefined
  if (!valid) return { opcode, bytes: head, length: 0, valid: false }
  const length = extended === 2 ? bytes.readUInt16BE(2) : extended === 8 ? Number(bytes.readBigUInt64BE(2)) : short
  return { opcode, bytes: head, length, valid: true }
}

/** Undoes the mask, which comes before the payload. */
function unmasked(masked: Buffer): Buffer {
  const payload = Buffer.from(masked.subarray(MASK_BYTES))
  for (let i = 0; i < payload.length; i++) payload[i]! ^= masked[i % MASK_BYTES]!
  return payload
}

function frameOf(opcode: number, payload: Buffer): Buffer {
  const { length } = payload
  const extended = length <= SHORT ? 0 : length < 2 ** 16 ? 2 : 8
  const head = Buffer.alloc(2 + extended)
  head.writeUInt8(FINAL | opcode, 0)
  head.writeUInt8(extended === 0 ? length : extended === 2 ? LENGTH_16 : LENGTH_64, 1)
  if (extended === 2) head.writeUInt16BE(length, 2)
  if (extended === 8) head.writeBigUInt64BE(BigInt(length), 2)
  return Buffer.concat([head, payload])
}
