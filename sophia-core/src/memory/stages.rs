//! What changes an order after records were matched: their age, their importance, and whether they repeat each other.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;

use super::{
    rank::{self, Ranked},
    store::Stages,
};

/// Records among which unlike ones are looked for, for each that is chosen.
const MMR_POOL: usize = 4;
/// Records that are chosen from the same pool: it grows with the places of the order, not with the page that is asked for.
const MMR_STEP: usize = 10;
/// Places for which unlike records are looked for: each is compared with all before it, and nobody looks so far.
const MMR_PLACES: usize = 250;

/// What a record is beside what it says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Facts {
    pub created_at: Timestamp,
    pub importance: f64,
}

/// Returns whether [`lift`] needs facts.
pub(crate) fn needs_facts(stages: &Stages) -> bool {
    stages.recency_half_life.is_some() || stages.importance_weight > 0.0
}

/// Lets age and importance count, and puts the ranking in order again.
///
/// Where `w` is the weight of importance, `fused` becomes `((1 - w) * fused / best + w * importance) * best`, and then, with
/// a half-life, that times `2 ^ (-age / half-life)`.
pub(crate) fn lift(ranking: &mut [Ranked], facts: &HashMap<i64, Facts>, best: f64, stages: &Stages, now: Timestamp) {
    let weight = stages.importance_weight;
    for ranked in ranking.iter_mut() {
        let Some(facts) = facts.get(&ranked.seq) else { continue };
        let explain = &mut ranked.explain;
        if weight > 0.0 {
            explain.importance = Some(facts.importance);
            explain.fused = (1.0 - weight) * explain.fused + weight * facts.importance * best;
        }
        if let Some(half_life) = stages.recency_half_life {
            let recency = recency(now, facts.created_at, half_life);
            explain.recency = Some(recency);
            explain.fused *= recency;
        }
    }
    rank::sort(ranking);
}

/// Returns what is left of the worth of something of this age: a half after each half-life. The future is not older.
fn recency(now: Timestamp, created_at: Timestamp, half_life: Duration) -> f64 {
    let age = now.duration_since(created_at).as_secs_f64().max(0.0);
    (-age / half_life.as_secs_f64()).exp2()
}

/// Returns how many of the first records are looked at so that `wanted` unlike ones are among them.
pub(crate) fn mmr_pool(wanted: usize) -> usize {
    wanted.min(MMR_PLACES).next_multiple_of(MMR_STEP) * MMR_POOL
}

/// Puts records first that match well and are unlike those before them, until `wanted` are chosen among those that have a
/// vector here; the rest follows in its order. Records without a vector are unlike all others.
pub(crate) fn diversify(ranking: &mut [Ranked], vectors: &HashMap<i64, Vec<f32>>, lambda: f64, wanted: usize) {
    let best = ranking.first().map_or(0.0, |first| first.explain.fused);
    let cosine = |a: &Ranked, b: &Ranked| match (vectors.get(&a.seq), vectors.get(&b.seq)) {
        (Some(a), Some(b)) => f64::from(a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>()),
        _ => 0.0,
    };
    let mut similarity: Vec<f64> = Vec::new();
    for chosen in 0..wanted.min(MMR_PLACES).min(ranking.len()) {
        let pool = mmr_pool(chosen + 1).min(ranking.len());
        for place in similarity.len()..pool {
            let cosines = ranking[..chosen].iter().map(|before| cosine(before, &ranking[place]));
            similarity.push(cosines.fold(0.0, f64::max));
        }
        let worth = |place: usize| {
            let relative = if best > 0.0 { ranking[place].explain.fused / best } else { 0.0 };
            lambda * relative - (1.0 - lambda) * similarity[place]
        };
        // Of equals the first.
        let next = (chosen..pool).rev().max_by(|a, b| worth(*a).total_cmp(&worth(*b))).unwrap_or(chosen);
        ranking[chosen..=next].rotate_right(1);
        similarity[chosen..=next].rotate_right(1);
        ranking[chosen].explain.similarity = Some(similarity[chosen]);
        for place in chosen + 1..pool {
            similarity[place] = similarity[place].max(cosine(&ranking[chosen], &ranking[place]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::query::{Explain, MatchType};

    fn ranking(fused: &[(i64, f64)]) -> Vec<Ranked> {
        let of = |(seq, fused): &(i64, f64)| {
            Ranked::exact(*seq, MatchType::Hybrid, Explain { fused: *fused, ..Explain::default() })
        };
        fused.iter().map(of).collect()
    }

    fn seqs(ranking: &[Ranked]) -> Vec<i64> {
        ranking.iter().map(|ranked| ranked.seq).collect()
    }

    #[test]
    fn age_halves_and_importance_lifts() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ago = |seconds: i64| Timestamp::from_second(1_000_000 - seconds).unwrap();
        let facts = HashMap::from([
            (1, Facts { created_at: ago(200), importance: 0.0 }),
            (2, Facts { created_at: ago(0), importance: 0.0 }),
            (3, Facts { created_at: ago(-50), importance: 1.0 }),
        ]);
        let half_life = Stages { recency_half_life: Some(Duration::from_secs(100)), ..Stages::default() };
        let mut aged = ranking(&[(1, 0.8), (2, 0.5), (3, 0.1)]);
        lift(&mut aged, &facts, 0.8, &half_life, now);
        assert_eq!(seqs(&aged), [2, 1, 3]);
        assert_eq!((aged[1].explain.recency, aged[2].explain.recency), (Some(0.25), Some(1.0)));
        let weighed = Stages { importance_weight: 0.5, ..Stages::default() };
        let mut lifted = ranking(&[(1, 0.8), (2, 0.5), (3, 0.1)]);
        lift(&mut lifted, &facts, 0.8, &weighed, now);
        assert_eq!(seqs(&lifted), [3, 1, 2]);
        assert!((lifted[0].explain.fused - 0.45).abs() < 1e-12);
    }

    #[test]
    fn what_repeats_a_hit_comes_later() {
        let vectors = HashMap::from([(1, vec![1.0, 0.0]), (2, vec![1.0, 0.0]), (3, vec![0.0, 1.0])]);
        let mut same = ranking(&[(1, 0.9), (2, 0.8), (3, 0.5), (4, 0.1)]);
        diversify(&mut same, &vectors, 1.0, 2);
        assert_eq!(seqs(&same), [1, 2, 3, 4]);
        diversify(&mut same, &vectors, 0.5, 2);
        assert_eq!(seqs(&same), [1, 3, 2, 4]);
        assert_eq!(same[1].explain.similarity, Some(0.0));
    }
}
