//! How memory finds: conversations, walls, bounds, files of older builds.

use std::{path::Path, sync::Arc, time::Duration};

use sophia_core::{
    Config, ErrorKind, ManualClock, Scope, Sophia,
    memory::{
        AppendMessage, Delete, EmbedderKind, Explain, Fusion, MatchType, Mode, NewRecord, Query, SearchResult, Update,
        store::Atomicity,
    },
};

fn ada() -> Scope {
    Scope::new().user("ada")
}

async fn engine(directory: &Path) -> Sophia {
    Sophia::builder().config(Config::default().with_data_dir(directory)).start().await.unwrap()
}

async fn say(sophia: &Sophia, scope: &Scope, session: &str, lines: &[&str]) {
    for line in lines {
        let message = AppendMessage::new(scope.clone().session(session), "user", *line);
        sophia.memory().append(message).await.unwrap();
    }
}

fn texts(found: &SearchResult) -> Vec<&str> {
    found.hits.iter().map(|hit| hit.record.content.as_str()).collect()
}

async fn holidays(sophia: &Sophia) {
    say(sophia, &ada(), "monday", &["Bob: The printer is broken again.", "Ada: Then I will call the service."]).await;
    say(
        sophia,
        &ada(),
        "friday",
        &["Ada: Our holiday was wonderful!", "Bob: Where have you been?", "Ada: Lisbon.", "Bob: I envy you."],
    )
    .await;
}

#[tokio::test]
async fn a_message_is_found_by_what_was_said_around_it() {
    let sophia = Sophia::builder().start().await.unwrap();
    holidays(&sophia).await;
    let query = || Query::new("Where did Ada spend her holiday?").scope(ada()).explain();
    let found = sophia.memory().search(query()).await.unwrap();
    assert_eq!(texts(&found)[0], "Ada: Our holiday was wonderful!", "{found:#?}");
    let lisbon = found.hits.iter().position(|hit| hit.record.content == "Ada: Lisbon.").expect("Lisbon");
    let printer = texts(&found).iter().position(|text| text.contains("printer"));
    assert!(printer.is_none_or(|printer| lisbon < printer), "{:#?}", texts(&found));
    for hit in &found.hits {
        let Explain { fused, conversation, .. } = hit.explain.unwrap();
        let parts = conversation.expect("messages are ranked by their conversation");
        let sum = parts.own + parts.neighbors + parts.session + parts.speaker;
        assert!((fused - sum * parts.factor).abs() < 1e-12, "{hit:#?}");
        assert_eq!(parts.speaker > 0.0, hit.record.content.starts_with("Ada"), "{hit:#?}");
    }
    assert_eq!(sophia.memory().search(query()).await.unwrap().hits, found.hits, "the same again");
}

#[tokio::test]
async fn what_is_near_a_message_counts_only_where_it_may_be_seen() {
    let sophia = Sophia::builder().start().await.unwrap();
    let talk = |agent: &str| ada().agent(agent).session("one");
    for (agent, text) in [("a", "The budget meeting."), ("b", "It is at noon."), ("a", "Bring the figures.")] {
        sophia.memory().append(AppendMessage::new(talk(agent), "user", text)).await.unwrap();
    }
    let of = async |scope: Scope| {
        let query = Query::new("When is the budget meeting?").scope(scope).explain();
        sophia.memory().search(query).await.unwrap()
    };
    let (alone, all) = (of(ada().agent("b")).await, of(ada()).await);
    assert!(!texts(&alone).contains(&"The budget meeting."));
    assert!(texts(&all).contains(&"It is at noon."), "{all:#?}");
    let context = all.hits.iter().find(|hit| hit.record.content == "It is at noon.").unwrap();
    assert!(context.explain.unwrap().conversation.unwrap().neighbors > 0.0, "{context:#?}");
    let near = alone.hits.iter().filter_map(|hit| hit.explain.unwrap().conversation);
    assert!(near.into_iter().all(|parts| parts.neighbors == 0.0), "{alone:#?}");
}

#[tokio::test]
async fn documents_beside_a_conversation_are_ranked_by_themselves() {
    let sophia = Sophia::builder().start().await.unwrap();
    holidays(&sophia).await;
    sophia.memory().store(NewRecord::new("Holiday rules: thirty days a year.").scope(ada())).await.unwrap();
    let found = sophia.memory().search(Query::new("holiday rules").scope(ada()).explain()).await.unwrap();
    assert_eq!(texts(&found)[0], "Holiday rules: thirty days a year.", "{found:#?}");
    assert!(found.hits[0].explain.unwrap().conversation.is_none());
    let by_words = Query::new("holiday").scope(ada()).mode(Mode::Keyword).explain();
    let found = sophia.memory().search(by_words).await.unwrap();
    assert!(found.hits.len() == 2 && found.hits.iter().all(|hit| hit.match_type == MatchType::Keyword), "{found:#?}");
}

