//! What other processes change, heard as they commit it, so that values which are held near are dropped.
//!
//! One connection listens. While there is none, anything may have changed.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_postgres::AsyncMessage;

use super::link::{Link, Taken};
use crate::{
    Result, Scope,
    memory::kv::{Elsewhere, KvKey},
};

/// Changes that are remembered until somebody looks; beyond, all is dropped.
const MAX_HEARD: usize = 10_000;
/// Longest message, in bytes: Postgres takes 8,000.
const MAX_MESSAGE_BYTES: usize = 7_900;
/// Keys that are named one by one in one transaction; beyond, all is dropped.
const MAX_NAMED: usize = 256;
/// Pause before the next try to listen, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const OPERATION: &str = "memory.kv.listen";

/// Hears what others change. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Ears(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    link: Link,
    /// Tells the changes of this store from those of others.
    origin: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    task: Option<JoinHandle<()>>,
    is_listening: bool,
    /// Whether more has changed than is remembered.
    is_lost: bool,
    heard: Vec<Elsewhere>,
}

impl Ears {
    pub fn new(link: &Link) -> Ears {
        let origin = uuid::Uuid::now_v7().simple().to_string();
        Ears(Arc::new(Inner { link: link.clone(), origin, state: Mutex::default() }))
    }

    /// Listens from now on, if it does not yet. Needs a runtime.
    pub fn start(&self) {
        let mut state = self.0.state.lock();
        if state.task.as_ref().is_none_or(JoinHandle::is_finished) {
            state.task = Some(tokio::spawn(listen(Arc::downgrade(&self.0))));
        }
    }

    /// Listens no more.
    pub fn stop(&self) {
        let mut state = self.0.state.lock();
        if let Some(task) = state.task.take() {
            task.abort();
        }
        state.is_listening = false;
    }

    /// Names what was heard since the last look. Never waits.
    pub fn heard(&self, drop: &mut dyn FnMut(Elsewhere)) {
        let mut state = self.0.state.lock();
        let is_lost = std::mem::take(&mut state.is_lost) || !state.is_listening;
        let heard = std::mem::take(&mut state.heard);
        // What is told may take its time, and may look again.
        std::mem::drop(state);
        if is_lost {
            drop(Elsewhere::Everything);
        } else {
            heard.into_iter().for_each(drop);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(task) = self.state.get_mut().task.take() {
            task.abort();
        }
    }
}

impl Inner {
    fn take(&self, message: &str) {
        let mut state = self.state.lock();
        match read(message) {
            Some((origin, _)) if origin == self.origin => {}
            Some((_, Some(key))) if state.heard.len() < MAX_HEARD => state.heard.push(Elsewhere::Key(key)),
            _ => (state.is_lost, state.heard) = (true, Vec::new()),
        }
    }

    fn set_listening(&self, is_listening: bool) {
        let mut state = self.state.lock();
        state.is_listening = is_listening;
        // Until a moment ago, nothing was heard.
        state.is_lost = true;
    }
}

/// Tells other processes which keys have changed, when the transaction is committed.
pub(super) async fn tell(taken: &Taken, ears: &Ears, keys: &[KvKey]) -> Result<()> {
    tell_from(taken, ears, &ears.0.origin, keys).await
}

/// Tells all processes, this one too, which keys have changed, when the transaction is committed.
pub(super) async fn tell_everyone(taken: &Taken, ears: &Ears, keys: &[KvKey]) -> Result<()> {
    tell_from(taken, ears, "", keys).await
}

async fn tell_from(taken: &Taken, ears: &Ears, origin: &str, keys: &[KvKey]) -> Result<()> {
    let everything = || vec![write(origin, None)];
    let messages: Vec<String> = if keys.len() > MAX_NAMED {
        everything()
    } else {
        let named: Vec<_> = keys.iter().map(|key| write(origin, Some(key))).collect();
        if named.iter().any(|message| message.len() > MAX_MESSAGE_BYTES) { everything() } else { named }
    };
    if messages.is_empty() {
        return Ok(());
    }
    let channel = channel(&ears.0.link);
    taken
        .query("SELECT pg_notify($1, message) FROM unnest($2::text[]) AS message", &[&channel, &messages])
        .await
        .map(drop)
}

/// Tells all processes, this one too, to drop what they hold.
pub(super) async fn tell_all(taken: &Taken, ears: &Ears) -> Result<()> {
    let message = write("", None);
    taken.query("SELECT pg_notify($1, $2)", &[&channel(&ears.0.link), &message]).await.map(drop)
}

fn channel(link: &Link) -> String {
    format!("{}_kv", link.schema())
}

fn write(origin: &str, key: Option<&KvKey>) -> String {
    let key = key.map(|key| {
        let scope = key.scope();
        (scope.tenant, scope.user, key.key().to_owned())
    });
    super::json(&(origin, key))
}

type Message = (String, Option<(Option<String>, Option<String>, String)>);

fn read(message: &str) -> Option<(String, Option<KvKey>)> {
    let (origin, key): Message = serde_json::from_str(message).ok()?;
    let key = key.map(|(tenant, user, key)| KvKey::new(&Scope { tenant, user, ..Scope::default() }, &key));
    Some((origin, key))
}

/// Listens, and listens again after a failure, until the store is dropped.
async fn listen(inner: Weak<Inner>) {
    let mut pause = FIRST_PAUSE;
    while let Some(link) = inner.upgrade().map(|inner| inner.link.clone()) {
        if listen_once(&inner, &link).await {
            pause = FIRST_PAUSE;
        }
        match inner.upgrade() {
            Some(inner) => inner.set_listening(false),
            None => return,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Listens until the connection ends; returns whether there was one.
async fn listen_once(inner: &Weak<Inner>, link: &Link) -> bool {
    let Ok((client, mut connection)) = link.connect(OPERATION).await else { return false };
    let mut messages = std::pin::pin!(futures::stream::poll_fn(move |cx| connection.poll_message(cx)));
    // The name is one that the configuration allows.
    let sql = format!("LISTEN \"{}\"", channel(link));
    let mut asked = Some(Box::pin(async move { client.batch_execute(&sql).await.map(|()| client) }));
    let mut held = None;
    let mut is_listening = false;
    loop {
        let message = tokio::select! {
            asking = async { match asked.as_mut() { Some(asking) => asking.await, None => std::future::pending().await } } => {
                asked = None;
                let (Ok(client), Some(inner)) = (asking, inner.upgrade()) else { return is_listening };
                // The connection lives as long as its client.
                held = Some(client);
                inner.set_listening(true);
                is_listening = true;
                continue;
            }
            message = messages.next() => message,
        };
        match (message, inner.upgrade()) {
            (Some(Ok(AsyncMessage::Notification(notification))), Some(inner)) => inner.take(notification.payload()),
            (Some(Ok(_)), Some(_)) => {}
            _ => {
                drop(held);
                return is_listening;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_a_key_and_who_changed_it() {
        let key = KvKey::new(&Scope::new().tenant("a\"b").user("é"), "k 🗼");
        assert_eq!(read(&write("me", Some(&key))), Some(("me".to_owned(), Some(key))));
        assert_eq!(read(&write("", None)), Some((String::new(), None)));
        assert_eq!(read("what"), None);
    }
}
