// Writes lib/types.ts from the JSON Schemas of the engine's operations: node scripts/types.mjs [--check]
import { readFileSync, writeFileSync } from 'node:fs'
import { configSchema, operationSchemas } from '../native.js'

const FILE = new URL('../lib/types.ts', import.meta.url)
/** Names that TypeScript has already. */
const BUILT_IN = ['Record', 'Map', 'Set', 'Date', 'Error', 'Promise']
const DURATION = '#/$defs/DurationSchema'

const camel = (name) => name.replace(/(?<=.)_+([a-z0-9])/g, (_, letter) => letter.toUpperCase())
const key = (name) => (/^[A-Za-z_$][\w$]*$/.test(name) ? name : JSON.stringify(name))

/** Writes types of one direction: what is given to the engine, or what it gives. */
class Writer {
  constructor(definitions, { given, config = false, names = new Map() }) {
    Object.assign(this, { definitions, given, config, names })
  }

  name(name) {
    return this.names.get(name) ?? name
  }

  type(schema, indent = '') {
    if (schema === true || schema === undefined) return 'unknown'
    if (schema === false) return 'never'
    if (schema.$ref) return this.reference(schema.$ref)
    if ('const' in schema) return JSON.stringify(schema.const)
    if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(' | ')
    const union = schema.oneOf ?? schema.anyOf
    if (union) return [...new Set(union.map((one) => this.merged(one, schema, indent)))].join(' | ')
    if (schema.allOf) return schema.allOf.map((one) => this.type(one, indent)).join(' & ')
    const types = [schema.type ?? []].flat()
    if (types.length === 0) return schema.properties ? this.object(schema, indent) : 'unknown'
    return types.map((type) => this.plain(type, schema, indent)).join(' | ')
  }

  merged(one, schema, indent) {
    const text = this.type(one, indent)
    return schema.properties && one !== true ? `(${text} & ${this.object(schema, indent)})` : text
  }

  reference(ref) {
    const name = ref.split('/').pop()
    if (ref === DURATION) return this.given ? 'number | string' : 'number'
    const target = this.definitions[name]
    return target && this.isAlias(target) ? this.type(target) : this.name(name)
  }

  isAlias(schema) {
    return !schema.properties && !schema.enum && !schema.oneOf && !schema.anyOf
  }

  plain(type, schema, indent) {
    switch (type) {
      case 'null':
        return 'null'
      case 'boolean':
        return 'boolean'
      case 'integer':
      case 'number':
        return 'number'
      case 'string':
        return this.given && schema.format === 'date-time' ? 'string | Date' : 'string'
      case 'array': {
        if (schema.prefixItems) return `[${schema.prefixItems.map((item) => this.type(item, indent)).join(', ')}]`
        const item = this.type(schema.items, indent)
        const list = item.includes(' ') ? `(${item})[]` : `${item}[]`
        return this.given ? `readonly ${list}` : list
      }
      default:
        return this.object(schema, indent)
    }
  }

  object(schema, indent) {
    const fields = Object.entries(schema.properties ?? {})
    const rest = schema.additionalProperties
    if (fields.length === 0) {
      return rest === false ? 'Record<string, never>' : `Record<string, ${this.type(rest === undefined ? true : rest, indent)}>`
    }
    const required = new Set(schema.required ?? [])
    const lines = fields.flatMap(([name, field]) => this.field(name, field, required.has(name), `${indent}  `))
    return `{\n${lines.join('\n')}\n${indent}}`
  }

  field(name, schema, required, indent) {
    const duration = isDuration(schema)
    const type = this.type(schema, indent)
    const lines = doc(schema.description ?? this.definitions[schema.$ref?.split('/').pop()]?.description, indent)
    if (!duration || !this.given) return [...lines, `${indent}${key(camel(name))}${required ? '' : '?'}: ${type}`]
    const inMillis = [
      ...doc(`${(schema.description ?? '').replace(/,? ?in seconds/g, '')} In milliseconds.`, indent),
      `${indent}${camel(name)}Ms?: number${type.includes('null') ? ' | null' : ''}`,
    ]
    if (!this.config) return inMillis
    return [...inMillis, ...doc('The same as text, such as `"15m"`.', indent), `${indent}${camel(name)}?: string`]
  }

  definition(name) {
    const schema = this.definitions[name]
    const lines = doc(schema.description, '')
    if (schema.properties && !schema.oneOf && !schema.anyOf) {
      return [...lines, `export interface ${this.name(name)} ${this.object(schema, '')}`].join('\n')
    }
    return [...lines, `export type ${this.name(name)} = ${this.type(schema)}`].join('\n')
  }

