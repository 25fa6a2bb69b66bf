//! Healing on request: deciding, doing, looking whether it helped.

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;

use super::{
    Action, ActionResult, ActionStatus, Effect, EventKind, Healer, Health, Status, Trigger,
    actions::{Circumstances, Decision, Execution},
    analysis, causes,
    engine::Shared,
    names::check_name,
    window::BUCKETS,
};
use crate::{Error, ErrorKind, Result, resilience::Deadline};

/// Share of the registered services that may be sick before healing stops.
const WIDESPREAD: f64 = 0.4;
/// Registered services that make such a share worth anything.
const LEAST_SERVICES: usize = 5;
/// Share of the loss that a cause must account for to be sure.
const SURE: f64 = 0.9;
/// Minutes that an episode may be over, and its cause is still one to heal.
const LATELY: usize = 5;

impl Health {
    /// Sets what can be done about targets, in place of an action of the same name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`], naming the field.
    pub fn action(&self, action: Action, healer: Arc<dyn Healer>) -> Result<()> {
        self.shared().actions.lock().set(action, healer)
    }

    /// Asks for an action: runs it, or says why it does not, or what it waits for. An action that fails is a result, not an error.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such action; [`ErrorKind::InvalidInput`], naming the field.
    ///
    /// # Cancel safety
    /// What was begun is finished, and is in the audit.
    pub async fn trigger(&self, trigger: Trigger) -> Result<ActionResult> {
        check_name("health.trigger", "target", &trigger.target)?;
        let circumstances = self.circumstances(&trigger.target);
        let now = self.shared().clock.now();
        let decision = {
            let mut actions = self.shared().actions.lock();
            actions.request(&trigger, circumstances, now).ok_or_else(|| {
                let names = actions.names();
                let near = crate::wire::nearest(&trigger.name, &names);
                let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                Error::new(
                    ErrorKind::NotFound,
                    "health.trigger",
                    format!("no action `{}` is known{hint}", trigger.name),
                )
            })?
        };
        self.carry_out(decision).await
    }

    /// Approves a request that waits, and runs it when that was the last approval it needed.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when nothing of this id waits; [`ErrorKind::InvalidInput`], naming the field.
    ///
    /// # Cancel safety
    /// As [`Health::trigger`].
    pub async fn approve(&self, id: &str, by: &str) -> Result<ActionResult> {
        check_name("health.approve", "by", by)?;
        let now = self.shared().clock.now();
        let circumstances = Circumstances { is_sure: true, is_widespread: false };
        let decision = self.shared().actions.lock().approve(id, by, circumstances, now);
        self.carry_out(decision.ok_or_else(|| nothing_waits("health.approve", id))?).await
    }

    /// Refuses a request that waits.
    ///
    /// # Errors
    /// As [`Health::approve`].
    pub async fn reject(&self, id: &str, by: &str) -> Result<ActionResult> {
        check_name("health.reject", "by", by)?;
        let now = self.shared().clock.now();
        let result = self.shared().actions.lock().reject(id, by, now);
        let result = result.ok_or_else(|| nothing_waits("health.reject", id))?;
        self.shared().emit(EventKind::Action(result.clone()), now);
        Ok(result)
    }

    /// Returns the requests that wait for an approval, oldest first.
    pub fn pending(&self) -> Vec<ActionResult> {
        let now = self.shared().clock.now();
        self.shared().actions.lock().pending(now)
    }

    /// Returns what became of the last 1,000 requests, newest first.
    pub fn audit(&self) -> Vec<ActionResult> {
        self.shared().actions.lock().audit()
    }

    async fn carry_out(&self, decision: Decision) -> Result<ActionResult> {
        let shared = self.shared();
        let execution = match decision {
            Decision::Answer(result) => {
                if !result.dry_run {
                    shared.emit(EventKind::Action(result.clone()), shared.clock.now());
                }
                return Ok(result);
            }
            Decision::Execute(execution) => execution,
        };
        // Spawned, so that a caller who goes away does not leave it half done.
        let owner = Arc::clone(shared);
        let work = tokio::spawn(async move {
            let result = execute(execution).await;
            let now = owner.clock.now();
            let result = owner.actions.lock().finish(result, now);
            owner.emit(EventKind::Action(result.clone()), now);
            result
        });
        work.await.map_err(|error| {
            Error::new(ErrorKind::Cancelled, "health.trigger", "the runtime ended before the action did")
                .with_source(error)
        })
    }

