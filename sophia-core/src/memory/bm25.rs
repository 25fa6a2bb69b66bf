//! BM25: what it is worth that a word stands in a text. Robertson and Zaragoza, "The Probabilistic Relevance Framework"
//! (2009), with its customary constants.

/// How soon more of the same word stops to count.
const K1: f64 = 1.2;
/// How much a long text is discounted.
const B: f64 = 0.75;
/// Worth of a word that stands in more than half of the texts: it matches, and hardly counts.
const MIN_IDF: f64 = 1e-6;

/// Returns what a word is worth that stands in `frequency` of `count` texts.
pub(crate) fn idf(frequency: f64, count: f64) -> f64 {
    let frequency = frequency.min(count);
    ((count - frequency + 0.5) / (frequency + 0.5)).ln().max(MIN_IDF)
}

/// Returns how much of its worth a word has that stands `times` in a text of `length` words, where the mean is `mean`.
pub(crate) fn saturation(times: f64, length: f64, mean: f64) -> f64 {
    if times <= 0.0 {
        return 0.0;
    }
    let relative = if mean > 0.0 { length / mean } else { 1.0 };
    times * (K1 + 1.0) / (times + K1 * (1.0 - B + B * relative))
}

/// What the words of a question are worth in one wall.
#[derive(Debug, Clone, Default)]
pub(crate) struct Weights {
    worth: Vec<f64>,
    frequencies: Vec<f64>,
    mean_words: f64,
}

impl Weights {
    /// Starts for records that have so many words on average.
    pub fn new(mean_words: f64) -> Weights {
        Weights { mean_words, ..Weights::default() }
    }

    /// Adds the next word: it stands in about `frequency` of `count` records.
    pub fn push(&mut self, frequency: f64, count: f64) {
        self.frequencies.push(frequency);
        self.worth.push(idf(frequency, count));
    }

    /// Returns in how many records each word stands, about.
    pub fn frequencies(&self) -> &[f64] {
        &self.frequencies
    }

    /// Returns the BM25 of a record of `length` words in which each word of a set, one bit for each, stands once.
    pub fn approximate(&self, set: u64, length: u32) -> f64 {
        let worth = self.worth.iter().enumerate().filter(|(term, _)| set >> term & 1 == 1);
        worth.map(|(_, worth)| worth).sum::<f64>() * saturation(1.0, f64::from(length), self.mean_words)
    }

    /// Returns the BM25 of a record in which each word stands so often; `None` where none does.
    pub fn exact(&self, times: &[u32], length: u32) -> Option<f64> {
        let of =
            |(times, worth): (&u32, &f64)| worth * saturation(f64::from(*times), f64::from(length), self.mean_words);
        times.iter().any(|times| *times > 0).then(|| times.iter().zip(&self.worth).map(of).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_words_count_more_and_repetition_less_and_less() {
        assert!(idf(1.0, 100.0) > idf(20.0, 100.0) && idf(90.0, 100.0) > 0.0);
        let once = saturation(1.0, 10.0, 10.0);
        let (twice, many) = (saturation(2.0, 10.0, 10.0), saturation(1e6, 10.0, 10.0));
        assert!((once - 1.0).abs() < 1e-12 && twice > once && twice < 2.0 * once && many < 2.2);
        assert!(saturation(1.0, 40.0, 10.0) < once);
        assert!(idf(0.0, 0.0).is_finite());
    }
}