#[tokio::test]
async fn what_others_store_changes_no_score() {
    let sophia = Sophia::builder().start().await.unwrap();
    for text in ["The red tent leaks.", "A red car.", "A tent for two.", "The river at night."] {
        sophia.memory().store(NewRecord::new(text).scope(ada())).await.unwrap();
    }
    let ask = async || sophia.memory().search(Query::new("red tent").scope(ada()).explain()).await.unwrap().hits;
    let before = ask().await;
    let others = (0..300).map(|n| NewRecord::new(format!("red red thing {n}")).scope(Scope::new().user("bob")));
    sophia.memory().store_many(others.collect(), Atomicity::Together).await.unwrap();
    assert_eq!(ask().await, before);
    assert_eq!(before[0].highlights, ["The **red** **tent** leaks."]);
}

#[tokio::test]
async fn a_word_that_is_everywhere_is_bounded_and_said_so() {
    const RECORDS: usize = 16_600;
    let mut config = Config::default();
    config.memory.embedder = EmbedderKind::None.into();
    let sophia = Sophia::builder().config(config).start().await.unwrap();
    let records = (0..RECORDS).map(|n| NewRecord::new(if n % 2 == 0 { "common" } else { "common ground" }));
    let records: Vec<_> = records.chain([NewRecord::new("common rarity")]).collect();
    for batch in records.chunks(8_000) {
        sophia.memory().store_many(batch.to_vec(), Atomicity::Together).await.unwrap();
    }
    let ask = async |text: &str| sophia.memory().search(Query::new(text).mode(Mode::Keyword)).await.unwrap();
    let bounded = ask("common").await;
    assert!(bounded.degraded && bounded.warnings[0].contains("`common`"), "{:?}", bounded.warnings);
    assert_eq!(bounded.hits.len(), 10);
    let rare = ask("common rarity").await;
    assert_eq!(texts(&rare)[0], "common rarity");
    let plain = ask("rarity").await;
    assert!(!plain.degraded && plain.total == 1, "{:?}", plain.warnings);
}

#[tokio::test]
async fn what_is_known_of_frequent_words_is_what_a_new_engine_reads() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (engine(directory.path()).await, engine(directory.path()).await);
    // In the third row, so that the words stand in many records, and not in all.
    let note = |number: usize| {
        let text = if number.is_multiple_of(3) { "nothing of it" } else { "the quarterly report" };
        NewRecord::new(format!("{text} {number}")).id(format!("n{number}")).scope(ada())
    };
    one.memory().store_many((0..2_400).map(note).collect(), Atomicity::Together).await.unwrap();
    let found = async |sophia: &Sophia| {
        let query = Query::new("quarterly report 2399").mode(Mode::Keyword).scope(ada()).limit(40);
        let found = sophia.memory().search(query).await.unwrap();
        (found.total, found.hits.into_iter().map(|hit| (hit.record.id, hit.score)).collect::<Vec<_>>())
    };
    let first = found(&one).await;
    assert_eq!(first.1[0].0, "n2399");
    for round in 0..6 {
        match round {
            0 => drop(other.memory().store(note(2_401)).await.unwrap()),
            1 => drop(one.memory().delete(Delete::new("n2399").scope(ada()).permanent()).await.unwrap()),
            2 => {
                drop(other.memory().store_many((3_000..3_100).map(note).collect(), Atomicity::Together).await.unwrap())
            }
            3 => drop(other.memory().update(Update::new("n1").content("of the year 2399").scope(ada())).await.unwrap()),
            4 => drop(one.memory().delete(Delete::new("n3001").scope(ada())).await.unwrap()),
            _ => drop(other.memory().update(Update::new("n3").content("a report").scope(ada())).await.unwrap()),
        }
        let known = found(&one).await;
        assert_eq!(known, found(&engine(directory.path()).await).await, "round {round}");
        assert_eq!(known, found(&one).await, "round {round}, again");
        assert_ne!(known, first, "round {round}");
    }
}

