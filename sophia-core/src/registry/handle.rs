//! The handle: the list of servers, what is asked of it, and who is told.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::{Stream, StreamExt, future::Either, stream};
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio::sync::{Semaphore, broadcast};

use super::{
    check::{self, CHECK, ServerStatus, Status, Statuses},
    config::RegistryConfig,
    directory::{Claim, Directory, Entry},
    export::{self, Dialect},
    import::{
        Load, LoadError, LoadReport, file,
        load::{self, Parsed},
    },
    lint::{self, Conflict},
    live::Live,
    select::{self, Decision, Select},
    server::{self, Server, Transport},
    tools::{self, ListedTool, Tool},
    upstream::{self, Clients},
    variables,
    views::{Change, ChangeKind, Discover, ListTools, ServerOverview},
};
use crate::{
    Clock, Error, ErrorKind, Result,
    context::Context,
    http_client::AddressPolicy,
    resilience::{BreakerSnapshot, BreakerState, CheckAll, Deadline},
    telemetry::ServerLabels,
    toolset::Toolset,
};

/// Changes that a slow watcher may fall behind by.
const CHANGES_KEPT: usize = 1_024;
/// Servers that begin to be asked for their tools at once, and how long each of them may keep the next from its turn: one that
/// hangs takes no other's time.
const LIST_CONCURRENCY: usize = 64;
const LIST_TURN: Duration = Duration::from_millis(200);
/// Source of what code registers.
const CODE: &str = "register";
const LIST: &str = "registry.list_tools";

/// Every MCP server in one list. Cheap to clone; all clones are one registry.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sophia_core::Result<()> {
/// use sophia_core::{Config, Sophia, registry::Server};
///
/// let sophia = Sophia::new(Config::default())?;
/// let registry = sophia.registry();
/// registry.load_json(r#"{"servers": [{"name": "github", "port": 9007}]}"#, "a.json").await?;
/// registry.load_json(r#"{"active_servers": {"git-hub": 9016}}"#, "b.json").await?;
/// assert_eq!(registry.get("GitHub")?.id, "github");
/// assert!(registry.lint().iter().any(|conflict| conflict.message.contains("several ports")));
///
/// registry.register(Server::new("files").command("mcp-files", ["--root", "/srv"]).capability("files"))?;
/// assert_eq!(registry.list().len(), 2);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Arc<RegistryConfig>,
    clients: ArcSwap<Clients>,
    context: Context,
    directory: RwLock<Directory>,
    memory: Mutex<select::Memory>,
    changes: broadcast::Sender<Change>,
}

impl Registry {
    pub(crate) fn new(config: &RegistryConfig, context: &Context, toolsets: Vec<Arc<dyn Toolset>>) -> Result<Registry> {
        let clients = Clients::new(config.clone(), toolsets);
        Ok(Registry(Arc::new(Inner {
            config: clients.config.clone(),
            clients: ArcSwap::from_pointee(clients),
            context: context.clone(),
            directory: RwLock::default(),
            memory: Mutex::new(select::Memory::new(config.seed)),
            changes: broadcast::Sender::new(CHANGES_KEPT),
        })))
    }

    /// Does nothing: sessions and processes start with the first call that needs them.
    pub(crate) async fn start(&self) -> Result<()> {
        Ok(())
    }

    /// Ends every session, call under way and watch, and returns when every child process is gone. What is used later opens
    /// again.
    pub(crate) async fn shutdown(&self) -> Result<()> {
        let ended = Ended { inner: &self.0, clients: self.clients() };
        ended.clients.life.cancel();
        let entries = self.entries();
        futures::future::join_all(entries.iter().map(|entry| entry.live.link.close())).await;
        ended.clients.children.close();
        ended.clients.children.wait().await;
        ended.clients.http.close();
        Ok(())
    }

