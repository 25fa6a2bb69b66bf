//! What a scope may use: calls and tokens a minute, dollars a day and a month.
//!
//! A rate is a bucket that holds one minute's worth and fills evenly (the token bucket of Turner, 1986), counted as the time
//! at which it is full again: one number, which several processes can move in one step. Tokens and dollars are known when
//! an answer is there: so what is under way may overshoot them, by what is under way, and is paid back first.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    counts::Counts,
    ledger::{date, day_of, midnight},
};
use crate::{
    Clock, Error, ErrorKind, Result, Scope,
    chat::{config::ChatConfig, request::Share},
    tally::TallyChange,
};

/// Most rules: each call is held against all of them.
const MAX_RULES: usize = 64;
/// What the rates are for.
const MINUTE_S: f64 = 60.0;
/// Times are counted in microseconds: a double holds them whole.
const MINUTE_US: f64 = MINUTE_S * 1e6;
/// What a wait to the microsecond may be short of, in calls or tokens.
const ROUNDING: f64 = 1e-3;
/// How long a bucket is needed that calls are taken from: until it is full again, and some more.
const CALLS_LAST: SignedDuration = SignedDuration::from_mins(2);
/// The same for tokens, of which one answer may take more than a minute's worth. What takes longer to pay back is forgiven.
const TOKENS_LAST: SignedDuration = SignedDuration::from_hours(24);
/// How long what was spent is needed after its month.
const SPENT_LASTS: SignedDuration = SignedDuration::from_hours(24);
/// Names of what is counted.
const REQUESTS: &str = "requests";
const TOKENS: &str = "tokens";
const MONTH: &str = "month";
const UNPRICED: &str = "unpriced";

/// How much calls may use, those for vectors included. A call that several of these concern must keep all of them. What a call
/// used whose end nobody heard, such as a stream that was left, or whose provider counts no tokens, is estimated: four bytes
/// are a token.
///
/// Counted for all processes that share Redis, or else a `data_dir`, and across restarts; with neither, by this process since
/// it started. A kept answer uses nothing. A call whose cost is not known uses no budget: `chat.budget` tells how many there
/// were.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LimitConfig {
    /// Only calls of this tenant. Default all.
    pub tenant: Option<String>,
    /// Only calls of this user. Default all.
    pub user: Option<String>,
    /// Whose calls are counted together: those of each session, user or tenant, or all. Default user.
    pub per: Share,
    /// Calls a minute. Default any number.
    pub requests_per_minute: Option<u64>,
    /// Tokens a minute, of requests and answers together. Default any number.
    pub tokens_per_minute: Option<u64>,
    /// US dollars a day, UTC. Default any sum.
    pub daily_usd: Option<f64>,
    /// US dollars a calendar month, UTC. Default any sum.
    pub monthly_usd: Option<f64>,
}

impl LimitConfig {
    /// Creates a rule without a limit, which counts the calls of each `per`.
    pub fn per(per: Share) -> LimitConfig {
        LimitConfig { per, ..LimitConfig::default() }
    }

    /// Sets the calls a minute.
    #[must_use]
    pub fn requests_per_minute(mut self, requests: u64) -> LimitConfig {
        self.requests_per_minute = Some(requests);
        self
    }

    /// Sets the tokens a minute.
    #[must_use]
    pub fn tokens_per_minute(mut self, tokens: u64) -> LimitConfig {
        self.tokens_per_minute = Some(tokens);
        self
    }

    /// Sets the dollars a day.
    #[must_use]
    pub fn daily_usd(mut self, usd: f64) -> LimitConfig {
        self.daily_usd = Some(usd);
        self
    }

    /// Sets the dollars a month.
    #[must_use]
    pub fn monthly_usd(mut self, usd: f64) -> LimitConfig {
        self.monthly_usd = Some(usd);
        self
    }

