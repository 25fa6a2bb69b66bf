//! Whether two questions ask the same, word by word.
//!
//! An embedding places a question near its opposite, and near the same question about another city. So what differs is
//! looked at: a difference that changes the answer is a [`Veto`], and how much of both has a counterpart in the other is
//! their likeness.

use std::collections::HashMap;

use super::{
    lexicon::{self, Kind},
    order::{DETERMINERS, is_reversed},
    reading::{Reading, Style, WordRef},
};

/// Shortest word in which a slip of the pen is recognised, in bytes.
const MIN_TYPO: usize = 4;
/// Shortest word in which a wrong letter is one, in bytes: among shorter ones, most are other words or names.
const MIN_WRONG_LETTER: usize = 8;

/// Words of meaning in both questions together from which on any word more is a veto: a likeness is a share of the words, and
/// of many words, one is next to nothing, though it may be the one that says what to do with all the others.
const MANY_WORDS: usize = 10;

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
    /// One says the same and more, in many words.
    Added,
}

/// Says how alike two questions are, 0..1, or why one answer cannot serve both.
pub(super) fn judge(a: &Reading, b: &Reading) -> Result<f64, Veto> {
    if a.numbers != b.numbers {
        return Err(Veto::Numbers);
    }
    let asked = (asked_by_noun(a, b), asked_by_noun(b, a));
    if units(a, asked.0) != units(b, asked.1) {
        return Err(Veto::Units);
    }
    if a.signs != b.signs {
        return Err(Veto::Signs);
    }
    if !deny_alike(a, b) {
        return Err(Veto::Negation);
    }
    // Of another language nothing is known but its words, and any word or its ending may be the one that matters.
    let is_known_language = a.is_english() && b.is_english();
    if !is_known_language && a.words().map(|word| word.text).ne(b.words().map(|word| word.text)) {
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
    let (light_a, light_b) = (light_verbs(a), light_verbs(b));
    if !light_a.is_empty() && !light_b.is_empty() && light_a.iter().all(|verb| !light_b.contains(verb)) {
        return Err(Veto::Words);
    }
    let (words_a, words_b): (Vec<_>, Vec<_>) = (a.words().collect(), b.words().collect());
    let (only_a, only_b) = (unmatched(&words_a, &words_b), unmatched(&words_b, &words_a));
    if !only_a.is_empty() && !only_b.is_empty() {
        return Err(Veto::Words);
    }
    let (long, mut added, asked) = match only_b.is_empty() {
        true => (words_a, only_a, asked.0),
        false => (words_b, only_b, asked.1),
    };
    if added.iter().any(|&at| lexicon::is_reverser(long[at].stem)) {
        return Err(Veto::Negation);
    }
    if added.iter().map(|&at| long[at]).any(|word| word.is_name() || word.text.len() == 1 || !is_known(word.text)) {
        return Err(Veto::Names);
    }
    let all = a.content().count() + b.content().count();
    added.retain(|&at| asked != Some(at) && !is_usual(long[at]) && !is_small_talk(&long, at));
    if !added.is_empty() && all >= MANY_WORDS {
        return Err(Veto::Added);
    }
    Ok(if all == 0 { 0.0 } else { 1.0 - added.len() as f64 / all as f64 })
}

/// Returns whether both deny and limit the same, as often, and in the same places.
fn deny_alike(a: &Reading, b: &Reading) -> bool {
    let (a, b) = (a.negations(), b.negations());
    a.len() == b.len()
        && a.iter().zip(&b).all(|((one, of), (other, its))| {
            one == other
                && match (of, its) {
                    (Some((of, nth)), Some((its, other))) => nth == other && are_same(*of, *its),
                    (None, None) => true,
                    _ => false,
                }
        })
}

/// Returns the units, without the word that says what is asked for.
fn units(reading: &Reading, asked: Option<usize>) -> Vec<&str> {
    let words = reading.words().enumerate().filter(|(at, _)| asked != Some(*at));
    let mut units: Vec<_> = words.map(|(_, word)| word.stem).filter(|stem| lexicon::is_unit(stem)).collect();
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
        const AUXILIARIES: [&str; 21] = [
            "is", "are", "am", "was", "were", "do", "does", "did", "have", "has", "had", "can", "could", "may",
            "might", "must", "should", "will", "would", "shall", "need",
        ];
        /// Words before a question inside of another: `can you tell me when`.
        const TELLING: [&str; 14] = [
            "me",
            "us",
            "know",
            "ask",
            "asking",
            "wonder",
            "wondering",
            "explain",
            "show",
            "tell",
            "say",
            "see",
            "out",
            "idea",
        ];
        let words: Vec<_> = reading.words().filter(|word| word.kind != Kind::Filler).map(|word| word.text).collect();
        let asks_whether = matches!(&*words, [first, ..] if AUXILIARIES.contains(first));
        // `Can you give me …` asks for what follows.
        let is_request = matches!(&*words, ["can" | "could" | "would" | "will", "you", ..]);
        // In `can I fly when I am ill`, nobody asks when.
        let is_asked = |at: &usize| {
            let next = words.get(at + 1).is_some_and(|next| AUXILIARIES.contains(next));
            *at == 0 || !asks_whether || next || TELLING.contains(&words[at - 1])
        };
        let found = (0..words.len()).filter(is_asked).find_map(|at| {
            Some(match (words[at], words.get(at + 1).copied().unwrap_or_default()) {
                ("how", "long") => Asked::HowLong,
                ("how", "many") if words.get(at + 2).is_some_and(|unit| is_time(unit)) => Asked::HowLong,
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

/// Returns the word of `a` that asks what `b` asks by its question word: the `hours` of `opening hours`, beside `when`.
fn asked_by_noun(a: &Reading, b: &Reading) -> Option<usize> {
    let (own, asked) = (Asked::of(a), Asked::of(b));
    let words: Vec<_> = a.words().collect();
    let counted = |at: usize| at > 1 && words[at - 2].text == "how" && words[at - 1].text == "many";
    let is_asked = |at: &usize| match (own, asked) {
        (Asked::HowLong, Asked::HowLong) => counted(*at) && is_time(words[*at].text),
        // `Which day` asks for less than `when`; `what time` does not.
        (Asked::Open | Asked::Unsaid, _) => {
            let is_narrow = *at > 0 && ["what", "which"].contains(&words[at - 1].text) && words[*at].text != "time";
            // The `number of orders` says how many, and the `order number` does not.
            let is_of = words.get(at + 1).is_some_and(|next| ["of", "for", "to"].contains(&next.text));
            let word = words[*at].text;
            let is_noun = [word, word.strip_suffix('s').unwrap_or(word)].iter().any(|one| asked.nouns().contains(one));
            is_noun && !is_narrow && (is_of || asked == Asked::When)
        }
        _ => false,
    };
    let mut found = (0..words.len()).filter(is_asked);
    // Of several, one says more.
    found.next().filter(|_| found.next().is_none())
}

/// Returns whether time is counted in it.
fn is_time(word: &str) -> bool {
    let stem = lexicon::stem(word);
    ["second", "minute", "hour", "day", "week", "month", "year"].contains(&stem.as_str())
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
    // `When and where` asks for more than `when`.
    let all = |reading: &Reading| {
        ["when", "where", "why", "who", "whose", "whom"].map(|asked| reading.words().any(|word| word.text == asked))
    };
    let (own, other) = (all(a), all(b));
    differ || (own != other && own.contains(&true) && other.contains(&true)) || are_of_other_modes(a, b)
}

/// Returns whether one asks what may be and the other what must be, or one what was and the other what is or will be, or one
/// for two things and the other for one of them.
fn are_of_other_modes(a: &Reading, b: &Reading) -> bool {
    const MODES: [(&[&str], &[&str]); 4] = [
        (
            &["can", "could", "may", "might", "able", "possible", "allowed", "permitted"],
            &["must", "need", "ought", "required"],
        ),
        (&["did", "was", "were"], &["do", "does", "is", "are", "am", "will", "shall"]),
        (&["and"], &["or"]),
        (&["if", "whether"], &["because", "although", "though"]),
    ];
    let says = |reading: &Reading, some: &[&str]| reading.words().any(|word| some.contains(&word.text));
    MODES.iter().any(|(one, other)| {
        let sides = |reading: &Reading| (says(reading, one), says(reading, other));
        matches!((sides(a), sides(b)), ((true, false), (false, true)) | ((false, true), (true, false)))
    })
}

/// Returns whether the same word has another preposition or particle, or two words have changed places around one.
fn are_turned_round(a: &Reading, b: &Reading) -> bool {
    const DIRECTED: [&str; 10] = ["to", "into", "from", "than", "by", "before", "after", "over", "under", "against"];
    /// Those of one line can stand for each other.
    const MEANINGS: [&[&str]; 11] = [
        &["to", "into", "toward", "towards", "for"],
        &["from"],
        &["with"],
        &["by", "via", "through"],
        &["as"],
        &["about"],
        &["before"],
        &["after"],
        &["over", "above"],
        &["under", "below"],
        &["against"],
    ];
    /// What these mean depends on the word; but none of them is like those that say where to or from, or when not.
    const VAGUE: [&str; 8] = ["in", "on", "at", "of", "within", "during", "since", "until"];
    const NEVER_VAGUE: [&str; 8] = ["to", "from", "before", "after", "over", "above", "under", "below"];
    if has_other_particles(a, b) || has_other_particles(b, a) {
        return true;
    }
    let (a, b) = (prepositions(a), prepositions(b));
    let common: Vec<_> = a.iter().filter_map(|(word, own)| Some((*own, *b.get(word)?))).collect();
    let meaning = |word: &str| MEANINGS.iter().position(|meaning| meaning.contains(&word));
    let differ = |(x, y): &(&str, &str)| match (meaning(x), meaning(y)) {
        (Some(one), Some(other)) => one != other,
        (Some(_), None) => NEVER_VAGUE.contains(x) && VAGUE.contains(y),
        (None, Some(_)) => NEVER_VAGUE.contains(y) && VAGUE.contains(x),
        (None, None) => false,
    };
    let exchanged = |(x, y): &(&str, &str)| {
        DIRECTED.contains(x) && x != y && common.iter().any(|(own, other)| other == x && own != x)
    };
    common.iter().any(|pair| differ(pair) || exchanged(pair))
}

/// Returns whether a verb of `a` goes on as it does not in `b`: `log out` is not `log in`, nor `pay off` `pay`.
fn has_other_particles(a: &Reading, b: &Reading) -> bool {
    let theirs = particles(b);
    particles(a).iter().any(|pair| !theirs.contains(pair) && b.words().any(|word| word.stem == pair.0))
}

/// Joining verbs that go with particles.
const LIGHT: [&str; 8] = ["get", "got", "getting", "go", "going", "make", "give", "try"];

/// Returns the verbs with a particle that changes what they mean.
fn particles(reading: &Reading) -> Vec<(&str, &str)> {
    let words: Vec<_> = reading.words().collect();
    let particle = |at: usize| {
        let after = words[at + 1..].iter().take(2).take_while(|word| word.kind != Kind::Content);
        after.map(|word| word.text).find(|text| ["up", "out", "off", "down"].contains(text))
    };
    let is_verb = |word: &WordRef<'_>| word.kind == Kind::Content || LIGHT.contains(&word.text);
    let verbs = (0..words.len()).filter(|&at| is_verb(&words[at]));
    verbs.filter_map(|at| Some((words[at].stem, particle(at)?))).collect()
}

/// Returns the word before each word of meaning and each pronoun, articles and the like aside.
fn prepositions(reading: &Reading) -> HashMap<&str, &str> {
    let words: Vec<_> = reading.words().collect();
    let mut found = HashMap::new();
    let mut before = "";
    for (at, word) in words.iter().enumerate() {
        let is_pronoun = match word.text {
            "him" | "them" | "me" | "us" | "you" => true,
            "her" => words.get(at + 1).is_none_or(|next| next.kind != Kind::Content),
            _ => false,
        };
        if word.kind == Kind::Content || is_pronoun {
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
    for other in
        reading.words().filter_map(|word| person(word.text)).filter(|other| matches!(*other, "he" | "she" | "they"))
    {
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

/// Returns the joining verbs that have an object and so say what is done: to need a key is not to make one.
fn light_verbs(reading: &Reading) -> Vec<&str> {
    let words: Vec<_> = reading.words().collect();
    let takes = |next: &WordRef<'_>| next.kind == Kind::Content || DETERMINERS.contains(&next.text);
    let verbs = words.windows(2).enumerate().filter(|(_, pair)| takes(&pair[1])).filter_map(|(at, pair)| {
        let before = |steps: usize| at.checked_sub(steps).map_or("", |at| words[at].text);
        Some(match pair[0].text {
            // To ask for something, one can have it or get it.
            "have" | "has" | "had" if ["can", "could", "may"].contains(&before(2)) => "get",
            "have" | "has" | "had" | "got" => "have",
            "get" | "getting" => "get",
            "need" | "needed" => "need",
            "want" | "wanted" | "wanting" => "want",
            "like" if ["d", "would"].contains(&before(1)) => "want",
            "like" | "give" | "make" | "know" | "help" | "try" => pair[0].text,
            _ => return None,
        })
    });
    verbs.collect()
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

/// Returns whether it says that something is so as a rule, which a question asks anyway.
fn is_usual(word: WordRef<'_>) -> bool {
    word.text.ends_with("ly") && lexicon::are_synonyms(word.stem, "usual")
}

/// Returns whether a word is in a clause that greets or announces a question, or at the end thanks: `sorry to bother you, but`.
///
/// All of its words are of courtesy, for any other may be what the question is about: `sorry, burnt soup`.
fn is_small_talk(words: &[WordRef<'_>], at: usize) -> bool {
    const OPENING: &str = "hi hello hey hiya greetings morning afternoon evening sorry question";
    const CLOSING: &str = "thanks thank cheers regards";
    const COURTESY: &str = "advance again best bother day dear disturb dumb everybody everyone folks friend friends good guys \
        helping interrupt kind lot lots many quick silly stupid team";
    let start = words[..at].iter().rposition(|word| word.is_last).map_or(0, |last| last + 1);
    let end = words[at..].iter().position(|word| word.is_last).map_or(words.len(), |last| at + last + 1);
    let is_one_of = |words: &str, word: &WordRef<'_>| words.split_whitespace().any(|one| one == word.text);
    let is_courtesy = |word: &WordRef<'_>| match word.kind {
        Kind::Content => [OPENING, CLOSING, COURTESY].iter().any(|words| is_one_of(words, word)),
        kind => matches!(kind, Kind::Function | Kind::Filler),
    };
    let says = |some: &str| words[start..end].iter().any(|word| is_one_of(some, word));
    let opens = words[..end].iter().all(is_courtesy) && end < words.len() && (says(OPENING) || says(CLOSING));
    let closes = words[start..].iter().all(is_courtesy) && start > 0 && says(CLOSING);
    // A greeting may be what is to be translated.
    (opens || closes) && !words.iter().any(|word| lexicon::is_about_words(word.stem))
}

/// Returns where `own` has words without a counterpart in `theirs`, or says one more often.
fn unmatched(own: &[WordRef<'_>], theirs: &[WordRef<'_>]) -> Vec<usize> {
    let (own_pairs, their_pairs) = (pairs(own), pairs(theirs));
    let is_in_pair = |at: usize| {
        let around = || [at.checked_sub(1), Some(at)].into_iter().flatten().filter_map(|at| own_pairs.get(at));
        around().any(|pair| {
            theirs.iter().any(|word| pair.is(word)) || their_pairs.iter().any(|other| pair.says(&other.stem))
        }) || their_pairs.iter().any(|pair| pair.is(&own[at]))
    };
    let mut said: HashMap<&str, isize> = HashMap::new();
    for word in theirs.iter().filter(|word| word.kind == Kind::Content) {
        *said.entry(word.stem).or_default() += 1;
    }
    (0..own.len())
        // Numbers and moments were compared in their order.
        .filter(|&at| own[at].kind == Kind::Content && !own[at].is_counted())
        .filter(|&at| {
            // Of a text and what is asked about it, a word of both stands in the text anyway.
            let left = said.get_mut(own[at].stem).map_or(0, |left| {
                *left -= 1;
                *left
            });
            left < 0 || (!theirs.iter().any(|word| is_counterpart(own[at], *word)) && !is_in_pair(at))
        })
        .collect()
}

/// Two words in a row, written as one.
struct Joined {
    text: String,
    stem: String,
    is_known: bool,
}

fn pairs(words: &[WordRef<'_>]) -> Vec<Joined> {
    let texts = words.windows(2).map(|pair| pair.iter().map(|word| word.text).collect::<String>());
    texts
        .map(|text| (lexicon::stem(&text), text))
        .map(|(stem, text)| Joined { is_known: lexicon::knows(&stem), text, stem })
        .collect()
}

impl Joined {
    /// Returns whether it is that word, or says the same: `log in` and `login`, `sign up` and `register`.
    fn is(&self, word: &WordRef<'_>) -> bool {
        self.text == word.text || (!word.is_name() && self.says(word.stem))
    }

    fn says(&self, stem: &str) -> bool {
        self.is_known && lexicon::are_synonyms(&self.stem, stem)
    }
}

/// A word may stand for one that joins: `receive` for `get`.
fn is_counterpart(word: WordRef<'_>, other: WordRef<'_>) -> bool {
    match other.kind {
        Kind::Content => are_same(word, other),
        Kind::Function | Kind::Filler if word.is_mentioned() => word.text == other.text,
        Kind::Function => !word.is_name() && (word.stem == other.stem || lexicon::are_synonyms(word.stem, other.stem)),
        _ => false,
    }
}

/// Returns whether two words are forms, synonyms or slips of one. Of a name there is one form only, and a word that is
/// written small where names are large is none.
pub(super) fn are_same(a: WordRef<'_>, b: WordRef<'_>) -> bool {
    if matches!((a.style, b.style), (Style::Name, Style::Small) | (Style::Small, Style::Name)) {
        return false;
    }
    if a.is_name() || b.is_name() {
        let has_slips = |word: WordRef<'_>| word.style == Style::Mentioned || !word.is_name();
        return a.text == b.text || (has_slips(a) && has_slips(b) && is_slip(a.text, b.text));
    }
    a.stem == b.stem || lexicon::are_synonyms(a.stem, b.stem) || is_slip(a.text, b.text)
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
            ("What does temperature mean?", "what does temprature mean"),
            ("What's a good film about trains?", "What is a good movie about trains?"),
        ] {
            assert!(likeness(a, b) > 0.7, "{a} | {b}: {}", likeness(a, b));
        }
    }

    #[test]
    fn a_word_more_makes_them_less_alike() {
        for (a, b) in [
            ("Does the hotel have a pool?", "Is there a swimming pool at the hotel?"),
            ("Is there a pool at the hotel?", "Is there a swimming pool at the hotel?"),
        ] {
            assert!((0.75..0.9).contains(&likeness(a, b)), "{a} | {b}: {}", likeness(a, b));
        }
    }

    #[test]
    fn what_is_done_with_a_long_text_is_not_lost_in_it() {
        let text =
            "The harbour froze over in the cold spring, and the ferries waited there for the sun to break the ice. "
                .repeat(8);
        let ask = |before: &str, after: &str| format!("{before} {text} {after}");
        for (one, other) in [
            (ask("Summarise this:", ""), ask("Summarise this in verse:", "")),
            (ask("Translate this:", ""), ask("Translate this into Welsh:", "")),
            (ask("Translate this:", ""), ask("Translate this into welsh:", "")),
            (ask("Please give me a summary:", ""), ask("Can you make a brief summary for me?", "")),
            (ask("", "Is it correct?"), ask("", "Is its grammar correct?")),
            // Both words stand in the text as well.
            (
                ask("What happens in the harbour?", "In the evening, it thaws."),
                ask("What happens in the evening?", "In the evening, it thaws."),
            ),
        ] {
            assert!(judged(&one, &other).is_err(), "{one} | {other}");
        }
        assert!(likeness(&ask("Please summarise this:", ""), &ask("Summarise this:", "Thank you!")) > 0.99);
    }

    #[test]
    fn a_word_that_is_spoken_of_is_no_politeness() {
        for (a, b) in [
            ("Conjugate to have in the past", "Conjugate to be in the past"),
            ("Define hope", "Define want"),
            ("Is \"reciept\" spelled right?", "Is \"receipt\" spelled right?"),
            ("What is the plural of this?", "What is the plural of that?"),
            ("What does \"well, thanks\" mean?", "What does \"oh, thanks\" mean?"),
            ("Write a sentence with because", "Write a sentence with while"),
        ] {
            assert!(matches!(veto(a, b), Veto::Names | Veto::Words), "{a} | {b}: {:?}", veto(a, b));
        }
    }

    #[test]
    fn code_that_is_indented_in_another_way_is_other_code() {
        let fix = |code: &str| format!("What does this do?\n{code}");
        let kept = fix("if x:\n    a()\n    b()");
        assert_eq!(veto(&kept, &fix("if x:\n    a()\nb()")), Veto::Signs);
        assert_eq!(veto(&kept, &fix("while x:\n    a()\n    b()")), Veto::Signs);
        assert_eq!(likeness(&kept, &format!("Hello! {}\n\nThanks", fix("if x:\n  a()\n  b()"))), 1.0);
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
            ("What is the weather in general?", "What is the weather in general in Oslo?", Names),
            ("How do I bake bread?", "How do I bake fish?", Words),
            ("Opening hours of the library", "Opening hours of the pool", Words),
            ("Ist der Turm sicher?", "Ist der Turm wirklich sicher?", Words),
            ("Ist der Turm sicher?", "Ist der Turm nicht sicher?", Negation),
            ("¿Es seguro el agua?", "¿No es seguro el agua?", Negation),
        ] {
            assert_eq!(veto(a, b), why, "{a} | {b}");
        }
    }

    /// Returns the pairs of a table, each with the heading above it.
    fn table(text: &'static str) -> Vec<(&'static str, &'static str, &'static str)> {
        let mut heading = "";
        let mut pairs = Vec::new();
        for line in text.lines() {
            match (line.strip_prefix("# "), line.split_once(" | ")) {
                (Some(text), _) => heading = text,
                (None, Some((a, b))) => pairs.push((heading, a, b)),
                (None, None) => panic!("{line}"),
            }
        }
        pairs
    }

    #[test]
    fn whatever_tells_two_questions_apart_is_a_veto() {
        let pairs = table(include_str!("misses.txt"));
        let wrong: Vec<_> = pairs
            .iter()
            .filter_map(|(why, a, b)| {
                let veto = judged(a, b).err().map(Veto::name);
                (veto != Some(why)).then(|| format!("{a} | {b}: {veto:?} instead of {why}"))
            })
            .collect();
        assert!(pairs.len() > 200 && wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn questions_that_differ_in_nothing_that_matters_stay_alike() {
        let pairs = table(include_str!("hits.txt"));
        let wrong: Vec<_> = pairs
            .iter()
            .map(|(_, a, b)| (a, b, judged(a, b)))
            .filter(|(.., judged)| !judged.is_ok_and(|likeness| likeness >= 0.75))
            .collect();
        assert!(pairs.len() > 50 && wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn only_a_known_word_has_slips_and_a_name_has_none() {
        for (word, slip) in
            [("receipt", "reciept"), ("calendar", "calandar"), ("address", "adress"), ("cancel", "cancle")]
        {
            assert!(is_slip(word, slip) && is_slip(slip, word), "{word} {slip}");
        }
        for (a, b) in
            [("jsmith", "ksmith"), ("nginxa", "nginxb"), ("nginx", "nginxa"), ("mich", "dich"), ("marten", "marton")]
        {
            assert!(!is_slip(a, b), "{a} {b}");
        }
        assert!(!is_slip("form", "from") && !is_slip("bride", "bridge") && !is_slip("cat", "car"));
    }
}
