//! [`Link`]: the connections to one database, and how statements are sent.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::{
    Client, Config, Connection, Row, Socket, Statement,
    error::SqlState,
    types::{FromSqlOwned, ToSql},
};

use super::{
    config::PostgresConfig,
    migrate::{self, Tables},
    tls::{Mode, Stream, Tls},
    vectors::{self, Model},
};
use crate::{Error, ErrorKind, Result, Signal, Signals};

/// Service that signals are about.
pub(super) const SERVICE: &str = "postgres";
/// Times that a transaction is tried which waits for another that waits for it. Each such pair loses one, so one goes on.
const TANGLED_TRIES: usize = 4;
/// Statements that a connection keeps prepared.
const PREPARED_STATEMENTS: usize = 256;
/// What every connection is set to, beside its schema. A search by meaning looks at as many vectors as it ranks, and goes on
/// until it has them; the library that knows the last three may not be there.
const SETTINGS: &str = "SET client_min_messages = warning; SET idle_in_transaction_session_timeout = '60s'; \
     SET hnsw.ef_search = 256; SET hnsw.iterative_scan = relaxed_order; \
     SET hnsw.max_scan_tuples = 100000";

/// A value of a statement.
pub(super) type Value<'a> = &'a (dyn ToSql + Sync);

/// The connections to one database. Cheap to clone. Connects with the first use, and again after a failure.
#[derive(Debug, Clone)]
pub(super) struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    target: Config,
    tls: Tls,
    config: PostgresConfig,
    idle: Mutex<Vec<Session>>,
    slots: Arc<Semaphore>,
    /// What is known of the tables, once they were found or made.
    tables: ArcSwapOption<Tables>,
    preparing: tokio::sync::Mutex<()>,
    /// Models that are in the database: none is ever removed.
    models: Mutex<HashMap<String, Model>>,
    signals: Signals,
}

/// One connection.
struct Session {
    client: Client,
    statements: Mutex<HashMap<String, Statement>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

impl Link {
    /// Reads the configuration; connects to nobody.
    ///
    /// # Errors
    /// InvalidConfig for a URL or a file that cannot be used.
    pub fn new(config: &PostgresConfig, signals: Signals) -> Result<Link> {
        let (target, mode) = target(config)?;
        let pool_size = config.pool_size as usize;
        Ok(Link(Arc::new(Inner {
            target,
            tls: Tls::new(mode, config.ca_file.as_deref())?,
            config: config.clone(),
            idle: Mutex::default(),
            slots: Arc::new(Semaphore::new(pool_size)),
            tables: ArcSwapOption::empty(),
            preparing: tokio::sync::Mutex::default(),
            models: Mutex::default(),
            signals,
        })))
    }

    pub fn schema(&self) -> &str {
        &self.0.config.schema
    }

    /// Says who is connected to, for people; without a password.
    pub fn describe(&self) -> String {
        let hosts = self.0.target.get_hosts().iter().map(|host| match host {
            tokio_postgres::config::Host::Tcp(host) => host.clone(),
            #[cfg(unix)]
            tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
        });
        let hosts: Vec<_> = hosts.collect();
        let database = self.0.target.get_dbname().unwrap_or("its default database");
        format!("{}, {database}, schema {}", hosts.join(", "), self.schema())
    }

