//! The encoder. Texts are read together without padding: the tokens of all stand one after the other, and only attention
//! looks at each text by itself.

use std::path::Path;

use serde::Deserialize;

use super::weights::Weights;
use crate::memory::embed::WordPiece;

/// Most tokens of a text, `[CLS]` and `[SEP]` included: what the model was trained with.
const MAX_TOKENS: usize = 256;
/// Largest accepted shape: that of BERT-large. What a file says is not believed beyond it.
const MAX_HIDDEN: usize = 1_024;
const MAX_LAYERS: usize = 24;
const MAX_INNER: usize = 4_096;
const MAX_VOCABULARY: usize = 65_535;

type Outcome<T> = std::result::Result<T, String>;

/// The sizes of a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub hidden: usize,
    layers: usize,
    heads: usize,
    inner: usize,
    vocabulary: usize,
    positions: usize,
    types: usize,
    epsilon: f32,
}

impl Shape {
    /// Reads `config.json`.
    pub fn read(json: &[u8]) -> Outcome<Shape> {
        #[derive(Deserialize)]
        struct Config {
            model_type: String,
            hidden_act: String,
            hidden_size: usize,
            num_hidden_layers: usize,
            num_attention_heads: usize,
            intermediate_size: usize,
            vocab_size: usize,
            max_position_embeddings: usize,
            type_vocab_size: usize,
            layer_norm_eps: f32,
        }
        let config: Config =
            serde_json::from_slice(json).map_err(|error| format!("which is not that of BERT: {error}"))?;
        if config.model_type != "bert" || config.hidden_act != "gelu" {
            return Err("which is not that of BERT".to_owned());
        }
        let shape = Shape {
            hidden: config.hidden_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            inner: config.intermediate_size,
            vocabulary: config.vocab_size,
            positions: config.max_position_embeddings,
            types: config.type_vocab_size,
            epsilon: config.layer_norm_eps,
        };
        let fits = |value: usize, most: usize| (1..=most).contains(&value);
        let is_fit = fits(shape.hidden, MAX_HIDDEN)
            && fits(shape.heads, shape.hidden)
            && shape.hidden.is_multiple_of(shape.heads)
            && fits(shape.layers, MAX_LAYERS)
            && fits(shape.inner, MAX_INNER)
            && fits(shape.vocabulary, MAX_VOCABULARY)
            && (MAX_TOKENS..=MAX_VOCABULARY).contains(&shape.positions)
            && fits(shape.types, MAX_VOCABULARY);
        if is_fit { Ok(shape) } else { Err("whose sizes cannot be".to_owned()) }
    }
}

/// A model that is ready to read.
#[derive(Debug)]
pub(super) struct Bert {
    shape: Shape,
    tokenizer: WordPiece,
    /// Numbers of `[CLS]` and `[SEP]`.
    ends: (u32, u32),
    words: Vec<f32>,
    /// With that of the only type of a single text added.
    positions: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    /// Queries, keys and values, one after the other.
    attention: Dense,
    output: Dense,
    output_norm: Norm,
    inner: Dense,
    outer: Dense,
    outer_norm: Norm,
}

impl Bert {
    pub fn read(shape: Shape, weights: &Path, vocabulary: String) -> Outcome<Bert> {
        let end = |name: &str| {
            let number = vocabulary.lines().position(|line| line == name);
            number.map(|number| number as u32).ok_or_else(|| format!("its vocabulary has no `{name}`"))
        };
        let ends = (end("[CLS]")?, end("[SEP]")?);
        let tokenizer = WordPiece::new(vocabulary).map_err(|error| error.to_string())?;
        if tokenizer.len() > shape.vocabulary {
            return Err("its vocabulary has more pieces than its weights have rows".to_owned());
        }
        let mut from = Weights::open(weights)?;
        let hidden = shape.hidden;
        let types = from.read("embeddings.token_type_embeddings.weight", &[shape.types, hidden])?;
        let mut positions = from.read("embeddings.position_embeddings.weight", &[shape.positions, hidden])?;
        for row in positions.chunks_exact_mut(hidden) {
            add(row, &types[..hidden]);
        }
        Ok(Bert {
            words: from.read("embeddings.word_embeddings.weight", &[shape.vocabulary, hidden])?,
            positions,
            norm: Norm::read(&mut from, "embeddings.LayerNorm", shape)?,
            layers: (0..shape.layers).map(|number| Layer::read(&mut from, number, shape)).collect::<Outcome<_>>()?,
            shape,
            tokenizer,
            ends,
        })
    }

