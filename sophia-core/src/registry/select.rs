//! Which server to ask: the first, and those to ask if it fails.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    check::Status,
    directory::Entry,
    live::Counts,
    server::{key, or_default, same_word},
};
use crate::{Error, ErrorKind, Result, resilience::BreakerState, wire};

pub(crate) const SELECT: &str = "registry.select";

/// Latency at which a server is worth half of one that answers at once, in milliseconds.
const HALF_WORTH_MS: f64 = 1_000.0;
/// Cost of a server that was never called, in milliseconds: small, so that it is tried, and not zero, so that calls under way
/// count.
const UNTRIED_COST_MS: f64 = 1.0;
/// Rank of a tier that is no known word.
const UNKNOWN_TIER: i64 = 1_000;

/// How a server is chosen among those that can do the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Strategy {
    /// The cheaper of two that are drawn at random; cost is the peak-EWMA of the latency × (calls under way + 1) / weight.
    /// Mitzenmacher, *The Power of Two Choices in Randomized Load Balancing* (2001).
    #[default]
    P2c,
    /// The best tier, then the highest priority, then the cheapest.
    Tier,
    /// The highest score.
    Score,
    /// Each in turn.
    RoundRobin,
    /// The one with the fewest calls under way, relative to its weight.
    LeastConnections,
    /// Each in turn, as often as its weight says, evenly spread: nginx's smooth weighted round robin.
    Weighted,
}

/// What is asked for.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Select {
    /// What the server must be able to do.
    pub capability: String,
    /// How it is chosen. Default: `p2c`.
    #[serde(default, deserialize_with = "or_default")]
    pub strategy: Strategy,
    /// The server to take if it is well.
    #[serde(default)]
    pub prefer: Option<String>,
    /// Servers to leave out.
    #[serde(default, deserialize_with = "or_default")]
    pub avoid: Vec<String>,
}

impl Select {
    /// Asks for a server that can do `capability`.
    pub fn new(capability: impl Into<String>) -> Select {
        Select { capability: capability.into(), ..Select::default() }
    }

    /// Sets how it is chosen.
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Select {
        self.strategy = strategy;
        self
    }

    /// Sets the server to take if it is well.
    #[must_use]
    pub fn prefer(mut self, id: impl Into<String>) -> Select {
        self.prefer = Some(id.into());
        self
    }

    /// Leaves a server out.
    #[must_use]
    pub fn avoid(mut self, id: impl Into<String>) -> Select {
        self.avoid.push(id.into());
        self
    }
}

/// Which server to ask.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Decision {
    /// Id of the server.
    pub server: String,
    /// Ids of those to ask if it fails, best first.
    pub fallbacks: Vec<String>,
    /// Its score, 0..1: health × share of successes ÷ (1 + cost in seconds).
    pub score: f64,
    /// Why it was chosen, for people.
    pub reason: String,
}

/// One that could be chosen, as it stands at this moment.
#[derive(Debug, Clone)]
struct Candidate<'a> {
    entry: &'a Entry,
    counts: Counts,
    cost: f64,
    score: f64,
    well: bool,
}

/// What the strategies remember from one choice to the next.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    random: u64,
    /// Next turn, by capability.
    turns: HashMap<String, usize>,
    /// Current weight of smooth weighted round robin, by capability and server.
    weights: HashMap<(String, String), f64>,
}

impl Memory {
    pub(crate) fn new(seed: u64) -> Memory {
        Memory { random: seed, ..Memory::default() }
    }

    /// Draws the next number; Steele, Lea, Flood, *Fast Splittable Pseudorandom Number Generators* (2014).
    fn draw(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % below.max(1) as u64) as usize
    }

    pub(crate) fn forget(&mut self, id: &str) {
        self.weights.retain(|(_, server), _| server != id);
    }
}

/// Chooses among the entries.
///
/// # Errors
/// [`ErrorKind::NotFound`] where none can do it, with the nearest capability.
pub(crate) fn choose(
    select: &Select,
    entries: &[Entry],
    memory: &mut Memory,
    now: std::time::Duration,
) -> Result<Decision> {
    let able: Vec<_> = entries.iter().filter(|entry| entry.server.can(&select.capability)).collect();
    if able.is_empty() {
        return Err(nobody(&select.capability, entries));
    }
    let avoided = |entry: &Entry| select.avoid.iter().any(|id| same_word(id, &entry.server.id));
    let candidates: Vec<_> =
        able.into_iter().filter(|entry| !avoided(entry)).map(|entry| candidate(entry, now)).collect();
    if candidates.is_empty() {
        let message = format!("every server that can do `{}` is to be avoided", select.capability);
        return Err(Error::new(ErrorKind::NotFound, SELECT, message));
    }
    let any_well = candidates.iter().any(|candidate| candidate.well);
    let mut pool: Vec<_> = candidates.iter().filter(|candidate| candidate.well || !any_well).collect();
    let preferred =
        select.prefer.as_deref().and_then(|id| pool.iter().position(|one| same_word(&one.entry.server.id, id)));
    let (at, mut reason) = match preferred {
        Some(at) => (at, "preferred, and well".to_owned()),
        None => pick(select, &pool, memory),
    };
    if !any_well {
        reason += "; none is known to be well";
    }
    let chosen = pool.remove(at);
    let mut rest: Vec<_> = candidates.iter().filter(|one| !std::ptr::eq(*one, chosen)).collect();
    rest.sort_by(|a, b| b.well.cmp(&a.well).then(tier(a.entry).cmp(&tier(b.entry))).then(a.cost.total_cmp(&b.cost)));
    Ok(Decision {
        server: chosen.entry.server.id.clone(),
        fallbacks: rest.into_iter().map(|one| one.entry.server.id.clone()).collect(),
        score: chosen.score,
        reason,
    })
}

