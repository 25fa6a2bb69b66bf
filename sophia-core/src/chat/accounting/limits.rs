//! What a scope may use: calls and tokens a minute, dollars a day and a month.
//!
//! A rate is a bucket that holds one minute's worth and fills evenly (the token bucket of Turner, 1986). Tokens and dollars
//! are known when an answer is there: so what is under way may overshoot them, by what is under way, and is paid back first.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ledger::{date, day_of, midnight};
use crate::{
    Clock, Error, ErrorKind, Result, Scope,
    chat::{config::ChatConfig, request::Share},
};

/// Most rules: each call is held against all of them.
const MAX_RULES: usize = 64;
/// Most scopes that are counted by themselves; those that come later share one count.
const MAX_COUNTERS: usize = 65_536;
/// What the rates are for.
const MINUTE_S: f64 = 60.0;

/// How much calls may use. A call that several of these concern must keep all of them.
///
/// Counted by this process since it started. A kept answer uses nothing. A call whose cost is not known uses no budget: `chat.budget` tells how many there were.
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

/// What everyone used. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Limits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rules: Vec<LimitConfig>,
    clock: Arc<dyn Clock>,
    used: Mutex<Counters>,
}

/// What one scope used of one rule.
#[derive(Debug, Clone)]
struct Used {
    requests: Bucket,
    tokens: Bucket,
    day: Spent,
    month: Spent,
    unpriced_calls: u64,
}

/// How much is gone of a minute's worth, at a moment.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    gone: f64,
    at: Duration,
}

/// How much was spent in one period.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Spent {
    period: i64,
    usd: f64,
}

/// The present, in the two ways in which limits need it.
#[derive(Debug, Clone, Copy)]
struct Now {
    time: Timestamp,
    monotonic: Duration,
    day: i64,
}

impl Limits {
    pub fn new(config: &ChatConfig, clock: Arc<dyn Clock>) -> Result<Limits> {
        let rules = config.limits.clone();
        if rules.len() > MAX_RULES {
            return Err(Error::invalid_config("chat.limits", format!("must be at most {MAX_RULES}")));
        }
        for (index, rule) in rules.iter().enumerate() {
            rule.validate(&path(index))?;
        }
        Ok(Limits(Arc::new(Inner { rules, clock, used: Mutex::default() })))
    }

    /// Counts one call of `scope`, if it keeps every limit.
    ///
    /// # Errors
    /// RateLimited, naming the limit that is open again last, and when that is.
    pub fn admit(&self, operation: &'static str, scope: &Scope) -> Result<()> {
        if self.0.rules.is_empty() {
            return Ok(());
        }
        let now = Now::of(&*self.0.clock);
        let mut counters = self.0.used.lock();
        let mut refused: Option<(Duration, usize, LimitKind)> = None;
        for (index, rule) in self.concerning(scope) {
            let used = self.find(&mut counters, index, scope, now);
            for limit in LimitKind::ALL {
                if let Some(wait) = rule.max(limit).and_then(|max| used.wait(limit, max, now))
                    && refused.is_none_or(|(longest, ..)| wait > longest)
                {
                    refused = Some((wait, index, limit));
                }
            }
        }
        if let Some((wait, index, limit)) = refused {
            return Err(self.refusal(operation, scope, index, limit).with_retry_after(wait));
        }
        for (index, rule) in self.concerning(scope) {
            self.find(&mut counters, index, scope, now).ask(rule, now);
        }
        Ok(())
    }

    /// Counts what an answer used.
    pub fn used(&self, scope: &Scope, tokens: u64, cost_usd: Option<f64>) {
        if self.0.rules.is_empty() {
            return;
        }
        let now = Now::of(&*self.0.clock);
        let mut counters = self.0.used.lock();
        for (index, rule) in self.concerning(scope) {
            self.find(&mut counters, index, scope, now).answered(rule, tokens, cost_usd, now);
        }
    }

