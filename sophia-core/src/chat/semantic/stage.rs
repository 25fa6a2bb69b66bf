//! The semantic tier among the stages: below what is kept under its own key, above the permits.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use futures::StreamExt;
use serde_json::json;

use super::{
    question::Question,
    tier::{Asked, Found, SemanticTier, Served},
};
use crate::{
    Result,
    chat::{
        keeper::is_whole,
        provider::{
            ChatProvider, Completion, EmbedCall, Embeddings, Keeping, Model, ProviderCall, ProviderEvent,
            ProviderStream,
        },
        response::{self, Answer},
    },
};

/// Answers from the semantic tier, or asks the provider below and learns from what it says.
#[derive(Debug)]
pub(crate) struct Semantic<P> {
    inner: P,
    learner: Option<Learner>,
}

#[derive(Debug, Clone)]
struct Learner {
    tier: SemanticTier,
    tool_calls: bool,
}

/// A question that has to be asked, and what is needed to learn from the answer.
#[derive(Debug)]
struct Lesson {
    learner: Learner,
    question: Arc<Question>,
    asked: Asked,
    keeping: Keeping,
    model: String,
}

impl<P: ChatProvider> Semantic<P> {
    /// Wraps a provider. Without a tier, it only passes on.
    pub fn new(inner: P, tier: Option<SemanticTier>, tool_calls: bool) -> Semantic<P> {
        Semantic { inner, learner: tier.map(|tier| Learner { tier, tool_calls }) }
    }

    pub fn inner(&self) -> &P {
        &self.inner
    }

    pub fn tier(&self) -> Option<&SemanticTier> {
        self.learner.as_ref().map(|learner| &learner.tier)
    }

    async fn look(&self, call: &ProviderCall) -> Looked {
        let start = call.trace.start();
        let Some(learner) = &self.learner else {
            call.trace.note("semantic", "off", start);
            return Looked::Nothing;
        };
        let question = call.keeping.as_ref().and_then(|keeping| Some((keeping, keeping.question.clone()?)));
        let Some((keeping, question)) = question else {
            call.trace.note("semantic", "not_compared", start);
            return Looked::Nothing;
        };
        let found = match keeping.look {
            true => learner.tier.look(&question).await,
            false => learner.tier.read(&question).await.map(Found::Ask),
        };
        self.note(call, &found, start);
        match found {
            Ok(Found::Served(served)) => Looked::Served(served),
            Ok(Found::Ask(asked)) => Looked::Ask(Box::new(Lesson {
                learner: learner.clone(),
                question,
                asked,
                keeping: keeping.clone(),
                model: call.model.clone(),
            })),
            Err(error) => {
                // It saves a call, and must never cost one.
                tracing::debug!(code = error.code(), "the semantic tier could not read a question");
                Looked::Nothing
            }
        }
    }
}

impl<P> Semantic<P> {
    fn note(&self, call: &ProviderCall, found: &Result<Found>, start: Option<Instant>) {
        let (outcome, decision) = match found {
            Ok(Found::Served(served)) => {
                let told = || Some(json!({"key": &*served.key, "similarity": served.similarity}));
                return call.trace.note_with("semantic", "served", start, told);
            }
            Ok(Found::Ask(Asked { decision: Some(decision), .. })) => (decision.outcome, Some(decision)),
            Ok(Found::Ask(_)) => ("miss", None),
            Err(_) => ("failed", None),
        };
        call.trace.note_with("semantic", outcome, start, || serde_json::to_value(decision?).ok());
    }
}

enum Looked {
    Served(Served),
    Ask(Box<Lesson>),
    /// It is not compared.
    Nothing,
}

impl Lesson {
    fn take(self, answer: &Answer) {
        if is_whole(answer, self.learner.tool_calls) {
            self.learner.tier.learn(&self.question, self.asked, &self.keeping, &self.model, answer);
        }
    }
}

fn completion(served: Served) -> Completion {
    Completion {
        answer: served.answer.clone(),
        attempts: Vec::new(),
        ttl_s: Some(served.ttl_s),
        found: response::Found::default(),
        semantic: Some(served),
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<P: ChatProvider> ChatProvider for Semantic<P> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn complete(&self, call: &ProviderCall) -> Result<Completion> {
        match self.look(call).await {
            Looked::Served(served) => Ok(completion(served)),
            Looked::Nothing => self.inner.complete(call).await,
            Looked::Ask(lesson) => {
                let completion = self.inner.complete(call).await?;
                lesson.take(&completion.answer);
                Ok(completion)
            }
        }
    }

    async fn stream(&self, call: &ProviderCall) -> Result<ProviderStream> {
        match self.look(call).await {
            Looked::Served(served) => Ok(futures::stream::iter([Ok(ProviderEvent::Done(completion(served)))]).boxed()),
            Looked::Nothing => self.inner.stream(call).await,
            Looked::Ask(lesson) => {
                let mut lesson = Some(lesson);
                let stream = self.inner.stream(call).await?;
                let learned = stream.inspect(move |event| {
                    if let Ok(ProviderEvent::Done(completion)) = event
                        && let Some(lesson) = lesson.take()
                    {
                        lesson.take(&completion.answer);
                    }
                });
                Ok(learned.boxed())
            }
        }
    }

    async fn models(&self) -> Result<Vec<Model>> {
        self.inner.models().await
    }

    async fn embed(&self, call: &EmbedCall) -> Result<Embeddings> {
        self.inner.embed(call).await
    }
}
