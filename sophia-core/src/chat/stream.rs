//! A streamed answer, as its caller reads it.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use futures::{Stream, StreamExt, stream::BoxStream};
use tokio::time::Sleep;

use super::{
    accounting::Accounts,
    dialect,
    engine::ms,
    explain::{Explanation, Trace},
    flight::{News, Rider},
    metrics::{Meter, Operation},
    response::{Answer, CacheInfo, CacheStatus, ChatChunk},
    traced::Asked,
};
use crate::{
    Error, Result, Scope,
    resilience::{Deadline, Role},
};

/// A streamed answer. It ends after the chunk with `finish_reason`, or after an error.
///
/// # Cancel safety
/// Dropping it leaves the call; when the last one who shares it leaves, the call to the provider is closed.
pub struct ChatStream {
    source: Source,
    /// What is known before the answer is; its status is that of the flight.
    cache: CacheInfo,
    ready: VecDeque<ChatChunk>,
    begun: bool,
    ended: bool,
    start: Instant,
    deadline: Deadline,
    timer: Option<Pin<Box<Sleep>>>,
    meter: Arc<Meter>,
    /// What the stages of this caller noted, and when its flight began.
    notes: Option<(Trace, Option<Instant>)>,
    /// What is told to OpenTelemetry.
    asked: Option<Asked>,
    /// Where it is written down that this caller asked for nothing.
    savings: Option<(Accounts, Scope)>,
}

enum Source {
    /// Nothing more comes.
    Empty,
    Flight(Rider),
    /// Another stream, which measures itself.
    Helped(BoxStream<'static, Result<ChatChunk>>),
}

/// How much of a whole answer is still to be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replay {
    Whole,
    EndOnly,
}

impl ChatStream {
    pub(crate) fn kept(
        answer: &Arc<Answer>,
        cache: CacheInfo,
        explain: Option<Explanation>,
        asked: Option<Asked>,
        start: Instant,
        deadline: Deadline,
        meter: Arc<Meter>,
    ) -> ChatStream {
        let mut stream = ChatStream::new(Source::Empty, cache, start, deadline, meter).told_to(asked);
        stream.finish(answer, stream.cache.clone(), Replay::Whole, explain);
        stream
    }

    pub(crate) fn live(
        rider: Rider,
        mut cache: CacheInfo,
        start: Instant,
        deadline: Deadline,
        meter: Arc<Meter>,
    ) -> ChatStream {
        if rider.role() == Role::Follower {
            cache.status = CacheStatus::Coalesced;
        }
        ChatStream::new(Source::Flight(rider), cache, start, deadline, meter)
    }

    /// Gives what another stream gives, which keeps its own time and measures itself.
    pub(crate) fn helped(
        chunks: BoxStream<'static, Result<ChatChunk>>,
        start: Instant,
        deadline: Deadline,
        meter: Arc<Meter>,
    ) -> ChatStream {
        ChatStream::new(Source::Helped(chunks), CacheInfo::new(CacheStatus::Bypass), start, deadline, meter)
    }

    fn new(source: Source, cache: CacheInfo, start: Instant, deadline: Deadline, meter: Arc<Meter>) -> ChatStream {
        let ready = VecDeque::new();
        ChatStream {
            source,
            cache,
            ready,
            begun: false,
            ended: false,
            start,
            deadline,
            timer: None,
            meter,
            notes: None,
            asked: None,
            savings: None,
        }
    }

    /// Tells with the last part what each stage did, where that is asked for.
    pub(crate) fn explaining(mut self, trace: Trace, flown: Option<Instant>) -> ChatStream {
        self.notes = Some((trace, flown));
        self
    }

    /// Tells OpenTelemetry how it ends.
    pub(crate) fn told_to(mut self, asked: Option<Asked>) -> ChatStream {
        self.asked = asked;
        self
    }

    /// Writes down under `scope` what is saved, if it turns out that nobody was asked on this caller's behalf.
    pub(crate) fn saving(mut self, accounts: &Accounts, scope: Option<&Scope>) -> ChatStream {
        self.savings = Some((accounts.clone(), scope.cloned().unwrap_or_default()));
        self
    }

