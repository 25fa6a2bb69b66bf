//! What the chat costs: a kept answer, and a call beside reqwest by itself to the same server:
//! `cargo bench -p sophia-benches --bench chat`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark stops where it cannot run")]

#[path = "upstream.rs"]
#[allow(dead_code, reason = "a program of its own, too")]
mod upstream;

use std::{
    hint::black_box,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use criterion::{Criterion, criterion_group, criterion_main};
use futures::FutureExt;
use serde_json::{Value, json};
use sophia_core::{
    Config, Scope, Sophia,
    chat::{CacheMode, CacheStatus, ChatRequest, ProviderConfig, SemanticMode},
};
use tokio::{net::TcpListener, runtime::Runtime};

const VOCABULARY: &str = include_str!("../../sophia-core/model/vocab.txt");
/// Questions among which one is looked for by its meaning.
const QUESTIONS: usize = 10_000;

fn chat(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    runtime.spawn(upstream::serve(listener));

    let mut config = Config::default();
    config.chat.providers.push(ProviderConfig::openai("bench", base_url.as_str()));
    let sophia = Sophia::new(config.clone()).unwrap();
    let chat = sophia.chat();
    // The upstream takes spans as well as anything else.
    config.telemetry.otlp.enabled = true;
    config.telemetry.otlp.endpoint = Some(base_url.clone());
    let traced = Sophia::new(config).unwrap();
    let scope = Scope::new().tenant("acme").user("ada");
    let ask = |bytes: usize| {
        ChatRequest::new("bench").system("You are short.").user("How are the deals? ".repeat(bytes / 19)).scope(&scope)
    };

    let mut group = criterion.benchmark_group("chat");
    for (name, chat, bytes) in [
        ("hit, 250 B", chat, 250),
        ("hit, 20 kB", chat, 20_000),
        ("hit, 250 B, with a span by OTLP", traced.chat(), 250),
    ] {
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
    // Another question each time, so that the whole way is gone: flight, permit, call, and what is kept of it.
    let (request, asked) = (ask(250), AtomicU64::new(0));
    group.bench_function("miss", |bench| {
        bench.to_async(&runtime).iter(async || {
            let seed = asked.fetch_add(1, Ordering::Relaxed);
            let answer = chat.complete(request.clone().provider_field("seed", seed)).await.unwrap();
            assert_eq!(answer.cache.status, CacheStatus::Miss);
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
    by_meaning(criterion, &runtime, &base_url);
}

/// An answer that was kept for a question in other words, among ten thousand questions of the same scope.
fn by_meaning(criterion: &mut Criterion, runtime: &Runtime, base_url: &str) {
    let mut config = Config::default();
    config.chat.providers.push(ProviderConfig::openai("bench", base_url));
    config.chat.cache.max_bytes = 1 << 30;
    config.chat.semantic.enabled = true;
    config.chat.semantic.mode = SemanticMode::Serve;
    config.chat.semantic.audit = 0.0;
    config.chat.semantic.max_entries = QUESTIONS;
    let sophia = Sophia::new(config).unwrap();
    let chat = sophia.chat();
    let is_word = |word: &&str| word.len() > 3 && word.bytes().all(|byte| byte.is_ascii_lowercase());
    let words: Vec<&str> = VOCABULARY.lines().filter(is_word).collect();
    // A generator of Knuth's; any numbers would do.
    let word = |question: usize, place: usize| {
        words[((question * 5 + place + 1).wrapping_mul(0x5851_f42d_4c95_7f2d) >> 33) % words.len()]
    };
    let subject = |question: usize| (0..5).map(|place| word(question, place)).collect::<Vec<_>>().join(" ");
    let ask = |text: String| ChatRequest::new("bench").user(text).scope(Scope::new().user("ada"));
    for question in 0..QUESTIONS {
        runtime.block_on(chat.complete(ask(format!("What about the {}?", subject(question))))).unwrap();
    }
    let asked = AtomicUsize::new(0);
    criterion.bench_function("chat/by meaning, among 10,000", |bench| {
        bench.iter_batched(
            || {
                let number = asked.fetch_add(1, Ordering::Relaxed);
                // Another text each time: what was answered once is found by its text.
                let end = "!".repeat(1 + number / QUESTIONS);
                ask(format!("Please, what about the {}{end}", subject(number % QUESTIONS)))
            },
            |request| {
                let answer = runtime.block_on(chat.complete(request)).unwrap();
                assert_eq!(answer.cache.status, CacheStatus::SemanticHit);
                black_box(answer)
            },
            criterion::BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, chat);
criterion_main!(benches);
