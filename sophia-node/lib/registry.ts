/** A registry of MCP servers: import any configuration, see what disagrees, call a tool, survive a dead server. */

import type {
  BreakerSnapshot,
  Change,
  Conflict,
  Decision,
  Dialect,
  Discover,
  ListedTool,
  ListTools,
  LoadReport,
  CheckAll,
  Select,
  Server,
  ServerInput,
  ServerOverview,
  ServerStatus,
  Tool,
  ToolCall,
  ToolResult,
} from './types.js'
import type { Bridge, CallOptions, JsonIterator } from './wire.js'

/** Calls tools of MCP servers, and of in-house servers that speak REST. */
export class Registry {
  readonly #bridge: Bridge

  /** @internal */
  constructor(bridge: Bridge) {
    this.#bridge = bridge
  }

  /** Registers a server, in place of one of the same id; returns it with what is inferred filled in. */
  register(server: ServerInput): Server {
    return this.#bridge.callSync('registry.register', { server })
  }

  /** Takes a server out; returns whether it was there. */
  deregister(id: string): boolean {
    return this.#bridge.callSync('registry.deregister', { id })
  }

  /**
   * Loads servers from a document, or from a JSON or YAML file, in any form that editors and registries use.
   * `source` names it in reports and conflicts; loading a source again replaces what it claimed, and takes out the servers that
   * it alone had named.
   */
  load(config: object | string, options?: { source?: string | null } & CallOptions): Promise<LoadReport> {
    return this.#bridge.call('registry.load', { config }, options)
  }

  /** Returns what the sources disagree about, with what to do. */
  lint(): Conflict[] {
    return this.#bridge.callSync('registry.lint', {})
  }

  /** Returns the servers in a form that editors read, without secrets. */
  export(dialect?: Dialect): Record<string, unknown> {
    return this.#bridge.callSync('registry.export', { dialect })
  }

  /** Returns a server, by any spelling of its id. */
  get(id: string): Server {
    return this.#bridge.callSync('registry.get', { id })
  }

  /** Returns every server. */
  list(): Server[] {
    return this.#bridge.callSync('registry.list', {})
  }

  /** Returns the servers for which everything that is set holds. */
  discover(options?: Discover): Server[] {
    return this.#bridge.callSync('registry.discover', {}, options)
  }

  /** Chooses a server that can do something, and those to ask in its place. */
  select(capability: string, options?: Omit<Select, 'capability'>): Decision {
    return this.#bridge.callSync('registry.select', { capability }, options)
  }

  /**
   * Calls a tool. A server that is unknown rejects with `NotFoundError`; one that fails gives `ok: false` with `error`.
   * Without a server, `capability` picks one, or the tool has a qualified name such as `github__search`.
   */
  call(
    server: string | null | undefined,
    tool: string,
    args: Record<string, unknown> = {},
    options?: Omit<ToolCall, 'server' | 'tool' | 'arguments'> & CallOptions,
  ): Promise<ToolResult> {
    return this.#bridge.call('registry.call', { server, tool, arguments: args }, options)
  }

  /**
   * Lists tools, as MCP describes them. Of all servers, one that does not answer has the tools of its last good list, and
   * `toolsError` in `status` says why.
   */
  listTools(options?: ListTools & { format?: 'mcp' } & CallOptions): Promise<Tool[]>
  /**
   * Lists tools, in the form that a provider takes. Where several would have one qualified name, such as `github__search`, each
   * of them has a hash at its end.
   */
  listTools(options: ListTools & { format: 'openai' | 'anthropic' } & CallOptions): Promise<Record<string, unknown>[]>
  listTools(options?: ListTools & CallOptions): Promise<ListedTool[]> {
    return this.#bridge.call('registry.list_tools', {}, options)
  }

  /** Asks a server how it is. */
  check(id: string, options?: CallOptions): Promise<ServerStatus> {
    return this.#bridge.call('registry.check', { id }, options)
  }

  /** Asks every server how it is, before one deadline. */
  checkAll(options?: CheckAll & CallOptions): Promise<Record<string, ServerStatus>> {
    return this.#bridge.call('registry.check_all', {}, options)
  }

  /** Returns the breaker of a server. */
  breaker(id: string): BreakerSnapshot {
    return this.#bridge.callSync('registry.breaker', { id })
  }

  /** Returns what is known of every server, without asking any. */
  status(): Record<string, ServerOverview> {
    return this.#bridge.callSync('registry.status', {})
  }

  /** Returns what changes from now on, until the engine is closed; `break` ends it. */
  watch(options?: CallOptions): JsonIterator<Change> {
    return this.#bridge.stream('registry.watch', {}, options)
  }
}