    /// Returns the vector of each text: the mean of its tokens, at length one.
    pub fn embed(&self, texts: &[String]) -> Vec<Vec<f32>> {
        let tokens: Vec<_> = texts.iter().map(|text| self.tokens(text)).collect();
        let mut lengths = Vec::with_capacity(tokens.len());
        let mut rows = Vec::with_capacity(tokens.iter().map(Vec::len).sum::<usize>() * self.shape.hidden);
        for text in &tokens {
            lengths.push(text.len());
            for (word, position) in text.iter().zip(self.positions.chunks_exact(self.shape.hidden)) {
                let from = *word as usize * self.shape.hidden;
                let word = &self.words[from..from + self.shape.hidden];
                rows.extend(word.iter().zip(position).map(|(word, position)| word + position));
            }
        }
        self.norm.apply(&mut rows);
        for layer in &self.layers {
            layer.apply(&mut rows, &lengths, self.shape);
        }
        let mut rest = rows.as_slice();
        let mean = |length: &usize| {
            let (own, others) = rest.split_at(length * self.shape.hidden);
            rest = others;
            let mut sum = vec![0.0; self.shape.hidden];
            own.chunks_exact(self.shape.hidden).for_each(|row| add(&mut sum, row));
            let norm = sum.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            sum.iter_mut().for_each(|value| *value /= norm);
            sum
        };
        lengths.iter().map(mean).collect()
    }

    fn tokens(&self, text: &str) -> Vec<u32> {
        const MOST: usize = MAX_TOKENS - 2;
        let mut tokens = vec![self.ends.0];
        tokens.extend(self.tokenizer.encode(text).into_iter().take(MOST));
        tokens.push(self.ends.1);
        tokens
    }
}

impl Layer {
    fn read(from: &mut Weights, number: usize, shape: Shape) -> Outcome<Layer> {
        let (hidden, inner) = (shape.hidden, shape.inner);
        let name = |part: &str| format!("encoder.layer.{number}.{part}");
        let mut attention = Dense { weights: Vec::new(), biases: Vec::new(), inputs: hidden };
        for part in ["query", "key", "value"] {
            let one = Dense::read(from, &name(&format!("attention.self.{part}")), hidden, hidden)?;
            attention.weights.extend(one.weights);
            attention.biases.extend(one.biases);
        }
        Ok(Layer {
            attention,
            output: Dense::read(from, &name("attention.output.dense"), hidden, hidden)?,
            output_norm: Norm::read(from, &name("attention.output.LayerNorm"), shape)?,
            inner: Dense::read(from, &name("intermediate.dense"), inner, hidden)?,
            outer: Dense::read(from, &name("output.dense"), hidden, inner)?,
            outer_norm: Norm::read(from, &name("output.LayerNorm"), shape)?,
        })
    }

    fn apply(&self, rows: &mut Vec<f32>, lengths: &[usize], shape: Shape) {
        let attended = attend(&self.attention.apply(rows), lengths, shape);
        let mut seen = self.output.apply(&attended);
        add(&mut seen, rows);
        self.output_norm.apply(&mut seen);
        let mut inner = self.inner.apply(&seen);
        inner.iter_mut().for_each(|value| *value = gelu(*value));
        *rows = self.outer.apply(&inner);
        add(rows, &seen);
        self.outer_norm.apply(rows);
    }
}

/// Lets the tokens of each text look at each other. A row of `seen` is query, key and value of a token, each of all heads.
fn attend(seen: &[f32], lengths: &[usize], shape: Shape) -> Vec<f32> {
    let (hidden, width) = (shape.hidden, shape.hidden / shape.heads);
    let scale = 1.0 / (width as f32).sqrt();
    let mut attended = vec![0.0; seen.len() / 3];
    let mut scores = Vec::new();
    let mut first = 0;
    for length in lengths {
        let own = &seen[first * 3 * hidden..][..length * 3 * hidden];
        let into = &mut attended[first * hidden..][..length * hidden];
        for head in 0..shape.heads {
            let part =
                |which: usize| Part { values: own, start: which * hidden + head * width, row: 3 * hidden, column: 1 };
            let (queries, keys, values) = (part(0), part(1), part(2));
            scores.clear();
            scores.resize(length * length, 0.0);
            let keys = Part { row: keys.column, column: keys.row, ..keys };
            multiply([*length, width, *length], scale, queries, keys, &mut scores, 0, *length);
            scores.chunks_exact_mut(*length).for_each(softmax);
            let scores = Part { values: &scores, start: 0, row: *length, column: 1 };
            multiply([*length, *length, width], 1.0, scores, values, into, head * width, hidden);
        }
        first += length;
    }
    attended
}

/// A layer of weights: one row for each output.
#[derive(Debug)]
struct Dense {
    weights: Vec<f32>,
    biases: Vec<f32>,
    inputs: usize,
}

impl Dense {
    fn read(from: &mut Weights, name: &str, outputs: usize, inputs: usize) -> Outcome<Dense> {
        Ok(Dense {
            weights: from.read(&format!("{name}.weight"), &[outputs, inputs])?,
            biases: from.read(&format!("{name}.bias"), &[outputs])?,
            inputs,
        })
    }

