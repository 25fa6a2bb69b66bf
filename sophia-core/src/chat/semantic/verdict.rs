//! Whether two questions ask the same, word by word.
//!
//! An embedding places a question near its opposite, and near the same question about another city. So what differs is
//! looked at: a difference that changes the answer is a [`Veto`], and how much of both has a counterpart in the other is
//! their likeness.

use std::collections::HashMap;

use super::{
    lexicon::{self, Kind},
    order::{DETERMINERS, is_reversed},
    reading::{Reading, WordRef},
};

/// Shortest word in which a slip of the pen is recognised, in bytes.
const MIN_TYPO: usize = 4;
/// Shortest word in which a wrong letter is one, in bytes: among shorter ones, most are other words or names.
const MIN_WRONG_LETTER: usize = 8;

/// Why the answer to one question does not serve another, however alike they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Veto {
    /// The conversations before the last message differ.
    Conversation,
    /// Numbers, dates or identifiers differ.
    Numbers,
    /// They count in different units.
    Units,
    /// Operators or other signs differ.
    Signs,
    /// One denies or limits what the other does not.
    Negation,
    /// One says the opposite of a word of the other.
    Opposites,
    /// One asks when and the other where, or the like.
    Asked,
    /// What comes from where, or which of two is which, differs.
    Direction,
    /// They are about different people.
    Person,
    /// One names what the other does not.
    Names,
    /// Each says something that the other does not, or one does in a language whose words are not known.
    Words,
}

/// Says how alike two questions are, 0..1, or why one answer cannot serve both.
pub(super) fn judge(a: &Reading, b: &Reading) -> Result<f64, Veto> {
    if a.numbers != b.numbers {
        return Err(Veto::Numbers);
    }
    if units(a) != units(b) {
        return Err(Veto::Units);
    }
    if a.signs != b.signs {
        return Err(Veto::Signs);
    }
    if !deny_alike(a, b) {
        return Err(Veto::Negation);
    }
    // Of another language nothing is known but its words, and any word or its ending may be the one that matters.
    if !(a.is_english() && b.is_english()) && !a.words().map(|word| word.text).eq(b.words().map(|word| word.text)) {
        return Err(Veto::Words);
    }
    if are_opposed(a, b) {
        return Err(Veto::Opposites);
    }
    if ask_differently(a, b) {
        return Err(Veto::Asked);
    }
    if are_turned_round(a, b) || is_reversed(a, b) {
        return Err(Veto::Direction);
    }
    if !are_of_the_same(a, b) {
        return Err(Veto::Person);
    }
    let (only_a, only_b) = (unmatched(a, b), unmatched(b, a));
    if !only_a.is_empty() && !only_b.is_empty() {
        return Err(Veto::Words);
    }
    let added = only_a.len() + only_b.len();
    if only_a.iter().chain(&only_b).any(|word| lexicon::is_reverser(word.stem)) {
        return Err(Veto::Negation);
    }
    if only_a.iter().chain(&only_b).any(|word| word.is_name || !is_known(word.text)) {
        return Err(Veto::Names);
    }
    let all = a.content().count() + b.content().count();
    Ok(if all == 0 { 0.0 } else { 1.0 - added as f64 / all as f64 })
}

/// Returns whether both deny and limit the same, as often, and in the same places.
fn deny_alike(a: &Reading, b: &Reading) -> bool {
    let (a, b) = (a.negations(), b.negations());
    a.len() == b.len()
        && a.iter().zip(&b).all(|((one, of), (other, its))| {
            one == other
                && match (of, its) {
                    (Some(of), Some(its)) => are_same(*of, *its),
                    (None, None) => true,
                    _ => false,
                }
        })
}

fn units(reading: &Reading) -> Vec<&str> {
    let mut units: Vec<_> = reading.words().map(|word| word.stem).filter(|stem| lexicon::is_unit(stem)).collect();
    units.sort_unstable();
    units.dedup();
    units
}

