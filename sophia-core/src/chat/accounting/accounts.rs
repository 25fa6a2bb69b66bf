//! A call on its way through limits and ledger.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{runtime::Handle, task::AbortHandle};

use super::{
    counts::Counts,
    ledger::{Account, CostQuery, Costs, Ledger},
    limits::{LimitStatus, Limits},
    prices::Prices,
};
use crate::{
    Result, Scope,
    chat::{
        config::ChatConfig,
        provider::{Embeddings, ProviderCall},
        response::{Answer, BYTES_PER_TOKEN, Usage},
    },
    context::Context,
    resilience::Permit,
    tally::TallyStore,
    telemetry::Telemetry,
};

/// How long what was used may wait before it is shared: a process that is killed loses as much.
const SHARED_EVERY: Duration = Duration::from_millis(100);
/// The same where nothing was used lately.
const SHARED_IDLY_EVERY: Duration = Duration::from_secs(1);
/// Longest text without a space, in bytes.
const LONGEST_WORD: usize = 1 << 10;
/// What metrics call the task of making vectors.
pub(crate) const EMBEDDINGS: &str = "embeddings";
/// Days that are read at once.
const READ_AT_ONCE: usize = 8;

/// Lets calls through that keep their limits, and writes down what they used. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Accounts {
    prices: Arc<Prices>,
    limits: Limits,
    ledger: Ledger,
    counts: Counts,
    sharer: Arc<Sharer>,
    telemetry: Telemetry,
}

/// The task that shares what was counted, while there is one.
#[derive(Debug, Default)]
struct Sharer {
    is_running: AtomicBool,
    task: Mutex<Option<AbortHandle>>,
}

impl Drop for Sharer {
    fn drop(&mut self) {
        self.task.get_mut().iter().for_each(AbortHandle::abort);
    }
}

impl Accounts {
    /// Opens the accounts of this process. What is counted is shared with others through `shared`, if there is one.
    ///
    /// # Errors
    /// InvalidConfig for prices and limits that cannot be.
    pub fn new(config: &ChatConfig, context: &Context, shared: Option<Arc<dyn TallyStore>>) -> Result<Accounts> {
        let counts = Counts::new(context.clock.clone(), shared);
        Ok(Accounts {
            prices: Arc::new(Prices::new(config)?),
            limits: Limits::new(config, context.clock.clone(), counts.clone())?,
            ledger: Ledger::new(context.clock.clone()),
            counts,
            sharer: Arc::default(),
            telemetry: context.telemetry.clone(),
        })
    }

    /// Counts one call of `scope`, if it keeps every limit, and waits in line for its permit.
    ///
    /// # Errors
    /// RateLimited, naming the limit, with `retry_after`; what `permit` says.
    pub async fn enter(
        &self,
        operation: &'static str,
        scope: &Scope,
        permit: impl Future<Output = Result<Permit>>,
    ) -> Result<Permit> {
        // Before the line: who is over a limit takes nobody's place in it.
        self.limits.admit(operation, scope).await?;
        let permit = permit.await?;
        if permit.has_waited() {
            // And after it: those before it have spent something meanwhile.
            self.limits.admit_counted(operation, scope).await?;
        }
        Ok(permit)
    }

    /// Writes down what an answer used, and tells it its cost. A cost that the provider told counts.
    pub fn settle(&self, call: &ProviderCall, answer: &mut Arc<Answer>) {
        let price = self.prices.find(&answer.provider, &answer.model, &call.model);
        let cost = answer.cost_usd.or_else(|| price?.of(&answer.usage));
        if cost != answer.cost_usd {
            Arc::make_mut(answer).cost_usd = cost;
        }
        if let Some(cost) = cost {
            self.telemetry.cost(&self.telemetry.ai(&answer.provider, &call.model, &call.context), cost);
        }
        self.ledger.account(&answer.provider, &answer.model, &call.scope).used(&answer.usage, cost);
        let counted = match answer.usage.total_tokens() {
            0 => estimate(call, answer.message.values().map(text_bytes).sum()),
            _ => answer.usage,
        };
        self.limits.used(&call.scope, counted.total_tokens(), cost.or_else(|| price?.of(&counted)));
        self.share_soon();
    }

    /// Writes down a call whose end nobody heard. What it used is not known; limits count an estimate, so that nobody passes
    /// them by leaving early.
    pub fn settle_unheard(&self, call: &ProviderCall, provider: &str, answer_bytes: usize) {
        self.unheard(provider, &call.model, &call.scope, &estimate(call, answer_bytes));
    }