    /// Registers a server. One of the same id, in any spelling, is replaced.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`], naming the field; also for an address that no server may have.
    pub fn register(&self, server: Server) -> Result<Server> {
        const REGISTER: &str = "registry.register";
        let server = server.checked(REGISTER)?;
        allowed(REGISTER, self.addresses(), &server)?;
        let mut directory = self.0.directory.write();
        self.room(REGISTER, &directory, &server)?;
        let is_new = directory.find(&server.id).is_none();
        directory.claim_one(Claim::new(&server, CODE, false));
        self.place(&mut directory, server.clone());
        drop(directory);
        self.announce(if is_new { ChangeKind::Registered } else { ChangeKind::Updated }, &server.id, None);
        Ok(server)
    }

    /// Takes a server out, and ends its session with the calls on it. Returns whether it was there.
    pub fn deregister(&self, id: &str) -> bool {
        let Some(entry) = self.0.directory.write().remove(id) else { return false };
        self.forget(&entry);
        true
    }

    /// Ends what goes on with a server that was taken out.
    fn forget(&self, entry: &Entry) {
        entry.live.link.abandon();
        let id = &entry.server.id;
        self.0.memory.lock().forget(id);
        let labels = ServerLabels { server: id.clone() };
        self.context().telemetry.mcp_server_status.remove(&labels);
        self.announce(ChangeKind::Deregistered, id, None);
    }

    /// Loads servers from a document or a file, in any of the forms that people use. What is known already is merged, and
    /// what the sources disagree about is for [`Registry::lint`]. A source that is loaded again takes out what it no longer
    /// says, whether a server or a header of one, unless another source or [`Registry::register`] says it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where the document has no known form: the message says what it has. [`ErrorKind::NotFound`]
    /// where there is no such file. One entry that is wrong is in the report, and the others are loaded.
    pub async fn load(&self, load: Load) -> Result<LoadReport> {
        let source = load.source.or_else(|| load.config.as_str().map(str::to_owned));
        let document = load::document(load.config).await?;
        self.merge(load::parse(document, source.as_deref())?, source)
    }

    /// Loads servers from JSON text; comments are let pass.
    ///
    /// # Errors
    /// As [`Registry::load`]; also where the text is not JSON.
    pub async fn load_json(&self, text: &str, source: impl Into<String>) -> Result<LoadReport> {
        let source = source.into();
        let document = file::json("registry.load", text, &source)?;
        self.merge(load::parse(document, Some(&source))?, Some(source))
    }

