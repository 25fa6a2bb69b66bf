//! What a request says of who asks.
//!
//! It is no part of the question, so its key leaves it out. Some providers repeat it in their answers, which are given to others
//! as well: it is taken out of what a provider says, and each client is told its own.

use serde_json::{Map, Value};

/// Fields that say it.
pub(crate) const NAMES: [&str; 6] =
    ["user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"];

/// Returns what the fields of a request say of who asks.
pub(crate) fn of(request: &Map<String, Value>) -> Map<String, Value> {
    said(request).map(|(name, value)| (name.to_owned(), value.clone())).collect()
}

/// Takes out of an answer what it repeats of the request, and leaves the places empty.
pub(crate) fn take_out(answer: &mut Map<String, Value>, request: &Map<String, Value>) {
    for (name, _) in said(request) {
        if let Some(own) = answer.get_mut(name) {
            *own = if own.is_object() { Value::Object(Map::new()) } else { Value::Null };
        }
    }
}

/// Puts what a request says into an answer that has the places for it.
pub(crate) fn put_in(answer: &mut Map<String, Value>, request: &Map<String, Value>) {
    for (name, value) in said(request) {
        if let Some(own) = answer.get_mut(name) {
            own.clone_from(value);
        }
    }
}

fn said(request: &Map<String, Value>) -> impl Iterator<Item = (&'static str, &Value)> {
    NAMES.into_iter().filter_map(|name| Some((name, request.get(name).filter(|value| !value.is_null())?)))
}
