//! Which service is to blame: lost-time accounting.
//!
//! A service that is slow because it waits for another one has not lost that time itself. For a service that is out of line
//! (the target), everything that it reaches over calls is asked how much of the target's loss it accounts for, how much of its
//! own loss its callees account for, and how unusual that is for it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    analysis::{Hour, OUT, quantile},
    graph::Graph,
    observe::short,
    report::round,
    window::BUCKETS,
};
use crate::Direction;

/// Excess of the target, as a share of its largest, from which a minute counts.
const HOT: f64 = 0.25;
/// Most minutes by which a cause may come before its effect.
const MAX_LAG: usize = 5;
/// Points a minute from which they are taken for single calls, and not for samples.
const CALLS: f64 = 2.0;
/// How much of its score a service loses when its callees account for all of its loss.
const EXPLAINED: f64 = 0.9;
/// What is left of the score of the target itself: there is a reason to ask for the cause.
const TARGET: f64 = 0.5;
/// Most causes that are listed.
const MAX_LISTED: usize = 20;
/// Most targets that are followed.
const MAX_TARGETS: usize = 50;

/// A service that is likely to blame.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct RootCause {
    /// The service.
    pub service: String,
    /// How likely, relative to the others: share × ln(1 + z) × (1 − 0.9 × explained).
    pub score: f64,
    /// How much of the target's loss it accounts for, 0..1.
    pub share: f64,
    /// How much of its own loss its callees account for, 0..1.
    pub explained: f64,
    /// The service whose loss is explained.
    pub target: String,
    /// Why, in a sentence.
    pub evidence: String,
}

/// Ranks the causes of all that is out of line, the likeliest first.
pub(super) fn root_causes(hours: &[Hour], graph: &Graph) -> Vec<RootCause> {
    let signals = by_service(hours);
    let sick: BTreeSet<&str> =
        signals.iter().filter(|(_, hour)| hour.episode.is_some()).map(|(service, _)| *service).collect();
    let mut called: BTreeSet<String> = BTreeSet::new();
    for service in &sick {
        called.extend(graph.callees(service).map(|(callee, _)| callee.to_owned()).filter(|callee| callee != service));
    }
    // Those that no sick one calls. Where all call each other, all are.
    let mut targets: Vec<&str> = sick.iter().copied().filter(|service| !called.contains(*service)).collect();
    if targets.is_empty() {
        targets = sick.into_iter().collect();
    }
    targets.truncate(MAX_TARGETS);
    let mut best: HashMap<String, RootCause> = HashMap::new();
    for target in targets {
        for cause in causes_of(target, &signals, graph) {
            let known = best.get(&cause.service);
            if known.is_none_or(|known| known.score < cause.score) {
                best.insert(cause.service.clone(), cause);
            }
        }
    }
    let mut causes: Vec<RootCause> = best.into_values().filter(|cause| cause.score > 0.0).collect();
    causes.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.service.cmp(&b.service)));
    causes.truncate(MAX_LISTED);
    causes
}

/// Returns the signal that tells most about each service: its latency where that is out of line, else what is furthest out.
fn by_service(hours: &[Hour]) -> BTreeMap<&str, &Hour> {
    let rank = |hour: &Hour| {
        let out = hour.excess().iter().sum::<f64>();
        (hour.episode.is_some(), hour.episode.is_some() && &*hour.metric == "latency_ms", out)
    };
    let mut signals: BTreeMap<&str, &Hour> = BTreeMap::new();
    for hour in hours.iter().filter(|hour| hour.direction != Direction::Both) {
        let best = signals.entry(&hour.service).or_insert(hour);
        let (a, b) = (rank(hour), rank(best));
        if (a.0, a.1) > (b.0, b.1) || ((a.0, a.1) == (b.0, b.1) && a.2 > b.2) {
            *best = hour;
        }
    }
    signals
}

/// What one service lost while the target was out of line.
struct Loss {
    /// Excess of each minute over the reference, as the target saw it: `lag` minutes later.
    excess: [f64; BUCKETS],
    /// The excess in the minutes that count, times the calls where they are known.
    lost: f64,
    /// How unusual that is, in deviations.
    z: f64,
    lag: usize,
    reference: f64,
    /// Mean value in the minutes that count.
    value: f64,
}