    fn id(&self) -> String {
        let whom = Scope { tenant: self.tenant.clone(), user: self.user.clone(), ..Scope::default() };
        let whom = blake3::hash(whom.key().as_bytes());
        format!("{:?}-{}", self.per, &whom.to_hex()[..16]).to_lowercase()
    }

    fn concerns(&self, scope: &Scope) -> bool {
        let is = |own: &Option<String>, theirs: &Option<String>| own.is_none() || own == theirs;
        is(&self.tenant, &scope.tenant) && is(&self.user, &scope.user)
    }

    fn max(&self, limit: LimitKind) -> Option<f64> {
        match limit {
            LimitKind::RequestsPerMinute => self.requests_per_minute.map(|max| max as f64),
            LimitKind::TokensPerMinute => self.tokens_per_minute.map(|max| max as f64),
            LimitKind::DailyUsd => self.daily_usd,
            LimitKind::MonthlyUsd => self.monthly_usd,
        }
    }

    fn validate(&self, path: &str) -> Result<()> {
        let mut limits = LimitKind::ALL.into_iter().filter_map(|limit| Some((limit, self.max(limit)?))).peekable();
        if limits.peek().is_none() {
            return Err(Error::invalid_config(
                path,
                "limits nothing: set one of requests_per_minute, tokens_per_minute, daily_usd, monthly_usd",
            ));
        }
        for (limit, max) in limits {
            // A budget of nothing is a way to say no.
            let least = if limit.is_rate() { 1.0 } else { 0.0 };
            if !max.is_finite() || max < least {
                return Err(Error::invalid_config(
                    &format!("{path}.{}", limit.name()),
                    format!("must be at least {least}"),
                ));
            }
        }
        Ok(())
    }
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LimitKind {
    /// Calls a minute.
    RequestsPerMinute,
    /// Tokens a minute.
    TokensPerMinute,
    /// US dollars a day.
    DailyUsd,
    /// US dollars a month.
    MonthlyUsd,
}

impl LimitKind {
    const ALL: [LimitKind; 4] =
        [LimitKind::RequestsPerMinute, LimitKind::TokensPerMinute, LimitKind::DailyUsd, LimitKind::MonthlyUsd];

    /// Those that are not used by asking, but by what is answered.
    const OF_ANSWERS: [LimitKind; 3] = [LimitKind::TokensPerMinute, LimitKind::DailyUsd, LimitKind::MonthlyUsd];

    /// Returns the name, as configured.
    pub const fn name(self) -> &'static str {
        match self {
            LimitKind::RequestsPerMinute => "requests_per_minute",
            LimitKind::TokensPerMinute => "tokens_per_minute",
            LimitKind::DailyUsd => "daily_usd",
            LimitKind::MonthlyUsd => "monthly_usd",
        }
    }

    const fn is_rate(self) -> bool {
        matches!(self, LimitKind::RequestsPerMinute | LimitKind::TokensPerMinute)
    }
}

/// One limit, and how much of it is used.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct LimitStatus {
    /// Where it is configured, such as `"chat.limits[0]"`.
    pub rule: String,
    /// What is limited.
    pub limit: LimitKind,
    /// Whose calls are counted together.
    pub scope: Scope,
    /// How much may be used.
    pub max: f64,
    /// How much is used; more than `max` where calls under way overshot it.
    pub used: f64,
    /// How much is left, at least 0.
    pub remaining: f64,
    /// When nothing is used any more; null where nothing is.
    pub resets_at: Option<Timestamp>,
    /// Calls whose cost is not known, and not counted, since the month began; null for a rate.
    pub unpriced_calls: Option<u64>,
}

/// The limits, and what was counted of them. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Limits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rules: Vec<Rule>,
    clock: Arc<dyn Clock>,
    counts: Counts,
}

#[derive(Debug)]
struct Rule {
    config: LimitConfig,
    /// What its numbers are named by: whom it concerns and whose calls it counts together, not where it stands.
    id: String,
}

