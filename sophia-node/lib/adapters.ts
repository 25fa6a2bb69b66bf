/** What the adapters to other frameworks share. */

import { createHash } from 'node:crypto'
import type { Scope } from './types.js'

/** Digits of the hash that holds sessions and agents apart. */
const APART_DIGITS = 32

/** Returns what begins the names of a session or agent, so that it shares none with another; "" where neither is set. */
export function apart(scope: Scope | null | undefined): string {
  const parts = [scope?.session ?? null, scope?.agent ?? null]
  return parts.every((part) => part === null) ? '' : `@${hash(parts).slice(0, APART_DIGITS)}`
}

/** Returns the hash of what JSON can write; it is the same in Python. */
export function hash(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('hex')
}
