//! What the semantic tier keeps, decides and learns.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    answers::{self, Sameness},
    block::Block,
    calibration::Calibration,
    config::{SemanticConfig, SemanticMode},
    question::Question,
    reading::Reading,
    report::{SemanticDecision, SemanticGroup, SemanticReport, SemanticVerdict},
    verdict::{Veto, judge},
};
use crate::{
    Clock, Result, Scope,
    chat::{
        cache::{AnswerCache, Entry, Payload},
        key::Key,
        provider::Keeping,
        request::Share,
        response::Answer,
    },
    memory::embed::Embedder,
};

/// Questions that are read word by word: the nearest ones. Beyond a few, none is like it.
const MAX_READ: usize = 4;
/// Cosine below which a question is not read at all.
const MIN_COSINE: f32 = 0.5;
/// How long a question may be known before its answer must be kept, or it is forgotten: both happen at once, in no order.
const GRACE: Duration = Duration::from_secs(10);
/// What a question takes beside its words and vector, in bytes.
const ROW_OVERHEAD: usize = 160;
/// What a wall takes beside its questions, most of it for labels, in bytes.
const WALL_OVERHEAD: usize = 5 << 10;
/// When a bound is reached, this part of it is made free, so that it is not reached again at once.
const FREED_SHARE: usize = 8;
/// Decisions that the report shows.
const RECENT: usize = 50;
/// Walls that the report shows.
const REPORTED_WALLS: usize = 20;

/// Finds kept answers to questions that mean the same, and learns how far that can be trusted. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct SemanticTier(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: SemanticConfig,
    floor: f64,
    max_error: f64,
    embedder: Arc<dyn Embedder>,
    cache: AnswerCache,
    clock: Arc<dyn Clock>,
    longest_ttl: Duration,
    walls: Mutex<Walls>,
    counts: Counts,
    recent: Mutex<VecDeque<(u64, SemanticDecision)>>,
    decisions: AtomicU64,
    random: AtomicU64,
}

#[derive(Debug, Default)]
struct Walls {
    known: HashMap<Key, Arc<Mutex<Wall>>>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Counts {
    lookups: AtomicU64,
    near: AtomicU64,
    served: AtomicU64,
    would_have_served: AtomicU64,
    audited: AtomicU64,
    below: AtomicU64,
    right: AtomicU64,
    wrong: AtomicU64,
    unknown: AtomicU64,
    judged: AtomicU64,
    demoted: AtomicU64,
    vetoed: Mutex<BTreeMap<&'static str, u64>>,
}

/// Questions that may be compared with each other.
#[derive(Debug)]
struct Wall {
    scope: Scope,
    model: String,
    system: Option<String>,
    block: Block,
    rows: Vec<Row>,
    places: HashMap<Key, usize>,
    calibration: Calibration,
    lookups: u64,
    served: u64,
    would_have_served: u64,
    used_at: Duration,
}

#[derive(Debug)]
struct Row {
    key: Key,
    history: [u8; 16],
    reading: Reading,
    kept_at: Duration,
    expires_at: Duration,
    is_demoted: bool,
    /// How alike the question was that it served last, until somebody judges that.
    served: Option<f64>,
}

impl Row {
    fn weight(&self, dimensions: usize) -> usize {
        ROW_OVERHEAD + Block::row_bytes(dimensions) + self.reading.weight()
    }
}

/// A question that was looked up: its vector is used again when its answer is kept.
#[derive(Debug)]
pub(crate) struct Asked {
    vector: Vec<f32>,
    reading: Reading,
    near: Option<Candidate>,
    /// What was decided, if a question was near.
    pub decision: Option<SemanticDecision>,
}

/// A kept answer that may serve, and was not served.
#[derive(Debug)]
struct Candidate {
    key: Key,
    similarity: f64,
    answer: Arc<Answer>,
    decision: u64,
}

/// A kept answer that serves.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub answer: Arc<Answer>,
    /// Key of the kept answer, in hexadecimal.
    pub key: Arc<str>,
    pub ttl_s: u64,
    pub age_s: f64,
    /// How alike the questions are, 0..1.
    pub similarity: f64,
}

/// What a look-up comes to.
#[derive(Debug)]
pub(crate) enum Found {
    Served(Served),
    Ask(Asked),
}

/// Returns what must be equal for one answer to serve two questions, as a hash: only such are compared, so that a thousand
/// questions about other numbers do not hide the one about the same.
fn fence(history: &[u8; 16], reading: &Reading) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    let denials: Vec<_> = reading.negations().into_iter().map(|(word, _)| word).collect();
    (history, &reading.numbers, &reading.signs, denials).hash(&mut hasher);
    hasher.finish()
}

