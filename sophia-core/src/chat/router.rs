//! Which provider is asked, and who is asked next when it fails.

use std::{
    fmt,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::{
    StreamExt,
    future::{Either, select},
    stream,
};
use tokio::time::Instant;

use super::{
    anthropic::AnthropicProvider,
    config::{ChatConfig, ProviderConfig, ProviderKind, RetryConfig},
    endpoint::Endpoint,
    failure::is_spent,
    hedge::Hedger,
    metrics::Meter,
    openai::OpenAiProvider,
    prefix::{Form, Prefixed},
    provider::{ChatProvider, Completion, EmbedCall, Embeddings, Model, ProviderCall, ProviderEvent, ProviderStream},
    response::Attempt,
    responses::ResponsesProvider,
    traced::Traced,
};
use crate::{
    Clock, Error, ErrorKind, Result,
    names_map::NamesMap,
    otlp::Otel,
    resilience::{Backoff, BreakerConfig, BreakerState, CircuitBreaker, Permit, breaker},
};

/// A caller's own deadline that passes sooner than this says nothing about the provider.
const SLOW_AFTER: Duration = Duration::from_secs(5);
/// Most names that an error lists.
const MAX_NAMES: usize = 20;
/// As good as never: no deadline is as long.
const FAR: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most breakers: models are named by callers where a provider takes any.
const MAX_BREAKERS: usize = 4096;

/// Asks the providers that offer the model, in order, within the deadline.
#[derive(Debug)]
pub(crate) struct Router {
    routes: Arc<[Route]>,
    default_model: Option<String>,
    retry: RetryConfig,
    breakers: Breakers,
    hedger: Hedger,
    meter: Arc<Meter>,
}

#[derive(Clone)]
struct Route {
    provider: Arc<dyn ChatProvider>,
    models: Arc<[String]>,
    fingerprint: [u8; 32],
}

impl Route {
    fn offers(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|own| own == model)
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("provider", &self.provider.name()).field("models", &self.models).finish()
    }
}

/// Returns the provider that speaks the configured protocol.
fn speak(config: &ProviderConfig, endpoint: Endpoint) -> Arc<dyn ChatProvider> {
    match config.kind {
        ProviderKind::OpenAi => Arc::new(OpenAiProvider::new(endpoint, config.stream_usage)),
        ProviderKind::Anthropic => Arc::new(AnthropicProvider::new(endpoint, config.max_tokens)),
        ProviderKind::Responses => Arc::new(ResponsesProvider::new(endpoint)),
    }
}

impl Router {
    /// Sets up the configured providers, and returns where they are beside it, so that they can be closed.
    pub fn new(
        config: &ChatConfig,
        clock: &Arc<dyn Clock>,
        meter: Arc<Meter>,
        otel: Option<&Otel>,
    ) -> Result<(Router, Vec<Endpoint>)> {
        let mut endpoints = Vec::new();
        let mut routes = Vec::new();
        for (index, own) in config.providers.iter().enumerate() {
            let path = format!("chat.providers[{index}]");
            let endpoint = Endpoint::new(&path, own, config.max_response_bytes, clock.clone())?;
            let fingerprint = endpoint.fingerprint();
            let form = match own.kind {
                ProviderKind::Anthropic => Form::Marked,
                ProviderKind::OpenAi | ProviderKind::Responses => Form::of_openai(&config.prefix, endpoint.host()),
            };
            let spoken = speak(own, endpoint.clone());
            let mut provider: Arc<dyn ChatProvider> =
                Arc::new(Prefixed::new(spoken, form, &config.prefix, clock.clone()));
            if let Some(otel) = otel {
                let protocol = match own.kind {
                    ProviderKind::Anthropic => "anthropic",
                    ProviderKind::OpenAi | ProviderKind::Responses => "openai",
                };
                let server = (endpoint.host(), endpoint.port());
                provider = Arc::new(Traced::new(provider, otel.clone(), protocol, server));
            }
            routes.push(Route { provider, models: own.models.clone().into(), fingerprint });
            endpoints.push(endpoint);
        }
        let mut models: Vec<_> = config.providers.iter().flat_map(|provider| &provider.models).collect();
        models.dedup();
        let default_model = match (&config.default_model, models.as_slice()) {
            (Some(model), _) => Some(model.clone()),
            (None, [only]) => Some((*only).clone()),
            _ => None,
        };
        if let Some(model) = &config.default_model
            && !routes.is_empty()
            && !routes.iter().any(|route| route.offers(model))
        {
            return Err(Error::invalid_config("chat.default_model", format!("`{model}` is offered by no provider")));
        }
        let breakers = Breakers { config: config.breaker.clone(), clock: clock.clone(), known: Arc::default() };
        let (retry, hedger) = (config.retry.clone(), Hedger::new(config.hedge.clone()));
        let router = Router { routes: routes.into(), default_model, retry, breakers, hedger, meter };
        Ok((router, endpoints))
    }

