/** Probes, rules, alerts and healing. */

import type {
  Alert,
  Action,
  ActionResult,
  AlertMatch,
  CheckAll,
  HealthEvent,
  Observation,
  Registration,
  Rule,
  SeriesQuery,
  SeriesView,
  ServiceCheck,
  SystemHealth,
  Trigger,
  UnifiedHealth,
  WantedState,
} from './types.js'
import { invalidInput } from './errors.js'
import type { Bridge, CallOptions, JsonIterator } from './wire.js'

/** What a callback probe gives: a status such as `"ok"`, or a status with a score (0..100) and a detail. */
export type ProbeAnswer = string | number | boolean | { status: string; score?: number | null; detail?: string | null }

/** How to look at a service. Made by the functions of `Probe`. */
export interface ProbeSpec {
  readonly kind: string
  readonly [field: string]: unknown
}

/** How to look at a service. */
export const Probe = {
  /** Gets a URL. Healthy is every 2xx and 3xx, and what the body says; or one of `expect`. */
  http(url: string, options: { headers?: Record<string, string>; expect?: number[] } = {}): ProbeSpec {
    return { kind: 'http', url, ...options }
  },

  /** Opens a TCP connection. */
  tcp(host: string, port: number): ProbeSpec {
    return { kind: 'tcp', host, port }
  },

  /** Calls a function, sync or async. It gets a signal that aborts at the deadline. What it throws is unhealthy. */
  callback(fn: (signal: AbortSignal) => ProbeAnswer | PromiseLike<ProbeAnswer>): ProbeSpec {
    return { kind: 'callback', fn }
  },
}

/** One step of healing a target, such as a service; its signal aborts when it takes too long. */
export type Heal<T> = (target: string, context: { signal: AbortSignal }) => T | PromiseLike<T>

/** Knows what is wrong, and why. */
export class Health {
  readonly #bridge: Bridge

  /** @internal */
  constructor(bridge: Bridge) {
    this.#bridge = bridge
  }

  /** Looks after a service from now on, in place of one of the same name. */
  register(service: string, options: Omit<Registration, 'service' | 'probe'> & { probe: ProbeSpec }): void {
    const { probe, ...rest } = options
    if (typeof probe !== 'object') {
      throw invalidInput('health.register', 'probe', `is a ${typeof probe}: give Probe.http(url), Probe.tcp(…) or Probe.callback(…)`)
    }
    if (probe?.kind !== 'callback') return this.#bridge.callSync('health.register', { service, probe }, rest)
    const ask = probe['fn'] as (...args: unknown[]) => unknown
    this.#bridge.runSync('health.register', { ...rest, service }, (engine, text) =>
      engine.registerProbe(text, this.#bridge.keep('health.probe', ask)),
    )
  }

  /** Forgets a service; returns whether it was registered. */
  unregister(service: string): boolean {
    return this.#bridge.callSync('health.unregister', { service })
  }

  /** Says that `service` calls `on`. */
  depends(service: string, on: string): void {
    this.#bridge.callSync('health.depends', { service, on })
  }

  /** Says that a service is being worked on until then: it raises nothing and is not in the score. */
  maintenance(service: string, until: string | Date): void {
    this.#bridge.callSync('health.maintenance', { service, until })
  }

  /** Takes in a measured point. */
  observe(
    service: string,
    metric: string,
    value: number,
    options?: Omit<Observation, 'service' | 'metric' | 'value'>,
  ): void {
    this.#bridge.callSync('health.observe', { service, metric, value }, options)
  }

  /** Sets when the values of a metric are an alert. */
  rule(metric: string, options: Omit<Rule, 'metric'>): void {
    this.#bridge.callSync('health.rule', { metric }, options)
  }

  /** Looks at one service now. */
  check(service: string, options?: CallOptions): Promise<ServiceCheck> {
    return this.#bridge.call('health.check', { service }, options)
  }