/// Returns whether one stands on one side of a pair of opposites, and the other on the other side only.
fn are_opposed(a: &Reading, b: &Reading) -> bool {
    let sides = |reading: &Reading| {
        let mut sides: HashMap<u16, (bool, bool)> = HashMap::new();
        for side in reading.words().flat_map(|word| lexicon::sides(word.stem)) {
            let (left, right) = sides.entry(side.pair).or_default();
            *(if side.right { right } else { left }) = true;
        }
        sides
    };
    let (a, b) = (sides(a), sides(b));
    a.iter().any(|(pair, a)| {
        b.get(pair).is_some_and(|b| matches!((a, b), ((true, false), (false, true)) | ((false, true), (true, false))))
    })
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    When,
    Where,
    Why,
    Who,
    HowMany,
    HowLong,
    HowOften,
    HowFar,
    HowOld,
    How,
    /// What and which: they ask for anything.
    Open,
    /// Yes or no.
    Whether,
    /// No word says.
    Unsaid,
}

impl Asked {
    fn of(reading: &Reading) -> Asked {
        const AUXILIARIES: [&str; 25] = [
            "is", "are", "am", "was", "were", "do", "does", "did", "have", "has", "had", "can", "could", "may", "might",
            "must", "should", "will", "would", "shall", "need", "im", "ive", "id", "ill",
        ];
        /// Words before a question inside of another: `can you tell me when`.
        const TELLING: [&str; 14] = [
            "me", "us", "know", "ask", "asking", "wonder", "wondering", "explain", "show", "tell", "say", "see", "out",
            "idea",
        ];
        let words: Vec<_> = reading.words().filter(|word| word.kind != Kind::Filler).map(|word| word.text).collect();
        let asks_whether = matches!(&*words, [first, ..] if AUXILIARIES.contains(first));
        // `Can you give me …` asks for what follows.
        let is_request = matches!(&*words, ["can" | "could" | "would" | "will", "you", ..]);
        let is_asked = |at: &usize| *at == 0 || !asks_whether || TELLING.contains(&words[at - 1]);
        let found = (0..words.len()).filter(is_asked).find_map(|at| {
            Some(match (words[at], words.get(at + 1).copied().unwrap_or_default()) {
                ("how", "long") => Asked::HowLong,
                ("how", "much" | "many") => Asked::HowMany,
                ("how", "often") => Asked::HowOften,
                ("how", "far") => Asked::HowFar,
                ("how", "old") => Asked::HowOld,
                ("how", "come") | ("what", "for") | ("why", _) => Asked::Why,
                ("when", _) => Asked::When,
                ("where", _) => Asked::Where,
                ("who" | "whose" | "whom", _) => Asked::Who,
                _ => return None,
            })
        });
        let has = |some: &[&str]| (0..words.len()).filter(is_asked).any(|at| some.contains(&words[at]));
        match found {
            Some(found) => found,
            None if has(&["how"]) => Asked::How,
            None if has(&["what", "which"]) => Asked::Open,
            None if asks_whether && !is_request => Asked::Whether,
            None => Asked::Unsaid,
        }
    }

    /// Returns the words by which an open question asks for the same.
    fn nouns(self) -> &'static [&'static str] {
        match self {
            Asked::When => &["time", "date", "day", "year", "month", "hour", "deadline"],
            Asked::Where => &["place", "location", "address", "spot", "city", "country"],
            Asked::Why => &["reason", "cause", "purpose"],
            Asked::Who => &["person", "name", "people"],
            Asked::HowMany => &["number", "amount", "quantity", "price", "cost", "fee", "total", "charge"],
            Asked::HowLong => &["duration", "length", "time", "long"],
            Asked::HowOften => &["frequency", "often"],
            Asked::HowFar => &["distance"],
            Asked::HowOld => &["age"],
            Asked::How => &["way", "method", "step", "process", "procedure", "approach", "technique", "instruction"],
            Asked::Open | Asked::Whether | Asked::Unsaid => &[],
        }
    }
}

