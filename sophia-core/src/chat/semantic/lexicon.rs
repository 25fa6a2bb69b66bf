//! What is known of words: which say nothing, which deny, which mean the same, which the opposite.
//!
//! English, with the negators of other languages. What is not known here counts as a word that matters, so a question in
//! another language is served only where its words are the same.

use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

/// Words that stand in questions of any meaning: articles, pronouns, auxiliaries, and the frame in which one asks.
const FUNCTION: &str = "a an the this that these those some any there here i me my mine we us our you your its it he him \
    his she her they them their one am is are was were be been being do does did doing done have has had having will \
    would shall can could may might must should to of in on at by for with as from into about through within during via \
    and or but so if then than because since while also too either both who whom whose what which when where why how \
    tell explain describe show give let know help want wanted wanting need needed like wonder wondering curious try \
    trying hope idea question ask asking possible possibly able way get got getting go going make sure up out off im \
    ive id ill theres whats hows s d ll ve re m u ur very quite much";

/// Words of politeness and hesitation, which say nothing anywhere.
const FILLERS: &str = "please kindly hi hello hey thanks thank ok okay well just really actually basically simply exactly \
    quickly currently um uh er erm hmm oh ah yeah hiya greetings cheers regards pls plz thx sorry";

/// Joining words that other languages write as well: they tell nothing of the language.
const SHARED: &str = "a ah am an as at also by d do er go had he her him i in is it just ll m me no of oh on or re s so sure to u um up us ve \
    via was we well will";

/// Words that turn a statement around.
const NEGATORS: &str = "not no never without none nobody nothing neither nor nowhere nicht kein keine keinen keiner nie \
    ohne ne pas jamais sans nunca jamás sin ningún ninguna non mai senza não sem nem niet geen nooit zonder ikke inte aldrig \
    nie bez не нет без никогда 不 没 没有 ない";
/// Negators that deny in the same way: `I have no key` is `I do not have a key`.
const PLAIN_NEGATORS: [&str; 4] = ["not", "no", "none", "non"];

/// Words that say how far a statement reaches: without one of them it is another statement.
const LIMITERS: &str = "only solely exclusively merely purely even except excepting excluding unless until till besides instead \
    otherwise all every each always sometimes most mostly almost nearly partly hardly barely scarcely rarely seldom too";

/// Verbs that turn the verb after them around.
const REVERSERS: &str = "stop avoid quit cease prevent refuse fail lack forget skip undo reverse revoke pretend";

/// Words about words: the one after them may be spoken of.
const ABOUT_WORDS: &str = "mean meaning word phrase expression keyword spell spelling pronounce pronunciation say write synonym \
    antonym opposite rhyme plural singular tense conjugate conjugation define definition translate translation etymology \
    verb noun adverb adjective preposition pronoun conjunction syllable sentence use usage";

/// Days, months and moments: they are dates.
const MOMENTS: &str = "monday tuesday wednesday thursday friday saturday sunday january february march april june july august \
    september october november december today tomorrow yesterday tonight weekend weekday";

/// What is counted in.
const UNITS: &str = "kg kilogram gram g mg pound lb ounce oz ton tonne km kilometre kilometer metre meter cm mm mile foot feet \
    inch yard acre litre liter ml gallon pint cup celsius fahrenheit kelvin second minute hour day week month year decade \
    century hourly daily weekly monthly yearly annually percent % $ £ € usd eur gbp dollar euro cent penny yen am pm bit byte kb \
    mb gb tb watt kilowatt volt calorie mph kph bitcoin rupee";

const SMALL_NUMBERS: &str = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen \
    sixteen seventeen eighteen nineteen";
const TENS: &str = "twenty thirty forty fifty sixty seventy eighty ninety";

/// Endings of English words, and what they are replaced by; the first that fits counts.
const ENDINGS: [(&str, &str); 12] = [
    ("ies", "y"),
    ("sses", "ss"),
    ("ing", ""),
    ("edly", ""),
    ("ied", "y"),
    ("ed", ""),
    ("ations", "at"),
    ("ation", "at"),
    ("es", ""),
    ("s", ""),
    ("ly", ""),
    ("ment", ""),
];
/// Shortest stem that an ending leaves, in bytes.
const MIN_STEM: usize = 3;

