//! Four processes on one file: ten thousand operations, no update lost, nothing refused because another writes.

use super::*;

const PROCESSES: usize = 4;
const LANES: usize = 5;
/// Operations of a lane: ten thousand for all of all processes.
const TURNS: usize = 10_000 / PROCESSES / LANES;
const COUNTERS: u64 = 8;

fn counter(number: u64) -> String {
    format!("counter-{number}")
}

/// The part of a process. What it says is what it counted, and how often it had to try again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the test below"]
async fn part_that_counts() {
    let Some((folder, part)) = given() else { return };
    let sophia = engine(&folder).await;
    let lanes = (0..LANES).map(|lane| tokio::spawn(count(sophia.clone(), part.parse().unwrap(), lane)));
    let counted: u64 = futures::future::try_join_all(lanes).await.unwrap().into_iter().sum();
    say(&counted.to_string());
    sophia.shutdown().await.unwrap();
}

async fn count(sophia: Sophia, part: usize, lane: usize) -> u64 {
    let memory = sophia.memory();
    let mut random = Random((part * LANES + lane + 1) as u64 * 0x9e37);
    let (mut counted, mut seen) = (0, 0);
    for turn in 0..TURNS {
        let name = format!("{part}-{lane}-{turn}");
        match turn % 5 {
            // One more, however often another was faster.
            0 => {
                let id = counter(random.below(COUNTERS));
                loop {
                    let record = memory.get(GetRecord::id(&id).scope(ada())).await.unwrap().unwrap();
                    let next = (record.content.parse::<u64>().unwrap() + 1).to_string();
                    let update = Update::new(&id).scope(ada()).content(next).if_version(record.version);
                    match memory.update(update).await {
                        Ok(_) => break,
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
                    }
                }
                counted += 1;
            }
            1 => {
                memory.store(NewRecord::new(format!("note {name}")).scope(ada()).id(&name)).await.unwrap();
                // Told to the others only now that it is there.
                memory.kv().set(&format!("last-{part}"), json!(name), KvOptions::new().scope(ada())).await.unwrap();
            }
            2 => {
                let session = ada().session(format!("talk-{lane}"));
                memory.append(AppendMessage::new(session, "user", &name)).await.unwrap();
            }
            3 => {
                let other = format!("last-{}", random.below(PROCESSES as u64));
                if let Some(told) = memory.kv().get(&other, &ada()).await.unwrap() {
                    let id = told.value().as_str().unwrap();
                    assert!(memory.get(GetRecord::id(id).scope(ada())).await.unwrap().is_some(), "{id} is not seen");
                    let query = Query::new(format!("note {id}")).scope(ada()).mode(Mode::Exact);
                    let found = memory.search(query).await.unwrap();
                    assert!(found.hits.iter().any(|hit| hit.record.id == id), "{id} is not found");
                    seen += usize::from(!id.starts_with(&format!("{part}-")));
                }
            }
            _ => {
                memory.graph().relate(NewFact::new(&name, "counted_by", part.to_string()).scope(ada())).await.unwrap();
            }
        }
    }
    assert!(seen > 0, "nothing of the others was seen");
    counted
}

#[tokio::test]
async fn four_processes_lose_no_update_and_are_never_refused() {
    let directory = tempfile::tempdir().unwrap();
    let sophia = engine(directory.path()).await;
    for number in 0..COUNTERS {
        sophia.memory().store(NewRecord::new("0").scope(ada()).id(counter(number))).await.unwrap();
    }
    let parts: Vec<_> = (0..PROCESSES)
        .map(|part| Part::start("faults::processes::part_that_counts", directory.path(), &part.to_string()))
        .collect();
    let counted: u64 = parts.into_iter().map(|part| part.end().remove(0).parse::<u64>().unwrap()).sum();
    assert_eq!(counted as usize, PROCESSES * LANES * TURNS.div_ceil(5));
    let mut sum = 0;
    for number in 0..COUNTERS {
        let record = sophia.memory().get(GetRecord::id(counter(number)).scope(ada())).await.unwrap().unwrap();
        let value: u64 = record.content.parse().unwrap();
        assert_eq!(record.version as u64, value + 1);
        sum += value;
    }
    assert_eq!(sum, counted, "an update was lost");
    for part in 0..PROCESSES {
        for lane in 0..LANES {
            for turn in (1..TURNS).step_by(5) {
                let id = format!("{part}-{lane}-{turn}");
                assert!(sophia.memory().get(GetRecord::id(&id).scope(ada())).await.unwrap().is_some(), "{id}");
            }
        }
    }
    let mut said = 0;
    for lane in 0..LANES {
        let talk = ada().session(format!("talk-{lane}"));
        said += sophia.memory().history(History::new(talk).limit(1_000)).await.unwrap().len();
    }
    assert_eq!(said, PROCESSES * LANES * (2..TURNS).step_by(5).count());
    sophia.shutdown().await.unwrap();
    assert_eq!(integrity(directory.path()), "ok");
}
