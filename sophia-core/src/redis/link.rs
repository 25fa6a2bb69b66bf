//! [`Redis`]: how commands are sent.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use redis::{Cmd, FromRedisValue, RedisError, RedisResult, ServerErrorKind};

use super::{
    config::RedisConfig,
    names::Area,
    script::{Call, Script},
    target::{Connection, Kind, Target},
    watch::{Listener, Watch},
};
use crate::{Error, ErrorKind, Result, Signal, Signals, here::elsewhere, resilience::SingleFlight};

/// Service that signals are about.
const SERVICE: &str = "redis";

/// Redis, shared by all that use it. Cheap to clone. Connects with its first use, and again after a failure.
#[derive(Debug, Clone)]
pub(crate) struct Redis(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    target: Arc<Target>,
    config: RedisConfig,
    connection: ArcSwapOption<Connection>,
    connecting: SingleFlight<(), Arc<Connection>>,
    watch: Watch,
    signals: Signals,
}

impl Redis {
    /// Reads the configuration; `None` where it names no server. Connects to nobody.
    ///
    /// # Errors
    /// InvalidConfig for a URL or a file that cannot be used.
    pub fn new(config: &RedisConfig, signals: Signals) -> Result<Option<Redis>> {
        if !config.is_set() {
            return Ok(None);
        }
        let target = Arc::new(Target::new(config)?);
        Ok(Some(Redis(Arc::new(Inner {
            watch: Watch::new(target.clone(), config.connect_timeout),
            target,
            config: config.clone(),
            connection: ArcSwapOption::empty(),
            connecting: SingleFlight::new("redis.connect"),
            signals,
        }))))
    }

    /// Returns the keys of a part of the product.
    pub fn area(&self, name: &str) -> Area {
        Area::new(&self.0.config.prefix, name)
    }

    /// Returns the time in which Redis must answer.
    pub fn timeout(&self) -> Duration {
        self.0.config.timeout
    }

    /// Returns whether what it says of the time comes from clocks that may differ.
    pub fn has_several_clocks(&self) -> bool {
        self.0.target.kind() != Kind::Single
    }

    /// Says what it is, for people.
    pub fn describe(&self) -> String {
        let kind = match self.0.target.kind() {
            Kind::Single => "one server",
            Kind::Sentinel => "by Sentinel",
            Kind::Cluster => "Cluster",
        };
        let heard =
            if self.0.watch.is_on() { "changes by others are heard" } else { "changes by others are not heard" };
        format!("Redis, {kind}; {heard}")
    }

    /// Tells a listener about every change of a key that begins with `start`, from the first use on.
    pub fn listen(&self, start: &str, listener: Arc<dyn Listener>) {
        self.0.watch.listen(start, listener);
    }

    /// Returns whether changes by others are heard.
    pub fn is_watching(&self) -> bool {
        self.0.watch.is_on()
    }

    /// Sends one command.
    ///
    /// # Errors
    /// Timeout, Unavailable, Unauthorized; Internal for a command that Redis refuses.
    pub async fn query<T: FromRedisValue>(&self, operation: &'static str, command: &Cmd) -> Result<T> {
        self.query_within(operation, self.timeout(), command).await
    }

    /// Runs a script.
    ///
    /// # Errors
    /// As [`Redis::query`].
    pub async fn run<T: FromRedisValue>(&self, operation: &'static str, script: &Script, call: &Call) -> Result<T> {
        self.run_within(operation, self.timeout(), script, call).await
    }

    /// Sends one command that must be answered within `budget`.
    ///
    /// # Errors
    /// As [`Redis::query`].
    pub async fn query_within<T: FromRedisValue>(
        &self,
        operation: &'static str,
        budget: Duration,
        command: &Cmd,
    ) -> Result<T> {
        let send = move |mut connection| async move { command.query_async(&mut connection).await };
        self.within(operation, budget, send).await
    }

    /// Runs a script that must have ended within `budget`.
    ///
    /// # Errors
    /// As [`Redis::query`].
    pub async fn run_within<T: FromRedisValue>(
        &self,
        operation: &'static str,
        budget: Duration,
        script: &Script,
        call: &Call,
    ) -> Result<T> {
        let send = move |mut connection: Connection| async move {
            match script.by_hash(call).query_async(&mut connection).await {
                Err(error) if error.kind() == redis::ErrorKind::Server(ServerErrorKind::NoScript) => {
                    script.whole(call).query_async(&mut connection).await
                }
                outcome => outcome,
            }
        };
        self.within(operation, budget, send).await
    }

