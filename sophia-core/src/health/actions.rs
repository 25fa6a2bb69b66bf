//! Healing that asks first: what may be done, by whom, and how often.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Effect, Healer, Risk, names::check_name};
use crate::{Error, Result};

/// Most actions.
const MAX_ACTIONS: usize = 1_000;
/// Most results that are kept, and most that wait.
const MAX_AUDIT: usize = 1_000;
const MAX_PENDING: usize = 1_000;
/// After this long a request no longer waits, and failures are forgiven.
const DAY: SignedDuration = SignedDuration::from_hours(24);
/// Most executions an hour on one target, and on all of them: a healer that runs more often is part of the problem.
const TARGET_BUDGET: usize = 6;
const OVERALL_BUDGET: usize = 20;
/// Executions without effect after which an action is left alone.
const QUARANTINE: u32 = 2;
/// Approvals that a critical action needs.
const CRITICAL_APPROVALS: usize = 2;

/// Something that can be done about a target.
///
/// ```
/// use sophia_core::health::{Action, Risk};
///
/// let action = Action::new("restart_redis").risk(Risk::Low);
/// assert_eq!(action.cooldown.as_secs(), 1_800);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Action {
    /// Its name, unique.
    pub name: String,
    /// How much harm it can do. Low by default.
    ///
    /// - Low runs at once.
    /// - Medium runs at once when the target is out of line now, is the likeliest root cause and accounts for 90 % of the loss,
    ///   and else waits for an approval.
    /// - High waits for an approval.
    /// - Critical waits for the approval of two.
    #[serde(default = "low")]
    pub risk: Risk,
    /// Least time between two executions on the same target. 1,800 s by default.
    #[serde(default = "half_an_hour", with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub cooldown: Duration,
    /// Executions on the same target that may fail in a row, within a day. 3 by default.
    #[serde(default = "three")]
    pub max_attempts: u32,
    /// Time for each of executing, verifying and rolling back. 60 s by default. An execution that takes longer is dropped, and
    /// taken back where that is possible.
    #[serde(default = "a_minute", with = "crate::duration")]
    #[schemars(with = "crate::duration::DurationSchema")]
    pub timeout: Duration,
}

const fn low() -> Risk {
    Risk::Low
}

const fn half_an_hour() -> Duration {
    Duration::from_secs(1_800)
}

const fn three() -> u32 {
    3
}

const fn a_minute() -> Duration {
    Duration::from_secs(60)
}

impl Action {
    /// Creates an action of low risk.
    pub fn new(name: impl Into<String>) -> Action {
        Action { name: name.into(), risk: low(), cooldown: half_an_hour(), max_attempts: three(), timeout: a_minute() }
    }

    /// Sets how much harm it can do.
    #[must_use]
    pub fn risk(mut self, risk: Risk) -> Action {
        self.risk = risk;
        self
    }

    /// Sets the least time between two executions on the same target.
    #[must_use]
    pub fn cooldown(mut self, cooldown: Duration) -> Action {
        self.cooldown = cooldown;
        self
    }

    /// Sets how many executions may fail in a row.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Action {
        self.max_attempts = attempts;
        self
    }

    /// Sets the time for each step.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Action {
        self.timeout = timeout;
        self
    }

    fn validate(&self) -> Result<()> {
        const OPERATION: &str = "health.action";
        const LONGEST: Duration = Duration::from_secs(7 * 86_400);
        check_name(OPERATION, "name", &self.name)?;
        if self.cooldown > LONGEST {
            return Err(Error::invalid(OPERATION, "cooldown", "must be at most a week"));
        }
        if self.max_attempts == 0 {
            return Err(Error::invalid(OPERATION, "max_attempts", "must be at least 1"));
        }
        if self.timeout.is_zero() || self.timeout > LONGEST {
            return Err(Error::invalid(OPERATION, "timeout", "must be more than zero and at most a week"));
        }
        Ok(())
    }
}

/// A request to heal a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Trigger {
    /// The action.
    pub name: String,
    /// What it is to heal, such as a service.
    pub target: String,
    /// Why, for the audit.
    #[serde(default)]
    pub reason: Option<String>,
    /// Whether only to tell what would happen. False by default.
    #[serde(default)]
    pub dry_run: bool,
}

