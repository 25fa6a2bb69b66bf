//! A text as its words: what is compared when two questions are.

use std::{collections::HashSet, ops::Range};

use unicode_normalization::UnicodeNormalization;

use super::{
    lexicon::{self, Kind},
    sign,
};

/// A text, read word by word. It holds the words, not the text.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Reading {
    /// All words and their stems, one after the other.
    letters: Box<str>,
    words: Box<[Word]>,
    /// Numbers in order of appearance, then dates and moments in theirs: `3 June` is `June 3`, `10 to 3` is not `3 to 10`.
    pub numbers: Box<[Box<str>]>,
    /// Operators and other signs with what they touch, sorted.
    pub signs: Box<[Box<str>]>,
}

#[derive(Debug, Clone, PartialEq)]
struct Word {
    text: (u32, u32),
    stem: (u32, u32),
    kind: Kind,
    style: Style,
    is_last: bool,
}

/// How a word is written, as far as that tells what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// It tells nothing: the first word of a sentence, or any of a text that is all small or all large.
    Plain,
    /// Small, where a name would be large.
    Small,
    /// Large where others are small: a name.
    Name,
    /// Large for another reason, perhaps: shouted, or in a title.
    Large,
    /// Not said but spoken of: `what does please mean`.
    Mentioned,
    /// The same, to the letter: `is "reciept" right`.
    Quoted,
}

/// One word of a reading.
#[derive(Debug, Clone, Copy)]
pub(super) struct WordRef<'a> {
    pub text: &'a str,
    pub stem: &'a str,
    pub kind: Kind,
    pub style: Style,
    /// Whether a clause ends with it.
    pub is_last: bool,
}

impl WordRef<'_> {
    /// Returns whether nothing else can be said for it: a name, or a word that is spoken of.
    pub fn is_name(&self) -> bool {
        matches!(self.style, Style::Name | Style::Large) || self.is_mentioned()
    }

    /// Returns whether it is spoken of.
    pub fn is_mentioned(&self) -> bool {
        matches!(self.style, Style::Mentioned | Style::Quoted)
    }

    /// Returns whether it is a number, a day or the like, which have an order of their own.
    pub fn is_counted(&self) -> bool {
        lexicon::moment(self.text).is_some()
            || lexicon::number(self.text).is_some()
            || self.text.bytes().any(|byte| byte.is_ascii_digit())
    }
}

impl Reading {
    pub fn of(text: &str) -> Reading {
        let Tokens { tokens, mut signs } = tokens(text);
        let mut letters = String::with_capacity(2 * text.len());
        let mut words = Vec::new();
        let (mut numbers, mut moments) = (Vec::new(), Vec::new());
        for (at, token) in tokens.iter().enumerate() {
            let stem = lexicon::stem(&token.text);
            numbers.extend(token.number());
            moments.extend(lexicon::moment(&token.text).map(Box::from));
            let mut put = |text: &str| {
                let start = letters.len() as u32;
                letters.push_str(text);
                (start, letters.len() as u32)
            };
            let text = put(&token.text);
            let stem = if stem == token.text { text } else { put(&stem) };
            let (kind, style) = match kind(&tokens, at) {
                kind @ (Kind::Negator | Kind::Limiter) => (kind, token.style),
                _ if token.is_quoted => (Kind::Content, Style::Quoted),
                _ if is_mentioned(&tokens, at) => (Kind::Content, Style::Mentioned),
                kind => (kind, token.style),
            };
            words.push(Word { text, stem, kind, style, is_last: token.is_last });
        }
        numbers.append(&mut moments);
        signs.sort_unstable();
        Reading { letters: letters.into(), words: words.into(), numbers: numbers.into(), signs: signs.into() }
    }

