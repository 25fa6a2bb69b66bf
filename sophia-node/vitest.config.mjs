// The suites of others, which are written for vitest. Our own tests run with `node --test`.
export default { test: { globals: true, include: ['test/peers/*.spec.mjs'], testTimeout: 30_000 } }
