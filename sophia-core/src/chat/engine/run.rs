//! `run`: what protects a chat call, around any coroutine.

use std::{borrow::Cow, future::Future, sync::Arc, time::Instant};

use futures::future::{BoxFuture, OptionFuture};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    super::{
        accounting::is_over_limit,
        cache::{Freshness, Payload},
        dialect::Dialect,
        flight::{FlightKey, stopped},
        key,
        metrics::Operation,
        provider::Keeping,
        request::{CacheMode, context_of},
        response::{CacheStatus, Found},
        run::{self, Produced, RunOptions, RunResult},
        shared::{self, Held, Kept, Turn},
    },
    Chat, before, in_background,
    line::Company,
    ms, narrowed,
};
use crate::{Error, Result, Scope, here::elsewhere, resilience::Role};

impl Chat {
    /// Returns the value that `producer` makes for `message`, in this scope: kept, shared, bounded and measured.
    ///
    /// The producer runs at most once for all who ask the same at the same time.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> sophia_core::Result<()> {
    /// use sophia_core::{Config, Scope, Sophia};
    ///
    /// let (sophia, ada) = (Sophia::new(Config::default())?, Scope::new().user("ada"));
    /// let ask = || sophia.chat().run("How many deals are open?", &ada, || async { Ok("42".to_string()) });
    /// assert_eq!(ask().await?.value, "42");
    /// assert_eq!(ask().await?.cache.tier, Some("l1"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// What the producer returns, to everyone who waited for it; Timeout. Where a producer ends with the runtime or the event loop
    /// that runs it, one of the others begins theirs.
    ///
    /// # Cancel safety
    /// As [`Chat::complete`]; the producer is dropped when the last one leaves.
    pub fn run<'a, T, F, W>(
        &'a self,
        message: &str,
        scope: &Scope,
        producer: F,
    ) -> impl Future<Output = Result<RunResult<T>>> + use<'a, T, F, W>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        self.run_with(RunOptions::new(message).scope(scope), producer)
    }

    /// Does what [`Chat::run`] does, with options.
    ///
    /// # Errors
    /// As [`Chat::run`].
    pub async fn run_with<T, F, W>(&self, options: RunOptions, producer: F) -> Result<RunResult<T>>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        const OPERATION: &str = Operation::Run.name();
        self.run_value(options, run::producer(OPERATION, producer)).await?.read(OPERATION)
    }

    /// Does what [`Chat::run`] does, for callers that bring their own values, text and decision what may be kept.
    ///
    /// # Errors
    /// As [`Chat::run`].
    pub async fn run_value<F>(&self, options: RunOptions, producer: F) -> Result<RunResult<Arc<Value>>>
    where
        F: FnOnce() -> BoxFuture<'static, Result<Produced>> + Send + 'static,
    {
        const OPERATION: Operation = Operation::Run;
        let start = Instant::now();
        let asked = self.asked(OPERATION, options.traceparent.as_deref());
        let outcome = self.produce(options, producer, start).await;
        match &outcome {
            Ok(result) => self.0.meter.succeeded(OPERATION, result.cache.status, result.latency_ms),
            Err(error) => self.0.meter.failed(OPERATION, error, ms(start)),
        }
        match (asked, &outcome) {
            (Some(asked), Ok(result)) => asked.found(&result.cache),
            (Some(asked), Err(error)) => asked.failed(error),
            (None, _) => {}
        }
        outcome
    }

    async fn produce<F>(&self, options: RunOptions, producer: F, start: Instant) -> Result<RunResult<Arc<Value>>>
    where
        F: FnOnce() -> BoxFuture<'static, Result<Produced>> + Send + 'static,
    {
        const OPERATION: &str = Operation::Run.name();
        options.validate(OPERATION, self.0.config.max_request_bytes)?;
        let ttl = self.explicit_ttl(OPERATION, options.ttl)?;
        let context = context_of(options.context.as_deref(), || Cow::Borrowed(&options.message));
        let key = key::of_run(&options.message, context, options.scope.as_ref(), options.share);
        let used = options.cache != CacheMode::Bypass && self.0.cache.is_enabled();
        let mut stale = None;
        if used
            && options.cache != CacheMode::Refresh
            && let Some((entry, freshness)) = self.0.cache.look(&key)
            && let Payload::Value(value) = &entry.payload
        {
            let cache = self.hit_info(&entry, freshness);
            let kept = RunResult { value: value.clone(), cache, latency_ms: ms(start) };
            if freshness == Freshness::Fresh || options.cache == CacheMode::Only || !self.0.cache.claim_refresh(&entry)
            {
                return Ok(kept);
            }
            stale = Some(kept);
        }
        self.refuse_only(OPERATION, options.cache)?;
        elsewhere().await;
        let deadline = self.deadline(options.timeout);
        let epoch = self.0.cache.epoch();
        let flight = FlightKey { key, dialect: Dialect::Chat, epoch, refresh: options.cache == CacheMode::Refresh };
        // What nobody joins is not waited for.
        let name = if used { format!("{flight:?}") } else { String::new() };
        let around = options.around.unwrap_or_else(run::around);
        if used && stale.is_none() && around.contains(&name) && self.0.runs.is_under_way(&flight) {
            const ITSELF: &str =
                "is what a producer around it is asked, which would wait for itself: ask something else";
            return Err(Error::invalid(OPERATION, "message", ITSELF));
        }
        let keeping = used.then(|| Keeping {
            key,
            scope: narrowed(options.share, options.scope.as_ref()),
            context: context.to_owned(),
            tags: options.tags.clone(),
            ttl,
            epoch,
            asked_at: self.0.cache.now(),
            look: options.cache != CacheMode::Refresh,
            question: None,
        });
        let mut cache = before(used.then_some(key));
        let (cached, line, shared) = (self.0.cache.clone(), self.0.run_line.clone(), self.0.shared.clone());
        let (accounts, scope) = (self.0.accounts.clone(), options.scope.clone().unwrap_or_default());
        let work = move |company: Arc<Company>| async move {
            if let Some(keeping) = keeping.as_ref().filter(|keeping| keeping.look)
                && let Some(entry) = cached.get(&keeping.key)
                && let Payload::Value(value) = &entry.payload
            {
                return Ok((value.clone(), Some(entry.ttl_s()), Found::default()));
            }
            let turn = shared::turn(shared.as_ref(), OPERATION, keeping.as_ref(), deadline).await;
            let (lease, found) = match turn {
                Turn::Kept(Kept { payload: Payload::Value(value), ttl_s, found }) => {
                    return Ok((value, Some(ttl_s), found));
                }
                Turn::Kept(_) => (Held::default(), Found::default()),
                Turn::Ours(lease, found) => (lease, found),
            };
            let _permit = accounts.enter(OPERATION, &scope, line.acquire(&company)).await?;
            let around = [company.around(), vec![name]].concat();
            let produced = run::inside(around, async move { producer().await }).await?;
            let value = Arc::new(produced.value);
            let keeping = keeping.filter(|_| produced.cacheable);
            let ttl_s = keeping.as_ref().and_then(|keeping| {
                let text = produced.text.map_or_else(|| text_of(&value), Cow::Owned);
                cached.put(keeping, Payload::Value(value.clone()), &text)
            });
            match (&shared, &keeping, ttl_s) {
                (Some(shared), Some(keeping), Some(ttl_s)) => {
                    shared.keep(OPERATION, keeping, &Payload::Value(value.clone()), ttl_s, lease).await;
                }
                _ => lease.end(OPERATION).await,
            }
            Ok((value, ttl_s, found))
        };
        if let Some(kept) = stale {
            let runs = self.0.runs.clone();
            let refreshed = async move { runs.run_with(flight, |_| {}, work).await.map(drop) };
            in_background(async move { deadline.run(OPERATION, refreshed).await })?;
            return Ok(kept);
        }
        let join = |company: &Company| company.join(&around);
        let (value, ttl_s, found) = if used {
            let mut own = Some(work);
            let flown = loop {
                let begin = |company| {
                    let work = own.take().map(|work| work(company));
                    async move { OptionFuture::from(work).await.unwrap_or_else(|| Err(stopped(OPERATION))) }
                };
                let run = self.0.flights.unless_stopped(OPERATION, self.0.runs.run_with(flight, join, begin));
                match deadline.run(OPERATION, run).await {
                    // Who led is over a limit, which says nothing about this caller.
                    Err(error) if is_over_limit(&error) && own.is_some() => {}
                    outcome => break outcome?,
                }
            };
            if flown.role == Role::Follower {
                cache.status = CacheStatus::Coalesced;
            }
            flown.value
        } else {
            let company = Arc::<Company>::default();
            join(&company);
            deadline.run(OPERATION, self.0.flights.unless_stopped(OPERATION, work(company))).await?
        };
        let cache = cache.landed(found, ttl_s, true);
        Ok(RunResult { value, cache, latency_ms: ms(start) })
    }
}

fn text_of(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => Cow::Borrowed(text),
        other => Cow::Owned(other.to_string()),
    }
}