    pub fn words(&self) -> impl DoubleEndedIterator<Item = WordRef<'_>> + Clone {
        self.words.iter().map(|word| WordRef {
            text: self.slice(word.text),
            stem: self.slice(word.stem),
            kind: word.kind,
            style: word.style,
            is_last: word.is_last,
        })
    }

    /// Returns the words that carry meaning.
    pub fn content(&self) -> impl Iterator<Item = WordRef<'_>> + Clone {
        self.words().filter(|word| word.kind == Kind::Content)
    }

    pub fn stems(&self) -> HashSet<&str> {
        self.words().map(|word| word.stem).collect()
    }

    /// Returns the words that deny or limit, in order, each with the word of meaning that follows it and how often that word
    /// was said before.
    ///
    /// They are counted, for two of them do not always cancel out. `ne … pas` is one.
    pub fn negations(&self) -> Vec<(&str, Option<(WordRef<'_>, usize)>)> {
        let words: Vec<_> = self.words().collect();
        let turns = |word: &WordRef<'_>| matches!(word.kind, Kind::Negator | Kind::Limiter);
        let is_half =
            |at: usize| words[at].text == "ne" && words[at + 1..].iter().any(|word| word.kind == Kind::Negator);
        (0..words.len())
            .filter(|&at| turns(&words[at]) && !is_half(at))
            .map(|at| {
                let next = words[at + 1..].iter().find(|word| word.kind == Kind::Content);
                let next = next.map(|next| (*next, words[..at].iter().filter(|word| word.stem == next.stem).count()));
                (lexicon::plain_negator(words[at].text), next)
            })
            .collect()
    }

    /// Returns whether what is known of words applies to it: a share of its words are English ones that join others.
    pub fn is_english(&self) -> bool {
        const SHARE: usize = 4;
        let is_joining = |kind| matches!(kind, Kind::Function | Kind::Filler);
        let joining = self
            .words()
            .filter(|word| is_joining(word.kind) || (word.is_mentioned() && is_joining(lexicon::kind(word.text))));
        self.words.len() <= joining.clone().count() * SHARE
            && joining.clone().any(|word| lexicon::is_english_only(word.text))
    }

    /// Returns about how much memory it takes, in bytes.
    pub fn weight(&self) -> usize {
        let boxes = self.numbers.iter().chain(&self.signs);
        let boxed: usize = boxes.map(|text| size_of::<Box<str>>() + text.len()).sum();
        size_of::<Reading>() + self.letters.len() + size_of_val(&*self.words) + boxed
    }

    fn slice(&self, (start, end): (u32, u32)) -> &str {
        let range: Range<usize> = start as usize..end as usize;
        // Both ends were the length of the buffer at a time when a whole word had been written.
        &self.letters[range]
    }
}

#[derive(Debug, PartialEq)]
struct Token {
    text: String,
    style: Style,
    is_quoted: bool,
    /// Whether a clause ends with it.
    is_last: bool,
    /// What decides whether it is a joining word or a name for something: `IT` is not `it`, nor `vitamin D` the `d` of `I'd`.
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    /// In capitals amid others.
    Shouted,
    /// After an apostrophe.
    Shortened,
}

impl Token {
    fn new(text: &str, style: Style, form: Form) -> Token {
        Token { text: text.to_owned(), style, is_quoted: false, is_last: false, form }
    }

    fn kind(&self) -> Kind {
        let is_letter = self.text.len() == 1 && self.text.as_bytes()[0].is_ascii_alphabetic();
        let is_word = match self.form {
            Form::Shortened => true,
            Form::Plain => !is_letter || matches!(self.text.as_str(), "i" | "a" | "u"),
            Form::Shouted => false,
        };
        match lexicon::kind(&self.text) {
            Kind::Function if !is_word => Kind::Content,
            kind => kind,
        }
    }

    /// Returns the number that it is.
    fn number(&self) -> Option<Box<str>> {
        let text = self.text.as_str();
        if !text.bytes().any(|byte| byte.is_ascii_digit()) {
            return lexicon::number(text).map(|number| number.to_string().into());
        }
        // `1,000` is a thousand, and `1,5` is not fifteen.
        let groups: Vec<_> = text.split(',').collect();
        let is_grouped = groups[1..].iter().all(|group| {
            let whole = group.split('.').next().unwrap_or(group);
            whole.len() == 3 && whole.bytes().all(|byte| byte.is_ascii_digit())
        });
        let plain = if is_grouped { groups.concat() } else { text.to_owned() };
        Some(plain.strip_suffix(".00").unwrap_or(&plain).into())
    }
}