/// Which side of which pair of opposites a word stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Side {
    pub pair: u16,
    pub right: bool,
}

/// What kind of word it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It carries meaning.
    Content,
    /// It joins the others.
    Function,
    /// It says nothing.
    Filler,
    /// It denies.
    Negator,
    /// It says how far a statement reaches.
    Limiter,
}

#[derive(Debug)]
struct Lexicon {
    function: HashSet<&'static str>,
    fillers: HashSet<&'static str>,
    shared: HashSet<&'static str>,
    negators: HashSet<&'static str>,
    limiters: HashSet<&'static str>,
    reversers: HashSet<String>,
    about_words: HashSet<String>,
    moments: HashSet<&'static str>,
    units: HashSet<String>,
    numbers: HashMap<&'static str, u32>,
    /// Groups of words that mean the same, by stem.
    synonyms: HashMap<String, Vec<u16>>,
    /// Sides of opposites, by stem.
    opposites: HashMap<String, Vec<Side>>,
}

static LEXICON: LazyLock<Lexicon> = LazyLock::new(Lexicon::read);

impl Lexicon {
    fn read() -> Lexicon {
        let set = |words: &'static str| words.split_whitespace().collect();
        let small = SMALL_NUMBERS.split_whitespace().zip(0..);
        let tens = TENS.split_whitespace().zip((20..).step_by(10));
        let mut synonyms: HashMap<String, Vec<u16>> = HashMap::new();
        for (group, line) in lines(include_str!("synonyms.txt")) {
            line.split_whitespace().for_each(|word| synonyms.entry(stem(word)).or_default().push(group));
        }
        let mut opposites: HashMap<String, Vec<Side>> = HashMap::new();
        for (pair, line) in lines(include_str!("opposites.txt")) {
            for (right, side) in line.split('/').enumerate() {
                let side_of = Side { pair, right: right == 1 };
                side.split_whitespace().for_each(|word| opposites.entry(stem(word)).or_default().push(side_of));
            }
        }
        Lexicon {
            function: set(FUNCTION),
            fillers: set(FILLERS),
            shared: set(SHARED),
            negators: set(NEGATORS),
            limiters: set(LIMITERS),
            reversers: REVERSERS.split_whitespace().map(stem).collect(),
            about_words: ABOUT_WORDS.split_whitespace().map(stem).collect(),
            moments: set(MOMENTS),
            units: UNITS.split_whitespace().map(stem).collect(),
            numbers: small.chain(tens).collect(),
            synonyms,
            opposites,
        }
    }
}

fn lines(text: &'static str) -> impl Iterator<Item = (u16, &'static str)> {
    (0..).zip(text.lines().filter(|line| !line.starts_with('#')))
}

/// Returns what kind of word it is.
pub(super) fn kind(word: &str) -> Kind {
    if LEXICON.negators.contains(word) {
        Kind::Negator
    } else if LEXICON.limiters.contains(word) {
        Kind::Limiter
    } else if LEXICON.fillers.contains(word) {
        Kind::Filler
    } else if LEXICON.function.contains(word) {
        Kind::Function
    } else {
        Kind::Content
    }
}

/// Returns the word that denies or limits in the same way.
pub(super) fn plain_negator(word: &str) -> &str {
    if PLAIN_NEGATORS.contains(&word) { PLAIN_NEGATORS[0] } else { word }
}

/// Returns whether it turns the verb after it around.
pub(super) fn is_reverser(stem: &str) -> bool {
    LEXICON.reversers.contains(stem)
}

/// Returns whether it is a word about words.
pub(super) fn is_about_words(stem: &str) -> bool {
    LEXICON.about_words.contains(stem)
}

/// Returns whether a joining word is of English only.
pub(super) fn is_english_only(word: &str) -> bool {
    !LEXICON.shared.contains(word)
}

/// Returns the day, month or moment that a word names, also where it names several.
pub(super) fn moment(word: &str) -> Option<&str> {
    [word, word.strip_suffix('s').unwrap_or(word)].into_iter().find(|word| LEXICON.moments.contains(word))
}