    /// Does `work` within the time that a call has, and tells health how it went.
    ///
    /// # Errors
    /// What `work` says; Timeout.
    pub async fn within<T>(&self, operation: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let start = Instant::now();
        let limit = self.0.config.timeout;
        let outcome = tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(late(operation, limit)));
        let is_away =
            matches!(&outcome, Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout));
        if !is_away {
            self.0.signals.signal(Signal::latency_ms(SERVICE, start.elapsed().as_secs_f64() * 1e3));
        }
        self.0.signals.signal(Signal::outcome(SERVICE, is_away));
        outcome
    }

    /// Takes a connection to a database in which the tables are.
    ///
    /// # Errors
    /// Unavailable, Unauthorized; InvalidConfig and Unsupported for a schema that is not ours.
    pub async fn session(&self, operation: &'static str) -> Result<Taken> {
        let mut taken = self.any_session(operation).await?;
        if let Some(tables) = self.0.tables.load_full() {
            taken.tables = tables;
            return Ok(taken);
        }
        // One at a time in this process; other processes are held off in the database.
        let _preparing = self.0.preparing.lock().await;
        let tables = match self.0.tables.load_full() {
            Some(tables) => tables,
            None => Arc::new(migrate::prepare(&taken, self.schema()).await?),
        };
        self.0.tables.store(Some(tables.clone()));
        taken.tables = tables;
        Ok(taken)
    }

    /// Takes a connection, and begins a transaction on it.
    ///
    /// # Errors
    /// As [`Link::session`].
    pub async fn begin(&self, operation: &'static str) -> Result<Taken> {
        let taken = self.session(operation).await?;
        taken.begin().await?;
        Ok(taken)
    }

    /// Takes a connection, and begins to read on it what is there at one moment.
    ///
    /// # Errors
    /// As [`Link::session`].
    pub async fn begin_reading(&self, operation: &'static str) -> Result<Taken> {
        let taken = self.session(operation).await?;
        taken.begin().await?;
        taken.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
        Ok(taken)
    }

    /// Opens a connection of its own, with what is to be polled so that anything happens on it.
    pub async fn connect(&self, operation: &'static str) -> Result<(Client, Connection<Socket, Stream<Socket>>)> {
        let limit = self.0.config.connect_timeout;
        match tokio::time::timeout(limit, self.0.target.connect(self.0.tls.clone())).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(error)) => Err(failed(operation)(error)),
            Err(_) => {
                Err(Error::new(ErrorKind::Unavailable, operation, "Postgres gave no connection in time")
                    .with("tier", "l3"))
            }
        }
    }

    /// Returns a model, made if it is new. Not within a transaction. `field` is where its vector was given.
    ///
    /// # Errors
    /// InvalidInput for a number of dimensions that is not the model's.
    pub async fn model(
        &self,
        operation: &'static str,
        field: &'static str,
        name: &str,
        dimensions: usize,
    ) -> Result<Model> {
        let known = self.0.models.lock().get(name).copied();
        let model = match known {
            Some(model) => model,
            None => {
                let model = vectors::make_model(self, operation, name, dimensions).await?;
                self.0.models.lock().insert(name.to_owned(), model);
                model
            }
        };
        if model.dimensions != dimensions {
            let message = format!("has {dimensions} values; those of {name} have {}", model.dimensions);
            return Err(Error::invalid(operation, field, message));
        }
        Ok(model)
    }

    /// Closes the connections that nobody uses; the next use opens them again.
    pub fn close(&self) {
        self.0.idle.lock().clear();
        self.forget_tables();
    }

    /// Looks for the tables again, with the next call.
    fn forget_tables(&self) {
        self.0.tables.store(None);
        self.0.models.lock().clear();
    }

    async fn any_session(&self, operation: &'static str) -> Result<Taken> {
        let stopped = |_| Error::new(ErrorKind::Cancelled, operation, "the connections are closed");
        let slot = self.0.slots.clone().acquire_owned().await.map_err(stopped)?;
        let idle = || self.0.idle.lock().pop();
        let mut session = idle();
        while session.as_ref().is_some_and(|session| session.client.is_closed()) {
            session = idle();
        }
        let session = match session {
            Some(session) => session,
            None => self.open(operation).await?,
        };
        Ok(Taken {
            session: Some(session),
            operation,
            busy: AtomicUsize::new(0),
            in_transaction: AtomicBool::new(false),
            tables: Arc::new(Tables::default()),
            link: self.clone(),
            _slot: slot,
        })
    }

    async fn open(&self, operation: &'static str) -> Result<Session> {
        let (client, connection) = self.connect(operation).await?;
        // Ends when the client is dropped, or the server has gone.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to Postgres has ended");
            }
        });
        let millis = self.0.config.timeout.as_millis();
        let settings = format!("{SETTINGS}; SET statement_timeout = {millis}; SET lock_timeout = {millis}");
        client.batch_execute(&settings).await.map_err(failed(operation))?;
        // The types of pgvector may live in a schema of their own.
        client
            .query_typed(
                "SELECT set_config('search_path', quote_ident($1) || coalesce((SELECT ', ' || quote_ident(n.nspname) \
                 FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'vector'), \
                 ', public'), false)",
                &[(&self.schema(), tokio_postgres::types::Type::TEXT)],
            )
            .await
            .map_err(failed(operation))?;
        Ok(Session { client, statements: Mutex::default() })
    }
}

/// A connection that one call uses. It goes back where others find it, unless it was left in the middle of something.
#[derive(Debug)]
pub(super) struct Taken {
    session: Option<Session>,
    operation: &'static str,
    /// Statements under way.
    busy: AtomicUsize,
    in_transaction: AtomicBool,
    pub tables: Arc<Tables>,
    link: Link,
    _slot: OwnedSemaphorePermit,
}

impl Taken {
    /// Prepares a statement that is about to be sent many times.
    pub async fn prepare(&self, sql: &str) -> Result<()> {
        self.sent(async { self.session()?.statement(sql).await.map(drop).map_err(failed(self.operation)) }).await
    }

    /// Returns the rows that a statement gives.
    pub async fn query(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        self.sent(async {
            let session = self.session()?;
            let statement = session.statement(sql).await.map_err(failed(self.operation))?;
            session.client.query(&statement, values).await.map_err(failed(self.operation))
        })
        .await
    }

