//! Who does what to whom, as far as the order of words says.
//!
//! "Do cats eat mice?" and "Do mice eat cats?" have the same words. Two words that both questions share and that stand the
//! other way round are a reversal, unless the order says nothing: a phrase with its preposition has moved, a compound was
//! taken apart ("guest password", "password for guests"), two sides of an `and` or `or` were exchanged.

use super::{
    lexicon::Kind,
    reading::{Reading, WordRef},
    verdict::are_same,
};

pub(super) const DETERMINERS: [&str; 16] = [
    "a", "an", "the", "my", "your", "our", "his", "her", "its", "their", "this", "that", "these", "those", "some",
    "any",
];
const PREPOSITIONS: [&str; 36] = [
    "to", "of", "in", "on", "at", "by", "for", "with", "as", "from", "into", "about", "through", "within", "during",
    "via", "than", "near", "after", "before", "over", "under", "between", "around", "outside", "inside", "behind",
    "beside", "above", "below", "against", "until", "since", "across", "along", "without",
];
/// Prepositions that tie a word to another as a compound does, whichever of both acts.
const TYING: [&str; 7] = ["of", "for", "in", "on", "at", "under", "about"];
/// Those of them that say where something is.
const PLACING: [&str; 4] = ["in", "on", "at", "under"];
const BE: [&str; 7] = ["is", "are", "was", "were", "be", "been", "s"];
const HAVE: [&str; 4] = ["have", "has", "had", "got"];
const JOINING: [&str; 2] = ["and", "or"];
/// Adjectives that follow their noun as well as they precede it.
const POSTPOSED: [&str; 10] =
    ["open", "closed", "available", "active", "pending", "overdue", "due", "nearby", "online", "offline"];
/// Adverbs that stand anywhere.
const MOVABLE: [&str; 16] = [
    "now",
    "soon",
    "later",
    "already",
    "usually",
    "typically",
    "normally",
    "generally",
    "often",
    "sometimes",
    "recently",
    "lately",
    "still",
    "again",
    "first",
    "also",
];
/// What is asked for with `what` or `which`, and so stands in front.
const ASKED: [&str; 14] = [
    "time", "date", "day", "year", "month", "hour", "number", "price", "cost", "amount", "kind", "type", "sort", "way",
];

/// Joining verbs that can be what is done.
const ACTING: [&str; 11] = ["help", "know", "like", "want", "need", "give", "show", "tell", "ask", "let", "try"];

/// A word of meaning, and where it stands.
struct Placed<'a> {
    word: WordRef<'a>,
    at: usize,
    /// The preposition of its phrase, or nothing.
    preposition: &'a str,
}

/// The same word in both.
struct Pair<'a> {
    here: Placed<'a>,
    there: usize,
    there_preposition: &'a str,
}

impl<'a> Pair<'a> {
    /// Returns the preposition that the word has in both, which may be none.
    fn kept(&self) -> Option<&'a str> {
        (self.here.preposition == self.there_preposition).then_some(self.there_preposition)
    }
}

/// Returns whether two words that both share stand the other way round in one of them.
pub(super) fn is_reversed(a: &Reading, b: &Reading) -> bool {
    let (words_a, words_b): (Vec<_>, Vec<_>) = (a.words().collect(), b.words().collect());
    let pairs = pairs(&words_a, &words_b);
    pairs.iter().enumerate().any(|(index, first)| {
        pairs[index + 1..].iter().any(|second| {
            second.there < first.there
                && !has_moved(first, second)
                && !MOVABLE.contains(&first.here.word.text)
                && !MOVABLE.contains(&second.here.word.text)
                && !is_same_phrase(&words_a, first.here.at, second.here.at, &words_b, first.there, second.there)
                && !is_same_phrase(&words_b, second.there, first.there, &words_a, second.here.at, first.here.at)
                && !is_asked(&words_a, &words_b, first)
                && !is_asked(&words_a, &words_b, second)
        })
    })
}

