//! The operations of health.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    ActionResult, Alert, AlertMatch, AlertState, CheckAll, Observation, Registration, Rule, SeriesQuery, SeriesView,
    ServiceCheck, SystemHealth, Trigger, UnifiedHealth,
};
use crate::operations::{NoArguments, operations};

/// One service.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceArgument {
    /// Its name.
    service: String,
}

/// A dependency.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Depends {
    /// The service that calls.
    service: String,
    /// The service that is called.
    on: String,
}

/// A service that is being worked on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Maintenance {
    /// Its name.
    service: String,
    /// Until when.
    until: Timestamp,
}

/// Which alerts.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Alerts {
    /// In which state; active ones by default.
    state: Option<WantedState>,
}

/// In which state.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WantedState {
    /// Those that hold, and that nobody took or silenced.
    Active,
    /// Those that hold, and that someone took.
    Acknowledged,
    /// Those that hold, and that are silenced.
    Silenced,
    /// Those that are over.
    Resolved,
    /// Every one.
    All,
}

/// An alert or a request, and who deals with it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Who {
    /// Its id.
    id: String,
    /// Who deals with it.
    by: String,
}

/// What is to be silent, and for how long.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Silence {
    /// What is to be silent.
    #[serde(rename = "match")]
    matching: AlertMatch,
    /// Until when.
    until: Timestamp,
}

operations! {
    /// Looks after a service from now on.
    "health.register"(sophia, registration: Registration) -> () { sophia.health().register_spec(registration) }
    /// Forgets a service, and tells whether it was registered.
    "health.unregister"(sophia, arguments: ServiceArgument) -> bool { Ok(sophia.health().unregister(&arguments.service)) }
    /// Says that one service calls another.
    "health.depends"(sophia, arguments: Depends) -> () { sophia.health().depends(&arguments.service, &arguments.on) }
    /// Says that a service is being worked on until then.
    "health.maintenance"(sophia, arguments: Maintenance) -> () {
        sophia.health().maintenance(&arguments.service, arguments.until)
    }
    /// Takes in a measured point.
    "health.observe"(sophia, point: Observation) -> () { sophia.health().observe_point(point) }
    /// Sets when the values of a metric are an alert.
    "health.rule"(sophia, rule: Rule) -> () { sophia.health().rule(rule) }
    /// Looks at one service now.
    "health.check"(sophia, arguments: ServiceArgument) -> ServiceCheck { sophia.health().check(&arguments.service).await }
    /// Looks at all services now, before one deadline.
    "health.check_all"(sophia, options: CheckAll) -> BTreeMap<String, ServiceCheck> { sophia.health().check_all(options).await }
    /// Returns how everything is, and why.
    "health.report"(sophia, _arguments: NoArguments) -> SystemHealth { sophia.health().report().await }
    /// Returns how everything is, in the shape that a unified dashboard reads.
    "health.unified"(sophia, _arguments: NoArguments) -> UnifiedHealth { sophia.health().unified().await }
    /// Returns the recent history of one signal.
    "health.series"(sophia, query: SeriesQuery) -> SeriesView { sophia.health().series(query) }
    /// Returns alerts, newest first.
    "health.alerts"(sophia, arguments: Alerts) -> Vec<Alert> {
        Ok(match arguments.state.unwrap_or(WantedState::Active) {
            WantedState::All => sophia.health().all_alerts(),
            WantedState::Active => sophia.health().alerts(Some(AlertState::Active)),
            WantedState::Acknowledged => sophia.health().alerts(Some(AlertState::Acknowledged)),
            WantedState::Silenced => sophia.health().alerts(Some(AlertState::Silenced)),
            WantedState::Resolved => sophia.health().alerts(Some(AlertState::Resolved)),
        })
    }
    /// Marks an alert as taken by someone.
    "health.ack"(sophia, who: Who) -> Alert { sophia.health().ack(&who.id, &who.by) }
    /// Ends an alert by hand.
    "health.resolve"(sophia, who: Who) -> Alert { sophia.health().resolve(&who.id, &who.by) }
    /// Silences the alerts that match until then.
    "health.silence"(sophia, arguments: Silence) -> () { sophia.health().silence(arguments.matching, arguments.until) }
    /// Asks for a healing action: runs it, or says why not, or what it waits for.
    "health.trigger"(sophia, trigger: Trigger) -> ActionResult { sophia.health().trigger(trigger).await }
    /// Approves a healing action that waits.
    "health.approve"(sophia, who: Who) -> ActionResult { sophia.health().approve(&who.id, &who.by).await }
    /// Refuses a healing action that waits.
    "health.reject"(sophia, who: Who) -> ActionResult { sophia.health().reject(&who.id, &who.by).await }
    /// Returns the healing actions that wait for an approval, oldest first.
    "health.pending"(sophia, _arguments: NoArguments) -> Vec<ActionResult> { Ok(sophia.health().pending()) }
    /// Returns what became of the last healing actions, newest first.
    "health.audit"(sophia, _arguments: NoArguments) -> Vec<ActionResult> { Ok(sophia.health().audit()) }
    /// Returns the engine's metrics as Prometheus text.
    "health.prometheus"(sophia, _arguments: NoArguments) -> String { Ok(sophia.health().prometheus()) }
}
