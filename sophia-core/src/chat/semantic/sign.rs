//! Operators and other signs: `C#` is not `C++`, nor `x > 5` `x < 5`.
//!
//! A sign counts together with what it touches, and one that stands alone together with both its neighbours. What is left out
//! is punctuation: what parts sentences, quotes, brackets of an aside, the hyphen between two words.

use std::ops::Range;

use super::reading::run;

/// What parts sentences and their parts.
const PUNCTUATION: &str = ".,;:!?'\"`()“”‘’«»„‚‹›¿¡—―•·…。、「」『』・،؟।-";
const OPENING: &str = "([{\"'`“‘«„‚‹=<>*/+,:;";
const QUOTES: &str = "\"'`“”‘’()";
/// What says nothing, wherever it stands.
const IGNORED: &str = "°©®™\u{ad}\u{200b}\u{200c}\u{200d}\u{200e}\u{200f}\u{feff}\u{fe0f}";
const OPERATORS: &str = "+-*/^=<>|&";
/// Words after which a sentence does not end, so that a full stop there is what is talked about.
const EXPECTING: [&str; 9] = ["a", "an", "the", "does", "do", "of", "with", "by", "between"];

/// Returns the sign that is commonly typed for another.
pub(super) fn plain(sign: char) -> char {
    match sign {
        '−' | '–' | '‒' | '‐' | '‑' => '-',
        '×' | '✕' | '∗' => '*',
        '÷' | '⁄' | '∕' => '/',
        _ => sign,
    }
}

/// Returns whether a negative number begins there.
pub(super) fn is_negative(text: &[char], at: usize) -> bool {
    text[at] == '-' && text.get(at + 1).is_some_and(char::is_ascii_digit) && opens(text, at)
}

/// Returns whether a word may begin there: after a space or an opening sign.
fn opens(text: &[char], at: usize) -> bool {
    at.checked_sub(1).is_none_or(|before| text[before].is_whitespace() || OPENING.contains(text[before]))
}

/// Returns all signs of a text, each with what it touches.
pub(super) fn of(text: &[char]) -> Vec<Box<str>> {
    let mut found = Vec::new();
    let mut brackets = Vec::new();
    let mut left = 0..0;
    let mut at = 0;
    while at < text.len() {
        if is_word(text[at]) || is_negative(text, at) {
            left = at..word_end(text, at);
            at = left.end;
            continue;
        }
        if is_blank(text[at]) {
            at += 1;
            continue;
        }
        let is_part = |at: usize| !is_word(text[at]) && !is_blank(text[at]) && !is_negative(text, at);
        let end = (at + 1..text.len()).find(|&at| !is_part(at)).unwrap_or(text.len());
        let place = Place { text, left: left.clone(), sign: at..end };
        found.extend(place.read());
        brackets.extend(place.brackets());
        at = end;
    }
    // Brackets group what is calculated, and are an aside elsewhere.
    if found.iter().any(|sign: &String| sign.contains(|c| OPERATORS.contains(c))) {
        found.append(&mut brackets);
    }
    found.extend(layout(text));
    found.into_iter().map(String::into_boxed_str).collect()
}

/// Returns how deep each line stands, and how it begins, where some stand deeper than others, as in code: a block ends where
/// its depth does. The first line counts for nothing, for it may begin amid a question.
fn layout(text: &[char]) -> Option<String> {
    let mut open: Vec<usize> = Vec::new();
    let lines = text.split(|c| *c == '\n').filter(|line| !line.iter().all(|c| is_blank(*c)));
    let mut lines: Vec<(usize, String)> = lines
        .skip(1)
        .map(|line| {
            let width = line.iter().take_while(|c| is_blank(**c)).count();
            open.retain(|outer| *outer < width);
            open.push(width);
            let word = line[width..].iter().take_while(|c| c.is_alphanumeric());
            (open.len(), word.flat_map(|c| c.to_lowercase()).collect())
        })
        .collect();
    let least = lines.iter().map(|(depth, _)| *depth).min()?;
    // Lines after the last deep one are like any text.
    lines.truncate(lines.iter().rposition(|(depth, _)| *depth > least)? + 1);
    let shown: Vec<_> = lines.iter().map(|(depth, word)| format!("{}{word}", depth - least)).collect();
    Some(format!("\n{}", shown.join(" ")))
}

