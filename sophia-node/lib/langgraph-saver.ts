/** The checkpointer of LangGraph.js on Sophia. */

import { randomBytes } from 'node:crypto'
import type { RunnableConfig } from '@langchain/core/runnables'
import {
  BaseCheckpointSaver,
  TASKS,
  WRITES_IDX_MAP,
  maxChannelVersion,
  type ChannelVersions,
  type Checkpoint,
  type CheckpointListOptions,
  type CheckpointMetadata,
  type CheckpointPendingWrite,
  type CheckpointTuple,
  type DeltaChannelHistory,
  type PendingWrite,
  type SerializerProtocol,
} from '@langchain/langgraph-checkpoint'
import { invalidInput } from './errors.js'
import type { Sophia } from './index.js'
import type { Checkpoints } from './checkpoints.js'
import type { Checkpoint as Stored, Encoded, PendingWrite as StoredWrite, Scope } from './types.js'

/** Checkpoints that one call of the engine lists. */
const PAGE = 100
/** Digits of the count in a version of a channel, so that versions sort as text. */
const VERSION_DIGITS = 12
/** Bytes of chance at the end of a version. */
const VERSION_BYTES = 4
/** How many ends of a version there are. */
const CHANCES = 2 ** (8 * VERSION_BYTES)
/** The first format of checkpoints that keeps pending sends with its own channels. */
const SENDS_IN_CHANNELS = 4
/** The encoding that is text. */
const JSON_ENCODING = 'json'

type ScopeOf = (config: RunnableConfig) => Scope | null | undefined

/** Whose checkpoints they are, and how values are encoded. */
export interface SaverOptions {
  /**
   * A tenant and user, or a function that makes them of the config, for a graph that serves many users. What is given no config
   * needs a saver with the scope itself: to delete, copy and prune, and to list all threads.
   */
  scope?: Scope | ScopeOf | null
  /** LangGraph's own by default. */
  serde?: SerializerProtocol
}

/** A place in the configuration of a run. */
interface Place {
  thread: string
  namespace: string
  id: string | undefined
}

/** Keeps the checkpoints of LangGraph in Sophia: deduplicated, compressed and scoped. */
export class SophiaSaver extends BaseCheckpointSaver<string> {
  readonly #checkpoints: Checkpoints
  readonly #scope: SaverOptions['scope']

  constructor(sophia: Sophia, options: SaverOptions = {}) {
    super(options.serde)
    this.#checkpoints = sophia.memory.checkpoints
    this.#scope = typeof options.scope === 'function' ? options.scope : ofTenantAndUser(options.scope)
  }

  /** Returns the checkpoint that the config names, or the last one of its thread. */
  async getTuple(config: RunnableConfig): Promise<CheckpointTuple | undefined> {
    if (config.configurable?.['thread_id'] === undefined) return undefined
    const { thread, namespace, id } = place(config, 'read a checkpoint')
    const found = await this.#checkpoints.get(thread, { id: id ?? null, namespace, scope: this.#scopeOf(config) })
    return found ? this.#tuple(found, config) : undefined
  }

