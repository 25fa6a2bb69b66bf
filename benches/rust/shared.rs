//! What an L2 hit costs beside the Redis client by itself, and how soon a change is seen by another engine:
//! `python scripts/with_redis.py cargo bench -p sophia-benches --bench shared`.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark stops where it cannot run")]

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use sophia_core::{
    Config, Scope, Sophia, SystemClock,
    memory::{KvEntry, KvKey, KvOptions, KvTier, KvValue, RedisTier, TierStatus},
    redis::RedisConfig,
};

/// Changes whose way to another engine is measured.
const CHANGES: usize = 2_000;

fn url() -> String {
    std::env::var("SOPHIA_TEST_REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".to_owned())
}

fn l2_hit(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("kv l2 hit");
    for bytes in [100, 10_000] {
        let value = serde_json::json!("x".repeat(bytes));
        let client = redis::Client::open(url()).unwrap();
        let mut raw = runtime.block_on(async {
            let mut raw = client.get_multiplexed_async_connection().await.unwrap();
            let _: () = redis::cmd("SET").arg("bench:raw").arg(value.to_string()).query_async(&mut raw).await.unwrap();
            raw
        });
        group.bench_function(format!("redis client, {bytes} B"), |bench| {
            bench.iter(|| {
                let said: Vec<u8> =
                    runtime.block_on(async { redis::cmd("GET").arg("bench:raw").query_async(&mut raw).await }).unwrap();
                black_box(said)
            });
        });
        group.bench_function(format!("redis client and serde_json, {bytes} B"), |bench| {
            bench.iter(|| {
                let said: Vec<u8> =
                    runtime.block_on(async { redis::cmd("GET").arg("bench:raw").query_async(&mut raw).await }).unwrap();
                black_box(serde_json::from_slice::<serde_json::Value>(&said).unwrap())
            });
        });
        let config = RedisConfig::url(url()).prefix("bench");
        let tier = RedisTier::open(&config, Duration::from_secs(3_600), Arc::new(SystemClock::default())).unwrap();
        let key = KvKey::new(&Scope::new().tenant("acme").user("ada"), "key");
        runtime.block_on(async {
            tier.set(&key, Arc::new(KvEntry::new(KvValue::new(value)))).await.unwrap();
            while tier.health().await.status != TierStatus::Healthy {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        group.bench_function(format!("sophia l2, {bytes} B"), |bench| {
            bench.iter(|| black_box(runtime.block_on(tier.get(&key)).unwrap().unwrap()));
        });
    }
    group.finish();
}

/// Prints how soon a near copy is dropped after another engine changed its key.
fn coherence(_: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let engine = || {
        let mut config = Config::default();
        config.redis = RedisConfig::url(url()).prefix("bench");
        Sophia::new(config).unwrap()
    };
    let (one, two, scope) = (engine(), engine(), Scope::new().user("ada"));
    let mut waits: Vec<Duration> = runtime.block_on(async {
        let mut waits = Vec::with_capacity(CHANGES);
        for sophia in [&one, &two] {
            sophia.memory().kv().get("key", &scope).await.unwrap();
            while sophia.memory().health().await.tiers["l2"].status != TierStatus::Healthy {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        for number in 0..CHANGES {
            let former = two.memory().kv().get("key", &scope).await.unwrap();
            let options = KvOptions::new().scope(&scope);
            one.memory().kv().set("key", serde_json::json!(number), options).await.unwrap();
            let start = Instant::now();
            while two.memory().kv().get("key", &scope).await.unwrap() == former {
                tokio::task::yield_now().await;
            }
            waits.push(start.elapsed());
        }
        waits
    });
    waits.sort();
    let at = |share: f64| waits[((CHANGES - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    println!(
        "a change seen by another engine, after the write returned: p50 {:.0} µs, p99 {:.0} µs, max {:.0} µs",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

criterion_group!(benches, l2_hit, coherence);
criterion_main!(benches);