/// Returns the part of so many questions that is forgotten at once.
fn share(of: usize) -> usize {
    of.div_ceil(FREED_SHARE)
}

/// How alike two questions are, and whether the kept answer would be served.
struct Match {
    place: usize,
    cosine: f32,
    entry: Arc<Entry>,
    answer: Arc<Answer>,
    verdict: Result<f64, Veto>,
}

impl SemanticTier {
    #[cfg_attr(not(feature = "static-embedder"), allow(dead_code, reason = "there is nothing to embed with"))]
    pub fn new(
        config: &SemanticConfig,
        embedder: Arc<dyn Embedder>,
        cache: AnswerCache,
        clock: Arc<dyn Clock>,
        longest_ttl: Duration,
    ) -> SemanticTier {
        use std::hash::{BuildHasher, RandomState};
        SemanticTier(Arc::new(Inner {
            floor: config.floor(),
            max_error: config.max_error(),
            config: config.clone(),
            embedder,
            cache,
            clock,
            longest_ttl,
            walls: Mutex::default(),
            counts: Counts::default(),
            recent: Mutex::default(),
            decisions: AtomicU64::new(0),
            random: AtomicU64::new(RandomState::new().hash_one(0)),
        }))
    }

    /// Looks for a kept answer to a question that means the same.
    ///
    /// # Errors
    /// What the embedder says.
    pub async fn look(&self, question: &Question) -> Result<Found> {
        let mut asked = self.read(question).await?;
        let inner = &*self.0;
        inner.counts.lookups.fetch_add(1, Relaxed);
        let Some(wall) = inner.walls.lock().known.get(&question.wall).cloned() else { return Ok(Found::Ask(asked)) };
        let mut wall = wall.lock();
        wall.lookups += 1;
        wall.used_at = inner.clock.monotonic();
        let Some(best) = inner.best(&mut wall, question, &asked) else { return Ok(Found::Ask(asked)) };
        inner.counts.near.fetch_add(1, Relaxed);
        let key = wall.rows[best.place].key;
        let decide = |outcome: &'static str| SemanticDecision {
            outcome,
            key: key.to_hex(),
            // Vectors of length one are that only nearly.
            cosine: f64::from(best.cosine).clamp(-1.0, 1.0),
            similarity: best.verdict.as_ref().ok().copied(),
            veto: best.verdict.as_ref().err().map(|veto| veto.name()),
            right: None,
        };
        let similarity = match best.verdict {
            Ok(similarity) => similarity,
            Err(veto) => {
                *inner.counts.vetoed.lock().entry(veto.name()).or_default() += 1;
                asked.decision = Some(decide("vetoed"));
                inner.remember(decide("vetoed"));
                return Ok(Found::Ask(asked));
            }
        };
        let (threshold, serves) = inner.threshold(&wall.calibration);
        let is_audit = serves && inner.is_audited();
        let outcome = match similarity >= threshold {
            false => "below_threshold",
            true if !serves => "shadow",
            true if is_audit => "audit",
            true => "served",
        };
        let decision = inner.remember(decide(outcome));
        asked.decision = Some(decide(outcome));
        match outcome {
            "below_threshold" => inner.counts.below.fetch_add(1, Relaxed),
            "served" => {
                wall.served += 1;
                wall.rows[best.place].served = Some(similarity);
                inner.counts.served.fetch_add(1, Relaxed);
                return Ok(Found::Served(Served {
                    answer: best.answer,
                    key: best.entry.key_hex.clone(),
                    ttl_s: best.entry.ttl_s(),
                    age_s: inner.cache.age_s(&best.entry),
                    similarity,
                }));
            }
            _ => {
                wall.would_have_served += 1;
                inner.counts.audited.fetch_add(u64::from(is_audit), Relaxed);
                inner.counts.would_have_served.fetch_add(1, Relaxed)
            }
        };
        asked.near = Some(Candidate { key, similarity, answer: best.answer, decision });
        Ok(Found::Ask(asked))
    }

    /// Reads a question without looking for an answer.
    ///
    /// # Errors
    /// What the embedder says.
    pub async fn read(&self, question: &Question) -> Result<Asked> {
        let vector = self.0.embedder.embed(&[&question.text]).await?.pop().unwrap_or_default();
        Ok(Asked { vector, reading: Reading::of(&question.last), near: None, decision: None })
    }

    /// Learns from a new answer: whether the kept one would have been right, and the question itself.
    pub fn learn(&self, question: &Question, asked: Asked, keeping: &Keeping, model: &str, answer: &Answer) {
        if let Some(candidate) = &asked.near {
            self.0.label(&question.wall, candidate, &answer.text);
        }
        self.0.keep(question, asked, keeping, model);
    }

    /// Takes what a user says of an answer that was kept for another question, and returns whether it is known.
    ///
    /// Each hit counts once, as a label of its wall. An entry that was wrong once is not served any more.
    pub fn judge(&self, key: &Key, scope: &Scope, verdict: SemanticVerdict) -> bool {
        let shares = [Share::Session, Share::User, Share::Tenant, Share::All].map(|share| share.narrow(scope));
        let walls: Vec<_> = self.0.walls.lock().known.values().cloned().collect();
        for wall in walls {
            let mut wall = wall.lock();
            let Some(place) = wall.places.get(key).copied().filter(|_| shares.contains(&wall.scope)) else { continue };
            let served = wall.rows[place].served.take();
            if let Some(similarity) = served {
                self.0.counts.judged.fetch_add(1, Relaxed);
                let (right, wrong) = (&self.0.counts.right, &self.0.counts.wrong);
                let count = if verdict == SemanticVerdict::Right { right } else { wrong };
                count.fetch_add(1, Relaxed);
                wall.calibration.label(similarity, verdict == SemanticVerdict::Right);
            }
            if verdict == SemanticVerdict::Wrong {
                self.0.demote(&mut wall, place);
            }
            return true;
        }
        false
    }

    /// Forgets the questions whose answers are no longer kept.
    pub fn sweep(&self) {
        let walls: Vec<_> = self.0.walls.lock().known.values().cloned().collect();
        let freed: usize = walls.iter().map(|wall| self.0.swept(&mut wall.lock(), Duration::ZERO)).sum();
        let mut walls = self.0.walls.lock();
        walls.bytes = walls.bytes.saturating_sub(freed);
    }

    pub fn report(&self) -> SemanticReport {
        let inner = &*self.0;
        let known: Vec<_> = inner.walls.lock().known.values().cloned().collect();
        let mut groups: Vec<_> = known.iter().map(|wall| inner.group(&wall.lock())).collect();
        let entries = groups.iter().map(|group| group.entries).sum();
        groups.sort_by_key(|group| std::cmp::Reverse(group.lookups));
        groups.truncate(REPORTED_WALLS);
        let get = |count: &AtomicU64| count.load(Relaxed);
        SemanticReport {
            enabled: true,
            lookups: get(&inner.counts.lookups),
            near: get(&inner.counts.near),
            served: get(&inner.counts.served),
            would_have_served: get(&inner.counts.would_have_served),
            audited: get(&inner.counts.audited),
            below_threshold: get(&inner.counts.below),
            vetoed: inner.counts.vetoed.lock().clone(),
            right: get(&inner.counts.right),
            wrong: get(&inner.counts.wrong),
            unknown: get(&inner.counts.unknown),
            judged: get(&inner.counts.judged),
            demoted: get(&inner.counts.demoted),
            entries,
            bytes: inner.walls.lock().bytes as u64,
            groups,
            recent: inner.recent.lock().iter().rev().map(|(_, decision)| decision.clone()).collect(),
            ..SemanticReport::off(&inner.config)
        }
    }
}