  /** Yields the checkpoints that match, the last one first; they are read a page at a time. */
  async *list(config: RunnableConfig, options: CheckpointListOptions = {}): AsyncGenerator<CheckpointTuple> {
    const { checkpoint_ns: namespace, checkpoint_id: id } = config.configurable ?? {}
    // All threads only where none is named: one that is not known yet is not all of them.
    const thread = config.configurable?.['thread_id'] === undefined ? undefined : place(config, 'list checkpoints').thread
    const before = options.before?.configurable?.['checkpoint_id']
    let { limit } = options
    let after: string | null | undefined
    while (limit === undefined || limit > 0) {
      const { checkpoints, next } = await this.#checkpoints.list({
        thread,
        namespace,
        id,
        before,
        metadata: options.filter,
        limit: Math.min(limit ?? PAGE, PAGE),
        after,
        scope: Object.keys(config.configurable ?? {}).length > 0 ? this.#scopeOf(config) : this.#fixedScope('list'),
      })
      for (const checkpoint of checkpoints) yield await this.#tuple(checkpoint, config)
      if (limit !== undefined) limit -= checkpoints.length
      after = next
      if (after === null) return
    }
  }

  /** Keeps a checkpoint, and returns the config that names it. */
  async put(
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    newVersions: ChannelVersions,
  ): Promise<RunnableConfig> {
    const { thread, namespace, id: parent } = place(config, 'put a checkpoint')
    const { channel_values: values, ...body } = checkpoint
    const versions = Object.entries(checkpoint.channel_versions)
    const fresh = Object.entries(values).filter(
      ([name, value]) => value !== undefined && (name in newVersions || !(name in checkpoint.channel_versions)),
    )
    const facts = JSON.parse((await this.#encode(metadata)).data as string)
    const counters = metadata?.counters_since_delta_snapshot ?? {}
    await this.#checkpoints.put({
      thread,
      namespace,
      id: checkpoint.id,
      parent: parent ?? null,
      runId: typeof facts.run_id === 'string' ? facts.run_id : null,
      body: await this.#encode(body),
      metadata: facts,
      channels: Object.fromEntries(
        await Promise.all(fresh.map(async ([name, value]) => [name, await this.#encode(value)])),
      ),
      versions: Object.fromEntries(versions.map(([name, version]) => [name, String(version)])),
      deltas: Object.keys(counters).filter((name) => values[name] === undefined),
      scope: this.#scopeOf(config),
    })
    return this.#config(config, thread, namespace, checkpoint.id)
  }

  /** Keeps what a task wrote that began from the checkpoint of the config. */
  async putWrites(config: RunnableConfig, writes: PendingWrite[], taskId: string, taskPath = ''): Promise<void> {
    const { thread, namespace, id } = place(config, 'put writes')
    if (id === undefined) throw new Error('cannot put writes: `configurable.checkpoint_id` is missing')
    await this.#checkpoints.putWrites({
      thread,
      namespace,
      id,
      task: taskId,
      path: taskPath,
      writes: await Promise.all(
        writes.map(async ([channel, value], index) => ({
          channel,
          index: WRITES_IDX_MAP[channel] ?? index,
          value: await this.#encode(value),
        })),
      ),
      scope: this.#scopeOf(config),
    })
  }

  /** Returns for each channel its value at the nearest ancestor that has one, and what was written since. */
  override async getDeltaChannelHistory(options: {
    config: RunnableConfig
    channels: string[]
  }): Promise<Record<string, DeltaChannelHistory>> {
    const { config, channels } = options
    if (channels.length === 0) return {}
    const { thread, namespace, id } = place(config, 'read a history')
    const found = await this.#checkpoints.deltas(thread, channels, { namespace, id: id ?? null, scope: this.#scopeOf(config) })
    const histories = channels.map(async (name): Promise<[string, DeltaChannelHistory]> => {
      const { seed = null, writes = [] } = found[name] ?? {}
      const read: DeltaChannelHistory = { writes: await this.#writes(writes) }
      if (seed !== null) read.seed = await this.#decode(seed)
      return [name, read]
    })
    return Object.fromEntries(await Promise.all(histories))
  }

  /** Removes a thread with all its checkpoints and writes. */
  async deleteThread(threadId: string): Promise<void> {
    await this.#checkpoints.deleteThread(String(threadId), { scope: this.#fixedScope('delete_thread') })
  }

  /** Removes the checkpoints and writes of runs, in all threads. */
  async deleteForRuns(runIds: string[]): Promise<void> {
    await this.#checkpoints.deleteForRuns(runIds, { scope: this.#fixedScope('delete_for_runs') })
  }

  /** Copies a thread whole to a new one. */
  async copyThread(sourceThreadId: string, targetThreadId: string): Promise<void> {
    const scope = this.#fixedScope('copy_thread')
    await this.#checkpoints.copyThread(String(sourceThreadId), String(targetThreadId), { scope })
  }

  /** Keeps the last checkpoint of each namespace and what its delta channels are made of; or with `delete`, nothing. */
  async prune(threadIds: string[], options: { strategy?: 'keep_latest' | 'delete' } = {}): Promise<void> {
    await this.#checkpoints.prune(threadIds.map(String), { ...options, scope: this.#fixedScope('prune') })
  }

  /**
   * Returns a version above `current`. Its end is random, so that two forks of one step do not share a version. It is text; or
   * a number where the thread was begun with numbers, by another saver.
   */
  override getNextVersion(current: string | number | undefined): string {
    const chance = randomBytes(VERSION_BYTES)
    // LangGraph compares versions of two types as text, which is no order.
    if (typeof current === 'number') return (Math.floor(current) + 1 + chance.readUInt32BE() / CHANCES) as unknown as string
    const [count = '0'] = (current ?? '0').split('.')
    const next = String(BigInt(count) + 1n).padStart(Math.max(count.length, VERSION_DIGITS), '0')
    return `${next}.${chance.toString('hex')}`
  }

  async #tuple(found: Stored, asked: RunnableConfig): Promise<CheckpointTuple> {
    const { thread, namespace, id, parent } = found
    const checkpoint = (await this.#decode(found.body)) as Checkpoint
    const values = Object.entries(found.channels).map(async ([name, value]) => [name, await this.#decode(value)])
    checkpoint.channel_values = Object.fromEntries(await Promise.all(values))
    if (checkpoint.v < SENDS_IN_CHANNELS && parent !== null) await this.#takeSends(checkpoint, found, asked)
    const tuple: CheckpointTuple = {
      config: this.#config(asked, thread, namespace, id),
      checkpoint,
      metadata: await this.serde.loadsTyped(JSON_ENCODING, JSON.stringify(found.metadata)),
      pendingWrites: await this.#writes(found.writes),
    }
    if (parent !== null) tuple.parentConfig = this.#config(asked, thread, namespace, parent)
    return tuple
  }

  /** Gives a checkpoint of an older format what its parent's tasks sent, which newer ones have in a channel. */
  async #takeSends(checkpoint: Checkpoint, { thread, namespace, parent }: Stored, asked: RunnableConfig): Promise<void> {
    const before = await this.#checkpoints.get(thread, { id: parent, namespace, scope: this.#scopeOf(asked) })
    const sent = (before?.writes ?? []).filter(({ channel }) => channel === TASKS)
    checkpoint.channel_values[TASKS] = await Promise.all(sent.map(({ value }) => this.#decode(value)))
    const versions = Object.values(checkpoint.channel_versions)
    checkpoint.channel_versions[TASKS] = versions.length > 0 ? maxChannelVersion(...versions) : this.getNextVersion(undefined)
  }

  #writes(writes: readonly StoredWrite[]): Promise<CheckpointPendingWrite[]> {
    return Promise.all(
      writes.map(async ({ task, channel, value }): Promise<CheckpointPendingWrite> => [task, channel, await this.#decode(value)]),
    )
  }

  #config(asked: RunnableConfig, thread: string, namespace: string, id: string): RunnableConfig {
    // What a function makes the scope of has to be in the config that names the checkpoint, too.
    const own = typeof this.#scope === 'function' ? asked.configurable : {}
    return { configurable: { ...own, thread_id: thread, checkpoint_ns: namespace, checkpoint_id: id } }
  }

  async #encode(value: unknown): Promise<Encoded> {
    const [encoding, bytes] = await this.serde.dumpsTyped(value)
    const buffer = Buffer.from(bytes ?? [])
    return { encoding, data: encoding === JSON_ENCODING ? buffer.toString('utf8') : { base64: buffer.toString('base64') } }
  }

  #decode({ encoding, data }: Encoded): Promise<any> {
    if (typeof data === 'string') return this.serde.loadsTyped(encoding, encoding === JSON_ENCODING ? data : Buffer.from(data))
    return this.serde.loadsTyped(encoding, Buffer.from(data.base64, 'base64'))
  }

  #scopeOf(config: RunnableConfig): Scope | undefined {
    return (typeof this.#scope === 'function' ? ofTenantAndUser(this.#scope(config)) : this.#scope) ?? undefined
  }

  #fixedScope(operation: string): Scope | undefined {
    if (typeof this.#scope !== 'function') return this.#scope ?? undefined
    const problem = 'is a function of the config, and there is none here: take a saver with the scope itself'
    throw invalidInput(`memory.checkpoints.${operation}`, 'scope', problem)
  }
}

function ofTenantAndUser(scope: Scope | null | undefined): Scope | null | undefined {
  const name = (['session', 'agent'] as const).find((part) => scope?.[part] != null)
  if (name === undefined) return scope
  throw invalidInput('memory.checkpoints', `scope.${name}`, 'is set: checkpoints belong to a tenant and user')
}

function place(config: RunnableConfig, purpose: string): Place {
  const { thread_id: thread, checkpoint_ns: namespace, checkpoint_id: id } = config.configurable ?? {}
  if (thread == null) throw new Error(`cannot ${purpose}: \`configurable.thread_id\` is missing, or null`)
  return { thread: String(thread), namespace: namespace ?? '', id: id || undefined }
}
