// Embedders: a function of one's own, and a change of the model while both answer.
// Run: node examples/node/embedders.mjs. It needs no key and no server.
import assert from 'node:assert/strict'
import { Sophia } from 'sophia-ai'

const scope = { tenant: 'acme', user: 'ada' }
const meanings = [['car', 'automobile', 'drives'], ['cat', 'kitten'], ['doctor', 'physician']]

/** Stands for a model: it knows that some words mean the same. A real one would be asked here. */
async function embed(texts) {
  return texts.map((text) => [...meanings.map((words) => Number(words.some((word) => text.includes(word)))), 0.1])
}

const s = new Sophia()
await s.start()

// By the model inside the library, which needs nothing.
await s.memory.store('She drives an old automobile.', { scope })
await s.memory.store('The doctor calls at nine.', { scope })

// From here on by another one. What is there is embedded anew in the background, and found meanwhile.
s.memory.setEmbedder(embed, { model: 'meanings', dimensions: 4 })
const search = async () => (await s.memory.search('does she have a car?', { scope, limit: 1 })).hits[0].record.content
console.log('at once:   ', await search())
const { done, model, left } = await s.memory.reembed()
console.log(`in the end: ${done} records by ${model}, ${left} left`)
console.log('and now:   ', await search())
assert.equal(await search(), 'She drives an old automobile.')
assert.equal(left, 0)
await s.close()
