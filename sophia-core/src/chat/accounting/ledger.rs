//! What was used and saved: by provider, model, tenant and user, for each day.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Clock, Error, Result, Scope, chat::response::Usage, names_map::NamesMap, tally::TallyChange};

/// Days that are remembered, today included: two months.
const DAYS: usize = 62;
/// Days that a query looks at unless it says otherwise.
const DEFAULT_DAYS: u32 = 30;
/// Most accounts: scopes and models are named by callers. What comes later is counted without a name.
const MAX_ACCOUNTS: usize = 4096;
/// Seconds of a day, UTC.
const DAY_S: i64 = 86_400;
/// What is read for the time since which processes count together, and the name of that time there.
const COUNTED: &str = "costs";
const SINCE: &str = "since";

/// What to group costs by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CostGroup {
    /// Model, as its provider named it.
    #[default]
    Model,
    /// Provider.
    Provider,
    /// Tenant.
    Tenant,
    /// Tenant and user.
    Scope,
}

/// Which costs to show.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CostQuery {
    /// What to group them by. Default model.
    pub by: CostGroup,
    /// Days to look at, UTC, today included: 1 to 62. Default 30.
    pub days: u32,
    /// Only those of this tenant and user. Default everyone's.
    pub scope: Option<Scope>,
}

impl Default for CostQuery {
    fn default() -> Self {
        CostQuery { by: CostGroup::Model, days: DEFAULT_DAYS, scope: None }
    }
}

impl CostQuery {
    /// Creates a query for the last 30 days.
    pub fn by(group: CostGroup) -> CostQuery {
        CostQuery { by: group, ..CostQuery::default() }
    }

    /// Sets the days to look at.
    #[must_use]
    pub fn days(mut self, days: u32) -> CostQuery {
        self.days = days;
        self
    }

    /// Shows only those of this tenant and user.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> CostQuery {
        self.scope = Some(scope.into());
        self
    }
}

/// What calls to providers used, and what kept answers saved.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Costs {
    /// First day that is counted, UTC.
    pub since: String,
    /// Since when it was counted: by this process, or by all that share Redis or else a `data_dir`.
    pub counted_since: Timestamp,
    /// What the rows are grouped by.
    pub by: CostGroup,
    /// The rows, the dearest first.
    pub rows: Vec<CostRow>,
    /// All rows together.
    pub total: CostRow,
}

/// What one model, provider or scope used and saved.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct CostRow {
    /// Model; null unless grouped by it.
    pub model: Option<String>,
    /// Provider; null unless grouped by it.
    pub provider: Option<String>,
    /// Tenant; null where there is none, or not grouped by it.
    pub tenant: Option<String>,
    /// User; null where there is none, or not grouped by it.
    pub user: Option<String>,
    /// Answers that providers gave.
    pub calls: u64,
    /// Tokens of the requests, where they were counted.
    pub prompt_tokens: u64,
    /// Tokens of the answers.
    pub completion_tokens: u64,
    /// Tokens of the requests that providers had cached.
    pub cached_tokens: u64,
    /// Tokens of the requests that providers put into their caches.
    pub cache_write_tokens: u64,
    /// Tokens that models thought.
    pub reasoning_tokens: u64,
    /// Cost in US dollars of the calls whose cost is known; null where none is.
    pub cost_usd: Option<f64>,
    /// Calls whose cost is not known: `cost_usd` lacks them.
    pub unpriced_calls: u64,
    /// Answers that were given without a call: kept ones, and those that another call had asked for.
    pub saved_calls: u64,
    /// Cost that this saved, in US dollars, as far as it is known; null where it is not.
    pub saved_usd: Option<f64>,
}

/// Everyone's accounts. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Ledger(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    since: Timestamp,
    accounts: NamesMap<Arc<Account>>,
    /// Takes what no account can be opened for.
    rest: Arc<Account>,
    /// Whether others were told since when this process counts.
    has_told_since: AtomicBool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Holder {
    provider: String,
    model: String,
    tenant: Option<String>,
    user: Option<String>,
}

/// What one scope used of one model.
#[derive(Debug)]
pub(crate) struct Account {
    holder: Holder,
    clock: Arc<dyn Clock>,
    /// The newest last; days without use are left out.
    days: Mutex<VecDeque<Day>>,
}