/// Returns where something is quoted.
pub(super) fn quotes(text: &[char]) -> Vec<Range<usize>> {
    const PAIRS: [(char, &str); 10] = [
        ('"', "\""),
        ('\'', "'’"),
        ('`', "`"),
        ('“', "”"),
        ('„', "“”"),
        ('‘', "’'"),
        ('«', "»"),
        ('‹', "›"),
        ('「', "」"),
        ('『', "』"),
    ];
    let mut found = Vec::new();
    // Those that nothing closes any more are not looked for again, or a text of them would take long.
    let mut unclosed = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let pair = PAIRS.iter().find(|(open, _)| *open == text[at] && !unclosed.contains(open));
        let Some((open, close)) = pair.filter(|_| opens(text, at)) else {
            at += 1;
            continue;
        };
        let closes =
            |end: &usize| close.contains(text[*end]) && !text.get(end + 1).is_some_and(|next| next.is_alphanumeric());
        match (at + 1..text.len()).find(closes) {
            Some(end) => {
                found.push(at + 1..end);
                at = end;
            }
            None => unclosed.push(*open),
        }
        at += 1;
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '$' | '£' | '€' | '%')
}

fn is_blank(c: char) -> bool {
    c.is_whitespace() || c.is_control() || IGNORED.contains(c)
}

fn word_end(text: &[char], at: usize) -> usize {
    match text[at] {
        '-' => run(text, at + 1),
        c if c.is_alphanumeric() => run(text, at),
        _ => at + 1,
    }
}

/// Where signs stand, and the word before them.
struct Place<'a> {
    text: &'a [char],
    left: Range<usize>,
    sign: Range<usize>,
}