impl Trigger {
    /// Creates a request.
    pub fn new(name: impl Into<String>, target: impl Into<String>) -> Trigger {
        Trigger { name: name.into(), target: target.into(), reason: None, dry_run: false }
    }

    /// Sets why.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> Trigger {
        self.reason = Some(reason.into());
        self
    }

    /// Asks only for what would happen.
    #[must_use]
    pub fn dry_run(mut self) -> Trigger {
        self.dry_run = true;
        self
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ActionStatus {
    /// It was done, and nothing says that it did not help.
    Completed,
    /// It could not be done, or did not help.
    Failed,
    /// It was done lately, or is being done.
    Cooldown,
    /// It failed too often, had no effect twice, or was done too often within the hour.
    Exhausted,
    /// It waits for an approval.
    PendingApproval,
    /// Someone refused it, or nobody answered for a day.
    Rejected,
    /// More than 40 % of the services are sick: that is not for this action to heal.
    Stopped,
}

/// What became of a request, for the caller and the audit.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct ActionResult {
    /// The id of the request, for [`approve`](super::Health::approve) and [`reject`](super::Health::reject).
    pub id: String,
    /// The action.
    pub action: String,
    /// What it is to heal.
    pub target: String,
    /// What became of it.
    pub status: ActionStatus,
    /// How much harm it can do.
    pub risk: Risk,
    /// Why it was requested.
    pub reason: Option<String>,
    /// What there is to say about the status.
    pub detail: Option<String>,
    /// What it turned out to do.
    pub effect: Effect,
    /// Whether it was taken back.
    pub rolled_back: bool,
    /// Who approved it.
    pub approved_by: Vec<String>,
    /// Who refused it.
    pub rejected_by: Option<String>,
    /// Whether this only tells what would happen.
    pub dry_run: bool,
    /// When it was requested.
    pub requested_at: Timestamp,
    /// When it was over.
    pub finished_at: Option<Timestamp>,
    /// When it can be requested again, while it cools down.
    pub retry_after_s: Option<f64>,
}

/// What speaks for and against a request, beyond what is known here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Circumstances {
    /// Whether the target is surely the cause.
    pub is_sure: bool,
    /// Whether too much is sick at once.
    pub is_widespread: bool,
}

/// What is to be done with a request.
pub(super) enum Decision {
    /// Nothing, or not yet.
    Answer(ActionResult),
    /// It is to be executed.
    Execute(Execution),
}

/// An execution that was let through; [`ActionBook::finish`] must be called with it.
pub(super) struct Execution {
    pub result: ActionResult,
    pub healer: Arc<dyn Healer>,
    pub timeout: Duration,
}

/// The actions, what was done, and what waits.
#[derive(Debug, Default)]
pub(super) struct ActionBook {
    actions: HashMap<String, (Action, Arc<dyn Healer>)>,
    history: HashMap<(String, String), History>,
    executed: VecDeque<(Timestamp, String)>,
    pending: Vec<ActionResult>,
    audit: VecDeque<ActionResult>,
    requests: u64,
}

/// What one action did to one target.
#[derive(Debug, Clone, Default)]
struct History {
    last: Option<Timestamp>,
    is_running: bool,
    failures: u32,
    without_effect: u32,
}

impl ActionBook {
    /// Sets an action, in place of one of the same name. What it did stays known.
    pub fn set(&mut self, action: Action, healer: Arc<dyn Healer>) -> Result<()> {
        action.validate()?;
        if self.actions.len() >= MAX_ACTIONS && !self.actions.contains_key(&action.name) {
            return Err(Error::new(crate::ErrorKind::RateLimited, "health.action", "there are too many actions"));
        }
        self.actions.insert(action.name.clone(), (action, healer));
        Ok(())
    }

    /// Returns the names of all actions and their risks.
    pub fn find(&self, name: &str) -> Option<&Action> {
        self.actions.get(name).map(|(action, _)| action)
    }

