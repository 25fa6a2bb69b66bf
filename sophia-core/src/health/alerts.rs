//! One incident, one alert.
//!
//! What is wrong arrives as *conditions*: a service that is down, a value beyond a threshold. Conditions that belong together
//! (a group, or a dependency and all that call it) are one alert that lists them all.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::graph::Graph;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Worth a look today.
    Warning,
    /// Worth a look now.
    Critical,
}

impl Severity {
    /// Returns the name that it has on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// Where an alert is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AlertState {
    /// It holds, and nobody took it.
    Active,
    /// It holds, and someone took it.
    Acknowledged,
    /// It holds, and nobody wants to hear of it for now.
    Silenced,
    /// It no longer holds, or was part of another one.
    Resolved,
}

/// What is wrong, once.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Alert {
    /// Stays the same while the alert lives, and when it returns within its cooldown.
    pub id: String,
    /// The worst of what it lists.
    pub severity: Severity,
    /// One line.
    pub title: String,
    /// What is wrong, with the values.
    pub message: String,
    /// The services that it is about, the cause first.
    pub services: Vec<String>,
    /// The metric, where a rule raised it.
    pub metric: Option<String>,
    /// The last value, where a rule raised it.
    pub value: Option<f64>,
    /// The threshold that the value reached.
    pub threshold: Option<f64>,
    /// The group that its services share.
    pub group: Option<String>,
    /// Alerts with the same incident have the same service as their cause.
    pub incident: String,
    /// Since when it holds.
    pub started_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it no longer held.
    pub resolved_at: Option<Timestamp>,
    /// Who resolved it; `None` when it resolved itself.
    pub resolved_by: Option<String>,
    /// Who took it.
    pub acknowledged_by: Option<String>,
    /// How often it was seen to hold.
    pub count: u64,
    /// Where it is in its life.
    pub state: AlertState,
}

/// What is to be silent. Every field that is set must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AlertMatch {
    /// The id of one alert.
    pub id: Option<String>,
    /// One of its services.
    pub service: Option<String>,
    /// Its metric.
    pub metric: Option<String>,
    /// Its group.
    pub group: Option<String>,
    /// At most this severity.
    pub severity: Option<Severity>,
}

impl AlertMatch {
    /// Creates a match of one service.
    pub fn service(service: impl Into<String>) -> AlertMatch {
        AlertMatch { service: Some(service.into()), ..AlertMatch::default() }
    }

    fn matches(&self, alert: &Alert) -> bool {
        let same =
            |wanted: &Option<String>, got: Option<&str>| wanted.as_deref().is_none_or(|wanted| got == Some(wanted));
        same(&self.id, Some(&alert.id))
            && self.service.as_ref().is_none_or(|service| alert.services.contains(service))
            && same(&self.metric, alert.metric.as_deref())
            && same(&self.group, alert.group.as_deref())
            && self.severity.is_none_or(|severity| alert.severity <= severity)
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == AlertMatch::default()
    }
}

/// One thing that is wrong with one service.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Condition {
    pub service: String,
    pub severity: Severity,
    pub title: String,
    pub message: String,
    pub metric: Option<String>,
    pub value: Option<f64>,
    pub threshold: Option<f64>,
    pub group: Option<String>,
    pub since: Timestamp,
    pub cooldown: Duration,
}

/// What happened to an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Opened,
    Changed,
    Resolved,
}

/// Most resolved alerts that are kept.
const MAX_RESOLVED: usize = 1_000;
/// Most silences.
pub(super) const MAX_SILENCES: usize = 1_000;
/// Services named in a title.
const NAMED: usize = 3;

/// All conditions, and the alerts made of them.
#[derive(Debug, Default)]
pub(super) struct AlertBook {
    conditions: BTreeMap<String, Condition>,
    counts: HashMap<String, u64>,
    open: BTreeMap<String, Open>,
    /// The open alert that lists a condition.
    listed_in: HashMap<String, String>,
    resolved: VecDeque<Over>,
    /// Conditions that someone resolved by hand: no worse ones are passed over until then.
    held: HashMap<String, (Timestamp, Severity)>,
    silences: Vec<(AlertMatch, Timestamp)>,
    /// When the next return is to be told.
    next_return: Option<Timestamp>,
    /// Services whose conditions changed.
    touched: HashSet<String>,
    /// Whether alerts of others may have changed with them.
    dirty: bool,
    /// How many dependencies there were.
    edges: usize,
}