fn ask_differently(a: &Reading, b: &Reading) -> bool {
    let names = |reading: &Reading, asked: Asked| {
        let stems = reading.stems();
        asked.nouns().iter().any(|noun| stems.contains(lexicon::stem(noun).as_str()))
    };
    let differ = match (Asked::of(a), Asked::of(b)) {
        (x, y) if x == y => false,
        (Asked::Open | Asked::Whether, Asked::Unsaid) | (Asked::Unsaid, Asked::Open | Asked::Whether) => false,
        (Asked::Open | Asked::Unsaid, asked) => !names(a, asked),
        (asked, Asked::Open | Asked::Unsaid) => !names(b, asked),
        _ => true,
    };
    differ || are_of_other_modes(a, b)
}

/// Returns whether one asks what may be and the other what must be, or one what was and the other what is or will be, or one
/// for two things and the other for one of them.
fn are_of_other_modes(a: &Reading, b: &Reading) -> bool {
    const MODES: [(&[&str], &[&str]); 3] = [
        (&["can", "could", "may", "might", "able", "possible", "allowed", "permitted"], &["must", "need", "ought", "required"]),
        (&["did", "was", "were"], &["do", "does", "is", "are", "am", "will", "shall"]),
        (&["and"], &["or"]),
    ];
    let says = |reading: &Reading, some: &[&str]| reading.words().any(|word| some.contains(&word.text));
    MODES.iter().any(|(one, other)| {
        let sides = |reading: &Reading| (says(reading, one), says(reading, other));
        matches!((sides(a), sides(b)), ((true, false), (false, true)) | ((false, true), (true, false)))
    })
}

/// Returns whether the same word has opposite prepositions, or two words have changed places around one.
fn are_turned_round(a: &Reading, b: &Reading) -> bool {
    const DIRECTED: [&str; 10] = ["to", "into", "from", "than", "by", "before", "after", "over", "under", "against"];
    const OPPOSED: [(&[&str], &[&str]); 6] = [
        (&["to", "into", "toward", "towards"], &["from"]),
        (&["before"], &["after"]),
        (&["within", "during", "by", "in", "on", "at", "since"], &["before", "after"]),
        (&["over", "above"], &["under", "below"]),
        (&["in"], &["out"]),
        (&["for"], &["against"]),
    ];
    let (own, other) = (particles(a), particles(b));
    if own.iter().any(|(word, particle)| other.get(word).is_some_and(|other| other != particle)) {
        return true;
    }
    let (a, b) = (prepositions(a), prepositions(b));
    let common: Vec<_> = a.iter().filter_map(|(word, own)| Some((*own, *b.get(word)?))).collect();
    let opposed = |(x, y): &(&str, &str)| {
        OPPOSED
            .iter()
            .any(|(one, other)| (one.contains(x) && other.contains(y)) || (other.contains(x) && one.contains(y)))
    };
    let exchanged = |(x, y): &(&str, &str)| {
        DIRECTED.contains(x) && x != y && common.iter().any(|(own, other)| other == x && own != x)
    };
    common.iter().any(|pair| opposed(pair) || exchanged(pair))
}

/// Returns the sides of `log in` and `log out`, `turn on` and `turn it off`, by the verb.
fn particles(reading: &Reading) -> HashMap<&str, bool> {
    let words: Vec<_> = reading.words().collect();
    let mut found = HashMap::new();
    for (at, verb) in words.iter().enumerate().filter(|(_, word)| word.kind == Kind::Content) {
        let side = words[at + 1..].iter().take(2).find_map(|word| match word.text {
            "in" | "on" | "up" => Some(true),
            "out" | "off" | "down" => Some(false),
            _ => None,
        });
        if let Some(side) = side {
            found.entry(verb.stem).or_insert(side);
        }
    }
    found
}

/// Returns the word before each word of meaning, articles and the like aside.
fn prepositions(reading: &Reading) -> HashMap<&str, &str> {
    let mut found = HashMap::new();
    let mut before = "";
    for word in reading.words() {
        if word.kind == Kind::Content {
            found.entry(word.stem).or_insert(before);
        }
        if !DETERMINERS.contains(&word.text) {
            before = word.text;
        }
    }
    found
}