impl SemanticReport {
    /// Returns the report of a tier that does nothing.
    pub(crate) fn off(config: &SemanticConfig) -> SemanticReport {
        SemanticReport {
            enabled: false,
            mode: config.mode,
            floor: config.floor(),
            max_error: config.max_error(),
            lookups: 0,
            near: 0,
            served: 0,
            would_have_served: 0,
            audited: 0,
            below_threshold: 0,
            vetoed: BTreeMap::new(),
            right: 0,
            wrong: 0,
            unknown: 0,
            judged: 0,
            demoted: 0,
            entries: 0,
            bytes: 0,
            groups: Vec::new(),
            recent: Vec::new(),
        }
    }
}

impl Inner {
    fn dimensions(&self) -> usize {
        self.embedder.dimensions().unwrap_or_default()
    }

    /// Returns the nearest question that no veto rules out, or else the nearest one.
    fn best(&self, wall: &mut Wall, question: &Question, asked: &Asked) -> Option<Match> {
        let now = self.clock.monotonic();
        let fence = fence(&question.history, &asked.reading);
        let mut near = wall.block.nearest(&asked.vector, Some(fence), MAX_READ, MIN_COSINE);
        if near.is_empty() {
            // It will be ruled out; the report says by what.
            near = wall.block.nearest(&asked.vector, None, 1, MIN_COSINE);
        }
        let mut best: Option<Match> = None;
        for near in near {
            let place = near.place as usize;
            let row = &wall.rows[place];
            if row.is_demoted || row.expires_at <= now {
                continue;
            }
            // What was invalidated or has expired is gone from there, whatever is known here.
            let Some(entry) = self.cache.get(&row.key) else { continue };
            let Payload::Answer(answer) = &entry.payload else { continue };
            let verdict = match row.history == question.history {
                true => judge(&row.reading, &asked.reading),
                false => Err(Veto::Conversation),
            };
            let found = Match { place, cosine: near.cosine, answer: answer.clone(), entry: entry.clone(), verdict };
            let is_better = match (&best, &found.verdict) {
                (None, _) => true,
                (Some(best), Ok(similarity)) => {
                    best.verdict.as_ref().is_ok_and(|own| similarity > own) || best.verdict.is_err()
                }
                (Some(_), Err(_)) => false,
            };
            if is_better {
                best = Some(found);
            }
        }
        best
    }

