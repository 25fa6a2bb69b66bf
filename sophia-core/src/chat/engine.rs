//! The chat: what its methods do, in order.

mod line;
mod run;

use std::{
    borrow::Cow,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::runtime::Handle;

use line::{Company, RunLine};

use super::{
    accounting::{Accounts, CostQuery, Costs, LimitStatus},
    assist::Assistants,
    cache::{AnswerCache, Entry, Freshness, Invalidate, Payload},
    config::ChatConfig,
    endpoint::Endpoint,
    explain::Trace,
    flight::{self, FlightKey, Flights, Form, Rider},
    keeper::Keeper,
    key::{self, Key, KeyText},
    limited::{Limited, Pass},
    metrics::{ChatMetrics, Meter, Operation},
    provider::{AskedOf, ChatProvider, EmbedCall, Embeddings, Keeping, Model, ProviderCall, SharedDeadline},
    request::{CacheMode, ChatRequest, Share, check_options, context_of},
    response::{CacheInfo, CacheStatus, ChatResponse, Found},
    router::Router,
    semantic::{Question, Semantic, SemanticFeedback, SemanticReport, SemanticTier},
    shared::{SharedCache, SharedTier},
    stream::ChatStream,
    traced::Asked,
    ttl,
};
use crate::{
    Error, ErrorKind, Result, Scope,
    context::Context,
    here::elsewhere,
    memory::{AlsoForgets, AlsoForgotten},
    otlp::{Otel, SpanContext},
    resilience::{Deadline, Limiter, Role, SingleFlight},
    tally,
};

/// Most texts of one embedding call.
const MAX_TEXTS: usize = 2048;

/// Cached chat: one client for every provider, and the same protection for any coroutine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Chat(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Arc<ChatConfig>,
    assistants: Assistants,
    cache: AnswerCache,
    /// The cache that processes share, if there is one.
    shared: Option<SharedCache>,
    limiter: Limiter,
    /// What producers pass, beside it: one that asks a provider must not wait for itself.
    run_line: RunLine,
    accounts: Accounts,
    meter: Arc<Meter>,
    otel: Option<Otel>,
    flights: Flights,
    runs: SingleFlight<FlightKey, Made, Company>,
    /// The stages below the flights, the first one outermost.
    stages: Arc<Stages>,
    /// The same, as the flights see them.
    provider: Arc<dyn ChatProvider>,
    /// Where the providers are, to be closed.
    endpoints: Vec<Endpoint>,
}

type Stages = SharedTier<Keeper<Semantic<Limited>>>;

/// A value that was made or found, for how many seconds it is kept, and where it was found.
type Made = (Arc<Value>, Option<u64>, Found);

/// A request that was checked, and what it is looked up under.
struct Prepared<'a> {
    model: Cow<'a, str>,
    /// `None` where the cache is not used.
    key: Option<Key>,
    trace: Trace,
    /// Span of the caller, if it is told to anybody.
    parent: Option<SpanContext>,
}

impl Prepared<'_> {
    /// Returns it apart from the request.
    fn detached(self) -> Prepared<'static> {
        Prepared { model: Cow::Owned(self.model.into_owned()), ..self }
    }
}

/// A call that nobody has answered yet.
struct Journey {
    way: Way,
    cache: CacheInfo,
    deadline: Deadline,
    scope: Option<Scope>,
    trace: Trace,
    flown: Option<Instant>,
}

/// How the answer is come by.
enum Way {
    /// By a call of its own.
    Alone(Box<ProviderCall>),
    /// By one that others may share.
    Shared(Rider),
}

impl Chat {
    pub(crate) fn new(config: &ChatConfig, context: &Context, assistants: Assistants) -> Result<Chat> {
        let config = Arc::new(config.clone());
        let clock = context.clock.clone();
        let accounts = Accounts::new(&config, context, tally::shared(context, &assistants.memory))?;
        let cache = AnswerCache::new(config.clone(), clock.clone(), accounts.clone());
        let limiter = Limiter::new(config.max_concurrent);
        let meter = Arc::new(Meter::new(context, config.providers.iter().map(|provider| provider.name.as_str())));
        let (router, endpoints) = Router::new(&config, &clock, meter.clone(), context.otel.as_ref())?;
        let limited = Limited::new(router, accounts.clone(), limiter.clone());
        let shared = SharedCache::new(&config, context, &cache);
        let semantic = Semantic::new(limited, semantic_tier(&config, &cache, context), config.cache.tool_calls);
        let keeper = Keeper::new(semantic, cache.clone(), config.cache.tool_calls);
        let stages = Arc::new(SharedTier::new(keeper, shared.clone()));
        let provider: Arc<dyn ChatProvider> = stages.clone();
        Ok(Chat(Arc::new(Inner {
            config,
            assistants,
            cache,
            shared,
            run_line: RunLine::beside(&limiter),
            limiter,
            accounts,
            meter,
            otel: context.otel.clone(),
            flights: Flights::default(),
            runs: SingleFlight::with_aboard(Operation::Run.name()),
            stages,
            provider,
            endpoints,
        })))
    }

