/** The types of the wire. Made by scripts/types.mjs from the schemas of the engine: do not edit. */

/** What is wrong, once. */
export interface Alert {
  /** Stays the same while the alert lives, and when it returns within its cooldown. */
  id: string
  /** The worst of what it lists. */
  severity: Severity
  /** One line. */
  title: string
  /** What is wrong, with the values. */
  message: string
  /** The services that it is about, the cause first. */
  services: string[]
  /** The metric, where a rule raised it. */
  metric: string | null
  /** The last value, where a rule raised it. */
  value: number | null
  /** The threshold that the value reached. */
  threshold: number | null
  /** The group that its services share. */
  group: string | null
  /** Alerts with the same incident have the same service as their cause. */
  incident: string
  /** Since when it holds. */
  startedAt: string
  /** When it last changed. */
  updatedAt: string
  /** When it no longer held. */
  resolvedAt: string | null
  /** Who resolved it; `null` when it resolved itself. */
  resolvedBy: string | null
  /** Who took it. */
  acknowledgedBy: string | null
  /** How often it was seen to hold. */
  count: number
  /** Where it is in its life. */
  state: AlertState
}

/** What is to be silent. Every field that is set must match. */
export interface AlertMatch {
  /** The id of one alert. */
  id?: string | null
  /** One of its services. */
  service?: string | null
  /** Its metric. */
  metric?: string | null
  /** Its group. */
  group?: string | null
  /** At most this severity. */
  severity?: Severity | null
}

/** Where an alert is in its life. */
export type AlertState = "active" | "acknowledged" | "silenced" | "resolved"

/** Which alerts. */
export interface Alerts {
  /** In which state; active ones by default. */
  state?: WantedState | null
}

/** Configuration of this capability. */
export interface ChatConfig {
  /** Calls to providers at once. Default 50. */
  maxConcurrent?: number
}

/** How far and how fast to look at all services. */
export interface CheckAll {
  /** Most probes at once. 64 by default. */
  concurrency?: number
  /** Time for all of them together. 5 s by default. In milliseconds. */
  deadlineMs?: number
}

/** Everything that can be set. Every field has a default; unknown fields are refused. */
export interface Config {
  /** Directory of durable state. Without it, everything stays in this process and is gone at its end. */
  dataDir?: string | null
  /** Records, key-value, search. */
  memory?: Record<string, never>
  /** Providers, cache, limits. */
  chat?: ChatConfig
  /** MCP servers. */
  registry?: Record<string, never>
  /** Probes and alerts. */
  health?: HealthConfig
}

/** A service that is called. */
export interface Dependency {
  /** Its name. */
  service: string
  /** How it came to be known. */
  source: EdgeSource
}

/** A dependency. */
export interface Depends {
  /** The service that calls. */
  service: string
  /** The service that is called. */
  on: string
}

/** Which way is bad. */
export type Direction = "higher_is_better" | "lower_is_better" | "both"

/** How a dependency came to be known. */
export type EdgeSource = "declared" | "observed"

/** Configuration of health. */
export interface HealthConfig {
  /** Time between two looks at a service, where its registration does not say it. 60 s. In milliseconds. */
  intervalMs?: number
  /** The same as text, such as `"15m"`. */
  interval?: string
  /** Time for one look. 5 s. In milliseconds. */
  timeoutMs?: number
  /** The same as text, such as `"15m"`. */
  timeout?: string
  /** Failures in a row that make a service unhealthy. 3. */
  failAfter?: number
  /** Successes in a row that make it healthy again. 2. */
  okAfter?: number
  /** How far an interval may be stretched or shortened, as a share of it, so that looks do not come all at once. 0.1. */
  jitter?: number
  /** Most probes that run at once. 64. */
  concurrency?: number
  /** Most services that can be registered. 10,000. */
  maxServices?: number
  /** Most signals that are kept, at 12 KB each at most. 4,096. */
  maxSignals?: number
  /** How long a resolved alert stays the same alert when its cause returns no worse. 5 min. In milliseconds. */
  alertCooldownMs?: number
  /** The same as text, such as `"15m"`. */
  alertCooldown?: string
  /** Most alert events that are sent in an hour; alerts beyond are still listed. 100. */
  alertsPerHour?: number
  /**
   * Parts of the overall score for services that are known by their signals alone, such as `{"chat": 0.2}`. Without an entry
   * such a service counts only while nothing is registered.
   */
  weights?: Record<string, number>
  /** Parts of the unified health. `infrastructure` 0.4, `ai_memory` 0.3, `deployment` 0.3. */
  unifiedWeights?: Record<string, number>
}

