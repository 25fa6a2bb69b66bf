//! What was forgotten is in no file any more, whatever it was and wherever it was kept.

use std::collections::BTreeMap;

use sophia_core::memory::{KvInvalidate, NewEntity, NewWrites, Prune};

use super::*;

/// What every name, text and value of Ada holds: its beginning and its end, since indexes share beginnings.
const MARK: (&str, &str) = ("zqxwvj", "kqjxzv");

fn mark(what: &str) -> String {
    format!("{}{what}{}", MARK.0, MARK.1)
}

/// Finds none of the needles in any file of a folder, in whatever case.
pub(super) fn holds_nothing(folder: &Path, needles: &[&[u8]]) {
    for file in files(folder) {
        let bytes = std::fs::read(&file).unwrap();
        for needle in needles {
            let at = bytes.windows(needle.len()).position(|window| window.eq_ignore_ascii_case(needle));
            if let Some(at) = at {
                let around = &bytes[at.saturating_sub(60)..bytes.len().min(at + 60)];
                panic!("{} at {at}: {}", file.display(), String::from_utf8_lossy(around));
            }
        }
    }
}

/// Rows of every table, derived ones too.
fn rows(folder: &Path) -> BTreeMap<String, i64> {
    let connection = rusqlite::Connection::open(folder.join("sophia.db")).unwrap();
    let tables: Vec<String> = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let count = |table: &str| connection.query_row(&format!("SELECT count(*) FROM \"{table}\""), [], |row| row.get(0));
    tables.into_iter().map(|table| (count(&table).unwrap(), table)).map(|(count, table)| (table, count)).collect()
}

/// Everything that can be kept of a person, in every field that takes a text.
async fn keep_everything(sophia: &Sophia, who: &Scope) {
    let memory = sophia.memory();
    let whole = |what: &str| {
        NewRecord::new(format!("{} and more words about {}", mark(what), mark("topic")))
            .scope(who)
            .id(mark(&format!("id{what}")))
            .kind(mark("kind"))
            .category(mark("category"))
            .tags([mark("tag")])
            .metadata(mark("key"), mark("value"))
            .source(mark("source"))
            .summary(mark("summary"))
    };
    for what in ["stays", "changes", "hidden", "erased", "cleared"] {
        memory.store(whole(what)).await.unwrap();
    }
    let changed = Update::new(mark("idchanges")).scope(who).content(mark("newcontent"));
    memory.update(changed.clone()).await.unwrap();
    memory.update(changed.content(mark("newercontent"))).await.unwrap();
    memory.delete(Delete::new(mark("idhidden")).scope(who)).await.unwrap();
    memory.delete(Delete::new(mark("iderased")).scope(who).permanent()).await.unwrap();
    for number in 0..30 {
        let talk = who.clone().session(mark("session")).agent(mark("agent"));
        memory.append(AppendMessage::new(talk, "user", format!("{} {number}", mark("message")))).await.unwrap();
    }
    memory.clear_session(&who.clone().session(mark("session"))).await.unwrap();
    for key in ["stays", "changes", "deleted", "invalidated"] {
        let options = || KvOptions::new().scope(who).tags([mark("kvtag"), mark(key)]);
        let value = json!({(mark("field")): mark("kvvalue")});
        memory.kv().set(&mark(key), value, options()).await.unwrap();
        memory.kv().set(&mark(key), json!(mark("another")), options()).await.unwrap();
    }
    memory.kv().delete(&mark("deleted"), who).await.unwrap();
    let which: KvInvalidate = serde_json::from_value(json!({"tags": [mark("invalidated")], "scope": who})).unwrap();
    assert_eq!(memory.kv().invalidate(which).await.unwrap(), 1);
    let load = || async { Ok(json!(mark("load"))) };
    memory.kv().get_or_set(&mark("made"), KvOptions::new().scope(who), load).await.unwrap();
    for object in ["globex", "initech"] {
        let mut fact = NewFact::new(mark("subject"), mark("predicate"), mark(object)).scope(who).functional();
        fact.source = Some(mark("episode"));
        fact.metadata.insert(mark("factkey"), json!(mark("factvalue")));
        memory.graph().relate(fact).await.unwrap();
    }
    let entity = NewEntity::new(mark("entity")).scope(who).kind(mark("entitykind"));
    memory.graph().upsert(entity.attribute(mark("attribute"), mark("attributevalue"))).await.unwrap();
    for step in 0..4 {
        let id = mark(&format!("step{step}"));
        let state = NewCheckpoint::new(mark("thread"), &id, text(mark("body")))
            .scope(who)
            .namespace(mark("namespace"))
            .run_id(mark("run"))
            .metadata(mark("metadata"), mark("metadatavalue"))
            .channel(mark("channel"), &id, text(mark("channelvalue")));
        memory.checkpoints().put(state).await.unwrap();
    }
    let mut writes = NewWrites::new(mark("thread"), mark("step3"), mark("task")).scope(who).path(mark("path"));
    writes.namespace = mark("namespace");
    memory.checkpoints().put_writes(writes.write(mark("channel"), 0, text(mark("written")))).await.unwrap();
    let pruned = NewCheckpoint::new(mark("pruned"), "1", text(mark("prunedbody"))).scope(who);
    memory.checkpoints().put(pruned).await.unwrap();
    memory.checkpoints().prune(Prune::new([mark("pruned")]).scope(who)).await.unwrap();
    // Searches leave what they learnt of words in memory, and may write blocks.
    for mode in [Mode::Hybrid, Mode::Semantic, Mode::Keyword, Mode::Exact] {
        memory.search(Query::new(mark("topic")).scope(who).mode(mode).explain()).await.unwrap();
    }
}

