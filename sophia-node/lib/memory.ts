/** Remembers: records that are found by meaning, keys and values, facts that know when they were true. */

import { Checkpoints } from './checkpoints.js'
import { toError, type SophiaError } from './errors.js'
import type {
  AppendMessage,
  BackupReceipt,
  Check,
  CheckReport,
  Delete,
  DeleteWhere,
  Entity,
  ExportReceipt,
  Extract,
  Extracted,
  Fact,
  FactQuery,
  ForgetReceipt,
  ForgetRequest,
  GetRecord,
  History,
  Import,
  ImportReceipt,
  KvFound,
  KvInvalidate,
  KvKeys,
  KvOptions,
  MemoryExport,
  MemoryHealth,
  MemoryRecord,
  MemoryStats,
  Neighbor,
  NeighborQuery,
  NewEntity,
  NewFact,
  NewRecord,
  PathQuery,
  Query,
  RecentOperation,
  Reembed,
  Reembedded,
  Scope,
  SearchResult,
  Session,
  StoreResult,
  Update,
} from './types.js'
import type { Bridge, CallOptions } from './wire.js'

/** Remembers and finds. */
export class Memory {
  /** Keys and values, in tiers. */
  readonly kv: Kv
  /** Facts that know when they were true. */
  readonly graph: Graph
  /** The steps of workflows. */
  readonly checkpoints: Checkpoints
  readonly #bridge: Bridge

  /** @internal */
  constructor(bridge: Bridge) {
    this.#bridge = bridge
    this.kv = new Kv(bridge)
    this.graph = new Graph(bridge)
    this.checkpoints = new Checkpoints(bridge)
  }

  /** Stores one record. It is found from now on. */
  store(content: string, options?: Omit<NewRecord, 'content'> & CallOptions): Promise<StoreResult> {
    return this.#bridge.call('memory.store', { content }, options)
  }

  /** Stores several records: each with its own result or error in its place, or with `atomic` all or none. */
  async storeMany(
    items: readonly (NewRecord | string)[],
    options?: { scope?: Scope | null; atomic?: boolean } & CallOptions,
  ): Promise<(StoreResult | SophiaError)[]> {
    const records = items.map((item) => (typeof item === 'string' ? { content: item } : item))
    const outcomes = await this.#bridge.call<(StoreResult | Failed)[]>('memory.store_many', { items: records }, options)
    return outcomes.map((outcome, index) => ('error' in outcome ? failed(outcome, records[index]) : outcome))
  }

  /** Returns one record by its id, or by `seq`; null where there is none in this scope. */
  get(id: string | null | undefined, options?: Omit<GetRecord, 'id'> & CallOptions): Promise<MemoryRecord | null>
  get(options: GetRecord & CallOptions): Promise<MemoryRecord | null>
  get(id: string | (GetRecord & CallOptions) | null | undefined, options?: Omit<GetRecord, 'id'> & CallOptions): Promise<MemoryRecord | null> {
    if (typeof id === 'object' && id !== null) return this.#bridge.call('memory.get', {}, id)
    return this.#bridge.call('memory.get', { id }, options)
  }

  /** Finds records by meaning, words and filters. */
  search(query = '', options?: Omit<Query, 'query'> & CallOptions): Promise<SearchResult> {
    return this.#bridge.call('memory.search', { query }, options)
  }

  /** Changes one record, and keeps its former state as a version. What is left out stays; what is null is cleared. */
  update(id: string, changes: Omit<Update, 'id'> & CallOptions): Promise<MemoryRecord> {
    return this.#bridge.call('memory.update', { id }, changes)
  }

  /** Returns all versions of one record, oldest first. */
  versions(id: string, options?: { scope?: Scope | null } & CallOptions): Promise<MemoryRecord[]> {
    return this.#bridge.call('memory.versions', { id }, options)
  }

  /** Hides one record, or erases it with `permanent`; returns whether it was there. */
  delete(id: string, options?: Omit<Delete, 'id'> & CallOptions): Promise<boolean> {
    return this.#bridge.call('memory.delete', { id }, options)
  }

  /** Hides or erases all records of a scope that pass the filters; returns how many. */
  deleteWhere(options: DeleteWhere & CallOptions): Promise<number> {
    return this.#bridge.call('memory.delete_where', {}, options)
  }

  /** Adds a message to a conversation. */
  append(
    scope: Scope,
    role: string,
    content: string,
    options?: Omit<AppendMessage, 'scope' | 'role' | 'content'> & CallOptions,
  ): Promise<MemoryRecord> {
    return this.#bridge.call('memory.append', { scope, role, content }, options)
  }

  /** Returns the last messages of a conversation, in order. */
  history(scope: Scope, options?: Omit<History, 'scope'> & CallOptions): Promise<MemoryRecord[]> {
    return this.#bridge.call('memory.history', { scope }, options)
  }