    /// Returns the similarity from which an answer is, or would be, served.
    fn threshold(&self, calibration: &Calibration) -> (f64, bool) {
        let threshold = match self.config.mode {
            SemanticMode::Shadow => None,
            SemanticMode::Auto => calibration.earned(self.floor, self.max_error).map(|earned| earned.threshold),
            SemanticMode::Serve => calibration.unopposed(self.floor, self.max_error),
        };
        (threshold.unwrap_or(self.floor), threshold.is_some())
    }

    fn is_audited(&self) -> bool {
        // SplitMix64 (Steele, Lea and Flood, 2014): any number will do that callers cannot foresee.
        let mut z = self.random.fetch_add(0x9E37_79B9_7F4A_7C15, Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) as f64 / u64::MAX as f64) < self.config.audit
    }

    /// Remembers a decision for the report, and returns its number.
    fn remember(&self, decision: SemanticDecision) -> u64 {
        let number = self.decisions.fetch_add(1, Relaxed);
        let mut recent = self.recent.lock();
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back((number, decision));
        number
    }

    fn label(&self, wall: &Key, candidate: &Candidate, new: &str) {
        let sameness = answers::compare(&candidate.answer.text, new);
        let count = match sameness {
            Sameness::Same => &self.counts.right,
            Sameness::Other => &self.counts.wrong,
            Sameness::Unknown => &self.counts.unknown,
        };
        count.fetch_add(1, Relaxed);
        if sameness != Sameness::Unknown
            && let Some((_, decision)) = self.recent.lock().iter_mut().find(|(number, _)| *number == candidate.decision)
        {
            decision.right = Some(sameness == Sameness::Same);
        }
        let Some(wall) = self.walls.lock().known.get(wall).cloned() else { return };
        let mut wall = wall.lock();
        wall.calibration.label(candidate.similarity, sameness == Sameness::Same);
        if sameness == Sameness::Other
            && candidate.similarity >= self.floor
            && let Some(place) = wall.places.get(&candidate.key).copied()
        {
            self.demote(&mut wall, place);
        }
    }

    fn demote(&self, wall: &mut Wall, place: usize) {
        if !std::mem::replace(&mut wall.rows[place].is_demoted, true) {
            self.counts.demoted.fetch_add(1, Relaxed);
        }
    }

    fn keep(&self, question: &Question, asked: Asked, keeping: &Keeping, model: &str) {
        let dimensions = self.dimensions();
        if asked.vector.len() != dimensions || asked.vector.iter().all(|value| *value == 0.0) {
            return;
        }
        let now = self.clock.monotonic();
        let row = Row {
            key: keeping.key,
            history: question.history,
            reading: asked.reading,
            kept_at: now,
            // The answer's own time is shorter or the same; it is asked whenever the question is found.
            expires_at: now + keeping.ttl.map_or(self.longest_ttl, Duration::from_secs),
            is_demoted: false,
            served: None,
        };
        let added = row.weight(dimensions);
        if added as u64 > self.config.max_bytes {
            return;
        }
        let wall = self.walls.lock().wall(question, keeping, model, dimensions);
        let freed = {
            let mut wall = wall.lock();
            let mut freed = wall.remove(&row.key, dimensions);
            if wall.rows.len() >= self.config.max_entries {
                freed += self.swept(&mut wall, GRACE);
            }
            if wall.rows.len() >= self.config.max_entries {
                freed += wall.remove_oldest(share(self.config.max_entries), dimensions);
            }
            wall.used_at = now;
            wall.put(row, &asked.vector);
            freed
        };
        let mut walls = self.walls.lock();
        walls.bytes = (walls.bytes + added).saturating_sub(freed);
        walls.shrink(self.config.max_bytes, dimensions, &question.wall);
    }

    /// Forgets questions whose answers are gone, and returns how many bytes they took.
    fn swept(&self, wall: &mut Wall, grace: Duration) -> usize {
        let now = self.clock.monotonic();
        let gone =
            |row: &Row| row.expires_at <= now || (row.kept_at + grace <= now && self.cache.get(&row.key).is_none());
        let keys: Vec<_> = wall.rows.iter().filter(|row| gone(row)).map(|row| row.key).collect();
        keys.iter().map(|key| wall.remove(key, self.dimensions())).sum()
    }

    fn group(&self, wall: &Wall) -> SemanticGroup {
        let (threshold, serves) = self.threshold(&wall.calibration);
        SemanticGroup {
            scope: wall.scope.clone(),
            model: wall.model.clone(),
            system: wall.system.clone(),
            entries: wall.rows.len() as u64,
            lookups: wall.lookups,
            served: wall.served,
            would_have_served: wall.would_have_served,
            threshold: serves.then_some(threshold),
            error_bound: wall.calibration.bound_at(threshold),
            labels: wall.calibration.len() as u64,
        }
    }
}

