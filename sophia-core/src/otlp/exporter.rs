//! [`Otel`]: takes spans and measurements, and sends them in the background.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use reqwest::{StatusCode, Url, header::CONTENT_TYPE};
use tokio::{runtime::Handle, sync::Notify, task::JoinHandle};

use super::{
    config::{OtlpConfig, Settings},
    metrics::Metrics,
    names::Metric,
    span::{Kind, Span, SpanContext, SpanData},
    wire::{self, AttributeValue},
};
use crate::{
    Clock, Result,
    http_client::{AddressPolicy, Connections, HttpClient, HttpOptions, Proxy},
};

/// Spans that wait to be sent, at most; those that come later are dropped and counted.
const MAX_QUEUE: usize = 2_048;
/// Spans of one request. So many that wait are sent at once.
const MAX_BATCH: usize = 512;
/// Waits before what a collector refused for a moment is sent again.
const RETRIES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
/// Longest wait that a collector may ask for.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// How long a shutdown waits for the collector.
const FLUSHED_WITHIN: Duration = Duration::from_secs(5);

/// Takes spans and measurements, and sends them to a collector. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Otel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    clock: Arc<dyn Clock>,
    since: Timestamp,
    client: HttpClient,
    queue: Mutex<VecDeque<SpanData>>,
    dropped: AtomicU64,
    metrics: Metrics,
    /// Says that there is a whole batch.
    full: Arc<Notify>,
    is_running: AtomicBool,
    task: Mutex<Option<JoinHandle<()>>>,
    /// Held while a request is out: what was taken is not sent once more for a shutdown in that moment.
    posting: tokio::sync::Mutex<()>,
    /// Whether the last request failed: the first failure is logged, not all of them.
    is_failing: AtomicBool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.task.get_mut().iter().for_each(JoinHandle::abort);
    }
}

impl Otel {
    /// Reads configuration and environment; `None` where nothing is to be sent. Connects to nobody.
    ///
    /// # Errors
    /// InvalidConfig, naming the field.
    pub fn new(config: &OtlpConfig, clock: Arc<dyn Clock>) -> Result<Option<Otel>> {
        let Some(settings) = config.settle(|name| std::env::var(name).ok())? else { return Ok(None) };
        let options = HttpOptions {
            // An operator names it, mostly on the same machine.
            addresses: AddressPolicy::AllowPrivate,
            proxy: Proxy::None,
            connections: Connections::Pooled,
        };
        Ok(Some(Otel(Arc::new(Inner {
            settings,
            since: clock.now(),
            clock,
            client: HttpClient::new(options),
            queue: Mutex::default(),
            dropped: AtomicU64::new(0),
            metrics: Metrics::default(),
            full: Arc::default(),
            is_running: AtomicBool::new(false),
            task: Mutex::default(),
            posting: tokio::sync::Mutex::default(),
            is_failing: AtomicBool::new(false),
        }))))
    }

    /// Begins a span, as a child of `parent` if there is one.
    pub fn span(&self, name: impl Into<String>, kind: Kind, parent: Option<SpanContext>) -> Span {
        Span::begin(self.clone(), name.into(), kind, parent, self.0.clock.now())
    }

    /// Takes a measurement.
    pub fn record(&self, metric: &'static Metric, value: f64, attributes: Vec<(&'static str, AttributeValue)>) {
        if self.0.settings.metrics.is_some() {
            self.0.metrics.record(metric, value, attributes);
            self.run();
        }
    }

    /// Returns whether spans hold what was asked and answered.
    pub fn has_content(&self) -> bool {
        self.0.settings.content
    }

    /// Tells of something that is over already.
    pub fn past(
        &self,
        name: impl Into<String>,
        parent: Option<SpanContext>,
        took: Duration,
        attributes: Vec<(&'static str, AttributeValue)>,
        error: Option<&'static str>,
    ) {
        let ended = self.0.clock.now();
        let begins = SignedDuration::try_from(took).ok().and_then(|took| ended.checked_sub(took).ok());
        Span::past(self.clone(), name.into(), parent, begins.unwrap_or(ended), took, attributes, error);
    }

    pub(super) fn push(&self, span: SpanData) {
        if self.0.settings.traces.is_none() {
            return;
        }
        let waiting = {
            let mut queue = self.0.queue.lock();
            if queue.len() >= MAX_QUEUE {
                self.0.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            queue.push_back(span);
            queue.len()
        };
        if waiting == MAX_BATCH {
            self.0.full.notify_one();
        }
        self.run();
    }

    /// Asks the collector to take nothing, which it answers as it does any request (OTLP 1.0, "Full Success"); says why it does
    /// not.
    #[cfg(feature = "cli")]
    pub async fn check(&self) -> Result<(), String> {
        let Settings { traces, metrics, .. } = &self.0.settings;
        for url in [traces, metrics].into_iter().flatten() {
            self.0.post(url, bytes::Bytes::new()).await.map_err(|(what, _)| what)?;
        }
        Ok(())
    }

    /// Sends what there is, as far as the collector takes it within 5 s, and stops sending until there is more.
    pub async fn shutdown(&self) {
        let until = tokio::time::Instant::now() + FLUSHED_WITHIN;
        let task = self.0.task.lock().take();
        if let Some(task) = task {
            let out = tokio::time::timeout_at(until, self.0.posting.lock()).await;
            task.abort();
            drop(out);
            // What was not taken is back in the queue when it has ended.
            let _ = task.await;
        }
        self.0.is_running.store(false, Ordering::Release);
        let flushed = async {
            while self.0.send_spans(&[]).await {}
            self.0.send_metrics(&[]).await;
        };
        // What a collector that is away does not take is gone.
        let _ = tokio::time::timeout_at(until, flushed).await;
        self.0.client.close();
    }

    /// Begins to send in the background.
    fn run(&self) {
        if self.0.is_running.load(Ordering::Acquire) {
            return;
        }
        // Without a runtime, the next one who has something to say begins.
        let Ok(runtime) = Handle::try_current() else { return };
        let mut task = self.0.task.lock();
        if !self.0.is_running.swap(true, Ordering::AcqRel) {
            *task = Some(runtime.spawn(send_on(Running(Arc::downgrade(&self.0)))));
        }
    }
}

/// Spans that are being sent. They go back into the queue when that is broken off.
struct Batch<'a> {
    inner: &'a Inner,
    spans: VecDeque<SpanData>,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let mut queue = self.inner.queue.lock();
        while let Some(span) = self.spans.pop_back() {
            queue.push_front(span);
        }
    }
}