  /** Returns the conversations of a scope. */
  sessions(scope?: Scope | null, options?: { limit?: number | null } & CallOptions): Promise<Session[]> {
    return this.#bridge.call('memory.sessions', { scope }, options)
  }

  /** Hides the messages of one conversation, as `delete` does; returns how many. `forget` removes them for good. */
  clearSession(scope: Scope, options?: CallOptions): Promise<number> {
    return this.#bridge.call('memory.clear_session', { scope }, options)
  }

  /** Removes all traces of a scope or a person, and returns a receipt. */
  forget(options: ForgetRequest & CallOptions): Promise<ForgetReceipt> {
    return this.#bridge.call('memory.forget', {}, options)
  }

  /**
   * Turns text into vectors with a function, from the next call on: sync or async, of a list of texts. It gives one vector for
   * each. `model` names what it does: give it another name when it gives other vectors; what was stored before is then embedded
   * anew in the background. What it throws never reaches who stores or searches: records are kept and embedded later, and a
   * search says so in its `warnings`.
   *
   * @throws InvalidInputError that names the field
   */
  setEmbedder(
    embed: (texts: string[], context: { signal: AbortSignal }) => Vectors | PromiseLike<Vectors>,
    options: EmbedderOptions,
  ): void {
    const vectors = async (texts: string[], signal: AbortSignal) =>
      Array.from(await embed(texts, { signal }), (vector) => Array.from(vector))
    this.#bridge.runSync<null>('memory.set_embedder', options, (engine, text) =>
      engine.setEmbedder(text, this.#bridge.keep('memory.embed', vectors)),
    )
  }

  /**
   * Embeds anew what has no vector of the embedder's model, and waits for the end: 30 s at most, or `timeoutMs`. It happens in
   * the background anyway; this is for scripts that want to see it done.
   */
  reembed(options?: Reembed & CallOptions): Promise<Reembedded> {
    return this.#bridge.call('memory.reembed', {}, options)
  }

  /** Writes what is remembered to a new file, as lines of JSON; without a scope, everything of everyone. */
  export(path: string, options?: Omit<MemoryExport, 'path'> & CallOptions): Promise<ExportReceipt> {
    return this.#bridge.call('memory.export', { path }, options)
  }

  /** Takes over an export, or a file of mem0, server-memory, LangGraph or Chroma. Made again, it changes nothing. */
  import(path: string, options?: Omit<Import, 'path'> & CallOptions): Promise<ImportReceipt> {
    return this.#bridge.call('memory.import', { path }, options)
  }

  /** Writes a copy of all data as of one moment to a new file, while others write. */
  backup(path: string, options?: CallOptions): Promise<BackupReceipt> {
    return this.#bridge.call('memory.backup', { path }, options)
  }

  /** Looks whether the data is whole; with `repair`, makes anew what is derived from it and damaged. */
  check(options?: Check & CallOptions): Promise<CheckReport> {
    return this.#bridge.call('memory.check', {}, options)
  }

  /** Counts what is held. */
  stats(options?: CallOptions): Promise<MemoryStats> {
    return this.#bridge.call('memory.stats', {}, options)
  }

  /** Asks every tier how it is. */
  health(options?: CallOptions): Promise<MemoryHealth> {
    return this.#bridge.call('memory.health', {}, options)
  }

  /** Returns the last `n` calls, 50 by default. */
  recentOperations(n?: number, options?: CallOptions): Promise<RecentOperation[]> {
    return this.#bridge.call('memory.recent_operations', { n }, options)
  }
}

/** One vector for each text. */
export type Vectors = ArrayLike<ArrayLike<number>>

/** What a function that embeds does. */
export interface EmbedderOptions {
  /** Names the model. */
  model: string
  /** How long its vectors are. */
  dimensions: number
  /** Time in which one call must have answered, in milliseconds. 30,000 by default. */
  timeoutMs?: number
}

/** Whose value it is, and what to return where there is none. */
export interface KvGetOptions<D> extends CallOptions {
  scope?: Scope | null
  /** Returned where there is no value; null by default. */
  default?: D
}

/** Keys and values, in tiers. Values are anything that JSON can write. */
export class Kv {
  readonly #bridge: Bridge

  /** @internal */
  constructor(bridge: Bridge) {
    this.#bridge = bridge
  }

  /** Returns the value under a key. */
  async get<T = unknown, D = null>(key: string, options?: KvGetOptions<D>): Promise<T | D> {
    options?.signal?.throwIfAborted()
    const known = this.#bridge.kvGet(key, options?.scope)
    if (known) return JSON.parse(known)
    if (known === '') return (options?.default ?? null) as D
    return this.#bridge.call('memory.kv.get', { key }, options)
  }

  /** Returns the value under a key, and waits for it on this thread. */
  getSync<T = unknown, D = null>(key: string, options?: Omit<KvGetOptions<D>, 'signal'>): T | D {
    const known = this.#bridge.kvGet(key, options?.scope)
    if (known) return JSON.parse(known)
    if (known === '') return (options?.default ?? null) as D
    return this.#bridge.callSync('memory.kv.get', { key }, options)
  }