/// What an alert is part of.
#[derive(Debug, Clone)]
struct Incident {
    cause: String,
    since: Timestamp,
}

#[derive(Debug)]
struct Open {
    alert: Alert,
    conditions: BTreeSet<String>,
    cooldown: Duration,
    /// Where its end was told and its return was not: when that is to be told, if it still holds.
    quiet_until: Option<Timestamp>,
}

/// An alert that is over.
#[derive(Debug)]
struct Over {
    key: String,
    cooldown: Duration,
    /// Until when its return is not told.
    quiet_until: Timestamp,
    alert: Alert,
}

impl AlertBook {
    /// Says that `condition` holds.
    pub fn raise(&mut self, key: &str, condition: Condition, at: Timestamp) {
        if let Some((until, severity)) = self.held.get(key) {
            if at < *until && condition.severity <= *severity {
                return;
            }
            self.held.remove(key);
        }
        *self.counts.entry(key.to_owned()).or_default() += 1;
        match self.conditions.get_mut(key) {
            Some(known) => {
                let since = known.since;
                if known.severity != condition.severity || known.group != condition.group {
                    self.touched.insert(condition.service.clone());
                    self.dirty |= known.group.is_some() || condition.group.is_some();
                }
                *known = Condition { since, ..condition };
                self.refresh(key, at);
            }
            None => {
                self.touched.insert(condition.service.clone());
                self.dirty |= condition.group.is_some();
                self.conditions.insert(key.to_owned(), condition);
            }
        }
    }

    /// Says that the condition no longer holds.
    pub fn clear(&mut self, key: &str) {
        if let Some(condition) = self.conditions.remove(key) {
            self.counts.remove(key);
            self.dirty |= condition.group.is_some();
            self.touched.insert(condition.service);
        }
    }

    /// Drops every condition of a service.
    pub fn forget_service(&mut self, service: &str) {
        let gone: Vec<String> = self
            .conditions
            .iter()
            .filter(|(_, condition)| condition.service == service)
            .map(|(key, _)| key.clone())
            .collect();
        gone.iter().for_each(|key| self.clear(key));
    }

    /// Brings a listed alert up to date with its condition, without an event.
    fn refresh(&mut self, key: &str, at: Timestamp) {
        let Some(open) = self.listed_in.get(key).and_then(|alert| self.open.get_mut(alert)) else { return };
        open.alert.count += 1;
        open.alert.updated_at = open.alert.updated_at.max(at);
        if open.conditions.len() == 1
            && let Some(condition) = self.conditions.get(key)
        {
            open.alert.value = condition.value;
            open.alert.message.clone_from(&condition.message);
        }
    }