    /// Returns the names of all actions, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.actions.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Decides on a request for a known action.
    pub fn request(&mut self, trigger: &Trigger, circumstances: Circumstances, now: Timestamp) -> Option<Decision> {
        let (action, _) = self.actions.get(&trigger.name)?.clone();
        self.expire(now);
        self.requests += 1;
        let id = blake3::hash(format!("{}|{}|{now}|{}", trigger.name, trigger.target, self.requests).as_bytes());
        let mut result = ActionResult {
            id: id.to_hex()[..16].to_owned(),
            action: action.name.clone(),
            target: trigger.target.clone(),
            status: ActionStatus::PendingApproval,
            risk: action.risk,
            reason: trigger.reason.clone(),
            detail: None,
            effect: Effect::Unknown,
            rolled_back: false,
            approved_by: Vec::new(),
            rejected_by: None,
            dry_run: trigger.dry_run,
            requested_at: now,
            finished_at: None,
            retry_after_s: None,
        };
        if self.is_barred(&action, &mut result, circumstances, now) {
            result.finished_at = Some(now);
            self.record(&result);
            return Some(Decision::Answer(result));
        }
        let may_run = action.risk == Risk::Low || (action.risk == Risk::Medium && circumstances.is_sure);
        if !may_run {
            let waiting =
                self.pending.iter().find(|other| other.action == result.action && other.target == result.target);
            if let Some(waiting) = waiting {
                return Some(Decision::Answer(ActionResult { dry_run: trigger.dry_run, ..waiting.clone() }));
            }
            result.detail = Some(match action.risk {
                Risk::Critical => "waits for the approval of two".to_owned(),
                _ => "waits for an approval".to_owned(),
            });
            if !trigger.dry_run {
                if self.pending.len() >= MAX_PENDING {
                    result.status = ActionStatus::Exhausted;
                    result.detail = Some("too many requests wait for an approval".to_owned());
                    return Some(Decision::Answer(result));
                }
                self.pending.push(result.clone());
            }
            return Some(Decision::Answer(result));
        }
        if trigger.dry_run {
            result.status = ActionStatus::Completed;
            result.detail = Some("would be executed".to_owned());
            return Some(Decision::Answer(result));
        }
        Some(self.let_through(result, now))
    }

    /// Takes an approval; `None` when nothing of this id waits.
    pub fn approve(&mut self, id: &str, by: &str, circumstances: Circumstances, now: Timestamp) -> Option<Decision> {
        self.expire(now);
        let by = by.trim();
        let at = self.pending.iter().position(|waiting| waiting.id == id)?;
        let waiting = &mut self.pending[at];
        // Two spellings of a name are one person.
        let is_same = |approver: &String| approver.to_lowercase() == by.to_lowercase();
        if !waiting.approved_by.iter().any(is_same) {
            waiting.approved_by.push(by.to_owned());
        }
        let needed = if waiting.risk == Risk::Critical { CRITICAL_APPROVALS } else { 1 };
        if waiting.approved_by.len() < needed {
            waiting.detail = Some("waits for the approval of someone else".to_owned());
            return Some(Decision::Answer(waiting.clone()));
        }
        let mut result = waiting.clone();
        let (action, _) = self.actions.get(&result.action)?.clone();
        // Whether it is wise was decided by those who approved; whether it is too often was not.
        let circumstances = Circumstances { is_widespread: false, ..circumstances };
        if self.is_barred(&action, &mut result, circumstances, now) {
            // It keeps waiting, with its approvals.
            return Some(Decision::Answer(result));
        }
        self.pending.remove(at);
        result.detail = None;
        Some(self.let_through(result, now))
    }

    /// Takes a refusal; `None` when nothing of this id waits.
    pub fn reject(&mut self, id: &str, by: &str, now: Timestamp) -> Option<ActionResult> {
        self.expire(now);
        let at = self.pending.iter().position(|waiting| waiting.id == id)?;
        let mut result = self.pending.remove(at);
        result.status = ActionStatus::Rejected;
        result.rejected_by = Some(by.to_owned());
        result.detail = None;
        result.finished_at = Some(now);
        self.record(&result);
        Some(result)
    }

