//! Embedders: a function of one's own, and a change of the model while both answer. Run:
//! `cargo run -p sophia-examples --example embedders`
#![allow(clippy::print_stdout)]

use std::sync::Arc;

use sophia_core::{
    Result, Scope, Sophia,
    memory::{NewRecord, Query, Reembed, embed::CallbackEmbedder},
};

/// Stands for a model: it knows that some words mean the same. A real one would be asked here.
fn embed(text: &str) -> Vec<f32> {
    const MEANINGS: [&[&str]; 3] = [&["car", "automobile", "drives"], &["cat", "kitten"], &["doctor", "physician"]];
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    MEANINGS.iter().map(|words| f32::from(u8::from(has(words)))).chain([0.1]).collect()
}

#[tokio::main]
async fn main() -> Result<()> {
    let sophia = Sophia::builder().start().await?;
    let ada = Scope::new().tenant("acme").user("ada");
    // By the model inside the library, which needs nothing.
    for text in ["She drives an old automobile.", "The doctor calls at nine."] {
        sophia.memory().store(NewRecord::new(text).scope(&ada)).await?;
    }
    // From here on by another one. What is there is embedded anew in the background, and found meanwhile.
    let embedder = CallbackEmbedder::new("meanings", 4, |texts| {
        Box::pin(async move { Ok(texts.iter().map(|text| embed(text)).collect()) })
    })?;
    sophia.memory().set_embedder(Arc::new(embedder));
    let search = || sophia.memory().search(Query::new("does she have a car?").scope(&ada).limit(1));
    println!("at once:    {}", search().await?.hits[0].record.content);
    let done = sophia.memory().reembed(Reembed::default()).await?;
    println!("in the end: {} records by {:?}, {} left", done.done, done.model, done.left);
    println!("and now:    {}", search().await?.hits[0].record.content);
    assert_eq!((search().await?.hits[0].record.content.as_str(), done.left), ("She drives an old automobile.", 0));
    sophia.shutdown().await
}