/// Returns what kind of word it is where it stands.
fn kind(tokens: &[Token], at: usize) -> Kind {
    const DETERMINERS: [&str; 9] = ["a", "an", "the", "my", "your", "our", "his", "her", "their"];
    /// Joining words that are nouns after one of those: a will, the can.
    const NOUNS: [&str; 13] =
        ["will", "can", "may", "must", "hope", "show", "try", "go", "being", "need", "want", "do", "well"];
    let token = &tokens[at];
    let next = tokens.get(at + 1).map_or("", |next| next.text.as_str());
    let before = at.checked_sub(1).map_or("", |before| tokens[before].text.as_str());
    match token.text.as_str() {
        // `the best way to` asks how.
        "best" if next == "way" => Kind::Function,
        // `How long` is one question word, `how come` asks why.
        "long" | "many" | "often" | "far" | "old" | "come" if before == "how" => Kind::Function,
        // `I'd` and `I'll`, unless a number or a sickness.
        "id" if !matches!(next, "like" | "love" | "rather" | "prefer") => Kind::Content,
        "ill" if at > 0 => Kind::Content,
        "like" if !matches!(before, "id" | "d" | "would") => Kind::Content,
        text if NOUNS.contains(&text) && DETERMINERS.contains(&before) => Kind::Content,
        _ => token.kind(),
    }
}

/// Returns whether a word is not said but spoken of: it stands where only a noun can, or a word about words says so.
fn is_mentioned(tokens: &[Token], at: usize) -> bool {
    /// Words that stand before another: where none follows, they are spoken of.
    const LEADING: [&str; 21] = [
        "a", "an", "the", "my", "your", "our", "their", "its", "and", "or", "but", "if", "than", "because", "while",
        "during", "since", "into", "within", "whether", "very",
    ];
    /// What may stand between a word about words and the one that it is about.
    const BETWEEN: [&str; 12] = ["a", "an", "the", "of", "for", "to", "with", "in", "between", "as", "and", "or"];
    /// What may follow the one that it is about.
    const AFTER: [&str; 12] = ["to", "in", "into", "for", "with", "and", "or", "from", "mean", "means", "do", "does"];
    /// Words that mean what was said before or is shown, unless they come after one of `of`, `with` and `between`.
    const POINTING: [&str; 22] = [
        "i", "me", "we", "us", "you", "it", "he", "him", "she", "they", "them", "this", "that", "these", "those",
        "there", "here", "what", "how", "when", "where", "why",
    ];
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let token = &tokens[at];
    if token.is_last && LEADING.contains(&text(at)) {
        return true;
    }
    let before = |at: usize| {
        let is_end = |before: &Token| before.is_last || !BETWEEN.contains(&before.text.as_str());
        tokens[..at].iter().rposition(is_end).filter(|&before| !tokens[before].is_last)
    };
    let is_pointing = POINTING.contains(&text(at));
    if !is_pointing && at > 0 && matches!(text(at + 1), "mean" | "means") {
        return true;
    }
    let Some(about) = before(at) else { return false };
    // Of `between who and whom`, both.
    let is_second = matches!(text(at - 1), "and" | "or") && about + 2 == at;
    let about = if is_second { before(about).unwrap_or(about) } else { about };
    lexicon::is_about_words(&lexicon::stem(text(about)))
        && (!is_pointing || matches!(text(at - 1), "of" | "with" | "between"))
        && (token.is_last || AFTER.contains(&text(at + 1)))
}

/// A text in parts.
#[derive(Debug, Default)]
struct Tokens {
    tokens: Vec<Token>,
    signs: Vec<Box<str>>,
}