/// The present, as limits need it.
#[derive(Debug, Clone, Copy)]
struct Now {
    time: Timestamp,
    day: i64,
}

impl Limits {
    pub fn new(config: &ChatConfig, clock: Arc<dyn Clock>, counts: Counts) -> Result<Limits> {
        if config.limits.len() > MAX_RULES {
            return Err(Error::invalid_config("chat.limits", format!("must be at most {MAX_RULES}")));
        }
        let mut rules: Vec<Rule> = Vec::new();
        for (index, rule) in config.limits.iter().enumerate() {
            rule.validate(&path(index))?;
            let id = rule.id();
            let alike = rules.iter().filter(|other| other.id.starts_with(&id)).count();
            rules.push(Rule { config: rule.clone(), id: format!("{id}.{alike}") });
        }
        Ok(Limits(Arc::new(Inner { rules, clock, counts })))
    }

    /// Counts one call of `scope`, if it keeps every limit.
    ///
    /// # Errors
    /// RateLimited, naming the limit that is open again last, and when that is.
    pub async fn admit(&self, operation: &'static str, scope: &Scope) -> Result<()> {
        self.ask(operation, scope, &LimitKind::ALL).await
    }

    /// Asks for a call that was counted whether anything is left of what answers use.
    ///
    /// # Errors
    /// As [`Limits::admit`].
    pub async fn admit_counted(&self, operation: &'static str, scope: &Scope) -> Result<()> {
        self.ask(operation, scope, &LimitKind::OF_ANSWERS).await
    }

