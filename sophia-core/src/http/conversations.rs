//! What was said over OpenAI's Responses, kept so that a client can name it instead of sending it back. Of what a provider keeps
//! itself, only the names are kept: whose they are.
//!
//! It is kept for one session and agent of one user, under keys of the engine's own: nobody else finds it, no user of the
//! key-value store sees it, and it is forgotten with each of them. What a client sends again in each turn is kept once, by
//! what it says; a turn holds the names of its items.

use std::{collections::HashMap, fmt::Display, sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Error, ErrorKind, Result, Scope,
    chat::dialect::PREVIOUS,
    memory::{CONVERSATION_KEYS, KvEntry, KvKey, KvTier, KvValue, Memory, narrow_name, narrow_tags},
};

const OPERATION: &str = "chat.complete";
/// How long an item or a response can be named: as long as OpenAI keeps them.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// How much longer an item is kept that may be said again, so that it is not written in each turn.
const SLACK: Duration = Duration::from_secs(24 * 3600);
/// Most responses that a conversation is put together of.
const MAX_TURNS: usize = 1_000;
/// Items that are read at once: few, since each may be large.
const READS: usize = 4;
/// Items that are written at once.
const WRITES: usize = 32;
/// Digits of the hash of an item or a name.
const DIGITS: usize = 32;

/// What was said in one scope. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Conversations {
    memory: Memory,
    scope: Scope,
    /// How much was forgotten when the request came: what is forgotten since then is not kept.
    forgotten: u64,
    /// What the keys of this session and agent begin with.
    prefix: Arc<str>,
    tags: Vec<String>,
    /// How much a request may hold, in bytes: no more is put in place of names.
    max_bytes: usize,
}

/// One turn of a conversation: what was said to the model, and what it said, by name.
#[derive(Debug, Serialize, Deserialize)]
struct Turn {
    previous: Option<String>,
    items: Vec<String>,
}

/// A response that is to be kept.
#[derive(Debug)]
pub(super) struct Said {
    pub id: String,
    pub previous: Option<String>,
    pub input: Vec<Value>,
    pub output: Vec<Value>,
}

/// How much may still be loaded.
#[derive(Debug)]
pub(super) struct Room {
    left: usize,
    max_bytes: usize,
}

impl Room {
    fn take(&mut self, bytes: usize, field: impl Display) -> Result<()> {
        let Some(left) = self.left.checked_sub(bytes) else {
            let message = format!(
                "and what it names must be at most {} bytes together (`chat.max_request_bytes`)",
                self.max_bytes
            );
            return Err(Error::invalid(OPERATION, &field.to_string(), message));
        };
        self.left = left;
        Ok(())
    }
}

impl Conversations {
    /// Prepares for one request.
    pub fn begin(memory: Memory, scope: Scope, max_bytes: usize) -> Conversations {
        let (prefix, tags) = (format!("{CONVERSATION_KEYS}{}/", narrow_name(&scope)).into(), narrow_tags(&scope));
        let forgotten = memory.forgotten().so_far();
        Conversations { memory, scope, forgotten, prefix, tags, max_bytes }
    }

    /// Returns the room of one request.
    pub fn room(&self) -> Room {
        Room { left: self.max_bytes, max_bytes: self.max_bytes }
    }

    /// Puts items in place of their names. A name that is not known here stays: the provider may know it.
    ///
    /// # Errors
    /// InvalidInput, naming the item with which there is no room any more.
    pub async fn put_items(&self, items: &mut [Value], room: &mut Room) -> Result<()> {
        let mut known: HashMap<String, Option<Arc<KvValue>>> = HashMap::new();
        for (index, item) in items.iter_mut().enumerate() {
            let Some(id) = referenced(item) else { continue };
            let found = match known.get(id) {
                Some(found) => found.clone(),
                None => {
                    let found = self.read(&item_name(id)).await?;
                    known.insert(id.to_owned(), found.clone());
                    found
                }
            };
            if let Some(found) = found {
                room.take(found.json().len(), format_args!("input[{index}]"))?;
                item.clone_from(found.value());
            }
        }
        Ok(())
    }

