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
import { apart } from './adapters.js'
import { invalidInput } from './errors.js'
import type { Sophia } from './index.js'
import type { Kv } from './memory.js'
import type { Scope } from './types.js'

/** Whose keys they are, and who sets their namespace before them. */
export interface KeyvOptions {
  scope?: Scope | null
  /** As it is given to Keyv; with `false` the store holds the namespaces apart. */
  useKeyPrefix?: boolean
}

/** A store for `new Keyv({ store })`, one for each Keyv. Each scope has its own keys, and so have its sessions and agents. */
export class SophiaKeyv extends EventEmitter {
  /** What Keyv reads of its stores: it iterates over those whose dialect it knows, and the durable tier is SQLite. */
  readonly opts: Record<string, unknown> = { dialect: 'sqlite', url: '' }
  readonly #kv: Kv
  readonly #scope: Scope | undefined
  /** Holds what Keyv keeps apart from other keys of the scope. */
  readonly #prefix: string
  readonly #useKeyPrefix: boolean
  readonly #namespaces = new Set<string | undefined>()
  #namespace: string | undefined

  constructor(sophia: Sophia, options: KeyvOptions = {}) {
    super()
    this.#kv = sophia.memory.kv
    this.#scope = options.scope ?? undefined
    this.#prefix = `keyv${apart(options.scope)}/`
    this.#useKeyPrefix = options.useKeyPrefix ?? true
  }

  /** Set by Keyv. */
  get namespace(): string | undefined {
    return this.#namespace
  }

  set namespace(namespace: string | undefined) {
    this.#namespace = namespace
    this.#namespaces.add(namespace)
  }

  /** Returns what was set; undefined where there is nothing. */
  async get<Value>(key: string): Promise<Value | undefined> {
    return (await this.#kv.get<Value>(this.#place(key), { scope: this.#scope })) ?? undefined
  }

  /** Returns what was set for each key. */
  getMany<Value>(keys: string[]): Promise<(Value | undefined)[]> {
    return Promise.all(keys.map((key) => this.get<Value>(key)))
  }

  /** Sets a value, for `ttl` milliseconds or for ever. */
  async set(key: string, value: unknown, ttl?: number): Promise<boolean> {
    if (ttl !== undefined && ttl < 0) {
      await this.delete(key)
      return true
    }
    // Keyv means "for ever" by no ttl, by 0 and by what is no number.
    const ttlMs = Number.isFinite(ttl) ? ttl || null : null
    await this.#kv.set(this.#place(key), value, { scope: this.#scope, ttlMs })
    return true
  }

  /** Sets several values, each with its own time to live; returns which were set. Why one was not is an `error` event. */
  setMany(entries: { key: string; value: unknown; ttl?: number }[]): Promise<boolean[]> {
    const set = ({ key, value, ttl }: (typeof entries)[number]) =>
      this.set(key, value, ttl).catch((error: unknown) => {
        if (this.listenerCount('error') > 0) this.emit('error', error)
        return false
      })
    return Promise.all(entries.map(set))
  }

  /** Removes a key; returns whether it was there. */
  async delete(key: string): Promise<boolean> {
    return this.#kv.delete(this.#place(key), { scope: this.#scope })
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
    const prefix = this.#prefix + (namespace ? `${namespace}:` : '')
    const unnamed = this.#useKeyPrefix ? this.#prefix : prefix
    for (let after: string | undefined; ; ) {
      const keys = await this.#kv.keys(prefix, { after, scope: this.#scope })
      for (const key of keys) {
        const value = await this.#kv.get<Value>(key, { scope: this.#scope })
        if (value != null) yield [key.slice(unnamed.length), value]
      }
      after = keys.at(-1)
      if (after === undefined) return
    }
  }

  /** Removes all keys of the namespace. */
  async clear(): Promise<void> {
    if (this.#namespaces.size > 1) {
      throw invalidInput('keyv.clear', 'namespace', 'is of several Keyvs, and theirs is not known: give each a store of its own')
    }
    const namespace = this.#namespace ? `${this.#namespace}:` : ''
    await this.#kv.invalidate({ prefix: this.#prefix + namespace, scope: this.#scope })
  }

  #place(key: string): string {
    if (!this.#useKeyPrefix) return this.#prefix + (this.#namespace ? `${this.#namespace}:` : '') + key
    const names = [...this.#namespaces]
    if (names.length > 0 && names.every((name) => name && !key.startsWith(`${name}:`))) {
      throw invalidInput('keyv', 'useKeyPrefix', 'is false in Keyv: give it to the store, too')
    }
    return this.#prefix + key
  }
}
