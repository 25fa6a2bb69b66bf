//! What the chat costs: a kept answer, and a call beside reqwest by itself to the same server:
//! `cargo bench -p sophia-benches --bench chat`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark stops where it cannot run")]

#[path = "upstream.rs"]
#[allow(dead_code, reason = "a program of its own, too")]
mod upstream;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use futures::FutureExt;
use serde_json::{Value, json};
use sophia_core::{
    Config, Scope, Sophia,
    chat::{CacheMode, ChatRequest, ProviderConfig},
};
use tokio::{net::TcpListener, runtime::Runtime};

fn chat(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    runtime.spawn(upstream::serve(listener));

    let mut config = Config::default();
    config.chat.providers.push(ProviderConfig::openai("bench", base_url.as_str()));
    let sophia = Sophia::new(config).unwrap();
    let chat = sophia.chat();
    let scope = Scope::new().tenant("acme").user("ada");
    let ask = |bytes: usize| {
        ChatRequest::new("bench").system("You are short.").user("How are the deals? ".repeat(bytes / 19)).scope(&scope)
    };

    let mut group = criterion.benchmark_group("chat");
    for (name, bytes) in [("hit, 250 B", 250), ("hit, 20 kB", 20_000)] {
        runtime.block_on(chat.complete(ask(bytes))).unwrap();
        group.bench_function(name, |bench| {
            bench.iter_batched(
                || ask(bytes),
                |request| black_box(chat.complete(request).now_or_never()).unwrap().unwrap(),
                criterion::BatchSize::SmallInput,
            );
        });
    }
    group.bench_function("call", |bench| {
        let request = ask(250).cache(CacheMode::Bypass);
        bench.to_async(&runtime).iter(async || chat.complete(request.clone()).await.unwrap());
    });
    group.bench_function("miss", |bench| {
        // Another question each time, so that the whole way is gone: flight, permit, call, and what is kept of it.
        let (request, asked) = (ask(250), std::sync::atomic::AtomicU64::new(0));
        bench.to_async(&runtime).iter(async || {
            let seed = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            chat.complete(request.clone().provider_field("seed", seed)).await.unwrap()
        });
    });
    group.bench_function("reqwest", |bench| {
        // As reqwest asks, where its own TLS is left out; nothing is encrypted here.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("{base_url}/chat/completions");
        let body = json!({"model": "bench", "messages": [
            {"role": "system", "content": "You are short."},
            {"role": "user", "content": "How are the deals? ".repeat(250 / 19)},
        ]});
        bench.to_async(&runtime).iter(async || -> Value {
            let response = client.post(&url).json(&body).send().await.unwrap();
            serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
        });
    });
    group.finish();
}

criterion_group!(benches, chat);
criterion_main!(benches);