    pub(crate) async fn start(&self) -> Result<()> {
        Ok(())
    }

    pub(crate) async fn shutdown(&self) -> Result<()> {
        self.0.flights.stop_all();
        if let Some(shared) = &self.0.shared {
            shared.close().await;
        }
        self.0.accounts.close().await;
        self.0.endpoints.iter().for_each(Endpoint::close);
        Ok(())
    }

    /// Answers a question: from the cache, from a call that is under way, or from a provider.
    ///
    /// # Errors
    /// InvalidInput for a request that cannot be asked; NotFound for a model that nobody offers, or with
    /// [`CacheMode::Only`] for an answer that is not kept; Timeout, Unavailable, RateLimited, Unauthorized or CircuitOpen
    /// by what happened at the provider. An error is never kept.
    ///
    /// # Cancel safety
    /// Dropping the call leaves the others who wait for the same answer alone; the last one to leave closes it.
    pub async fn complete(&self, request: ChatRequest) -> Result<ChatResponse> {
        match request.is_assisted() {
            true => self.complete_with_help(request, None).await,
            false => self.complete_once(request).await,
        }
    }

    pub(super) async fn complete_once(&self, request: ChatRequest) -> Result<ChatResponse> {
        const OPERATION: Operation = Operation::Complete;
        let start = Instant::now();
        let asked = self.asked(OPERATION, request.traceparent.as_deref());
        let outcome = match self.prepare(OPERATION.name(), &request, asked.as_ref()) {
            Ok(prepared) => match self.kept(&request, &prepared, start) {
                Some(hit) => Ok(hit),
                None => {
                    let prepared = prepared.detached();
                    elsewhere().await;
                    match self.depart(request, prepared) {
                        // In a box, so that a hit does not move what only a call needs.
                        Ok(journey) => Box::pin(self.arrive(journey, start)).await,
                        Err(error) => Err(error),
                    }
                }
            },
            Err(error) => Err(error),
        };
        match &outcome {
            Ok(response) => self.0.meter.succeeded(OPERATION, response.cache.status, response.latency_ms),
            Err(error) => self.0.meter.failed(OPERATION, error, ms(start)),
        }
        if let Some(asked) = asked {
            asked.ended(&outcome);
        }
        outcome
    }

    /// Answers a question from the cache only, at once. `None` where [`Chat::complete`] would have to ask.
    pub fn hit(&self, request: &ChatRequest) -> Option<ChatResponse> {
        if request.is_assisted() {
            return None;
        }
        let start = Instant::now();
        let prepared = self.prepare(Operation::Complete.name(), request, None).ok()?;
        // What is stale has to be asked for, which takes a runtime.
        let entry = self.0.cache.get(&prepared.key.filter(|_| request.cache != CacheMode::Refresh)?)?;
        let response = self.give(request, &entry, Freshness::Fresh, start)?;
        self.0.meter.succeeded(Operation::Complete, CacheStatus::Hit, response.latency_ms);
        if let Some(asked) = self.asked(Operation::Complete, request.traceparent.as_deref()) {
            asked.answered(&response.cache, &response.answer, None);
        }
        Some(response)
    }

    /// Answers a question in parts, as they come. A kept answer comes in the parts in which it came first.
    ///
    /// The call begins at once, and goes on while the stream is not dropped.
    ///
    /// # Errors
    /// As [`Chat::complete`]; what fails later is an item of the stream, its last.
    pub fn stream(&self, request: ChatRequest) -> Result<ChatStream> {
        match request.is_assisted() {
            true => self.stream_with_help(request, None),
            false => self.stream_once(request),
        }
    }

