//! What an L1 hit of `memory.kv` costs, beside moka itself: `cargo bench -p sophia-benches --bench kv`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark stops where it cannot run")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use futures::FutureExt;
use moka::sync::Cache;
use sophia_core::{Config, Scope, Sophia, memory::KvOptions};

fn l1_hit(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let sophia = Sophia::new(Config::default()).unwrap();
    let scope = Scope::new().tenant("acme").user("ada");
    let value = serde_json::json!("x".repeat(100));
    let kv = sophia.memory().kv();
    runtime.block_on(kv.set("key", value.clone(), KvOptions::new().scope(&scope))).unwrap();
    let moka: Cache<String, serde_json::Value> = Cache::new(1_000);
    moka.insert("key".to_owned(), value);

    let mut group = criterion.benchmark_group("kv l1 hit");
    group.bench_function("moka get", |bench| bench.iter(|| black_box(moka.get(black_box("key")))));
    group.bench_function("sophia get_now", |bench| bench.iter(|| black_box(kv.get_now(black_box("key"), &scope))));
    group.bench_function("sophia get, polled once", |bench| {
        bench.iter(|| black_box(kv.get(black_box("key"), &scope).now_or_never()).unwrap());
    });
    group.finish();
}

criterion_group!(benches, l1_hit);
criterion_main!(benches);
