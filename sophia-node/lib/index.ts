export * from './errors.js'
export { Bridge } from './wire.js'