    /// Makes the alerts that the conditions ask for, and returns what changed and is to be told.
    pub fn reconcile(&mut self, graph: &Graph, at: Timestamp) -> Vec<(Change, Alert)> {
        let mut changes = self.tell_of_returns(at);
        if !self.dirty && self.touched.is_empty() {
            return changes;
        }
        self.held.retain(|_, (until, _)| at < *until);
        let concerned = self.concerned(graph);
        let is_concerned = |service: &str| concerned.as_ref().is_none_or(|services| services.contains(service));
        let mut wanted = self.group(graph, is_concerned);

        // A cause that shows itself after its effects takes over the alert of the first effect: same incident, same id.
        let appeared: Vec<_> = wanted.keys().filter(|key| !self.open.contains_key(*key)).cloned().collect();
        for key in appeared {
            let listed: BTreeSet<&String> =
                wanted[&key].0.iter().filter_map(|condition| self.listed_in.get(condition)).collect();
            let heir = listed
                .into_iter()
                .filter(|old| !wanted.contains_key(*old))
                .filter_map(|old| Some((old, self.open.get(old)?.alert.started_at)));
            if let Some(old) = heir.min_by_key(|(_, started_at)| *started_at).map(|(old, _)| old.clone())
                && let Some(open) = self.open.remove(&old)
            {
                self.unlist(&old, &open.conditions);
                self.list_in(&key, &open.conditions);
                self.open.insert(key, open);
            }
        }

        let gone = self.open.iter().filter(|(key, open)| {
            !wanted.contains_key(*key) && open.alert.services.iter().any(|service| is_concerned(service))
        });
        let gone: Vec<_> = gone.map(|(key, _)| key.clone()).collect();
        for key in gone {
            if let Some(open) = self.open.remove(&key) {
                self.unlist(&key, &open.conditions);
                let was_told = open.quiet_until.is_none();
                let alert = self.retire(key, open, None, at);
                // Who was not told that it is back need not hear that it is gone.
                changes.extend(was_told.then_some((Change::Resolved, alert)));
            }
        }
        while let Some((key, (members, incident))) = wanted.pop_first() {
            let mut alert = self.describe(&members, incident);
            let cooldown =
                members.iter().filter_map(|key| self.conditions.get(key)).map(|condition| condition.cooldown).max();
            let cooldown = cooldown.unwrap_or_default();
            if let Some(open) = self.open.get_mut(&key) {
                let before = std::mem::take(&mut open.conditions);
                self.unlist(&key, &before);
            }
            self.list_in(&key, &members);
            match self.open.get_mut(&key) {
                Some(open) => {
                    let worse = alert.severity > open.alert.severity;
                    let changed =
                        worse || alert.services != open.alert.services || alert.severity != open.alert.severity;
                    alert.id.clone_from(&open.alert.id);
                    alert.incident.clone_from(&open.alert.incident);
                    alert.started_at = open.alert.started_at.min(alert.started_at);
                    alert.updated_at = open.alert.updated_at.max(at);
                    alert.count = alert.count.max(open.alert.count);
                    // Who took a warning did not take what it has become.
                    alert.acknowledged_by = if worse { None } else { open.alert.acknowledged_by.take() };
                    open.alert = alert;
                    open.conditions = members;
                    open.cooldown = cooldown;
                    if worse || (changed && open.quiet_until.is_none()) {
                        open.quiet_until = None;
                        changes.push((Change::Changed, open.alert.clone()));
                    }
                }
                None => {
                    let back = self.resolved.iter().rposition(|over| {
                        over.key == key && over.alert.resolved_at.is_some_and(|end| at < later(end, over.cooldown))
                    });
                    let mut quiet_until = None;
                    let change = match back.and_then(|position| self.resolved.remove(position)) {
                        Some(Over { alert: old, quiet_until: until, .. }) => {
                            let worse = alert.severity > old.severity;
                            alert.id = old.id;
                            alert.incident = old.incident;
                            alert.started_at = old.started_at;
                            alert.count += old.count;
                            alert.acknowledged_by = old.acknowledged_by.filter(|_| !worse);
                            // It flaps: the same alert again, and nobody is told twice within the cooldown.
                            quiet_until = (!worse && at < until).then_some(until);
                            if worse { Some(Change::Changed) } else { quiet_until.is_none().then_some(Change::Opened) }
                        }
                        None => {
                            alert.id = stable_id(&key, alert.started_at);
                            Some(Change::Opened)
                        }
                    };
                    changes.extend(change.map(|change| (change, alert.clone())));
                    self.next_return = [self.next_return, quiet_until].into_iter().flatten().min();
                    self.open.insert(key, Open { alert, conditions: members, cooldown, quiet_until });
                }
            }
        }
        changes
    }

    /// Returns the services whose alerts may have changed; `None` where all may have.
    ///
    /// Those without a group that neither call nor are called have alerts of their own, whatever happens to others: many that
    /// become sick one after the other do not each cost a look at all.
    fn concerned(&mut self, graph: &Graph) -> Option<HashSet<String>> {
        let touched = std::mem::take(&mut self.touched);
        let is_same_graph = std::mem::replace(&mut self.edges, graph.len()) == graph.len();
        let is_local = !std::mem::take(&mut self.dirty)
            && is_same_graph
            && touched.iter().all(|service| graph.is_alone(service))
            && self.open.values().all(|open| {
                open.alert.services.len() == 1 || open.alert.services.iter().all(|service| !touched.contains(service))
            });
        is_local.then_some(touched)
    }