  /** Looks a key up and says how: which tier knew it, whether it is stale, and which tiers were stepped over. */
  lookUp(key: string, options?: { scope?: Scope | null } & CallOptions): Promise<KvFound> {
    return this.#bridge.call('memory.kv.look_up', { key }, options)
  }

  /** Sets the value under a key. It is durable when the promise is settled. */
  set(key: string, value: unknown, options?: Omit<KvOptions, 'staleMs' | 'timeoutMs'> & CallOptions): Promise<void> {
    return this.#bridge.call('memory.kv.set', { key, value }, options)
  }

  /** Sets the value under a key, and waits for it on this thread. */
  setSync(key: string, value: unknown, options?: Omit<KvOptions, 'staleMs' | 'timeoutMs'>): void {
    this.#bridge.callSync('memory.kv.set', { key, value }, options)
  }

  /**
   * Returns the value under a key, or makes it with `load`, once for all who ask at the same time, in every process that
   * shares a Redis. What `load` throws reaches all of them, and is not kept. A value that is stale, or soon will be, is made
   * anew while it is still served. Where `load` takes longer than `timeoutMs` (30 s), all who wait get a `TimeoutError`.
   */
  async getOrSet<T>(
    key: string,
    load: (context: { signal: AbortSignal }) => T | PromiseLike<T>,
    options: KvOptions & CallOptions = {},
  ): Promise<T> {
    const { signal, ...rest } = options
    signal?.throwIfAborted()
    const known = this.#bridge.kvGet(key, rest.scope)
    if (known) return JSON.parse(known)
    const loaded = (signal: AbortSignal) => load({ signal })
    return this.#bridge.run('memory.kv.get_or_set', rest, { signal }, (engine, id, text) =>
      engine.getOrSet(id, key, text, this.#bridge.keep('memory.kv.get_or_set', loaded)),
    )
  }

  /** Removes a key; returns whether it was there. */
  delete(key: string, options?: { scope?: Scope | null } & CallOptions): Promise<boolean> {
    return this.#bridge.call('memory.kv.delete', { key }, options)
  }

  /** Removes keys by prefix or tag; returns how many. */
  invalidate(options: KvInvalidate & CallOptions): Promise<number> {
    return this.#bridge.call('memory.kv.invalidate', {}, options)
  }

  /** Returns the keys that begin with `prefix`, sorted; `after` the last one of a page, the next page. */
  keys(prefix = '', options?: Omit<KvKeys, 'prefix'> & CallOptions): Promise<string[]> {
    return this.#bridge.call('memory.kv.keys', { prefix }, options)
  }
}

/** Facts that know when they were true. */
export class Graph {
  readonly #bridge: Bridge

  /** @internal */
  constructor(bridge: Bridge) {
    this.#bridge = bridge
  }

  /** Stores an entity, or merges what is new into it. */
  upsert(entity: string, options?: Omit<NewEntity, 'entity'> & CallOptions): Promise<Entity> {
    return this.#bridge.call('memory.graph.upsert', { entity }, options)
  }

  /** States a fact. With `functional`, one that it replaces ends where this one begins. */
  relate(
    subject: string,
    predicate: string,
    object: string,
    options?: Omit<NewFact, 'subject' | 'predicate' | 'object'> & CallOptions,
  ): Promise<Fact> {
    return this.#bridge.call('memory.graph.relate', { subject, predicate, object }, options)
  }

  /** Returns facts that were true at a time, now by default. */
  facts(options?: FactQuery & CallOptions): Promise<Fact[]> {
    return this.#bridge.call('memory.graph.facts', {}, options)
  }

  /** Returns what is near an entity. */
  neighbors(entity: string, options?: Omit<NeighborQuery, 'entity'> & CallOptions): Promise<Neighbor[]> {
    return this.#bridge.call('memory.graph.neighbors', { entity }, options)
  }

  /** Returns the facts along a shortest way between two entities; null where there is none. */
  path(a: string, b: string, options?: Omit<PathQuery, 'a' | 'b'> & CallOptions): Promise<Fact[] | null> {
    return this.#bridge.call('memory.graph.path', { a, b }, options)
  }

  /** Lets a model read a text, and states the facts that it says. The text is data: nothing in it is an instruction. */
  extract(text: string, options?: Omit<Extract, 'text'> & CallOptions): Promise<Extracted> {
    return this.#bridge.call('memory.graph.extract', { text }, options)
  }
}

/** An item that was not stored, as the engine tells it. */
interface Failed {
  error: { code: string; message: string; operation: string; field: string | null; retryable: boolean }
}

function failed({ error: { field, ...told } }: Failed, given: unknown): SophiaError {
  return toError({ ...told, context: field === null ? [] : [['field', field]] }, given)
}