/** What happened, as it goes over a WebSocket: `{type, data, timestamp}`. */
export type HealthEvent = ({
  type: "alert_opened"
  /** What is wrong, once. */
  data: Alert
} & {
  /** When. */
  timestamp: string
}) | ({
  type: "alert_changed"
  /** What is wrong, once. */
  data: Alert
} & {
  /** When. */
  timestamp: string
}) | ({
  type: "alert_resolved"
  /** What is wrong, once. */
  data: Alert
} & {
  /** When. */
  timestamp: string
}) | ({
  type: "report_changed"
  data: StatusChange[]
} & {
  /** When. */
  timestamp: string
}) | ({
  type: "missed"
  data: number
} & {
  /** When. */
  timestamp: string
})

/** Alerts with the same cause. */
export interface Incident {
  /** The `incident` of its alerts. */
  id: string
  /** The first alert's title. */
  title: string
  /** The worst of its alerts. */
  severity: Severity
  /** Every service that it affects, the cause first. */
  services: string[]
  /** Its alerts' ids. */
  alerts: string[]
  /** Since when it lasts. */
  startedAt: string
}

/** The last hour in a few numbers, over all services. */
export interface Kpis {
  /** Share of looks at services that found them working, 0..1. */
  availability: number | null
  /** Mean `error_ratio`, 0..1. */
  errorRatio: number | null
  /** Mean `cache_hit_ratio`, 0..1. */
  cacheHitRatio: number | null
  /** Mean `latency_ms`. */
  latencyMeanMs: number | null
  /** Points of `latency_ms`: one for each operation. */
  operations: number
  /** Services that work. */
  servicesHealthy: number
  /** All services. */
  servicesTotal: number
  /** Alerts that hold. */
  alertsActive: number
}

/** A service that is being worked on. */
export interface Maintenance {
  /** Its name. */
  service: string
  /** Until when. */
  until: string | Date
}

/** One measured point. */
export interface Observation {
  /** Who was measured. */
  service: string
  /** What was measured, with its unit in the name, such as `"latency_ms"`. */
  metric: string
  /** The value, finite. */
  value: number
  /** When; now without it. At most an hour ago. */
  at?: string | Date | null
  /** The unit, for those who show it. */
  unit?: string | null
  /** Which way is bad; guessed from the name without it. */
  direction?: Direction | null
  /** How many measurements it stands for. 1 by default. */
  weight?: number
}

/** All in one. */
export interface Overall {
  /** 0..100: the weighted mean of the components that could be measured; `null` when none could. */
  score: number | null
  /** The score in a word; `critical` also while a critical service does not work. */
  status: OverallStatus
  /** The score less that of an hour ago; `null` when that is not known. */
  delta1h: number | null
  /** How many components are in the score. */
  componentsEvaluated: number
  /** The components that could not be measured, and are not in the score. */
  componentsUnknown: string[]
}

/** A score in a word. */
export type OverallStatus = "excellent" | "good" | "fair" | "poor" | "critical" | "unknown"

/** A probe that can be written down. */
export type ProbeSpec = {
  kind: "http"
  /** `http://` or `https://`. */
  url: string
  /** Headers to send. */
  headers?: Record<string, string>
  /** Status codes that count as healthy; without it every 2xx and 3xx, and what the body says. */
  expect?: readonly number[]
} | {
  kind: "tcp"
  /** Name or address. */
  host: string
  /** Port. */
  port: number
}

/** How a value was spread over the last hour, within 4 %. */
export interface Quantiles {
  /** The mean, exact. */
  mean: number
  /** The median. */
  p50: number
  /** 95 % are below. */
  p95: number
  /** 99 % are below. */
  p99: number
  /** The largest. */
  max: number
}

/** What to do. */
export interface Recommendation {
  /** Stays the same for the same advice. */
  id: string
  /** One line. */
  title: string
  /** Why. */
  description: string
  /** The healing action that does it, if one is known. */
  action: string | null
  /** How much harm it can do, where an action does it. */
  risk: Risk | null
}

