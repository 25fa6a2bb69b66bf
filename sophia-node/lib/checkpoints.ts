/** Keeps the steps of workflows, to go on from, to look back at, and to fork. */

import type {
  ChannelHistory,
  Checkpoint,
  CheckpointPage,
  CopyThread,
  DeleteRuns,
  DeleteThread,
  DeltaQuery,
  GetCheckpoint,
  ImportLangGraph,
  ImportedCheckpoints,
  ListCheckpoints,
  NewCheckpoint,
  NewWrites,
  Prune,
} from './types.js'
import type { Bridge, CallOptions } from './wire.js'

/** The checkpoints of workflows: kept once where they are equal, compressed, and scoped by tenant and user. */
export class Checkpoints {
  readonly #bridge: Bridge

  /** @internal */
  constructor(bridge: Bridge) {
    this.#bridge = bridge
  }

  /** Keeps a checkpoint; one with its id is replaced. It is durable when the promise is settled. */
  put(checkpoint: NewCheckpoint & CallOptions): Promise<void> {
    return this.#bridge.call('memory.checkpoints.put', {}, checkpoint)
  }

  /** Keeps what a task wrote that began from a checkpoint, which may be put later. */
  putWrites(writes: NewWrites & CallOptions): Promise<void> {
    return this.#bridge.call('memory.checkpoints.put_writes', {}, writes)
  }

  /** Returns one checkpoint with its writes, the last one where no id is given; null where there is none. */
  get(thread: string, options?: Omit<GetCheckpoint, 'thread'> & CallOptions): Promise<Checkpoint | null> {
    return this.#bridge.call('memory.checkpoints.get', { thread }, options)
  }

  /** Returns a page of checkpoints, the one with the greatest id first; `after` is the `next` of the page before. */
  list(options?: ListCheckpoints & CallOptions): Promise<CheckpointPage> {
    return this.#bridge.call('memory.checkpoints.list', {}, options)
  }

  /** Returns for each channel its value at the nearest ancestor that has one, and what was written since. */
  deltas(
    thread: string,
    channels: readonly string[],
    options?: Omit<DeltaQuery, 'thread' | 'channels'> & CallOptions,
  ): Promise<Record<string, ChannelHistory>> {
    return this.#bridge.call('memory.checkpoints.deltas', { thread, channels }, options)
  }

  /** Removes a thread with all its namespaces; returns how many checkpoints it had. */
  deleteThread(thread: string, options?: Omit<DeleteThread, 'thread'> & CallOptions): Promise<number> {
    return this.#bridge.call('memory.checkpoints.delete_thread', { thread }, options)
  }

  /** Removes the checkpoints that runs made, with their writes; returns how many. */
  deleteForRuns(runIds: readonly string[], options?: Omit<DeleteRuns, 'runIds'> & CallOptions): Promise<number> {
    return this.#bridge.call('memory.checkpoints.delete_for_runs', { runIds }, options)
  }

  /** Copies a thread whole to a new one; returns how many checkpoints. */
  copyThread(source: string, target: string, options?: Omit<CopyThread, 'source' | 'target'> & CallOptions): Promise<number> {
    return this.#bridge.call('memory.checkpoints.copy_thread', { source, target }, options)
  }

  /** Takes over the checkpoints of a file of LangGraph's `SqliteSaver`; the file is only read. */
  importLanggraph(path: string, options?: Omit<ImportLangGraph, 'path'> & CallOptions): Promise<ImportedCheckpoints> {
    return this.#bridge.call('memory.checkpoints.import_langgraph', { path }, options)
  }

  /** Removes all but the last checkpoint of each namespace and what its delta channels are made of; or all. */
  prune(threads: readonly string[], options?: Omit<Prune, 'threads'> & CallOptions): Promise<number> {
    return this.#bridge.call('memory.checkpoints.prune', { threads }, options)
  }
}
