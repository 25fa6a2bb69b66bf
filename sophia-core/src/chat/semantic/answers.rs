//! Whether two answers say the same: where the labels come from.
//!
//! No model is asked. What is not plainly the same or plainly another is unknown, and an unknown answer never counts as
//! right.

use super::{
    reading::{Reading, WordRef},
    verdict::are_same,
};

/// Answers longer than this are compared by their beginnings, in bytes.
const MAX_BYTES: usize = 4 << 10;
/// Share of the shorter answer's words that the other must hold to say the same.
const SAME: f64 = 0.7;
/// Below this share they say different things.
const OTHER: f64 = 0.35;

/// How two answers relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sameness {
    Same,
    Other,
    Unknown,
}

/// Compares what a kept answer says with what a new one says.
pub(super) fn compare(kept: &str, new: &str) -> Sameness {
    if kept.trim() == new.trim() {
        return Sameness::Same;
    }
    let read = |text: &str| Reading::of(&text[..text.floor_char_boundary(MAX_BYTES)]);
    let (kept, new) = (read(kept), read(new));
    if let (Some(a), Some(b)) = (consent(&kept), consent(&new))
        && a != b
    {
        return Sameness::Other;
    }
    let holds = |all: &[Box<str>], some: &[Box<str>]| some.iter().all(|number| all.contains(number));
    let numbers_agree = holds(&kept.numbers, &new.numbers) || holds(&new.numbers, &kept.numbers);
    let share = covered(&kept, &new);
    match share {
        _ if share < OTHER => Sameness::Other,
        _ if !numbers_agree && share < SAME => Sameness::Other,
        _ if share >= SAME && numbers_agree && kept.negations().len() == new.negations().len() => Sameness::Same,
        _ => Sameness::Unknown,
    }
}

/// Returns whether it begins with a yes or a no.
fn consent(reading: &Reading) -> Option<bool> {
    match reading.words().next()?.text {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// Returns the share of the words of the shorter one that the longer one holds.
fn covered(a: &Reading, b: &Reading) -> f64 {
    let (a, b): (Vec<WordRef<'_>>, Vec<WordRef<'_>>) = (a.content().collect(), b.content().collect());
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    if short.is_empty() {
        return 0.0;
    }
    let held = short.iter().filter(|word| long.iter().any(|other| are_same(**word, *other))).count();
    held as f64 / short.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_say_the_same_in_other_words_are_the_same() {
        let kept = "The museum opens at 9 and closes at 17.";
        for new in [kept, "It opens at 9, and closes at 17.", "The museum opens at 9."] {
            assert_eq!(compare(kept, new), Sameness::Same, "{new}");
        }
    }

    #[test]
    fn answers_that_say_other_things_are_not() {
        for (kept, new) in [
            ("Yes, you can eat it raw.", "No, you cannot eat it raw."),
            ("The museum opens at 9.", "Tickets cost 12 euro for adults."),
            ("It costs 40 dollars.", "A refund takes 14 days."),
        ] {
            assert_eq!(compare(kept, new), Sameness::Other, "{kept} | {new}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_unknown() {
        assert_eq!(
            compare("It is safe to drink water there.", "It is not safe to drink water there."),
            Sameness::Unknown
        );
        assert_eq!(compare("The fee is 40 dollars a month.", "The fee is 45 dollars a month."), Sameness::Unknown);
    }
}
