//! The stems of English words, so that "reports" finds "reported".
//!
//! M. F. Porter, "An algorithm for suffix stripping" (Program 14, 1980). A change of what this returns is a change of the
//! data file: the words of records are kept as stems.

/// Shortest word that has an ending to take off.
const MIN_LETTERS: usize = 3;

/// Takes the ending off a word in lower case; what is not plain English letters is left as it is.
pub(crate) fn stem(word: &mut String) {
    if word.len() < MIN_LETTERS || !word.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return;
    }
    step_1a(word);
    step_1b(word);
    step_1c(word);
    replace_ending(word, STEP_2, 0);
    replace_ending(word, STEP_3, 0);
    step_4(word);
    step_5(word);
}

/// Endings with what takes their place, where enough of a word stands before them. Of two that fit, the longer comes first.
type Endings = &'static [(&'static str, &'static str)];

const STEP_2: Endings = &[
    ("ational", "ate"),
    ("ization", "ize"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("tional", "tion"),
    ("biliti", "ble"),
    ("entli", "ent"),
    ("ousli", "ous"),
    ("ation", "ate"),
    ("alism", "al"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("abli", "able"),
    ("alli", "al"),
    ("ator", "ate"),
    ("eli", "e"),
];
const STEP_3: Endings =
    &[("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ness", ""), ("ful", "")];
const STEP_4: &[&str] = &[
    "ement", "ance", "ence", "able", "ible", "ment", "ant", "ent", "ion", "ism", "ate", "iti", "ous", "ive", "ize",
    "al", "er", "ic", "ou",
];

fn step_1a(word: &mut String) {
    if word.ends_with("sses") || word.ends_with("ies") {
        word.truncate(word.len() - 2);
    } else if word.ends_with('s') && !word.ends_with("ss") {
        word.pop();
    }
}

fn step_1b(word: &mut String) {
    if let Some(rest) = word.strip_suffix("eed") {
        if measure(rest) > 0 {
            word.pop();
        }
        return;
    }
    let Some(rest) = ["ed", "ing"].iter().find_map(|ending| word.strip_suffix(ending)) else { return };
    if !has_vowel(rest) {
        return;
    }
    word.truncate(rest.len());
    if ["at", "bl", "iz"].iter().any(|ending| word.ends_with(ending)) {
        word.push('e');
    } else if ends_double(word) && !word.ends_with(['l', 's', 'z']) {
        word.pop();
    } else if measure(word) == 1 && ends_cvc(word) {
        word.push('e');
    }
}

fn step_1c(word: &mut String) {
    if word.strip_suffix('y').is_some_and(has_vowel) {
        word.pop();
        word.push('i');
    }
}

fn replace_ending(word: &mut String, endings: Endings, min_measure: usize) {
    let Some((ending, by)) = endings.iter().find(|(ending, _)| word.ends_with(ending)) else { return };
    let rest = word.len() - ending.len();
    if measure(&word[..rest]) > min_measure {
        word.truncate(rest);
        word.push_str(by);
    }
}

fn step_4(word: &mut String) {
    let Some(ending) = STEP_4.iter().find(|ending| word.ends_with(**ending)) else { return };
    let rest = &word[..word.len() - ending.len()];
    if measure(rest) > 1 && (*ending != "ion" || rest.ends_with(['s', 't'])) {
        word.truncate(rest.len());
    }
}

fn step_5(word: &mut String) {
    if let Some(rest) = word.strip_suffix('e') {
        let measure = measure(rest);
        if measure > 1 || (measure == 1 && !ends_cvc(rest)) {
            word.pop();
        }
    }
    if word.ends_with("ll") && measure(word) > 1 {
        word.pop();
    }
}

/// Returns whether the letter at `place` is a consonant: `y` is one at the beginning and after a vowel.
fn is_consonant(word: &[u8], place: usize) -> bool {
    match word[place] {
        b'a' | b'e' | b'i' | b'o' | b'u' => false,
        b'y' => place == 0 || !is_consonant(word, place - 1),
        _ => true,
    }
}

/// Counts how often a run of vowels is followed by a consonant: Porter's m.
fn measure(word: &str) -> usize {
    let letters = word.as_bytes();
    let mut after_vowel = false;
    let mut count = 0;
    for place in 0..letters.len() {
        let consonant = is_consonant(letters, place);
        count += usize::from(consonant && after_vowel);
        after_vowel = !consonant;
    }
    count
}

fn has_vowel(word: &str) -> bool {
    (0..word.len()).any(|place| !is_consonant(word.as_bytes(), place))
}

fn ends_double(word: &str) -> bool {
    let letters = word.as_bytes();
    let last = letters.len().wrapping_sub(1);
    letters.len() >= 2 && letters[last] == letters[last - 1] && is_consonant(letters, last)
}

/// Returns whether it ends in consonant, vowel, consonant, the last none of w, x, y.
fn ends_cvc(word: &str) -> bool {
    let letters = word.as_bytes();
    let Some(last) = letters.len().checked_sub(1).filter(|last| *last >= 2) else { return false };
    is_consonant(letters, last)
        && !is_consonant(letters, last - 1)
        && is_consonant(letters, last - 2)
        && !matches!(letters[last], b'w' | b'x' | b'y')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stemmed(word: &str) -> String {
        let mut word = word.to_owned();
        stem(&mut word);
        word
    }

    #[test]
    fn the_examples_of_the_paper_hold() {
        let pairs = [
            ("caresses", "caress"),
            ("ponies", "poni"),
            ("cats", "cat"),
            ("feed", "feed"),
            ("agreed", "agre"),
            ("plastered", "plaster"),
            ("bled", "bled"),
            ("motoring", "motor"),
            ("sing", "sing"),
            ("conflated", "conflat"),
            ("troubled", "troubl"),
            ("sized", "size"),
            ("hopping", "hop"),
            ("falling", "fall"),
            ("hissing", "hiss"),
            ("failing", "fail"),
            ("filing", "file"),
            ("happy", "happi"),
            ("sky", "sky"),
            ("relational", "relat"),
            ("conditional", "condit"),
            ("rational", "ration"),
            ("digitizer", "digit"),
            ("operator", "oper"),
            ("sensibiliti", "sensibl"),
            ("triplicate", "triplic"),
            ("formative", "form"),
            ("electrical", "electr"),
            ("hopefulness", "hope"),
            ("goodness", "good"),
            ("revival", "reviv"),
            ("replacement", "replac"),
            ("adoption", "adopt"),
            ("probate", "probat"),
            ("rate", "rate"),
            ("cease", "ceas"),
            ("controll", "control"),
            ("roll", "roll"),
        ];
        for (word, expected) in pairs {
            assert_eq!(stemmed(word), expected, "{word}");
        }
    }

    #[test]
    fn what_is_no_english_word_is_left_alone() {
        for word in ["naïves", "東京", "x86ing", "is", ""] {
            assert_eq!(stemmed(word), word);
        }
    }

    proptest! {
        #[test]
        fn no_word_becomes_empty_or_longer_by_more_than_a_letter(word in "[a-z]{1,24}") {
            let stemmed = stemmed(&word);
            prop_assert!(!stemmed.is_empty() && stemmed.len() <= word.len() + 1, "{word} became {stemmed}");
        }
    }
}