/// Returns whether it is what something is counted in.
pub(super) fn is_unit(stem: &str) -> bool {
    LEXICON.units.contains(stem)
}

/// Returns the number that a word spells. `one` is more often a pronoun.
pub(super) fn number(word: &str) -> Option<u32> {
    LEXICON.numbers.get(word).copied().filter(|number| *number != 1)
}

/// Returns whether anything is known of a stem.
pub(super) fn knows(stem: &str) -> bool {
    LEXICON.synonyms.contains_key(stem) || LEXICON.opposites.contains_key(stem)
}

/// Returns whether two stems can stand for each other, also in the same degree: `fastest` and `quickest`.
pub(super) fn are_synonyms(a: &str, b: &str) -> bool {
    let share_group = |a: &str, b: &str| match (LEXICON.synonyms.get(a), LEXICON.synonyms.get(b)) {
        (Some(a), Some(b)) => a.iter().any(|group| b.contains(group)),
        _ => false,
    };
    share_group(a, b)
        || ["er", "est"].iter().any(|degree| match (a.strip_suffix(degree), b.strip_suffix(degree)) {
            (Some(a), Some(b)) => share_group(&stem(a), &stem(b)),
            _ => false,
        })
}

/// Returns the sides of opposites on which a stem stands.
pub(super) fn sides(stem: &str) -> &'static [Side] {
    LEXICON.opposites.get(stem).map_or(&[], Vec::as_slice)
}

/// Returns what the forms of a word have in common, roughly.
pub(super) fn stem(word: &str) -> String {
    let mut stem = word.to_owned();
    if !word.is_ascii() || word.len() <= MIN_STEM || LEXICON_FREE_OF_ENDINGS.contains(&word) || !is_alphabetic(word) {
        return stem;
    }
    if !word.ends_with("ss")
        && let Some((ending, replacement)) =
            ENDINGS.iter().find(|(ending, _)| word.ends_with(ending) && word.len() - ending.len() >= MIN_STEM)
    {
        stem.truncate(word.len() - ending.len());
        stem.push_str(replacement);
    }
    let bytes = stem.as_bytes();
    if let [.., before, last] = bytes
        && bytes.len() > MIN_STEM
        && before == last
        && !matches!(last, b's' | b'z')
    {
        stem.pop();
    }
    if stem.len() > MIN_STEM && stem.ends_with('e') {
        stem.pop();
    }
    stem
}

/// Words that end like a form of another and are none.
const LEXICON_FREE_OF_ENDINGS: [&str; 12] = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "news",
    "this",
    "apply",
    "comply",
    "imply",
    "multiply",
    "reply",
    "supply",
];

fn is_alphabetic(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_word_share_a_stem_and_other_words_do_not() {
        for (a, b) in [
            ("cancel", "cancelling"),
            ("invoice", "invoices"),
            ("copy", "copies"),
            ("plan", "planned"),
            ("refund", "refunded"),
            ("apply", "applying"),
        ] {
            assert_eq!(stem(a), stem(b), "{a} {b}");
        }
        for (a, b) in [("form", "from"), ("class", "clash"), ("bill", "bell"), ("safe", "unsafe")] {
            assert_ne!(stem(a), stem(b), "{a} {b}");
        }
    }

    #[test]
    fn words_of_one_group_are_synonyms_and_groups_do_not_run_together() {
        assert!(are_synonyms(&stem("purchase"), &stem("buying")));
        assert!(are_synonyms(&stem("film"), &stem("movie")));
        assert!(!are_synonyms(&stem("buy"), &stem("sell")));
        assert!(!are_synonyms("unknown", "unknown"));
    }

    #[test]
    fn no_two_synonyms_are_opposites() {
        for (word, groups) in &LEXICON.synonyms {
            for (other, others) in &LEXICON.synonyms {
                let alike = groups.iter().any(|group| others.contains(group));
                let opposed =
                    sides(word).iter().any(|a| sides(other).iter().any(|b| a.pair == b.pair && a.right != b.right));
                assert!(!(alike && opposed), "{word} and {other}");
            }
        }
    }
}
