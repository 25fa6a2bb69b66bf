//! Words that were probably meant: they share groups of three letters and differ by a letter or two.

use std::collections::HashSet;

/// Most words that one word of a question may stand for, beside itself.
const MAX_MEANT: usize = 8;
/// Letters from which one typo is tolerated, and two. In shorter words a letter is too much of the word.
const ONE_TYPO: usize = 4;
const TWO_TYPOS: usize = 8;

/// Returns the words of a vocabulary that a word may have been meant as, the nearest first; not the word itself.
pub(crate) fn meant<'v>(word: &str, vocabulary: impl Iterator<Item = &'v str>) -> Vec<String> {
    let letters = word.chars().count();
    let most = usize::from(letters >= ONE_TYPO) + usize::from(letters >= TWO_TYPOS);
    // A number with another digit is another number.
    if most == 0 || word.contains(|c: char| c.is_ascii_digit()) {
        return Vec::new();
    }
    let groups = groups(word);
    let mut near: Vec<(usize, &str)> = vocabulary
        .filter(|other| *other != word && other.chars().count().abs_diff(letters) <= most)
        .filter(|other| self::groups(other).iter().any(|group| groups.contains(group)))
        // Two letters that changed places are one typo.
        .map(|other| (strsim::osa_distance(word, other), other))
        .filter(|(distance, _)| *distance <= most)
        .collect();
    near.sort_unstable();
    near.truncate(MAX_MEANT);
    near.into_iter().map(|(_, other)| other.to_owned()).collect()
}

/// Returns the groups of three letters of a word, with its beginning and its end.
fn groups(word: &str) -> HashSet<[char; 3]> {
    let letters: Vec<char> = "  ".chars().chain(word.chars()).chain(" ".chars()).collect();
    letters.windows(3).map(|group| [group[0], group[1], group[2]]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(word: &str) -> Vec<String> {
        meant(word, ["quarterli", "report", "resort", "reports", "x86", "cat", "car", "receive", "東京"].into_iter())
    }

    #[test]
    fn a_letter_or_two_may_differ_in_words_that_are_long_enough() {
        assert_eq!(of("qarterli"), ["quarterli"]);
        assert_eq!(of("qartrli"), Vec::<String>::new(), "one in a word of seven letters");
        assert_eq!(of("reprot"), ["report"]);
        assert_eq!(of("report"), ["reports", "resort"]);
        assert_eq!(of("recieve"), ["receive"]);
        assert_eq!(of("cut"), Vec::<String>::new());
        assert_eq!(of("x85"), Vec::<String>::new());
    }
}
