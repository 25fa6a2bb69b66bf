//! Chat against a real server on loopback: never a wrong, foreign or half answer.

mod accounting;
mod asking;
mod assisted;
mod battery;
mod dialects;
mod explaining;
mod failing;
mod freshening;
mod hedging;
mod keeping;
mod running;
mod semantic;
mod sharing;
mod streaming;
mod telling;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, future::join_all};
use serde_json::{Value, json};
use sophia_core::{
    Config, Error, ErrorKind, ManualClock, Result, Scope, Sophia,
    chat::{
        CacheMode, CacheStatus, Chat, ChatChunk, ChatRequest, ChatResponse, EmbedCall, Invalidate, Produced,
        ProviderConfig, RunOptions, Share,
    },
    operations,
    testing::{Fault, MockProvider},
};

fn ada() -> Scope {
    Scope::new().tenant("acme").user("ada")
}

fn bob() -> Scope {
    Scope::new().tenant("acme").user("bob")
}

fn ask(text: &str) -> ChatRequest {
    ChatRequest::new("small").user(text).scope(ada())
}

fn config(mocks: &[&MockProvider]) -> Config {
    let speaking: Vec<_> = mocks.iter().map(|mock| (ProviderConfig::openai as Speak, *mock)).collect();
    config_of(&speaking)
}

/// Describes a provider by its name and address.
type Speak = fn(String, String) -> ProviderConfig;

/// The protocols that providers speak.
const KINDS: [Speak; 3] = [ProviderConfig::openai, ProviderConfig::anthropic, ProviderConfig::responses];

fn config_of(mocks: &[(Speak, &MockProvider)]) -> Config {
    let mut config = Config::default();
    for (index, (speak, mock)) in mocks.iter().enumerate() {
        let provider = speak(format!("mock{index}"), mock.base_url()).api_key("sk-secret").models(["small"]);
        config.chat.providers.push(provider);
    }
    config.chat.retry.first_delay = Duration::from_millis(1);
    // Failures are made on purpose here, and must all reach the server.
    config.chat.breaker.consecutive_failures = 1000;
    config.chat.breaker.window = 1000;
    config
}

async fn start() -> (MockProvider, Chat) {
    let mock = MockProvider::start().await.unwrap();
    let chat = chat(config(&[&mock]));
    (mock, chat)
}

fn chat(config: Config) -> Chat {
    Sophia::new(config).unwrap().chat().clone()
}

async fn until(condition: impl Fn() -> bool) {
    tokio::time::timeout(Duration::from_secs(10), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("the condition never came true");
}

fn spawn(chat: &Chat, request: ChatRequest) -> tokio::task::JoinHandle<Result<ChatResponse>> {
    let chat = chat.clone();
    tokio::spawn(async move { chat.complete(request).await })
}

async fn drain(chat: &Chat, request: ChatRequest) -> Result<Vec<ChatChunk>> {
    let mut stream = chat.stream(request)?;
    let mut chunks = Vec::new();
    while let Some(chunk) = stream.next().await {
        chunks.push(chunk?);
    }
    Ok(chunks)
}

fn text(chunks: &[ChatChunk]) -> String {
    chunks.iter().map(|chunk| chunk.delta.as_str()).collect()
}