/// Returns whether the pronouns of both mean the same people: `he` is not `they`, nor is `I owe you` `you owe me`.
fn are_of_the_same(a: &Reading, b: &Reading) -> bool {
    let says = |reading: &Reading, words: &[&str]| reading.words().any(|word| words.contains(&word.text));
    let whose = |reading: &Reading| (says(reading, &["my", "mine", "our", "ours"]), says(reading, &["your", "yours"]));
    let is_exchanged = |(a, b): ((bool, bool), (bool, bool))| a != b && a.0 != a.1 && b.0 != b.1;
    if others(a) != others(b) || is_exchanged((whose(a), whose(b))) {
        return false;
    }
    let (a, b) = (persons(a), persons(b));
    a.iter().all(|(place, person)| b.get(place).is_none_or(|other| person == other))
}

/// Returns the others that are spoken of, in the order of their first mention.
fn others(reading: &Reading) -> Vec<&'static str> {
    let mut others = Vec::new();
    for other in reading.words().filter_map(|word| person(word.text)).filter(|other| matches!(*other, "he" | "she" | "they")) {
        if !others.contains(&other) {
            others.push(other);
        }
    }
    others
}

/// Returns whom a pronoun means. One speaks for oneself and for one's own.
fn person(pronoun: &str) -> Option<&'static str> {
    Some(match pronoun {
        "i" | "me" | "my" | "mine" | "we" | "us" | "our" | "ours" => "i",
        "you" | "your" | "yours" => "you",
        "he" | "him" | "his" | "himself" => "he",
        "she" | "her" | "hers" | "herself" => "she",
        "they" | "them" | "their" | "theirs" | "themselves" => "they",
        "it" | "its" => "it",
        _ => return None,
    })
}

/// Returns whom the pronouns around a word mean: whose it is, for whom it is, or who does it to whom.
fn persons(reading: &Reading) -> HashMap<(&str, Place), [&'static str; 2]> {
    let words: Vec<_> = reading.words().collect();
    let is_owner = |word: &str| ["my", "our", "your", "his", "her", "their", "its"].contains(&word);
    let is_object = |word: &str| ["me", "us", "you", "him", "her", "them", "it"].contains(&word);
    let mut found = HashMap::new();
    for at in 1..words.len() {
        let (before, word) = (words[at - 1], words[at]);
        let (one, other) = (person(before.text), person(word.text));
        if let Some(one) = one.filter(|_| word.kind == Kind::Content && is_owner(before.text)) {
            found.entry((word.stem, Place::Owner)).or_insert([one, ""]);
        }
        if let Some(other) = other.filter(|_| is_preposition(before.text) && is_object(word.text)) {
            found.entry((before.text, Place::Object)).or_insert([other, ""]);
        }
        let next = words.get(at + 1).filter(|next| is_object(next.text)).and_then(|next| person(next.text));
        if let (Some(one), Some(next), Kind::Content) = (one.filter(|_| !is_owner(before.text)), next, word.kind) {
            found.entry((word.stem, Place::Subject)).or_insert([one, next]);
        }
    }
    found
}

/// What a pronoun is to a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Owner,
    Subject,
    Object,
}

fn is_preposition(word: &str) -> bool {
    ["to", "for", "from", "with", "by", "at", "on", "about", "of", "than"].contains(&word)
}

/// Returns the words of `a` that have no counterpart in `b`.
fn unmatched<'a>(a: &'a Reading, b: &'a Reading) -> Vec<WordRef<'a>> {
    let (own, theirs): (Vec<_>, Vec<_>) = (a.words().collect(), b.words().collect());
    let (own_pairs, their_pairs) = (joined(&own), joined(&theirs));
    let is_in_pair = |at: usize| {
        let around = [at.checked_sub(1), Some(at)].into_iter().flatten().filter_map(|at| own_pairs.get(at));
        around.into_iter().any(|pair| theirs.iter().any(|word| is_written_so(pair, word)))
            || their_pairs.iter().any(|pair| is_written_so(pair, &own[at]))
    };
    (0..own.len())
        // Numbers and moments were compared in their order.
        .filter(|&at| own[at].kind == Kind::Content && !own[at].is_counted())
        .filter(|&at| !theirs.iter().any(|word| is_counterpart(own[at], *word)) && !is_in_pair(at))
        .map(|at| own[at])
        .collect()
}