    /// Closes the connections; the next use opens them again.
    pub fn close(&self) {
        self.0.watch.stop();
        self.0.connection.store(None);
    }

    async fn within<T, W>(
        &self,
        operation: &'static str,
        budget: Duration,
        work: impl FnOnce(Connection) -> W,
    ) -> Result<T>
    where
        W: Future<Output = RedisResult<T>>,
    {
        elsewhere().await;
        let start = Instant::now();
        let mut used = None;
        let outcome = tokio::time::timeout(budget, async {
            let connection = self.connection().await?;
            used = Some(connection.clone());
            work(Connection::clone(&connection)).await.map_err(|error| failed(operation, &error))
        })
        .await;
        let error = match outcome {
            Ok(Ok(value)) => {
                self.0.signals.signal(Signal::latency_ms(SERVICE, start.elapsed().as_secs_f64() * 1e3));
                self.0.signals.signal(Signal::outcome(SERVICE, false));
                return Ok(value);
            }
            Ok(Err(error)) => error,
            Err(_) => late(operation, budget),
        };
        self.0.signals.signal(Signal::outcome(SERVICE, true));
        if let Some(used) = used {
            self.give_up(&used, &error);
        }
        Err(error)
    }

    async fn connection(&self) -> Result<Arc<Connection>> {
        if let Some(connection) = self.0.connection.load_full() {
            return Ok(connection);
        }
        self.0.watch.start();
        let (target, limit) = (self.0.target.clone(), self.0.config.connect_timeout);
        let connect = async move || {
            // Several round trips: Sentinels are asked, a Cluster's nodes are found.
            match tokio::time::timeout(limit, target.connect()).await {
                Ok(Ok(connection)) => Ok(Arc::new(connection)),
                Ok(Err(error)) => Err(failed("redis.connect", &error)),
                Err(_) => Err(late("redis.connect", limit)),
            }
        };
        // On its own, since connecting may take longer than any of those who wait for it may: one at a time, with a deadline.
        let redis = self.clone();
        let connecting = tokio::spawn(async move {
            let connection = redis.0.connecting.run((), connect).await?.value;
            redis.0.connection.store(Some(connection.clone()));
            Ok(connection)
        });
        let stopped = || Error::new(ErrorKind::Cancelled, "redis.connect", "the connection was stopped by a shutdown");
        connecting.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Leaves a connection behind that cannot be trusted to answer: the next call opens another.
    fn give_up(&self, used: &Arc<Connection>, error: &Error) {
        // A Cluster finds its nodes again by itself.
        let is_cluster = matches!(**used, Connection::Cluster(_));
        let is_broken = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout);
        if is_broken && !is_cluster {
            let current = self.0.connection.load();
            if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, used)) {
                self.0.connection.compare_and_swap(&current, None);
            }
        }
    }
}

fn late(operation: &'static str, budget: Duration) -> Error {
    let message = format!("Redis did not answer within {} ms", budget.as_millis());
    Error::new(ErrorKind::Timeout, operation, message).with("tier", "l2")
}

pub(super) fn failed(operation: &'static str, error: &RedisError) -> Error {
    use redis::ErrorKind as Kind;
    let (kind, message) = match error.kind() {
        Kind::AuthenticationFailed => (ErrorKind::Unauthorized, "Redis refused the credential"),
        Kind::Server(ServerErrorKind::NoPerm) => (ErrorKind::Unauthorized, "Redis does not permit the command"),
        _ if error.is_timeout() => (ErrorKind::Timeout, "Redis did not answer in time"),
        Kind::Parse | Kind::UnexpectedReturnType => (ErrorKind::Internal, "Redis answered what was not expected"),
        // A command of ours that a server refuses: full, read-only, loading, a slot that is down.
        _ => (ErrorKind::Unavailable, "Redis cannot be used"),
    };
    // The source is text: a reply could quote a value.
    let code = error.code().unwrap_or("none");
    Error::new(kind, operation, message).with("tier", "l2").with("redis", code)
}