    /// Returns every limit that concerns calls of `scope`.
    pub fn status(&self, scope: &Scope) -> Result<Vec<LimitStatus>> {
        scope.validate("chat.budget")?;
        let now = Now::of(&*self.0.clock);
        let counters = self.0.used.lock();
        let mut status = Vec::new();
        for (index, rule) in self.concerning(scope) {
            let key = (index, Some(rule.per.narrow(scope)));
            let used = counters.get(&key).cloned().unwrap_or_else(|| Used::new(now));
            for limit in LimitKind::ALL {
                let Some(max) = rule.max(limit) else { continue };
                let amount = used.amount(limit, max, now);
                status.push(LimitStatus {
                    rule: path(index),
                    limit,
                    scope: rule.per.narrow(scope),
                    max,
                    used: amount,
                    remaining: (max - amount).max(0.0),
                    resets_at: (amount > 0.0).then(|| now.after(used.reset(limit, max, now))),
                    unpriced_calls: (!limit.is_rate()).then(|| used.unpriced_calls(now)),
                });
            }
        }
        Ok(status)
    }

    fn concerning<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = (usize, &'a LimitConfig)> {
        self.0.rules.iter().enumerate().filter(move |(_, rule)| rule.concerns(scope))
    }

    /// Finds what a scope used of a rule; opens a count where there is none.
    fn find<'a>(&self, counters: &'a mut Counters, rule: usize, scope: &Scope, now: Now) -> &'a mut Used {
        let mut key = (rule, Some(self.0.rules[rule].per.narrow(scope)));
        if counters.len() >= MAX_COUNTERS && !counters.contains_key(&key) {
            counters.retain(|(rule, _), used| !used.is_unused(&self.0.rules[*rule], now));
            if counters.len() >= MAX_COUNTERS {
                key.1 = None;
            }
        }
        counters.entry(key).or_insert_with(|| Used::new(now))
    }

    fn refusal(&self, operation: &'static str, scope: &Scope, index: usize, limit: LimitKind) -> Error {
        let rule = &self.0.rules[index];
        let (max, name, whose) = (rule.max(limit).unwrap_or_default(), limit.name(), whose(rule.per, scope));
        let message = format!("the limit of {max} {name} of {whose} is reached (`{}`)", path(index));
        Error::new(ErrorKind::RateLimited, operation, message).with("limit", name).with("rule", path(index))
    }
}

/// What each scope used, by rule; the scope is `None` for those that found no place.
type Counters = HashMap<(usize, Option<Scope>), Used>;

impl Used {
    fn new(now: Now) -> Used {
        let bucket = Bucket { gone: 0.0, at: now.monotonic };
        Used {
            requests: bucket,
            tokens: bucket,
            day: Spent { period: now.day, usd: 0.0 },
            month: Spent { period: now.month(), usd: 0.0 },
            unpriced_calls: 0,
        }
    }

    /// Returns how much is used of a limit.
    fn amount(&self, limit: LimitKind, max: f64, now: Now) -> f64 {
        match limit {
            LimitKind::RequestsPerMinute => self.requests.gone(max, now),
            LimitKind::TokensPerMinute => self.tokens.gone(max, now),
            LimitKind::DailyUsd => self.day.usd(now.day),
            LimitKind::MonthlyUsd => self.month.usd(now.month()),
        }
    }

    /// Returns how long a call has to wait; `None` where it may go.
    fn wait(&self, limit: LimitKind, max: f64, now: Now) -> Option<Duration> {
        // What a wait to the microsecond may be short of.
        const ROUNDING: f64 = 1e-3;
        let amount = self.amount(limit, max, now);
        if limit.is_rate() {
            let over = amount + 1.0 - max;
            return (over > ROUNDING).then(|| seconds(over * MINUTE_S / max));
        }
        (amount >= max).then(|| now.until(limit))
    }

    /// Returns how long it is until nothing is used any more.
    fn reset(&self, limit: LimitKind, max: f64, now: Now) -> Duration {
        match limit.is_rate() {
            true => seconds(self.amount(limit, max, now) * MINUTE_S / max),
            false => now.until(limit),
        }
    }

    fn unpriced_calls(&self, now: Now) -> u64 {
        if self.month.period == now.month() { self.unpriced_calls } else { 0 }
    }

    fn is_unused(&self, rule: &LimitConfig, now: Now) -> bool {
        let used = |limit| rule.max(limit).is_some_and(|max| self.amount(limit, max, now) > 0.0);
        self.unpriced_calls(now) == 0 && !LimitKind::ALL.into_iter().any(used)
    }

    fn ask(&mut self, rule: &LimitConfig, now: Now) {
        if let Some(max) = rule.max(LimitKind::RequestsPerMinute) {
            self.requests.take(1.0, max, now);
        }
    }

