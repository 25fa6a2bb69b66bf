//! What an evaluation gives.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use super::CUTOFFS;

/// Recall by category, in the order in which the categories came.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Report {
    /// Numbers of hits that recall is counted at.
    pub cutoffs: [usize; CUTOFFS.len()],
    /// Each category by itself.
    pub categories: Vec<CategoryRecall>,
    /// All questions.
    pub all: CategoryRecall,
}

/// Recall of the questions of one category.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct CategoryRecall {
    /// Its name.
    pub category: String,
    /// How many questions it has.
    pub questions: usize,
    /// Mean share of the evidence that was found, 0..1, at each cut-off.
    pub recall: [f64; CUTOFFS.len()],
}

impl Default for Report {
    fn default() -> Report {
        Report { cutoffs: CUTOFFS, categories: Vec::new(), all: CategoryRecall::new("all") }
    }
}

impl Report {
    pub(super) fn add(&mut self, category: &str, recall: [f64; CUTOFFS.len()]) {
        self.all.add(recall);
        match self.categories.iter_mut().find(|known| known.category == category) {
            Some(known) => known.add(recall),
            None => {
                let mut new = CategoryRecall::new(category);
                new.add(recall);
                self.categories.push(new);
            }
        }
    }
}

impl CategoryRecall {
    fn new(category: &str) -> CategoryRecall {
        CategoryRecall { category: category.to_owned(), questions: 0, recall: [0.0; CUTOFFS.len()] }
    }

    fn add(&mut self, recall: [f64; CUTOFFS.len()]) {
        self.questions += 1;
        for (mean, new) in self.recall.iter_mut().zip(recall) {
            *mean += (new - *mean) / self.questions as f64;
        }
    }
}

/// A table, in per cent.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = || self.categories.iter().chain([&self.all]);
        let width = rows().map(|row| row.category.chars().count()).max().unwrap_or_default().max("category".len());
        write!(f, "{:<width$}  {:>9}", "category", "questions")?;
        self.cutoffs.iter().try_for_each(|cutoff| write!(f, "  {:>5}", format!("R@{cutoff}")))?;
        for row in rows() {
            write!(f, "\n{:<width$}  {:>9}", row.category, row.questions)?;
            row.recall.iter().try_for_each(|recall| write!(f, "  {:>5.1}", 100.0 * recall))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_category_and_one_for_all() {
        let mut report = Report::default();
        report.add("temporal", [0.0, 0.5, 1.0, 1.0]);
        report.add("multi-hop", [1.0; 4]);
        report.add("temporal", [1.0; 4]);
        let expected = "category   questions    R@5   R@10   R@25   R@50\n\
                        temporal           2   50.0   75.0  100.0  100.0\n\
                        multi-hop          1  100.0  100.0  100.0  100.0\n\
                        all                3   66.7   83.3  100.0  100.0";
        assert_eq!(report.to_string(), expected);
    }
}