#[derive(Debug, Clone, Default)]
struct Day {
    number: i64,
    sums: Sums,
    /// What of it others know.
    shared: Sums,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sums {
    calls: u64,
    priced_calls: u64,
    cost_usd: f64,
    prompt: u64,
    completion: u64,
    cached: u64,
    cache_write: u64,
    reasoning: u64,
    saved_calls: u64,
    priced_savings: u64,
    saved_usd: f64,
}

impl Ledger {
    pub fn new(clock: Arc<dyn Clock>) -> Ledger {
        let rest = Arc::new(Account::new(Holder::default(), clock.clone()));
        Ledger(Arc::new(Inner {
            since: clock.now(),
            clock,
            accounts: NamesMap::default(),
            rest,
            has_told_since: AtomicBool::new(false),
        }))
    }

    /// Returns the account of what `scope` uses of `model`; opens it where there is none.
    pub fn account(&self, provider: &str, model: &str, scope: &Scope) -> Arc<Account> {
        // No part of a scope is empty.
        let [tenant, user] = [&scope.tenant, &scope.user].map(|part| part.as_deref().unwrap_or_default());
        let names = [provider, model, tenant, user];
        if let Some(known) = self.0.accounts.get(names) {
            return known;
        }
        if self.0.accounts.len() >= MAX_ACCOUNTS {
            let oldest = self.today() - DAYS as i64;
            self.0.accounts.retain(|account| account.last_day().is_some_and(|day| day > oldest));
        }
        if self.0.accounts.len() >= MAX_ACCOUNTS {
            return self.0.rest.clone();
        }
        let holder = Holder {
            provider: provider.to_owned(),
            model: model.to_owned(),
            tenant: scope.tenant.clone(),
            user: scope.user.clone(),
        };
        self.0.accounts.get_or_insert(names, Arc::new(Account::new(holder, self.0.clock.clone())))
    }

    /// Sums up what this process counted.
    pub fn costs(&self, query: &CostQuery) -> Result<Costs> {
        let first = self.first_day(query)?;
        let accounts = self.accounts().into_iter().map(|account| (account.holder.clone(), account.since(first)));
        Ok(sum(query, first, self.0.since, accounts))
    }

    /// Names what is read for what processes counted together: the first is for the time since which they do.
    pub fn groups(&self, query: &CostQuery) -> Result<Vec<String>> {
        let days = (self.first_day(query)?..=self.today()).map(group_of);
        Ok(std::iter::once(COUNTED.to_owned()).chain(days).collect())
    }

    /// Sums up what processes counted together, from the numbers of [`Ledger::groups`].
    pub fn costs_of(&self, query: &CostQuery, groups: &[Vec<(String, f64)>]) -> Result<Costs> {
        let first = self.first_day(query)?;
        let mut accounts: HashMap<Holder, Sums> = HashMap::new();
        for (field, number) in groups.iter().skip(1).flatten() {
            // What a newer version counts may have another form.
            let Ok((provider, model, tenant, user, kind)) = serde_json::from_str::<FieldName>(field) else { continue };
            let holder = Holder { provider, model, tenant, user };
            accounts.entry(holder).or_default().add_one(&kind, *number);
        }
        let since = groups.first().and_then(|group| group.iter().find(|(field, _)| field == SINCE));
        let since = since.and_then(|(_, number)| Timestamp::from_microsecond(-*number as i64).ok());
        Ok(sum(query, first, since.unwrap_or(self.0.since), accounts.into_iter()))
    }

    /// Returns what was counted since the last time that it was asked for, to be shared.
    pub fn unshared(&self) -> Vec<TallyChange> {
        let mut changes: Vec<_> = self.accounts().iter().flat_map(|account| account.unshared()).collect();
        if !changes.is_empty() && !self.0.has_told_since.swap(true, Ordering::Relaxed) {
            let since = TallyChange::add(COUNTED, SINCE, 0.0, Timestamp::MAX);
            changes.push(since.floor(-(self.0.since.as_microsecond() as f64)));
        }
        changes
    }

    fn accounts(&self) -> Vec<Arc<Account>> {
        let rest = std::iter::once(self.0.rest.clone());
        self.0.accounts.values().chain(rest).collect()
    }

