//! Measures how often memory finds the evidence of questions: `recall FILE`, as `sophia eval FILE` does, and how long the
//! bundled model takes for a sentence.

#![expect(clippy::print_stdout, reason = "a command-line program answers there")]

use std::{error::Error, hint::black_box, time::Instant};

use sophia_core::{
    Sophia,
    memory::{embed::StaticEmbedder, eval},
};

/// A sentence of 15 words for the time of one call.
const SENTENCE: &str = "Last summer we drove along the coast with two old friends and their noisy dog.";
/// Calls for the time of one: a fraction of a second in all.
const TIMED_CALLS: u32 = 50_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: recall FILE")?;
    let conversations = eval::read(&std::fs::read(path)?)?;
    let sophia = Sophia::builder().start().await?;
    println!("{}", eval::run(sophia.memory(), &conversations, |_| {}).await?);
    sophia.shutdown().await?;

    let embedder = StaticEmbedder::bundled();
    let start = Instant::now();
    for _ in 0..TIMED_CALLS {
        black_box(embedder.embed_one(black_box(SENTENCE)));
    }
    println!("\n{:.2} µs to embed 15 words", start.elapsed().as_secs_f64() * 1e6 / f64::from(TIMED_CALLS));
    Ok(())
}
