/** The store of LangGraph.js on Sophia's records. */

import {
  BaseStore,
  getTextAtPath,
  type GetOperation,
  type Item,
  type ListNamespacesOperation,
  type MatchCondition,
  type Operation,
  type OperationResults,
  type PutOperation,
  type SearchItem,
  type SearchOperation,
} from '@langchain/langgraph-checkpoint'
import { apart, hash } from './adapters.js'
import type { Sophia } from './index.js'
import type { Memory } from './memory.js'
import type { MemoryRecord, Mode, Query, Scope } from './types.js'

/** Kind of the records that a query finds. */
const INDEXED = 'langgraph.item'
/** Kind of the records that only a key, a filter or a listing finds. */
const UNINDEXED = 'langgraph.item.unindexed'
/** The path of the whole value. */
const WHOLE = '$'
/** Records that one call of the engine lists. */
const PAGE = 1_000
/** The furthest record that an offset reaches. */
const DEEPEST = 10_000
/** Items of a search that names no limit. */
const DEFAULT_LIMIT = 10

/** Whose items they are, and what of them is searched. */
export interface StoreOptions {
  scope?: Scope | null
  /** The paths of a value whose text is searched; the whole value by default. */
  index?: { fields?: string[] }
  /** How a query is answered; `hybrid` by default: by meaning and by words. */
  mode?: Mode
}

/** Keeps the items of LangGraph as records of Sophia: durable, scoped, found by meaning with no key and no download. */
export class SophiaStore extends BaseStore {
  readonly #memory: Memory
  readonly #scope: Scope | undefined
  readonly #apart: string
  readonly #fields: string[]
  readonly #mode: Mode

  constructor(sophia: Sophia, options: StoreOptions = {}) {
    super()
    this.#memory = sophia.memory
    this.#scope = options.scope ?? undefined
    this.#apart = apart(options.scope)
    this.#fields = options.index?.fields ?? [WHOLE]
    this.#mode = options.mode ?? 'hybrid'
  }

  /** Runs operations: what reads sees the store as it was before what writes. */
  async batch<Op extends Operation[]>(operations: Op): Promise<OperationResults<Op>> {
    const puts = new Map<string, PutOperation>()
    const results: unknown[] = []
    for (const operation of operations) {
      if ('value' in operation) {
        puts.set(this.#id(operation.namespace, operation.key), operation)
        results.push(undefined)
      } else if ('key' in operation) results.push(await this.#get(operation))
      else if ('namespacePrefix' in operation) results.push(await this.#search(operation))
      else results.push(await this.#namespaces(operation))
    }
    for (const put of puts.values()) await this.#put(put)
    return results as OperationResults<Op>
  }

  async #get({ namespace, key }: GetOperation): Promise<Item | null> {
    const record = await this.#memory.get(this.#id(namespace, key), { scope: this.#scope })
    return record && item(record)
  }

  async #put({ namespace, key, value, index }: PutOperation): Promise<void> {
    const id = this.#id(namespace, key)
    if (value === null) {
      await this.#memory.delete(id, { scope: this.#scope, permanent: true })
      return
    }
    const fields = index === false ? [] : (index ?? this.#fields)
    const texts = fields.flatMap((field) => (field === WHOLE ? [JSON.stringify(value)] : getTextAtPath(value, field)))
    const text = texts.join('\n').replaceAll('\0', '').trim()
    await this.#memory.store(text || key, {
      scope: this.#scope,
      id,
      kind: text ? INDEXED : UNINDEXED,
      category: prefixOf(namespace),
      tags: Array.from({ length: namespace.length + 1 }, (_, depth) => this.#tag(namespace.slice(0, depth))),
      metadata: value,
      source: key,
    })
  }

  async #search({ namespacePrefix, filter = {}, query, limit = DEFAULT_LIMIT, offset = 0 }: SearchOperation): Promise<SearchItem[]> {
    const wanted = Object.entries(filter)
    const exact = wanted.filter(([, want]) => isExact(want))
    const filters = { scope: this.#scope, tagsAll: [this.#tag(namespacePrefix)], metadata: Object.fromEntries(exact) }
    const found = new Map<string, SearchItem>()
    const last = offset + limit
    const take = (record: MemoryRecord, score?: number) => {
      if (passes(record.metadata, filter) && !found.has(record.id)) found.set(record.id, score === undefined ? item(record) : { ...item(record), score })
    }
    const page = () => (exact.length < wanted.length ? PAGE : Math.min(last - found.size, PAGE))
    for (let at = 0, hasMore = true; query && hasMore && found.size < last; ) {
      if (at > DEEPEST) {
        const reach = `a query reaches its first ${DEEPEST + PAGE} items`
        throw new RangeError(`${reach}; ask for fewer, or narrow it by its namespace or filter`)
      }
      const { hits, total } = await this.#memory.search(query, {
        ...filters,
        mode: this.#mode,
        // The nearest, also where none is near.
        minSimilarity: -1,
        kinds: [INDEXED],
        limit: page(),
        offset: at,
      })
      for (const { record, score } of hits) take(record, score)
      at += hits.length
      hasMore = hits.length > 0 && at < total
    }
    if (found.size < last) {
      // What is not indexed fills up, without a score.
      const kinds = query ? [UNINDEXED] : [INDEXED, UNINDEXED]
      await this.#newest({ ...filters, kinds }, page(), (records) => {
        for (const record of records) take(record)
        return found.size >= last
      })
    }
    return [...found.values()].slice(offset, last)
  }

  /** Reads the records that the filters keep, the newest first, until `take` has enough of what it is given. */
  async #newest(filters: Query, page: number, take: (records: MemoryRecord[]) => boolean): Promise<void> {
    const seen = new Set<string>()
    let until: string | null = null
    for (;;) {
      let oldest = Infinity
      for (let offset = 0; offset <= DEEPEST; offset += page) {
        const { hits } = await this.#memory.search('', { ...filters, limit: page, offset, until })
        const fresh = hits.map(({ record }) => record).filter(({ id }) => !seen.has(id))
        for (const { id, createdAt } of fresh) {
          seen.add(id)
          oldest = Math.min(oldest, Date.parse(createdAt))
        }
        if (take(fresh) || hits.length < page) return
      }
      if (oldest === Infinity) return
      // Beyond the deepest offset by time; those of the same millisecond are read twice.
      until = new Date(oldest + 1).toISOString()
    }
  }

  async #namespaces({ matchConditions = [], maxDepth, limit, offset }: ListNamespacesOperation): Promise<string[][]> {
    const known = new Map<string, string[]>()
    const plain = matchConditions.filter(({ matchType, path }) => matchType === 'prefix' && !path.includes('*'))
    const tagsAll = [[], ...plain.map(({ path }) => path)].map((path) => this.#tag(path))
    await this.#newest({ scope: this.#scope, kinds: [INDEXED, UNINDEXED], tagsAll }, PAGE, (records) => {
      for (const namespace of records.map(namespaceOf)) {
        if (!matchConditions.every((condition) => matches(condition, namespace))) continue
        const cut = namespace.slice(0, maxDepth)
        known.set(prefixOf(cut), cut)
      }
      return false
    })
    const sorted = [...known.values()].sort(inOrder)
    return sorted.slice(offset ?? 0, (offset ?? 0) + (limit ?? sorted.length))
  }

  /** An identifier of a fixed length, however long the names are; no two places have the same. */
  #id(namespace: readonly string[], key: string): string {
    return `langgraph${this.#apart}:${hash([...namespace, key])}`
  }

  #tag(namespace: readonly string[]): string {
    return this.#apart + prefixOf(namespace)
  }
}

