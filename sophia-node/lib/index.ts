/**
 * The embeddable core of an AI backend: memory, cached chat, an MCP registry and health correlation in one engine.
 *
 * ```js
 * import { Sophia } from 'sophia-ai'
 *
 * const s = new Sophia()
 * await s.start()
 * await s.memory.store('Ada wants the quarterly report as a PDF.', { scope: { user: 'ada' } })
 * const { hits } = await s.memory.search('which file format does she like?', { scope: { user: 'ada' } })
 * await s.close()
 * ```
 */

import * as native from '../native.js'
import { Chat } from './chat.js'
import { invalidConfig } from './errors.js'
import { Health } from './health.js'
import { type Handler, type Upgrade, handler, upgrade } from './http.js'
import { Memory } from './memory.js'
import { Registry } from './registry.js'
import type { Config } from './types.js'
import { Bridge, type CallOptions, write } from './wire.js'

/** The engine: memory, chat, registry and health, with one configuration and one end. */
export class Sophia {
  /** Records, keys and values, facts. */
  readonly memory: Memory
  /** Models, and what they answered. */
  readonly chat: Chat
  /** MCP servers and their tools. */
  readonly registry: Registry
  /** Probes, rules, alerts and healing. */
  readonly health: Health
  readonly #bridge: Bridge

  /**
   * Builds an engine from a configuration or from the path of a `.toml` or `.json` file. Opens nothing: files and
   * connections are opened by their first use, or by `start()`.
   *
   * @throws InvalidConfigError that names the field
   */
  constructor(config: Config | string = {}) {
    this.#bridge = bridgeOf(config)
    this.memory = new Memory(this.#bridge)
    this.chat = new Chat(this.#bridge)
    this.registry = new Registry(this.#bridge)
    this.health = new Health(this.#bridge)
  }

  /** Builds an engine from the file that `SOPHIA_CONFIG` names, and the variables `SOPHIA_…` over it. */
  static fromEnv(): Sophia {
    return new Sophia(ENVIRONMENT as unknown as Config)
  }

  /** Returns the JSON Schema of the configuration, in the names of configuration files. */
  static configSchema(): Record<string, unknown> {
    return JSON.parse(native.configSchema())
  }

  /** Opens what the configuration names, and starts background work. Calling it again does nothing. */
  async start(options?: CallOptions): Promise<this> {
    await this.#bridge.start(options)
    return this
  }

  /** Flushes, stops background work and child processes, and returns. `start()` starts it again. */
  close(): Promise<void> {
    return this.#bridge.close()
  }

  /**
   * Returns the HTTP surface as a listener: `http.createServer(s.handler())`, or `app.use(s.handler())` after the routes of an
   * Express application. It answers every path; a caller that left ends the work for it.
   */
  handler(): Handler {
    return handler(this.#bridge)
  }

  /**
   * Returns the WebSockets of the surface: `server.on('upgrade', s.upgrade())`. A path that is none of them is refused, so an
   * application with WebSockets of its own calls this for the rest.
   */
  upgrade(): Upgrade {
    return upgrade(this.#bridge)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/** Stands for the variables of the environment where a configuration is expected. */
const ENVIRONMENT = Symbol('environment')

function bridgeOf(config: Config | string | typeof ENVIRONMENT): Bridge {
  if (config === ENVIRONMENT) return new Bridge('Environment', '', {})
  if (typeof config === 'string') return new Bridge('File', config, {})
  return new Bridge('Json', write('config', config, invalidConfig), config)
}

export { Chat, type ChatOptions, type FunctionTool, type RunProducerOptions, type RunResult } from './chat.js'
export { Checkpoints } from './checkpoints.js'
export * from './errors.js'
export { Health, Probe, type Heal, type ProbeAnswer } from './health.js'
export type { Handler, Upgrade } from './http.js'
export { onLog, type LogEntry } from './logs.js'
export { Graph, Kv, Memory, type EmbedderOptions, type Vectors } from './memory.js'
export { Registry } from './registry.js'
export type * from './types.js'
export type { CallOptions, JsonIterator } from './wire.js'