    fn first_day(&self, query: &CostQuery) -> Result<i64> {
        const OPERATION: &str = "chat.costs";
        if !(1..=DAYS as u32).contains(&query.days) {
            return Err(Error::invalid(OPERATION, "days", format!("must be 1 to {DAYS}")));
        }
        if let Some(scope) = &query.scope {
            scope.validate(OPERATION)?;
        }
        Ok(self.today() - i64::from(query.days) + 1)
    }

    fn today(&self) -> i64 {
        day_of(self.0.clock.now())
    }
}

/// Names a number: provider, model, tenant, user, and what is counted.
type FieldName = (String, String, Option<String>, Option<String>, String);

/// Names what is read for one day.
fn group_of(day: i64) -> String {
    format!("{COUNTED}:{day}")
}

/// Sums accounts up as they are asked for.
fn sum(
    query: &CostQuery,
    first: i64,
    counted_since: Timestamp,
    accounts: impl Iterator<Item = (Holder, Sums)>,
) -> Costs {
    let mut groups: HashMap<Holder, Sums> = HashMap::new();
    let mut total = Sums::default();
    for (holder, sums) in accounts {
        let theirs = |scope: &Scope| scope.tenant == holder.tenant && scope.user == holder.user;
        if !query.scope.as_ref().is_none_or(theirs) || sums.is_empty() {
            continue;
        }
        total.add(&sums);
        groups.entry(holder.grouped(query.by)).or_default().add(&sums);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by(|(name, a), (other, b)| {
        b.cost_usd.total_cmp(&a.cost_usd).then(b.calls.cmp(&a.calls)).then_with(|| name.names().cmp(&other.names()))
    });
    let rows = groups.into_iter().map(|(holder, sums)| sums.row(holder)).collect();
    Costs { since: date(first).to_string(), counted_since, by: query.by, rows, total: total.row(Holder::default()) }
}

impl Holder {
    fn grouped(&self, by: CostGroup) -> Holder {
        let none = Holder::default();
        match by {
            CostGroup::Model => Holder { model: self.model.clone(), ..none },
            CostGroup::Provider => Holder { provider: self.provider.clone(), ..none },
            CostGroup::Tenant => Holder { tenant: self.tenant.clone(), ..none },
            CostGroup::Scope => Holder { tenant: self.tenant.clone(), user: self.user.clone(), ..none },
        }
    }

    fn names(&self) -> (&str, &str, &Option<String>, &Option<String>) {
        (&self.model, &self.provider, &self.tenant, &self.user)
    }
}

impl Account {
    fn new(holder: Holder, clock: Arc<dyn Clock>) -> Account {
        Account { holder, clock, days: Mutex::default() }
    }

    /// Takes what a provider's answer used.
    pub fn used(&self, usage: &Usage, cost_usd: Option<f64>) {
        self.today(|sums| {
            sums.calls += 1;
            sums.priced_calls += u64::from(cost_usd.is_some());
            sums.cost_usd += cost_usd.unwrap_or_default();
            sums.prompt += usage.prompt_tokens.unwrap_or_default();
            sums.completion += usage.completion_tokens.unwrap_or_default();
            sums.cached += usage.cached_tokens.unwrap_or_default();
            sums.cache_write += usage.cache_write_tokens.unwrap_or_default();
            sums.reasoning += usage.reasoning_tokens.unwrap_or_default();
        });
    }

    /// Takes an answer that was given without a call.
    pub fn saved(&self, cost_usd: Option<f64>) {
        self.today(|sums| {
            sums.saved_calls += 1;
            sums.priced_savings += u64::from(cost_usd.is_some());
            sums.saved_usd += cost_usd.unwrap_or_default();
        });
    }

    fn today(&self, change: impl FnOnce(&mut Sums)) {
        let number = day_of(self.clock.now());
        let mut days = self.days.lock();
        // A clock that was set back goes on with the newest day.
        if days.back().is_none_or(|last| last.number < number) {
            days.push_back(Day { number, ..Day::default() });
            while days.front().is_some_and(|first| first.number <= number - DAYS as i64) {
                days.pop_front();
            }
        }
        if let Some(day) = days.back_mut() {
            change(&mut day.sums);
        }
    }

    fn unshared(&self) -> Vec<TallyChange> {
        let mut changes = Vec::new();
        for day in self.days.lock().iter_mut().filter(|day| day.sums != day.shared) {
            let expires_at = midnight(date(day.number + DAYS as i64 + 1));
            for ((kind, number), (_, shared)) in day.sums.numbers().into_iter().zip(day.shared.numbers()) {
                if number != shared {
                    let Holder { provider, model, tenant, user } = &self.holder;
                    let field = serde_json::json!([provider, model, tenant, user, kind]).to_string();
                    changes.push(TallyChange::add(group_of(day.number), field, number - shared, expires_at));
                }
            }
            day.shared = day.sums.clone();
        }
        changes
    }

    fn last_day(&self) -> Option<i64> {
        self.days.lock().back().map(|day| day.number)
    }

    fn since(&self, first: i64) -> Sums {
        let mut sums = Sums::default();
        self.days.lock().iter().filter(|day| day.number >= first).for_each(|day| sums.add(&day.sums));
        sums
    }
}

impl Sums {
    /// Returns every number with its name.
    fn numbers(&self) -> [(&'static str, f64); 11] {
        [
            ("calls", self.calls as f64),
            ("priced_calls", self.priced_calls as f64),
            ("cost_usd", self.cost_usd),
            ("prompt", self.prompt as f64),
            ("completion", self.completion as f64),
            ("cached", self.cached as f64),
            ("cache_write", self.cache_write as f64),
            ("reasoning", self.reasoning as f64),
            ("saved_calls", self.saved_calls as f64),
            ("priced_savings", self.priced_savings as f64),
            ("saved_usd", self.saved_usd),
        ]
    }

    /// Adds a number by its name.
    fn add_one(&mut self, name: &str, number: f64) {
        let count = match name {
            "cost_usd" => return self.cost_usd += number,
            "saved_usd" => return self.saved_usd += number,
            "calls" => &mut self.calls,
            "priced_calls" => &mut self.priced_calls,
            "prompt" => &mut self.prompt,
            "completion" => &mut self.completion,
            "cached" => &mut self.cached,
            "cache_write" => &mut self.cache_write,
            "reasoning" => &mut self.reasoning,
            "saved_calls" => &mut self.saved_calls,
            "priced_savings" => &mut self.priced_savings,
            _ => return,
        };
        *count += number as u64;
    }

    fn is_empty(&self) -> bool {
        self.calls == 0 && self.saved_calls == 0
    }

    fn add(&mut self, other: &Sums) {
        self.calls += other.calls;
        self.priced_calls += other.priced_calls;
        self.cost_usd += other.cost_usd;
        self.prompt += other.prompt;
        self.completion += other.completion;
        self.cached += other.cached;
        self.cache_write += other.cache_write;
        self.reasoning += other.reasoning;
        self.saved_calls += other.saved_calls;
        self.priced_savings += other.priced_savings;
        self.saved_usd += other.saved_usd;
    }

    fn row(&self, holder: Holder) -> CostRow {
        let known = |usd: f64, of: u64, priced: u64| (of == 0 || priced > 0).then_some(usd);
        CostRow {
            model: Some(holder.model).filter(|name| !name.is_empty()),
            provider: Some(holder.provider).filter(|name| !name.is_empty()),
            tenant: holder.tenant,
            user: holder.user,
            calls: self.calls,
            prompt_tokens: self.prompt,
            completion_tokens: self.completion,
            cached_tokens: self.cached,
            cache_write_tokens: self.cache_write,
            reasoning_tokens: self.reasoning,
            cost_usd: known(self.cost_usd, self.calls, self.priced_calls),
            unpriced_calls: self.calls - self.priced_calls,
            saved_calls: self.saved_calls,
            saved_usd: known(self.saved_usd, self.saved_calls, self.priced_savings),
        }
    }
}

/// Returns the number of a day, UTC.
pub(super) fn day_of(time: Timestamp) -> i64 {
    time.as_second().div_euclid(DAY_S)
}

/// Returns the day of this number, or the epoch beyond the calendar.
pub(super) fn date(number: i64) -> Date {
    let epoch = Date::constant(1970, 1, 1);
    epoch.checked_add(number.days()).unwrap_or(epoch)
}

/// Returns when a day begins, UTC.
pub(super) fn midnight(day: Date) -> Timestamp {
    day.to_zoned(TimeZone::UTC).map_or(Timestamp::MAX, |zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ManualClock;

    const DAY: Duration = Duration::from_secs(DAY_S as u64);

    fn ledger() -> (Ledger, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        (Ledger::new(clock.clone()), clock)
    }

    fn usage() -> Usage {
        Usage { prompt_tokens: Some(10), completion_tokens: Some(5), cached_tokens: Some(4), ..Usage::default() }
    }

    fn user(name: &str) -> Scope {
        Scope::new().tenant("acme").user(name)
    }

    #[test]
    fn what_was_used_is_grouped_and_the_dearest_comes_first() {
        let (ledger, _) = ledger();
        ledger.account("p", "small", &user("ada")).used(&usage(), Some(0.25));
        ledger.account("p", "small", &user("bob")).used(&usage(), Some(0.25));
        ledger.account("q", "large", &user("bob")).used(&usage(), Some(2.0));
        let costs = |query: CostQuery| ledger.costs(&query).unwrap();
        let models: Vec<_> =
            costs(CostQuery::default()).rows.into_iter().map(|row| (row.model, row.cost_usd)).collect();
        assert_eq!(models, [(Some("large".into()), Some(2.0)), (Some("small".into()), Some(0.5))]);
        let users: Vec<_> =
            costs(CostQuery::by(CostGroup::Scope)).rows.into_iter().map(|row| (row.user, row.calls)).collect();
        assert_eq!(users, [(Some("bob".into()), 2), (Some("ada".into()), 1)]);
        assert_eq!(costs(CostQuery::by(CostGroup::Tenant)).rows.len(), 1);
        let hers = costs(CostQuery::by(CostGroup::Provider).scope(user("ada")));
        assert_eq!((hers.rows.len(), hers.total.prompt_tokens, hers.total.cached_tokens), (1, 10, 4));
        assert_eq!(costs(CostQuery::default().scope(Scope::new().tenant("acme"))).total.calls, 0);
    }

    #[test]
    fn a_cost_that_is_not_known_is_null_and_told() {
        let (ledger, _) = ledger();
        let total = || ledger.costs(&CostQuery::default()).unwrap().total;
        assert_eq!((total().cost_usd, total().saved_usd), (Some(0.0), Some(0.0)), "nothing costs nothing");
        let account = ledger.account("p", "m", &Scope::new());
        account.used(&usage(), None);
        account.saved(None);
        assert_eq!((total().cost_usd, total().unpriced_calls, total().saved_usd), (None, 1, None));
        account.used(&usage(), Some(1.0));
        account.saved(Some(1.0));
        assert_eq!((total().cost_usd, total().unpriced_calls, total().saved_usd), (Some(1.0), 1, Some(1.0)));
    }

    #[test]
    fn days_are_utc_and_old_ones_are_forgotten() {
        let (ledger, clock) = ledger();
        let account = ledger.account("p", "m", &Scope::new());
        for _ in 0..100 {
            account.used(&usage(), Some(1.0));
            clock.advance(DAY);
        }
        account.used(&usage(), Some(1.0));
        let costs = |days| ledger.costs(&CostQuery::default().days(days)).unwrap();
        assert_eq!((costs(1).total.calls, costs(7).total.calls, costs(62).total.calls), (1, 7, 62));
        assert_eq!(costs(1).since, "2026-04-11");
        assert_eq!(account.days.lock().len(), DAYS);
        for days in [0, 63] {
            assert_eq!(ledger.costs(&CostQuery::default().days(days)).unwrap_err().get("field"), Some("days"));
        }
    }

    #[test]
    fn accounts_are_bounded_and_nothing_is_lost() {
        let (ledger, clock) = ledger();
        for index in 0..MAX_ACCOUNTS + 10 {
            ledger.account("p", "m", &user(&index.to_string())).used(&usage(), Some(1.0));
        }
        assert_eq!(ledger.0.accounts.len(), MAX_ACCOUNTS);
        assert_eq!(ledger.costs(&CostQuery::default()).unwrap().total.calls as usize, MAX_ACCOUNTS + 10);
        clock.advance(DAY * 63);
        ledger.account("p", "m", &user("new")).used(&usage(), Some(1.0));
        assert_eq!(ledger.0.accounts.len(), 1, "those that nobody used for long make room");
    }
}