/// Ends the sending, also when its runtime stops.
struct Running(Weak<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.is_running.store(false, Ordering::Release);
        }
    }
}

async fn send_on(running: Running) {
    let mut metrics_at = Instant::now();
    loop {
        let Some(inner) = running.0.upgrade() else { return };
        let (pause, metrics_every) = (inner.settings.spans_every, inner.settings.metrics_every);
        let full = inner.full.clone();
        // Let go while waiting: it is not for us to keep the engine alive.
        drop(inner);
        // A whole batch need not wait.
        let _ = tokio::time::timeout(pause.min(metrics_every), full.notified()).await;
        let Some(inner) = running.0.upgrade() else { return };
        while inner.send_spans(&RETRIES).await {}
        if metrics_at.elapsed() >= metrics_every {
            metrics_at = Instant::now();
            inner.send_metrics(&RETRIES).await;
        }
    }
}

impl Inner {
    /// Sends a batch of spans, and returns whether there is another whole one.
    async fn send_spans(&self, retries: &[Duration]) -> bool {
        let Some(url) = &self.settings.traces else { return false };
        let mut batch = Batch { inner: self, spans: VecDeque::new() };
        {
            let mut queue = self.queue.lock();
            let count = queue.len().min(MAX_BATCH);
            batch.spans.extend(queue.drain(..count));
        }
        let count = batch.spans.len();
        if count == 0 {
            return false;
        }
        let spans = batch.spans.iter().map(SpanData::encoded).collect();
        self.send(url, wire::export(&self.settings.resource, spans), retries).await;
        batch.spans.clear();
        !self.queue.lock().is_empty() && (retries.is_empty() || count == MAX_BATCH)
    }

    async fn send_metrics(&self, retries: &[Duration]) {
        let Some(url) = &self.settings.metrics else { return };
        let metrics = self.metrics.encoded(self.since, self.clock.now());
        if !metrics.is_empty() {
            self.send(url, wire::export(&self.settings.resource, metrics), retries).await;
        }
    }

    /// Sends a request. What is refused for good, or again and again, is dropped.
    async fn send(&self, url: &Url, body: Vec<u8>, retries: &[Duration]) {
        let body = bytes::Bytes::from(body);
        let mut retries = retries.iter();
        loop {
            let (what, wait) = match self.post(url, body.clone()).await {
                Ok(()) => {
                    self.is_failing.store(false, Ordering::Relaxed);
                    return;
                }
                Err(refused) => refused,
            };
            let next = retries.next().filter(|_| wait.is_some());
            let Some(pause) = next else {
                if !self.is_failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(what, "the collector of OpenTelemetry does not take what is sent");
                }
                return;
            };
            tokio::time::sleep(wait.unwrap_or_default().max(*pause).min(MAX_WAIT)).await;
        }
    }

    /// Sends a request once. An error says how long to wait before it is worth another try, if it ever is.
    async fn post(&self, url: &Url, body: bytes::Bytes) -> Result<(), (String, Option<Duration>)> {
        let client = self.client.get("otlp.export", url).map_err(|error| (error.code().to_owned(), None))?;
        let mut request = client.post(url.clone()).header(CONTENT_TYPE, "application/x-protobuf");
        for (name, value) in &self.settings.headers {
            request = request.header(name, value.expose());
        }
        let _out = self.posting.lock().await;
        let answer = request.timeout(self.settings.timeout).body(body).send().await;
        let answer = answer.map_err(|_| ("it cannot be reached".to_owned(), Some(Duration::ZERO)))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let asked =
            answer.headers().get(reqwest::header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let passes = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        Err((format!("it answered {status}"), passes.then(|| Duration::from_secs(asked.unwrap_or(0)))))
    }
}