    /// Returns the first row that a statement gives.
    pub async fn query_opt(&self, sql: &str, values: &[Value<'_>]) -> Result<Option<Row>> {
        Ok(self.query(sql, values).await?.into_iter().next())
    }

    /// Returns the one value that a statement gives.
    pub async fn query_value<T: FromSqlOwned>(&self, sql: &str, values: &[Value<'_>]) -> Result<T> {
        let row = self.query_opt(sql, values).await?;
        let row = row.ok_or_else(|| Error::new(ErrorKind::Internal, self.operation, "Postgres gave no row"))?;
        column(&row, 0)
    }

    /// Gives each row that a statement gives to `take`, without holding them all.
    pub async fn each(&self, sql: &str, values: &[Value<'_>], mut take: impl FnMut(&Row) -> Result<()>) -> Result<()> {
        use futures::TryStreamExt;
        self.sent(async {
            let session = self.session()?;
            let statement = session.statement(sql).await.map_err(failed(self.operation))?;
            let rows = session.client.query_raw(&statement, values.iter().copied());
            let rows = rows.await.map_err(failed(self.operation))?;
            let mut rows = std::pin::pin!(rows);
            let mut outcome = Ok(());
            // To the end, so that the connection is free after it.
            while let Some(row) = rows.try_next().await.map_err(failed(self.operation))? {
                if outcome.is_ok() {
                    outcome = take(&row);
                }
            }
            outcome
        })
        .await
    }

    /// Returns how many rows a statement changed.
    pub async fn execute(&self, sql: &str, values: &[Value<'_>]) -> Result<u64> {
        self.sent(async {
            let session = self.session()?;
            let statement = session.statement(sql).await.map_err(failed(self.operation))?;
            session.client.execute(&statement, values).await.map_err(failed(self.operation))
        })
        .await
    }

    /// Runs statements that have no values and give no rows.
    pub async fn run(&self, sql: &str) -> Result<()> {
        self.sent(async { self.session()?.client.batch_execute(sql).await.map_err(failed(self.operation)) }).await
    }

    /// Begins a transaction. One that is not ended takes the connection along.
    pub async fn begin(&self) -> Result<()> {
        self.in_transaction.store(true, Ordering::Relaxed);
        self.run("BEGIN").await
    }

    /// Ends the transaction: what was done in it stands.
    pub async fn commit(&self) -> Result<()> {
        self.run("COMMIT").await?;
        self.in_transaction.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Ends the transaction: nothing of it stands.
    pub async fn roll_back(&self) -> Result<()> {
        self.run("ROLLBACK").await?;
        self.in_transaction.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Notes that a statement is under way, until it has ended.
    async fn sent<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.busy.fetch_add(1, Ordering::Relaxed);
        let outcome = work.await;
        self.busy.fetch_sub(1, Ordering::Relaxed);
        if outcome.as_ref().is_err_and(|error| error.get("postgres") == Some(SqlState::UNDEFINED_TABLE.code())) {
            // Somebody has taken the tables away: they are looked for, or made, by the next call.
            self.link.forget_tables();
        }
        outcome
    }

    fn session(&self) -> Result<&Session> {
        // It is there until the end.
        self.session.as_ref().ok_or_else(|| Error::new(ErrorKind::Internal, self.operation, "there is no connection"))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let is_clean = self.busy.load(Ordering::Relaxed) == 0 && !self.in_transaction.load(Ordering::Relaxed);
        if let Some(session) = self.session.take().filter(|session| is_clean && !session.client.is_closed()) {
            self.link.0.idle.lock().push(session);
        }
    }
}

impl Session {
    async fn statement(&self, sql: &str) -> std::result::Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.statements.lock().get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        let mut statements = self.statements.lock();
        if statements.len() >= PREPARED_STATEMENTS {
            statements.clear();
        }
        statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

/// Runs a transaction, and again where Postgres has ended it because it and another waited for each other.
pub(super) async fn untangled<T, F: Future<Output = Result<T>>>(transaction: impl Fn() -> F) -> Result<T> {
    let is_tangled = |error: &Error| error.get("postgres") == Some(SqlState::T_R_DEADLOCK_DETECTED.code());
    for _ in 1..TANGLED_TRIES {
        match transaction().await {
            Err(error) if is_tangled(&error) => {}
            outcome => return outcome,
        }
    }
    transaction().await
}

/// Reads a column of a row.
pub(super) fn column<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, place: usize) -> Result<T> {
    row.try_get(place).map_err(failed("memory.postgres"))
}

fn late(operation: &'static str, limit: Duration) -> Error {
    let message = format!("Postgres did not answer within {} ms", limit.as_millis());
    Error::new(ErrorKind::Timeout, operation, message).with("tier", "l3")
}

/// Turns a failure into an error of `operation`. Its text may quote what was stored, so only its code goes along.
pub(super) fn failed(operation: &'static str) -> impl Fn(tokio_postgres::Error) -> Error {
    move |error| {
        let state = error.code();
        let code = state.map_or("none", SqlState::code);
        let class = code.get(..2).unwrap_or_default();
        let (kind, message) = match (class, state) {
            ("28", _) => (ErrorKind::Unauthorized, "Postgres refused the user or the password"),
            (_, Some(&SqlState::INSUFFICIENT_PRIVILEGE)) => (ErrorKind::Unauthorized, "Postgres does not permit it"),
            ("3D", _) => {
                let message = "names a database that is not there: make it, or correct the name";
                return Error::invalid_config("postgres.url", message).with("postgres", code);
            }
            (_, Some(&SqlState::QUERY_CANCELED | &SqlState::LOCK_NOT_AVAILABLE)) => {
                (ErrorKind::Timeout, "Postgres did not answer in time")
            }
            ("22", _) => (ErrorKind::InvalidInput, "Postgres cannot hold a value"),
            ("53", _) => (ErrorKind::Unavailable, "Postgres has no room: disk, memory or connections"),
            ("08" | "57" | "58", _) => (ErrorKind::Unavailable, "Postgres is not there, or is starting or stopping"),
            ("25", _) => (ErrorKind::Unavailable, "Postgres only reads: it is a replica, or was set so"),
            ("40", _) => (ErrorKind::Unavailable, "another call was changing the same"),
            (_, None) => (ErrorKind::Unavailable, "Postgres cannot be reached"),
            _ => (ErrorKind::Internal, "Postgres refused a statement"),
        };
        tracing::debug!(%error, operation, "Postgres failed");
        let failed = Error::new(kind, operation, message).with("tier", "l3").with("postgres", code);
        match state {
            // Of the connection: it quotes nothing.
            None => failed.with_source(error),
            Some(_) => failed,
        }
    }
}

/// Reads the URL. `sslmode` is taken out of it: the client library knows fewer of its values.
fn target(config: &PostgresConfig) -> Result<(Config, Mode)> {
    let wrong = |message: &str| Error::invalid_config("postgres.url", message);
    let form = "must be like postgres://user:password@host[:port]/database, with parameters that libpq knows";
    let url = config.url.as_ref().map_or("", |url| url.expose());
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(wrong(form));
    }
    let (before, parameters) = url.split_once('?').unwrap_or((url, ""));
    let mut mode = Mode::Prefer;
    let mut others = Vec::new();
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sslmode", name)) => {
                let names = "has an unknown sslmode; known are disable, allow, prefer, require, verify-ca, verify-full";
                mode = Mode::named(name).ok_or_else(|| wrong(names))?;
            }
            Some(("sslrootcert", _)) => return Err(wrong("has `sslrootcert`: set `postgres.ca_file`")),
            _ => others.push(parameter),
        }
    }
    let url = if others.is_empty() { before.to_owned() } else { format!("{before}?{}", others.join("&")) };
    // Its own error may show the URL, and with it a password.
    let mut target: Config = url.parse().map_err(|_| wrong(form))?;
    if target.get_hosts().is_empty() && target.get_hostaddrs().is_empty() {
        return Err(wrong("names no host"));
    }
    if target.get_application_name().is_none() {
        target.application_name("sophia");
    }
    target.ssl_mode(mode.wanted());
    // A server that hangs is noticed by the deadline of a call; one that has vanished, by these.
    target.keepalives_idle(Duration::from_secs(30)).keepalives_interval(Duration::from_secs(10)).keepalives_retries(3);
    Ok((target, mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_with_every_sslmode_of_libpq() {
        for (name, wanted) in [
            ("disable", Mode::Disable),
            ("allow", Mode::Prefer),
            ("prefer", Mode::Prefer),
            ("require", Mode::Require),
            ("verify-ca", Mode::VerifyCa),
            ("verify-full", Mode::VerifyFull),
        ] {
            let url = format!("postgres://u:p@h:1/d?application_name=x&sslmode={name}&connect_timeout=3");
            let (target, mode) = target(&PostgresConfig::url(url)).unwrap();
            assert_eq!((mode, target.get_ssl_mode()), (wanted, wanted.wanted()), "{name}");
            assert_eq!((target.get_dbname(), target.get_application_name()), (Some("d"), Some("x")));
        }
        for wrong in ["", "mysql://h/d", "postgres:///d", "postgres://h/d?sslmode=no", "postgres://u:hunter2@h:x/d"] {
            let error = target(&PostgresConfig::url(wrong)).unwrap_err();
            assert_eq!(error.get("field"), Some("postgres.url"), "{wrong}");
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }
}
