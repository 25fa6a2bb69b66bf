//! How a threshold is earned: by labels of the same wall, with a bound on the error of each hit.
//!
//! The thresholds are tried from the strictest down, each against the exact binomial bound, until one does not hold: by
//! fixed-sequence testing the whole procedure is as sure as one test (Angelopoulos et al., "Learn then Test", 2021; Clopper
//! and Pearson, 1934).

use std::collections::VecDeque;

/// Labels that are remembered, newest last: what the model answered long ago says little about today.
const MAX_LABELS: usize = 512;
/// How sure the bound is: it holds in 19 of 20 walls.
const DOUBT: f64 = 0.05;
/// Step between two thresholds that are tried.
const STEP: f64 = 0.05;
/// Fewest labels that can speak against a threshold that is trusted.
const MIN_AGAINST: usize = 10;

/// What is known about the answers that likeness would have served.
#[derive(Debug, Default)]
pub(super) struct Calibration {
    labels: VecDeque<Label>,
}

#[derive(Debug, Clone, Copy)]
struct Label {
    similarity: f64,
    is_right: bool,
}

/// A threshold, and how often it is wrong at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Earned {
    pub threshold: f64,
    pub error_bound: f64,
}

impl Calibration {
    pub fn label(&mut self, similarity: f64, is_right: bool) {
        if self.labels.len() == MAX_LABELS {
            self.labels.pop_front();
        }
        self.labels.push_back(Label { similarity, is_right });
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns the lowest threshold from `floor` up at which at most `max_error` of the hits are wrong, for sure.
    pub fn earned(&self, floor: f64, max_error: f64) -> Option<Earned> {
        let mut earned = None;
        for threshold in thresholds(floor) {
            let (wrong, all) = self.count(threshold);
            // So few that no outcome could pass: they say nothing about a lower one, whatever they are.
            if upper_bound(0, all) > max_error {
                continue;
            }
            let error_bound = upper_bound(wrong, all);
            if error_bound > max_error {
                break;
            }
            earned = Some(Earned { threshold, error_bound });
        }
        earned
    }

    /// Returns the lowest threshold from `floor` up that the labels do not speak against. `None` if they speak against all.
    pub fn unopposed(&self, floor: f64, max_error: f64) -> Option<f64> {
        let mut thresholds: Vec<_> = thresholds(floor).collect();
        thresholds.reverse();
        thresholds.into_iter().find(|threshold| {
            let (wrong, all) = self.count(*threshold);
            all < MIN_AGAINST || wrong as f64 <= max_error * all as f64
        })
    }

    /// Returns a bound on the share of wrong hits at a threshold. `None` where nothing is known.
    pub fn bound_at(&self, threshold: f64) -> Option<f64> {
        let (wrong, all) = self.count(threshold);
        (all > 0).then(|| upper_bound(wrong, all))
    }

    fn count(&self, threshold: f64) -> (usize, usize) {
        let above = self.labels.iter().filter(|label| label.similarity >= threshold);
        above.fold((0, 0), |(wrong, all), label| (wrong + usize::from(!label.is_right), all + 1))
    }
}

/// Returns the thresholds that are tried, from the strictest down to `floor`.
fn thresholds(floor: f64) -> impl Iterator<Item = f64> {
    let steps = ((1.0 - floor) / STEP).ceil() as usize;
    (0..=steps).map(move |step| (1.0 - step as f64 * STEP).max(floor))
}

/// Returns the share of errors that is exceeded with probability [`DOUBT`] only, where `wrong` of `all` were seen.
fn upper_bound(wrong: usize, all: usize) -> f64 {
    if wrong >= all {
        return 1.0;
    }
    let (mut low, mut high) = (wrong as f64 / all as f64, 1.0);
    // 40 halvings are more exact than a double of this size needs.
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if at_most(wrong, all, middle) > DOUBT { low = middle } else { high = middle }
    }
    high
}

/// Returns the probability of at most `wrong` errors in `all` where each has probability `p`, 0 < p < 1.
fn at_most(wrong: usize, all: usize, p: f64) -> f64 {
    let mut term = all as f64 * (1.0 - p).ln();
    let mut sum = term.exp();
    for count in 1..=wrong {
        term += ((all - count + 1) as f64 / count as f64).ln() + p.ln() - (1.0 - p).ln();
        sum += term.exp();
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn calibration(labels: &[(f64, usize, usize)]) -> Calibration {
        let mut calibration = Calibration::default();
        for &(similarity, right, wrong) in labels {
            (0..right).for_each(|_| calibration.label(similarity, true));
            (0..wrong).for_each(|_| calibration.label(similarity, false));
        }
        calibration
    }

    #[test]
    fn the_bound_is_that_of_clopper_and_pearson() {
        for (wrong, all, bound) in [(0, 59, 0.0495), (0, 10, 0.2589), (1, 20, 0.2161), (5, 100, 0.1023)] {
            assert!((upper_bound(wrong, all) - bound).abs() < 0.0005, "{wrong}/{all}: {}", upper_bound(wrong, all));
        }
        assert_eq!((upper_bound(0, 0), upper_bound(3, 3)), (1.0, 1.0));
    }

    #[test]
    fn nothing_is_earned_without_enough_labels() {
        assert_eq!(calibration(&[]).earned(0.75, 0.05), None);
        assert_eq!(calibration(&[(1.0, 58, 0)]).earned(0.75, 0.05), None);
        let earned = calibration(&[(1.0, 59, 0)]).earned(0.75, 0.05).unwrap();
        assert!(earned.error_bound <= 0.05);
    }

    #[test]
    fn the_threshold_goes_down_as_far_as_the_labels_bear_it() {
        let labels = [(1.0, 80, 0), (0.9, 80, 1), (0.8, 10, 10)];
        let earned = calibration(&labels).earned(0.75, 0.05).unwrap();
        assert!((earned.threshold - 0.85).abs() < 1e-9, "{earned:?}");
        assert_eq!(calibration(&labels).earned(0.95, 0.05).unwrap().threshold, 0.95);
        assert_eq!(calibration(&[(1.0, 80, 20)]).earned(0.75, 0.05), None);
    }

    #[test]
    fn a_trusted_threshold_stands_until_labels_speak_against_it() {
        assert_eq!(calibration(&[]).unopposed(0.75, 0.05), Some(0.75));
        assert_eq!(calibration(&[(0.8, 5, 1)]).unopposed(0.75, 0.05), Some(0.75));
        let raised = calibration(&[(0.8, 10, 10), (1.0, 50, 0)]).unopposed(0.75, 0.05).unwrap();
        assert!(raised > 0.8, "{raised}");
        assert_eq!(calibration(&[(1.0, 10, 10)]).unopposed(0.75, 0.05), None);
    }

    proptest! {
        #[test]
        fn the_bound_lies_above_what_was_seen(all in 1usize..512, share in 0.0f64..1.0) {
            let wrong = (all as f64 * share) as usize;
            let bound = upper_bound(wrong, all);
            prop_assert!(bound > wrong as f64 / all as f64 && bound <= 1.0);
        }
    }
}
