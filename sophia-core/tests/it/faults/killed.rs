//! `kill -9` while everything is written, while blocks are saved, while a person is forgotten.

use futures::future::join_all;

use super::*;

const ROUNDS: usize = 50;
/// Acknowledgements after which a child is killed, at most.
const MOST_HEARD: u64 = 24;

/// The part of a child that writes all that can be written, several at a time, until it is killed.
#[tokio::test]
#[ignore = "started by the tests below"]
async fn part_that_writes() {
    let Some((folder, round)) = given() else { return };
    let sophia = engine(&folder).await;
    let memory = sophia.memory();
    for turn in 0.. {
        let calls = (0..4).map(|lane| {
            let name = format!("{round}-{lane}-{turn}");
            let session = ada().session(format!("talk-{round}-{lane}"));
            async move {
                let word = word(&name);
                memory.store(record(&name, ada()).id(&name)).await.unwrap();
                say(&format!("record {name}"));
                let options = KvOptions::new().scope(ada()).tags(["kept"]);
                memory.kv().set(&name, json!({"of": word}), options).await.unwrap();
                say(&format!("value {name}"));
                memory.graph().relate(NewFact::new(&name, "said", &word).scope(ada())).await.unwrap();
                say(&format!("fact {name}"));
                let state = NewCheckpoint::new("thread", &name, text(&word)).scope(ada());
                memory.checkpoints().put(state.channel("words", &name, text(&word))).await.unwrap();
                say(&format!("checkpoint {name}"));
                memory.append(AppendMessage::new(session, "user", format!("turn {name}"))).await.unwrap();
                say(&format!("message {name}"));
                let both = ["a", "b"].map(|part| record(&name, bob()).id(format!("{name}{part}")));
                memory.store_many(both.into(), Atomicity::Together).await.unwrap();
                say(&format!("both {name}"));
                let changed = format!("{} changed", content(&name));
                memory.update(Update::new(&name).scope(ada()).content(changed).if_version(1)).await.unwrap();
                say(&format!("changed {name}"));
                memory.delete(Delete::new(format!("{name}a")).scope(bob()).permanent()).await.unwrap();
                say(&format!("deleted {name}"));
            }
        });
        join_all(calls).await;
    }
}

/// A word that is in one record alone.
fn word(name: &str) -> String {
    format!("w{}", &blake3::hash(name.as_bytes()).to_hex()[..12])
}

fn content(name: &str) -> String {
    format!("What {} was told.", word(name))
}

/// More than one page of the file holds.
fn page(name: &str) -> String {
    word(name).repeat(400)
}

fn record(name: &str, scope: Scope) -> NewRecord {
    NewRecord::new(content(name)).scope(scope).metadata("page", page(name))
}

/// Checks one acknowledged write.
async fn is_there(sophia: &Sophia, kind: &str, name: &str, changed: bool) {
    let (memory, word) = (sophia.memory(), word(name));
    match kind {
        "record" | "changed" => {
            let record = memory.get(GetRecord::id(name).scope(ada())).await.unwrap().expect(name);
            let told = record.content.strip_suffix(" changed");
            assert_eq!(told.unwrap_or(&record.content), content(name));
            assert_eq!(record.metadata["page"], page(name));
            assert!(record.version == if told.is_some() { 2 } else { 1 } && (told.is_some() || !changed), "{record:?}");
        }
        "value" => {
            let value = memory.kv().get(name, &ada()).await.unwrap().expect(name);
            assert_eq!(value.value(), &json!({"of": word}));
        }
        "fact" => {
            let facts = memory.graph().facts(FactQuery::new(ada()).subject(name)).await.unwrap();
            assert_eq!(facts.iter().map(|fact| &fact.object).collect::<Vec<_>>(), [&word]);
        }
        "checkpoint" => {
            let which = GetCheckpoint::last("thread").id(name).scope(ada());
            let state = memory.checkpoints().get(which).await.unwrap().expect(name);
            assert_eq!((&state.body, &state.channels["words"]), (&text(&word), &text(&word)));
        }
        "message" => {
            let talk = ada().session(format!("talk-{}", name.rsplit_once('-').unwrap().0));
            let said = memory.history(History::new(talk).limit(1_000)).await.unwrap();
            assert!(said.iter().any(|said| said.content == format!("turn {name}")), "{name}");
        }
        "both" => {
            let record = memory.get(GetRecord::id(format!("{name}b")).scope(bob())).await.unwrap().expect(name);
            assert_eq!((record.content, &record.metadata["page"]), (content(name), &json!(page(name))));
        }
        "deleted" => {
            assert_eq!(memory.get(GetRecord::id(format!("{name}a")).scope(bob())).await.unwrap(), None, "{name}");
        }
        other => panic!("{other}"),
    }
}