/// Returns the words that both have, in the order of the first.
fn pairs<'a>(a: &[WordRef<'a>], b: &[WordRef<'a>]) -> Vec<Pair<'a>> {
    let mut theirs: Vec<_> = placed(b).into_iter().map(Some).collect();
    let mut pairs = Vec::new();
    for here in placed(a) {
        let is_it = |other: &Option<Placed<'_>>| other.as_ref().is_some_and(|other| are_same(here.word, other.word));
        if let Some(there) = theirs.iter_mut().find(|other| is_it(other)).and_then(Option::take) {
            pairs.push(Pair { here, there: there.at, there_preposition: there.preposition });
        }
    }
    pairs
}

/// Returns the words of meaning with the preposition that holds for each: up to a pronoun, an auxiliary or the next one.
fn placed<'a>(words: &[WordRef<'a>]) -> Vec<Placed<'a>> {
    let mut preposition = "";
    let mut placed = Vec::new();
    for (at, word) in words.iter().enumerate() {
        if PREPOSITIONS.contains(&word.text) {
            preposition = word.text;
        } else if word.kind == Kind::Content || ACTING.contains(&word.text) {
            if !word.is_counted() {
                placed.push(Placed { word: *word, at, preposition });
            }
        } else if at > 0 && words[at - 1].text == "to" {
            // The verb of `to get a visa`.
        } else if !DETERMINERS.contains(&word.text) && !JOINING.contains(&word.text) && word.text != "s" {
            preposition = "";
        }
    }
    placed
}

/// Returns whether one of both is in a phrase that is the same wherever it stands.
fn has_moved(first: &Pair<'_>, second: &Pair<'_>) -> bool {
    match (first.kept(), second.kept()) {
        (Some(first), Some(second)) => first != second,
        (Some(one), None) | (None, Some(one)) => !one.is_empty(),
        (None, None) => false,
    }
}

/// Returns whether `x … y` in one, and `y … x` in the other, are one phrase.
fn is_same_phrase(
    one: &[WordRef<'_>],
    x: usize,
    y: usize,
    other: &[WordRef<'_>],
    x_there: usize,
    y_there: usize,
) -> bool {
    let (between, there) = (&one[x + 1..y], &other[y_there + 1..x_there]);
    let is_determiner = |word: &WordRef<'_>| DETERMINERS.contains(&word.text);
    let joins = |words: &[WordRef<'_>]| {
        words.iter().any(|word| JOINING.contains(&word.text))
            && words.iter().all(|word| JOINING.contains(&word.text) || is_determiner(word))
    };
    if joins(between) && joins(there) {
        return true;
    }
    let is_be = |word: &WordRef<'_>| BE.contains(&word.text);
    let is_compound = between.iter().all(|word| word.kind == Kind::Content || word.text == "s");
    if is_compound && POSTPOSED.contains(&one[x].text) && there.iter().all(is_be)
        || POSTPOSED.contains(&one[y].text) && there.is_empty() && between.is_empty()
    {
        return true;
    }
    let ties = |words: &[&str]| {
        let is_plain =
            |word: &WordRef<'_>| word.kind == Kind::Content || is_determiner(word) || words.contains(&word.text);
        there.iter().filter(|word| words.contains(&word.text)).count() == 1 && there.iter().all(is_plain)
    };
    let has = |word: &WordRef<'_>| HAVE.contains(&word.text);
    let is_owner = between.iter().any(has)
        && between.iter().all(|word| has(word) || is_determiner(word) || word.kind == Kind::Content);
    // `what is covered under x` is `what x covers`; after a pronoun or an auxiliary, `y` is what somebody does, not `x`.
    let before = y_there.checked_sub(1).map(|before| &other[before]);
    match before {
        _ if is_owner => ties(&PLACING),
        Some(before) if is_be(before) => is_compound && ties(&PLACING),
        Some(before) if before.kind != Kind::Content && !is_determiner(before) && before.text != "it" => {
            is_compound && TYING.contains(&before.text) && ties(&TYING)
        }
        _ => is_compound && ties(&TYING),
    }
}

/// Returns whether it is what one of both asks for, and so stands in front there.
fn is_asked(a: &[WordRef<'_>], b: &[WordRef<'_>], pair: &Pair<'_>) -> bool {
    let asks = |words: &[WordRef<'_>], at: usize| at > 0 && ["what", "which"].contains(&words[at - 1].text);
    ASKED.contains(&pair.here.word.text) && (asks(a, pair.here.at) || asks(b, pair.there))
}
