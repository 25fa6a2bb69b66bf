//! What becomes of what is believed when a fact is stated, the same for every store. A pure function.
//!
//! What is stated again while it holds stays one fact. That it was stated again is kept beside it, as a fact of no duration, a
//! mark: where other news end the first, it holds again from there. So the order of the statements does not matter.

use jiff::Timestamp;
use serde_json::{Map, Value};

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
    let (marks, facts): (Vec<Fact>, Vec<Fact>) = others.into_iter().partition(is_mark);
    // Marks of facts that were deleted go as well.
    let is_kept = |mark: &Fact| facts.iter().any(|fact| fact.object == mark.object && holds(fact, mark.valid_at));
    let (marks, mut expired): (Vec<Fact>, Vec<Fact>) = marks.into_iter().partition(is_kept);
    let mut believed = Vec::new();

    let says_same = |old: &&Fact| {
        old.object == new.object && holds(old, valid_at) && new.invalid_at.is_none_or(|end| old.invalid_at == Some(end))
    };
    if let Some(old) = facts.iter().find(says_same) {
        let is_marked = |mark: &Fact| mark.object == old.object && mark.valid_at == valid_at;
        // What is stated without a time is said of what holds now.
        if new.functional && new.valid_at.is_some() && old.valid_at < valid_at && !marks.iter().any(is_marked) {
            believed.push(mark(old, valid_at, now));
        }
        let fact = with_news(old.clone(), new.source, new.metadata);
        if fact == *old {
            return Statement { fact, expired, believed };
        }
        let fact = Fact { id: new_id(), created_at: now, ..fact };
        expired.push(old.clone());
        believed.push(fact.clone());
        return Statement { fact, expired, believed };
    }

    let is_functional = new.functional;
    let mut fact = Fact {
        id: new_id(),
        subject: new.subject,
        predicate: new.predicate,
        object: new.object,
        valid_at,
        invalid_at: new.invalid_at,
        created_at: now,
        expired_at: None,
        functional: is_functional,
        source: new.source,
        metadata: new.metadata,
    };
    for old in facts.iter().filter(|old| is_functional && holds(old, valid_at)) {
        // What was believed stays on the other axis; what is believed from now on ends in time.
        expired.push(old.clone());
        if old.valid_at < valid_at {
            believed.push(Fact { id: new_id(), invalid_at: Some(valid_at), created_at: now, ..old.clone() });
        }
        let is_later =
            |mark: &&Fact| mark.object == old.object && mark.valid_at > valid_at && holds(old, mark.valid_at);
        if let Some(mark) = marks.iter().filter(is_later).min_by_key(|mark| mark.valid_at) {
            expired.push(mark.clone());
            believed.push(Fact { id: new_id(), valid_at: mark.valid_at, created_at: now, ..old.clone() });
            end_by(&mut fact, mark.valid_at);
        }
    }
    let comes_after = |old: &&Fact| old.valid_at > valid_at && (is_functional || old.object == fact.object);
    match facts.iter().find(comes_after) {
        // It was known from later on: it is one fact that began earlier.
        Some(next) if next.object == fact.object && fact.invalid_at.is_none() => {
            expired.push(next.clone());
            if is_functional {
                believed.push(mark(next, next.valid_at, now));
            }
            let known = Fact { source: next.source.clone(), metadata: next.metadata.clone(), ..fact.clone() };
            fact = with_news(Fact { invalid_at: next.invalid_at, ..known }, fact.source, fact.metadata);
        }
        // News of the past: it was true until what is known of later.
        Some(next) if is_functional => end_by(&mut fact, next.valid_at),
        _ => {}
    }
    believed.push(fact.clone());
    Statement { fact, expired, believed }
}

/// Returns whether a fact is true in the world at a time.
fn holds(fact: &Fact, at: Timestamp) -> bool {
    fact.valid_at <= at && fact.invalid_at.is_none_or(|end| end > at)
}

/// Returns whether a fact says only that another one was stated again.
fn is_mark(fact: &Fact) -> bool {
    fact.invalid_at == Some(fact.valid_at)
}

/// Makes what keeps that a fact was stated again.
fn mark(fact: &Fact, at: Timestamp, now: Timestamp) -> Fact {
    Fact { id: new_id(), valid_at: at, invalid_at: Some(at), created_at: now, ..fact.clone() }
}