    fn merge(&self, parsed: Parsed, source: Option<String>) -> Result<LoadReport> {
        const LOAD: &str = "registry.load";
        let mut directory = self.0.directory.write();
        let source = source.unwrap_or_else(|| directory.unnamed_source());
        let mut report = LoadReport {
            dialect: parsed.dialect.to_owned(),
            source,
            errors: parsed.errors,
            warnings: parsed.warnings,
            ..LoadReport::default()
        };
        // An entry that is wrong is still named.
        let failed = |report: &LoadReport| -> BTreeSet<String> {
            report.errors.iter().filter_map(|error| Some(server::key(error.server.as_deref()?))).collect()
        };
        let (mut claims, mut changes, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        // What this source alone has said before is not to outlive what it says now: a name neither.
        let names: BTreeSet<_> = parsed.entries.iter().map(|entry| entry.server.id.as_str()).collect();
        for (known, left) in directory.nameless_without(&report.source, &failed(&report), &names) {
            removed.extend(directory.take(&known.id));
            if let Some(server) = left.and_then(|server| server.checked(LOAD).ok()) {
                report.loaded.push(server.id.clone());
                changes.push((ChangeKind::Registered, server.id.clone()));
                self.place(&mut directory, server);
            }
        }
        let mut said = directory.said_without(&report.source, &failed(&report), names.into_iter());
        for entry in parsed.entries {
            let (name, claim) = (entry.server.id.clone(), Claim::new(&entry.server, &report.source, entry.bare_port));
            let known = directory.find(&name).map(|known| known.server.clone());
            let own = directory.owner(&name);
            let merged = match (&known, said.get(&own)) {
                (_, Some(said)) => load::merge(said, entry.server),
                (Some(known), None) => entry.server.known_as(known),
                (None, None) => entry.server,
            };
            let merged = merged.checked(LOAD).and_then(|server| {
                self.room(LOAD, &directory, &server)?;
                allowed(LOAD, self.addresses(), &server)?;
                Ok(server)
            });
            let server = match merged {
                Ok(server) => server,
                Err(error) => {
                    report.errors.push(LoadError { server: Some(name), message: error.message().to_owned() });
                    continue;
                }
            };
            claims.push(claim);
            said.insert(own, server.clone());
            let id = server.id.clone();
            let (list, kind) = match &known {
                None => (&mut report.loaded, ChangeKind::Registered),
                Some(known) if **known == server => continue,
                Some(_) => (&mut report.updated, ChangeKind::Updated),
            };
            if !list.contains(&id) {
                list.push(id.clone());
                changes.push((kind, id));
            }
            self.place(&mut directory, server);
        }
        let failed = failed(&report);
        for key in directory.claim(&report.source, claims, &failed) {
            let Some(known) = directory.find(&key).map(|entry| entry.server.clone()) else { continue };
            // What the others say of it holds on.
            let left = said.get(&server::key(&known.id)).and_then(|server| server.clone().checked(LOAD).ok());
            match left {
                _ if !directory.is_claimed(&known) => removed.extend(directory.remove(&known.id)),
                Some(server) if server != *known => {
                    report.updated.push(known.id.clone());
                    changes.push((ChangeKind::Updated, known.id.clone()));
                    self.place(&mut directory, server);
                }
                _ => {}
            }
        }
        // What is new in this load and named twice in it is new, not updated.
        let loaded = &report.loaded;
        report.updated.retain(|id| !loaded.contains(id));
        removed.sort_by_key(|entry| server::key(&entry.server.id));
        report.removed = removed.iter().map(|entry| entry.server.id.clone()).collect();
        drop(directory);
        removed.iter().for_each(|entry| self.forget(entry));
        for (kind, id) in changes {
            self.announce(kind, &id, None);
        }
        tracing::info!(
            source = report.source,
            dialect = report.dialect,
            loaded = report.loaded.len(),
            updated = report.updated.len(),
            removed = report.removed.len(),
            errors = report.errors.len(),
            "servers loaded"
        );
        Ok(report)
    }

    /// Returns what the sources disagree about, and how to mend it.
    pub fn lint(&self) -> Vec<Conflict> {
        lint::lint(&self.0.directory.read())
    }

    /// Returns the servers in a form that editors read. Variables stand in the place of secrets; REST servers and
    /// built-in ones, which editors cannot use, are left out.
    pub fn export(&self, dialect: Dialect) -> Value {
        let entries = self.entries();
        let exported = export::export(dialect, entries.iter().map(|entry| entry.server.as_ref()));
        if !exported.left_out.is_empty() {
            tracing::info!(servers = ?exported.left_out, "servers that editors cannot use are not exported");
        }
        exported.config
    }

    /// Returns a server by its id, in any spelling.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], with the nearest id.
    pub fn get(&self, id: &str) -> Result<Server> {
        Ok((*self.entry("registry.get", id)?.server).clone())
    }

    /// Returns every server, by id.
    pub fn list(&self) -> Vec<Server> {
        self.0.directory.read().entries().map(|entry| (*entry.server).clone()).collect()
    }

    /// Returns the servers that match, by id.
    pub fn discover(&self, wanted: &Discover) -> Vec<Server> {
        let directory = self.0.directory.read();
        directory.entries().filter(|entry| wanted.takes(entry)).map(|entry| (*entry.server).clone()).collect()
    }

    /// Chooses a server that can do something, and those to ask if it fails. Servers that are not well come last.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where none can do it, with the nearest capability.
    pub fn select(&self, select: &Select) -> Result<Decision> {
        super::server::name(select::SELECT, "capability", &select.capability)?;
        let entries = self.entries();
        select::choose(select, &entries, &mut self.0.memory.lock(), self.clock().monotonic())
    }

    /// Lists tools, in the form of MCP or of a model's provider. No two functions have one name: those of one server have the
    /// names that it gives them, those of all [qualified](Tool::qualified_name) ones, and where several tools would have one of
    /// these, each has a hash at its end.
    ///
    /// # Errors
    /// As [`Registry::tools`].
    pub async fn list_tools(&self, list: ListTools) -> Result<Vec<ListedTool>> {
        let tools = self.tools(list.server.as_deref()).await?;
        let names = if list.server.is_some() { tools::own_names(&tools) } else { tools::unique_names(&tools) };
        Ok(tools.into_iter().zip(names).map(|(tool, name)| tool.listed(list.format, &name)).collect())
    }

    /// Lists the tools of one server, or of all.
    ///
    /// Of all, servers that do not answer within `registry.check_timeout` are represented by the last list that was good, and
    /// left out where there is none: one that hangs costs nothing more than that. Which they are, and why, is in
    /// [`Registry::status`] as `tools_error`.
    ///
    /// # Errors
    /// For one server: [`ErrorKind::NotFound`] where it is not registered, or why it does not answer. For all: none.
    pub async fn tools(&self, server: Option<&str>) -> Result<Vec<Tool>> {
        let clients = self.clients();
        clients.while_open(LIST, self.list_with(&clients, server)).await
    }

    async fn list_with(&self, clients: &Arc<Clients>, server: Option<&str>) -> Result<Vec<Tool>> {
        if let Some(id) = server {
            let entry = self.entry(LIST, id)?;
            let deadline = Deadline::after(entry.server.timeout.unwrap_or(self.config().timeout));
            return Ok(list_one(clients, &entry, deadline).await?.to_vec());
        }
        let deadline = Deadline::after(self.config().check_timeout);
        let turns = Semaphore::new(LIST_CONCURRENCY);
        let asked = self.entries().into_iter().map(async |entry: Entry| {
            match list_in_turn(clients, &entry, deadline, &turns).await {
                Ok(tools) => tools,
                Err(error) => {
                    tracing::warn!(server = entry.server.id, %error, "tools cannot be listed");
                    entry.live.tools().unwrap_or_default()
                }
            }
        });
        let lists: Vec<Arc<Vec<Tool>>> = futures::future::join_all(asked).await;
        Ok(lists.iter().flat_map(|tools| tools.iter().cloned()).collect())
    }

    /// Asks a server how it is. A stdio server is started for it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where it is not registered; a server that is not well is an answer.
    pub async fn check(&self, id: &str) -> Result<ServerStatus> {
        let entry = self.entry(CHECK, id)?;
        let time = match entry.server.command {
            Some(_) => self.config().check_timeout.max(self.config().start_timeout),
            None => self.config().check_timeout,
        };
        let clients = self.clients();
        clients.while_open(CHECK, async { Ok(self.examine(&clients, &entry, Deadline::after(time)).await) }).await
    }

    /// Asks every server how it is, all at once, within one deadline: however many hang, that is all the time it takes. Those
    /// that it was too late to ask are `unknown`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`], naming the field.
    pub async fn check_all(&self, all: CheckAll) -> Result<Statuses> {
        const CHECK_ALL: &str = "registry.check_all";
        all.validate(CHECK_ALL)?;
        let clients = &self.clients();
        let deadline = Deadline::after(all.deadline);
        let asked = stream::iter(self.entries()).map(async |entry: Entry| {
            let id = entry.server.id.clone();
            if deadline.remaining().is_zero() {
                let detail = Some("there was no time left to ask it".to_owned());
                return (id, ServerStatus { detail, ..entry.live.status() });
            }
            (id, self.examine(clients, &entry, deadline).await)
        });
        clients.while_open(CHECK_ALL, async { Ok(asked.buffer_unordered(all.concurrency).collect().await) }).await
    }

    async fn examine(&self, clients: &Arc<Clients>, entry: &Entry, deadline: Deadline) -> ServerStatus {
        let started = self.clock().monotonic();
        let (found, detail) = check::ask(clients, entry, deadline).await;
        let took = self.clock().monotonic().saturating_sub(started);
        let answered = matches!(found, Status::Healthy | Status::Degraded);
        let status = ServerStatus {
            status: found,
            latency_ms: answered.then_some(took.as_secs_f64() * 1_000.0),
            last_check: Some(self.clock().now()),
            detail,
        };
        let before = entry.live.set_status(status.clone());
        let labels = ServerLabels { server: entry.server.id.clone() };
        self.context().telemetry.mcp_server_status.get_or_create(&labels).set(i64::from(found == Status::Healthy));
        if before.status != found {
            tracing::info!(server = entry.server.id, from = ?before.status, to = ?found, "server status changed");
            self.announce(ChangeKind::Status, &entry.server.id, Some(found));
        }
        status
    }

    /// Returns the breaker of a server.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], with the nearest id.
    pub fn breaker(&self, id: &str) -> Result<BreakerSnapshot> {
        Ok(self.entry("registry.breaker", id)?.live.breaker.snapshot())
    }

    /// Returns what is known of every server, without asking any.
    pub fn status(&self) -> BTreeMap<String, ServerOverview> {
        let now = self.clock().monotonic();
        let overview = |entry: &Entry| {
            let (status, counts) = (entry.live.status(), entry.live.counts(now));
            ServerOverview {
                status: status.status,
                last_check: status.last_check,
                detail: status.detail,
                breaker: entry.live.breaker.snapshot().state,
                in_flight: counts.in_flight,
                calls: counts.calls,
                errors: counts.errors,
                latency_ms: counts.latency_ms,
                tools: entry.live.tools().map(|tools| tools.len()),
                tools_error: entry.live.tools_error(),
            }
        };
        self.0.directory.read().entries().map(|entry| (entry.server.id.clone(), overview(entry))).collect()
    }

    /// Tells of every change from now on, until a shutdown, or until the registry is dropped.
    pub fn watch(&self) -> impl Stream<Item = Change> + Send + Unpin + use<> {
        let (clock, life) = (self.0.context.clock.clone(), self.clients().life.clone());
        let changes = stream::unfold((self.0.changes.subscribe(), clock, life), async |(mut changes, clock, life)| {
            let change = tokio::select! {
                // First: what has changed before a shutdown is told.
                biased;
                change = changes.recv() => change,
                () = life.cancelled() => return None,
            };
            let change = match change {
                Ok(change) => change,
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    Change { kind: ChangeKind::Missed, server: None, status: None, at: clock.now() }
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            Some((change, (changes, clock, life)))
        });
        Box::pin(changes)
    }

    pub(crate) fn entry(&self, operation: &'static str, id: &str) -> Result<Entry> {
        self.0.directory.read().get(operation, id)
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.0.directory.read().entries().cloned().collect()
    }

    pub(crate) fn clients(&self) -> Arc<Clients> {
        self.0.clients.load_full()
    }

    fn addresses(&self) -> AddressPolicy {
        self.0.clients.load().http.addresses()
    }

    pub(crate) fn config(&self) -> &RegistryConfig {
        &self.0.config
    }

    pub(crate) fn context(&self) -> &Context {
        &self.0.context
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        self.0.context.clock.as_ref()
    }

    /// Puts a server in its place, with what goes on with it if it is still the same endpoint.
    fn place(&self, directory: &mut Directory, server: Server) {
        let known = directory.find(&server.id).cloned();
        let kept = known.as_ref().filter(|known| known.server.same_endpoint(&server)).map(|known| known.live.clone());
        let live = kept.unwrap_or_else(|| {
            if let Some(known) = &known {
                known.live.link.release();
            }
            Arc::new(Live::new(&server, self.config(), &self.0.context.clock))
        });
        self.0.context.signals.depends("registry", &format!("registry.{}", server.id));
        directory.put(Entry { server: Arc::new(server), live });
    }

    fn room(&self, operation: &'static str, directory: &Directory, server: &Server) -> Result<()> {
        let most = self.config().max_servers;
        if directory.len() >= most && directory.find(&server.id).is_none() {
            let message = format!("the registry holds {most} servers, which is `registry.max_servers`");
            return Err(Error::new(ErrorKind::RateLimited, operation, message));
        }
        Ok(())
    }

    fn announce(&self, kind: ChangeKind, id: &str, status: Option<Status>) {
        let change = Change { kind, server: Some(id.to_owned()), status, at: self.clock().now() };
        // Nobody may be watching.
        let _ = self.0.changes.send(change);
    }
}

/// Refuses an address that no server may have, as far as it can be told before a name is resolved.
fn allowed(operation: &'static str, addresses: AddressPolicy, server: &Server) -> Result<()> {
    let Some(url) = server.url.as_deref().filter(|_| server.transport() != Some(Transport::Builtin)) else {
        return Ok(());
    };
    // A variable that is not set yet is checked when it is used.
    let Ok(url) = variables::from_environment(operation, "url", url) else { return Ok(()) };
    upstream::rest::checked(addresses, operation, &url).map(drop)
}

/// Asks one of many servers for its tools.
async fn list_in_turn(
    clients: &Arc<Clients>,
    entry: &Entry,
    deadline: Deadline,
    turns: &Semaphore,
) -> Result<Arc<Vec<Tool>>> {
    let not_asked = |error: Error| {
        entry.live.set_tools_error(error.message().to_owned());
        error
    };
    let breaker = entry.live.breaker.snapshot();
    if breaker.state == BreakerState::Open {
        return Err(not_asked(Error::new(ErrorKind::CircuitOpen, LIST, "its breaker is open")));
    }
    let turn = match tokio::time::timeout_at(deadline.instant(), turns.acquire()).await {
        Ok(turn) => turn,
        Err(_) => return Err(not_asked(Error::new(ErrorKind::Timeout, LIST, "there was no time left to ask it"))),
    };
    let list = std::pin::pin!(list_one(clients, entry, deadline));
    match futures::future::select(list, std::pin::pin!(tokio::time::sleep(LIST_TURN))).await {
        Either::Left((list, _)) => list,
        Either::Right(((), list)) => {
            drop(turn);
            list.await
        }
    }
}

/// Asks a server for its tools, and keeps what it says.
async fn list_one(clients: &Arc<Clients>, entry: &Entry, deadline: Deadline) -> Result<Arc<Vec<Tool>>> {
    match upstream::list_tools(clients, entry, deadline).await {
        Ok(mut tools) => {
            // By one name it can be asked for one tool only.
            let mut names = HashSet::new();
            tools.retain(|tool| names.insert(tool.name.clone()));
            let tools = Arc::new(tools);
            entry.live.set_tools(tools.clone());
            Ok(tools)
        }
        Err(failure) => {
            entry.live.set_tools_error(failure.error.message().to_owned());
            Err(failure.error)
        }
    }
}

/// What a shutdown has ended. Its end, or its caller's, lets later uses begin anew.
struct Ended<'a> {
    inner: &'a Inner,
    clients: Arc<Clients>,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        // Of two shutdowns at once, the first to end has done it.
        self.inner.clients.compare_and_swap(&self.clients, Arc::new(self.clients.renewed()));
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for entry in self.directory.get_mut().entries() {
            entry.live.link.abandon();
        }
    }
}
