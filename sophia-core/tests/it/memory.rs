//! Memory, as a user calls it.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use sophia_core::{
    Config, ErrorKind, ManualClock, Scope, Sophia,
    memory::{
        AppendMessage, Delete, DeleteWhere, FactQuery, ForgetRequest, GetRecord, History, KvInvalidate, KvOptions,
        Mode, NewFact, NewRecord, Query, Update,
    },
};

fn ada() -> Scope {
    Scope::new().tenant("acme").user("ada")
}

fn bob() -> Scope {
    Scope::new().tenant("acme").user("bob")
}

async fn engine(directory: &std::path::Path) -> Sophia {
    Sophia::builder().config(Config::default().with_data_dir(directory)).start().await.unwrap()
}

async fn contents(sophia: &Sophia, query: Query) -> Vec<String> {
    sophia.memory().search(query).await.unwrap().hits.into_iter().map(|hit| hit.record.content).collect()
}

#[tokio::test]
async fn the_tour_of_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    let sophia = engine(directory.path()).await;
    let memory = sophia.memory();
    let new = NewRecord::new("Ada wants the quarterly report as a PDF.").scope(ada()).kind("preference");
    let pdf = memory.store(new.tags(["report"]).metadata("via", "chat")).await.unwrap();
    let incident =
        NewRecord::new("The Kubernetes pod of the billing service crash-loops.").scope(ada()).kind("incident");
    memory.store(incident).await.unwrap();
    memory.store(NewRecord::new("Revenue grew by 14 percent in Q4.").scope(ada()).kind("fact")).await.unwrap();
    let question = "which file format does she like for documents?";
    let found = memory.search(Query::new(question).scope(ada()).limit(3).explain()).await.unwrap();
    assert_eq!(found.hits[0].record.id, pdf.id, "{found:#?}");
    assert!((0.0..=1.0).contains(&found.hits[0].score) && found.took_ms >= 0.0 && !found.degraded);
    let found =
        memory.search(Query::new("how much did sales increase?").scope(ada()).limit(1).explain()).await.unwrap();
    assert!(found.hits[0].record.content.contains("Revenue") && found.hits[0].explain.is_some(), "{found:#?}");

    assert_eq!(contents(&sophia, Query::new("quarterly report").scope(bob())).await, Vec::<String>::new());
    assert_eq!(memory.get(GetRecord::id(&pdf.id).scope(bob())).await.unwrap(), None);

    let update =
        Update::new(&pdf.id).scope(ada()).content("Ada wants the quarterly report as a spreadsheet.").if_version(1);
    assert_eq!(memory.update(update.clone()).await.unwrap().version, 2);
    assert_eq!(memory.update(update).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(memory.versions(&pdf.id, &ada()).await.unwrap()[0].content.ends_with("PDF."));
    let record = memory.get(GetRecord::seq(pdf.seq).scope(ada())).await.unwrap().unwrap();
    assert_eq!(
        (record.id, record.tags, record.metadata["via"].clone()),
        (pdf.id.clone(), vec!["report".into()], json!("chat"))
    );
    let only = memory.search(Query::new("report").scope(ada()).kinds(["incident"])).await.unwrap();
    assert!(only.hits.iter().all(|hit| hit.record.kind == "incident"));

    let relate = |company: &str, since: &str| {
        NewFact::new("ada", "works_at", company).scope(ada()).valid_at(since.parse().unwrap()).functional()
    };
    memory.graph().relate(relate("acme", "2024-01-01T00:00:00Z")).await.unwrap();
    memory.graph().relate(relate("globex", "2025-06-01T00:00:00Z")).await.unwrap();
    let objects = async |query: FactQuery| -> Vec<String> {
        memory.graph().facts(query).await.unwrap().into_iter().map(|fact| fact.object).collect()
    };
    assert_eq!(objects(FactQuery::new(ada()).subject("ada")).await, ["globex"]);
    assert_eq!(objects(FactQuery::new(ada()).as_of("2024-07-01T00:00:00Z".parse().unwrap())).await, ["acme"]);
    sophia.shutdown().await.unwrap();

    let sophia = engine(directory.path()).await;
    let memory = sophia.memory();
    assert_eq!(memory.search(Query::new("spreadsheet").scope(ada())).await.unwrap().hits[0].record.id, pdf.id);
    let receipt = memory.forget(ForgetRequest::scope(ada())).await.unwrap();
    assert!(
        receipt.records >= 3 && receipt.facts >= 2 && receipt.versions == 1 && receipt.embeddings == 3,
        "{receipt:?}"
    );
    assert_eq!(contents(&sophia, Query::new("spreadsheet").scope(ada())).await, Vec::<String>::new());
    let health = serde_json::to_value(memory.health().await).unwrap();
    assert_eq!((&health["status"], &health["tiers"]["l3"]["status"]), (&json!("healthy"), &json!("healthy")));
    sophia.shutdown().await.unwrap();
    for file in std::fs::read_dir(directory.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        for trace in ["spreadsheet", "quarterly", "globex", "acme"] {
            assert!(!bytes.windows(trace.len()).any(|window| window == trace.as_bytes()), "`{trace}` is still there");
        }
    }
}
