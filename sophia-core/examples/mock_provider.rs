//! A server of models with faults, for tests in other languages.
//!
//! Prints its address as the first line, and serves until its standard input is closed. `GET /v1/stats` gives its counts.
//!
//! `cargo run -p sophia-core --example mock_provider --features testing`
#![allow(clippy::print_stdout, reason = "the address is what this program is asked for")]

use std::{io::Read, time::Duration};

use sophia_core::testing::MockProvider;

fn main() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mock = MockProvider::start().await?;
        if let Some(ms) = std::env::args().nth(1).and_then(|ms| ms.parse().ok()) {
            mock.delay(Duration::from_millis(ms));
        }
        println!("{}", mock.base_url());
        tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
        Ok(())
    })
}
