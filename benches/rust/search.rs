//! Measures search and storing: `search DIRECTORY ROWS` makes a store there and measures it; `search DIRECTORY` opens one
//! that is there, as a new process does, and measures again.
//!
//! The records are made: words by Zipf's law, half of them of one of many subjects. One user has nearly all of them, another
//! one a thousand. Every figure is of calls that users make, one after the other, of one task.

#![expect(clippy::print_stdout, reason = "a command-line program answers there")]

use std::{
    error::Error,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sophia_core::{
    Config, Scope, Sophia,
    memory::{Mode, NewRecord, Query, embed::StaticEmbedder, store::Atomicity},
};

const VOCABULARY: &str = include_str!("../../sophia-core/model/vocab.txt");
const SUBJECTS: u64 = 2_000;
const WORDS_OF_A_SUBJECT: u64 = 30;
const SMALL_ROWS: usize = 1_000;
const BATCH: usize = 1_000;
const QUERIES: u64 = 300;
const SINGLE_STORES: u64 = 1_000;
/// Questions whose answers are compared with those of an exact scan.
const COMPARED: u64 = 20;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("usage: search DIRECTORY [ROWS]")?);
    let rows = arguments.next().map(|rows| rows.parse()).transpose()?;
    // In a task, as those of a server are.
    tokio::spawn(run(directory, rows)).await?
}

/// Makes a store of so many rows, or opens one that is there, and measures it.
async fn run(directory: PathBuf, rows: Option<usize>) -> Outcome<()> {
    let start = Instant::now();
    let sophia = Sophia::builder().config(Config::default().with_data_dir(&directory)).start().await?;
    let texts = Texts::new();
    match rows {
        Some(rows) => make(&sophia, &texts, rows).await?,
        None => {
            ask(&sophia, &texts, 0, large(), Mode::Hybrid).await?;
            println!("{:<44}{:>10.2} s", "opened, until the first answer", start.elapsed().as_secs_f64());
        }
    }
    measure(&sophia, &texts).await?;
    println!("{:<44}{:>10.0} MB", "resident memory", resident_mb());
    println!("{:<44}{:>10.0} MB", "files", size_mb(&directory));
    sophia.shutdown().await?;
    Ok(())
}

fn large() -> Scope {
    Scope::new().user("large")
}

fn small() -> Scope {
    Scope::new().user("small")
}

async fn make(sophia: &Sophia, texts: &Texts, rows: usize) -> Outcome<()> {
    let start = Instant::now();
    for first in (0..rows).step_by(BATCH) {
        let batch = (first..rows.min(first + BATCH)).map(|row| NewRecord::new(texts.record(row as u64)).scope(large()));
        sophia.memory().store_many(batch.collect(), Atomicity::Together).await?;
    }
    let rate = rows as f64 / start.elapsed().as_secs_f64();
    println!("{:<44}{rate:>10.0} records/s", format!("store_many, {BATCH} at a time"));
    let batch = (0..SMALL_ROWS).map(|row| NewRecord::new(texts.record(row as u64)).scope(small()));
    sophia.memory().store_many(batch.collect(), Atomicity::Together).await?;
    let mut times = Vec::new();
    for row in 0..SINGLE_STORES {
        let record = NewRecord::new(texts.record(rows as u64 + row)).scope(large());
        let start = Instant::now();
        sophia.memory().store(record).await?;
        times.push(start.elapsed());
    }
    show("store, one at a time", times);
    let start = Instant::now();
    ask(sophia, texts, 0, large(), Mode::Hybrid).await?;
    println!("{:<44}{:>10.2} s", "first search, blocks made anew", start.elapsed().as_secs_f64());
    Ok(())
}

async fn measure(sophia: &Sophia, texts: &Texts) -> Outcome<()> {
    let rows = sophia.memory().stats().await?.records;
    println!("{rows} records, 256 dimensions, limit 10");
    for (name, scope) in [("all but a thousand", large()), ("a thousand of them", small())] {
        for mode in [Mode::Hybrid, Mode::Semantic, Mode::Keyword] {
            let mut times = Vec::new();
            for query in 0..QUERIES {
                let start = Instant::now();
                ask(sophia, texts, query, scope.clone(), mode).await?;
                times.push(start.elapsed());
            }
            show(&format!("{mode:?}, {name}"), times);
        }
    }
    println!("{:<44}{:>10.3}", "recall@10 against an exact scan", recall(sophia, texts, rows).await?);
    Ok(())
}