    /// Looks at what speaks for and against healing `target` now.
    fn circumstances(&self, target: &str) -> Circumstances {
        let shared = self.shared();
        let services = shared.registered();
        let sick = services.iter().filter(|service| service.state().status == Status::Unhealthy).count();
        let hours = analysis::hours(&shared.series.all(), shared.clock.now().as_second());
        let causes = causes::root_causes(&hours, &shared.graph.read());
        let lasts = |hour: &analysis::Hour| hour.episode.is_some_and(|(_, last)| last + LATELY >= BUCKETS);
        let is_sick = hours.iter().any(|hour| &*hour.service == target && lasts(hour));
        Circumstances {
            is_sure: is_sick && causes.first().is_some_and(|cause| cause.service == target && cause.share >= SURE),
            is_widespread: services.len() >= LEAST_SERVICES && sick as f64 > WIDESPREAD * services.len() as f64,
        }
    }
}

impl Shared {
    /// Returns the action that is named after a service by one word, such as `restart_redis`: `drop_user_db` is not after `db`. Of
    /// several the one of least risk; `None` where there is more than one such.
    pub(super) fn action_for(&self, service: &str) -> Option<(String, super::Risk)> {
        let actions = self.actions.lock();
        let named = |name: &&str| name.split_once('_').is_some_and(|(_, target)| target == service);
        let known: Vec<_> = actions
            .names()
            .into_iter()
            .filter(named)
            .filter_map(|name| Some((name, actions.find(name)?.risk)))
            .collect();
        let least = known.iter().map(|(_, risk)| *risk).min()?;
        let mut least = known.into_iter().filter(|(_, risk)| *risk == least);
        match (least.next(), least.next()) {
            (Some((name, risk)), None) => Some((name.to_owned(), risk)),
            _ => None,
        }
    }
}

fn nothing_waits(operation: &'static str, id: &str) -> Error {
    Error::new(ErrorKind::NotFound, operation, "nothing of this id waits for an approval").with("id", id)
}

/// Executes, verifies, and takes back what did not help or was not done in time.
async fn execute(execution: Execution) -> ActionResult {
    let Execution { mut result, healer, timeout } = execution;
    let target = result.target.clone();
    if let Err(error) = step(timeout, healer.execute(&target)).await {
        result.status = ActionStatus::Failed;
        let what = error.to_string();
        // One that was dropped on its way may have done half of it.
        if error.kind() == ErrorKind::Timeout {
            take_back(&mut result, &*healer, timeout, &what).await;
        } else {
            result.detail = Some(what);
        }
        return result;
    }
    match step(timeout, healer.verify(&target)).await {
        Ok(effect) => result.effect = effect,
        Err(error) => result.detail = Some(format!("nobody knows whether it helped: {error}")),
    }
    if !matches!(result.effect, Effect::NoEffect | Effect::Harmed) {
        result.status = ActionStatus::Completed;
        return result;
    }
    result.status = ActionStatus::Failed;
    let what = if result.effect == Effect::Harmed { "it did harm" } else { "it did not help" };
    take_back(&mut result, &*healer, timeout, what).await;
    result
}

/// Takes an action back where that is possible, and writes down what became of it.
async fn take_back(result: &mut ActionResult, healer: &dyn Healer, timeout: Duration, what: &str) {
    let outcome = step(timeout, healer.rollback(&result.target)).await;
    result.detail = Some(match outcome {
        Ok(true) => {
            result.rolled_back = true;
            format!("{what}, and was taken back")
        }
        Ok(false) => what.to_owned(),
        Err(error) => format!("{what}, and could not be taken back: {error}"),
    });
}

/// Runs one step of a healer, which may hang or panic.
async fn step<T>(timeout: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    const OPERATION: &str = "health.trigger";
    let caught = AssertUnwindSafe(work).catch_unwind().map(|outcome| {
        outcome.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, OPERATION, "the healer panicked")))
    });
    Deadline::after(timeout).run(OPERATION, caught).await
}