    /// Returns the model that counts: the one that was named, or the configured default.
    pub fn model<'a>(&'a self, operation: &'static str, named: Option<&'a str>) -> Result<&'a str> {
        if self.routes.is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                operation,
                "`chat.providers` is empty: name at least one server of models there",
            )
            .with("field", "chat.providers"));
        }
        match named.or(self.default_model.as_deref()) {
            Some(model) if model.is_empty() || model.len() > super::request::MAX_MODEL_BYTES => {
                Err(Error::invalid(operation, "model", "must be a name of 1 to 256 bytes"))
            }
            Some(model) => Ok(model),
            None => Err(Error::invalid(operation, "model", format!("is required; {}", self.known_models()))),
        }
    }

    /// Returns who turns texts into vectors, and the model that counts.
    pub fn embedder<'a>(&'a self, named: Option<&'a str>) -> Result<(&'a dyn ChatProvider, &'a str)> {
        const OPERATION: &str = "chat.embed";
        let model = self.model(OPERATION, named)?;
        let route = self.routes.iter().find(|route| route.offers(model));
        let route = route.ok_or_else(|| self.unknown(OPERATION, model))?;
        Ok((&*route.provider, model))
    }

    /// Returns an identity of those who may answer for `model`.
    pub fn fingerprint(&self, operation: &'static str, model: &str) -> Result<[u8; 32]> {
        let mut routes = self.routes.iter().filter(|route| route.offers(model));
        let first = routes.next().ok_or_else(|| self.unknown(operation, model))?;
        let Some(second) = routes.next() else { return Ok(first.fingerprint) };
        let mut hasher = blake3::Hasher::new();
        for route in [first, second].into_iter().chain(routes) {
            hasher.update(&route.fingerprint);
        }
        Ok(*hasher.finalize().as_bytes())
    }

    fn unknown(&self, operation: &'static str, model: &str) -> Error {
        let message = format!("`model` `{model}` is offered by no provider; {}", self.known_models());
        Error::new(ErrorKind::NotFound, operation, message).with("field", "model")
    }

    fn known_models(&self) -> String {
        let mut names: Vec<_> = self.routes.iter().flat_map(|route| route.models.iter()).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        match names.len() {
            0 => "any is passed on".to_owned(),
            count if count > MAX_NAMES => format!("known are {} and more", names[..MAX_NAMES].join(", ")),
            _ => format!("known are {}", names.join(", ")),
        }
    }

    /// Asks one after the other until one answers, or time is up.
    async fn route<T, W>(&self, call: &ProviderCall, ask: impl Fn(Route) -> W) -> Result<(T, Vec<Attempt>)>
    where
        W: Future<Output = Result<T>> + Send,
    {
        self.hedger.called();
        let routes: Vec<_> = self.routes.iter().filter(|route| route.offers(&call.model)).collect();
        if routes.is_empty() {
            return Err(self.unknown(call.operation, &call.model));
        }
        let backoff = Backoff { first: self.retry.first_delay, max: self.retry.max_delay, retries: self.retry.retries };
        let mut delays = backoff.delays();
        let mut attempts = Vec::new();
        let mut candidates: Vec<_> = routes.into_iter().map(|route| (route, Instant::now())).collect();
        // What the first one says is what counts, unless it was not even asked.
        let mut said: Option<Error> = None;
        loop {
            let mut round = Vec::with_capacity(candidates.len());
            for (route, not_before) in std::mem::take(&mut candidates) {
                if not_before > Instant::now() {
                    round.push((route, not_before));
                    continue;
                }
                let error = match self.try_hedged(call, route, &ask, &mut attempts).await {
                    Ok(value) => return Ok((value, attempts)),
                    // What one protocol cannot say, that of the next provider may; where nothing is left to pay one with, the next
                    // may be paid.
                    Err(error) if error.kind() == ErrorKind::Unsupported || is_spent(&error) => error,
                    Err(error) if !error.is_retryable() => return Err(told(error, &attempts)),
                    Err(error) => error,
                };
                if error.is_retryable() && error.kind() != ErrorKind::CircuitOpen {
                    round.push((route, Instant::now() + error.retry_after().unwrap_or_default().min(FAR)));
                }
                let unasked = |known: &Error| matches!(known.kind(), ErrorKind::CircuitOpen | ErrorKind::Unsupported);
                if said.as_ref().is_none_or(unasked) {
                    said = Some(error);
                }
            }
            candidates = round;
            let soonest = candidates.iter().map(|(_, not_before)| *not_before).min();
            let at = delays.next().zip(soonest).map(|(own, soonest)| soonest.max(Instant::now() + own));
            match at {
                Some(at) if at < call.deadline.get().instant() => call.pass.wait_until(at, call.operation).await?,
                _ => {
                    let error = said.unwrap_or_else(|| self.unknown(call.operation, &call.model));
                    return Err(told(error, &attempts));
                }
            }
        }
    }

    /// Asks one; if it is slower than it mostly is, and the budget allows it, asks a second time beside it.
    async fn try_hedged<T, W>(
        &self,
        call: &ProviderCall,
        route: &Route,
        ask: &impl Fn(Route) -> W,
        attempts: &mut Vec<Attempt>,
    ) -> Result<T>
    where
        W: Future<Output = Result<T>> + Send,
    {
        let start = Instant::now();
        let mut first = pin!(self.try_one(call, route, ask));
        let patience = self.hedger.patience(route.provider.name(), call);
        let early = match patience {
            Some(patience) => tokio::time::timeout(patience, first.as_mut()).await.ok(),
            None => Some(first.as_mut().await),
        };
        let (outcome, attempt) = match early {
            Some(ended) => ended,
            None => match self.beside(call, route) {
                Some((other, _permit)) => return self.race(first, (route, start), call, other, ask, attempts).await,
                None => first.await,
            },
        };
        attempts.push(attempt);
        outcome
    }

    /// Returns whom to ask beside a slow one, and the permit to: the next that offers the model and is well, or the same.
    fn beside(&self, call: &ProviderCall, slow: &Route) -> Option<(&Route, Permit)> {
        let well = |route: &&Route| {
            let state = self.breakers.of(route.provider.name(), &call.model).snapshot().state;
            route.offers(&call.model) && state == BreakerState::Closed
        };
        let other = self.routes.iter().filter(|route| route.provider.name() != slow.provider.name()).find(well);
        let other = other
            .or_else(|| self.routes.iter().filter(|route| route.provider.name() == slow.provider.name()).find(well))?;
        let permit = call.pass.beside()?;
        self.hedger.pay().then_some((other, permit))
    }

    /// Waits for the first good answer of two; the other one is dropped, which closes its call.
    async fn race<T, W>(
        &self,
        first: Pin<&mut impl Future<Output = (Result<T>, Attempt)>>,
        (slow, start): (&Route, Instant),
        call: &ProviderCall,
        other: &Route,
        ask: &impl Fn(Route) -> W,
        attempts: &mut Vec<Attempt>,
    ) -> Result<T>
    where
        W: Future<Output = Result<T>> + Send,
    {
        let hedge_start = Instant::now();
        let hedge = pin!(self.try_one(call, other, ask));
        let hedged = |attempt: Attempt| Attempt { hedge: true, ..attempt };
        match select(first, hedge).await {
            // What the caller did wrong is wrong everywhere.
            Either::Left(((outcome, attempt), _)) if outcome.as_ref().err().is_none_or(|e| !e.is_retryable()) => {
                attempts.extend([attempt, hedged(cancelled(other, hedge_start))]);
                outcome
            }
            Either::Left(((failed, attempt), hedge)) => {
                let (outcome, second) = hedge.await;
                attempts.extend([attempt, hedged(second)]);
                if outcome.is_ok() { outcome } else { failed }
            }
            Either::Right(((Ok(value), attempt), _)) => {
                attempts.extend([cancelled(slow, start), hedged(attempt)]);
                Ok(value)
            }
            Either::Right(((Err(_), second), first)) => {
                let (outcome, attempt) = first.await;
                attempts.extend([attempt, hedged(second)]);
                outcome
            }
        }
    }

    async fn try_one<T, W>(&self, call: &ProviderCall, route: &Route, ask: &impl Fn(Route) -> W) -> (Result<T>, Attempt)
    where
        W: Future<Output = Result<T>> + Send,
    {
        let name = route.provider.name();
        let breaker = self.breakers.of(name, &call.model);
        let start = Instant::now();
        let outcome = match breaker.acquire(call.operation) {
            Ok(permission) => {
                let trial = Trial { permission: Some(permission), start, call, name, meter: &self.meter };
                call.asked_of.begin(name);
                let outcome = trial.judge(ask(route.clone()).await);
                if outcome.is_err() {
                    // Nobody bills a failure.
                    call.asked_of.end(name);
                }
                self.meter.asked(name, call, start.elapsed(), outcome.as_ref().err());
                if outcome.is_ok() {
                    self.hedger.answered(name, call, start.elapsed());
                }
                outcome
            }
            Err(refused) => Err(refused),
        };
        let attempt = Attempt {
            provider: name.to_owned(),
            outcome: outcome.as_ref().err().map_or("ok", Error::code),
            latency_ms: start.elapsed().as_secs_f64() * 1000.0,
            hedge: false,
        };
        (outcome, attempt)
    }
}

