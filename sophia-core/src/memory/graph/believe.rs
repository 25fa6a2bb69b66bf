//! What becomes of what is believed when a fact is stated, the same for every store. A pure function.

use jiff::Timestamp;

use super::{Fact, NewFact};

/// What stating a fact changes.
#[derive(Debug)]
pub(in crate::memory) struct Statement {
    /// The fact that was stated, or the one that says the same.
    pub fact: Fact,
    /// Facts that are not believed any more.
    pub expired: Vec<Fact>,
    /// Facts that are believed from now on, the stated one last.
    pub believed: Vec<Fact>,
}

/// States a fact where others of its subject and predicate are believed, oldest `valid_at` first.
pub(in crate::memory) fn state(others: Vec<Fact>, new: NewFact, now: Timestamp) -> Statement {
    let valid_at = new.valid_at.unwrap_or(now);
    let mut invalid_at = new.invalid_at;
    let (mut expired, mut believed) = (Vec::new(), Vec::new());
    let is_open_at = |fact: &Fact| fact.valid_at <= valid_at && fact.invalid_at.is_none_or(|end| end > valid_at);
    for old in others {
        let is_same = old.object == new.object;
        if is_same && is_open_at(&old) && invalid_at.is_none_or(|end| old.invalid_at == Some(end)) {
            return Statement { fact: old, expired, believed };
        }
        if !new.functional || is_same {
            continue;
        }
        if is_open_at(&old) && old.valid_at < valid_at {
            // What was believed stays on the other axis; what is believed from now on ends in time.
            believed.push(Fact { id: new_id(), invalid_at: Some(valid_at), created_at: now, ..old.clone() });
            expired.push(old);
        } else if old.valid_at == valid_at {
            expired.push(old);
        } else if old.valid_at > valid_at {
            // News of the past: it was true until what is known of later.
            invalid_at = Some(invalid_at.map_or(old.valid_at, |end| end.min(old.valid_at)));
        }
    }
    let fact = Fact {
        id: new_id(),
        subject: new.subject,
        predicate: new.predicate,
        object: new.object,
        valid_at,
        invalid_at,
        created_at: now,
        expired_at: None,
        functional: new.functional,
        source: new.source,
        metadata: new.metadata,
    };
    believed.push(fact.clone());
    Statement { fact, expired, believed }
}

/// Makes the identifier of a fact.
pub(in crate::memory) fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}