impl Place<'_> {
    /// Returns the word after them, with nothing but blanks between.
    fn right(&self) -> Range<usize> {
        let start = (self.sign.end..self.text.len()).find(|&at| !is_blank(self.text[at]));
        match start {
            Some(at) if is_word(self.text[at]) || is_negative(self.text, at) => at..word_end(self.text, at),
            _ => self.sign.end..self.sign.end,
        }
    }

    fn lower(&self, range: Range<usize>) -> String {
        self.text[range].iter().flat_map(|c| c.to_lowercase()).collect()
    }

    /// Returns whether it is a number or a variable.
    fn is_operand(&self, range: &Range<usize>) -> bool {
        match &self.text[range.clone()] {
            [only] => only.is_alphanumeric(),
            [first, second, ..] => first.is_ascii_digit() || (*first == '-' && second.is_ascii_digit()),
            [] => false,
        }
    }

    fn touches_left(&self) -> bool {
        self.left.end == self.sign.start && !self.left.is_empty()
    }

    fn touches_right(&self) -> bool {
        let right = self.right();
        right.start == self.sign.end && !right.is_empty()
    }

    /// Returns the sign with what it touches, or `None` for punctuation.
    fn read(&self) -> Option<String> {
        let signs = &self.text[self.sign.clone()];
        if signs.iter().all(|c| PUNCTUATION.contains(*c)) {
            return self.read_punctuation(signs);
        }
        let opening = signs.iter().take_while(|c| QUOTES.contains(**c) || matches!(c, ',' | ';' | ':')).count();
        let closing = signs.iter().rev().take_while(|c| **c != '-' && PUNCTUATION.contains(**c)).count();
        let sign: String = signs[opening..signs.len() - closing].iter().collect();
        let (left, right) = (self.touches_left() && opening == 0, self.touches_right() && closing == 0);
        match sign.as_str() {
            // `#5` is number 5.
            "#" if right && !left && self.text[self.sign.end].is_ascii_digit() => return None,
            "&" if !left && !right && !self.is_operand(&self.left) && !self.is_operand(&self.right()) => return None,
            _ => {}
        }
        Some(self.bound(&sign, left, right))
    }

    fn bound(&self, sign: &str, left: bool, right: bool) -> String {
        let sign = sign.replace('≤', "<=").replace('≥', ">=").replace('≠', "!=").replace('→', "->");
        let is_alone = !left && !right;
        let part = |shown: bool, range: Range<usize>| if shown { self.lower(range) } else { String::new() };
        part(left || is_alone, self.left.clone()) + &sign + &part(right || is_alone, self.right())
    }

    /// Returns what looks like punctuation and is a sign by where it stands.
    fn read_punctuation(&self, signs: &[char]) -> Option<String> {
        let (left, right) = (self.touches_left(), self.touches_right());
        let follows = self.is_operand(&self.left);
        let sign: String = signs.iter().collect();
        let trimmed = sign.trim_end_matches(|c| c != '-');
        let is_unquoted = || self.left.start.checked_sub(1).is_none_or(|at| signs.first() != Some(&self.text[at]));
        match signs {
            // An option or what is less than nothing: `-v` is not `-V`.
            ['-', ..] if right && opens(self.text, self.sign.start) => {
                let word = self.right();
                let word = if word.len() == 1 { self.text[word].iter().collect() } else { self.lower(word) };
                Some(sign + &word)
            }
            // The minus of `A-`, of `x-y` and of `3 - 4`.
            ['-', ..] if follows && left && !right => Some(self.bound(trimmed, true, false)),
            ['-'] if follows && left == right && self.is_operand(&self.right()) => Some(self.bound(&sign, left, right)),
            // `.net`, `.5`
            ['.'] | ['.', '.'] if right && opens(self.text, self.sign.start) => Some(self.bound(&sign, false, true)),
            ['.', '.'] if !left => Some(self.bound(&sign, false, false)),
            // The negation of `!x`, the command of `:w`: what ends a part of a sentence does not begin a word.
            [before @ .., '!' | ':'] if right && (!left || before.iter().any(|c| QUOTES.contains(*c))) => {
                Some(self.bound(sign.trim_start_matches(|c| QUOTES.contains(c)), false, true))
            }
            // The factorial; feet, inches and the derivative.
            ['!', ..] if follows && left && !right => Some(self.bound("!", true, false)),
            ['\'', ..] | ['"', ..]
                if left
                    && follows
                    && !self.text.get(self.left.end + 1).is_some_and(|next| next.is_alphabetic())
                    && is_unquoted() =>
            {
                Some(self.bound(&sign[..1], true, false))
            }
            // One that is talked about.
            [first, inner @ .., last]
                if !inner.is_empty() && QUOTES.contains(*first) && QUOTES.contains(*last) && !left =>
            {
                Some(inner.iter().collect())
            }
            _ if !left && !right && EXPECTING.contains(&self.lower(self.left.clone()).as_str()) => {
                Some(self.bound(&sign, false, false))
            }
            _ => None,
        }
    }

    /// Returns the brackets that touch a number, a variable or an operator.
    fn brackets(&self) -> Vec<String> {
        let is_calculated =
            |range: Range<usize>| self.is_operand(&range) || self.text[range].iter().any(|c| OPERATORS.contains(*c));
        let signs = self.sign.clone();
        let is_near = is_calculated(self.left.clone()) || is_calculated(self.right()) || is_calculated(signs.clone());
        let all = signs.filter(|&at| is_near && matches!(self.text[at], '(' | ')'));
        all.map(|at| match self.text[at] {
            '(' => format!("({}", self.lower(self.right())),
            _ => format!("{})", self.lower(self.left.clone())),
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::reading::Reading;

    fn signs(text: &str) -> Vec<String> {
        Reading::of(text).signs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_sign_is_bound_to_what_it_touches_or_stands_between() {
        for (text, expected) in [
            ("Is C# or C++ better?", &["c#", "c++"][..]),
            ("C/C++", &["c++", "c/c"]),
            ("what is 12 * 3 + x?", &["12*3", "3+x"]),
            ("3 - 4 or x-y", &["3-4", "x-y"]),
            ("x ≥ 5, a==b", &["a==b", "x>=5"]),
            ("A+ and O-.", &["a+", "o-"]),
            ("rm ~/data ../x --force -V", &["--force", "-V", "../x", "~/data"]),
            (".NET at&t @ada foo_bar", &[".net", "@ada", "at&t", "foo_bar"]),
            ("2 * (3 + 4)", &["(3", "2*", "3+4", "4)"]),
            ("what does `;` do, and \"?\"", &[";", "?"]),
            ("5!, 5' and 6\"", &["5!", "5'", "6\""]),
            ("!x, `!y`, (!!z) and :w", &["!!z", "!x", "!y", ":w"]),
            ("a\n if b:\n  c\n d", &["\n0if 1c"]),
        ] {
            assert_eq!(signs(text), expected, "{text}");
        }
    }

    #[test]
    fn punctuation_is_no_sign() {
        for text in [
            "Well-known, isn't it? Yes!! (See below.)",
            "\"Refund\" - what's that…",
            "the 1990's, 24-hour – 2-year",
            "terms & conditions; order #5",
            "¿Qué es «esto»? 何ですか。",
            "20 °C, Acme®",
            "a 'b' `c`",
            "Hi!\nIs it: so",
            "a:\n  b\n  c",
        ] {
            assert!(signs(text).is_empty(), "{text}: {:?}", signs(text));
        }
    }
}