    fn answered(&mut self, rule: &LimitConfig, tokens: u64, cost_usd: Option<f64>, now: Now) {
        if let Some(max) = rule.max(LimitKind::TokensPerMinute) {
            self.tokens.take(tokens as f64, max, now);
        }
        self.unpriced_calls = self.unpriced_calls(now) + u64::from(cost_usd.is_none());
        self.day.add(now.day, cost_usd.unwrap_or_default());
        self.month.add(now.month(), cost_usd.unwrap_or_default());
    }
}

impl Bucket {
    /// Returns how much is gone; it fills to `max` within a minute.
    fn gone(&self, max: f64, now: Now) -> f64 {
        let filled = now.monotonic.saturating_sub(self.at).as_secs_f64() * max / MINUTE_S;
        (self.gone - filled).max(0.0)
    }

    fn take(&mut self, amount: f64, max: f64, now: Now) {
        *self = Bucket { gone: self.gone(max, now) + amount, at: now.monotonic };
    }
}

impl Spent {
    fn usd(&self, period: i64) -> f64 {
        // A clock that was set back goes on with the newest period.
        if self.period < period { 0.0 } else { self.usd }
    }

    fn add(&mut self, period: i64, usd: f64) {
        *self = Spent { period: self.period.max(period), usd: self.usd(period) + usd };
    }
}

impl Now {
    fn of(clock: &dyn Clock) -> Now {
        let time = clock.now();
        Now { time, monotonic: clock.monotonic(), day: day_of(time) }
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
        let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
        self.time.saturating_add(wait).unwrap_or(Timestamp::MAX)
    }
}

/// Makes a duration of finite seconds, rounded up so that what waits for it is not early.
fn seconds(seconds: f64) -> Duration {
    const MICROSECOND: f64 = 1e-6;
    Duration::try_from_secs_f64(seconds + MICROSECOND).unwrap_or(Duration::MAX)
}

fn path(index: usize) -> String {
    format!("chat.limits[{index}]")
}

