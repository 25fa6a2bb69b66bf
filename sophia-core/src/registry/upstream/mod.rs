//! Speaks to servers.
//!
//! | to | open |
//! |---|---|
//! | know what an answer and a failure are | this file |
//! | send HTTP | [`rest`], [`http`] |
//! | hold an MCP session, over HTTP or a child process | [`mcp`], [`stdio`] |
//! | bound what a child process answers, and find out its era | [`pipe`] |
//! | tell that an HTTP server has lost a session | [`renewing`] |
//! | call tools of this process | [`builtin`] |

pub(crate) mod builtin;
pub(crate) mod http;
#[cfg(feature = "mcp")]
pub(crate) mod mcp;
#[cfg(not(feature = "mcp"))]
#[path = "no_mcp.rs"]
pub(crate) mod mcp;
#[cfg(feature = "mcp")]
mod pipe;
#[cfg(feature = "mcp")]
mod renewing;
pub(crate) mod rest;
#[cfg(feature = "mcp")]
pub(crate) mod stdio;

use std::{future::Future, sync::Arc};

use serde_json::{Map, Value};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{config::RegistryConfig, directory::Entry, server::Transport, tools::Tool};
use crate::{
    Error, ErrorKind, Result, Scope,
    http_client::{AddressPolicy, Connections, HttpClient, HttpOptions, Proxy},
    resilience::Deadline,
    toolset::Toolset,
};

/// What a tool answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// Content blocks as MCP has them.
    pub content: Vec<Value>,
    /// Structured result, if there is one.
    pub data: Option<Value>,
    /// Whether the tool says that it failed. The server itself is well.
    pub is_error: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub error: Error,
    pub blame: Blame,
    /// Whether the server may have begun to work on it.
    pub sent: bool,
}

/// Whom a failure counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The server: it timed out, was not there, ended, or answered what cannot be read.
    Server,
    /// The call or the configuration: another server may be asked, the breaker does not count it.
    Call,
    /// The call, in a way that no other server would answer better, such as wrong arguments.
    Arguments,
}

impl Failure {
    pub(crate) fn server(error: Error, sent: bool) -> Failure {
        Failure { error, blame: Blame::Server, sent }
    }

    pub(crate) fn call(error: Error) -> Failure {
        Failure { error, blame: Blame::Call, sent: false }
    }

    pub(crate) fn arguments(error: Error) -> Failure {
        Failure { error, blame: Blame::Arguments, sent: true }
    }
}

/// What calls to every server share, from the first use to a shutdown; what is used after that has a new one.
#[derive(Debug)]
pub(crate) struct Clients {
    pub config: Arc<RegistryConfig>,
    pub http: HttpClient,
    /// Tools of this process.
    pub toolsets: Vec<Arc<dyn Toolset>>,
    /// Who watches over a child process each; a shutdown waits for them all.
    pub children: TaskTracker,
    /// Cancelled by a shutdown.
    pub life: CancellationToken,
}

impl Clients {
    pub(crate) fn new(config: RegistryConfig, toolsets: Vec<Arc<dyn Toolset>>) -> Clients {
        let http = HttpClient::new(HttpOptions {
            addresses: if config.allow_private { AddressPolicy::AllowPrivate } else { AddressPolicy::PublicOnly },
            proxy: if config.system_proxy { Proxy::System } else { Proxy::None },
            connections: Connections::Pooled,
        });
        let (children, life) = (TaskTracker::new(), CancellationToken::new());
        Clients { http, toolsets, config: Arc::new(config), children, life }
    }

    /// Returns what is used after a shutdown.
    pub(crate) fn renewed(&self) -> Clients {
        Clients::new((*self.config).clone(), self.toolsets.clone())
    }

    /// Returns whether there was no shutdown.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] where there was.
    #[cfg(feature = "mcp")]
    pub(crate) fn open(&self, operation: &'static str) -> Result<()> {
        if self.life.is_cancelled() { Err(stopped(operation)) } else { Ok(()) }
    }

    /// Runs work that a shutdown ends.
    ///
    /// # Errors
    /// What the work says, or [`ErrorKind::Cancelled`].
    pub(crate) async fn while_open<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            // First: what the shutdown itself broke off is no failure of a server.
            biased;
            () = self.life.cancelled() => Err(stopped(operation)),
            outcome = work => outcome,
        }
    }
}

fn stopped(operation: &'static str) -> Error {
    Error::new(ErrorKind::Cancelled, operation, "the call was stopped by a shutdown")
}

pub(crate) type Outcome<T> = Result<T, Failure>;

/// Calls one tool of one server, once.
pub(crate) async fn call(
    clients: &Arc<Clients>,
    entry: &Entry,
    tool: &str,
    arguments: &Map<String, Value>,
    scope: Option<&Scope>,
    deadline: Deadline,
) -> Outcome<Answer> {
    const CALL: &str = "registry.call";
    match transport(CALL, entry)? {
        Transport::Rest => rest::call(clients, &entry.server, tool, arguments, deadline).await,
        Transport::Builtin => builtin::call(clients, &entry.server, tool, arguments, scope, deadline).await,
        _ => mcp::call(clients, entry, tool, arguments, deadline).await,
    }
}

/// Asks one server for its tools.
pub(crate) async fn list_tools(clients: &Arc<Clients>, entry: &Entry, deadline: Deadline) -> Outcome<Vec<Tool>> {
    const LIST: &str = "registry.list_tools";
    match transport(LIST, entry)? {
        Transport::Rest => rest::list_tools(clients, &entry.server, deadline).await,
        Transport::Builtin => builtin::list_tools(clients, &entry.server),
        _ => mcp::list_tools(clients, entry, deadline).await,
    }
}

/// Returns the transport, if it is one that is spoken.
fn transport(operation: &'static str, entry: &Entry) -> Outcome<Transport> {
    let server = &entry.server;
    match server.transport() {
        Some(Transport::Sse) => Err(Failure::call(
            Error::new(
                ErrorKind::Unsupported,
                operation,
                "the HTTP+SSE transport of 2024-11-05 is not spoken; give the server's streamable HTTP address as `url`",
            )
            .with("server", &server.id),
        )),
        Some(transport) => Ok(transport),
        // `Server::checked` lets none in without one.
        None => Err(Failure::call(Error::invalid(operation, "url", "is required, unless `command` is given"))),
    }
}
