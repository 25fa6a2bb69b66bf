//! How well memory finds: replays conversations whose questions come with their evidence, and counts. Feature `cli`.
//!
//! | to | open |
//! |---|---|
//! | run one | [`read`], [`run`] |
//! | add a format | `format.rs` |
//! | see what comes out | [`Report`] (`report.rs`) |

mod dates;
mod format;
mod report;

use std::collections::{BTreeMap, HashMap};

use super::{AppendMessage, Memory, Query};
use crate::{Result, Scope};

pub use format::{Conversation, Question, Turn, read};
pub use report::{CategoryRecall, Report};

/// Numbers of hits that recall is counted at: those of the LoCoMo paper.
pub const CUTOFFS: [usize; 4] = [5, 10, 25, 50];

/// Stores each conversation under a user of its own, asks its questions, and counts how much of the evidence is among the
/// first hits: the mean over questions, 1 for a question without evidence, as the LoCoMo paper does.
///
/// Everything goes through the calls that users make: [`Memory::append`] and [`Memory::search`]. Use a memory that holds
/// nothing else. `step` is called after each question, with how many are done.
///
/// ```
/// use sophia_core::{Sophia, memory::eval};
///
/// # async fn example() -> sophia_core::Result<()> {
/// let file = br#"[{"sample_id": "s", "conversation": {
///     "session_1": [{"speaker": "Ada", "dia_id": "D1:1", "text": "I moved to Lisbon."}]},
///     "qa": [{"question": "Where does Ada live?", "category": 4, "evidence": ["D1:1"]}]}]"#;
/// let sophia = Sophia::builder().start().await?;
/// let report = eval::run(sophia.memory(), &eval::read(file)?, |_| {}).await?;
/// assert_eq!(report.all.recall[0], 1.0);
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(example()).unwrap();
/// ```
///
/// # Errors
/// What [`Memory::append`] and [`Memory::search`] say.
pub async fn run(memory: &Memory, conversations: &[Conversation], mut step: impl FnMut(usize)) -> Result<Report> {
    let mut report = Report::default();
    let mut asked = 0;
    for conversation in conversations {
        let scope = Scope::new().user(&conversation.id);
        let stored = store(memory, &scope, conversation).await?;
        for question in &conversation.questions {
            let found = find(memory, &scope, question, &stored).await?;
            report.add(&question.category, recall(&question.evidence, &found));
            asked += 1;
            step(asked);
        }
    }
    Ok(report)
}

/// Returns what each stored record is evidence of: its turn, and its session.
async fn store(memory: &Memory, scope: &Scope, conversation: &Conversation) -> Result<HashMap<i64, [String; 2]>> {
    let mut stored = HashMap::new();
    for turn in &conversation.turns {
        let mut message = AppendMessage::new(scope.clone().session(&turn.session), &turn.role, &turn.text);
        if let Some(speaker) = &turn.speaker {
            message = message.metadata("speaker", speaker.as_str());
        }
        message.at = turn.at;
        let record = memory.append(message).await?;
        stored.insert(record.seq, [turn.id.clone(), turn.session.clone()]);
    }
    Ok(stored)
}

/// Returns for each turn and session at which place it was found first.
async fn find<'a>(
    memory: &Memory,
    scope: &Scope,
    question: &Question,
    stored: &'a HashMap<i64, [String; 2]>,
) -> Result<BTreeMap<&'a str, usize>> {
    let most = CUTOFFS.iter().copied().max().unwrap_or_default();
    let result = memory.search(Query::new(&question.text).scope(scope).limit(most)).await?;
    let mut places = BTreeMap::new();
    for (place, hit) in result.hits.iter().enumerate() {
        for name in stored.get(&hit.record.seq).into_iter().flatten() {
            places.entry(name.as_str()).or_insert(place);
        }
    }
    Ok(places)
}

fn recall(evidence: &[String], found: &BTreeMap<&str, usize>) -> [f64; CUTOFFS.len()] {
    if evidence.is_empty() {
        return [1.0; CUTOFFS.len()];
    }
    CUTOFFS.map(|cutoff| {
        let is_found = |name: &&String| found.get(name.as_str()).is_some_and(|place| *place < cutoff);
        evidence.iter().filter(is_found).count() as f64 / evidence.len() as f64
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_is_the_share_of_the_evidence_among_the_first_hits() {
        let evidence = ["a".to_owned(), "b".to_owned()];
        let found = BTreeMap::from([("a", 4), ("b", 10), ("c", 0)]);
        assert_eq!(recall(&evidence, &found), [0.5, 0.5, 1.0, 1.0]);
        assert_eq!(recall(&[], &found), [1.0; 4]);
    }
}
