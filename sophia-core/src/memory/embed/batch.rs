//! How texts are cut into calls, and what an answer must be.

use super::Embedder;
use crate::{Error, ErrorKind, Result, memory::validate};

/// Cuts texts into runs of at most `most` texts and `max_bytes` bytes; a text that is longer by itself gets a run of its own.
pub(crate) fn runs<T: AsRef<str>>(texts: &[T], most: usize, max_bytes: usize) -> impl Iterator<Item = &[T]> {
    let mut rest = texts;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |text: &&T| {
            bytes += text.as_ref().len();
            bytes <= max_bytes
        };
        let count = rest.iter().take(most).take_while(fits).count().max(1).min(rest.len());
        let (run, after) = rest.split_at(count);
        rest = after;
        (count > 0).then_some(run)
    })
}

/// Cuts a text to a number of bytes, between two characters.
pub(crate) fn cut(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

/// Brings the vectors that an embedder gave for `texts` texts to length one; one of zeros stays.
///
/// # Errors
/// [`ErrorKind::InvalidInput`], naming the text, for a vector of another length than that of the model, and for one with a
/// value that is not finite; [`ErrorKind::Unavailable`] where the number of vectors is not that of the texts.
pub(crate) fn checked(embedder: &dyn Embedder, texts: usize, vectors: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>> {
    const OPERATION: &str = "memory.embed";
    let model = embedder.model();
    if vectors.len() != texts {
        let message = format!("the embedder `{model}` gave {} vectors for {texts} texts", vectors.len());
        return Err(Error::new(ErrorKind::Unavailable, OPERATION, message).with("model", model));
    }
    let dimensions = embedder.dimensions().or_else(|| vectors.first().map(Vec::len));
    let of = |(place, vector): (usize, Vec<f32>)| {
        if dimensions == Some(vector.len()) && vector.iter().all(|value| *value == 0.0) {
            return Ok(vector);
        }
        let length = vector.len();
        validate::vector(OPERATION, vector, dimensions).map_err(|error| {
            let expected = dimensions.unwrap_or_default();
            let message = match length == expected {
                true => {
                    format!("the embedder `{model}` gave a vector that {}", error.message().replace("`embedding` ", ""))
                }
                false => {
                    format!("the embedder `{model}` gave a vector of {length} dimensions; {expected} are expected")
                }
            };
            Error::new(ErrorKind::InvalidInput, OPERATION, message).with("model", model).with("text", place)
        })
    };
    vectors.into_iter().enumerate().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_into_runs_by_number_and_by_size() {
        let lengths = |most, max_bytes| {
            let texts = ["aa", "b", "", "cccc", "d"];
            runs(&texts, most, max_bytes).map(<[_]>::len).collect::<Vec<_>>()
        };
        assert_eq!(lengths(2, 100), [2, 2, 1]);
        assert_eq!(lengths(9, 3), [3, 1, 1]);
        assert_eq!(runs::<&str>(&[], 2, 2).count(), 0);
        assert_eq!((cut("aéb", 2), cut("ab", 9)), ("a", "ab"));
    }
}