    fn list_in(&mut self, alert: &str, conditions: &BTreeSet<String>) {
        self.listed_in.extend(conditions.iter().map(|condition| (condition.clone(), alert.to_owned())));
    }

    fn unlist(&mut self, alert: &str, conditions: &BTreeSet<String>) {
        for condition in conditions {
            if self.listed_in.get(condition).is_some_and(|listed| listed == alert) {
                self.listed_in.remove(condition);
            }
        }
    }

    /// Returns the alerts that still hold when the cooldown after their end, which was told, is over: as Alertmanager does with
    /// its `group_interval`, what was last told is made true again.
    fn tell_of_returns(&mut self, at: Timestamp) -> Vec<(Change, Alert)> {
        if self.next_return.is_none_or(|next| at < next) {
            return Vec::new();
        }
        let due = self.open.values_mut().filter(|open| open.quiet_until.is_some_and(|until| until <= at));
        let told = due.map(|open| {
            open.quiet_until = None;
            (Change::Opened, open.alert.clone())
        });
        let told = told.collect();
        self.next_return = self.open.values().filter_map(|open| open.quiet_until).min();
        told
    }

    /// Returns which conditions of the services that are concerned make up which alert, and the incident of each.
    fn group(
        &self,
        graph: &Graph,
        is_concerned: impl Fn(&str) -> bool,
    ) -> BTreeMap<String, (BTreeSet<String>, Incident)> {
        let conditions = || self.conditions.iter().filter(|(_, condition)| is_concerned(&condition.service));
        let mut first: HashMap<&str, (&String, &Condition)> = HashMap::new();
        for (key, condition) in conditions() {
            let entry = first.entry(&condition.service).or_insert((key, condition));
            if condition.since < entry.1.since {
                *entry = (key, condition);
            }
        }
        let sick: HashSet<&str> = first.keys().copied().collect();
        let mut alerts: BTreeMap<String, (BTreeSet<String>, Incident)> = BTreeMap::new();
        for (key, condition) in conditions() {
            let cause = graph.deepest(&condition.service, |service| sick.contains(service));
            let (root, of) = match first.get(cause.as_str()) {
                Some((root, of)) if cause != condition.service => (*root, *of),
                _ => (key, condition),
            };
            let (alert, incident) = match &of.group {
                Some(group) => {
                    (format!("group:{group}"), Incident { cause: format!("group:{group}"), since: of.since })
                }
                None => {
                    let since = first.get(of.service.as_str()).map_or(of.since, |(_, first)| first.since);
                    // Two ways of judging one signal (`…#mean`) are one alert.
                    let key = root.split_once('#').map_or(root.as_str(), |(key, _)| key);
                    (key.to_owned(), Incident { cause: of.service.clone(), since })
                }
            };
            alerts.entry(alert).or_insert_with(|| (BTreeSet::new(), incident)).0.insert(key.clone());
        }
        alerts
    }

