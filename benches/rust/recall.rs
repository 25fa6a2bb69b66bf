//! Measures how often the bundled static model finds the evidence of LoCoMo questions.
//!
//! `recall FILE` reads conversations in the LoCoMo format (Maharana et al., "Evaluating Very
//! Long-Term Conversational Memory of LLM Agents", 2024), ranks all turns of a conversation by
//! their exact cosine with each question, and prints the share of evidence turns among the first
//! k: the mean over questions, 1 for a question without evidence. Vectors alone: no full text, no
//! neighbours, no boosts.

#![expect(clippy::print_stdout, reason = "a command-line program answers there")]

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use serde_json::Value;
use sophia_core::memory::embed::StaticEmbedder;

/// Cut-offs of the table, those of the paper.
const CUTOFFS: [usize; 4] = [5, 10, 25, 50];
/// A sentence of 15 words for the time of one call.
const SENTENCE: &str = "Last summer we drove along the coast with two old friends and their noisy dog.";
/// Calls for the time of one: a fraction of a second in all.
const TIMED_CALLS: u32 = 50_000;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: recall FILE")?;
    let conversations: Vec<Value> = serde_json::from_slice(&std::fs::read(path)?)?;
    let embedder = StaticEmbedder::bundled();

    let mut by_category: BTreeMap<i64, Recall> = BTreeMap::new();
    for conversation in &conversations {
        let turns = turns(conversation, &embedder);
        for question in list(&conversation["qa"]) {
            let category = question["category"].as_i64().unwrap_or_default();
            by_category.entry(category).or_default().add(&evidence_found(question, &turns, &embedder));
        }
    }
    print_table(&by_category);

    let start = Instant::now();
    for _ in 0..TIMED_CALLS {
        black_box(embedder.embed_one(black_box(SENTENCE)));
    }
    println!("\n{:.2} µs to embed 15 words", micros(start) / f64::from(TIMED_CALLS));
    Ok(())
}

struct Turn {
    id: String,
    vector: Vec<f32>,
}

/// Embeds every turn, in the order of the sessions.
fn turns(sample: &Value, embedder: &StaticEmbedder) -> Vec<Turn> {
    let conversation = &sample["conversation"];
    (1..)
        .map(|session| &conversation[format!("session_{session}")])
        .take_while(|session| session.is_array())
        .flat_map(list)
        .map(|turn| Turn { id: text(&turn["dia_id"]).to_owned(), vector: embedder.embed_one(&spoken(turn)) })
        .collect()
}

/// Writes a turn as the paper does.
fn spoken(turn: &Value) -> String {
    let mut line = format!("{} said, \"{}\"", text(&turn["speaker"]), text(&turn["text"]));
    if let Some(caption) = turn["blip_caption"].as_str() {
        line.push_str(" and shared ");
        line.push_str(caption);
    }
    line
}

/// Returns the share of the evidence among the first k turns, for each cut-off.
fn evidence_found(question: &Value, turns: &[Turn], embedder: &StaticEmbedder) -> [f64; 4] {
    let evidence: Vec<&str> = list(&question["evidence"]).map(text).collect();
    if evidence.is_empty() {
        return [1.0; 4];
    }
    let query = embedder.embed_one(text(&question["question"]));
    let mut ranked: Vec<(f32, &str)> = turns.iter().map(|turn| (dot(&query, &turn.vector), turn.id.as_str())).collect();
    // Stable: of equal turns the earlier comes first.
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    CUTOFFS.map(|k| {
        let found = |wanted: &&&str| ranked.iter().take(k).any(|(_, id)| id == *wanted);
        evidence.iter().filter(found).count() as f64 / evidence.len() as f64
    })
}

#[derive(Default)]
struct Recall {
    questions: usize,
    sums: [f64; 4],
}

impl Recall {
    fn add(&mut self, found: &[f64; 4]) {
        self.questions += 1;
        self.sums.iter_mut().zip(found).for_each(|(sum, share)| *sum += share);
    }
}

fn print_table(by_category: &BTreeMap<i64, Recall>) {
    println!("{:<14}{:>10}{:>8}{:>8}{:>8}{:>8}", "category", "questions", "R@5", "R@10", "R@25", "R@50");
    let mut all = Recall::default();
    for (category, recall) in by_category {
        print_row(category_name(*category), recall);
        all.questions += recall.questions;
        all.sums.iter_mut().zip(recall.sums).for_each(|(sum, part)| *sum += part);
    }
    print_row("all", &all);
}

fn print_row(name: &str, recall: &Recall) {
    print!("{name:<14}{:>10}", recall.questions);
    recall.sums.iter().for_each(|sum| print!("{:>8.1}", 100.0 * sum / recall.questions as f64));
    println!();
}

fn category_name(category: i64) -> &'static str {
    match category {
        1 => "multi-hop",
        2 => "temporal",
        3 => "open-domain",
        4 => "single-hop",
        5 => "adversarial",
        _ => "other",
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}