  all() {
    const named = Object.keys(this.definitions).filter((name) => name !== 'DurationSchema' && !this.isAlias(this.definitions[name]))
    return new Map(named.sort().map((name) => [name, this.definition(name)]))
  }
}

function isDuration(schema) {
  return schema.$ref === DURATION || (schema.anyOf ?? []).some((one) => one.$ref === DURATION)
}

function doc(text, indent) {
  if (!text?.trim()) return []
  const lines = text
    .replace(/```[\s\S]*?```/g, '')
    .replace(/\[(`[^`]+`)\](\([^)]*\))?/g, '$1')
    .replaceAll('`None`', '`null`')
    .trim()
    .split('\n')
    .map((line) => line.trim())
  return lines.length === 1
    ? [`${indent}/** ${lines[0]} */`]
    : [`${indent}/**`, ...lines.map((line) => `${indent} * ${line}`.trimEnd()), `${indent} */`]
}

/** Writes the types of one capability. What is given and taken in different forms has two names. */
function typesOf({ arguments: given, results }) {
  const taken = new Writer(results, { given: false }).all()
  const names = new Map()
  for (const [name, text] of new Writer(given, { given: true }).all()) {
    if (taken.has(name) && taken.get(name) !== text) names.set(name, `${name}Input`)
  }
  const types = new Map(taken)
  for (const [name, text] of new Writer(given, { given: true, names }).all()) types.set(names.get(name) ?? name, text)
  return types
}

/** Names the arguments that are durations, and nowhere another number. */
function durationsOf(capabilities) {
  const definitions = capabilities.flatMap(([, schemas]) => Object.values(schemas.arguments))
  const fields = definitions.flatMap(({ properties = {} }) => Object.entries(properties))
  const isNumber = (schema) => !isDuration(schema) && [schema.type].flat().some((type) => type === 'number' || type === 'integer')
  const numbers = new Set(fields.filter(([, schema]) => isNumber(schema)).map(([name]) => name))
  const durations = fields.filter(([name, schema]) => isDuration(schema) && !numbers.has(name))
  return [...new Set(durations.map(([name]) => camel(name)))].sort()
}

/** Returns the text of lib/types.ts. */
export function generate() {
  const capabilities = Object.entries(JSON.parse(operationSchemas()))
  const { $defs = {}, ...root } = JSON.parse(configSchema())
  const config = new Writer({ ...$defs, Config: root }, { given: true, config: true }).all()
  const texts = new Map()
  const note = (name, text) => texts.set(name, new Set(texts.get(name)).add(text))
  for (const [name, text] of config) note(name, text)
  for (const [, schemas] of capabilities) for (const [name, text] of typesOf(schemas)) note(name, text)

  // A name that means different things in different capabilities gets that of its capability before it.
  const clashing = [...texts].filter(([name, texts]) => texts.size > 1 || BUILT_IN.includes(name)).map(([name]) => name)
  const types = new Map(config)
  for (const [capability, schemas] of capabilities) {
    const prefix = capability[0].toUpperCase() + capability.slice(1)
    const renamed = Object.fromEntries(
      ['arguments', 'results'].map((side) => [side, rename(schemas[side], (name) => (clashing.includes(name) && !config.has(name) ? prefix + name : name))]),
    )
    for (const [name, text] of typesOf(renamed)) types.set(name, text)
  }
  const sorted = [...types].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, text]) => text)
  const names = durationsOf(capabilities).map((name) => `'${name}'`).join(', ')
  const durations = `/** Arguments that are durations: what is given is in milliseconds, and their names end in \`Ms\`. */\nexport const DURATIONS: ReadonlySet<string> = new Set([${names}])`
  return ['/** The types of the wire. Made by scripts/types.mjs from the schemas of the engine: do not edit. */', durations, ...sorted, ''].join('\n\n')
}

/** Renames definitions and what refers to them. */
function rename(definitions, name) {
  const visit = (value) => {
    if (Array.isArray(value)) return value.map(visit)
    if (typeof value !== 'object' || value === null) return value
    return Object.fromEntries(
      Object.entries(value).map(([key, inner]) => [
        key,
        key === '$ref' && typeof inner === 'string' ? inner.replace(/[^/]+$/, name) : visit(inner),
      ]),
    )
  }
  return Object.fromEntries(Object.entries(definitions).map(([key, schema]) => [name(key), visit(schema)]))
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const text = generate()
  if (!process.argv.includes('--check')) writeFileSync(FILE, text)
  else if (readFileSync(FILE, 'utf8') !== text) {
    console.error('lib/types.ts is not what the engine says: run `npm run types`')
    process.exit(1)
  }
}