/// Says whose calls are counted together, for people.
fn whose(per: Share, scope: &Scope) -> String {
    let scope = per.narrow(scope);
    let parts = [("tenant", scope.tenant), ("user", scope.user), ("session", scope.session)];
    let named: Vec<_> = parts.into_iter().filter_map(|(part, name)| Some(format!("{part} `{}`", name?))).collect();
    if named.is_empty() { "all calls without a name".to_owned() } else { named.join(", ") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ManualClock;

    const HOUR: Duration = Duration::from_secs(3600);

    fn limits(rules: &[LimitConfig]) -> (Limits, Arc<ManualClock>) {
        // 2026-01-30T12:00:00Z: the day after tomorrow is in the next month.
        let clock = Arc::new(ManualClock::new(Timestamp::constant(1_769_774_400, 0)));
        let config = ChatConfig { limits: rules.to_vec(), ..ChatConfig::default() };
        (Limits::new(&config, clock.clone()).unwrap(), clock)
    }

    fn user(name: &str) -> Scope {
        Scope::new().tenant("acme").user(name)
    }

    fn refusal(limits: &Limits, scope: &Scope) -> (String, Duration) {
        let error = limits.admit("test", scope).unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), ("RATE_LIMITED", true));
        (error.get("limit").unwrap().to_owned(), error.retry_after().unwrap())
    }

    #[test]
    fn a_minutes_worth_of_calls_goes_at_once_and_then_evenly() {
        let (limits, clock) = limits(&[LimitConfig::per(Share::User).requests_per_minute(6)]);
        for _ in 0..6 {
            limits.admit("test", &user("ada")).unwrap();
        }
        let (limit, wait) = refusal(&limits, &user("ada"));
        assert_eq!((limit.as_str(), wait.as_secs()), ("requests_per_minute", 10));
        limits.admit("test", &user("bob")).unwrap();
        clock.advance(wait);
        limits.admit("test", &user("ada")).unwrap();
        assert!(limits.admit("test", &user("ada")).is_err());
    }

    #[test]
    fn tokens_are_paid_back_before_the_next_call() {
        let (limits, clock) = limits(&[LimitConfig::per(Share::Tenant).tokens_per_minute(600)]);
        limits.admit("test", &user("ada")).unwrap();
        limits.used(&user("ada"), 1200, None);
        let (limit, wait) = refusal(&limits, &user("bob"));
        assert_eq!((limit.as_str(), wait.as_secs()), ("tokens_per_minute", 60), "they share a tenant");
        limits.admit("test", &Scope::new().tenant("other")).unwrap();
        clock.advance(wait);
        limits.admit("test", &user("bob")).unwrap();
    }

    #[test]
    fn a_budget_lasts_until_the_day_or_the_month_is_over() {
        let rules = [LimitConfig::per(Share::User).daily_usd(1.0).monthly_usd(1.5)];
        let (limits, clock) = limits(&rules);
        limits.used(&user("ada"), 0, Some(0.99));
        limits.admit("test", &user("ada")).unwrap();
        limits.used(&user("ada"), 0, Some(0.2));
        assert_eq!(refusal(&limits, &user("ada")), ("daily_usd".to_owned(), 12 * HOUR));
        clock.advance(12 * HOUR);
        limits.admit("test", &user("ada")).unwrap();
        limits.used(&user("ada"), 0, Some(0.5));
        assert_eq!(refusal(&limits, &user("ada")), ("monthly_usd".to_owned(), 24 * HOUR));
        clock.advance(24 * HOUR);
        limits.admit("test", &user("ada")).unwrap();
    }

    #[test]
    fn the_limit_that_opens_last_is_named_and_a_refused_call_uses_nothing() {
        let rules = [
            LimitConfig::per(Share::User).requests_per_minute(2),
            LimitConfig { tenant: Some("acme".into()), ..LimitConfig::per(Share::All).requests_per_minute(1) },
        ];
        let (limits, _) = limits(&rules);
        limits.admit("test", &user("ada")).unwrap();
        for _ in 0..5 {
            let error = limits.admit("test", &user("ada")).unwrap_err();
            assert_eq!((error.get("rule"), error.retry_after().unwrap().as_secs()), (Some("chat.limits[1]"), 60));
        }
        let hers = limits.status(&user("ada")).unwrap();
        assert_eq!((hers[0].used, hers[0].remaining, hers[1].remaining), (1.0, 1.0, 0.0));
        limits.admit("test", &Scope::new().tenant("other").user("ada")).unwrap();
    }

    #[test]
    fn the_status_says_what_is_used_and_when_it_is_over() {
        let rules = [LimitConfig::per(Share::User).tokens_per_minute(60).daily_usd(2.0).monthly_usd(10.0)];
        let (limits, clock) = limits(&rules);
        let status = || limits.status(&user("ada")).unwrap();
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
        let field = |rule: LimitConfig| {
            let config = ChatConfig { limits: vec![rule], ..ChatConfig::default() };
            Limits::new(&config, Arc::new(ManualClock::default())).unwrap_err().get("field").unwrap().to_owned()
        };
        assert_eq!(field(LimitConfig::default()), "chat.limits[0]");
        assert_eq!(field(LimitConfig::default().requests_per_minute(0)), "chat.limits[0].requests_per_minute");
        assert_eq!(field(LimitConfig::default().daily_usd(-1.0)), "chat.limits[0].daily_usd");
    }

    #[test]
    fn counts_are_bounded_and_those_without_a_place_share_one() {
        let (limits, clock) = limits(&[LimitConfig::per(Share::User).requests_per_minute(2)]);
        let ask = |index: usize| limits.admit("test", &user(&index.to_string()));
        (0..MAX_COUNTERS).for_each(|index| ask(index).unwrap());
        assert!(ask(MAX_COUNTERS).is_ok() && ask(MAX_COUNTERS + 1).is_ok() && ask(MAX_COUNTERS + 2).is_err());
        clock.advance(HOUR);
        (0..10).for_each(|index| ask(MAX_COUNTERS + 10 + index).unwrap());
        assert!(limits.0.used.lock().len() < 20, "those that use nothing make room");
    }

    proptest! {
        #[test]
        fn no_minute_admits_more_than_twice_the_rate(steps in proptest::collection::vec(0u64..5_000, 1..300)) {
            let (limits, clock) = limits(&[LimitConfig::per(Share::User).requests_per_minute(10)]);
            let (mut now, mut admitted) = (0, Vec::new());
            for step in steps {
                clock.advance(Duration::from_millis(step));
                now += step;
                if limits.admit("test", &user("ada")).is_ok() {
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