fn pick(select: &Select, pool: &[&Candidate<'_>], memory: &mut Memory) -> (usize, String) {
    let capability = key(&select.capability);
    let least = |cost: &dyn Fn(&Candidate<'_>) -> f64| {
        (0..pool.len()).min_by(|&a, &b| cost(pool[a]).total_cmp(&cost(pool[b]))).unwrap_or_default()
    };
    match select.strategy {
        _ if pool.len() == 1 => (0, "the only one".to_owned()),
        Strategy::P2c => {
            let first = memory.draw(pool.len());
            let second = (first + 1 + memory.draw(pool.len() - 1)) % pool.len();
            let at = if pool[second].cost < pool[first].cost { second } else { first };
            let names = (&pool[first].entry.server.id, &pool[second].entry.server.id);
            (at, format!("the cheaper of `{}` and `{}`, at {:.1} ms", names.0, names.1, pool[at].cost))
        }
        Strategy::Tier => {
            let order = |one: &Candidate<'_>| (tier(one.entry), -one.entry.server.priority);
            let at = (0..pool.len())
                .min_by(|&a, &b| order(pool[a]).cmp(&order(pool[b])).then(pool[a].cost.total_cmp(&pool[b].cost)))
                .unwrap_or_default();
            let tier = pool[at].entry.server.tier.as_deref().unwrap_or("none");
            (at, format!("the best tier: {tier}"))
        }
        Strategy::Score => {
            let at = least(&|one| -one.score);
            (at, format!("the highest score: {:.3}", pool[at].score))
        }
        Strategy::RoundRobin => {
            let turn = memory.turns.entry(capability).or_default();
            let at = *turn % pool.len();
            *turn = turn.wrapping_add(1);
            (at, format!("turn {} of {}", at + 1, pool.len()))
        }
        Strategy::LeastConnections => {
            let at = least(&|one| one.counts.in_flight as f64 / one.entry.server.weight);
            (at, format!("the fewest calls under way: {}", pool[at].counts.in_flight))
        }
        Strategy::Weighted => {
            let total: f64 = pool.iter().map(|one| one.entry.server.weight).sum();
            let current: Vec<f64> = pool
                .iter()
                .map(|one| {
                    let current = memory.weights.entry((capability.clone(), one.entry.server.id.clone())).or_default();
                    *current += one.entry.server.weight;
                    *current
                })
                .collect();
            let at = (0..pool.len()).rev().max_by(|&a, &b| current[a].total_cmp(&current[b])).unwrap_or_default();
            if let Some(current) = memory.weights.get_mut(&(capability, pool[at].entry.server.id.clone())) {
                *current -= total;
            }
            (at, format!("weight {} of {total}", pool[at].entry.server.weight))
        }
    }
}

fn candidate(entry: &Entry, now: std::time::Duration) -> Candidate<'_> {
    let (counts, status, breaker) =
        (entry.live.counts(now), entry.live.status().status, entry.live.breaker.snapshot().state);
    let cost = counts.cost_ms.max(UNTRIED_COST_MS) * (counts.in_flight as f64 + 1.0) / entry.server.weight;
    let health = match (breaker, status) {
        (BreakerState::Open, _) | (_, Status::Unhealthy) => 0.0,
        (BreakerState::HalfOpen, _) | (_, Status::Degraded) => 0.5,
        (_, Status::Unknown) => 0.9,
        (_, Status::Healthy) => 1.0,
    };
    let score = health * (1.0 - counts.error_ratio) / (1.0 + cost / HALF_WORTH_MS);
    Candidate { entry, counts, cost, score, well: health > 0.0 }
}

/// Returns the rank of a tier, 1 first.
fn tier(entry: &Entry) -> i64 {
    let Some(tier) = &entry.server.tier else { return UNKNOWN_TIER };
    let word = tier.trim().to_lowercase();
    let word = word.trim_start_matches("tier").trim_matches(['-', '_', ' ']);
    word.parse().unwrap_or(match word {
        "primary" | "critical" | "essential" | "core" | "gold" | "high" => 1,
        "secondary" | "standard" | "important" | "silver" | "medium" => 2,
        "tertiary" | "optional" | "auxiliary" | "bronze" | "low" => 3,
        _ => UNKNOWN_TIER,
    })
}