    /// Takes in how an execution went.
    pub fn finish(&mut self, mut result: ActionResult, now: Timestamp) -> ActionResult {
        result.finished_at = Some(now);
        let history = self.history.entry((result.action.clone(), result.target.clone())).or_default();
        history.is_running = false;
        match (result.status, result.effect) {
            (ActionStatus::Completed, _) => {
                history.failures = 0;
                history.without_effect = 0;
            }
            (_, Effect::NoEffect | Effect::Harmed) => {
                history.failures += 1;
                history.without_effect += 1;
            }
            _ => history.failures += 1,
        }
        self.record(&result);
        result
    }

    /// Returns what waits, oldest first.
    pub fn pending(&mut self, now: Timestamp) -> Vec<ActionResult> {
        self.expire(now);
        self.pending.clone()
    }

    /// Returns what became of requests, newest first.
    pub fn audit(&self) -> Vec<ActionResult> {
        self.audit.iter().rev().cloned().collect()
    }

    /// Returns whether the action may not run now, whoever asks, and writes why.
    fn is_barred(
        &mut self,
        action: &Action,
        result: &mut ActionResult,
        circumstances: Circumstances,
        now: Timestamp,
    ) -> bool {
        let hour = SignedDuration::from_hours(1);
        while self.executed.front().is_some_and(|(at, _)| now.duration_since(*at) >= hour) {
            self.executed.pop_front();
        }
        self.history
            .retain(|_, history| history.is_running || history.last.is_some_and(|last| now.duration_since(last) < DAY));
        let history = self.history.get(&(action.name.clone(), result.target.clone())).cloned().unwrap_or_default();
        let on_target = self.executed.iter().filter(|(_, target)| *target == result.target).count();
        let cooldown = SignedDuration::try_from(action.cooldown).unwrap_or(SignedDuration::MAX);
        let left = history.last.map(|last| cooldown - now.duration_since(last)).filter(|left| left.is_positive());
        let barred = if history.is_running {
            Some((ActionStatus::Cooldown, "it is being done".to_owned()))
        } else if history.failures >= action.max_attempts {
            Some((ActionStatus::Exhausted, format!("it failed {} times in a row", history.failures)))
        } else if history.without_effect >= QUARANTINE {
            Some((ActionStatus::Exhausted, format!("it had no effect {} times", history.without_effect)))
        } else if let Some(left) = left {
            result.retry_after_s = Some(left.as_secs_f64());
            Some((ActionStatus::Cooldown, format!("it was done lately; again in {:.0} s", left.as_secs_f64())))
        } else if on_target >= TARGET_BUDGET || self.executed.len() >= OVERALL_BUDGET {
            Some((ActionStatus::Exhausted, "too much was done within the hour".to_owned()))
        } else if circumstances.is_widespread {
            Some((ActionStatus::Stopped, "more than 40 % of the services are sick".to_owned()))
        } else {
            None
        };
        let Some((status, detail)) = barred else { return false };
        result.status = status;
        result.detail = Some(detail);
        true
    }

    fn let_through(&mut self, result: ActionResult, now: Timestamp) -> Decision {
        let Some((action, healer)) = self.actions.get(&result.action) else { return Decision::Answer(result) };
        let execution = Execution { healer: Arc::clone(healer), timeout: action.timeout, result };
        let key = (execution.result.action.clone(), execution.result.target.clone());
        let history = self.history.entry(key).or_default();
        history.is_running = true;
        history.last = Some(now);
        self.executed.push_back((now, execution.result.target.clone()));
        Decision::Execute(execution)
    }

    fn expire(&mut self, now: Timestamp) {
        while let Some(at) = self.pending.iter().position(|waiting| now.duration_since(waiting.requested_at) >= DAY) {
            let mut result = self.pending.remove(at);
            result.status = ActionStatus::Rejected;
            result.detail = Some("nobody answered for a day".to_owned());
            result.finished_at = Some(now);
            self.record(&result);
        }
    }

    fn record(&mut self, result: &ActionResult) {
        if self.audit.len() >= MAX_AUDIT {
            self.audit.pop_front();
        }
        self.audit.push_back(result.clone());
    }
}