    /// Writes the alert that stands for these conditions.
    fn describe(&self, members: &BTreeSet<String>, incident: Incident) -> Alert {
        let mut conditions: Vec<&Condition> = members.iter().filter_map(|key| self.conditions.get(key)).collect();
        // The cause first: the alert is named after it.
        conditions.sort_by(|a, b| {
            let is_cause = |condition: &Condition| condition.service == incident.cause;
            is_cause(b).cmp(&is_cause(a)).then(a.since.cmp(&b.since)).then(a.service.cmp(&b.service))
        });
        let mut services: Vec<String> = Vec::with_capacity(conditions.len());
        let mut seen = HashSet::new();
        for condition in &conditions {
            if seen.insert(&condition.service) {
                services.push(condition.service.clone());
            }
        }
        let since = conditions.iter().map(|condition| condition.since).min().unwrap_or(Timestamp::UNIX_EPOCH);
        let count = members.iter().filter_map(|key| self.counts.get(key)).sum();
        let severity = conditions.iter().map(|condition| condition.severity).max().unwrap_or(Severity::Info);
        let cause = conditions.first().copied();
        let group = cause.and_then(|cause| cause.group.clone());
        let (title, message) = match (cause, &group) {
            (None, _) => (String::new(), String::new()),
            (Some(cause), _) if services.len() == 1 => {
                let messages: Vec<_> = conditions.iter().map(|condition| condition.message.as_str()).collect();
                (cause.title.clone(), messages.join("; "))
            }
            (Some(cause), Some(group)) => (
                format!("{} services of {group} do not work", services.len()),
                format!("{}: {}", listed(&services), cause.message),
            ),
            (Some(cause), None) => (
                format!("{}, and {} that depend on it", cause.title, services.len() - 1),
                format!("{}; it affects {}", cause.message, listed(&services[1..])),
            ),
        };
        let single = if conditions.len() == 1 { cause } else { None };
        Alert {
            id: String::new(),
            severity,
            title,
            message,
            services,
            metric: cause.and_then(|cause| cause.metric.clone()),
            value: single.and_then(|cause| cause.value),
            threshold: single.and_then(|cause| cause.threshold),
            group,
            incident: stable_id(&incident.cause, incident.since),
            started_at: since,
            updated_at: since,
            resolved_at: None,
            resolved_by: None,
            acknowledged_by: None,
            count,
            state: AlertState::Active,
        }
    }

    fn retire(&mut self, key: String, open: Open, by: Option<String>, at: Timestamp) -> Alert {
        let mut alert = open.alert;
        alert.state = AlertState::Resolved;
        alert.resolved_at = Some(at.max(alert.updated_at));
        alert.updated_at = at.max(alert.updated_at);
        alert.resolved_by = by;
        if self.resolved.len() >= MAX_RESOLVED {
            self.resolved.pop_front();
        }
        let quiet_until = open.quiet_until.unwrap_or_else(|| later(at, open.cooldown));
        self.resolved.push_back(Over { key, cooldown: open.cooldown, quiet_until, alert: alert.clone() });
        alert
    }

    /// Marks an alert as taken by someone.
    pub fn acknowledge(&mut self, id: &str, by: &str, at: Timestamp) -> Option<Alert> {
        let open = self.open.values_mut().find(|open| open.alert.id == id)?;
        open.alert.acknowledged_by = Some(by.to_owned());
        open.alert.updated_at = open.alert.updated_at.max(at);
        Some(self.shown(&self.open.values().find(|open| open.alert.id == id)?.alert, at))
    }

    /// Ends an alert by hand: what it lists is passed over for its cooldown, unless it gets worse.
    pub fn resolve(&mut self, id: &str, by: &str, at: Timestamp) -> Option<Alert> {
        let key = self.open.iter().find(|(_, open)| open.alert.id == id)?.0.clone();
        let mut open = self.open.remove(&key)?;
        self.unlist(&key, &open.conditions);
        open.quiet_until = None;
        let until = later(at, open.cooldown);
        for member in &open.conditions {
            if let Some(condition) = self.conditions.remove(member) {
                self.held.insert(member.clone(), (until, condition.severity));
            }
            self.counts.remove(member);
        }
        Some(self.retire(key, open, Some(by.to_owned()), at))
    }

    /// Silences what matches until then.
    pub fn silence(&mut self, matching: AlertMatch, until: Timestamp, now: Timestamp) -> bool {
        self.silences.retain(|(_, until)| now < *until);
        if self.silences.len() >= MAX_SILENCES {
            return false;
        }
        self.silences.push((matching, until));
        true
    }

    /// Returns the alerts, newest first; those that hold before those that are over.
    pub fn list(&self, now: Timestamp) -> Vec<Alert> {
        let mut open: Vec<_> = self.open.values().map(|open| self.shown(&open.alert, now)).collect();
        open.sort_by(|a, b| b.started_at.cmp(&a.started_at).then(a.id.cmp(&b.id)));
        open.extend(self.resolved.iter().rev().map(|over| over.alert.clone()));
        open
    }