/// A person whose names can be found, too.
fn who() -> Scope {
    Scope::new().tenant(mark("tenant")).user(mark("user"))
}

/// The vectors of a person, as they stand in the file.
fn vectors(folder: &Path) -> Vec<Vec<u8>> {
    let connection = rusqlite::Connection::open(folder.join("sophia.db")).unwrap();
    let sql = "SELECT substr(v.data, 1, 64) FROM vectors AS v JOIN records USING (seq) JOIN walls AS w USING (wall) \
               WHERE w.user = ?1";
    let mut statement = connection.prepare(sql).unwrap();
    statement.query_map([mark("user")], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn no_file_holds_a_byte_of_what_was_forgotten() {
    for request in [ForgetRequest::scope(who()), ForgetRequest::subject(mark("user"))] {
        let directory = tempfile::tempdir().unwrap();
        let sophia = engine(directory.path()).await;
        sophia.memory().store(NewRecord::new("Bob likes tea.").scope(bob()).id("bob")).await.unwrap();
        sophia.memory().kv().set("plan", json!("pro"), KvOptions::new().scope(bob())).await.unwrap();
        let before = rows(directory.path());
        keep_everything(&sophia, &who()).await;
        let vectors = vectors(directory.path());
        assert!(vectors.len() > 30);
        let vectors = &vectors[..3];
        let there = |needle: &[u8]| {
            files(directory.path()).iter().any(|file| {
                std::fs::read(file).unwrap().windows(needle.len()).any(|window| window.eq_ignore_ascii_case(needle))
            })
        };
        assert!(there(MARK.0.as_bytes()) && there(&vectors[0]), "the search must be able to find it");
        let receipt = sophia.memory().forget(request).await.unwrap();
        assert!(
            receipt.records > 30
                && receipt.versions > 3
                && receipt.facts >= 2
                && receipt.checkpoints >= 4
                && receipt.cached >= 3
                && receipt.embeddings > 30,
            "{receipt:?}"
        );
        // At once, and while others could open it; not only when it is closed.
        let needles: Vec<&[u8]> =
            vectors.iter().map(Vec::as_slice).chain([MARK.0.as_bytes(), MARK.1.as_bytes()]).collect();
        holds_nothing(directory.path(), &needles);
        let after = rows(directory.path());
        for (table, count) in after {
            // Logs that name numbers only, what FTS keeps of itself, and names of models.
            let is_anonymous = ["changes", "kv_changes", "leases", "models", "sqlite_sequence", "sqlite_stat1"]
                .contains(&table.as_str())
                || table.starts_with("record_words_");
            assert!(is_anonymous || before.get(&table) == Some(&count), "{table}: {before:?}, now {count}");
        }
        let memory = sophia.memory();
        let seen = serde_json::to_string(&memory.recent_operations(1_000)).unwrap()
            + &serde_json::to_string(&memory.health().await).unwrap()
            + &sophia.telemetry().prometheus();
        assert!(!seen.contains(MARK.0) && !seen.contains(MARK.1), "{seen}");
        assert!(memory.get(GetRecord::id("bob").scope(bob())).await.unwrap().is_some());
        assert_eq!(memory.search(Query::new("tea").scope(bob())).await.unwrap().hits.len(), 1);
        assert_eq!(memory.kv().get("plan", &bob()).await.unwrap().unwrap().value(), &json!("pro"));
        // The person may come back, as somebody new.
        memory.store(NewRecord::new("Ada is new here.").scope(who())).await.unwrap();
        assert_eq!(memory.search(Query::new("").scope(who())).await.unwrap().hits.len(), 1);
        memory.forget(ForgetRequest::scope(who())).await.unwrap();
        sophia.shutdown().await.unwrap();
        holds_nothing(directory.path(), &needles);
        assert_eq!(integrity(directory.path()), "ok");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_another_process_still_reads_what_is_forgotten_it_is_said_and_not_done_by_half() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (engine(directory.path()).await, engine(directory.path()).await);
    keep_everything(&one, &who()).await;
    // The other has it near, and open.
    assert!(!two.memory().search(Query::new(mark("topic")).scope(who())).await.unwrap().hits.is_empty());
    assert!(two.memory().kv().get(&mark("stays"), &who()).await.unwrap().is_some());
    let reader = rusqlite::Connection::open(directory.path().join("sophia.db")).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let count = || reader.query_row("SELECT count(*) FROM records", [], |row| row.get::<_, i64>(0)).unwrap();
    assert!(count() > 30);
    let error = one.memory().forget(ForgetRequest::scope(who())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.is_retryable() && error.message().contains("again"), "{error}");
    // Nobody sees it any more, who begins to read now.
    assert_eq!(two.memory().search(Query::new(mark("topic")).scope(who())).await.unwrap().hits, []);
    reader.execute_batch("COMMIT").unwrap();
    one.memory().forget(ForgetRequest::scope(who())).await.unwrap();
    let needles = [MARK.0.as_bytes(), MARK.1.as_bytes()];
    holds_nothing(directory.path(), &needles);
    let is_gone = async || two.memory().kv().get(&mark("stays"), &who()).await.unwrap().is_none();
    let until = Instant::now() + PATIENCE;
    while !is_gone().await {
        assert!(Instant::now() < until);
    }
    two.memory().store(NewRecord::new("after")).await.unwrap();
    two.shutdown().await.unwrap();
    one.shutdown().await.unwrap();
    holds_nothing(directory.path(), &needles);
}