function prefixOf(namespace: readonly string[]): string {
  return JSON.stringify(namespace)
}

function namespaceOf(record: MemoryRecord): string[] {
  return JSON.parse(record.category ?? '[]')
}

function item(record: MemoryRecord): Item {
  return {
    value: record.metadata,
    key: record.source ?? '',
    namespace: namespaceOf(record),
    createdAt: new Date(record.createdAt),
    updatedAt: new Date(record.updatedAt),
  }
}

/** Returns whether the engine finds what equals it. */
function isExact(want: unknown): boolean {
  return typeof want === 'string' || typeof want === 'boolean' || Number.isSafeInteger(want)
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Returns whether a value passes a filter, as LangGraph's own stores have it: objects in part, lists whole. */
function passes(have: unknown, want: unknown): boolean {
  if (Array.isArray(want)) {
    return Array.isArray(have) && have.length === want.length && want.every((inner, at) => passes(have[at], inner))
  }
  if (!isObject(want)) return have === want
  if (Object.keys(want).some((name) => name.startsWith('$'))) return compares(have, want)
  return isObject(have) && Object.entries(want).every(([name, inner]) => passes(have[name], inner))
}

function compares(have: unknown, wanted: Record<string, unknown>): boolean {
  return Object.entries(wanted).every(([name, want]) => {
    switch (name) {
      case '$eq':
        return have === want
      case '$ne':
        return have !== want
      case '$gt':
        return Number(have) > Number(want)
      case '$gte':
        return Number(have) >= Number(want)
      case '$lt':
        return Number(have) < Number(want)
      case '$lte':
        return Number(have) <= Number(want)
      case '$in':
        return Array.isArray(want) && want.includes(have)
      case '$nin':
        return !Array.isArray(want) || !want.includes(have)
      default:
        throw new Error(`${name} is no comparison; known are $eq, $ne, $gt, $gte, $lt, $lte, $in, $nin`)
    }
  })
}

/** The order of namespaces: part by part, by code points. */
function inOrder(a: readonly string[], b: readonly string[]): number {
  const at = a.findIndex((part, place) => part !== b[place])
  if (at < 0) return a.length - b.length
  return b[at] === undefined ? 1 : Buffer.compare(Buffer.from(a[at]!), Buffer.from(b[at]))
}

function matches({ matchType, path }: MatchCondition, namespace: readonly string[]): boolean {
  if (namespace.length < path.length) return false
  const part = matchType === 'prefix' ? namespace : namespace.slice(namespace.length - path.length)
  return path.every((want, at) => want === '*' || want === part[at])
}