    /// Returns what was said up to a response; `None` where it is not known here.
    ///
    /// # Errors
    /// InvalidInput where that is too much, NotFound where a part of it is gone.
    pub async fn said(&self, id: &str, room: &mut Room) -> Result<Option<Vec<Value>>> {
        let mut room_of_names = self.room();
        let Some(mut turn) = self.turn(id, &mut room_of_names).await? else { return Ok(None) };
        let mut turns = Vec::new();
        while let Some(before) = turn.previous.take() {
            turns.push(turn);
            if turns.len() == MAX_TURNS {
                let message = format!(
                    "goes on from more than {MAX_TURNS} responses, the most that are put together: send what was said as \
                     `input`"
                );
                return Err(Error::invalid(OPERATION, PREVIOUS, message));
            }
            turn = self.turn(&before, &mut room_of_names).await?.ok_or_else(|| lost(&before))?;
        }
        turns.push(turn);
        let names = turns.into_iter().rev().flat_map(|turn| turn.items);
        let mut items = stream::iter(names).map(|name| async move { self.read(&name).await }).buffered(READS);
        let mut said = Vec::new();
        while let Some(item) = items.try_next().await? {
            let item = item.ok_or_else(|| lost(id))?;
            room.take(item.json().len(), PREVIOUS)?;
            said.push(item.value().clone());
        }
        Ok(Some(said))
    }

    async fn turn(&self, id: &str, room: &mut Room) -> Result<Option<Turn>> {
        let Some(known) = self.read(&turn_name(id)).await? else { return Ok(None) };
        room.take(known.json().len(), PREVIOUS)?;
        Ok(serde_json::from_str(known.json()).ok())
    }

    /// Keeps a response, and what it answers, all at once.
    ///
    /// # Errors
    /// What the durable tier says. A part may be kept.
    pub async fn keep(&self, said: Said) -> Result<()> {
        let mut items = Vec::new();
        let mut entries: HashMap<String, (Keep, KvValue)> = HashMap::new();
        for item in said.input {
            let value = KvValue::new(item);
            let name = format!("said/{}", digest(value.json()));
            items.push(name.clone());
            entries.insert(name, (Keep::UnlessThere, value));
        }
        for item in said.output {
            // Each item of ours has a name.
            let Some(id) = item["id"].as_str() else { continue };
            let name = item_name(id);
            items.push(name.clone());
            entries.insert(name, (Keep::Anew, KvValue::new(item)));
        }
        let turn = serde_json::to_value(Turn { previous: said.previous, items });
        let turn = turn.map_err(|error| {
            Error::new(ErrorKind::Internal, OPERATION, "what was said cannot be written").with_source(error)
        })?;
        entries.insert(turn_name(&said.id), (Keep::Anew, KvValue::new(turn)));
        let writes = stream::iter(entries).map(|(name, (keep, value))| self.write(name, keep, value));
        self.unless_forgotten(writes.buffer_unordered(WRITES).try_collect()).await
    }

    /// Keeps the names in a response that the provider keeps.
    ///
    /// # Errors
    /// What the durable tier says. A part may be kept.
    pub async fn keep_names(&self, ids: Vec<String>) -> Result<()> {
        let write = |id: String| self.write(given_name(&id), Keep::Anew, KvValue::new(Value::Bool(true)));
        self.unless_forgotten(stream::iter(ids).map(write).buffer_unordered(WRITES).try_collect()).await
    }

    async fn unless_forgotten(&self, keep: impl Future<Output = Result<()>>) -> Result<()> {
        let kept = self.memory.forgotten().unless_since(self.forgotten, &self.scope, keep).await;
        kept.unwrap_or_else(|| Err(Error::new(ErrorKind::Cancelled, OPERATION, "the scope was forgotten meanwhile")))
    }

    /// Returns whether a name of the provider's was given here.
    pub async fn has_name(&self, id: &str) -> Result<bool> {
        Ok(self.read(&given_name(id)).await?.is_some())
    }

    async fn write(&self, name: String, keep: Keep, value: KvValue) -> Result<()> {
        let (key, tiers) = (self.key(&name), self.memory.kv().tiers());
        let until = |time: Duration| tiers.clock().now().checked_add(time).ok();
        let expires_at = match keep {
            Keep::Anew => until(KEPT),
            Keep::UnlessThere => {
                let known = tiers.look(&key).await?.entry.filter(|entry| entry.value.is_some());
                if known.is_some_and(|known| known.expires_at >= until(KEPT)) {
                    return Ok(());
                }
                until(KEPT + SLACK)
            }
        };
        let mut entry = KvEntry::new(value);
        (entry.expires_at, entry.stale_until) = (expires_at, expires_at);
        entry.tags.clone_from(&self.tags);
        tiers.set(&key, Arc::new(entry)).await
    }

    async fn read(&self, name: &str) -> Result<Option<Arc<KvValue>>> {
        let tiers = self.memory.kv().tiers();
        let entry = tiers.look(&self.key(name)).await?.entry;
        Ok(entry.filter(|entry| entry.is_fresh(tiers.clock().now())).and_then(|entry| entry.value.clone()))
    }