/// Adds to an error what was tried, for people.
fn told(error: Error, attempts: &[Attempt]) -> Error {
    /// Most attempts that an error lists.
    const MAX_TOLD: usize = 16;
    let tried = |attempt: &Attempt| format!("{} {} in {:.0} ms", attempt.provider, attempt.outcome, attempt.latency_ms);
    let tried: Vec<_> = attempts.iter().take(MAX_TOLD).map(tried).collect();
    error.with("attempts", attempts.len()).with("tried", tried.join(", "))
}

/// Describes a call that was left because another one answered first.
fn cancelled(route: &Route, start: Instant) -> Attempt {
    Attempt {
        provider: route.provider.name().to_owned(),
        outcome: ErrorKind::Cancelled.code(),
        latency_ms: start.elapsed().as_secs_f64() * 1000.0,
        hedge: false,
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ChatProvider for Router {
    fn name(&self) -> &str {
        "router"
    }

    async fn complete(&self, call: &ProviderCall) -> Result<Completion> {
        let start = call.trace.start();
        let (completion, attempts) =
            self.route(call, |route| async move { route.provider.complete(call).await }).await?;
        call.trace.note_with("router", "answered", start, || serde_json::to_value(&attempts).ok());
        self.meter.answered(call, &completion.answer);
        Ok(Completion { attempts, ..completion })
    }

    async fn stream(&self, call: &ProviderCall) -> Result<ProviderStream> {
        let start = call.trace.start();
        // Another provider is asked only before the first part was given.
        let first = |route: Route| async move {
            let mut stream = route.provider.stream(call).await?;
            match stream.next().await {
                Some(Ok(event)) => Ok((route.provider.name().to_owned(), event, stream)),
                Some(Err(error)) => Err(error),
                None => Err(Error::new(ErrorKind::Unavailable, call.operation, "the stream is empty")),
            }
        };
        let ((name, event, rest), attempts) = self.route(call, first).await?;
        let (meter, breaker, call) = (self.meter.clone(), self.breakers.of(&name, &call.model), call.clone());
        let whole = stream::iter([Ok(event)]).chain(rest).map(move |event| match event {
            Ok(ProviderEvent::Done(completion)) => {
                call.trace.note_with("router", "answered", start, || serde_json::to_value(&attempts).ok());
                meter.answered(&call, &completion.answer);
                Ok(ProviderEvent::Done(Completion { attempts: attempts.clone(), ..completion }))
            }
            Err(error) => {
                if let (true, Ok(permission)) = (error.is_retryable(), breaker.acquire(call.operation)) {
                    permission.failure();
                }
                meter.broke_off(&name, &error);
                Err(error)
            }
            event => event,
        });
        Ok(whole.boxed())
    }

    async fn models(&self) -> Result<Vec<Model>> {
        let mut models = Vec::new();
        let mut failed = None;
        for route in self.routes.iter() {
            if route.models.is_empty() {
                match route.provider.models().await {
                    Ok(own) => models.extend(own),
                    Err(error) => failed = failed.or(Some(error)),
                }
            } else {
                let provider = route.provider.name();
                models.extend(route.models.iter().map(|id| Model {
                    id: id.clone(),
                    provider: provider.to_owned(),
                    owned_by: None,
                    created: None,
                }));
            }
        }
        match failed {
            Some(error) if models.is_empty() => Err(error),
            _ => Ok(models),
        }
    }

    async fn embed(&self, call: &EmbedCall) -> Result<Embeddings> {
        let (provider, model) = self.embedder(call.model.as_deref())?;
        let start = Instant::now();
        let vectors = provider.embed(&EmbedCall { model: Some(model.to_owned()), ..call.clone() }).await;
        self.meter.embedded(provider.name(), model, start.elapsed(), &vectors);
        vectors
    }
}

/// One call that the breaker let through; also judged when it is dropped because everyone has left.
struct Trial<'a> {
    permission: Option<breaker::Call<'a>>,
    start: Instant,
    call: &'a ProviderCall,
    name: &'a str,
    meter: &'a Meter,
}

impl Trial<'_> {
    fn judge<T>(mut self, outcome: Result<T>) -> Result<T> {
        if let Some(permission) = self.permission.take() {
            match &outcome {
                // A limit is the answer of a provider that is well; a retry waits for it.
                Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) => {
                    permission.failure()
                }
                _ => permission.success(),
            }
        }
        outcome
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        let Some(permission) = self.permission.take() else { return };
        let took = self.start.elapsed();
        let is_late = self.call.deadline.get().remaining().is_zero();
        self.meter.left(self.name, self.call, took, is_late);
        if is_late && took >= SLOW_AFTER {
            permission.failure();
        }
    }
}

/// One breaker for each model of each provider.
#[derive(Debug, Clone)]
struct Breakers {
    config: BreakerConfig,
    clock: Arc<dyn Clock>,
    known: Arc<NamesMap<CircuitBreaker>>,
}

impl Breakers {
    fn of(&self, provider: &str, model: &str) -> CircuitBreaker {
        if let Some(known) = self.known.get([provider, model]) {
            return known;
        }
        let breaker = CircuitBreaker::new(format!("{provider}/{model}"), self.config.clone(), self.clock.clone());
        if self.known.len() >= MAX_BREAKERS {
            return breaker;
        }
        self.known.get_or_insert([provider, model], breaker)
    }
}