    /// Does the same for vectors that nobody has heard of.
    pub fn settle_unheard_vectors(&self, texts: &[String], provider: &str, model: &str, scope: &Scope) {
        let bytes = texts.iter().map(String::len).sum();
        self.unheard(provider, model, scope, &estimate_bytes(bytes, 0));
    }

    fn unheard(&self, provider: &str, model: &str, scope: &Scope, estimate: &Usage) {
        let cost = self.prices.find(provider, model, model).and_then(|price| price.of(estimate));
        self.ledger.account(provider, model, scope).used(&Usage::default(), None);
        self.limits.used(scope, estimate.total_tokens(), cost);
        self.share_soon();
    }

    /// Writes down what vectors used.
    pub fn settle_vectors(&self, asked: &str, vectors: &Embeddings, scope: &Scope) {
        let price = self.prices.find(&vectors.provider, &vectors.model, asked);
        let cost = price.and_then(|price| price.of_prompt(&vectors.usage));
        if let Some(cost) = cost {
            self.telemetry.cost(&self.telemetry.ai(&vectors.provider, asked, EMBEDDINGS), cost);
        }
        self.ledger.account(&vectors.provider, &vectors.model, scope).used(&vectors.usage, cost);
        self.limits.used(scope, vectors.usage.total_tokens(), cost);
        self.share_soon();
    }

    /// Returns the account of those who are given this answer under `scope`.
    pub fn account(&self, answer: &Answer, scope: &Scope) -> Arc<Account> {
        self.ledger.account(&answer.provider, &answer.model, scope)
    }

    pub async fn costs(&self, query: &CostQuery) -> Result<Costs> {
        if !self.counts.is_shared() {
            return self.ledger.costs(query);
        }
        let groups = self.ledger.groups(query)?;
        self.share().await;
        let read = |group: String| async move { self.counts.read_shared(&group).await };
        let groups: Vec<_> = stream::iter(groups).map(read).buffered(READ_AT_ONCE).try_collect().await?;
        self.ledger.costs_of(query, &groups)
    }

    pub async fn budget(&self, scope: &Scope) -> Result<Vec<LimitStatus>> {
        self.limits.status(scope).await
    }

    /// Shares what was counted, and stops doing so until something is used again.
    pub async fn close(&self) {
        let task = self.sharer.task.lock().take();
        task.iter().for_each(AbortHandle::abort);
        self.sharer.is_running.store(false, Ordering::Release);
        self.share().await;
    }

    async fn share(&self) {
        self.counts.pend(self.ledger.unshared());
        self.counts.share().await;
    }

    /// Begins to share in the background what is counted, if there is somebody to share it with.
    fn share_soon(&self) {
        if !self.counts.is_shared() || self.sharer.is_running.load(Ordering::Acquire) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let mut task = self.sharer.task.lock();
        if !self.sharer.is_running.swap(true, Ordering::AcqRel) {
            let work = share_on(self.ledger.clone(), self.counts.clone(), Arc::downgrade(&self.sharer));
            *task = Some(runtime.spawn(work).abort_handle());
        }
    }
}

async fn share_on(ledger: Ledger, counts: Counts, sharer: Weak<Sharer>) {
    while sharer.strong_count() > 0 {
        counts.pend(ledger.unshared());
        let pause = if counts.is_in_step() { SHARED_IDLY_EVERY } else { SHARED_EVERY };
        counts.share().await;
        tokio::time::sleep(pause).await;
    }
}

/// Returns about how many tokens a call takes that is answered with so many bytes.
fn estimate(call: &ProviderCall, answer_bytes: usize) -> Usage {
    estimate_bytes(call.body.values().map(text_bytes).sum(), answer_bytes)
}

fn estimate_bytes(request: usize, answer: usize) -> Usage {
    let tokens = |bytes: usize| Some(bytes.div_ceil(BYTES_PER_TOKEN) as u64);
    Usage { prompt_tokens: tokens(request), completion_tokens: tokens(answer), ..Usage::default() }
}

/// Returns how many bytes of text there are in a body. What is long and without a space is a file, not text.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) if text.len() > LONGEST_WORD && text.is_ascii() && !text.contains(char::is_whitespace) => 0,
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(text_bytes).sum(),
        Value::Object(fields) => fields.values().map(text_bytes).sum(),
        _ => 0,
    }
}