#[tokio::test]
async fn what_changed_before_very_many_changes_of_others_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let sophia = engine(directory.path()).await;
    let bob = || Scope::new().user("bob");
    sophia.memory().store(NewRecord::new("the cat sleeps on the sofa").id("old").scope(ada())).await.unwrap();
    sophia.memory().store(NewRecord::new("of another user").scope(bob())).await.unwrap();
    let found = async |text: &str| {
        let found = sophia.memory().search(Query::new(text).scope(ada())).await.unwrap();
        found.hits.into_iter().map(|hit| hit.record.id).collect::<Vec<_>>()
    };
    assert_eq!(found("cat on the sofa").await, ["old"]);
    sophia.memory().store(NewRecord::new("the passport is in the drawer").id("new").scope(ada())).await.unwrap();
    sophia.memory().delete(Delete::new("old").scope(ada())).await.unwrap();
    let file = rusqlite::Connection::open(directory.path().join("sophia.db")).unwrap();
    file.execute(
        "INSERT INTO changes (change, wall, seq) SELECT max(change) + 300000, wall, seq FROM changes WHERE seq = 2",
        [],
    )
    .unwrap();
    // The first write of an engine lets go of old changes.
    engine(directory.path()).await.memory().store(NewRecord::new("one more").scope(bob())).await.unwrap();
    let of_ada = "SELECT count(*) FROM changes WHERE change < (SELECT max(change) FROM changes) - 200000";
    assert_eq!(file.query_row(of_ada, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    assert_eq!(found("passport in the drawer").await, ["new"]);
    assert_eq!(found("cat on the sofa").await, Vec::<String>::new());
}

#[tokio::test]
async fn a_file_of_an_older_format_is_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let sophia = engine(directory.path()).await;
    sophia.memory().store(NewRecord::new("The harbour at dawn").scope(ada()).tags(["pictures"])).await.unwrap();
    sophia.shutdown().await.unwrap();
    let file = rusqlite::Connection::open(directory.path().join("sophia.db")).unwrap();
    file.execute_batch(
        "PRAGMA journal_mode = DELETE; DROP TABLE record_words; DROP TABLE block_files;
         ALTER TABLE records ADD COLUMN ns TEXT GENERATED ALWAYS AS ('n' || wall) VIRTUAL;
         CREATE VIRTUAL TABLE record_text USING fts5 (ns, content, summary, tags, content = 'records',
           content_rowid = 'seq', tokenize = 'porter unicode61 remove_diacritics 2');
         INSERT INTO record_text (record_text) VALUES ('rebuild');
         PRAGMA user_version = 1",
    )
    .unwrap();
    drop(file);
    let sophia = engine(directory.path()).await;
    for word in ["harbours", "picture"] {
        let found = sophia.memory().search(Query::new(word).scope(ada()).mode(Mode::Keyword)).await.unwrap();
        assert_eq!(texts(&found), ["The harbour at dawn"], "{word}");
    }
    sophia.shutdown().await.unwrap();
    let file = rusqlite::Connection::open(directory.path().join("sophia.db")).unwrap();
    let old: i64 =
        file.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'record_text'", [], |row| row.get(0)).unwrap();
    let format: i64 = file.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!((old, format), (0, 2));
}

#[tokio::test]
async fn the_order_can_be_by_age_importance_and_variety() {
    let clock = Arc::new(ManualClock::default());
    let sophia = Sophia::builder().clock(clock.clone()).start().await.unwrap();
    let store = async |text: &str, importance: f64| {
        let record = NewRecord::new(text).scope(ada()).importance(importance);
        sophia.memory().store(record).await.unwrap();
        clock.advance(Duration::from_secs(3600));
    };
    store("The bakery sells rye bread.", 0.1).await;
    store("The bakery sells rye bread daily.", 0.1).await;
    store("Flour for bread costs more now.", 1.0).await;
    let ask = async |query: Query| sophia.memory().search(query.scope(ada()).explain()).await.unwrap();
    let plain = ask(Query::new("rye bread bakery")).await;
    assert!(texts(&plain)[0].contains("bakery") && texts(&plain)[1].contains("bakery"), "{:?}", texts(&plain));
    let varied = ask(Query::new("rye bread bakery").mmr_lambda(0.3)).await;
    assert!(texts(&varied)[1].contains("Flour"), "{:?}", texts(&varied));
    assert!(varied.hits[1].explain.unwrap().similarity.is_some());
    let recent = ask(Query::new("rye bread bakery").recency_half_life(Duration::from_secs(600))).await;
    assert!(texts(&recent)[0].contains("Flour"), "{:?}", texts(&recent));
    let recency: Vec<_> = recent.hits.iter().map(|hit| hit.explain.unwrap().recency.unwrap()).collect();
    assert!((recency[0] - 2f64.powf(-6.0)).abs() < 1e-9, "{recency:?}");
    let important = ask(Query::new("rye bread bakery").importance_weight(0.9)).await;
    assert!(texts(&important)[0].contains("Flour"), "{:?}", texts(&important));
    assert_eq!(important.hits[0].explain.unwrap().importance, Some(1.0));
    for scored in [&varied, &recent, &important] {
        assert!(scored.hits.iter().all(|hit| (0.0..=1.0).contains(&hit.score)), "{scored:#?}");
    }
    let ranked = ask(Query::new("rye bread bakery").fusion(Fusion::Rrf)).await.hits[0].explain.unwrap();
    assert_eq!(ranked.keyword_rank, Some(1), "{ranked:?}");
}