impl Walls {
    fn wall(&mut self, question: &Question, keeping: &Keeping, model: &str, dimensions: usize) -> Arc<Mutex<Wall>> {
        let bytes = &mut self.bytes;
        let new = || {
            *bytes += WALL_OVERHEAD;
            Wall::new(question, keeping, model, dimensions)
        };
        self.known.entry(question.wall).or_insert_with(new).clone()
    }

    /// Forgets the walls that were not used for the longest time, where the bound is passed.
    fn shrink(&mut self, max_bytes: u64, dimensions: usize, except: &Key) {
        if self.bytes as u64 <= max_bytes {
            return;
        }
        let mut by_use: Vec<_> = self.known.iter().map(|(key, wall)| (wall.lock().used_at, *key)).collect();
        by_use.sort_unstable_by_key(|(used_at, _)| *used_at);
        for (_, key) in by_use.into_iter().filter(|(_, key)| key != except) {
            if self.bytes as u64 <= max_bytes - max_bytes / FREED_SHARE as u64 {
                return;
            }
            if let Some(wall) = self.known.remove(&key) {
                let freed: usize = wall.lock().rows.iter().map(|row| row.weight(dimensions)).sum();
                self.bytes = self.bytes.saturating_sub(freed + WALL_OVERHEAD);
            }
        }
        // Only its own wall is left: the oldest questions go.
        while self.bytes as u64 > max_bytes {
            let Some(wall) = self.known.get(except) else { return };
            let mut wall = wall.lock();
            let count = share(wall.rows.len());
            if count == 0 {
                return;
            }
            self.bytes = self.bytes.saturating_sub(wall.remove_oldest(count, dimensions));
        }
    }
}

impl Wall {
    fn new(question: &Question, keeping: &Keeping, model: &str, dimensions: usize) -> Arc<Mutex<Wall>> {
        Arc::new(Mutex::new(Wall {
            scope: keeping.scope.clone(),
            model: model.to_owned(),
            system: question.system.clone(),
            block: Block::new(dimensions),
            rows: Vec::new(),
            places: HashMap::new(),
            calibration: Calibration::default(),
            lookups: 0,
            served: 0,
            would_have_served: 0,
            used_at: Duration::ZERO,
        }))
    }

    fn put(&mut self, row: Row, vector: &[f32]) {
        self.block.push(vector, fence(&row.history, &row.reading));
        self.places.insert(row.key, self.rows.len());
        self.rows.push(row);
    }

    /// Forgets a question, and returns how many bytes it took.
    fn remove(&mut self, key: &Key, dimensions: usize) -> usize {
        let Some(place) = self.places.remove(key) else { return 0 };
        self.block.swap_remove(place);
        let row = self.rows.swap_remove(place);
        if let Some(moved) = self.rows.get(place) {
            self.places.insert(moved.key, place);
        }
        row.weight(dimensions)
    }

    /// Forgets the oldest questions, and returns how many bytes they took.
    fn remove_oldest(&mut self, count: usize, dimensions: usize) -> usize {
        let mut by_age: Vec<_> = self.rows.iter().map(|row| (row.kept_at, row.key)).collect();
        by_age.sort_unstable_by_key(|(kept_at, _)| *kept_at);
        by_age.iter().take(count).map(|(_, key)| self.remove(key, dimensions)).sum()
    }
}