fn causes_of(target: &str, signals: &BTreeMap<&str, &Hour>, graph: &Graph) -> Vec<RootCause> {
    let Some(hour) = signals.get(target) else { return Vec::new() };
    let weights = weights(hour);
    let reached = graph.reachable(target);
    let calls_known = reached.iter().filter_map(|service| signals.get(service.as_str())).all(|hour| knows_calls(hour));
    let losses: BTreeMap<&str, Loss> = reached
        .iter()
        .filter_map(|service| {
            Some((service.as_str(), loss(signals.get(service.as_str())?, &weights, service == target, calls_known)))
        })
        .collect();
    let Some(own) = losses.get(target) else { return Vec::new() };
    let share_of = |part: &Loss, whole: &Loss| {
        let share = if calls_known { part.lost / whole.lost } else { likeness(&part.excess, &whole.excess) };
        if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 }
    };
    let mut causes = Vec::new();
    for (service, loss) in &losses {
        if loss.z < OUT / 2.0 {
            continue;
        }
        let callees = graph.callees(service).filter(|(callee, _)| callee != service);
        let guilty: Vec<&Loss> =
            callees.filter_map(|(callee, _)| losses.get(callee)).filter(|loss| loss.z >= OUT / 2.0).collect();
        let explained = match calls_known {
            true => guilty.iter().map(|callee| share_of(callee, loss)).sum::<f64>().min(1.0),
            // Likenesses do not add up: two callees that are alike explain no more than one.
            false => guilty.iter().map(|callee| share_of(callee, loss)).fold(0.0, f64::max),
        };
        let share = share_of(loss, own);
        let itself = if *service == target { TARGET } else { 1.0 };
        let score = share * loss.z.ln_1p() * (1.0 - EXPLAINED * explained) * itself;
        let Some(hour) = signals.get(service) else { continue };
        let before = match loss.lag {
            0 => String::new(),
            lag => format!(", {lag} min before {target}"),
        };
        causes.push(RootCause {
            service: (*service).to_owned(),
            score: round(score),
            share: round(share),
            explained: round(explained),
            target: target.to_owned(),
            evidence: format!(
                "{} of {service} was {} instead of {}{before}; it accounts for {:.0} % of what {target} lost, and its callees for {:.0} % of its own",
                hour.metric,
                short(loss.value),
                short(loss.reference),
                share * 100.0,
                explained * 100.0,
            ),
        });
    }
    causes
}

/// Returns whether the points of a minute are its calls, as those of the engine are.
fn knows_calls(hour: &Hour) -> bool {
    let minutes = hour.counts.iter().filter(|count| **count > 0).count() as f64;
    &*hour.metric == "latency_ms" && f64::from(hour.counts.iter().sum::<u32>()) >= CALLS * minutes
}

/// Returns how much each minute counts: the target's excess, where it is at least a quarter of its largest.
fn weights(target: &Hour) -> [f64; BUCKETS] {
    let excess = |minute| (target.deviation(minute).unwrap_or_default()).max(0.0);
    let most = (0..BUCKETS).map(excess).fold(0.0, f64::max);
    std::array::from_fn(|minute| {
        let share = if most > 0.0 { excess(minute) / most } else { 0.0 };
        if share >= HOT { share } else { 0.0 }
    })
}

fn loss(hour: &Hour, weights: &[f64; BUCKETS], is_target: bool, calls_known: bool) -> Loss {
    let sign = if hour.direction == Direction::HigherIsBetter { -1.0 } else { 1.0 };
    // What is normal for it: the worse of its median, and its median while the target was well.
    let mut calm: Vec<f64> = (0..BUCKETS)
        .filter(|minute| weights[*minute] == 0.0)
        .filter_map(|minute| Some(hour.means[minute]? * sign))
        .collect();
    calm.sort_by(f64::total_cmp);
    let usual = hour.usual * sign;
    let reference = if calm.is_empty() { usual } else { usual.max(quantile(&calm, 0.5)) };

    let shifted = |lag: usize| -> [f64; BUCKETS] {
        std::array::from_fn(|minute| {
            let value = minute.checked_sub(lag).and_then(|minute| hour.means[minute]);
            value.map_or(0.0, |value| value * sign - reference)
        })
    };
    let weighted =
        |excess: &[f64; BUCKETS]| weights.iter().zip(excess).map(|(weight, excess)| weight * excess).sum::<f64>();
    let most_lag = if is_target { 0 } else { MAX_LAG };
    let mut best = (0, shifted(0));
    for lag in 1..=most_lag {
        let excess = shifted(lag);
        if weighted(&excess) > weighted(&best.1) * (1.0 + 1e-9) {
            best = (lag, excess);
        }
    }
    let (lag, excess) = best;
    let weight: f64 = weights.iter().sum();
    let shift = if weight > 0.0 { weighted(&excess) / weight } else { 0.0 };
    let lost = (0..BUCKETS)
        .filter(|minute| weights[*minute] > 0.0)
        .map(|minute| {
            let calls = minute.checked_sub(lag).map_or(0, |minute| hour.counts[minute]);
            excess[minute] * if calls_known { f64::from(calls) } else { 1.0 }
        })
        .sum::<f64>();
    Loss {
        excess: excess.map(|excess| excess.max(0.0)),
        lost: lost.max(0.0),
        z: (shift / hour.spread).max(0.0),
        lag,
        reference: reference * sign,
        value: (reference + shift) * sign,
    }
}

/// Returns how alike the shapes of two losses are, 0..1, whatever their sizes (the cosine of the angle between them).
///
/// Samples do not say how many calls there were, so sizes cannot be compared: a service may call another one ten times.
fn likeness(a: &[f64; BUCKETS], b: &[f64; BUCKETS]) -> f64 {
    let dot = |x: &[f64; BUCKETS], y: &[f64; BUCKETS]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let size = (dot(a, a) * dot(b, b)).sqrt();
    if size > 0.0 { dot(a, b) / size } else { 0.0 }
}