/// Returns each word with the next one, as one word.
fn joined(words: &[WordRef<'_>]) -> Vec<String> {
    words.windows(2).map(|pair| pair.iter().map(|word| word.text).collect()).collect()
}

/// Returns whether a pair is that word, or says the same: `log in` and `login`, `sign up` and `register`.
fn is_written_so(pair: &str, word: &WordRef<'_>) -> bool {
    pair == word.text || (!word.is_name && lexicon::are_synonyms(pair, word.stem))
}

/// A word may stand for one that joins: `receive` for `get`.
fn is_counterpart(word: WordRef<'_>, other: WordRef<'_>) -> bool {
    match other.kind {
        Kind::Content => are_same(word, other),
        Kind::Function => !word.is_name && lexicon::are_synonyms(word.stem, other.stem),
        _ => false,
    }
}

/// Returns whether two words are forms, synonyms or slips of one. Of a name there is one form only.
pub(super) fn are_same(a: WordRef<'_>, b: WordRef<'_>) -> bool {
    if a.is_name || b.is_name {
        return a.text == b.text;
    }
    a.stem == b.stem
        || lexicon::are_synonyms(a.stem, b.stem)
        || lexicon::are_verb_and_noun(a.stem, b.stem)
        || is_slip(a.text, b.text)
}

/// Returns whether one is a known word and the other is that with one letter doubled, missing or wrong, or two exchanged.
///
/// Two known words are two words, and two unknown ones two names. So are those that differ in how they begin or end.
fn is_slip(a: &str, b: &str) -> bool {
    if a.len() < MIN_TYPO || b.len() < MIN_TYPO || a.bytes().chain(b.bytes()).any(|byte| !byte.is_ascii_alphabetic()) {
        return false;
    }
    let (x, y) = (a.as_bytes(), b.as_bytes());
    let wrong = x.iter().zip(y).filter(|(x, y)| x != y).count();
    let is_wrong_letter = a.len() == b.len() && wrong == 1;
    let is_exchange = a.len() == b.len() && wrong == 2;
    let is_doubled = |long: &[u8]| matches!(long, [.., before, last] if before == last);
    let ends_alike = x.last() == y.last() || is_exchange || is_doubled(if a.len() > b.len() { x } else { y });
    x[0] == y[0]
        && ends_alike
        && !(is_wrong_letter && a.len() < MIN_WRONG_LETTER)
        && is_one_edit(x, y)
        && is_word(a) != is_word(b)
}

fn is_one_edit(a: &[u8], b: &[u8]) -> bool {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let same = short.iter().zip(long).take_while(|(a, b)| a == b).count();
    let (short, long) = (&short[same..], &long[same..]);
    match long.len() - short.len() {
        0 => match (short, long) {
            ([x, y, rest @ ..], [z, w, other @ ..]) if x == w && y == z && rest == other => true,
            _ => short.get(1..) == long.get(1..),
        },
        1 => short == &long[1..],
        _ => false,
    }
}

fn is_word(text: &str) -> bool {
    is_known(text) || lexicon::knows(&lexicon::stem(text))
}

/// Returns whether it is a word of the embedder's vocabulary as it stands.
#[cfg(feature = "static-embedder")]
fn is_known(word: &str) -> bool {
    let embedder = crate::memory::embed::StaticEmbedder::bundled();
    let tokenizer = embedder.tokenizer();
    match tokenizer.encode(word).as_slice() {
        [piece] => *piece != tokenizer.unknown(),
        _ => false,
    }
}

#[cfg(not(feature = "static-embedder"))]
fn is_known(_: &str) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(a: &str, b: &str) -> Result<f64, Veto> {
        let (a, b) = (Reading::of(a), Reading::of(b));
        let verdict = judge(&a, &b);
        assert_eq!(verdict, judge(&b, &a), "it does not matter which was asked first");
        verdict
    }

    fn likeness(a: &str, b: &str) -> f64 {
        judged(a, b).unwrap_or_else(|veto| panic!("{a} | {b}: {veto:?}"))
    }

    fn veto(a: &str, b: &str) -> Veto {
        judged(a, b).err().unwrap_or_else(|| panic!("{a} | {b}"))
    }

    #[test]
    fn the_same_question_in_other_words_is_alike() {
        for (a, b) in [
            ("How do I reset my router?", "how do i reset my router"),
            ("How do I reset my router?", "Hi, please tell me how I can reset my router. Thanks!"),
            ("Where can I buy stamps?", "where could I purchase stamps"),
            ("What is the capital of Peru?", "The capital of Peru is what?"),
            ("What time does the museum open?", "When does the museum open?"),
            ("How do I log in to the portal?", "How to login to the portal"),
            ("Can I cancel my reservation?", "Is it possible to cancel my booking?"),
            ("What does photosynthesis mean?", "what does photosyntesis mean"),
            ("What's a good film about trains?", "What is a good movie about trains?"),
        ] {
            assert!(likeness(a, b) > 0.7, "{a} | {b}: {}", likeness(a, b));
        }
    }

    #[test]
    fn a_word_more_makes_them_less_alike() {
        let short = likeness("How do I clean shoes?", "How do I clean white shoes?");
        let long = likeness(
            "How do I clean shoes with a soft brush and vinegar?",
            "How do I clean white shoes with a soft brush and vinegar?",
        );
        assert!(short < 0.85 && long > 0.85 && long < 1.0, "{short} {long}");
    }

    #[test]
    fn what_changes_the_answer_is_a_veto() {
        use Veto::*;
        for (a, b, why) in [
            ("Translate invoice 311", "Translate invoice 131", Numbers),
            ("What happened on 3 June 1969?", "What happened on 6 March 1969?", Numbers),
            ("Is the bank open on Monday?", "Is the bank open on Tuesday?", Numbers),
            ("What is 5 kg in ounces?", "What is 5 lb in ounces?", Units),
            ("Can I eat this raw?", "Can't I eat this raw?", Negation),
            ("Which drugs are legal there?", "Which drugs are not legal there?", Negation),
            ("Is the tower safe to climb?", "Is the tower dangerous to climb?", Opposites),
            ("How do I increase the volume?", "How do I decrease the volume?", Opposites),
            ("How do I install the driver?", "How do I uninstall the driver?", Opposites),
            ("When was the bridge built?", "Why was the bridge built?", Asked),
            ("Where is the office?", "What is the office?", Asked),
            ("Trains from Bern to Genoa", "Trains from Genoa to Bern", Direction),
            ("Is iron heavier than lead?", "Is lead heavier than iron?", Direction),
            ("What is his salary?", "What is her salary?", Person),
            ("Weather tomorrow in general", "Weather tomorrow in general in Oslo", Names),
            ("How do I bake bread?", "How do I bake fish?", Words),
            ("Opening hours of the library", "Opening hours of the pool", Words),
            ("Ist der Turm sicher?", "Ist der Turm wirklich sicher?", Words),
            ("Ist der Turm sicher?", "Ist der Turm nicht sicher?", Negation),
            ("¿Es seguro el agua?", "¿No es seguro el agua?", Negation),
        ] {
            assert_eq!(veto(a, b), why, "{a} | {b}");
        }
    }

    #[test]
    fn two_words_of_the_dictionary_are_no_slips_of_each_other() {
        assert!(is_slip("receipt", "reciept") && is_slip("calender", "calendar") && is_slip("adress", "address"));
        assert!(!is_slip("form", "from") && !is_slip("bride", "bridge") && !is_slip("cat", "car"));
    }
}