fn nobody(capability: &str, entries: &[Entry]) -> Error {
    let mut known: Vec<_> =
        entries.iter().flat_map(|entry| entry.server.capabilities.iter().map(String::as_str)).collect();
    known.sort_unstable();
    known.dedup();
    let hint = wire::nearest(capability, &known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    let shown: String = capability.chars().filter(|c| !c.is_control()).take(80).collect();
    Error::new(ErrorKind::NotFound, SELECT, format!("no server can do `{shown}`{hint}"))
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        Clock, ManualClock,
        registry::{RegistryConfig, live::Live, server::Server},
    };

    fn entries(servers: impl IntoIterator<Item = Server>) -> Vec<Entry> {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
        let entry = |server: Server| Entry {
            live: Arc::new(Live::new(&server, &RegistryConfig::default(), &clock)),
            server: Arc::new(server.url("http://127.0.0.1:1").capability("Code")),
        };
        servers.into_iter().map(entry).collect()
    }

    fn picks(strategy: Strategy, entries: &[Entry], count: usize) -> Vec<String> {
        let (select, mut memory) = (Select::new("code").strategy(strategy), Memory::default());
        (0..count).map(|_| choose(&select, entries, &mut memory, Duration::ZERO).unwrap().server).collect()
    }

    #[test]
    fn p2c_prefers_the_quick_one_and_is_the_same_for_the_same_seed() {
        let entries = entries(["a", "b", "c"].map(Server::new));
        for _ in 0..20 {
            entries[0].live.record(Duration::ZERO, 200.0, false);
            entries[1].live.record(Duration::ZERO, 10.0, false);
            entries[2].live.record(Duration::ZERO, 200.0, false);
        }
        let chosen = picks(Strategy::P2c, &entries, 300);
        let share = chosen.iter().filter(|id| *id == "b").count();
        // It wins whenever it is drawn, which is in two of three pairs.
        assert!((170..=230).contains(&share), "{share}");
        assert_eq!(chosen, picks(Strategy::P2c, &entries, 300));
    }

    #[test]
    fn turns_and_weights_are_kept_exactly() {
        let entries = entries([Server::new("a").weight(3.0), Server::new("b")]);
        assert_eq!(picks(Strategy::RoundRobin, &entries, 4), ["a", "b", "a", "b"]);
        assert_eq!(picks(Strategy::Weighted, &entries, 8), ["a", "a", "b", "a", "a", "a", "b", "a"]);
    }

    #[test]
    fn tiers_connections_and_scores_are_ordered() {
        let entries = entries([
            Server::new("low").tier("tier-3"),
            Server::new("word").tier("Secondary"),
            Server::new("first").tier("1"),
            Server::new("first-too").tier("primary").priority(5),
            Server::new("none"),
        ]);
        assert_eq!(picks(Strategy::Tier, &entries, 1), ["first-too"]);
        let _busy =
            (entries[0].live.enter(), entries[1].live.enter(), entries[3].live.enter(), entries[4].live.enter());
        assert_eq!(picks(Strategy::LeastConnections, &entries, 1), ["first"]);
        entries[2].live.record(Duration::ZERO, 5_000.0, true);
        assert_ne!(picks(Strategy::Score, &entries, 1), ["first"]);
    }

    #[test]
    fn the_sick_are_asked_last() {
        let entries = entries(["a", "b"].map(Server::new));
        for _ in 0..5 {
            entries[0].live.breaker.acquire("test").unwrap().failure();
        }
        let select = Select::new("CODE").prefer("a");
        let decision = choose(&select, &entries, &mut Memory::default(), Duration::ZERO).unwrap();
        assert_eq!((decision.server.as_str(), decision.fallbacks), ("b", vec!["a".to_owned()]));
        let only = Select::new("code").avoid("B");
        let decision = choose(&only, &entries, &mut Memory::default(), Duration::ZERO).unwrap();
        assert!(decision.server == "a" && decision.reason.contains("none is known to be well"), "{decision:?}");
    }

    #[test]
    fn a_capability_that_nobody_has_is_named_with_the_nearest() {
        let entries = entries([Server::new("a")]);
        let error = choose(&Select::new("cod"), &entries, &mut Memory::default(), Duration::ZERO).unwrap_err();
        assert!(error.code() == "NOT_FOUND" && error.message().contains("did you mean `Code`"), "{error}");
        let none = choose(&Select::new("code").avoid("a"), &entries, &mut Memory::default(), Duration::ZERO);
        assert_eq!(none.unwrap_err().code(), "NOT_FOUND");
    }
}