    async fn ask(&self, operation: &'static str, scope: &Scope, kinds: &[LimitKind]) -> Result<()> {
        if self.0.rules.is_empty() {
            return Ok(());
        }
        let now = Now::of(&*self.0.clock);
        let (mut asked, mut changes) = (Vec::new(), Vec::new());
        for (index, rule) in self.concerning(scope) {
            for &limit in kinds {
                let Some(max) = rule.config.max(limit) else { continue };
                asked.push((index, limit, max));
                changes.push(rule.admission(limit, max, scope, now));
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        let outcome = self.0.counts.try_apply(&changes).await;
        if outcome.applied {
            return Ok(());
        }
        let waits = asked
            .iter()
            .zip(&outcome.numbers)
            .filter_map(|((index, limit, max), number)| Some((limit.wait(*max, *number, now)?, *index, *limit)));
        let longest = waits.reduce(|longest, wait| if wait.0 > longest.0 { wait } else { longest });
        match longest {
            Some((wait, index, limit)) => Err(self.refusal(operation, scope, index, limit).with_retry_after(wait)),
            None => Ok(()),
        }
    }

    /// Counts what an answer used.
    pub fn used(&self, scope: &Scope, tokens: u64, cost_usd: Option<f64>) {
        if self.0.rules.is_empty() {
            return;
        }
        let now = Now::of(&*self.0.clock);
        let changes: Vec<_> =
            self.concerning(scope).flat_map(|(_, rule)| rule.usage(scope, tokens, cost_usd, now)).collect();
        self.0.counts.add(changes);
    }

    /// Returns every limit that concerns calls of `scope`.
    pub async fn status(&self, scope: &Scope) -> Result<Vec<LimitStatus>> {
        scope.validate("chat.budget")?;
        self.0.counts.share().await;
        let now = Now::of(&*self.0.clock);
        let mut status = Vec::new();
        for (index, rule) in self.concerning(scope) {
            let looked = |field| TallyChange::add(rule.rates(scope), field, 0.0, now.plus(TOKENS_LAST)).floor(now.us());
            let rates = self.0.counts.try_apply(&[looked(REQUESTS), looked(TOKENS)]).await.numbers;
            let spent = self.0.counts.read(&rule.spent(scope, now)).await;
            let find = |numbers: &[(String, f64)], field: &str| {
                numbers.iter().find(|(name, _)| name == field).map_or(0.0, |(_, number)| *number)
            };
            for limit in LimitKind::ALL {
                let Some(max) = rule.config.max(limit) else { continue };
                let amount = match limit {
                    LimitKind::RequestsPerMinute => now.gone(max, rates[0]),
                    LimitKind::TokensPerMinute => now.gone(max, rates[1]),
                    LimitKind::DailyUsd => find(&spent, &now.today()),
                    LimitKind::MonthlyUsd => find(&spent, MONTH),
                };
                let resets_in = match limit.is_rate() {
                    true => seconds(amount * MINUTE_S / max),
                    false => now.until(limit),
                };
                status.push(LimitStatus {
                    rule: path(index),
                    limit,
                    scope: rule.config.per.narrow(scope),
                    max,
                    used: amount,
                    remaining: (max - amount).max(0.0),
                    resets_at: (amount > 0.0).then(|| now.after(resets_in)),
                    unpriced_calls: (!limit.is_rate()).then(|| find(&spent, UNPRICED) as u64),
                });
            }
        }
        Ok(status)
    }

    fn concerning<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = (usize, &'a Rule)> {
        self.0.rules.iter().enumerate().filter(move |(_, rule)| rule.config.concerns(scope))
    }

    fn refusal(&self, operation: &'static str, scope: &Scope, index: usize, limit: LimitKind) -> Error {
        let rule = &self.0.rules[index].config;
        let (max, name, whose) = (rule.max(limit).unwrap_or_default(), limit.name(), whose(rule.per, scope));
        let message = format!("the limit of {max} {name} of {whose} is reached (`{}`)", path(index));
        Error::new(ErrorKind::RateLimited, operation, message).with("limit", name).with("rule", path(index))
    }
}

impl Rule {
    /// Names the numbers of the rates of a scope.
    fn rates(&self, scope: &Scope) -> String {
        // Hashed: names of people are not needed to count.
        let whose = blake3::hash(self.config.per.narrow(scope).key().as_bytes());
        format!("limit:{}:{}", self.id, &whose.to_hex()[..32])
    }

    /// Names the numbers of what a scope spent in a month.
    fn spent(&self, scope: &Scope, now: Now) -> String {
        format!("{}:{}", self.rates(scope), now.month())
    }

    /// Returns what one more call changes, and what it must not pass.
    fn admission(&self, limit: LimitKind, max: f64, scope: &Scope, now: Now) -> TallyChange {
        let (us, rounding) = (now.us(), MINUTE_US * ROUNDING / max);
        match limit {
            LimitKind::RequestsPerMinute => {
                let taken = TallyChange::add(self.rates(scope), REQUESTS, MINUTE_US / max, now.plus(CALLS_LAST));
                taken.floor(us).at_most(us + MINUTE_US + rounding)
            }
            LimitKind::TokensPerMinute => {
                let looked = TallyChange::add(self.rates(scope), TOKENS, 0.0, now.plus(TOKENS_LAST));
                looked.floor(us).at_most(us + MINUTE_US * (max - 1.0) / max + rounding)
            }
            // Less than all of it: so a budget of nothing lets nothing through.
            LimitKind::DailyUsd => {
                TallyChange::add(self.spent(scope, now), now.today(), 0.0, now.month_ends()).at_most(max.next_down())
            }
            LimitKind::MonthlyUsd => {
                TallyChange::add(self.spent(scope, now), MONTH, 0.0, now.month_ends()).at_most(max.next_down())
            }
        }
    }

    /// Returns what an answer changes.
    fn usage(&self, scope: &Scope, tokens: u64, cost_usd: Option<f64>, now: Now) -> Vec<TallyChange> {
        let mut changes = Vec::new();
        if let Some(max) = self.config.tokens_per_minute {
            let amount = tokens as f64 * MINUTE_US / max as f64;
            let taken = TallyChange::add(self.rates(scope), TOKENS, amount, now.plus(TOKENS_LAST));
            changes.push(taken.floor(now.us()));
        }
        if self.config.daily_usd.is_some() || self.config.monthly_usd.is_some() {
            let spent = self.spent(scope, now);
            let add = |field: &str, amount| TallyChange::add(spent.clone(), field, amount, now.month_ends());
            match cost_usd {
                Some(cost) => changes.extend([add(&now.today(), cost), add(MONTH, cost)]),
                None => changes.push(add(UNPRICED, 1.0)),
            }
        }
        changes
    }
}

impl LimitKind {
    /// Returns how long a call has to wait whose number would be this; `None` where it may go.
    fn wait(self, max: f64, number: f64, now: Now) -> Option<Duration> {
        let over = match self {
            LimitKind::RequestsPerMinute => now.gone(max, number) - max,
            LimitKind::TokensPerMinute => now.gone(max, number) + 1.0 - max,
            LimitKind::DailyUsd | LimitKind::MonthlyUsd => return (number >= max).then(|| now.until(self)),
        };
        (over > ROUNDING).then(|| seconds(over * MINUTE_S / max))
    }
}

impl Now {
    fn of(clock: &dyn Clock) -> Now {
        let time = clock.now();
        Now { time, day: day_of(time) }
    }

    fn us(&self) -> f64 {
        self.time.as_microsecond() as f64
    }

    /// Returns how much is gone of a bucket that is full again at `full_at`.
    fn gone(&self, max: f64, full_at: f64) -> f64 {
        (full_at - self.us()).max(0.0) * max / MINUTE_US
    }

    /// Names today.
    fn today(&self) -> String {
        format!("day-{}", self.day)
    }

    /// Returns when what was spent in this month is not needed any more.
    fn month_ends(&self) -> Timestamp {
        Now { time: self.after(self.until(LimitKind::MonthlyUsd)), ..*self }.plus(SPENT_LASTS)
    }

    /// Returns the number of the month.
    fn month(&self) -> i64 {
        let today = date(self.day);
        i64::from(today.year()) * 12 + i64::from(today.month())
    }

    /// Returns how long it is until the period of a budget is over.
    fn until(&self, limit: LimitKind) -> Duration {
        let today = date(self.day);
        let next = match limit {
            LimitKind::MonthlyUsd => today.last_of_month().tomorrow(),
            _ => today.tomorrow(),
        };
        let begins = next.map_or(self.time, midnight);
        Duration::try_from(begins.duration_since(self.time)).unwrap_or_default()
    }

    fn after(&self, wait: Duration) -> Timestamp {
        self.plus(SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX))
    }

    fn plus(&self, wait: SignedDuration) -> Timestamp {
        self.time.saturating_add(wait).unwrap_or(Timestamp::MAX)
    }
}

/// Makes a duration of finite seconds, rounded up so that what waits for it is not early.
fn seconds(seconds: f64) -> Duration {
    const MICROSECOND: f64 = 1e-6;
    Duration::try_from_secs_f64(seconds + MICROSECOND).unwrap_or(Duration::MAX)
}

/// Returns whether a scope is over one of its limits, which says nothing about others who ask the same.
pub(crate) fn is_over_limit(error: &Error) -> bool {
    error.kind() == ErrorKind::RateLimited && error.get("limit").is_some()
}

fn path(index: usize) -> String {
    format!("chat.limits[{index}]")
}

/// Says whose calls are counted together, for people.
fn whose(per: Share, scope: &Scope) -> String {
    let scope = per.narrow(scope);
    let parts = [("tenant", scope.tenant), ("user", scope.user), ("session", scope.session)];
    let named: Vec<_> = parts.into_iter().filter_map(|(part, name)| Some(format!("{part} `{}`", name?))).collect();
    if named.is_empty() { "all calls".to_owned() } else { named.join(", ") }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use proptest::prelude::*;

    use super::*;
    use crate::{ManualClock, tally};

    const HOUR: Duration = Duration::from_secs(3600);

    fn limits(rules: &[LimitConfig]) -> (Limits, Arc<ManualClock>) {
        // 2026-01-30T12:00:00Z: the day after tomorrow is in the next month.
        let clock = Arc::new(ManualClock::new(Timestamp::constant(1_769_774_400, 0)));
        let config = ChatConfig { limits: rules.to_vec(), ..ChatConfig::default() };
        (Limits::new(&config, clock.clone(), Counts::new(clock.clone(), None)).unwrap(), clock)
    }

    /// Without a shared store, nothing is waited for.
    fn admit(limits: &Limits, scope: &Scope) -> Result<()> {
        limits.admit("test", scope).now_or_never().unwrap()
    }

    fn status(limits: &Limits, scope: &Scope) -> Vec<LimitStatus> {
        limits.status(scope).now_or_never().unwrap().unwrap()
    }

    fn user(name: &str) -> Scope {
        Scope::new().tenant("acme").user(name)
    }

    fn refusal(limits: &Limits, scope: &Scope) -> (String, Duration) {
        let error = admit(limits, scope).unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), ("RATE_LIMITED", true));
        (error.get("limit").unwrap().to_owned(), error.retry_after().unwrap())
    }

    #[test]
    fn a_minutes_worth_of_calls_goes_at_once_and_then_evenly() {
        let (limits, clock) = limits(&[LimitConfig::per(Share::User).requests_per_minute(6)]);
        for _ in 0..6 {
            admit(&limits, &user("ada")).unwrap();
        }
        let (limit, wait) = refusal(&limits, &user("ada"));
        assert_eq!((limit.as_str(), wait.as_secs()), ("requests_per_minute", 10));
        admit(&limits, &user("bob")).unwrap();
        clock.advance(wait);
        admit(&limits, &user("ada")).unwrap();
        assert!(admit(&limits, &user("ada")).is_err());
    }

    #[test]
    fn tokens_are_paid_back_before_the_next_call() {
        let (limits, clock) = limits(&[LimitConfig::per(Share::Tenant).tokens_per_minute(600)]);
        admit(&limits, &user("ada")).unwrap();
        limits.used(&user("ada"), 1200, None);
        let (limit, wait) = refusal(&limits, &user("bob"));
        assert_eq!((limit.as_str(), wait.as_secs()), ("tokens_per_minute", 60), "they share a tenant");
        admit(&limits, &Scope::new().tenant("other")).unwrap();
        clock.advance(wait);
        admit(&limits, &user("bob")).unwrap();
    }

    #[test]
    fn a_budget_lasts_until_the_day_or_the_month_is_over() {
        let rules = [LimitConfig::per(Share::User).daily_usd(1.0).monthly_usd(1.5)];
        let (limits, clock) = limits(&rules);
        limits.used(&user("ada"), 0, Some(0.99));
        admit(&limits, &user("ada")).unwrap();
        limits.used(&user("ada"), 0, Some(0.2));
        assert_eq!(refusal(&limits, &user("ada")), ("daily_usd".to_owned(), 12 * HOUR));
        clock.advance(12 * HOUR);
        admit(&limits, &user("ada")).unwrap();
        limits.used(&user("ada"), 0, Some(0.5));
        assert_eq!(refusal(&limits, &user("ada")), ("monthly_usd".to_owned(), 24 * HOUR));
        clock.advance(24 * HOUR);
        admit(&limits, &user("ada")).unwrap();
    }

    #[test]
    fn the_limit_that_opens_last_is_named_and_a_refused_call_uses_nothing() {
        let rules = [
            LimitConfig::per(Share::User).requests_per_minute(2),
            LimitConfig { tenant: Some("acme".into()), ..LimitConfig::per(Share::All).requests_per_minute(1) },
        ];
        let (limits, _) = limits(&rules);
        admit(&limits, &user("ada")).unwrap();
        for _ in 0..5 {
            let error = admit(&limits, &user("ada")).unwrap_err();
            assert_eq!((error.get("rule"), error.retry_after().unwrap().as_secs()), (Some("chat.limits[1]"), 60));
        }
        let hers = status(&limits, &user("ada"));
        assert_eq!((hers[0].used, hers[0].remaining, hers[1].remaining), (1.0, 1.0, 0.0));
        admit(&limits, &Scope::new().tenant("other").user("ada")).unwrap();
    }

    #[test]
    fn the_status_says_what_is_used_and_when_it_is_over() {
        let rules = [LimitConfig::per(Share::User).tokens_per_minute(60).daily_usd(2.0).monthly_usd(10.0)];
        let (limits, clock) = limits(&rules);
        let status = || status(&limits, &user("ada"));
        assert!(status().iter().all(|limit| limit.used == 0.0 && limit.resets_at.is_none()));
        limits.used(&user("ada"), 30, Some(0.5));
        limits.used(&user("ada"), 0, None);
        let [tokens, day, month] = status().try_into().unwrap();
        assert_eq!((tokens.limit, tokens.used, tokens.unpriced_calls), (LimitKind::TokensPerMinute, 30.0, None));
        assert_eq!((day.used, day.remaining, day.unpriced_calls), (0.5, 1.5, Some(1)));
        assert_eq!(day.resets_at.unwrap().to_string(), "2026-01-31T00:00:00Z");
        assert_eq!(month.resets_at.unwrap().to_string(), "2026-02-01T00:00:00Z");
        clock.advance(48 * HOUR);
        assert!(status().iter().all(|limit| limit.used == 0.0 && limit.unpriced_calls.unwrap_or(0) == 0));
        assert_eq!(status()[0].scope, user("ada"));
    }

    #[test]
    fn a_rule_that_cannot_work_is_refused() {
        let clock = Arc::new(ManualClock::default());
        let field = |rule: LimitConfig| {
            let config = ChatConfig { limits: vec![rule], ..ChatConfig::default() };
            Limits::new(&config, clock.clone(), Counts::new(clock.clone(), None))
                .unwrap_err()
                .get("field")
                .unwrap()
                .to_owned()
        };
        assert_eq!(field(LimitConfig::default()), "chat.limits[0]");
        assert_eq!(field(LimitConfig::default().requests_per_minute(0)), "chat.limits[0].requests_per_minute");
        assert_eq!(field(LimitConfig::default().daily_usd(-1.0)), "chat.limits[0].daily_usd");
    }

    #[test]
    fn counts_are_bounded_and_those_without_a_place_share_one() {
        let (limits, clock) = limits(&[LimitConfig::per(Share::User).requests_per_minute(2)]);
        let ask = |index: usize| admit(&limits, &user(&index.to_string()));
        (0..tally::MAX_GROUPS).for_each(|index| ask(index).unwrap());
        assert!(
            ask(tally::MAX_GROUPS).is_ok() && ask(tally::MAX_GROUPS + 1).is_ok() && ask(tally::MAX_GROUPS + 2).is_err()
        );
        clock.advance(HOUR);
        (0..10).for_each(|index| ask(tally::MAX_GROUPS + 10 + index).unwrap());
        assert!(limits.0.counts.local().len() < 20, "those that use nothing make room");
    }

    proptest! {
        #[test]
        fn no_minute_admits_more_than_twice_the_rate(steps in proptest::collection::vec(0u64..5_000, 1..300)) {
            let (limits, clock) = limits(&[LimitConfig::per(Share::User).requests_per_minute(10)]);
            let (mut now, mut admitted) = (0, Vec::new());
            for step in steps {
                clock.advance(Duration::from_millis(step));
                now += step;
                if admit(&limits, &user("ada")).is_ok() {
                    admitted.push(now);
                }
            }
            for (index, begin) in admitted.iter().enumerate() {
                let within = admitted[index..].iter().take_while(|at| *at - begin < 60_000).count();
                prop_assert!(within <= 20, "{within}");
            }
        }
    }
}