/// Cuts a text into words in lower case, numbers, identifiers and signs.
fn tokens(text: &str) -> Tokens {
    let text: Vec<char> = text.nfkc().map(sign::plain).collect();
    let is_loud = !text.iter().any(|c| c.is_lowercase());
    let mut out = Tokens::default();
    let mut at = 0;
    let quotes = sign::quotes(&text);
    let mut has_capitals = false;
    let mut sentence_starts = true;
    while at < text.len() {
        let first = text[at];
        let is_negative = sign::is_negative(&text, at);
        let end = match first {
            _ if is_negative => run(&text, at + 1),
            _ if first.is_alphanumeric() => run(&text, at),
            _ => at + 1,
        };
        let part = &text[at..end];
        if first.is_alphanumeric() || is_negative {
            let is_capital = first.is_uppercase();
            let is_first_person = part == ['I'] || matches!(part, ['I', '\'' | '’', ..]);
            let is_shouted = !is_loud && part.len() > 1 && part.iter().all(|c| !c.is_lowercase());
            // Amid a sentence, `A` is the one of `vitamin A`; `I` is always written so.
            let is_letter = part == ['A'] && !sentence_starts && !is_loud;
            let is_name = part.iter().any(|c| c.is_alphabetic())
                && is_capital
                && !is_loud
                && (!sentence_starts || is_shouted)
                && !(part.len() == 1 || is_first_person);
            has_capitals |= is_capital && !is_loud && !is_shouted && !is_first_person;
            let lower: String = part.iter().flat_map(|c| c.to_lowercase()).collect();
            let form = if is_shouted || is_letter { Form::Shouted } else { Form::Plain };
            let style = match is_name {
                true if is_shouted => Style::Large,
                true => Style::Name,
                false if first.is_lowercase() => Style::Small,
                false => Style::Plain,
            };
            let before = out.tokens.len();
            split(&lower, style, form, &mut out.tokens);
            let is_quoted = quotes.iter().any(|quote| quote.contains(&at));
            out.tokens[before..].iter_mut().for_each(|token| token.is_quoted = is_quoted);
            sentence_starts = false;
        } else if matches!(first, '$' | '£' | '€' | '%') {
            out.tokens.push(Token::new(&first.to_string(), Style::Plain, Form::Plain));
        } else if matches!(first, '.' | '!' | '?' | ':' | '\n' | '"' | '“') {
            sentence_starts = true;
        }
        if matches!(first, '.' | '!' | '?' | ';' | ',' | '\n' | ')')
            && let Some(last) = out.tokens.last_mut()
        {
            last.is_last = true;
        }
        at = end;
    }
    if let Some(last) = out.tokens.last_mut() {
        last.is_last = true;
    }
    // In `How Is It Made`, capitals tell no name.
    let is_title = out.tokens.iter().any(|token| token.style == Style::Name && token.kind() == Kind::Function);
    for token in &mut out.tokens {
        token.style = match token.style {
            Style::Small if !has_capitals => Style::Plain,
            Style::Name if is_title => Style::Large,
            style => style,
        };
    }
    out.signs = sign::of(&text);
    out
}

/// Returns where the word or number that begins at `at` ends.
pub(super) fn run(text: &[char], at: usize) -> usize {
    let is_inner = |at: usize| {
        let (Some(before), Some(after)) = (text.get(at - 1), text.get(at + 1)) else { return false };
        match text[at] {
            '\'' | '’' => before.is_alphabetic() && after.is_alphabetic(),
            '.' | ',' | ':' | '/' | '-' => before.is_ascii_digit() && after.is_ascii_digit(),
            _ => false,
        }
    };
    (at + 1..text.len()).find(|&at| !text[at].is_alphanumeric() && !is_inner(at)).unwrap_or(text.len())
}

/// Puts a run of letters and digits as the words that it is.
fn split(lower: &str, style: Style, form: Form, out: &mut Vec<Token>) {
    let mut put = |text: &str, form: Form| out.push(Token::new(text, style, form));
    if lower.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
        // `3pm` is a number and its unit; `3b7` is an identifier.
        let number = lower.trim_end_matches(|c: char| c.is_alphabetic());
        let unit = &lower[number.len()..];
        let is_plain = number.bytes().all(|byte| !byte.is_ascii_alphabetic()) && unit.len() <= 4;
        match is_plain && !unit.is_empty() {
            true if matches!(unit, "st" | "nd" | "rd" | "th") => put(number, form),
            true => [number, unit].into_iter().for_each(|part| put(part, Form::Plain)),
            false => put(lower, form),
        }
        return;
    }
    if lower.bytes().any(|byte| byte.is_ascii_digit()) {
        return put(lower, form);
    }
    let lower = lower.replace('’', "'");
    if let Some(base) = negated(&lower) {
        put(base, Form::Plain);
        return put("not", Form::Plain);
    }
    let mut parts = lower.split('\'').filter(|part| !part.is_empty());
    parts.next().into_iter().for_each(|part| put(part, form));
    parts.for_each(|part| put(part, Form::Shortened));
}