    fn apply(&self, rows: &[f32]) -> Vec<f32> {
        let (count, outputs) = (rows.len() / self.inputs, self.biases.len());
        let mut made = vec![0.0; count * outputs];
        let weights = Part { values: &self.weights, start: 0, row: 1, column: self.inputs };
        let rows = Part { values: rows, start: 0, row: self.inputs, column: 1 };
        multiply([count, self.inputs, outputs], 1.0, rows, weights, &mut made, 0, outputs);
        made.chunks_exact_mut(outputs).for_each(|row| add(row, &self.biases));
        made
    }
}

#[derive(Debug)]
struct Norm {
    weights: Vec<f32>,
    biases: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    fn read(from: &mut Weights, name: &str, shape: Shape) -> Outcome<Norm> {
        Ok(Norm {
            weights: from.read(&format!("{name}.weight"), &[shape.hidden])?,
            biases: from.read(&format!("{name}.bias"), &[shape.hidden])?,
            epsilon: shape.epsilon,
        })
    }

    fn apply(&self, rows: &mut [f32]) {
        for row in rows.chunks_exact_mut(self.weights.len()) {
            let count = row.len() as f32;
            let mean = row.iter().sum::<f32>() / count;
            let variance = row.iter().map(|value| (value - mean) * (value - mean)).sum::<f32>() / count;
            let factor = 1.0 / (variance + self.epsilon).sqrt();
            for (value, (weight, bias)) in row.iter_mut().zip(self.weights.iter().zip(&self.biases)) {
                *value = (*value - mean) * factor * weight + bias;
            }
        }
    }
}

/// A matrix inside of a slice: the distances from row to row and from column to column.
#[derive(Clone, Copy)]
struct Part<'a> {
    values: &'a [f32],
    start: usize,
    row: usize,
    column: usize,
}

impl Part<'_> {
    /// Returns whether all of its values lie in the slice.
    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows > 0 && columns > 0 && self.start + (rows - 1) * self.row + (columns - 1) * self.column < self.values.len()
    }
}

/// Writes `factor * a * b` into `into`, whose rows begin at `start` and are `row` apart: `a` is `m × k`, `b` is `k × n`.
#[allow(unsafe_code, reason = "the product of matrices takes pointers; their bounds are checked here")]
fn multiply([m, k, n]: [usize; 3], factor: f32, a: Part<'_>, b: Part<'_>, into: &mut [f32], start: usize, row: usize) {
    let target = Part { values: into, start, row, column: 1 };
    assert!(a.holds(m, k) && b.holds(k, n) && target.holds(m, n) && row >= n);
    // SAFETY: each of the three matrices lies in its slice, as was just checked, and no two places of the target are the
    // same: its columns are one apart, and its rows at least as far as they are long.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            factor,
            a.values.as_ptr().add(a.start),
            a.row as isize,
            a.column as isize,
            b.values.as_ptr().add(b.start),
            b.row as isize,
            b.column as isize,
            0.0,
            into.as_mut_ptr().add(start),
            row as isize,
            1,
        );
    }
}

fn add(to: &mut [f32], other: &[f32]) {
    to.iter_mut().zip(other).for_each(|(to, other)| *to += other);
}

fn softmax(row: &mut [f32]) {
    let greatest = row.iter().copied().fold(f32::MIN, f32::max);
    row.iter_mut().for_each(|value| *value = (*value - greatest).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|value| *value /= sum);
}

/// Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016), by the error function itself.
fn gelu(value: f32) -> f32 {
    0.5 * value * (1.0 + erf(value * std::f32::consts::FRAC_1_SQRT_2))
}

/// Abramowitz and Stegun, 7.1.26: exact to 1.5e-7.
fn erf(value: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * value.abs());
    let sum = t * (0.254_829_6 + t * (-0.284_496_74 + t * (1.421_413_7 + t * (-1.453_152 + t * 1.061_405_4))));
    (1.0 - sum * (-value * value).exp()).copysign(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_is_that_of_the_tables() {
        for (value, expected) in [(0.0, 0.0), (0.5, 0.520_499_9), (-1.0, -0.842_700_8), (3.0, 0.999_977_9)] {
            assert!((erf(value) - expected).abs() < 1e-6, "{value}");
        }
    }

    #[test]
    fn a_shape_that_cannot_be_is_refused() {
        let config = |heads: usize, kind: &str| {
            format!(
                r#"{{"model_type": "{kind}", "hidden_act": "gelu", "hidden_size": 384, "num_hidden_layers": 6,
                "num_attention_heads": {heads}, "intermediate_size": 1536, "vocab_size": 30522,
                "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12}}"#
            )
        };
        assert_eq!(Shape::read(config(12, "bert").as_bytes()).unwrap().hidden, 384);
        for wrong in [config(0, "bert"), config(5, "bert"), config(12, "roberta"), "{}".to_owned()] {
            assert!(Shape::read(wrong.as_bytes()).is_err());
        }
    }
}
