//! The four capabilities in one program. Run: `cargo run -p sophia-examples --example tour`
#![allow(clippy::print_stdout)]

use sophia_core::{
    Config, Result, Scope, Sophia,
    memory::{NewRecord, Query},
};

#[tokio::main]
async fn main() -> Result<()> {
    let directory = std::env::temp_dir().join(format!("sophia-tour-{}", std::process::id()));
    let sophia = Sophia::builder().config(Config::default().with_data_dir(&directory)).start().await?;
    let ada = Scope::new().tenant("acme").user("ada");
    let bob = Scope::new().tenant("acme").user("bob");

    // Memory: kept whole, found by meaning in the very next call, and only inside its scope.
    let wish = NewRecord::new("Send the quarterly report as a PDF.").scope(&ada).kind("preference");
    let stored = sophia.memory().store(wish).await?;
    let found = sophia.memory().search(Query::new("which file format does she want?").scope(&ada).limit(1)).await?;
    assert_eq!(found.hits[0].record.id, stored.id);
    println!("memory    found {:?} in {:.1} ms", found.hits[0].record.content, found.took_ms);
    assert!(sophia.memory().search(Query::new("report").scope(&bob)).await?.hits.is_empty());

    // Chat: cache, single flight and deadline around any future; here both callers share one.
    let ask = || sophia.chat().run("How many deals are open?", &ada, || async { Ok("42".to_owned()) });
    let (first, second) = tokio::try_join!(ask(), ask())?;
    println!("chat      {} and {}, {:?} and {:?}", first.value, second.value, first.cache.status, second.cache.status);

    // Registry: what two configurations disagree about.
    sophia.registry().load_json(r#"{"servers": [{"name": "github", "port": 9007}]}"#, "a.json").await?;
    sophia.registry().load_json(r#"{"active_servers": {"github": 9016}}"#, "b.json").await?;
    for conflict in sophia.registry().lint() {
        println!("registry  {}", conflict.message);
    }

    // Health: what the engine saw of itself is already in the report.
    sophia.health().observe("shop", "latency_ms", 12.0);
    let report = sophia.health().report().await?;
    println!("health    {:?}, services {:?}", report.overall.score, report.services.keys());

    sophia.shutdown().await?;
    // Where the directory cannot be removed, the system's temporary files are cleared in time.
    let _ = std::fs::remove_dir_all(directory);
    Ok(())
}