    /// Waits for more, and returns all that there is: crossing into another language once for many tokens.
    ///
    /// Returns `None` at the end; the first error is the end as well.
    ///
    /// # Errors
    /// What the provider says; [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) when the deadline passes.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next_batch(&mut self) -> Option<Result<Vec<ChatChunk>>> {
        std::future::poll_fn(|context| self.poll_ready(context))
            .await
            .map(|ready| ready.map(|()| self.ready.drain(..).collect()))
    }

    /// Makes sure that something is ready, or says that nothing more comes.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<()>>> {
        loop {
            if !self.ready.is_empty() {
                return Poll::Ready(Some(Ok(())));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let rider = match &mut self.source {
                Source::Empty => return Poll::Ready(None),
                Source::Flight(rider) => rider,
                Source::Helped(chunks) => match std::task::ready!(chunks.poll_next_unpin(context)) {
                    Some(Ok(chunk)) => {
                        self.ready.push_back(chunk);
                        continue;
                    }
                    other => {
                        self.source = Source::Empty;
                        self.ended = true;
                        return Poll::Ready(other.map(|item| item.map(drop)));
                    }
                },
            };
            let news = rider.poll_news(context);
            if news.is_ready() && self.cache.status == CacheStatus::Coalesced && rider.role() == Role::Leader {
                self.cache.status = CacheStatus::Miss;
            }
            match news {
                Poll::Ready(News::Deltas(deltas)) => {
                    deltas.into_iter().for_each(|delta| self.give(ChatChunk::of(delta)));
                }
                Poll::Ready(News::Landed(Ok(completion))) => {
                    // Who shares a flight that was not streamed gets its answer in one go.
                    let replay = if rider.has_read() { Replay::EndOnly } else { Replay::Whole };
                    let was_asked = !completion.attempts.is_empty() || rider.has_read();
                    let cache = self.cache.clone().landed(completion.found, completion.ttl_s, was_asked);
                    let cache = cache.served(completion.semantic.as_ref());
                    if replay == Replay::Whole {
                        // The first part says what is known by now.
                        self.cache = CacheInfo { ttl_s: None, ..cache.clone() };
                    }
                    let explain = self.notes.take().and_then(|(trace, flown)| rider.explain(&trace, flown));
                    self.finish(&completion.answer, cache, replay, explain);
                }
                Poll::Ready(News::Landed(Err(error))) => return Poll::Ready(Some(Err(self.fail(error)))),
                Poll::Pending => {
                    let at = self.deadline.instant();
                    let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
                    if timer.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                    let passed = self.deadline.passed(Operation::Stream.name());
                    return Poll::Ready(Some(Err(self.fail(passed))));
                }
            }
        }
    }

    fn give(&mut self, mut chunk: ChatChunk) {
        if !std::mem::replace(&mut self.begun, true) && chunk.cache.is_none() {
            chunk.cache = Some(self.cache.clone());
        }
        self.ready.push_back(chunk);
    }

    fn finish(&mut self, answer: &Arc<Answer>, cache: CacheInfo, replay: Replay, explain: Option<Explanation>) {
        if replay == Replay::Whole {
            dialect::replay(answer).into_iter().for_each(|delta| self.give(ChatChunk::of(delta)));
        }
        if let Some((accounts, scope)) = self.savings.take().filter(|_| cache.status.saves()) {
            accounts.account(answer, &scope).saved(answer.cost_usd);
        }
        self.meter.succeeded(Operation::Stream, cache.status, ms(self.start));
        if let Some(asked) = self.asked.take() {
            asked.answered(&cache, answer, None);
        }
        self.give(ChatChunk { explain, ..ChatChunk::end(answer.clone(), cache) });
        self.source = Source::Empty;
        self.ended = true;
    }

    fn fail(&mut self, error: Error) -> Error {
        self.meter.failed(Operation::Stream, &error, ms(self.start));
        if let Some(asked) = self.asked.take() {
            asked.failed(&error);
        }
        self.source = Source::Empty;
        self.ended = true;
        error
    }
}

impl Stream for ChatStream {
    type Item = Result<ChatChunk>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<ChatChunk>>> {
        self.poll_ready(context).map(|ready| ready.and_then(|ready| ready.map(|()| self.ready.pop_front()).transpose()))
    }
}

impl fmt::Debug for ChatStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatStream").field("cache", &self.cache).field("ended", &self.ended).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_can_be_moved_and_polled_anywhere() {
        fn check<T: Stream<Item = Result<ChatChunk>> + Send + Unpin + 'static>() {}
        check::<ChatStream>();
    }
}