async fn ask(sophia: &Sophia, texts: &Texts, query: u64, scope: Scope, mode: Mode) -> Outcome<Vec<String>> {
    let query = Query::new(texts.question(query)).scope(scope).mode(mode).limit(10);
    let found = sophia.memory().search(query).await?;
    Ok(found.hits.into_iter().map(|hit| hit.record.content).collect())
}

/// Compares what is found by meaning with the ten nearest of all, by cosine in full precision.
async fn recall(sophia: &Sophia, texts: &Texts, rows: u64) -> Outcome<f64> {
    let embedder = StaticEmbedder::bundled();
    let questions: Vec<_> = (0..COMPARED).map(|query| embedder.embed_one(&texts.question(query))).collect();
    let mut best: Vec<Vec<(f32, u64)>> = vec![Vec::new(); questions.len()];
    for row in 0..rows - SMALL_ROWS as u64 {
        let vector = embedder.embed_one(&texts.record(row));
        for (question, best) in questions.iter().zip(&mut best) {
            let cosine: f32 = question.iter().zip(&vector).map(|(a, b)| a * b).sum();
            if best.len() < 10 || best.last().is_some_and(|(least, _)| cosine > *least) {
                let place = best.partition_point(|(other, _)| *other >= cosine);
                best.insert(place, (cosine, row));
                best.truncate(10);
            }
        }
    }
    let mut found = 0;
    for (query, best) in (0..COMPARED).zip(best) {
        let hits = ask(sophia, texts, query, large(), Mode::Semantic).await?;
        found += best.iter().filter(|(_, row)| hits.contains(&texts.record(*row))).count();
    }
    Ok(found as f64 / (10 * COMPARED) as f64)
}

fn show(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    println!("{name:<44}{:>10.3} ms p50 {:>10.3} ms p99", at(50), at(99));
}

/// Makes the same texts every time.
struct Texts {
    words: Vec<&'static str>,
}

impl Texts {
    fn new() -> Texts {
        let is_word = |word: &&str| word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_lowercase());
        Texts { words: VOCABULARY.lines().filter(is_word).collect() }
    }

    fn record(&self, row: u64) -> String {
        let mut random = Random(row.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
        let subject = random.below(SUBJECTS);
        let length = 12 + random.below(16);
        let words = (0..length).map(|_| match random.below(2) {
            0 => self.of_subject(subject, random.below(WORDS_OF_A_SUBJECT)),
            _ => self.by_zipf(&mut random),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    fn question(&self, query: u64) -> String {
        let mut random = Random(query.wrapping_mul(0x2545_f491_4f6c_dd1d) + 7);
        let subject = random.below(SUBJECTS);
        let words = (0..6).map(|place| match place {
            0..=3 => self.of_subject(subject, random.below(WORDS_OF_A_SUBJECT)),
            _ => self.by_zipf(&mut random),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    fn of_subject(&self, subject: u64, word: u64) -> &'static str {
        let mut random = Random(subject * WORDS_OF_A_SUBJECT + word + 1);
        self.words[random.below(self.words.len() as u64) as usize]
    }

    /// Takes a word of rank r about as often as 1/r.
    fn by_zipf(&self, random: &mut Random) -> &'static str {
        let most = self.words.len() as f64;
        let rank = most.powf(random.below(1 << 20) as f64 / f64::from(1 << 20));
        self.words[(rank as usize).min(self.words.len()) - 1]
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Memory of this process that is in RAM; 0 where the system does not say.
fn resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or_default() / 1024.0
}

fn size_mb(directory: &Path) -> f64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_mb(&entry.path()),
        Ok(metadata) => metadata.len() as f64 / (1024.0 * 1024.0),
        Err(_) => 0.0,
    });
    sizes.sum()
}
