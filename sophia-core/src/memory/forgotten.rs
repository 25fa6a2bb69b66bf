//! What was forgotten lately: what was under way for somebody then is not kept after it.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::sync::RwLock;

use super::forget::ForgetRequest;
use crate::Scope;

/// Most that are remembered: what was under way for longer counts as forgotten.
const REMEMBERED: usize = 1_024;

/// What this engine was told to forget, in order.
#[derive(Debug, Default)]
pub(crate) struct Forgotten {
    count: AtomicU64,
    /// The latest of them. Read while something is kept.
    latest: RwLock<VecDeque<ForgetRequest>>,
}

impl Forgotten {
    /// Returns how much was forgotten so far.
    pub fn so_far(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Notes what is about to be forgotten, once nothing is being kept.
    pub async fn note(&self, what: &ForgetRequest) {
        let mut latest = self.latest.write().await;
        if latest.len() == REMEMBERED {
            latest.pop_front();
        }
        latest.push_back(what.clone());
        self.count.fetch_add(1, Ordering::Release);
    }

    /// Keeps something of a scope; `None` where the scope was forgotten after the first `so_far`. What is forgotten meanwhile
    /// waits, and so finds it.
    pub async fn unless_since<T>(&self, so_far: u64, scope: &Scope, keep: impl Future<Output = T>) -> Option<T> {
        let latest = self.latest.read().await;
        let since = self.so_far().saturating_sub(so_far);
        let are_remembered = since <= latest.len() as u64;
        if !are_remembered || latest.iter().rev().take(since as usize).any(|what| what.covers(scope)) {
            return None;
        }
        Some(keep.await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_forgotten_meanwhile_is_not_kept() {
        let forgotten = Forgotten::default();
        let (ada, bob) = (Scope::new().tenant("acme").user("ada"), Scope::new().user("bob"));
        let before = forgotten.so_far();
        forgotten.note(&ForgetRequest::subject("ada")).await;
        let kept = async |so_far, scope: &Scope| forgotten.unless_since(so_far, scope, async {}).await.is_some();
        let session = ada.clone().session("s");
        assert!(!kept(before, &session).await && kept(before, &bob).await);
        assert!(kept(forgotten.so_far(), &ada).await);
        forgotten.note(&ForgetRequest::scope(ada.clone())).await;
        assert!(!kept(before + 1, &ada).await && kept(before + 1, &bob).await);
        for _ in 0..REMEMBERED {
            forgotten.note(&ForgetRequest::subject("carl")).await;
        }
        assert!(!kept(before, &bob).await, "who knows what was forgotten since");
        assert!(kept(before + 2, &bob).await);
    }
}
