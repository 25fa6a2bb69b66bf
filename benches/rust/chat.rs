//! What the chat costs: a kept answer, and a call beside reqwest by itself to the same server:
//! `cargo bench -p sophia-benches --bench chat`.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark stops where it cannot run")]

#[path = "upstream.rs"]
#[allow(dead_code, reason = "a program of its own, too")]
mod upstream;

use std::{
    cell::LazyCell,
    hint::black_box,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use futures::FutureExt;
use serde_json::{Value, json};
use sophia_core::{
    Config, Scope, Sophia,
    chat::{CacheMode, CacheStatus, Chat, ChatRequest, ProviderConfig, SemanticMode},
};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};

const VOCABULARY: &str = include_str!("../../sophia-core/model/vocab.txt");
/// Calls that are made for a median, and those before them.
const CALLS: usize = 20_000;
const WARM_UP: usize = 1_000;
/// Questions among which one is looked for by its meaning: what more of them cost is what looking costs.
const QUESTIONS: [usize; 2] = [10, 10_000];

fn chat(criterion: &mut Criterion) {
    // One thread for the upstream and the client: what is measured is not how threads wake each other.
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
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
                // Few, so that a request is in the processor's cache still, as one that was just made is.
                criterion::BatchSize::NumIterations(16),
            );
        });
    }
    // Another question each time, so that the whole way is gone: flight, permit, call, and what is kept of it.
    let asked = AtomicU64::new(0);
    group.bench_function("miss", |bench| {
        bench.to_async(&runtime).iter_batched(
            || ask(250).provider_field("seed", asked.fetch_add(1, Ordering::Relaxed)),
            |request| async {
                let answer = chat.complete(request).await.unwrap();
                assert_eq!(answer.cache.status, CacheStatus::Miss);
            },
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
    runtime.block_on(beside_reqwest(chat, &base_url, || ask(250).cache(CacheMode::Bypass)));
    for questions in QUESTIONS {
        by_meaning(criterion, &runtime, &base_url, questions);
    }
}

/// Prints what a call takes that is not kept, and what it takes by reqwest alone. In turn, so that both have the same machine.
async fn beside_reqwest(chat: &Chat, base_url: &str, ask: impl Fn() -> ChatRequest) {
    // As reqwest asks, where its own TLS is left out; nothing is encrypted here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{base_url}/chat/completions");
    let body = json!({"model": "bench", "messages": [
        {"role": "system", "content": "You are short."},
        {"role": "user", "content": "How are the deals? ".repeat(250 / 19)},
    ]});
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + CALLS {
        let request = ask();
        let start = Instant::now();
        black_box(chat.complete(request).await.unwrap());
        let own = start.elapsed();
        let start = Instant::now();
        let response = client.post(&url).json(&body).send().await.unwrap();
        black_box(serde_json::from_slice::<Value>(&response.bytes().await.unwrap()).unwrap());
        if round >= WARM_UP {
            theirs.push(start.elapsed());
            ours.push(own);
        }
    }
    let p50 = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e6
    };
    let (ours, theirs) = (p50(&mut ours), p50(&mut theirs));
    println!(
        "a call that is not kept: p50 {ours:.1} µs; by reqwest alone {theirs:.1} µs; {:.1} µs more",
        ours - theirs
    );
}

/// An answer that was kept for a question in other words, among so many questions of the same scope.
fn by_meaning(criterion: &mut Criterion, runtime: &Runtime, base_url: &str, questions: usize) {
    let mut config = Config::default();
    config.chat.providers.push(ProviderConfig::openai("bench", base_url));
    config.chat.cache.max_bytes = 1 << 30;
    config.chat.semantic.enabled = true;
    config.chat.semantic.mode = SemanticMode::Serve;
    config.chat.semantic.audit = 0.0;
    config.chat.semantic.max_entries = questions;
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
    // Only where it is measured: the questions take their time.
    let chat = LazyCell::new(|| {
        for question in 0..questions {
            runtime.block_on(chat.complete(ask(format!("What about the {}?", subject(question))))).unwrap();
        }
        chat
    });
    let asked = AtomicUsize::new(0);
    criterion.bench_function(&format!("chat/by meaning, among {questions}"), |bench| {
        let chat = *LazyCell::force(&chat);
        bench.to_async(runtime).iter_batched(
            || {
                let number = asked.fetch_add(1, Ordering::Relaxed);
                // Another text each time: what was answered once is found by its text.
                let end = format!("{number:b}").replace('0', " ").replace('1', "\n");
                ask(format!("Please, what about the {}?{end}", subject(number % questions)))
            },
            |request| async {
                let answer = chat.complete(request).await.unwrap();
                assert_eq!(answer.cache.status, CacheStatus::SemanticHit);
                answer
            },
            criterion::BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, chat);
criterion_main!(benches);