/// Returns the verb of a verb with `n't`, also where the apostrophe was left out.
fn negated(word: &str) -> Option<&str> {
    const AUXILIARIES: [&str; 15] = [
        "do", "does", "did", "is", "are", "was", "were", "should", "would", "could", "has", "have", "had", "must",
        "need",
    ];
    match word {
        "can't" | "cant" | "cannot" => return Some("can"),
        "won't" | "wont" => return Some("will"),
        "shan't" | "shant" => return Some("shall"),
        "ain't" | "aint" => return Some("is"),
        _ => {}
    }
    let base = word.strip_suffix("n't").or_else(|| word.strip_suffix("nt"))?;
    AUXILIARIES.contains(&base).then_some(base)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        tokens(text).tokens.into_iter().map(|token| token.text).collect()
    }

    fn numbers(text: &str) -> Vec<String> {
        Reading::of(text).numbers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn contractions_are_the_words_that_they_stand_for() {
        assert_eq!(
            words("I can't, won’t and dont; what's new?"),
            ["i", "can", "not", "will", "not", "and", "do", "not", "what", "s", "new"]
        );
    }

    #[test]
    fn numbers_dates_and_identifiers_are_found_in_any_form() {
        assert_eq!(numbers("1,000.00 at 3pm on the 2nd of May, or two"), ["1000", "3", "2", "2"]);
        assert_eq!(numbers("12/05 and 05/12"), ["12/05", "05/12"]);
        assert_eq!(numbers("from -5 to 1,5 and 1,234.00"), ["-5", "1,5", "1234"]);
        assert_ne!(numbers("order AB12CD34"), numbers("order AB34CD12"));
        assert_eq!(numbers("next Tuesday"), ["tuesday"]);
        assert_eq!(numbers("3 June 1969, on Mondays"), numbers("June 3, 1969, on Monday"));
        assert_ne!(numbers("10 minus 3"), numbers("3 minus 10"));
        assert!(numbers("one of these").is_empty());
    }

    #[test]
    fn a_capital_inside_of_a_sentence_makes_a_name() {
        let names = |text: &str| -> Vec<String> {
            tokens(text)
                .tokens
                .into_iter()
                .filter(|token| matches!(token.style, Style::Name | Style::Large))
                .map(|token| token.text)
                .collect()
        };
        assert_eq!(names("Is Paris in France? Yes. I'd say NASA, and I say so."), ["paris", "france", "nasa"]);
    }

    #[test]
    fn a_word_in_capitals_amid_others_and_a_single_letter_are_names_of_something() {
        let content =
            |text: &str| -> Vec<String> { Reading::of(text).content().map(|word| word.text.to_owned()).collect() };
        assert_eq!(content("Does IT do it for us in the US?"), ["it", "us"]);
        assert_eq!(content("DOES IT DO IT FOR US?"), [""; 0]);
        assert_eq!(
            content("I'd take vitamin D and vitamin A or a pill"),
            ["take", "vitamin", "d", "vitamin", "a", "pill"]
        );
    }

    #[test]
    fn what_denies_or_limits_is_counted_with_what_it_is_said_of() {
        let said = |text: &str| -> Vec<String> {
            let reading = Reading::of(text);
            let negations = reading.negations().into_iter();
            negations.map(|(word, of)| format!("{word} {}", of.map_or("", |(of, _)| of.text))).collect()
        };
        assert_eq!(said("I can't eat it, never"), ["not eat", "never "]);
        assert_eq!(said("je ne peux pas manger"), ["pas manger"]);
        assert_eq!(said("neither milk nor cheese"), ["neither milk", "nor cheese"]);
        assert_eq!(said("only unless"), ["only ", "unless "]);
    }

    proptest! {
        #[test]
        fn any_text_can_be_read(text in ".{0,80}") {
            let reading = Reading::of(&text);
            prop_assert!(reading.words().all(|word| !word.text.is_empty()));
        }
    }
}