#[tokio::test]
async fn typos_are_tolerated_where_they_are_asked_for() {
    let sophia = Sophia::builder().start().await.unwrap();
    sophia.memory().store(NewRecord::new("The quarterly report is late.").scope(ada())).await.unwrap();
    sophia.memory().store(NewRecord::new("A quarterly raport.").scope(Scope::new().user("bob"))).await.unwrap();
    let query = || Query::new("qaurterly reprot").scope(ada()).mode(Mode::Keyword);
    assert_eq!(sophia.memory().search(query()).await.unwrap().total, 0);
    let found = sophia.memory().search(query().typo_tolerant()).await.unwrap();
    assert_eq!(found.hits.len(), 1, "{found:#?}");
    assert_eq!(found.hits[0].highlights, ["The **quarterly** **report** is late."]);
}

#[tokio::test]
async fn a_question_of_signs_alone_says_that_it_has_no_words() {
    let sophia = Sophia::builder().start().await.unwrap();
    sophia.memory().store(NewRecord::new("Well done 🙂").scope(ada())).await.unwrap();
    for mode in [Mode::Keyword, Mode::Hybrid] {
        let found = sophia.memory().search(Query::new("🙂").scope(ada()).mode(mode)).await.unwrap();
        let is_said = found.warnings.iter().any(|warning| warning.contains("`exact`"));
        assert!(found.degraded && is_said, "{found:?}");
    }
    let found = sophia.memory().search(Query::new("🙂").scope(ada()).mode(Mode::Exact)).await.unwrap();
    assert_eq!((found.hits.len(), found.degraded), (1, false));
    assert!(!sophia.memory().search(Query::new("done 🙂").scope(ada())).await.unwrap().degraded);
}

#[tokio::test]
async fn options_out_of_range_are_named() {
    let sophia = Sophia::builder().start().await.unwrap();
    let refused = [
        (Query::new("x").mmr_lambda(1.5), "mmr_lambda"),
        (Query::new("x").importance_weight(-0.1), "importance_weight"),
        (Query::new("x").importance_weight(f64::NAN), "importance_weight"),
        (Query::new("x").recency_half_life(Duration::ZERO), "recency_half_life"),
    ];
    for (query, field) in refused {
        let error = sophia.memory().search(query).await.unwrap_err();
        assert_eq!((error.kind(), error.get("field")), (ErrorKind::InvalidInput, Some(field)));
    }
}

#[tokio::test]
async fn the_nearest_are_found_however_far_where_nothing_is_known_of_the_vectors() {
    let mut config = Config::default();
    config.memory.embedder = EmbedderKind::None.into();
    let sophia = Sophia::builder().config(config).start().await.unwrap();
    for (text, vector) in [("near", [0.2, 0.98, 0.0]), ("far", [0.0, 1.0, 0.0]), ("opposite", [-1.0, 0.0, 0.0])] {
        sophia.memory().store(NewRecord::new(text).scope(ada()).embedding(vector)).await.unwrap();
    }
    let near = || Query::new("").scope(ada()).embedding([1.0, 0.0, 0.0]);
    let found = sophia.memory().search(near()).await.unwrap();
    assert_eq!((texts(&found), found.total), (vec!["near", "far", "opposite"], 3));
    assert_eq!(texts(&sophia.memory().search(near().min_similarity(0.1)).await.unwrap()), ["near"]);

    // Beside the bundled model, what the caller brings is the caller's to judge, and what it embeds is not.
    let sophia = Sophia::builder().start().await.unwrap();
    for text in ["The red tent leaks.", "Quarterly figures of the subsidiary."] {
        sophia.memory().store(NewRecord::new(text).scope(ada())).await.unwrap();
    }
    let ask = || Query::new("camping").scope(ada()).mode(Mode::Semantic);
    let found = sophia.memory().search(ask()).await.unwrap();
    assert!(found.total < 2, "{found:?}");
    assert_eq!(sophia.memory().search(ask().min_similarity(-1.0)).await.unwrap().total, 2);
    let mut vector = vec![0.0; 256];
    vector[0] = 1.0;
    let found = sophia.memory().search(Query::new("").scope(ada()).embedding(vector)).await.unwrap();
    assert_eq!(found.total, 2, "{found:?}");
}
