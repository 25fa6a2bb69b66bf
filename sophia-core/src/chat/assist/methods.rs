//! The methods of a chat with help.

use std::{sync::Arc, time::Instant};

use futures::{StreamExt, future::BoxFuture, stream};

use super::{ToolBox, rounds::Rounds};
use crate::{
    Result,
    chat::{Chat, ChatChunk, ChatRequest, ChatResponse, ChatStream},
    otlp::{Kind, Span, SpanContext},
    resilience::Deadline,
};

impl Chat {
    /// Answers a question with tools of your own: those that the model asks for are called, and it is asked again, until it
    /// answers or `chat.tools.max_rounds` are over. Does all that [`Chat::complete`] does, in one deadline for all rounds.
    ///
    /// A tool that fails is told to the model, which may do without. A call of a tool that only the request knows, and not
    /// the tool box, ends the rounds and is the caller's.
    ///
    /// # Errors
    /// As [`Chat::complete`], and what listing the tools says.
    ///
    /// # Cancel safety
    /// As [`Chat::complete`]; calls of tools are dropped.
    pub async fn complete_with(&self, request: ChatRequest, tools: Arc<dyn ToolBox>) -> Result<ChatResponse> {
        self.complete_with_help(request, Some(tools)).await
    }

    /// Answers a question with tools of your own, in parts, as they come.
    ///
    /// # Errors
    /// As [`Chat::stream`].
    pub fn stream_with(&self, request: ChatRequest, tools: Arc<dyn ToolBox>) -> Result<ChatStream> {
        self.stream_with_help(request, Some(tools))
    }

    /// In a box of its own, so that a plain call does not carry its weight.
    pub(in crate::chat) fn complete_with_help(
        &self,
        request: ChatRequest,
        own: Option<Arc<dyn ToolBox>>,
    ) -> BoxFuture<'_, Result<ChatResponse>> {
        Box::pin(async move {
            let (request, span) = self.spanned(request);
            let outcome = self.complete_in_rounds(request, own).await;
            match (span, &outcome) {
                (Some(mut span), Ok(_)) => span.end(),
                (Some(mut span), Err(error)) => span.fail(error),
                (None, _) => {}
            }
            outcome
        })
    }

    async fn complete_in_rounds(&self, request: ChatRequest, own: Option<Arc<dyn ToolBox>>) -> Result<ChatResponse> {
        let start = Instant::now();
        let mut rounds = self.rounds(request, own)?.await?;
        let mut attempts = Vec::new();
        loop {
            let asked = self.complete_once(rounds.next()?).await;
            let mut response = asked.map_err(|error| rounds.told(error))?;
            attempts.append(&mut response.attempts);
            if rounds.goes_on(&response.answer) {
                rounds.follow(&response.answer, self.otel()).await;
                continue;
            }
            let (answer, assistance) = rounds.finish(response.answer).await;
            let latency_ms = start.elapsed().as_secs_f64() * 1e3;
            return Ok(ChatResponse { answer, attempts, latency_ms, assistance: Some(assistance), ..response });
        }
    }

    pub(in crate::chat) fn stream_with_help(
        &self,
        request: ChatRequest,
        own: Option<Arc<dyn ToolBox>>,
    ) -> Result<ChatStream> {
        let (start, deadline) = (Instant::now(), self.deadline(request.timeout));
        let (request, span) = self.spanned(request);
        let turn = Turn::Begin(Box::new(self.clone().rounds(request, own)?));
        let state = Helped { chat: self.clone(), turn, span };
        let chunks = stream::unfold(state, |mut state| async move { Some((state.next().await?, state)) });
        Ok(ChatStream::helped(chunks.boxed(), start, deadline, self.meter()))
    }

    /// Begins the span that all rounds and tools of a request stand in, if it is told to anybody.
    fn spanned(&self, mut request: ChatRequest) -> (ChatRequest, Option<Span>) {
        let parent = request.traceparent.as_deref().and_then(SpanContext::parse);
        let span = self.otel().map(|otel| otel.span("chat.assisted", Kind::Internal, parent));
        if let Some(span) = &span {
            request.traceparent = Some(span.context().traceparent());
        }
        (request, span)
    }

    /// Checks the request, and returns what is done before it is asked.
    fn rounds(
        &self,
        request: ChatRequest,
        own: Option<Arc<dyn ToolBox>>,
    ) -> Result<BoxFuture<'static, Result<Rounds>>> {
        request.validate("chat.complete")?;
        let deadline: Deadline = self.deadline(request.timeout);
        let (assistants, limits) = (self.assistants().clone(), self.config().tools.clone());
        Ok(Box::pin(async move { Rounds::begin(&assistants, &limits, request, own, deadline).await }))
    }
}

/// A streamed answer with help, between two parts.
struct Helped {
    chat: Chat,
    turn: Turn,
    span: Option<Span>,
}

enum Turn {
    Begin(Box<BoxFuture<'static, Result<Rounds>>>),
    Ask(Box<Rounds>),
    Read(Box<Rounds>, Box<ChatStream>),
    Ended,
}

impl Helped {
    async fn next(&mut self) -> Option<Result<ChatChunk>> {
        let item = self.step().await?;
        let is_over = item.as_ref().ok().is_none_or(|chunk| chunk.answer.is_some());
        if is_over && let Some(mut span) = self.span.take() {
            match &item {
                Ok(_) => span.end(),
                Err(error) => span.fail(error),
            }
        }
        Some(item)
    }

    async fn step(&mut self) -> Option<Result<ChatChunk>> {
        loop {
            // Whatever is not put back ends the stream, so that a failure is its last item.
            match std::mem::replace(&mut self.turn, Turn::Ended) {
                Turn::Begin(rounds) => match rounds.await {
                    Ok(rounds) => self.turn = Turn::Ask(Box::new(rounds)),
                    Err(error) => return Some(Err(error)),
                },
                Turn::Ask(mut rounds) => match rounds.next().and_then(|request| self.chat.stream_once(request)) {
                    Ok(chunks) => self.turn = Turn::Read(rounds, Box::new(chunks)),
                    Err(error) => return Some(Err(error)),
                },
                Turn::Read(mut rounds, mut chunks) => match chunks.next().await? {
                    Ok(mut chunk) => match chunk.answer.take() {
                        Some(answer) if rounds.goes_on(&answer) => {
                            rounds.follow(&answer, self.chat.otel()).await;
                            self.turn = Turn::Ask(rounds);
                        }
                        Some(answer) => {
                            if rounds.has_tools() {
                                // Held back until it was known whose they are.
                                chunk.tool_calls.clone_from(&answer.tool_calls);
                            }
                            let (answer, assistance) = rounds.finish(answer).await;
                            let usage = Some(answer.usage);
                            let (answer, assistance) = (Some(answer), Some(assistance));
                            return Some(Ok(ChatChunk { answer, assistance, usage, ..chunk }));
                        }
                        None => {
                            if rounds.has_tools() {
                                chunk.tool_calls.clear();
                            }
                            self.turn = Turn::Read(rounds, chunks);
                            return Some(Ok(chunk));
                        }
                    },
                    Err(error) => return Some(Err(rounds.told(error))),
                },
                Turn::Ended => return None,
            }
        }
    }
}
