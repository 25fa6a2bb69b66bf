//! [`Watch`]: hears from Redis what others have changed, by RESP3 client tracking.
//!
//! A connection of its own to each master asks for `CLIENT TRACKING ON BCAST` with the prefixes of the listeners
//! (docs/decisions/0005-l1-coherence.md). What is pushed is handed on at once, inside the task that reads the connection:
//! there is no queue that could fill.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use redis::{
    PushInfo, PushKind, RedisResult, Value,
    aio::{AsyncPushSender, MultiplexedConnection, SendError},
    cmd,
};
use tokio::{runtime::Handle, sync::Notify, task::AbortHandle, time::timeout};

use super::target::Target;

/// How often a silent connection is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(1);
/// How many pings pass between two looks at who the masters are.
const LOOK_EVERY: u32 = 10;
/// First and longest wait before connecting again.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Who wants to know.
pub(crate) trait Listener: Debug + Send + Sync + 'static {
    /// Says that a key was changed, by anyone, this process too. Must not block.
    fn changed(&self, key: &[u8]);

    /// Says that changes may have been missed, and that they are heard from now on. Must not block.
    fn missed(&self);

    /// Says that changes are not heard any more. Must not block.
    fn lost(&self) {}
}

/// Hears what others have changed. Stops when dropped.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    task: Mutex<Option<AbortHandle>>,
}

#[derive(Debug)]
struct Shared {
    target: Arc<Target>,
    limit: Duration,
    listeners: Mutex<Vec<Listening>>,
    is_on: AtomicBool,
    lost: Notify,
}

/// A listener, and what the keys begin with that it wants to know about.
#[derive(Debug)]
struct Listening {
    start: Box<[u8]>,
    listener: Arc<dyn Listener>,
}

impl Watch {
    pub fn new(target: Arc<Target>, limit: Duration) -> Watch {
        let (listeners, is_on, lost) = (Mutex::default(), AtomicBool::new(false), Notify::new());
        Watch { shared: Arc::new(Shared { target, limit, listeners, is_on, lost }), task: Mutex::default() }
    }

    /// Tells a listener about keys that begin with `start`. To be called before the start.
    pub fn listen(&self, start: &str, listener: Arc<dyn Listener>) {
        self.shared.listeners.lock().push(Listening { start: start.as_bytes().into(), listener });
    }

    pub fn is_on(&self) -> bool {
        self.shared.is_on.load(Ordering::Acquire)
    }

    /// Begins to listen, where there is a runtime; does nothing where somebody does. The runtime may have been another one.
    pub fn start(&self) {
        let mut task = self.task.lock();
        if task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        *task = Some(runtime.spawn(listen(self.shared.clone())).abort_handle());
    }

    pub fn stop(&self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
        self.shared.lose();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn listen(shared: Arc<Shared>) {
    let mut wait = RETRY.0;
    loop {
        match timeout(shared.limit, begin(&shared)).await {
            Ok(Ok(connections)) => {
                wait = RETRY.0;
                shared.is_on.store(true, Ordering::Release);
                // What was changed while nobody listened is not known.
                shared.missed();
                tracing::debug!(connections = connections.len(), "changes by others are heard");
                let heard = Heard(&shared);
                attend(&shared, connections).await;
                drop(heard);
                tracing::warn!("Redis does not say any more what others change");
            }
            Ok(Err(error)) => tracing::debug!(code = error.code().unwrap_or("none"), "changes cannot be listened to"),
            Err(_) => tracing::debug!("changes cannot be listened to: no answer"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

async fn begin(shared: &Arc<Shared>) -> RedisResult<Vec<(String, MultiplexedConnection)>> {
    let mut connections = Vec::new();
    for client in shared.target.masters().await? {
        let pushed: Arc<dyn AsyncPushSender> = Arc::new(Pushed(shared.clone()));
        let mut connection = shared.target.connect_to_master(&client, pushed).await?;
        let mut track = cmd("CLIENT");
        track.arg("TRACKING").arg("ON").arg("BCAST");
        for listening in shared.listeners.lock().iter() {
            track.arg("PREFIX").arg(&*listening.start);
        }
        track.query_async::<()>(&mut connection).await?;
        connections.push((client.get_connection_info().addr().to_string(), connection));
    }
    Ok(connections)
}

/// Returns when a connection is lost, or when the masters are others.
async fn attend(shared: &Arc<Shared>, mut connections: Vec<(String, MultiplexedConnection)>) {
    for pings in 1_u32.. {
        if timeout(PING_EVERY, shared.lost.notified()).await.is_ok() {
            return;
        }
        for (_, connection) in &mut connections {
            match timeout(shared.limit, cmd("PING").query_async::<()>(connection)).await {
                Ok(Ok(())) => {}
                _ => return,
            }
        }
        if pings % LOOK_EVERY == 0 && !is_same(shared, &connections).await {
            return;
        }
    }
}

async fn is_same(shared: &Shared, connections: &[(String, MultiplexedConnection)]) -> bool {
    let Ok(Ok(masters)) = timeout(shared.limit, shared.target.masters()).await else { return true };
    let addresses: Vec<_> = masters.iter().map(|client| client.get_connection_info().addr().to_string()).collect();
    addresses.len() == connections.len() && connections.iter().all(|(address, _)| addresses.contains(address))
}

/// Says that changes are not heard any more, also when the task is aborted or its runtime stops.
struct Heard<'a>(&'a Shared);

impl Drop for Heard<'_> {
    fn drop(&mut self) {
        self.0.lose();
    }
}

impl Shared {
    fn lose(&self) {
        if self.is_on.swap(false, Ordering::AcqRel) {
            self.listeners.lock().iter().for_each(|listening| listening.listener.lost());
        }
    }

    fn missed(&self) {
        self.listeners.lock().iter().for_each(|listening| listening.listener.missed());
    }

    fn changed(&self, key: &[u8]) {
        for listening in self.listeners.lock().iter().filter(|listening| key.starts_with(&listening.start)) {
            listening.listener.changed(key);
        }
    }
}

/// Takes what a server says unasked.
struct Pushed(Arc<Shared>);

impl AsyncPushSender for Pushed {
    fn send(&self, message: PushInfo) -> Result<(), SendError> {
        match message.kind {
            PushKind::Invalidate => match message.data.into_iter().next() {
                Some(Value::Array(keys)) => {
                    for key in keys {
                        match key {
                            Value::BulkString(key) => self.0.changed(&key),
                            Value::SimpleString(key) => self.0.changed(key.as_bytes()),
                            _ => self.0.missed(),
                        }
                    }
                }
                // All keys: a flush.
                _ => self.0.missed(),
            },
            PushKind::Disconnection => self.0.lost.notify_one(),
            _ => {}
        }
        Ok(())
    }
}
