//! Engines over a server of models with faults, served: for tests with the clients of others.
//!
//! Prints one line of JSON: the address of an engine for each protocol that providers speak, and that of the mock itself. It
//! serves until its standard input is closed. The key is `test-key`; a message asks for a fault, such as `fault:tool_call`.
//!
//! `cargo run -p sophia-core --example served_mock --features testing,http-server`
#![allow(clippy::print_stdout, reason = "the addresses are what this program is asked for")]

use std::io::Read;

use serde_json::{Map, json};
use sophia_core::{
    Config, Scope, Sophia,
    chat::ProviderConfig,
    http::{self, ApiKey, Surface},
    testing::MockProvider,
};
use tokio::net::TcpListener;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run())?;
    // Streams that hang on purpose are not waited for.
    runtime.shutdown_background();
    Ok(())
}

async fn run() -> Outcome {
    let mock = MockProvider::start().await?;
    let mut addresses = Map::new();
    let speaking: [(&str, ProviderConfig); 3] = [
        ("openai", ProviderConfig::openai("mock", mock.base_url())),
        ("anthropic", ProviderConfig::anthropic("mock", mock.base_url())),
        ("responses", ProviderConfig::responses("mock", mock.base_url())),
    ];
    for (name, provider) in speaking {
        let mut config = Config::default();
        config.chat.providers.push(provider.api_key("upstream-key").models(["small"]));
        config.chat.retry.retries = 0;
        // Failures are made on purpose here, and must all be seen.
        config.chat.breaker.consecutive_failures = 1000;
        config.chat.breaker.window = 1000;
        config.server.keys = vec![ApiKey::new("test-key", Scope::new().tenant("acme").user("ada"))];
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addresses.insert(name.to_owned(), json!(format!("http://{}", listener.local_addr()?)));
        let surface = Surface::new(Sophia::new(config)?)?;
        tokio::spawn(http::serve(surface, listener, std::future::pending()));
    }
    addresses.insert("mock".to_owned(), json!(mock.base_url()));
    println!("{}", serde_json::Value::Object(addresses));
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}