  /** Looks at all services now, before one deadline. */
  checkAll(options?: CheckAll & CallOptions): Promise<Record<string, ServiceCheck>> {
    return this.#bridge.call('health.check_all', {}, options)
  }

  /** Returns how everything is, and why. */
  report(options?: CallOptions): Promise<SystemHealth> {
    return this.#bridge.call('health.report', {}, options)
  }

  /** Returns how everything is, in the shape that a unified dashboard reads. */
  unified(options?: CallOptions): Promise<UnifiedHealth> {
    return this.#bridge.call('health.unified', {}, options)
  }

  /** Returns the recent history of one signal. */
  series(service: string, metric: string, options?: Omit<SeriesQuery, 'service' | 'metric'>): SeriesView {
    return this.#bridge.callSync('health.series', { service, metric }, options)
  }

  /** Returns alerts, newest first; those that are active by default. */
  alerts(options?: { state?: WantedState }): Alert[] {
    return this.#bridge.callSync('health.alerts', {}, options)
  }

  /** Marks an alert as taken by someone. */
  ack(id: string, by: string): Alert {
    return this.#bridge.callSync('health.ack', { id, by })
  }

  /** Ends an alert by hand. */
  resolve(id: string, by: string): Alert {
    return this.#bridge.callSync('health.resolve', { id, by })
  }

  /** Silences the alerts that match until then. */
  silence(match: AlertMatch, until: string | Date): void {
    this.#bridge.callSync('health.silence', { match, until })
  }

  /** Returns what happens from now on; `break` ends it, and so does closing the engine. */
  subscribe(options?: CallOptions): JsonIterator<HealthEvent> {
    return this.#bridge.stream('health.subscribe', {}, options)
  }

  /**
   * Sets what can be done about targets. Low risk runs at once; medium waits for an approval unless the target is surely the
   * cause; high waits for an approval; critical for two. `verify` returns whether it helped, or nothing where it
   * cannot tell; if it did not, or took longer than `timeout`, `rollback` takes it back.
   */
  action(name: string, execute: Heal<unknown>, options: Omit<Action, 'name'> & { verify?: Heal<boolean | null | undefined>; rollback?: Heal<unknown> } = {}): void {
    const { verify, rollback, ...rest } = options
    const keep = (step: Heal<unknown>) => this.#bridge.keep('health.action', async (target: string, signal: AbortSignal) => step(target, { signal }))
    this.#bridge.runSync('health.action', { ...rest, name }, (engine, text) =>
      engine.action(
        text,
        keep(async (...args) => void (await execute(...args))),
        verify && keep(async (...args) => (await verify(...args)) ?? null),
        rollback && keep(async (...args) => void (await rollback(...args))),
      ),
    )
  }

  /** Asks for an action: runs it, or says why it does not, or what it waits for. */
  trigger(name: string, target: string, options?: Omit<Trigger, 'name' | 'target'> & CallOptions): Promise<ActionResult> {
    return this.#bridge.call('health.trigger', { name, target }, options)
  }

  /** Returns the requests that wait for an approval, oldest first. */
  pending(): ActionResult[] {
    return this.#bridge.callSync('health.pending', {})
  }

  /** Approves a request that waits, and runs it when that was the last approval it needed. */
  approve(id: string, options: { by: string } & CallOptions): Promise<ActionResult> {
    return this.#bridge.call('health.approve', { id }, options)
  }

  /** Refuses a request that waits. */
  reject(id: string, options: { by: string } & CallOptions): Promise<ActionResult> {
    return this.#bridge.call('health.reject', { id }, options)
  }

  /** Returns what became of the last requests, newest first. */
  audit(): ActionResult[] {
    return this.#bridge.callSync('health.audit', {})
  }

  /** Returns the engine's metrics as Prometheus text. */
  prometheus(): string {
    return this.#bridge.callSync('health.prometheus', {})
  }
}