    /// Returns an alert as it is to be seen now.
    pub fn shown(&self, alert: &Alert, now: Timestamp) -> Alert {
        let mut alert = alert.clone();
        if alert.state != AlertState::Resolved {
            let silenced = self.silences.iter().any(|(matching, until)| now < *until && matching.matches(&alert));
            alert.state = match (&alert.acknowledged_by, silenced) {
                (_, true) => AlertState::Silenced,
                (Some(_), false) => AlertState::Acknowledged,
                (None, false) => AlertState::Active,
            };
        }
        alert
    }
}

fn later(from: Timestamp, span: Duration) -> Timestamp {
    let span = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
    from.saturating_add(span).unwrap_or(Timestamp::MAX)
}

/// The same for the same key and time, so that a replay gives the same ids.
fn stable_id(key: &str, since: Timestamp) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.as_bytes());
    hasher.update(&since.as_microsecond().to_le_bytes());
    hasher.finalize().to_hex()[..16].to_owned()
}

fn listed(services: &[String]) -> String {
    let named = services.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match services.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::health::EdgeSource;

    fn condition(service: &str, severity: Severity, group: Option<&str>, since: Timestamp) -> Condition {
        Condition {
            service: service.to_owned(),
            severity,
            title: format!("{service} is {}", severity.name()),
            message: service.to_owned(),
            metric: None,
            value: None,
            threshold: None,
            group: group.map(str::to_owned),
            since,
            cooldown: Duration::from_secs(60),
        }
    }

    /// An alert without the time at which it was last looked at.
    fn since_ever(alert: Alert) -> Alert {
        Alert { updated_at: Timestamp::UNIX_EPOCH, ..alert }
    }

    proptest! {
        /// Services 0 and 1 share a group, 3 calls 2, and the others are alone.
        #[test]
        fn what_is_looked_at_locally_is_as_if_all_were(
            steps in prop::collection::vec((0usize..6, 0u8..6, 1i64..100), 1..80)
        ) {
            let mut graph = Graph::default();
            graph.add("s3", "s2", EdgeSource::Declared);
            let (mut local, mut whole) = (AlertBook::default(), AlertBook::default());
            let mut at = Timestamp::UNIX_EPOCH;
            for (service, what, seconds) in steps {
                at = at.saturating_add(SignedDuration::from_secs(seconds)).unwrap();
                let name = format!("s{service}");
                let mut changes = Vec::new();
                for book in [&mut local, &mut whole] {
                    let group = (service < 2).then_some("g");
                    let mut raise = |key: String, severity| book.raise(&key, condition(&name, severity, group, at), at);
                    match what {
                        0 | 1 => raise(format!("a:{name}"), Severity::Warning),
                        2 => raise(format!("b:{name}"), Severity::Critical),
                        3 => book.clear(&format!("a:{name}")),
                        4 => book.forget_service(&name),
                        _ => {
                            let first = book.open.values().next().map(|open| open.alert.id.clone());
                            first.and_then(|id| book.resolve(&id, "ops", at));
                        }
                    }
                }
                if what == 1 {
                    graph.add("s4", "s5", EdgeSource::Declared);
                }
                whole.dirty |= !whole.touched.is_empty();
                for book in [&mut local, &mut whole] {
                    let changed = book.reconcile(&graph, at).into_iter();
                    changes.push(changed.map(|(change, alert)| (change, since_ever(alert))).collect::<Vec<_>>());
                }
                prop_assert_eq!(&changes[0], &changes[1]);
                let all = |book: &AlertBook| book.list(at).into_iter().map(since_ever).collect::<Vec<_>>();
                prop_assert_eq!(all(&local), all(&whole));
                let listed: BTreeMap<_, _> = local.open.iter().flat_map(|(alert, open)| open.conditions.iter().map(move |key| (key, alert))).collect();
                prop_assert_eq!(listed, local.listed_in.iter().collect::<BTreeMap<_, _>>());
            }
        }
    }
}