/// Ends a fact at a time, unless it ends before.
fn end_by(fact: &mut Fact, at: Timestamp) {
    fact.invalid_at = Some(fact.invalid_at.map_or(at, |end| end.min(at)));
}

/// Adds what else was said with a fact to what is known of it.
fn with_news(mut fact: Fact, source: Option<String>, metadata: Map<String, Value>) -> Fact {
    fact.source = source.or(fact.source);
    fact.metadata.extend(metadata);
    fact
}

/// Makes the identifier of a fact.
pub(in crate::memory) fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn year(year: i16) -> Timestamp {
        format!("{year}-01-01T00:00:00Z").parse().unwrap()
    }

    /// States one after the other, and returns what is believed then.
    fn told(statements: impl IntoIterator<Item = NewFact>) -> Vec<Fact> {
        let mut believed: Vec<Fact> = Vec::new();
        for (number, new) in statements.into_iter().enumerate() {
            let Statement { expired, believed: new, .. } = state(believed.clone(), new, year(2100 + number as i16));
            believed.retain(|fact| expired.iter().all(|old| old.id != fact.id));
            believed.extend(new);
            believed.sort_by_key(|fact| fact.valid_at);
        }
        believed
    }

    fn objects(believed: &[Fact], at: Timestamp) -> Vec<&str> {
        believed.iter().filter(|fact| holds(fact, at)).map(|fact| fact.object.as_str()).collect()
    }

    fn said(object: &str, since: i16) -> NewFact {
        NewFact::new("ada", "lives_in", object).valid_at(year(since))
    }

    #[test]
    fn what_is_stated_again_stays_one_fact_until_other_news_end_it() {
        let twice = told([said("a", 2020).functional(), said("a", 2023).functional()]);
        let since: Vec<_> = twice.iter().filter(|fact| holds(fact, year(2024))).map(|fact| fact.valid_at).collect();
        assert_eq!(since, [year(2020)]);
        let news = [said("a", 2020), said("a", 2023), said("b", 2021), said("c", 2022)];
        let believed = told(news.map(NewFact::functional));
        let each: Vec<_> = (2020..2025).map(|at| objects(&believed, year(at))).collect();
        assert_eq!(each, [["a"], ["b"], ["c"], ["a"], ["a"]]);
    }

    #[test]
    fn what_else_is_said_of_a_fact_is_added_to_it() {
        let known = said("a", 2020).functional();
        let more = NewFact { source: Some("s".into()), valid_at: None, ..known.clone() };
        let more = NewFact { metadata: [("new".to_owned(), 1.into())].into_iter().collect(), ..more };
        let believed = told([known.clone(), more, known]);
        assert_eq!(believed.len(), 1, "{believed:?}");
        assert_eq!((believed[0].source.as_deref(), &believed[0].metadata["new"]), (Some("s"), &1.into()));
        assert_eq!(believed[0].valid_at, year(2020));
    }

    proptest! {
        #[test]
        fn the_order_of_statements_does_not_matter(
            objects_by_year in prop::collection::btree_map(2000_i16..2012, prop::sample::select(vec!["a", "b", "c"]), 1..9),
            order in any::<prop::sample::Index>(),
            is_functional in any::<bool>(),
        ) {
            let mut left: Vec<NewFact> = objects_by_year.iter().map(|(since, object)| said(object, *since)).collect();
            // Any order: each number chooses one of what is left.
            let mut number = order.index(usize::MAX);
            let mut statements = Vec::new();
            while !left.is_empty() {
                let new = left.swap_remove(number % left.len());
                number /= left.len() + 1;
                statements.push(if is_functional { new.functional() } else { new });
            }
            let believed = told(statements);
            for at in 2000..2012 {
                let mut known: Vec<&str> = objects_by_year.range(..=at).map(|(_, object)| *object).collect();
                if is_functional {
                    known = known.pop().into_iter().collect();
                }
                known.sort_unstable();
                known.dedup();
                let mut found = objects(&believed, year(at));
                found.sort_unstable();
                prop_assert_eq!(found, known, "as of {}", at);
            }
        }
    }
}