/** A service to look after. */
export interface Registration {
  /** Its name, unique. */
  service: string
  /** How to look at it, where that is written down and not a value that is handed over. */
  probe?: ProbeSpec | null
  /** Time between two looks, with jitter; `health.interval` (60 s) by default. In milliseconds. */
  intervalMs?: number | null
  /** Time for one look; `health.timeout` (5 s) by default. In milliseconds. */
  timeoutMs?: number | null
  /** Failures in a row that make it unhealthy; `health.fail_after` (3) by default. */
  failAfter?: number | null
  /** Successes in a row that make it healthy again; `health.ok_after` (2) by default. */
  okAfter?: number | null
  /** Its part in the overall score, relative to the others'. 1 by default. */
  weight?: number
  /** Whether nothing works without it: then the overall status is critical while it is unhealthy. */
  critical?: boolean
  /** Those with the same group share one alert. */
  group?: string | null
  /** The services that it calls. */
  dependsOn?: readonly string[]
}

/** How much harm an action can do. */
export type Risk = "low" | "medium" | "high" | "critical"

/**
 * When the values of a metric are an alert.
 *
 * A value is bad when it reaches a threshold from the good side: at or above it where lower is better, at or below it where
 * higher is better.
 *
 * - Values that a user or a probe observes are judged one by one, in the order of their time.
 * - Points that the engine itself sends (an outcome or a cache look-up is 0 or 1) say nothing alone: they are judged by their
 * mean over the last five minutes, or `for_n` minutes if that is more, once there are 20 of them.
 */
export interface Rule {
  /** The metric whose values are judged. */
  metric: string
  /** The service whose values are judged; all without it. A rule for one service stands in for the one for all. */
  service?: string | null
  /** From here on it is a warning. */
  warning?: number | null
  /** From here on it is critical. */
  critical?: number | null
  /** Which way is bad. */
  direction: Direction
  /** How many values in a row have to be bad. 1 by default. */
  forN?: number
  /** How long a resolved alert stays the same alert when it returns no worse. 300 s by default. In milliseconds. */
  cooldownMs?: number
  /** Whether the alert resolves itself when the value is good again. True by default. */
  autoResolve?: boolean
}

/** How one section is. */
export interface Section {
  /** 0..100, or `null` while unknown. */
  score: number | null
  /** The score in a word. */
  status: Status
  /** Its part in the overall score, of 1. */
  weight: number
  /** Its services. */
  services: Record<string, ServiceHealth>
}

/** One part of a history. */
export interface SeriesPoint {
  /** Where it begins. */
  at: string
  /** How many points fell into it. */
  count: number
  /** Their mean. */
  mean: number | null
  /** The smallest. */
  min: number | null
  /** The largest. */
  max: number | null
}

/** Which history of which signal. */
export interface SeriesQuery {
  /** The service. */
  service: string
  /** The metric. */
  metric: string
  /** How far back; an hour by default, and at most. In milliseconds. */
  windowMs?: number
  /** In how many parts; 60 by default, and at most one for each minute. */
  buckets?: number
}

/** The recent history of one signal. */
export interface SeriesView {
  /** The service. */
  service: string
  /** The metric. */
  metric: string
  /** The unit, where one was given. */
  unit: string | null
  /** Which way is bad. */
  direction: Direction
  /** The parts, oldest first. */
  points: SeriesPoint[]
  /** How the values of the last hour are spread. */
  hour: Quantiles | null
}

/** One service. */
export interface ServiceArgument {
  /** Its name. */
  service: string
}

/** What one look at a service gave. */
export interface ServiceCheck {
  /** The service. */
  service: string
  /** How it is believed to be, which takes `fail_after` failures or `ok_after` successes to change. */
  status: Status
  /** What this look alone saw. */
  observed: Status
  /** 0..100, or `null` while unknown. */
  score: number | null
  /** How long the look took, unless the service gave no answer. */
  latencyMs: number | null
  /** What there is to say about it. */
  detail: string | null
  /** Looks in a row that failed. */
  consecutiveFailures: number
  /** When it was looked at. */
  checkedAt: string
}