    pub(super) fn stream_once(&self, request: ChatRequest) -> Result<ChatStream> {
        const OPERATION: Operation = Operation::Stream;
        let start = Instant::now();
        let mut asked = self.asked(OPERATION, request.traceparent.as_deref());
        let outcome = self.begin_stream(request, &mut asked, start);
        if let Err(error) = &outcome {
            self.0.meter.failed(OPERATION, error, ms(start));
            if let Some(asked) = asked {
                asked.failed(error);
            }
        }
        outcome
    }

    fn begin_stream(&self, request: ChatRequest, asked: &mut Option<Asked>, start: Instant) -> Result<ChatStream> {
        const OPERATION: &str = Operation::Stream.name();
        let prepared = self.prepare(OPERATION, &request, asked.as_ref())?;
        let deadline = self.deadline(request.timeout);
        let meter = self.0.meter.clone();
        if let Some(hit) = self.kept(&request, &prepared, start) {
            return Ok(ChatStream::kept(&hit.answer, hit.cache, hit.explain, asked.take(), start, deadline, meter));
        }
        self.refuse_only(OPERATION, request.cache)?;
        let cache = before(prepared.key);
        let (flown, trace) = (prepared.trace.start(), prepared.trace.clone());
        let scope = request.scope.clone();
        let prepared = prepared.detached();
        let rider = self.join(OPERATION, request, prepared, deadline, Form::Parts)?;
        let stream = ChatStream::live(rider, cache, start, deadline, meter);
        Ok(stream.explaining(trace, flown).told_to(asked.take()).saving(&self.0.accounts, scope.as_ref()))
    }

    /// Turns texts into vectors.
    ///
    /// # Errors
    /// As [`Chat::complete`].
    pub async fn embed(&self, call: EmbedCall) -> Result<Embeddings> {
        const OPERATION: &str = "chat.embed";
        if let Some(scope) = &call.scope {
            scope.validate(OPERATION)?;
        }
        if call.texts.is_empty() || call.texts.len() > MAX_TEXTS {
            return Err(Error::invalid(OPERATION, "texts", format!("must be 1 to {MAX_TEXTS} texts")));
        }
        let bytes: usize = call.texts.iter().map(String::len).sum();
        if call.texts.iter().any(String::is_empty) || bytes > self.0.config.max_request_bytes {
            let max = self.0.config.max_request_bytes;
            return Err(Error::invalid(
                OPERATION,
                "texts",
                format!("must not be empty, and at most {max} bytes together"),
            ));
        }
        check_options(OPERATION, None, &[], call.timeout)?;
        self.router().model(OPERATION, call.model.as_deref())?;
        self.deadline(call.timeout).run(OPERATION, self.0.provider.embed(&call)).await
    }

    /// Lists the models of all providers: the configured ones, or what a provider says where none are. One that cannot be asked
    /// is left out.
    ///
    /// # Errors
    /// What a provider says, where no other has a model.
    pub async fn models(&self) -> Result<Vec<Model>> {
        Deadline::after(self.0.config.timeout).run("chat.models", self.0.provider.models()).await
    }

