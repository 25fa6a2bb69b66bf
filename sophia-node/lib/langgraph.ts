/**
 * LangGraph.js on Sophia: a checkpointer and a store. Needs `@langchain/langgraph-checkpoint`, which LangGraph brings.
 *
 * ```js
 * import { Sophia } from 'sophia-ai'
 * import { SophiaSaver, SophiaStore } from 'sophia-ai/langgraph'
 *
 * const s = new Sophia({ dataDir: './data' })
 * const graph = builder.compile({ checkpointer: new SophiaSaver(s), store: new SophiaStore(s) })
 * ```
 */

export { SophiaSaver, type SaverOptions } from './langgraph-saver.js'
export { SophiaStore, type StoreOptions } from './langgraph-store.js'
