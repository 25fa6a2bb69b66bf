/**
 * A store of [Keyv](https://keyv.org) on Sophia's tiers: in process first, durable behind it.
 *
 * ```js
 * import Keyv from 'keyv'
 * import { Sophia } from 'sophia-ai'
 * import { SophiaKeyv } from 'sophia-ai/keyv'
 *
 * const keyv = new Keyv({ store: new SophiaKeyv(new Sophia({ dataDir: './data' })) })
 * ```
 */

import { EventEmitter } from 'node:events'
import type { Sophia } from './index.js'
import type { Kv } from './memory.js'
import type { Scope } from './types.js'

/** Sets what Keyv keeps apart from other keys of the scope. */
const PREFIX = 'keyv/'

/** A store for `new Keyv({ store })`. Each scope has its own keys. */
export class SophiaKeyv extends EventEmitter {
  /** Set by Keyv. */
  namespace: string | undefined
  /** What Keyv reads of its stores: it iterates over those whose dialect it knows, and the durable tier is SQLite. */
  readonly opts: Record<string, unknown> = { dialect: 'sqlite', url: '' }
  readonly #kv: Kv
  readonly #scope: Scope | undefined

  constructor(sophia: Sophia, options: { scope?: Scope | null } = {}) {
    super()
    this.#kv = sophia.memory.kv
    this.#scope = options.scope ?? undefined
  }

  /** Returns what was set; undefined where there is nothing. */
  async get<Value>(key: string): Promise<Value | undefined> {
    return (await this.#kv.get<Value>(PREFIX + key, { scope: this.#scope })) ?? undefined
  }

  /** Returns what was set for each key. */
  getMany<Value>(keys: string[]): Promise<(Value | undefined)[]> {
    return Promise.all(keys.map((key) => this.get<Value>(key)))
  }

  /** Sets a value, for `ttl` milliseconds or for ever. */
  async set(key: string, value: unknown, ttl?: number): Promise<boolean> {
    // Keyv means "for ever" by no ttl and by 0.
    await this.#kv.set(PREFIX + key, value, { scope: this.#scope, ttlMs: ttl || null })
    return true
  }

  /** Sets several values, each with its own time to live. */
  async setMany(entries: { key: string; value: unknown; ttl?: number }[]): Promise<void> {
    await Promise.all(entries.map(({ key, value, ttl }) => this.set(key, value, ttl)))
  }

  /** Removes a key; returns whether it was there. */
  delete(key: string): Promise<boolean> {
    return this.#kv.delete(PREFIX + key, { scope: this.#scope })
  }

  /** Removes keys; returns whether one was there. */
  async deleteMany(keys: string[]): Promise<boolean> {
    const removed = await Promise.all(keys.map((key) => this.delete(key)))
    return removed.includes(true)
  }

  /** Returns whether there is a value. */
  async has(key: string): Promise<boolean> {
    return (await this.get(key)) !== undefined
  }

  /** Yields the keys of a namespace with their values. */
  async *iterator<Value>(namespace?: string): AsyncGenerator<[string, Value], void> {
    const prefix = PREFIX + (namespace ? `${namespace}:` : '')
    for (let after: string | undefined; ; ) {
      const keys = await this.#kv.keys(prefix, { after, scope: this.#scope })
      for (const key of keys) {
        const value = await this.#kv.get<Value>(key, { scope: this.#scope })
        if (value != null) yield [key.slice(PREFIX.length), value]
      }
      after = keys.at(-1)
      if (after === undefined) return
    }
  }

  /** Removes all keys of the namespace. */
  async clear(): Promise<void> {
    await this.#kv.invalidate({ prefix: PREFIX + (this.namespace ? `${this.namespace}:` : ''), scope: this.#scope })
  }
}
