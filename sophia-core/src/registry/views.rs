//! What is asked of the registry as a whole, and what it shows.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    check::Status,
    directory::Entry,
    server::{or_default, same_word},
    tools::ToolFormat,
};
use crate::resilience::BreakerState;

/// Which servers are wanted; everything that is set must hold.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Discover {
    /// A capability, in any case.
    pub capability: Option<String>,
    /// Several capabilities, all of which the server must have.
    #[serde(deserialize_with = "or_default")]
    pub all_of: Vec<String>,
    /// A tier, in any case.
    pub tier: Option<String>,
    /// A group, in any case.
    pub group: Option<String>,
    /// Tags, one of which the server must have.
    #[serde(deserialize_with = "or_default")]
    pub tags: Vec<String>,
    /// What its last check found.
    pub status: Option<Status>,
}

impl Discover {
    /// Wants servers that can do `capability`.
    pub fn capability(capability: impl Into<String>) -> Discover {
        Discover { capability: Some(capability.into()), ..Discover::default() }
    }

    pub(crate) fn takes(&self, entry: &Entry) -> bool {
        let server = &entry.server;
        let same = |wanted: &Option<String>, own: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| own.as_ref().is_some_and(|own| same_word(own, wanted)))
        };
        self.capability.iter().chain(&self.all_of).all(|capability| server.can(capability))
            && same(&self.tier, &server.tier)
            && same(&self.group, &server.group)
            && (self.tags.is_empty() || self.tags.iter().any(|tag| server.tags.iter().any(|own| same_word(own, tag))))
            && self.status.is_none_or(|status| entry.live.status().status == status)
    }
}

/// Whose tools to list, and how.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ListTools {
    /// The server; without it, all servers, and names of functions are qualified, such as `github__search`. Where several tools
    /// would have one name, each of them has a hash of server and tool at its end.
    pub server: Option<String>,
    /// The form.
    #[serde(deserialize_with = "or_default")]
    pub format: ToolFormat,
}

impl ListTools {
    /// Lists the tools of one server.
    pub fn of(server: impl Into<String>) -> ListTools {
        ListTools { server: Some(server.into()), ..ListTools::default() }
    }

    /// Sets the form.
    #[must_use]
    pub fn format(mut self, format: ToolFormat) -> ListTools {
        self.format = format;
        self
    }
}

/// A server at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct ServerOverview {
    /// What its last check found.
    pub status: Status,
    /// When it was last checked; null where it never was.
    pub last_check: Option<Timestamp>,
    /// What it said at its last check.
    pub detail: Option<String>,
    /// Where its breaker stands.
    pub breaker: BreakerState,
    /// Calls under way.
    pub in_flight: usize,
    /// Calls since it was registered.
    pub calls: u64,
    /// Those that failed by its fault.
    pub errors: u64,
    /// Peak-EWMA of its latency, in milliseconds; null before the first call.
    pub latency_ms: Option<f64>,
    /// Number of tools that it last listed; null where it never did.
    pub tools: Option<usize>,
    /// Why its tools could not be listed the last time; null where they could, or where nobody asked. Until they can be again,
    /// a list of all tools has those of its last good list, if there is one.
    pub tools_error: Option<String>,
}

/// Something that has changed.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Change {
    /// What.
    pub kind: ChangeKind,
    /// Id of the server; null where it concerns more than one.
    pub server: Option<String>,
    /// Its status now.
    pub status: Option<Status>,
    /// When.
    pub at: Timestamp,
}

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ChangeKind {
    /// A server is new.
    Registered,
    /// A server is described otherwise.
    Updated,
    /// A server is gone.
    Deregistered,
    /// A check found another status than the one before.
    Status,
    /// The watcher was too slow and has missed changes; it should list the servers anew.
    Missed,
}