/** How one service is. */
export interface ServiceHealth {
  /** How it is. */
  status: Status
  /**
   * 0..100. A probe's own score, or that of its status. Without a probe, from its signals of the last five minutes: 100 less
   * twice the percentage of errors, less up to 30 points for a latency above its own median of the hour (10 points each
   * doubling). `null` while there are fewer than 5 points.
   */
  score: number | null
  /** Its part in the overall score, relative to the others'. */
  weight: number
  /** Whether it is in the overall score. */
  counted: boolean
  /** Whether nothing works without it. */
  critical: boolean
  /** Where this comes from. */
  source: Source
  /** The group with which it shares an alert. */
  group: string | null
  /** What there is to say about it. */
  detail: string | null
  /** Since when it has this status. */
  since: string | null
  /** When it was last looked at. */
  lastCheck: string | null
  /** How long the last look that was answered took. */
  probeLatencyMs: number | null
  /** Looks in a row that failed. */
  consecutiveFailures: number
  /** Until when it is being worked on, and raises nothing. */
  maintenanceUntil: string | null
  /** What it calls. */
  dependsOn: Dependency[]
  /** Its latency over the hour. */
  latencyMs: Quantiles | null
  /** Its errors over the last five minutes, 0..1. */
  errorRatio: number | null
  /** Its cache over the last five minutes, 0..1. */
  cacheHitRatio: number | null
  /** The metrics that it has. */
  metrics: string[]
}

/** How bad it is. */
export type Severity = "info" | "warning" | "critical"

/** What is to be silent, and for how long. */
export interface Silence {
  /** What is to be silent. */
  match: AlertMatch
  /** Until when. */
  until: string | Date
}

/** Where what is known of a service comes from. */
export type Source = "probe" | "signals"

/** How a service is. */
export type Status = "healthy" | "degraded" | "unhealthy" | "unknown"

/** A service whose status changed. */
export interface StatusChange {
  /** The service. */
  service: string
  /** How it was. */
  from: Status
  /** How it is. */
  to: Status
}

/** How everything is. What is not known is `null`, and never a guess. */
export interface SystemHealth {
  /** When the report was made. */
  timestamp: string
  /** All in one. */
  overall: Overall
  /** Every service that is registered or sent a signal within the hour, by name. */
  services: Record<string, ServiceHealth>
  /** Alerts that hold, one for each incident's effect. */
  alerts: Alert[]
  /** Alerts by their cause. */
  incidents: Incident[]
  /** What to do. */
  recommendations: Recommendation[]
  /** The last hour in steps of five minutes. */
  trends: Trends
  /** The last hour in a few numbers. */
  kpis: Kpis
}

/** The last hour in steps of five minutes, oldest first. Means over all services; `null` where nothing was measured. */
export interface Trends {
  /** Where each step begins. */
  labels: string[]
  /** Mean `latency_ms`. */
  responseTimes: (number | null)[]
  /** Mean `cache_hit_ratio`, 0..1. */
  cacheHitRates: (number | null)[]
  /** Mean `error_ratio`, 0..1. */
  errorRates: (number | null)[]
  /** Points of `latency_ms`: one for each operation. */
  operationCounts: number[]
}

/**
 * How everything is, by section.
 *
 * A section holds the services of its name or group. Those of the engine itself that are in no section (`memory`, `chat`,
 * `registry` and what is below them) are in `ai_memory`.
 */
export interface UnifiedHealth {
  /** 0..100: the sections by their weights; `null` when none could be measured. */
  overallHealth: number | null
  /** The score in a word. */
  status: OverallStatus
  /** Machines, databases, networks. */
  infrastructure: Section | null
  /** Memory, chat and tools. */
  aiMemory: Section | null
  /** What is deployed, and how. */
  deployment: Section | null
  /** What it is for. */
  business: Section | null
  /** Alerts that hold. */
  alerts: Alert[]
  /** What to do. */
  recommendations: Recommendation[]
  /** When this was made. */
  timestamp: string
}

/** In which state. */
export type WantedState = "active" | "acknowledged" | "silenced" | "resolved" | "all"

/** An alert, and who deals with it. */
export interface Who {
  /** The id of the alert. */
  id: string
  /** Who deals with it. */
  by: string
}

