//! Whether a server is well: what is asked of it, and what its words mean.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    directory::Entry,
    server::Transport,
    upstream::{Blame, Clients, Failure, builtin, http::excerpt, mcp, rest},
};
use crate::{Error, ErrorKind, Result, resilience::Deadline};

pub(crate) const CHECK: &str = "registry.check";

/// How a server is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[schemars(rename = "ServerHealth")]
pub enum Status {
    /// It answers as it should.
    Healthy,
    /// It answers, and says itself that not all is well.
    Degraded,
    /// It does not answer, or says that it cannot work.
    Unhealthy,
    /// Nobody asked, or it cannot be told.
    #[default]
    Unknown,
}

/// How a server is, and since when that is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct ServerStatus {
    /// How it is.
    pub status: Status,
    /// How long it took to answer, in milliseconds; null where it did not.
    pub latency_ms: Option<f64>,
    /// When it was asked; null where it never was.
    pub last_check: Option<Timestamp>,
    /// What it said, or why it is not well.
    pub detail: Option<String>,
}

/// Statuses by server.
pub type Statuses = BTreeMap<String, ServerStatus>;

/// Asks a server how it is: its health path if it has one, else MCP, else whether its port opens.
pub(crate) async fn ask(clients: &Arc<Clients>, entry: &Entry, deadline: Deadline) -> (Status, Option<String>) {
    let server = &entry.server;
    let asked = match (&server.health_path, server.transport()) {
        (Some(path), Some(Transport::Http | Transport::Rest | Transport::Sse)) => {
            rest::get(clients, CHECK, server, path, deadline)
                .await
                .map(|(status, body)| meaning(status.as_u16(), &body))
        }
        (_, Some(Transport::Stdio | Transport::Http)) => mcp::ping(clients, entry, deadline)
            .await
            .map(|who| (Status::Healthy, Some(who).filter(|who| !who.is_empty()))),
        (_, Some(Transport::Builtin)) => {
            builtin::find(CHECK, clients, server).map(|_| (Status::Healthy, Some("in this process".to_owned())))
        }
        _ => opens(clients, entry, deadline).await.map(|()| (Status::Healthy, Some("its port opens".to_owned()))),
    };
    asked.unwrap_or_else(|failure| {
        let status = match (failure.blame, failure.error.kind()) {
            // It could not even be asked.
            (Blame::Call, ErrorKind::Unsupported | ErrorKind::InvalidConfig) => Status::Unknown,
            // It is there, and does not know us.
            (Blame::Call, ErrorKind::Unauthorized | ErrorKind::RateLimited) => Status::Degraded,
            _ => Status::Unhealthy,
        };
        (status, Some(failure.error.message().to_owned()))
    })
}

async fn opens(clients: &Clients, entry: &Entry, deadline: Deadline) -> Result<(), Failure> {
    let server = &entry.server;
    let url = rest::base(clients, CHECK, server).map_err(Failure::call)?;
    let unavailable = |why: String| {
        Failure::server(
            Error::new(ErrorKind::Unavailable, CHECK, format!("`{}` cannot be reached: {why}", server.id)),
            false,
        )
    };
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err(unavailable("its URL has no host".to_owned()));
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let connect = async {
        let found = clients.http.addresses().resolve(host, port).await?;
        tokio::net::TcpStream::connect(found.as_slice()).await
    };
    match tokio::time::timeout_at(deadline.instant(), connect).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(unavailable(error.to_string())),
        Err(_) => Err(Failure::server(deadline.passed(CHECK), false)),
    }
}

/// Tells what a health answer means: what it says of itself, then its HTTP status.
pub(crate) fn meaning(http_status: u16, body: &[u8]) -> (Status, Option<String>) {
    let by_code = match http_status {
        200..=299 => Status::Healthy,
        // It is there; whether it is well, it does not tell us.
        401 | 403 | 429 => Status::Degraded,
        _ => Status::Unhealthy,
    };
    let said = serde_json::from_slice::<Value>(body).ok().and_then(|body| said(&body));
    let text = String::from_utf8_lossy(body);
    let said = said.or_else(|| (text.len() < 40).then(|| word(text.trim())).flatten());
    let status = match said {
        // What it says may be worse than its code, not better: a 503 that says "ok" is still a 503.
        Some(said) => worse(by_code, said),
        None => by_code,
    };
    let shown = excerpt(&text);
    let detail = if shown.is_empty() { http_status.to_string() } else { format!("{http_status}: {shown}") };
    (status, Some(detail))
}

/// Finds the status in a health document.
fn said(body: &Value) -> Option<Status> {
    match body {
        Value::String(text) => word(text),
        Value::Bool(true) => Some(Status::Healthy),
        Value::Bool(false) => Some(Status::Unhealthy),
        Value::Number(number) => number.as_u64().and_then(|number| word(&number.to_string())),
        Value::Object(object) => {
            ["status", "health", "state", "healthy", "ok", "success"].iter().find_map(|field| said(object.get(*field)?))
        }
        _ => None,
    }
}

/// Tells what one word means. The words are those of Spring, Kubernetes, RFC drafts on health documents, and of people.
pub(crate) fn word(text: &str) -> Option<Status> {
    match text.trim().to_lowercase().as_str() {
        "ok" | "okay" | "healthy" | "up" | "pass" | "passed" | "passing" | "alive" | "running" | "ready"
        | "serving" | "online" | "operational" | "success" | "active" | "available" | "connected" | "good"
        | "green" | "true" | "200" | "204" | "pong" => Some(Status::Healthy),
        "degraded" | "warn" | "warning" | "partial" | "limited" | "yellow" | "starting" | "initializing" | "slow" => {
            Some(Status::Degraded)
        }
        "down" | "unhealthy" | "fail" | "failed" | "failing" | "error" | "critical" | "dead" | "offline"
        | "stopped" | "red" | "unavailable" | "out_of_service" | "not_ready" | "not ready" | "disconnected"
        | "false" | "500" | "502" | "503" | "504" => Some(Status::Unhealthy),
        _ => None,
    }
}

fn worse(a: Status, b: Status) -> Status {
    let rank = |status| match status {
        Status::Healthy => 0,
        Status::Unknown => 1,
        Status::Degraded => 2,
        Status::Unhealthy => 3,
    };
    if rank(a) >= rank(b) { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_spelled_in_many_ways() {
        let cases = [
            (200, r#"{"status": "ok"}"#, Status::Healthy),
            (200, r#"{"status": "UP"}"#, Status::Healthy),
            (200, r#"{"status": "pass"}"#, Status::Healthy),
            (200, r#"{"status": 200}"#, Status::Healthy),
            (200, r#"{"healthy": true}"#, Status::Healthy),
            (200, r#"{"status": {"state": "green"}}"#, Status::Healthy),
            (200, "OK", Status::Healthy),
            (204, "", Status::Healthy),
            (200, "<html>hello</html>", Status::Healthy),
            (200, r#"{"status": "degraded"}"#, Status::Degraded),
            (401, "", Status::Degraded),
            (200, r#"{"status": "DOWN"}"#, Status::Unhealthy),
            (200, r#"{"ok": false}"#, Status::Unhealthy),
            (503, r#"{"status": "ok"}"#, Status::Unhealthy),
            (500, "", Status::Unhealthy),
            (302, "", Status::Unhealthy),
        ];
        for (code, body, status) in cases {
            assert_eq!(meaning(code, body.as_bytes()).0, status, "{code} {body}");
        }
    }
}