    /// Returns the context that the words of `message` speak for, or `"default"`.
    pub fn classify(&self, message: &str) -> &'static str {
        ttl::classify(message)
    }

    /// Returns how long an answer that says `text` is kept in `context`, in seconds, before it is varied at random.
    ///
    /// ```
    /// let chat = sophia_core::Sophia::new(Default::default())?.chat().clone();
    /// assert_eq!(chat.ttl_for("business_intelligence", "as of today"), 120);
    /// assert_eq!(chat.ttl_for("business_intelligence", "I know the known"), 600);
    /// # Ok::<(), sophia_core::Error>(())
    /// ```
    pub fn ttl_for(&self, context: &str, text: &str) -> u64 {
        self.0.config.ttl.for_answer(context, text)
    }

    /// Returns the key that the answer to a request is kept under, in hexadecimal.
    ///
    /// # Errors
    /// As [`Chat::complete`] for a request that cannot be asked; Unsupported with memory or tools of the registry, where what
    /// is asked hangs on what they say.
    pub fn cache_key(&self, request: &ChatRequest) -> Result<String> {
        const OPERATION: &str = "chat.cache_key";
        if request.is_assisted() {
            let message = "with `memory` or tools of the registry, the key hangs on what they say";
            return Err(Error::new(ErrorKind::Unsupported, OPERATION, message));
        }
        request.validate(OPERATION)?;
        let model = self.router().model(OPERATION, request.model.as_deref())?;
        Ok(self.key(OPERATION, request, model)?.key().to_hex())
    }

    /// Removes kept answers, and returns how many of them were in this process. What is under way for them is not kept either.
    /// What processes share is removed, too: at once, or, where Redis does not answer in time, before this process reads it
    /// again.
    ///
    /// # Errors
    /// InvalidInput where nothing is named.
    pub async fn invalidate(&self, which: &Invalidate) -> Result<u64> {
        let filter = which.filter()?;
        // First: from now on this process reads nothing shared that could bring an answer back.
        let removing = self.0.shared.as_ref().map(|shared| shared.invalidate(which.clone()));
        let removed = self.0.cache.remove(filter);
        if let Some(tier) = self.0.stages.inner().inner().tier() {
            tier.sweep();
        }
        self.0.meter.invalidated();
        if let Some(removing) = removing {
            removing.await;
        }
        Ok(removed)
    }

    /// Returns what forgets the answers that are kept for somebody, for as long as this chat lives.
    pub(crate) fn forgets(&self) -> AlsoForgets {
        let chat = Arc::downgrade(&self.0);
        AlsoForgets::new(move |what| {
            let chat = chat.upgrade().map(Chat);
            let (scope, subject) = what.whose();
            let what = Invalidate { scope, subject, ..Invalidate::default() };
            Box::pin(async move {
                match chat {
                    Some(chat) => chat.forget(what).await,
                    None => AlsoForgotten::default(),
                }
            })
        })
    }

    async fn forget(&self, what: Invalidate) -> AlsoForgotten {
        // A scope that was forgotten is one that can be.
        let Ok(filter) = what.filter() else { return AlsoForgotten::default() };
        let forgetting = self.0.shared.as_ref().map(|shared| shared.forget(what));
        let answers = self.0.cache.remove(filter);
        if let Some(tier) = self.0.stages.inner().inner().tier() {
            tier.sweep();
        }
        self.0.meter.invalidated();
        let is_pending = match forgetting {
            Some(forgetting) => !forgetting.await,
            None => false,
        };
        AlsoForgotten { answers, is_pending }
    }

    /// Returns what was measured.
    pub fn metrics(&self) -> ChatMetrics {
        self.0.meter.snapshot(&self.0.cache, &self.0.limiter)
    }

    /// Returns what calls to providers cost, and what kept answers saved: as all processes counted that share Redis, or else
    /// a `data_dir`; with neither, as this one did.
    ///
    /// What the last tenth of a second used in another process may not be in it yet.
    ///
    /// # Errors
    /// InvalidInput for days that are not remembered; what the shared store says.
    pub async fn costs(&self, query: &CostQuery) -> Result<Costs> {
        self.0.accounts.costs(query).await
    }

    /// Returns the limits that concern a scope, and how much of each is used.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> sophia_core::Result<()> {
    /// use sophia_core::{Config, Scope, Sophia, chat::{CostQuery, LimitConfig, Share}};
    ///
    /// let mut config = Config::default();
    /// config.chat.limits.push(LimitConfig::per(Share::User).requests_per_minute(60).daily_usd(5.0));
    /// let sophia = Sophia::new(config)?;
    /// let limits = sophia.chat().budget(&Scope::new().tenant("acme").user("ada")).await?;
    /// assert_eq!((limits.len(), limits[0].remaining, limits[1].max), (2, 60.0, 5.0));
    /// assert_eq!(sophia.chat().costs(&CostQuery::default()).await?.total.cost_usd, Some(0.0));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// InvalidInput for a scope that cannot be.
    pub async fn budget(&self, scope: &Scope) -> Result<Vec<LimitStatus>> {
        self.0.accounts.budget(scope).await
    }

    pub(super) fn config(&self) -> &ChatConfig {
        &self.0.config
    }

    pub(super) fn meter(&self) -> Arc<Meter> {
        self.0.meter.clone()
    }

    pub(super) fn assistants(&self) -> &Assistants {
        &self.0.assistants
    }

    /// Returns what the semantic tier did, or would have done.
    pub fn semantic_report(&self) -> SemanticReport {
        match self.0.stages.inner().inner().tier() {
            Some(tier) => tier.report(),
            None => SemanticReport::off(&self.0.config.semantic),
        }
    }

    /// Takes what a user says of an answer that was kept for another question (`cache.status` is `semantic_hit`), and returns
    /// whether it is known: it may have expired, or belong to another scope.
    ///
    /// Each hit counts once towards what the semantic tier may serve. An answer that was wrong once serves no other question
    /// any more.
    ///
    /// # Errors
    /// InvalidInput for a key or a scope that cannot be.
    pub fn semantic_feedback(&self, feedback: &SemanticFeedback) -> Result<bool> {
        const OPERATION: &str = "chat.semantic_feedback";
        let scope = feedback.scope.clone().unwrap_or_default();
        scope.validate(OPERATION)?;
        let key = feedback.key.parse();
        let key: Key = key.map_err(|()| Error::invalid(OPERATION, "key", "must be 64 hexadecimal digits"))?;
        let tier = self.0.stages.inner().inner().tier();
        Ok(tier.is_some_and(|tier| tier.judge(&key, &scope, feedback.verdict)))
    }

    /// Returns the first stage below those that keep answers.
    fn limited(&self) -> &Limited {
        self.0.stages.inner().inner().inner()
    }

    fn router(&self) -> &Router {
        self.limited().inner()
    }

    pub(super) fn deadline(&self, timeout: Option<Duration>) -> Deadline {
        Deadline::after(timeout.unwrap_or(self.0.config.timeout))
    }

    fn key(&self, operation: &'static str, request: &ChatRequest, model: &str) -> Result<KeyText> {
        let providers = self.router().fingerprint(operation, model)?;
        key::of_request(operation, request, model, &providers, self.0.config.max_request_bytes)
    }

    /// Begins to tell OpenTelemetry of a question, if it is to be told.
    fn asked(&self, operation: Operation, traceparent: Option<&str>) -> Option<Asked> {
        self.0.otel.as_ref().map(|otel| Asked::begin(otel, operation, traceparent))
    }

    pub(super) fn otel(&self) -> Option<&Otel> {
        self.0.otel.as_ref()
    }

    fn prepare<'a>(
        &'a self,
        operation: &'static str,
        request: &'a ChatRequest,
        asked: Option<&Asked>,
    ) -> Result<Prepared<'a>> {
        let trace = Trace::new(request.explain);
        let start = trace.start();
        request.validate(operation)?;
        self.explicit_ttl(operation, request.ttl)?;
        let model = self.router().model(operation, request.model.as_deref())?;
        // Made also where it is not used: it bounds and checks the request.
        let key = self.key(operation, request, model)?;
        let unused = match request.cache {
            CacheMode::Bypass => Some("the request bypasses the cache"),
            _ if !self.0.cache.is_enabled() => Some("`chat.cache.enabled` is false"),
            _ => request.unstorable(),
        };
        let outcome = if unused.is_none() { "made" } else { "not_used" };
        trace.note_with("key", outcome, start, || unused.map(Value::from));
        Ok(Prepared {
            model: Cow::Borrowed(model),
            key: unused.is_none().then(|| key.key()),
            trace,
            parent: asked.map(Asked::context),
        })
    }

    fn explicit_ttl(&self, operation: &'static str, ttl: Option<Duration>) -> Result<Option<u64>> {
        let Some(ttl) = ttl else { return Ok(None) };
        let max = self.0.config.ttl.max;
        // A part of a second counts as a whole one.
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        match (1..=max).contains(&seconds) {
            true => Ok(Some(seconds)),
            false => Err(Error::invalid(operation, "ttl", format!("must be 1 to {max} seconds (`chat.ttl.max`)"))),
        }
    }

    fn kept(&self, request: &ChatRequest, prepared: &Prepared<'_>, start: Instant) -> Option<ChatResponse> {
        if request.cache == CacheMode::Refresh {
            return None;
        }
        let looked = prepared.trace.start();
        let found = self.0.cache.look(&prepared.key?);
        let outcome = match &found {
            Some((_, Freshness::Fresh)) => "hit",
            Some((_, Freshness::Stale)) => "stale",
            None => "miss",
        };
        prepared.trace.note("l1", outcome, looked);
        let (entry, freshness) = found?;
        let mut response = self.give(request, &entry, freshness, start)?;
        response.explain = prepared.trace.explanation();
        if freshness == Freshness::Stale && request.cache == CacheMode::Default && self.0.cache.claim_refresh(&entry) {
            self.refresh(request, prepared);
        }
        Some(response)
    }

    fn give(&self, request: &ChatRequest, entry: &Entry, freshness: Freshness, start: Instant) -> Option<ChatResponse> {
        let Payload::Answer(answer) = &entry.payload else { return None };
        match (request.share, &request.scope) {
            // It is kept for more than who saves by it.
            (Share::Tenant | Share::All, Some(scope)) => {
                self.0.accounts.account(answer, scope).saved(answer.cost_usd);
            }
            _ => entry.saved(),
        }
        Some(ChatResponse {
            answer: answer.clone(),
            cache: self.hit_info(entry, freshness),
            attempts: Vec::new(),
            latency_ms: ms(start),
            explain: None,
            assistance: None,
        })
    }

    /// Asks anew for an answer that is stale, while it is still given.
    fn refresh(&self, request: &ChatRequest, prepared: &Prepared<'_>) {
        const OPERATION: &str = Operation::Complete.name();
        let deadline = self.deadline(None);
        let (key, parent) = (prepared.key, prepared.parent);
        let prepared = Prepared { model: prepared.model.clone(), key, trace: Trace::default(), parent }.detached();
        let rider = self.join(OPERATION, request.clone(), prepared, deadline, Form::Whole);
        let waiting = rider.and_then(|mut rider| {
            let refreshed = async move { rider.outcome().await.map(drop) };
            in_background(async move { deadline.run(OPERATION, refreshed).await })
        });
        waiting.unwrap_or_else(|error| tracing::debug!(code = error.code(), "a stale answer is not asked for anew"));
    }

    fn hit_info(&self, entry: &Entry, freshness: Freshness) -> CacheInfo {
        let status = match freshness {
            Freshness::Fresh => CacheStatus::Hit,
            Freshness::Stale => CacheStatus::Stale,
        };
        CacheInfo {
            tier: Some("l1"),
            key: Some(entry.key_hex.clone()),
            ttl_s: Some(entry.ttl_s()),
            age_s: Some(self.0.cache.age_s(entry)),
            ..CacheInfo::new(status)
        }
    }

    fn refuse_only(&self, operation: &'static str, mode: CacheMode) -> Result<()> {
        match mode {
            CacheMode::Only => {
                Err(Error::new(ErrorKind::NotFound, operation, "no answer to it is kept").with("cache", "only"))
            }
            _ => Ok(()),
        }
    }

    /// Begins to ask.
    fn depart(&self, request: ChatRequest, prepared: Prepared<'static>) -> Result<Journey> {
        const OPERATION: &str = Operation::Complete.name();
        self.refuse_only(OPERATION, request.cache)?;
        let deadline = self.deadline(request.timeout);
        let cache = before(prepared.key);
        let (flown, trace, scope) = (prepared.trace.start(), prepared.trace.clone(), request.scope.clone());
        let way = match prepared.key {
            None => Way::Alone(Box::new(self.call(OPERATION, request, prepared, deadline, self.0.cache.epoch())?)),
            Some(_) => Way::Shared(self.join(OPERATION, request, prepared, deadline, Form::Whole)?),
        };
        Ok(Journey { way, cache, deadline, scope, trace, flown })
    }

    /// Waits for the answer.
    async fn arrive(&self, journey: Journey, start: Instant) -> Result<ChatResponse> {
        const OPERATION: &str = Operation::Complete.name();
        let Journey { way, mut cache, deadline, scope, trace, flown } = journey;
        let completion = match way {
            Way::Alone(call) => {
                // The stages that keep have nothing to do, but to say so where somebody wants to know.
                let provider: &dyn ChatProvider = if flown.is_some() { &*self.0.provider } else { self.limited() };
                let asked = self.0.flights.unless_stopped(OPERATION, flight::alone(provider, &call));
                let completion = deadline.run(OPERATION, asked).await?;
                trace.note("flight", "alone", flown);
                completion
            }
            Way::Shared(mut rider) => {
                let completion = deadline.run(OPERATION, rider.outcome()).await?;
                if rider.role() == Role::Follower {
                    cache.status = CacheStatus::Coalesced;
                }
                rider.explain(&trace, flown);
                completion
            }
        };
        let cache = cache
            .landed(completion.found, completion.ttl_s, !completion.attempts.is_empty())
            .served(completion.semantic.as_ref());
        if cache.status.saves() {
            let scope = scope.unwrap_or_default();
            self.0.accounts.account(&completion.answer, &scope).saved(completion.answer.cost_usd);
        }
        Ok(ChatResponse {
            answer: completion.answer,
            cache,
            attempts: completion.attempts,
            latency_ms: ms(start),
            explain: trace.explanation(),
            assistance: None,
        })
    }

    fn join(
        &self,
        operation: &'static str,
        request: ChatRequest,
        prepared: Prepared<'static>,
        deadline: Deadline,
        form: Form,
    ) -> Result<Rider> {
        let epoch = self.0.cache.epoch();
        let refresh = request.cache == CacheMode::Refresh;
        let dialect = request.dialect;
        let key = prepared.key.map(|key| FlightKey { key, dialect, epoch, refresh });
        let scope = request.scope.clone().unwrap_or_default();
        let chat = self.clone();
        let call = move || chat.call(operation, request, prepared, deadline, epoch);
        self.0.flights.join(key, &scope, deadline, &self.0.provider, form, call)
    }

    fn call(
        &self,
        operation: &'static str,
        mut request: ChatRequest,
        Prepared { model, key, trace, parent }: Prepared<'static>,
        deadline: Deadline,
        epoch: u64,
    ) -> Result<ProviderCall> {
        let ttl = self.explicit_ttl(operation, request.ttl)?;
        let question = match key {
            Some(_) => self.question(operation, &request, &model)?.map(Arc::new),
            None => None,
        };
        let context = context_of(request.context.as_deref(), || request.last_text()).to_owned();
        let keeping = key.map(|key| Keeping {
            key,
            scope: narrowed(request.share, request.scope.as_ref()),
            context: context.clone(),
            tags: std::mem::take(&mut request.tags),
            ttl,
            epoch,
            asked_at: self.0.cache.now(),
            look: request.cache != CacheMode::Refresh,
            question,
        });
        Ok(ProviderCall {
            operation,
            dialect: request.dialect,
            deadline: SharedDeadline::new(deadline),
            keeping,
            context,
            scope: request.scope.take().unwrap_or_default(),
            body: request.into_body(&model),
            model: model.into_owned(),
            trace,
            asked_of: AskedOf::default(),
            pass: Pass::default(),
            parent,
        })
    }

    /// Returns what the semantic tier compares, where it is asked for.
    fn question(&self, operation: &'static str, request: &ChatRequest, model: &str) -> Result<Option<Question>> {
        if self.0.stages.inner().inner().tier().is_none() {
            return Ok(None);
        }
        let wall = || key::of_wall(operation, request, model, &self.router().fingerprint(operation, model)?);
        Question::of(request, wall)
    }
}

