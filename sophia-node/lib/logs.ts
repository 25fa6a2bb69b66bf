/** What the engine logs: given to a function, or told as Node's warnings are. */

import * as native from '../native.js'

/** One event of the engine. It holds no payloads and no keys. */
export interface LogEntry {
  level: 'error' | 'warn' | 'info' | 'debug' | 'trace'
  /** Which part of the engine it is about, such as `sophia.memory`. */
  target: string
  /** What happened; the same text each time it does. */
  message: string
  /** To what, and how. */
  fields: Record<string, string | number | boolean>
}

/** An entry, and all of it in one line. */
type Told = LogEntry & { text: string }

let listener: ((entry: LogEntry) => void) | undefined
let isolate: number | undefined
let exiting = false

/**
 * Gives what the engine logs to a function: from `info` upwards, or what the environment variable `SOPHIA_LOG` asks for (`debug`,
 * or `warn,sophia.memory=debug`). Without one, warnings and errors are warnings of Node, and what `SOPHIA_LOG` asks for is written
 * to stderr. There is one function for the process: a later one takes its place.
 *
 * ```js
 * onLog(({ level, target, message, fields }) => logger[level]({ target, ...fields }, message))
 * ```
 */
export function onLog(listen: (entry: LogEntry) => void): void {
  listener = listen
  connect(true)
}

/** Hears the engine, if this thread does not yet. */
export function hearLogs(): void {
  if (isolate === undefined) connect(false)
}

function connect(listens: boolean): void {
  if (isolate === undefined) {
    process.once('exit', () => {
      exiting = true
      deliver(native.takeLogs(isolate!))
    })
  }
  isolate = native.tellLogs(deliver, listens)
}

function deliver(entries: string): void {
  for (const told of JSON.parse(entries) as Told[]) {
    try {
      tell(told)
    } catch (thrown) {
      // Uncaught, as from any listener; but the other entries are told.
      process.nextTick(() => {
        throw thrown
      })
    }
  }
}

function tell({ text, ...entry }: Told): void {
  const { level, target } = entry
  if (listener) listener(entry)
  // Node tells no warning any more once it exits.
  else if (exiting || process.env.SOPHIA_LOG != null) {
    console.error(`${new Date().toISOString()} ${level.toUpperCase()} ${target}: ${text}`)
  } else process.emitWarning(text, { type: 'SophiaWarning', code: target })
}