/// What was not acknowledged is whole, or not there.
fn all_is_whole(folder: &Path) {
    let connection = rusqlite::Connection::open(folder.join("sophia.db")).unwrap();
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    for (what, sql) in [
        ("a record without its vector", "SELECT count(*) FROM records WHERE seq NOT IN (SELECT seq FROM vectors)"),
        ("a vector without its record", "SELECT count(*) FROM vectors WHERE seq NOT IN (SELECT seq FROM records)"),
        (
            "words without a record",
            "SELECT count(*) FROM record_words_docsize WHERE id NOT IN (SELECT seq FROM records)",
        ),
        (
            "a record without words",
            "SELECT count(*) FROM records WHERE seq NOT IN (SELECT id FROM record_words_docsize)",
        ),
        ("a version without its record", "SELECT count(*) FROM versions WHERE seq NOT IN (SELECT seq FROM records)"),
        (
            "a tag without its key",
            "SELECT count(*) FROM kv_tags AS t WHERE NOT EXISTS (SELECT 1 FROM kv AS k WHERE k.wall = t.wall AND k.key = t.key)",
        ),
        (
            "one of two that belong together",
            "SELECT count(*) FROM records AS r JOIN walls AS w USING (wall) WHERE w.user = 'bob' AND r.id LIKE '%a' AND \
             NOT EXISTS (SELECT 1 FROM records AS o WHERE o.wall = r.wall AND o.id = substr(r.id, 1, length(r.id) - 1) || 'b')",
        ),
    ] {
        assert_eq!(count(sql), 0, "{what}");
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_whichever_moment_a_process_is_killed_at() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = Random(0x5eed);
    let mut all = Vec::new();
    for round in 0..ROUNDS {
        let mut part = Part::start("faults::killed::part_that_writes", directory.path(), &round.to_string());
        let mut said: Vec<String> = (0..=random.below(MOST_HEARD)).map(|_| part.hear().expect("it writes")).collect();
        random.moment(3_000);
        said.extend(part.kill());
        let sophia = engine(directory.path()).await;
        for said in &said {
            let (kind, name) = said.split_once(' ').unwrap();
            is_there(&sophia, kind, name, false).await;
        }
        // Found by its word, and by its meaning; a change may have come after.
        let last = said.iter().rev().find_map(|said| said.strip_prefix("record ")).unwrap();
        for mode in [Mode::Keyword, Mode::Exact, Mode::Hybrid, Mode::Semantic] {
            let query = if mode == Mode::Semantic { content(last) } else { word(last) };
            let found = sophia.memory().search(Query::new(query).scope(ada()).mode(mode).limit(1_000)).await.unwrap();
            // Their meaning is the same.
            let shown = if mode == Mode::Semantic { found.hits.len() } else { 1 };
            assert!(found.hits[..shown].iter().any(|hit| hit.record.id == last), "{mode:?} {last}");
        }
        let health = sophia.memory().health().await;
        assert_eq!(health.tiers["l3"].status, TierStatus::Healthy);
        sophia.shutdown().await.unwrap();
        all_is_whole(directory.path());
        all.extend(said);
    }
    assert!(all.len() > ROUNDS * 10, "{} were acknowledged", all.len());
    assert_eq!(integrity(directory.path()), "ok");
    let sophia = engine(directory.path()).await;
    for said in &all {
        let (kind, name) = said.split_once(' ').unwrap();
        is_there(&sophia, kind, name, kind == "changed").await;
    }
}

/// Rows from which a block has a file, and one more.
const ROWS: usize = 20_001;

/// An engine for vectors of two dimensions, so that many are made quickly.
async fn plain(folder: &Path) -> Sophia {
    let config = Config::from_json(r#"{"memory": {"embedder": "none"}}"#).unwrap().with_data_dir(folder);
    Sophia::builder().config(config).start().await.unwrap()
}

fn nearest() -> Query {
    Query::new("").embedding([1.0, 0.001]).mode(Mode::Semantic).scope(ada()).limit(20)
}

/// The part of a child that makes a block, and then saves it, which it is killed at.
#[tokio::test]
#[ignore = "started by the test below"]
async fn part_that_saves_a_block() {
    let Some((folder, _)) = given() else { return };
    let sophia = plain(&folder).await;
    say(&sophia.memory().search(nearest()).await.unwrap().hits.len().to_string());
    std::future::pending().await
}

#[tokio::test]
async fn a_block_is_whole_or_made_anew_whichever_moment_a_process_is_killed_at() {
    let directory = tempfile::tempdir().unwrap();
    let sophia = plain(directory.path()).await;
    let angle = |number: usize| (number as f32) * std::f32::consts::PI / ROWS as f32;
    for start in (0..ROWS).step_by(5_000) {
        let batch = (start..ROWS.min(start + 5_000))
            .map(|number| NewRecord::new("x").scope(ada()).embedding([angle(number).cos(), angle(number).sin()]));
        sophia.memory().store_many(batch.collect(), Atomicity::Together).await.unwrap();
    }
    let found =
        |hits: sophia_core::memory::SearchResult| hits.hits.into_iter().map(|hit| hit.record.seq).collect::<Vec<_>>();
    let expected = found(sophia.memory().search(nearest()).await.unwrap());
    assert_eq!(expected.len(), 20);
    sophia.shutdown().await.unwrap();
    let blocks = directory.path().join("blocks");
    let mut random = Random(0xb10c);
    let mut states = [0, 0];
    for round in 0..8 {
        // Without a file, the block is read from the data file and is due to be saved.
        let _ = std::fs::remove_dir_all(&blocks);
        let mut part = Part::start("faults::killed::part_that_saves_a_block", directory.path(), "");
        assert_eq!(part.hear().as_deref(), Some("20"));
        random.moment(if round % 2 == 0 { 3_000 } else { 60_000 });
        part.kill();
        let named =
            || files(directory.path()).into_iter().filter(|file| file.extension().is_some_and(|end| end == "blk"));
        states[usize::from(named().count() > 0)] += 1;
        if round % 3 == 2 {
            for file in named() {
                let whole = std::fs::read(&file).unwrap();
                std::fs::write(file, &whole[..whole.len() / 2]).unwrap();
            }
        }
        let sophia = plain(directory.path()).await;
        assert_eq!(found(sophia.memory().search(nearest()).await.unwrap()), expected);
        let unnamed =
            files(directory.path()).into_iter().filter(|file| file.extension().is_some_and(|end| end == "new"));
        assert!(unnamed.count() <= 1, "what the dead were writing is swept; this process may be writing one");
        sophia.shutdown().await.unwrap();
    }
    assert_eq!(states.iter().sum::<usize>(), 8);
}

/// The part of a child that forgets a person, and is killed while it does.
#[tokio::test]
#[ignore = "started by the test below"]
async fn part_that_forgets() {
    let Some((folder, _)) = given() else { return };
    let sophia = engine(&folder).await;
    say("now");
    sophia.memory().forget(ForgetRequest::subject("ada")).await.unwrap();
    say("done");
}

#[tokio::test]
async fn forgetting_that_was_killed_is_whole_or_not_begun_and_completes_when_it_is_asked_again() {
    let mut random = Random(0xf0e6);
    for round in 0..10 {
        let directory = tempfile::tempdir().unwrap();
        let sophia = engine(directory.path()).await;
        let memory = sophia.memory();
        let records = (0..150).map(|number| NewRecord::new(format!("zqxwvj secret {number} kqjxzv")).scope(ada()));
        memory.store_many(records.collect(), Atomicity::Together).await.unwrap();
        for number in 0..5 {
            let name = format!("zqxwvj-{number}");
            memory.kv().set(&name, json!("zqxwvj"), KvOptions::new().scope(ada())).await.unwrap();
            memory.graph().relate(NewFact::new("ada", "likes", &name).scope(ada())).await.unwrap();
            let state = NewCheckpoint::new("zqxwvj", &name, text("zqxwvj")).scope(ada());
            memory.checkpoints().put(state).await.unwrap();
        }
        memory.store(NewRecord::new("Bob stays.").scope(bob()).id("bob")).await.unwrap();
        sophia.shutdown().await.unwrap();

        let mut part = Part::start("faults::killed::part_that_forgets", directory.path(), "");
        assert_eq!(part.hear().as_deref(), Some("now"));
        random.moment(4_000 * (round + 1));
        let done = part.kill() == ["done"];

        let sophia = engine(directory.path()).await;
        let memory = sophia.memory();
        let there = [
            memory.search(Query::new("").scope(ada()).limit(500)).await.unwrap().hits.len(),
            memory.graph().facts(FactQuery::new(ada())).await.unwrap().len(),
            usize::from(memory.kv().get("zqxwvj-4", &ada()).await.unwrap().is_some()),
            usize::from(memory.checkpoints().get(GetCheckpoint::last("zqxwvj").scope(ada())).await.unwrap().is_some()),
        ];
        assert!(there == [150, 5, 1, 1] && !done || there == [0; 4], "half is visible: {there:?}");
        memory.forget(ForgetRequest::subject("ada")).await.unwrap();
        assert_eq!(memory.search(Query::new("secret").scope(ada())).await.unwrap().hits, []);
        assert!(memory.get(GetRecord::id("bob").scope(bob())).await.unwrap().is_some());
        super::forgetting::holds_nothing(directory.path(), &[b"zqxwvj", b"kqjxzv"]);
        sophia.shutdown().await.unwrap();
        super::forgetting::holds_nothing(directory.path(), &[b"zqxwvj", b"kqjxzv"]);
        assert_eq!(integrity(directory.path()), "ok");
    }
}