/// Does work that nobody waits for. It has a deadline, so that it ends; those who come meanwhile share it.
fn in_background(work: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
    let runtime =
        Handle::try_current().map_err(|_| Error::new(ErrorKind::Internal, "chat", "called outside a tokio runtime"))?;
    runtime.spawn(async move {
        if let Err(error) = work.await {
            tracing::warn!(code = error.code(), "a stale answer could not be made anew");
        }
    });
    Ok(())
}

/// Sets the semantic tier up, where it is asked for.
#[cfg(feature = "static-embedder")]
fn semantic_tier(config: &ChatConfig, cache: &AnswerCache, context: &Context) -> Option<SemanticTier> {
    let embedder = Arc::new(crate::memory::embed::StaticEmbedder::bundled());
    let longest = Duration::from_secs(config.ttl.max);
    let tier = || SemanticTier::new(&config.semantic, embedder, cache.clone(), context.clock.clone(), longest);
    (config.semantic.enabled && config.cache.enabled).then(tier)
}

/// There is none without an embedder; the configuration is checked for that.
#[cfg(not(feature = "static-embedder"))]
fn semantic_tier(_: &ChatConfig, _: &AnswerCache, _: &Context) -> Option<SemanticTier> {
    None
}

/// Returns what is known about the cache before an answer is there.
fn before(key: Option<Key>) -> CacheInfo {
    match key {
        Some(key) => CacheInfo { key: Some(key.hex()), ..CacheInfo::new(CacheStatus::Miss) },
        None => CacheInfo::new(CacheStatus::Bypass),
    }
}

fn narrowed(share: Share, scope: Option<&Scope>) -> Scope {
    scope.map(|scope| share.narrow(scope)).unwrap_or_default()
}

/// Returns how long it has taken since then, in milliseconds.
pub(super) fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}