    fn key(&self, name: &str) -> KvKey {
        KvKey::new(&self.scope, &format!("{}{name}", self.prefix))
    }
}

/// Whether a value is written that may be there already.
#[derive(Debug, Clone, Copy)]
enum Keep {
    Anew,
    UnlessThere,
}

/// Returns the name of an item that stands in place of it.
pub(super) fn referenced(item: &Value) -> Option<&str> {
    item["id"].as_str().filter(|_| item["type"] == "item_reference")
}

fn item_name(id: &str) -> String {
    format!("item/{}", digest(id))
}

fn turn_name(id: &str) -> String {
    format!("turn/{}", digest(id))
}

fn given_name(id: &str) -> String {
    format!("given/{}", digest(id))
}

/// A client may name anything, at any length.
fn digest(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..DIGITS].to_owned()
}

/// Says that a response is not known.
pub(super) fn lost(id: &str) -> Error {
    let message = format!("`{PREVIOUS}` `{id}` is not known here, or not kept any more: send what was said as `input`");
    Error::new(ErrorKind::NotFound, OPERATION, message).with("field", PREVIOUS)
}

/// Says that what the provider keeps for all who have its credential is not named by each of them.
pub(super) fn not_yours(field: &str) -> Error {
    let message = format!("`{field}` is the provider's, for all keys alike: only a key with `admin` may name it");
    Error::new(ErrorKind::Unauthorized, OPERATION, message).with("field", field)
}

/// Says that an item is not known.
pub(super) fn lost_item(field: &str) -> Error {
    let message = format!("`{field}` names an item that is not known here, or not kept any more: send the item itself");
    Error::new(ErrorKind::NotFound, OPERATION, message).with("field", field)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Sophia, memory::ForgetRequest};

    fn said(id: &str, previous: Option<&str>, input: Value) -> Said {
        Said { id: id.to_owned(), previous: previous.map(str::to_owned), input: vec![input], output: Vec::new() }
    }

    async fn conversations(max_bytes: usize) -> Conversations {
        let sophia = Sophia::builder().start().await.unwrap();
        Conversations::begin(sophia.memory().clone(), Scope::new().user("ada"), max_bytes)
    }

    #[tokio::test]
    async fn a_conversation_of_too_many_responses_says_so() {
        let kept = conversations(1 << 20).await;
        for number in 0..=MAX_TURNS {
            let previous = number.checked_sub(1).map(|number| format!("r{number}"));
            kept.keep(said(&format!("r{number}"), previous.as_deref(), json!(number))).await.unwrap();
        }
        let whole = kept.said(&format!("r{}", MAX_TURNS - 1), &mut kept.room()).await.unwrap().unwrap();
        assert_eq!((whole.len(), &whole[0]), (MAX_TURNS, &json!(0)));
        let error = kept.said(&format!("r{MAX_TURNS}"), &mut kept.room()).await.unwrap_err();
        assert_eq!((error.code(), error.get("field")), ("INVALID_INPUT", Some(PREVIOUS)));
        assert!(error.message().contains("more than 1000 responses"), "{error}");
    }

    #[tokio::test]
    async fn what_was_forgotten_meanwhile_is_not_kept() {
        let under_way = conversations(1 << 20).await;
        let forget = ForgetRequest::scope(under_way.scope.clone());
        under_way.memory.forget(forget).await.unwrap();
        let error = under_way.keep(said("a", None, json!({"role": "user"}))).await.unwrap_err();
        assert_eq!(error.code(), "CANCELLED");
        assert_eq!(under_way.keep_names(vec!["b".to_owned()]).await.unwrap_err().code(), "CANCELLED");
        let next = Conversations::begin(under_way.memory.clone(), under_way.scope.clone(), 1 << 20);
        assert_eq!(next.said("a", &mut next.room()).await.unwrap(), None);
        next.keep(said("a", None, json!({"role": "user"}))).await.unwrap();
        assert!(next.said("a", &mut next.room()).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_part_that_is_gone_or_is_none_is_said_to_be_lost() {
        let kept = conversations(1 << 20).await;
        kept.keep(said("b", Some("a"), json!({"role": "user"}))).await.unwrap();
        let error = kept.said("b", &mut kept.room()).await.unwrap_err();
        assert_eq!((error.code(), error.get("field")), ("NOT_FOUND", Some(PREVIOUS)));
        assert!(error.message().contains("`a`"), "{error}");
        let odd = kept.key(&turn_name("c"));
        kept.memory.kv().tiers().set(&odd, Arc::new(KvEntry::new(KvValue::new(json!(5))))).await.unwrap();
        assert_eq!(kept.said("c", &mut kept.room()).await.unwrap(), None);
    }
}
